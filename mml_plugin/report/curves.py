"""Learning curves from history files."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write


def read_history(path: Path) -> list[dict[str, str]]:
    """The rows of a ``history.csv``; a :class:`UserError` when it is missing or empty."""
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if not rows:
        raise UserError(f"{path} holds no epoch")
    return rows


def active_share(row: Mapping[str, str]) -> float | None:
    """Share of negatives above the lowest margin in one history row; None for a loss without margins."""
    easy = [value for name, value in row.items() if name.startswith("band_0(")]
    return 1.0 - float(easy[0]) if easy and easy[0] else None


def plot_curves(histories: Mapping[str, Path], metric: str, path: Path) -> None:
    """Draw one learning curve per run.

    Args:
        histories: label -> ``history.csv``.
        metric: a column such as ``"Recall(k=20)"``.
        path: the PNG to write.

    Raises:
        UserError: when matplotlib is not installed or a history cannot be read.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, history in histories.items():
        rows = [row for row in read_history(history) if row.get(metric)]
        axes.plot([int(r["epoch"]) for r in rows], [float(r[metric]) for r in rows], marker=".", label=label)
    axes.set_xlabel("epoch")
    axes.set_ylabel(metric)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(path, "wb") as stream:
        figure.savefig(stream, format="png", dpi=144)
