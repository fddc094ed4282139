"""The plugin behind the committed logs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = """
import pytest
def test_passes(): pass
def test_fails(): assert False
@pytest.mark.skip(reason="no device")
def test_skipped(): pass
@pytest.fixture
def broken(): raise OSError
def test_error(broken): pass
"""


def logged(folder: Path, source: str, *more: str) -> Path:
    (folder / "test_sample.py").write_text(source)
    log = folder / "dated.log"
    words = ["-q", "--rootdir", str(folder), "-c", "/dev/null", "-p", "no:xdist", "-p", "no:cacheprovider"]
    subprocess.run(
        [sys.executable, "-m", "pytest", *words, "-p", "tests.dated_log", "--dated-log", str(log), *more, str(folder)],
        cwd=ROOT, capture_output=True, timeout=120,
    )  # fmt: skip
    return log


def test_every_outcome_is_written_with_date_commit_and_versions(tmp_path):
    lines = logged(tmp_path, SAMPLE).read_text().splitlines()
    assert " UTC, commit " in lines[0]
    assert "torch " in lines[1]
    assert lines[3].startswith("1 error, 1 failed, 1 passed, 1 skipped in ")
    outcomes = {line.split("::")[1].split()[0]: line.split()[0] for line in lines[4:]}
    wanted = {"test_passes": "passed", "test_fails": "failed", "test_skipped": "skipped", "test_error": "error"}
    assert outcomes == wanted
    assert any("no device" in line for line in lines[4:])


def test_a_run_of_nothing_but_skips_keeps_the_earlier_log(tmp_path):
    log = tmp_path / "dated.log"
    log.write_text("earlier")
    logged(tmp_path, SAMPLE, "-k", "skipped")
    assert log.read_text() == "earlier"
