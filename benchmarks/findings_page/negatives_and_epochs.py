"""The losses by number of negatives, and after their first 20 epochs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from findings_page.paper import DATASETS
from findings_page.words import value_of
from mml_plugin.report.comparison import METRICS
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.gain import Gain, gain_over_seeds
from mml_plugin.report.pool import Pool
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN, rounded, short

NEGATIVES = (10, 50, 100, 200, 400, 800)
WITH_MORE = (100, 400, 800)  # of CCL: the paper's number, and up to what it was published with
LOSSES = ("CCL", "MML", "BSL")
FIRST_EPOCHS = 20


def by_negatives(pool: Pool) -> str:
    """CCL, BSL and MML by number of negatives; MML against both with as many, and with fewer against CCL with more."""
    counts = [n for n in NEGATIVES if any(pool.line(_expid(d, loss, n)) for d in DATASETS for loss in LOSSES)]
    if not counts:
        return NOT_RUN.capitalize() + "."
    values, to_ccl, to_bsl = [], [], []
    for data, dataset in DATASETS.items():
        for metric in METRICS:
            what = f"{dataset}, {short(metric)}"
            for loss in LOSSES:
                values.append([what, loss, *(value_of(pool.line(_expid(data, loss, n)), metric) for n in counts)])
            to_ccl.append([what, *(mml_to("CCL", n, pool, data, n, metric).words() for n in counts)])
            to_bsl.append([what, *(mml_to("BSL", n, pool, data, n, metric).words() for n in counts)])
    tables = (
        markdown_table(["MF", "", *map(str, counts)], values, left=2),
        markdown_table(["MML to CCL with as many", *map(str, counts)], to_ccl),
        markdown_table(["MML to BSL with as many", *map(str, counts)], to_bsl),
        _with_fewer(pool, counts),
    )
    return "\n\n".join(table for table in tables if table)


def _with_fewer(pool: Pool, counts: Sequence[int]) -> str:
    """MML against CCL with more negatives, as far as CCL was run with them."""
    references = [n for n in WITH_MORE if any(pool.line(_expid(data, "CCL", n)) for data in DATASETS)]
    fewer = [count for count in counts if count < max(references, default=0)]
    lines = [
        [f"{dataset}, {short(metric)}", str(more),
         *(mml_to("CCL", more, pool, data, n, metric).words() if n < more else "–" for n in fewer)]
        for data, dataset in DATASETS.items() for metric in METRICS for more in references
        if pool.line(_expid(data, "CCL", more))
    ]  # fmt: skip
    return (
        ""
        if not lines
        else markdown_table(["MML to CCL with more", "CCL with", *(f"MML with {n}" for n in fewer)], lines)
    )


def _expid(data: str, loss: str, count: int) -> str:
    return f"MF_{data}_{loss.lower()}" + ("" if count == 100 else f"_n{count}")


def mml_to(loss: str, of_loss: int, pool: Pool, data: str, of_mml: int, metric: str) -> Gain:
    """What MML gains over another loss, each with its number of negatives."""
    return pool.gain(_expid(data, loss, of_loss), _expid(data, "MML", of_mml), metric)


def first_epochs(pool: Pool) -> str:
    """CCL, MML and BSL after 20 epochs, read off the histories of the whole runs."""
    lines = []
    for data, dataset in DATASETS.items():
        for count in NEGATIVES:
            expids = [_expid(data, loss, count) for loss in LOSSES]
            for metric in METRICS:
                reached = [_after_first(pool, expid, metric) for expid in expids]
                if any(reached):
                    name = f"MF, {dataset}, {count} negatives"
                    values = [_mean(pool, expid, found) for expid, found in zip(expids, reached)]
                    lines.append([name, short(metric), *values, _first_gain(pool, expids[:2], reached[:2])])
    if not lines:
        return NOT_RUN.capitalize() + "."
    return markdown_table(["after 20 epochs", "metric", *LOSSES, "MML to CCL"], lines, left=2)


def _after_first(pool: Pool, expid: str, metric: str) -> dict[str, float]:
    """Seed -> what the best of its first 20 epochs has reached; without the seeds that do not measure it."""
    line, found = pool.line(expid), {}
    for seed, row in line.runs.items() if line else ():
        history, monitor = pool.epochs[row["identity"]][:FIRST_EPOCHS], row["monitor"]
        if history and all(epoch.get(monitor) and epoch.get(metric) for epoch in history):
            best = read_stop([float(epoch[monitor]) for epoch in history], patience=FIRST_EPOCHS).best_epoch
            found[seed] = float(history[best - 1][metric])
    return found


def _mean(pool: Pool, expid: str, found: dict[str, float]) -> str:
    """The mean over seeds, and of how many where there are several; in words where there is none."""
    if not found:
        return NOT_MEASURED if pool.line(expid) else NOT_RUN
    return rounded(fmean(found.values())) + (f" ({len(found)} seeds)" if len(found) > 1 else "")


def _first_gain(pool: Pool, expids: Sequence[str], reached: Sequence[dict[str, float]]) -> str:
    """What MML gains over CCL by then, over the seeds that both have."""
    seeds = sorted(set(reached[0]) & set(reached[1]))
    if not seeds:
        return next((_mean(pool, expid, {}) for expid, found in zip(expids, reached) if not found), NOT_RUN)
    return gain_over_seeds(*([of_loss[seed] for seed in seeds] for of_loss in reached)).words()
