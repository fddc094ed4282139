"""Words that the sections of the page share."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.comparison import METRICS, Line
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN, rounded

EPOCHS_LOST = "its epochs are not kept"
ANYTHING = 1e-6  # percent: what is claimed where the paper has no figure that a gain could be half of
Section = tuple[str, list[str]]  # a claim's text, and the verdict of each row of its table


def judged(header: Sequence[str], lines: Sequence[Sequence[str]], note: str = "", left: int = 1) -> Section:
    """A table whose last column is the verdict, with a note below it."""
    table = markdown_table(header, lines, left=left)
    return f"{table}\n\n{note}".strip(), [line[-1] for line in lines]


def value_of(line: Line | None, metric: str) -> str:
    """A metric's mean over seeds, and of how many where there are several; in words where there is none."""
    return NOT_RUN if line is None else _mean(line, metric) + _seeds(line)


def both_metrics(line: Line | None) -> str:
    """``0.0674 / 0.0556``, likewise."""
    return NOT_RUN if line is None else " / ".join(_mean(line, metric) for metric in METRICS) + _seeds(line)


def _mean(line: Line, metric: str) -> str:
    mean = line.mean(metric)
    return NOT_MEASURED if mean is None else rounded(mean)


def _seeds(line: Line) -> str:
    return f" ({len(line.runs)} seeds)" if len(line.runs) > 1 else ""
