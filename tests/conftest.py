"""Shared fixtures: one thread (the golden numbers are one thread's), and the golden data set's paths."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"

import gc
import json
import signal
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

# `make test` tries the same examples every time, so that what passed passes again; `make test-search` tries new ones.
# On a busy machine an example may take a second, as one may that loads recbox first; that says nothing about the code.
patient = {"suppress_health_check": [HealthCheck.too_slow], "deadline": None}
settings.register_profile("repeatable", derandomize=True, **patient)
settings.register_profile("search", derandomize=False, print_blob=True, **patient)
settings.load_profile("repeatable")

GOLDEN = Path(__file__).parent / "data" / "golden"


def pytest_configure(config):
    torch.set_num_threads(1)
    # A shell starts what it puts in the background with SIGINT ignored, and the tests of Ctrl-C inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Put what a slow test leaves (modules, compiled kernels) out of the garbage collector's sight.

    recbox collects several times in each training, which takes half a second where torch, numba and hypothesis are
    loaded: a quarter of these tests' time. What is frozen stays, garbage too that was not garbage yet.
    """
    began = time.perf_counter()
    result = yield
    if time.perf_counter() - began > 1:
        gc.collect()
        gc.freeze()
    return result


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device on this machine")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def file_limit():
    """A function: a block in which no file can grow beyond so many bytes, as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")

    @contextmanager
    def limit(size: int):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limit


@pytest.fixture(scope="session")
def golden_paths():
    """A function: folder -> what an experiment on the golden CSV files needs of paths, its models in that folder."""

    def paths(folder: Path) -> dict:
        tiny = GOLDEN / "tiny"
        return {
            "model_root": str(folder / "models"),
            "train_data": str(tiny / "train.csv"),
            "valid_data": str(tiny / "test.csv"),
            "item_corpus": str(tiny / "item_corpus.csv"),
        }

    return paths


@pytest.fixture(scope="session")
def golden_pipeline():
    """The 15 experiments that the original code ran, with every number it printed."""
    return json.loads((GOLDEN / "pipeline.json").read_text())


@pytest.fixture
def golden_params(golden_pipeline, golden_paths, tmp_path):
    """A function: experiment name -> flat parameters with paths to the golden CSV files."""

    def params(name: str) -> dict:
        return {**golden_pipeline[name]["config"], **golden_paths(tmp_path)}

    return params


@pytest.fixture(scope="session")
def golden_masks():
    """Whether this torch draws the golden numbers' dropout masks; builds with MKL's generator draw others."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    drawn = torch.nn.functional.dropout(torch.ones(12), 0.5).bool().int().tolist()
    torch.set_rng_state(state)
    return drawn == [0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 1, 1]
