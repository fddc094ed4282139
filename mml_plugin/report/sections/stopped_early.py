"""A section of a report: the same runs cut short by patience."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from mml_plugin.report.comparison import Group, metrics_of, paper_row
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.rows import Row
from mml_plugin.report.spec import Spec
from mml_plugin.report.words import PAPER_COLUMNS, rounded, short, signed


def add_stopped_early(
    document: Document, spec: Spec, groups: Sequence[Group], epochs: Mapping[str, Sequence[Row]]
) -> None:
    """The same runs cut short by patience, beside the paper's early-stopped ones."""
    lines = []
    metrics = metrics_of(row for g in groups for line in g.lines for row in line.runs.values())
    for group in groups:
        for line in group.lines:
            found = {seed: _stopped(row, epochs, spec.early_stop or 1) for seed, row in line.runs.items()}
            seeds, stopped = [seed for seed, stop in found.items() if stop], [stop for stop in found.values() if stop]
            if not stopped:
                continue
            cells = [group.name, line.name, "/".join(end for end, _ in stopped)]
            number: Row = {"group": group.name, "run": f"{line.name}, early stopping", "stop epoch": cells[-1]}
            printed_stop = next((r["stop_epoch"] for r in spec.stop_epochs if _same(r, line.first)), "–")
            cells.append(printed_stop)
            paper = paper_row(spec.paper, line.first, early_stop="yes") or {}
            for metric in metrics:
                values = [float(row[metric]) for _, row in stopped if row.get(metric)]
                if not values:
                    cells += ["–"] * 4
                    continue
                ours = fmean(values)
                full = line.mean(metric, seeds) or 0.0
                printed = paper.get(PAPER_COLUMNS.get(metric, ""), "")
                share = signed(100 * (ours / float(printed) - 1)) if printed else "–"
                cells += [rounded(ours), signed(100 * (ours / full - 1) if full else None), printed or "–", share]
                number |= {short(metric): f"{ours:.6f}", f"paper {short(metric)}": printed}
            lines.append(cells)
            document.numbers.append(number)
    if not lines:
        return
    header = ["group", "run", "stop epoch", "paper's stop epoch"]
    for metric in metrics:
        header += [short(metric), "to the full run", f"paper {short(metric)}", "ours to paper"]
    document.blocks += [
        Heading(f"With early stopping (patience {spec.early_stop}), read off the same histories"),
        Table(header, lines, 2),
        Text("A stop epoch with a + was not reached: the history ended first."),
    ]


def _same(printed: Row, row: Row) -> bool:
    return printed["model"] == row["model"] and printed["loss"] == row["loss"]


def _stopped(row: Row, epochs: Mapping[str, Sequence[Row]], patience: int) -> tuple[str, Row] | None:
    """Where the run would have stopped and the epoch it would report; None where its history cannot tell."""
    history = epochs.get(row["cell"], [])
    if not history or row["plateau"] == "yes" or row["protocol"] != "paper" or not history[0].get(row["monitor"]):
        return None  # a history of a monitor of several metrics, too, cannot tell
    if row.get("monitor_mode") == "min":
        return None
    stop = read_stop([float(epoch[row["monitor"]]) for epoch in history], patience)
    return f"{stop.epoch}{'' if stop.reached else '+'}", history[stop.best_epoch - 1]
