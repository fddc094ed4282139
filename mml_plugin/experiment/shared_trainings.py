"""One experiment in several suites: its newest training stands in all of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from mml_plugin.experiment.cell_rows import measured, trained
from mml_plugin.experiment.cells import ELSEWHERE, FAILED, MISSING
from mml_plugin.report.rows import Row, Rows

Trainings = dict[tuple[str, ...], tuple[Row, list[Row]]]


def newest_of(stems: Iterable[Path]) -> Trainings:
    """The newest training of each experiment in the rows of suites, with its epochs."""
    found: Trainings = {}
    for stem in stems:
        with lock_of(stem):
            rows = Rows.load(stem)
        epochs = rows.epochs()
        for row in rows.cells:
            if "state" not in row or not measured(row):
                continue
            new = row, epochs.get(row["cell"], [])
            old = found.get(trained(row), new)
            found[trained(row)] = max(old, new, key=lambda pair: (pair[0]["date"], len(pair[1])))
    return found


def behind(stem: Path, stems: Iterable[Path]) -> list[str]:
    """The other suites that ask for an experiment of this one and have an older training of it, or none."""
    newest, found = newest_of([stem]), []
    there = {_without_data(key) for key in newest}
    for other in stems:
        if other == stem:
            continue
        theirs = newest_of([other])
        older = any(new["date"] > theirs[key][0]["date"] for key, (new, _) in newest.items() if key in theirs)
        if older or any(_without_data(trained(row)) in there for row in _asked_for(other)):
            found.append(other.name.removeprefix("suite_"))
    return found


def _asked_for(stem: Path) -> list[Row]:
    """The rows of what a suite has no training of, but would run."""
    rows = Rows.load(stem).cells
    return [row for row in rows if row.get("state") in (MISSING, FAILED, ELSEWHERE) and not measured(row)]


def _without_data(key: tuple[str, ...]) -> tuple[str, ...]:
    """What is to be trained, on whatever data: of a cell without a result no row says which they are."""
    return (*key[:-2], key[-1])


def lock_of(stem: Path) -> FileLock:
    """What whoever reads or writes a suite's rows holds meanwhile."""
    return FileLock(str(stem.parent / f".{stem.name}.lock"))
