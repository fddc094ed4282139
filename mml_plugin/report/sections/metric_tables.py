"""A section of a report: each group's metrics, beside the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mml_plugin.report.comparison import Group, Line, metrics_of, paper_row, percent
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.families import unfinished, with_a_result
from mml_plugin.report.rows import Row, Rows, state_of_cell
from mml_plugin.report.spec import Spec
from mml_plugin.report.words import PAPER_COLUMNS, rounded, short, signed, with_sd

GAIN_COLUMNS = {"Recall(k=20)": "recall_gain_percent", "NDCG(k=20)": "ndcg_gain_percent"}


@dataclass(frozen=True)
class _Columns:
    """Which columns a group's table has.

    Attributes:
        metrics: the metrics.
        compared: whether lines are held against the first.
        chosen: whether a line is the best of several tuning cells.
        paper, gain: whether the paper's figures, or its gains over the first line, stand beside ours.
        source: whose figures they are.
    """

    metrics: Sequence[str]
    compared: bool
    chosen: bool
    paper: bool
    gain: bool
    source: str

    @classmethod
    def of(cls, spec: Spec, group: Group, compared: bool) -> _Columns:
        return cls(
            metrics_of(row for line in group.lines for row in line.runs.values()),
            compared,
            any(line.cells > 1 for line in group.lines),
            _has(spec.paper, group, PAPER_COLUMNS),
            compared and _has(spec.paper, group, GAIN_COLUMNS),
            spec.source,
        )

    def header(self, first: str) -> list[str]:
        header = ["run", "seeds"]
        for metric in self.metrics:
            header += [short(metric), f"to {first}"]
        header += ["best epoch", *(["cells", "chosen"] if self.chosen else [])]
        for metric in self.metrics if self.paper else ():
            header += [f"{self.source} {short(metric)}", f"ours to {self.source}"]
        for metric in self.metrics if self.gain else ():
            header += [f"paper's gain {short(metric)}", "ours minus paper's"]
        return header


def add_metric_tables(document: Document, spec: Spec, rows: Rows, groups: Sequence[Group]) -> None:
    """Each group's metrics and their differences to its first line, beside the paper's figures."""
    for group in groups:
        open_families = unfinished(rows, group.name)
        columns = _Columns.of(spec, group, compared=not open_families)
        lines = [_cells(spec, group, line, columns) for line in group.lines]
        document.numbers += [number for _, number in lines]
        document.blocks += [Heading(group.name), Table(columns.header(group.first.name), [cells for cells, _ in lines])]
        document.blocks += map(Text, _remarks(rows, group, open_families))
    document.blocks.append(
        Text(
            "± is the standard deviation over seeds; 'to' is the difference of the means in percent of the first line, "
            "over the seeds that both have."
        )
    )


def _cells(spec: Spec, group: Group, line: Line, columns: _Columns) -> tuple[list[str], Row]:
    """A line of the table, and its numbers."""
    cells = [line.name, str(len(line.runs))]
    number: Row = {"group": group.name, "run": line.name, "seeds": " ".join(line.runs)}
    for metric in columns.metrics:
        gain = percent(group.first, line, metric) if columns.compared and line is not group.first else None
        cells += [with_sd(line, metric), signed(gain)]
        number |= {
            short(metric): rounded(line.mean(metric), 6),
            f"{short(metric)} sd": rounded(line.sd(metric), 6),
            f"{short(metric)} percent to first": _plain(gain),
        }
    cells.append("/".join(row["best_epoch"] for row in line.runs.values()))
    if columns.chosen:
        cells += [str(line.cells), line.first["label"] if line.cells > 1 else ""]
    if columns.paper:
        cells += _paper_cells(spec, line, columns.metrics, number)
    if columns.gain:
        cells += _gain_cells(spec.paper, group, line, columns.metrics, number)
    return cells, number


def _remarks(rows: Rows, group: Group, open_families: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    """What a reader must know of the group's table."""
    if open_families:
        yield (
            f"Unfinished tuning ({with_a_result(open_families)} have a result): the choice may still change, so "
            "nothing is compared here yet."
        )
    mine = (row for row in filter(state_of_cell, rows.cells) if row["group"] == group.name)
    absent = next((row.get("family") or row["label"] for row in mine), group.first.name)
    if absent not in {line.name for line in group.lines}:
        yield f"{absent}, which the others are held against, has no result yet: {group.first.name} stands in."
    cut = sorted({row["cut"] for line in group.lines for row in line.runs.values() if row.get("cut")})
    if cut:
        yield f"Cut short: {'; '.join(cut)}. These are no results."


def _has(paper: Sequence[Row], group: Group, columns: Mapping[str, str]) -> bool:
    return any(
        (row := paper_row(paper, line.first, **_paper_keys(paper))) is not None
        and any(c in row for c in columns.values())
        for line in group.lines
    )


def _paper_keys(paper: Sequence[Row]) -> dict[str, str]:
    """Of a table with and without early stopping, a full run stands beside "without"."""
    return {"early_stop": "no"} if paper and "early_stop" in paper[0] else {}


def _paper_cells(spec: Spec, line: Line, metrics: Sequence[str], number: Row) -> list[str]:
    row = paper_row(spec.paper, line.first, **_paper_keys(spec.paper)) or {}
    cells = []
    for metric in metrics:
        printed, ours = row.get(PAPER_COLUMNS.get(metric, ""), ""), line.mean(metric)
        share = 100 * (ours / float(printed) - 1) if printed and ours is not None else None
        cells += [printed or "–", signed(share)]
        number |= {
            f"{spec.source} {short(metric)}": printed,
            f"{short(metric)} percent to {spec.source}": _plain(share),
        }
    return cells


def _gain_cells(paper: Sequence[Row], group: Group, line: Line, metrics: Sequence[str], number: Row) -> list[str]:
    words = f"{line.first['loss']} over {group.first.first['loss']}"
    row = next(
        (r for r in paper if r["comparison"] == words and r["dataset"] == line.first["dataset"]
         and r["num_negs"] == line.first["num_negs"]), {},
    )  # fmt: skip
    cells = []
    for metric in metrics:
        printed, ours = row.get(GAIN_COLUMNS.get(metric, ""), ""), percent(group.first, line, metric)
        difference = ours - float(printed) if printed and ours is not None else None
        cells += [f"+{printed} %" if printed else "–", signed(difference, " points")]
        number |= {f"paper's gain {short(metric)}": printed}
    return cells


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
