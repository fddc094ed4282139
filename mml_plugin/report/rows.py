"""Rows: plain CSV files, one line per run, per epoch or per test. All that a report may look at.

Three files make a suite's rows: ``<name>.csv`` (one line per cell), ``<name>-history.csv`` (one per cell and epoch) and
``<name>-users.csv`` (one per bootstrap over users, made where the per-user metrics were at hand).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write

Row = dict[str, str]
FIRST = (
    "cell", "state", "error", "group", "label", "family", "expid", "settings", "model", "dataset", "loss",
    "loss_params", "num_negs", "engine", "backend", "protocol", "seed", "best_epoch", "epochs", "monitor",
)  # fmt: skip


# What tells each of the three files from somebody else's of that name.
KEYS = {".csv": ("cell", "state"), "-history.csv": ("cell", "epoch"), "-users.csv": ("group", "metric", "runs")}


@dataclass
class Rows:
    """The rows of one suite.

    Attributes:
        cells: one per run.
        history: one per run and epoch.
        users: one per bootstrap over users.
    """

    cells: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    users: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, stem: Path) -> Rows:
        """Read the three files below ``<stem>``; one that is not there is empty."""
        return cls(*(read_csv(path) for path in paths(stem)))

    @classmethod
    def load_own(cls, stem: Path) -> Rows:
        """The same of files that are written anew afterwards; a :class:`UserError` where one is somebody else's."""
        found = cls.load(stem)
        for path in paths(stem):
            header = _header(path)
            lacking = [name for name in KEYS[path.name.removeprefix(stem.name)] if name not in header]
            if path.is_file() and lacking:
                raise UserError(f"{path} holds no rows of a comparison: its column {lacking[0]!r} is missing")
        return found

    def save(self, stem: Path) -> None:
        """Write the three files, each complete or as it was.

        The cells come last: a cell's row says that all of it is kept.
        """
        for path, rows in reversed(list(zip(paths(stem), (self.cells, self.history, self.users)))):
            write_csv(path, rows)

    def done(self) -> list[Row]:
        """The cells with a result."""
        return [row for row in self.cells if row["state"] == "done"]

    def epochs(self) -> dict[str, list[Row]]:
        """Cell -> its epochs in order."""
        found: dict[str, list[Row]] = {}
        for row in self.history:
            found.setdefault(row["cell"], []).append(row)
        return {cell: sorted(rows, key=lambda row: int(row["epoch"])) for cell, rows in found.items()}

    def whole_epochs(self) -> dict[str, list[Row]]:
        """Of :meth:`epochs`, those of finished runs that are all there: of fewer, reports would read wrong ones."""
        found = self.epochs()
        every = {row["cell"]: [str(epoch) for epoch in range(1, int(row["epochs"]) + 1)] for row in self.done()}
        return {
            cell: found[cell] for cell, names in every.items() if [e["epoch"] for e in found.get(cell, [])] == names
        }


def state_of_cell(row: Row) -> str:
    """The state of the cell that the suite asks for; of an outdated row that of the cell in whose place it stands, ""
    where the suite has none there.
    """
    return row.get("asked", "") if row["state"] == "outdated" else row["state"]


def is_to_run(row: Row) -> bool:
    """Whether the suite asks for a whole run of the row's cell now."""
    return state_of_cell(row) not in ("", "screened out", "waiting")


def stems_in(results: Path) -> list[Path]:
    """Of all suites that have rows in a folder, by name."""
    kept = (path.with_suffix("") for path in sorted(results.glob("suite_*.csv")))
    return [stem for stem in kept if not stem.name.endswith(("-history", "-users"))]


def paths(stem: Path) -> tuple[Path, Path, Path]:
    """The three files of a suite."""
    return (
        stem.with_name(f"{stem.name}.csv"),
        stem.with_name(f"{stem.name}-history.csv"),
        stem.with_name(f"{stem.name}-users.csv"),
    )


def read_csv(path: Path) -> list[Row]:
    """The rows of a file; none where there is no file; a :class:`UserError` where it cannot be read."""
    if not path.is_file():
        return []
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            return [{key: value or "" for key, value in row.items()} for row in csv.DictReader(stream)]
    except (OSError, csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _header(path: Path) -> list[str]:
    """The columns of a file that :func:`read_csv` has read; none where there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8-sig") as stream:
        return next(csv.reader(stream), [])


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write rows under the union of their columns; no row, no file."""
    columns = columns_of(rows)
    if not columns:
        return
    with atomic_write(path) as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def columns_of(rows: Iterable[Mapping[str, str]]) -> list[str]:
    """The well-known columns first, the others as they come."""
    every = list(dict.fromkeys(key for row in rows for key in row))
    return [key for key in FIRST if key in every] + [key for key in every if key not in FIRST]
