# Every target installs what it needs into $(VENV) from the lock file first.
PYTHON ?= python3
VENV ?= .venv
ROUNDS ?= 20
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# What CI does not run leaves a dated log, to be committed.
dated_log = -p tests.dated_log --dated-log benchmarks/results/test_$(1).log
RUFF_PATHS := mml_plugin model_zoo tests benchmarks examples run_expid.py run_param_tuner.py

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-slow test-search test-gpu test-report test-docs test-hosts lint types lock matrix clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; ok = (3, 10) <= v <= (3, 13); print("" if ok else "Python 3.10 to 3.13 is needed, this is %d.%d; name another one: make PYTHON=python3.12 ..." % v, end=""); sys.exit(not ok)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: $(INSTALLED)  ## install, then compare CCL and MML on a small built-in data set
	$(BIN)/mml quickstart

test: $(INSTALLED)  ## install, then run the tests (they need no network and no GPU; 5 to 10 minutes on 2 idle cores)
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not slow and not gpu"

test-slow: $(INSTALLED)  ## run the tests that are too slow for `make test` (seed noise of both engines, fresh compilation)
	$(BIN)/python -m pytest -m "slow and not gpu" $(call dated_log,slow)

test-search: $(INSTALLED)  ## run the property tests on new examples, ROUNDS times (default 20)
	for round in $$(seq $(ROUNDS)); do \
		$(BIN)/python -m pytest -q -n auto --hypothesis-profile=search -m "hypothesis and not slow and not gpu" || exit 1; \
	done

test-gpu: $(INSTALLED)  ## run the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(call dated_log,gpu)

test-report: $(INSTALLED)  ## open the HTML reports in a headless Chromium (skips with a reason where there is none)
	$(BIN)/python -m pip install --quiet playwright || echo "playwright cannot be installed; the check will be skipped"
	$(BIN)/python -m pytest -p no:xdist tests/report/check_in_browser.py $(call dated_log,report)

test-docs: $(INSTALLED)  ## run every command in README and docs, in a copy
	$(BIN)/python tests/docs/run_docs.py --log

test-hosts: $(INSTALLED)  ## test the wheel and RecBole's environment (network), with RECZOO=DIR a real checkout too
	$(BIN)/python benchmarks/hosts.py $(if $(RECZOO),--reczoo $(RECZOO))

lint: $(INSTALLED)  ## format and lint; fails when something had to be changed or is wrong
	$(BIN)/ruff format --diff $(RUFF_PATHS) || ($(BIN)/ruff format $(RUFF_PATHS); exit 1)
	$(BIN)/ruff check $(RUFF_PATHS)

types: $(INSTALLED)  ## check the type hints
	$(BIN)/mypy

# torch's own CUDA packages stay out: pip takes the ones that the chosen torch build declares. Pins that still fit stay.
lock: $(INSTALLED)  ## resolve requirements.lock anew (needs uv)
	cp requirements.lock requirements.lock.all
	uv pip compile pyproject.toml --universal --extra dev --python-version 3.10 --no-annotate --no-header \
		--constraint constraints.lock.in --quiet --output-file requirements.lock.all
	grep -vE '^(nvidia-|cuda-)' requirements.lock.all > requirements.lock.tmp
	rm requirements.lock.all
	mv requirements.lock.tmp requirements.lock

matrix: $(INSTALLED)  ## test the oldest and newest supported versions and write the README's table
	$(BIN)/python benchmarks/matrix.py

clean:  ## remove the environment and caches; data/ and runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
