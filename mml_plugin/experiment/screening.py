"""Tuning in two rounds: a suite of short runs says which tuning cells of another suite are worth a whole run.

Both rounds choose on what the runs are selected by, and every family keeps the same number of cells (the first halving
of Jamieson and Talwalkar 2016, "Non-stochastic best arm identification").
"""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.experiment.suite import Cell
from mml_plugin.report.comparison import Line, ranked
from mml_plugin.report.rows import Rows

SCREENED_OUT = "screened out"


def screened_out(cells: Sequence[Cell], short: Rows, keep: int) -> list[Cell]:
    """The cells that are not among the best of their family in the short runs.

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
        lines = results.setdefault((row["group"], row.get("family", "")), {})
        lines.setdefault(row["label"], Line(row["label"], {})).runs[row["seed"]] = row
    families: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.family:
            families.setdefault((cell.group, cell.family), []).append(cell)
    found = []
    for family, members in families.items():
        lines = results.get(family, {})
        labels = {cell.label for cell in members}
        if labels <= set(lines):
            best = {line.name for line in ranked([lines[label] for label in lines if label in labels])[:keep]}
            found += [cell for cell in members if cell.label not in best]
    return found
