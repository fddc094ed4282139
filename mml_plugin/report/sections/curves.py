"""A section of a report: learning curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mml_plugin.report import figures
from mml_plugin.report.comparison import Group, mean_curve, watched
from mml_plugin.report.document import Document, Heading, Image, Text
from mml_plugin.report.rows import Row
from mml_plugin.report.words import few, selected_on, short, slug


def add_curves(document: Document, groups: Sequence[Group], epochs: Mapping[str, Sequence[Row]]) -> None:
    """A plot per group, of what its first line is selected by."""
    blocks, lost = [], []
    for group in groups:
        metric = next(iter(watched(group.first.first)))
        curves = {line.name: curve for line in group.lines if (curve := mean_curve(epochs, line, metric))}
        lost += [
            f"{line.name} ({group.name})"
            for line in group.lines
            if not all(row["cell"] in epochs for row in line.runs.values())
        ]
        if curves:
            title = f"{short(metric)} by epoch, {group.name}"
            png = figures.learning_curves(curves, short(metric), title)
            blocks.append(Image(f"{slug(f'curves {group.name}')}.png", png, f"{title} (mean over seeds)"))
    if blocks or lost:
        said = selected_on(groups[0].first.first)
        document.blocks += [Heading("Learning curves"), Text(f"Measured on {said}, mean over seeds."), *blocks]
    if lost:
        document.blocks.append(Text(f"Not shown, because not all epochs of the run are kept: {few(lost)}."))
