"""Which of two lines is better for users: bootstraps over what a suite's rows have per-user metrics of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mml_plugin.experiment.cell_rows import measured
from mml_plugin.report.comparison import groups_of, is_of, metrics_of, runs_of, shared_seeds
from mml_plugin.report.rows import Row, Rows
from mml_plugin.report.statistics import paired_bootstrap

RESAMPLES = 10_000


def bootstraps(rows: Rows, per_user: Callable[[Row], Any]) -> list[Row]:
    """A bootstrap over users of each line against the first of its group, per metric.

    Users are resampled; each user's metric is averaged over the seeds that both sides have. One that is there already
    for the same runs is kept. ``per_user`` gives a row's table of metrics, or None.
    """
    old = {(r["group"], r["label"], r["against"], r["metric"], r["runs"]): r for r in reversed(rows.users)}
    found: list[Row] = []
    for group in groups_of(rows.done()):
        first = group.first
        for line in group.lines[1:]:
            seeds = shared_seeds(first, line)
            sides = [[part.runs[seed] for seed in seeds] for part in (first, line)]
            labels = (group.name, line.first["label"], first.first["label"])
            for metric in metrics_of([*first.runs.values(), *line.runs.values()]):
                runs = runs_of(first, line, seeds)
                kept = old.get((*labels, metric, runs))
                if kept is not None and is_of(kept, first, line, seeds, metric):
                    found.append(kept)
                elif (
                    seeds
                    and (made := _bootstrap(sides, metric, per_user)) is not None
                    and is_of(made, first, line, seeds, metric)
                ):
                    facts = dict(zip(("group", "label", "against", "metric"), (*labels, metric)))
                    found.append({**facts, "seeds": " ".join(seeds), **made, "runs": runs})
    return found


def _bootstrap(sides: Sequence[Sequence[Row]], metric: str, per_user: Callable[[Row], Any]) -> Row | None:
    values = []
    for side in sides:
        parts = [_values(per_user(row), metric) for row in side]
        if any(part is None for part in parts):
            return None
        users, metrics = zip(*(part for part in parts if part is not None))
        if any(not np.array_equal(users[0], more) for more in users[1:]):
            return None
        values.append((users[0], np.mean(metrics, axis=0)))
    if not np.array_equal(values[0][0], values[1][0]):
        return None
    test = paired_bootstrap(values[0][1], values[1][1], resamples=RESAMPLES)
    return {
        "users": str(test.count),
        "resamples": str(RESAMPLES),
        "difference": f"{test.difference:.8f}",
        "low": f"{test.low:.8f}",
        "high": f"{test.high:.8f}",
        "p_value": "" if test.p_value is None else f"{test.p_value:.6g}",
    }


def _values(table: Any, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Users and their metric, where the run's per-user metrics are here and hold it."""
    if table is None or metric not in table.column_names:
        return None
    users = table["user_row"].to_numpy()
    order = np.argsort(users, kind="stable")
    return users[order], np.asarray(table[metric].to_numpy(), np.float64)[order]


def rows_to_compare(rows: Rows, names: Collection[str] | None) -> Rows:
    """The rows without the cells that are not named."""
    return rows if names is None else replace(rows, cells=[row for row in rows.cells if row["cell"] in names])


def identities(rows: Rows) -> set[str]:
    """Of the runs that the rows show."""
    return {row["identity"] for row in rows.done()}


def of_others(rows: Rows, found: Sequence[Row]) -> list[Row]:
    """The comparisons that are not among those found and whose runs are all there."""
    there = {row["identity"][:12] for row in rows.cells if measured(row)}
    known = {(row["runs"], row["metric"]) for row in found}
    others = (row for row in rows.users if (row["runs"], row["metric"]) not in known)
    return [row for row in others if there.issuperset(row["runs"].split())]
