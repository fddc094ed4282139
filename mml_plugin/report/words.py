"""Numbers, names and choices of a run as a report says them."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.comparison import Line, watched
from mml_plugin.report.rows import Row

PAPER_COLUMNS = {"Recall(k=20)": "recall_at_20", "NDCG(k=20)": "ndcg_at_20"}
FEW = 12
NOT_RUN = "not run yet"
NOT_MEASURED = "not measured"


def short(metric: str) -> str:
    """``Recall(k=20)`` as ``Recall@20``."""
    return metric.replace("(k=", "@").rstrip(")")


def rounded(value: float | None, digits: int = 4) -> str:
    """To so many digits; a dash for none."""
    return "–" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, unit: str = " %") -> str:
    """A difference with its sign, to two digits; a dash for none."""
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}{unit}"


def with_sd(line: Line, column: str, digits: int = 4) -> str:
    """The mean over seeds, with the standard deviation where there is one."""
    sd = line.sd(column)
    return rounded(line.mean(column), digits) + (f" ± {sd:.{digits}f}" if sd is not None else "")


def slug(text: str) -> str:
    """A text as a file's name."""
    kept = "".join(c if c.isalnum() else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)


def few(words: Sequence[str]) -> str:
    """The first :data:`FEW`, and how many more there are."""
    return ", ".join(words[:FEW]) + (f" and {len(words) - FEW} more" if len(words) > FEW else "")


def monitor_words(row: Row) -> str:
    """What a run is selected by: ``Recall@20``, or ``0.5 Recall@20 + 1 NDCG@20``; said where less is better."""
    weights = watched(row)
    sums = " + ".join(f"{weight:g} {short(name)}" for name, weight in weights.items())
    words = sums if row["monitor"].startswith("{") else short(row["monitor"])
    return f"{words} (the least is best)" if row.get("monitor_mode") == "min" else words


def selected_on(row: Row) -> str:
    """What a run's epoch, and of tuning cells the cell, was chosen on."""
    return "validation" if row["protocol"] == "held-out" else "test"
