"""A section of a report: how many negatives fall in each band, and each band's share of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from mml_plugin.report import figures
from mml_plugin.report.comparison import Group, Line, at_best, mean_curve
from mml_plugin.report.document import Block, Document, Heading, Image, Table, Text
from mml_plugin.report.rows import Row
from mml_plugin.report.words import slug

Epochs = Mapping[str, Sequence[Row]]


def add_bands(document: Document, groups: Sequence[Group], epochs: Epochs) -> None:
    """How many negatives fall in each band and what share of the gradient each band has, on the same thresholds."""
    blocks = [block for group in groups for block in _of_group(group, epochs)]
    if blocks:
        document.blocks += [
            Heading("Band occupancy"),
            Text(
                "Every run's training negatives between the same thresholds (similarity, dropout included), whatever "
                "its own margins, and each band's share of the gradient, the sum of |dL/dn|. Tables: at each run's "
                "best epoch."
            ),
            *blocks,
        ]


def _of_group(group: Group, epochs: Epochs) -> list[Block]:
    thresholds = group.first.first.get("suite_thresholds", "").split()
    if not thresholds:
        return []
    names = [f"≤ {thresholds[0]}", *(f"{a} to {b}" for a, b in pairwise(thresholds)), f"> {thresholds[-1]}"]
    kept = [line for line in group.lines if all(epochs.get(row["cell"]) for row in line.runs.values())]
    counted = [line for line in kept if _is_counted(line, epochs, thresholds)]
    blocks: list[Block] = [Heading(group.name, 3)]
    if counted:
        title = f"Bands by epoch, {group.name}"
        labels = [line.name for line in counted]
        shares, gradients = (
            [_by_epoch(line, epochs, kind, len(names)) for line in counted] for kind in ("band", "gradient")
        )
        lines = [
            cells
            for line, slopes in zip(counted, gradients)
            for cells in _at_best(line, epochs, len(names), bool(slopes))
        ]
        picture = figures.bands(dict(zip(labels, shares)), dict(zip(labels, gradients)), names, title)
        blocks += [
            Table(["run", "share of", *names], lines, 2),
            Image(f"{slug(f'bands {group.name}')}.png", picture, title),
        ]
    lost = [line.name for line in group.lines if line not in kept]
    if lost:
        blocks.append(Text(f"Not shown, because not all epochs of the run are kept: {', '.join(lost)}."))
    others = [
        f"{line.name} (counted on {line.first.get('thresholds') or 'nothing'})" for line in kept if line not in counted
    ]
    if others:
        blocks.append(
            Text(f"Not binned here, because the run was counted on other margins: {', '.join(others)}. "
                 "Running it anew (--overwrite) counts it on these.")
        )  # fmt: skip
    return blocks


def _is_counted(line: Line, epochs: Epochs, thresholds: Sequence[str]) -> bool:
    """Whether the line's runs were counted on the suite's thresholds."""
    suites = (row.get("suite_thresholds", "").split() == thresholds for row in line.runs.values())
    return all(suites) and bool(_by_epoch(line, epochs, "band", len(thresholds) + 1))


def _by_epoch(line: Line, epochs: Epochs, kind: str, bands: int) -> list[Sequence[float]]:
    """Each band's share by epoch; none at all where one is not known."""
    curves: list[Sequence[float]] = [mean_curve(epochs, line, f"{kind}_{band}") for band in range(bands)]
    return curves if all(curves) else []


def _at_best(line: Line, epochs: Epochs, bands: int, with_gradient: bool) -> list[list[str]]:
    """The table's lines: shares at the best epoch."""
    found = [("negatives", "band", 3), ("gradient", "gradient", 1)][: 1 + with_gradient]
    return [
        [line.name, word, *(f"{100 * at_best(epochs, line, f'{kind}_{band}'):.{digits}f} %" for band in range(bands))]
        for word, kind, digits in found
    ]
