"""What others publish in logs, and what the same settings reach here."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from findings_page.paper import COLUMNS, printed
from findings_page.words import EPOCHS_LOST, value_of
from mml_plugin.report.comparison import METRICS, Line, paper_row
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Row
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN, rounded, short, signed

AT_THE_END = {
    "Recall(k=20)": "recall_at_20",
    "NDCG(k=20)": "ndcg_at_20",
    "Recall(k=50)": "recall_at_50",
    "NDCG(k=50)": "ndcg_at_50",
    "HitRate(k=20)": "hitrate_at_20",
}
PHASES = (("first", "first cut"), ("second", "second cut"))
NEVER = "never"


def anchors(pool: Pool) -> str:
    """The published figures with their settings, and what the same settings reach here."""
    lines = []
    for anchor in printed("anchors"):
        line = in_setting(pool, anchor)
        values = [
            cell
            for metric, column in zip(METRICS, COLUMNS)
            for cell in (anchor[column], _beside(anchor[column], line, metric))
        ]
        lines.append([name_of(anchor), *values, anchor["setting"], anchor["source"]])
    header = ["published", "Recall@20", "here", "NDCG@20", "here", "setting", "source"]
    return markdown_table(header, lines)


def _beside(published: str, line: Line | None, metric: str) -> str:
    """What came out here, to as many digits as were published, and by how much it differs from that."""
    mean = None if line is None else line.mean(metric)
    if mean is None:
        return value_of(line, metric)
    digits = len(published.partition(".")[2])
    return f"{rounded(mean, digits)} ({signed(100 * (mean / float(published) - 1))})"


def name_of(anchor: Row) -> str:
    """``MF + CCL, yelp18``."""
    return f"{anchor['model']} + {anchor['loss']}, {anchor['dataset']}"


def in_setting(pool: Pool, anchor: Row) -> Line | None:
    """The runs in an anchor's setting."""
    of_setting = {"BSL": "bslnative", "CCL": "reczoo"}.get(anchor["loss"], "")
    found = (
        line
        for line in pool.selected_on_test()
        if of_setting in line.first["expid"] and paper_row([anchor], line.first)
    )
    return next(found, None)


def public_logs(pool: Pool) -> str:
    """The published trainings epoch by epoch beside the first seed's here; only of those that were run here."""
    pairs = [(log, line) for log in printed("anchor_logs") if (line := in_setting(pool, log)) is not None]
    if not pairs:
        return f"{NOT_RUN.capitalize()}."
    logs = [_of_log(log) for log, _ in pairs]
    runs = [_of_run(line.first, pool.epochs[line.first["identity"]]) for _, line in pairs]
    lines = [[what, *(cells[what] for both in zip(logs, runs) for cells in both)] for what in logs[0]]
    header = [""] + [title for log, line in pairs for title in (name_of(log), f"here, seed {line.first['seed']}")]
    return markdown_table(header, lines)


def _of_log(log: Row) -> dict[str, str]:
    """What a published log says, by what it is about."""
    phases = {}
    for which, words in PHASES:
        phases[f"{words} of the learning rate"] = f"epoch {log[f'{which}_cut']}"
        phases[f"best until the {words}"] = log[f"best_at_{which}_cut"]
    return {
        "loss, epoch 1": log["first_loss"],
        "Recall@20, epoch 1": log["first_recall_at_20"],
        **phases,
        "best epoch": f"{log['best_epoch']} of {log['epochs']}",
        "loss, best epoch": log["best_loss"],
        **{short(metric): log[column] for metric, column in AT_THE_END.items()},
    }


def _of_run(row: Row, history: Sequence[Row]) -> dict[str, str]:
    """The same of a run here."""
    first, best = (history[0], history[int(row["best_epoch"]) - 1]) if history else ({}, {})
    cuts = _cuts(history)
    phases = {}
    for at, (_, words) in enumerate(PHASES):
        reached = at < len(cuts)
        until = _best_until(cuts[at], history, row["monitor"]) if reached else None
        phases[f"{words} of the learning rate"] = f"epoch {cuts[at]}" if reached else NEVER if history else EPOCHS_LOST
        phases[f"best until the {words}"] = rounded(until)
    return {
        "loss, epoch 1": _number(first, "train_loss", 3),
        "Recall@20, epoch 1": _number(first, "Recall(k=20)", 4),
        **phases,
        "best epoch": f"{row['best_epoch']} of {row['epochs']}",
        "loss, best epoch": _number(best, "train_loss", 4),
        **{short(metric): _number(row, metric, 6) for metric in AT_THE_END},
    }


def _number(row: Row, column: str, digits: int) -> str:
    """A run's or an epoch's number; in words where there is none."""
    if not row:
        return EPOCHS_LOST
    return rounded(float(row[column]), digits) if row.get(column) else NOT_MEASURED


def _cuts(history: Sequence[Row]) -> list[int]:
    """The epochs after which the learning rate was cut, 1-based."""
    rates = [float(epoch["learning_rate"]) for epoch in history]
    return [number for number, (rate, later) in enumerate(pairwise(rates), start=1) if later < rate]


def _best_until(epoch: int, history: Sequence[Row], monitor: str) -> float:
    """The best that was seen of what is watched, one metric in every published run."""
    return max(float(row[monitor]) for row in history[:epoch])
