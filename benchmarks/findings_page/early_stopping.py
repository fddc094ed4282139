"""What early stopping costs, read off the full runs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from findings_page.paper import COLUMNS, DATASETS, FOLDERS, printed, printed_gain
from findings_page.words import EPOCHS_LOST, Section, judged
from mml_plugin.report.comparison import METRICS, Line
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.pool import Pool
from mml_plugin.report.statistics import MIN_SEEDS
from mml_plugin.report.words import NOT_RUN, signed

PATIENCE = 3
HARDLY = -0.1  # percent
NOTE = (
    "Read off the full runs' own histories, which a run with patience only cuts short; where Recall@20 is what the "
    "epoch is chosen by, it can only lose by that. In brackets each seed's. By Recall@20: **yes** when at least half "
    "of the paper's loss, **smaller** when less, **hardly** when 0.1 % or less; **seeds differ** when that is not the "
    "same for all."
)


def early_stopping(pool: Pool) -> Section:
    """Percent of the full run that stopping with patience loses, the paper's and here."""
    lines = []
    for model in ("MF", "SimpleX"):
        for data, folder in FOLDERS.items():
            for loss in ("CCL", "MML"):
                (recall, ndcg), paper_stop = _printed(model, folder, loss)
                line = pool.line(f"{model}_{data}_{loss.lower()}")
                here, here_ndcg, stops, verdict = _here(pool, line, recall)
                name = f"{model}, {DATASETS[data]}, {loss}"
                lines.append([name, signed(recall), here, signed(ndcg), here_ndcg, paper_stop, stops, verdict])
    header = ["Recall@20, paper", "here", "NDCG@20, paper", "here", "paper stops at", "here at", "hurts"]
    return judged([f"patience {PATIENCE}", *header], lines, NOTE)


def _printed(model: str, folder: str, loss: str) -> tuple[list[float], str]:
    """The paper's loss by stopping in percent, per metric, and the epoch it stops at."""
    rows = {
        r["early_stop"]: r
        for r in printed("table2_models")
        if (r["model"], r["dataset"], r["loss"]) == (model, folder, loss)
    }
    stops = printed("table2_stop_epochs")
    stop = next(r["stop_epoch"] for r in stops if (r["model"], r["loss"]) == (model, loss))
    return [printed_gain(rows["no"], rows["yes"], column) for column in COLUMNS], stop


def _here(pool: Pool, line: Line | None, claimed: float) -> tuple[str, str, str, str]:
    """Recall's and NDCG's loss here, where the seeds stop, and the verdict on the paper's loss of Recall."""
    if line is None:
        return (NOT_RUN,) * 4
    if not any(pool.epochs[row["identity"]] for row in line.runs.values()):
        return (EPOCHS_LOST,) * 4
    losses, ends = _stop_losses(pool, line, METRICS[0])
    verdicts = {_verdict(loss, claimed) for loss in losses}
    verdict = verdicts.pop() if len(verdicts) == 1 else "seeds differ"
    seeds = "" if len(losses) >= MIN_SEEDS else f" ({len(losses)} seed{'s' * (len(losses) > 1)})"
    return _of_seeds(losses), _of_seeds(_stop_losses(pool, line, METRICS[1])[0]), "/".join(ends), verdict + seeds


def _verdict(loss: float, claimed: float) -> str:
    return "yes" if loss <= claimed / 2 else "smaller" if loss < HARDLY else "hardly"


def _of_seeds(losses: Sequence[float]) -> str:
    """``-4.94 % (-6.86/-4.63/-3.33)``; one seed's without brackets."""
    each = "/".join(signed(loss, "") for loss in losses)
    return signed(fmean(losses)) + (f" ({each})" if len(losses) > 1 else "")


def _stop_losses(pool: Pool, line: Line, of: str) -> tuple[list[float], list[str]]:
    """Per seed: what stopping costs of a metric, in percent of the full run, and where it stops."""
    losses, ends = [], []
    for row in line.runs.values():
        history = pool.epochs[row["identity"]]
        if not history:
            continue
        stop = read_stop([float(epoch[row["monitor"]]) for epoch in history], PATIENCE)
        value = float(history[stop.best_epoch - 1][of])
        losses.append(100 * (value / float(row[of]) - 1) if float(row[of]) else 0.0)
        ends.append(f"{stop.epoch}{'' if stop.reached else '+'}")
    return losses, ends
