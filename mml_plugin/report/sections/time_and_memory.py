"""Section of a report: time and memory of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mml_plugin.report.comparison import Group, Line, machine_of
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.rows import Row
from mml_plugin.report.words import rounded


def add_time_and_memory(
    document: Document,
    groups: Sequence[Group],
    epochs: Mapping[str, Sequence[Row]],
    machines: Mapping[str, str],
) -> None:
    """Time and memory of every run, with its engine and machine."""
    lines = []
    for group in groups:
        for line in group.lines:
            seconds = (line.mean("train_seconds") or 0.0) + (line.mean("eval_seconds") or 0.0)
            # What was measured of fewer epochs is not the run's time.
            whole = all(row["cell"] in epochs for row in line.runs.values())
            where = "/".join(dict.fromkeys(machines[machine_of(row)] for row in line.runs.values()))
            memory = (line.mean("peak_memory_bytes") or 0.0) / 1e9
            lines.append(
                [group.name, line.name, line.first["engine"], _distinct(line, "backend"), _distinct(line, "device"),
                 where,
                 rounded(line.mean("train_seconds_per_epoch"), 2), rounded(line.mean("eval_seconds_per_epoch"), 2),
                 "/".join(r["epochs"] for r in line.runs.values()), f"{seconds / 60:.1f}" if whole else "–",
                 f"{memory:.2f}"]
            )  # fmt: skip
    header = ["group", "run", "engine", "backend", "device", "machine", "training s/epoch", "evaluation s/epoch",
              "epochs", "total min", "peak GB"]  # fmt: skip
    document.blocks += [Heading("Time and memory"), Table(header, lines, 6)]
    said = "Seconds are as they passed, whatever else the machine did meanwhile."
    if len(machines) > 1:
        said = f"Runs of several machines stand here, and their seconds do not compare. Within one, too: {said.lower()}"
    document.blocks.append(Text(said))


def _distinct(line: Line, column: str) -> str:
    return "/".join(sorted({row[column] for row in line.runs.values()}))
