"""Section of a report: seconds per epoch beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.comparison import Group, Line, machines_of, paper_row
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.spec import Spec
from mml_plugin.report.words import rounded


def add_seconds(document: Document, spec: Spec, groups: Sequence[Group]) -> None:
    """Seconds per epoch, ours and the paper's; only the differences within a machine compare."""
    lines = []
    for group in groups:
        paper_first = paper_row(spec.paper, group.first.first) or {}
        for line in group.lines:
            paper = paper_row(spec.paper, line.first) or {}
            printed = paper.get("seconds_per_epoch", "")
            ours, base = _epoch_seconds(line), _epoch_seconds(group.first)
            base_printed = paper_first.get("seconds_per_epoch", "")
            own = "–"
            if len(machines_of(group.first, line)) > 1:
                own = "–, two machines"
            elif line is not group.first and base:
                own = f"{ours - base:+.2f} s ({100 * (ours / base - 1):+.1f} %)"
            theirs = "–"
            if printed and base_printed and line is not group.first:
                a, b = float(base_printed), float(printed)
                theirs = f"{b - a:+.1f} s ({100 * (b / a - 1):+.1f} %)"
            lines.append(
                [group.name, line.name, printed or "–", theirs, rounded(line.mean("train_seconds_per_epoch"), 2),
                 rounded(line.mean("eval_seconds_per_epoch"), 2), f"{ours:.2f}", own]
            )  # fmt: skip
            document.numbers.append(
                {"group": group.name, "run": line.name, "paper seconds per epoch": printed,
                 "seconds per epoch": f"{ours:.3f}"}
            )  # fmt: skip
    header = [
        "group",
        "run",
        "paper s/epoch",
        "paper to first",
        "training s",
        "evaluation s",
        "ours s/epoch",
        "to first",
    ]
    document.blocks += [
        Heading("Seconds per epoch"),
        Table(header, lines, 2),
        Text(
            "Medians over epochs, with several seeds the mean of theirs. The paper's seconds are of stock recbox on a "
            "P100; ours are of the machine below."
        ),
    ]


def _epoch_seconds(line: Line) -> float:
    return (line.mean("train_seconds_per_epoch") or 0.0) + (line.mean("eval_seconds_per_epoch") or 0.0)
