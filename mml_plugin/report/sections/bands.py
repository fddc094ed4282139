"""A section of a report: how many negatives fall in each band, and each band's share of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import fmean

from mml_plugin.report import figures
from mml_plugin.report.comparison import Group, Line
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
                "its own margins, and each band's share of the gradient, the sum of |dL/dn|, over the seeds that have "
                "one: where no negative is above a run's margins, none has. Tables: at each run's best epoch."
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
    """Each band's share by epoch, as far as all seeds go; none at all where one is not known."""
    seeds = _shares(line, epochs, kind, bands)
    return list(zip(*(_over_seeds(rows) for rows in zip(*seeds))))


def _shares(line: Line, epochs: Epochs, kind: str, bands: int) -> list[list[list[float]]]:
    """Per seed and epoch the share of each band; empty where one is not known."""
    columns = [f"{kind}_{band}" for band in range(bands)]
    histories = [epochs.get(row["cell"], []) for row in line.runs.values()]
    if not all(history and all(epoch.get(c) for epoch in history for c in columns) for history in histories):
        return []
    return [[[float(epoch[c]) for c in columns] for epoch in history] for history in histories]


def _over_seeds(rows: Sequence[Sequence[float]]) -> list[float]:
    """The mean over seeds that have anything in a band: of the gradient, those with a negative above a margin."""
    having = [row for row in rows if any(row)]
    return [fmean(shares) for shares in zip(*(having or rows[:1]))]


def _at_best(line: Line, epochs: Epochs, bands: int, with_gradient: bool) -> list[list[str]]:
    """The table's lines: shares at each seed's best epoch."""
    found = []
    for word, kind, digits in [("negatives", "band", 3), ("gradient", "gradient", 1)][: 1 + with_gradient]:
        seeds = zip(line.runs.values(), _shares(line, epochs, kind, bands))
        mean = _over_seeds([history[int(row["best_epoch"]) - 1] for row, history in seeds])
        found.append([line.name, word, *(f"{100 * share:.{digits}f} %" if any(mean) else "none" for share in mean)])
    return found
