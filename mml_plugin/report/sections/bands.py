"""A section of a report: how many negatives fall in each band, and each band's share of the gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from mml_plugin.report import figures
from mml_plugin.report.comparison import Group, at_best, mean_curve
from mml_plugin.report.document import Document, Heading, Image, Table, Text
from mml_plugin.report.rows import Row
from mml_plugin.report.words import slug


def add_bands(document: Document, groups: Sequence[Group], epochs: Mapping[str, Sequence[Row]]) -> None:
    """How many negatives fall in each band and what share of the gradient each band has, on the same thresholds."""
    blocks: list = []
    for group in groups:
        thresholds = group.first.first.get("suite_thresholds", "").split()
        if not thresholds:
            continue
        names = [
            f"≤ {thresholds[0]}",
            *(f"{a} to {b}" for a, b in pairwise(thresholds)),
            f"> {thresholds[-1]}",
        ]
        shares, gradients, lines, others, lost = {}, {}, [], [], []
        for line in group.lines:
            if not all(epochs.get(row["cell"]) for row in line.runs.values()):
                lost.append(line.name)
                continue
            counted = [mean_curve(epochs, line, f"band_{band}") for band in range(len(names))]
            slopes = [mean_curve(epochs, line, f"gradient_{band}") for band in range(len(names))]
            if not all(counted) or any(
                row.get("suite_thresholds", "").split() != thresholds for row in line.runs.values()
            ):
                others.append(f"{line.name} (counted on {line.first.get('thresholds') or 'nothing'})")
                continue
            shares[line.name], gradients[line.name] = counted, slopes if all(slopes) else []
            best = [at_best(epochs, line, f"band_{band}") for band in range(len(names))]
            lines.append([line.name, "negatives", *(f"{100 * share:.3f} %" for share in best)])
            if all(slopes):
                best = [at_best(epochs, line, f"gradient_{band}") for band in range(len(names))]
                lines.append([line.name, "gradient", *(f"{100 * share:.1f} %" for share in best)])
        blocks.append(Heading(group.name, 3))
        if shares:
            title = f"Bands by epoch, {group.name}"
            blocks += [
                Table(["run", "share of", *names], lines, 2),
                Image(f"{slug(f'bands {group.name}')}.png", figures.bands(shares, gradients, names, title), title),
            ]
        if lost:
            blocks.append(Text(f"Not shown, because not all epochs of the run are kept: {', '.join(lost)}."))
        if others:
            blocks.append(
                Text(f"Not binned here, because the run was counted on other margins: {', '.join(others)}. "
                     "Running it anew (--overwrite) counts it on these.")
            )  # fmt: skip
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
