"""A pytest plugin: ``-p tests.dated_log --dated-log FILE`` writes down what ran, when and on what.

For the make targets that CI does not run; the logs are committed, so that it can be seen when each last passed.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

import pytest

from mml_plugin.experiment.environment import commit, machine, versions
from mml_plugin.files import atomic_write

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser):
    parser.addoption("--dated-log", type=Path, metavar="FILE", help="write outcomes and seconds of every test there")


def pytest_configure(config):
    path = config.getoption("--dated-log")
    if path is not None:
        config.pluginmanager.register(DatedLog(path), "dated-log")


class DatedLog:
    """Outcomes as they come; written at the end, also of a run that fails or is stopped.

    Where every test was skipped, for want of a GPU or a browser, an earlier log stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = datetime.now(timezone.utc)
        self.changed = _uncommitted()
        self.lines: list[str] = []
        self.outcomes: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        outcome = "error" if report.when != "call" and report.failed else report.outcome
        self.outcomes[outcome] += 1
        reason = f"  ({report.longrepr[2]})" if report.skipped and isinstance(report.longrepr, tuple) else ""
        self.lines.append(f"{outcome:<8}{report.duration:>7.1f} s  {report.nodeid}{reason}")

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if set(self.outcomes) <= {"skipped"}:
            return
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.outcomes.items()))
        seconds = (datetime.now(timezone.utc) - self.began).total_seconds()
        header = [
            f"{self.began:%Y-%m-%d %H:%M} UTC, commit {commit()}, uncommitted: {self.changed or 'nothing'}",
            ", ".join(f"{name} {version}" for name, version in versions().items() if version),
            ", ".join(f"{key}: {value}" for key, value in machine().items() if value),
            f"{counts} in {seconds:.0f} s",
        ]
        with atomic_write(self.path) as file:
            file.write("\n".join(header + self.lines) + "\n")


def _uncommitted() -> str:
    words = ["git", "-C", str(ROOT), "status", "--porcelain"]
    done = subprocess.run(words, capture_output=True, text=True)
    return ", ".join(line[3:] for line in done.stdout.splitlines())
