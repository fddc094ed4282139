"""Tuning in two rounds: a suite of short runs says which tuning cells of another suite are worth a whole run.

Both rounds choose on what the runs are selected by, and every family keeps the same number of cells (one round of
successive halving: Jamieson and Talwalkar 2016, "Non-stochastic best arm identification").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mml_plugin.errors import UserError
from mml_plugin.experiment.suite import Cell, Suite
from mml_plugin.report.comparison import Line, ranked
from mml_plugin.report.rows import Row, Rows


def check_screen(suite: Suite, cells: Sequence[Cell], short: Suite, short_cells: Sequence[Cell], where: str) -> None:
    """Refuse a screen that would choose on something else, or that cannot choose at all.

    Raises:
        UserError: for a suite without families, another protocol, and a tuning cell that the short suite lacks.
    """
    if not any(cell.family for cell in cells):
        raise UserError(f"{where}: screen: no cell has a family, so there is nothing to choose from")
    if (short.protocol, short.valid_share) != (suite.protocol, suite.valid_share):
        raise UserError(
            f"{where}: screen: the short suite has protocol {short.protocol} with valid_share {short.valid_share:g}, "
            f"this one {suite.protocol} with {suite.valid_share:g}: both must choose on the same split"
        )
    known = {(cell.group, cell.family, cell.label) for cell in short_cells}
    if short.screen is not None:
        raise UserError(f"{where}: screen: the short suite has a screen of its own, so some of its cells never run")
    for cell in cells:
        if cell.family and (cell.group, cell.family, cell.label) not in known:
            raise UserError(
                f"{where}: screen: the short suite has no cell {cell.label!r} of family {cell.family!r} in "
                f"{cell.group!r}"
            )


@dataclass(frozen=True)
class Screening:
    """What the short runs say.

    Attributes:
        out: the cells that get no whole run.
        waiting: (group, family) -> why nobody can say yet which of its cells do.
    """

    out: tuple[Cell, ...] = ()
    waiting: Mapping[tuple[str, str], str] = field(default_factory=dict)


def screen(cells: Sequence[Cell], short: Rows, keep: int) -> Screening:
    """Keep the best of each family in the short runs, over the seeds that all of its short runs have.

    Args:
        cells: tuning cells of the whole runs, and others, which always stay.
        short: rows of the short runs, which bear the same groups, families and labels.
        keep: so many of each family go on.

    Returns:
        The cells to leave out; none of a family as long as one of its short runs has no result.

    Raises:
        UserError: when the short runs of a family cannot be ranked.
    """
    results: dict[tuple[str, str], dict[str, Line]] = {}
    for row in short.done():
        by_label = results.setdefault(_family(row), {})
        by_label.setdefault(row["label"], Line(row["label"], {})).runs[row["seed"]] = row
    families: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.family:
            families.setdefault((cell.group, cell.family), []).append(cell)
    out: list[Cell] = []
    waiting: dict[tuple[str, str], str] = {}
    for family, members in families.items():
        labels = dict.fromkeys(cell.label for cell in members)
        lines = [line for name, line in results.get(family, {}).items() if name in labels]
        seeds = set.intersection(*(set(line.runs) for line in lines)) if lines else set()
        if len(lines) < len(labels):
            failed = {row["label"] for row in short.cells if row["state"] == "failed" and _family(row) == family}
            more = f", {len(failed & set(labels))} failed" if failed & set(labels) else ""
            waiting[family] = f"{len(lines)} of {len(labels)} cells have a result{more}"
            continue
        if not seeds:
            waiting[family] = f"its {len(labels)} cells have no seed in common"
            continue
        best = {line.name for line in ranked(lines, sorted(seeds, key=int))[:keep]}
        out += [cell for cell in members if cell.label not in best]
    return Screening(tuple(out), waiting)


def _family(row: Row) -> tuple[str, str]:
    return row["group"], row.get("family", "")
