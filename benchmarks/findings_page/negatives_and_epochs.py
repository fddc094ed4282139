"""The losses by number of negatives, and after their first 20 epochs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from findings_page.paper import DATASETS
from findings_page.words import value_of
from mml_plugin.report.comparison import METRICS, Line, shared_seeds
from mml_plugin.report.gain import gain_over_seeds
from mml_plugin.report.pool import Pool
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN, rounded, short

NEGATIVES = (10, 50, 100, 200, 400, 800)
WITH_MORE = (100, 400, 800)  # of CCL: the paper's number, and up to what it was published with
LOSSES = ("CCL", "MML", "BSL")
FIRST_EPOCHS = 20
FIRST = f"epochs={FIRST_EPOCHS}"


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
            to_ccl.append([what, *(_mml_to("CCL", n, pool, data, n, metric) for n in counts)])
            to_bsl.append([what, *(_mml_to("BSL", n, pool, data, n, metric) for n in counts)])
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
         *(_mml_to("CCL", more, pool, data, n, metric) if n < more else "–" for n in fewer)]
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


def _mml_to(loss: str, of_loss: int, pool: Pool, data: str, of_mml: int, metric: str) -> str:
    """What MML gains over another loss, each with its number of negatives."""
    return pool.gain(_expid(data, loss, of_loss), _expid(data, "MML", of_mml), metric).words()


def first_epochs(pool: Pool) -> str:
    """CCL, MML and BSL after 20 epochs: of the runs cut there, or else read off the histories of the whole ones."""
    lines = []
    for data, dataset in DATASETS.items():
        for count in NEGATIVES:
            expids = [_expid(data, loss, count) for loss in LOSSES]
            for metric in METRICS:
                reached = [_after_first(pool, expid, metric) for expid in expids]
                if any(reached):
                    name = f"MF, {dataset}, {count} negatives"
                    values = [_mean(pool, expid, found) for expid, found in zip(expids, reached)]
                    lines.append([name, short(metric), *values, _first_gain(pool, expids[:2], reached[:2], metric)])
    if not lines:
        return NOT_RUN.capitalize() + "."
    return markdown_table(["after 20 epochs", "metric", *LOSSES, "MML to CCL"], lines, left=2)


def _after_first(pool: Pool, expid: str, metric: str) -> dict[str, float]:
    """Seed -> what its best epoch of the first 20 has reached; without the seeds that do not measure it."""
    if (cut := pool.line(expid, settings=FIRST)) is not None:
        return {seed: float(row[metric]) for seed, row in cut.runs.items() if row.get(metric)}
    line, found = pool.line(expid), {}
    for seed, row in line.runs.items() if line else ():
        history, monitor = pool.epochs[row["identity"]][:FIRST_EPOCHS], row["monitor"]
        if history and all(epoch.get(monitor) and epoch.get(metric) for epoch in history):
            found[seed] = float(max(history, key=lambda epoch: float(epoch[monitor]))[metric])
    return found


def _mean(pool: Pool, expid: str, found: dict[str, float]) -> str:
    """The mean over seeds; in words where there is none."""
    if found:
        return rounded(fmean(found.values()))
    return NOT_MEASURED if pool.line(expid) or pool.line(expid, settings=FIRST) else NOT_RUN


def _first_gain(pool: Pool, expids: Sequence[str], reached: Sequence[dict[str, float]], metric: str) -> str:
    """What MML gains over CCL by then; with an interval over users where the cut runs have one."""
    ccl, mml = (pool.line(expid, settings=FIRST) for expid in expids)
    if ccl is not None and mml is not None and shared_seeds(ccl, mml):
        return pool.gain_of(ccl, mml, metric).words()
    seeds = sorted(set(reached[0]) & set(reached[1]))
    if not seeds:
        return next((_mean(pool, expid, {}) for expid, found in zip(expids, reached) if not found), NOT_RUN)
    return gain_over_seeds(*([of_loss[seed] for seed in seeds] for of_loss in reached)).words()


def first_settings(pool: Pool) -> list[tuple[str, Line, Line]]:
    """(name, CCL, MML) of what both have been trained on for 20 epochs."""
    found = []
    for name, dataset in DATASETS.items():
        for negatives, suffix in ((10, "_n10"), (100, "")):
            ccl, mml = (pool.line(f"MF_{name}_{loss}{suffix}", settings=FIRST) for loss in ("ccl", "mml"))
            if ccl is not None and mml is not None and shared_seeds(ccl, mml):
                found.append((f"MF, {dataset}, {negatives} negatives", ccl, mml))
    return found
