"""What rows say side by side: groups, lines, means, paired tests. No formatting here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from mml_plugin.errors import UserError
from mml_plugin.report.rows import Row, Rows
from mml_plugin.report.statistics import MIN_SEEDS, PairedTest, holm, paired_t

METRICS = ("Recall(k=20)", "NDCG(k=20)")
# Rows have eight digits, kept per-user metrics single precision.
SAME = 1e-6


@dataclass(frozen=True)
class Line:
    """One line of a group: the runs of one setting, one per seed.

    Attributes:
        name: what it is called: its label, or the family that it was chosen from.
        runs: seed -> row.
        cells: how many tuning cells it was chosen from; 1 when it was not chosen.
    """

    name: str
    runs: dict[str, Row]
    cells: int = 1

    @property
    def first(self) -> Row:
        """The row of the first seed."""
        return next(iter(self.runs.values()))

    def values(self, column: str, seeds: Iterable[str] | None = None) -> list[float]:
        """The numbers of a column, over the given seeds or all."""
        rows = [self.runs[seed] for seed in (self.runs if seeds is None else seeds)]
        return [float(row[column]) for row in rows if row.get(column)]

    def mean(self, column: str, seeds: Iterable[str] | None = None) -> float | None:
        """The mean of a column, None where it is empty."""
        found = self.values(column, seeds)
        return fmean(found) if found else None

    def sd(self, column: str) -> float | None:
        """The standard deviation over seeds, None with fewer than two."""
        found = self.values(column)
        return stdev(found) if len(found) > 1 else None


@dataclass(frozen=True)
class Group:
    """Lines that are compared with the first of them."""

    name: str
    lines: list[Line]

    @property
    def first(self) -> Line:
        """What the others are compared with."""
        return self.lines[0]


@dataclass(frozen=True)
class Test:
    """Two lines of a group, one metric, both tests.

    Attributes:
        group, first, second: which lines.
        metric: column.
        percent: difference of the means in percent of the first.
        base: the first's mean over the shared seeds: what intervals are shown in percent of.
        seeds: paired t over seeds; its p-value is Holm-corrected.
        users: bootstrap over users, likewise; None where it was not made. With too few seeds it has its interval but no
            p-value: one training says nothing about the next, however many users look at it.
    """

    group: str
    first: str
    second: str
    metric: str
    percent: float | None
    base: float
    seeds: PairedTest
    users: PairedTest | None


def metrics_of(rows: Iterable[Row]) -> list[str]:
    """The metrics that reports show: Recall@20 and NDCG@20, or the monitor where a run has neither."""
    every = list(rows)
    found = [m for m in METRICS if any(row.get(m) for row in every)]
    return found or sorted({name for row in every for name in watched(row) if row.get(name)})[:1]


def watched(row: Row) -> dict[str, float]:
    """The metrics of a run's monitor and their weights; a mapping stands in rows as JSON."""
    text = row.get("monitor", "")
    return json.loads(text) if text.startswith("{") else {text: 1.0}


def groups_of(rows: Iterable[Row]) -> list[Group]:
    """Groups and their lines in the rows' order; of a family, the best cell by its monitor stands for all.

    Raises:
        UserError: for a family whose cells cannot be ranked.
    """
    groups: dict[str, dict[str, Line]] = {}
    for row in rows:
        lines = groups.setdefault(row["group"], {})
        line = lines.setdefault(row["label"], Line(row["label"], {}))
        line.runs[row["seed"]] = row
    return [Group(name, _chosen(list(lines.values()))) for name, lines in groups.items()]


def _chosen(lines: list[Line]) -> list[Line]:
    """Lines without a family as they are; of each family the best, in the place of its first."""
    families: dict[str, list[Line]] = {}
    for line in lines:
        families.setdefault(line.first.get("family") or f"\0{line.name}", []).append(line)
    found = []
    for name, members in families.items():
        seeds = common_seeds(members)
        if name.startswith("\0"):
            found += members
        else:
            found.append(replace(ranked(members, seeds or None)[0], name=name, cells=len(members)))
    return found


def ranked(members: Sequence[Line], seeds: Iterable[str] | None = None) -> list[Line]:
    """Tuning cells, the best by their monitor first; of equal ones, the one that comes first.

    Raises:
        UserError: when they were not all selected by the same monitor, or one has no value of it.
    """
    chosen = None if seeds is None else list(seeds)
    aims = {(row["monitor"], row.get("monitor_mode") or "max") for line in members for row in line.runs.values()}
    family = members[0].first.get("family") or members[0].name
    if len(aims) > 1:
        said = " and ".join(sorted(f"{name} ({mode})" for name, mode in aims))
        raise UserError(f"the tuning cells of {family!r} cannot be ranked: their monitors differ, {said}")
    values = [monitor(line, chosen) for line in members]
    for line, value in zip(members, values):
        if value is None:
            raise UserError(
                f"the tuning cells of {family!r} cannot be ranked: {line.name!r} has no value of its monitor "
                f"{line.first['monitor']}"
            )
    sign = -1 if aims and next(iter(aims))[1] == "max" else 1
    order = sorted(range(len(members)), key=lambda place: sign * (values[place] or 0.0))
    return [members[place] for place in order]


def monitor(line: Line, seeds: Iterable[str] | None = None) -> float | None:
    """The mean of what a run is selected by: on validation where there is one, otherwise as reported; None without it.

    As in the trainers, a monitor of several metrics is their weighted sum.

    Cells are compared over the seeds that all of them have: the chosen one's further seeds do not count for it.
    """
    chosen = list(line.runs if seeds is None else seeds)
    weights = watched(line.first)
    for prefix in ("validation ", ""):
        means = {name: line.mean(f"{prefix}{name}", chosen) for name in weights}
        found = [mean * weights[name] for name, mean in means.items() if mean is not None]
        if found and len(found) == len(weights):
            return sum(found)
    return None


def common_seeds(members: Sequence[Line]) -> list[str]:
    """The seeds that all of them have, rising."""
    return sorted(set.intersection(*(set(line.runs) for line in members)), key=int)


def shared_seeds(first: Line, second: Line) -> list[str]:
    """The seeds that both have, rising."""
    return common_seeds((first, second))


def percent(first: Line, second: Line, column: str) -> float | None:
    """How much more the second's mean is, in percent of the first's, over the seeds that both have."""
    seeds = shared_seeds(first, second)
    a, b = first.mean(column, seeds), second.mean(column, seeds)
    return 100 * (b / a - 1) if a and b is not None else None


def compare(rows: Rows, groups: Sequence[Group]) -> list[Test]:
    """Every line against the first of its group; p-values Holm-corrected over all tests of one kind."""
    bootstraps = {(r["runs"], r["metric"]): r for r in rows.users}
    found: list[Test] = []
    for group in groups:
        for line in group.lines[1:]:
            seeds = shared_seeds(group.first, line)
            for metric in metrics_of([*group.first.runs.values(), *line.runs.values()]):
                ours, theirs = group.first.values(metric, seeds), line.values(metric, seeds)
                if not ours or len(ours) != len(theirs):
                    continue
                users = bootstraps.get((runs_of(group.first, line, seeds), metric))
                if users is not None and not is_of(users, group.first, line, seeds, metric):
                    users = None
                found.append(
                    Test(group.name, group.first.name, line.name, metric, percent(group.first, line, metric),
                         fmean(ours), paired_t(ours, theirs), _read_bootstrap(users, len(seeds)))
                )  # fmt: skip
    return _corrected(found)


def runs_of(first: Line, second: Line, seeds: Iterable[str]) -> str:
    """Which runs a bootstrap over users compared: a row of other runs is not the comparison's."""
    chosen = list(seeds)
    return " ".join(line.runs[seed]["identity"][:12] for line in (first, second) for seed in chosen)


def is_of(bootstrap: Row, first: Line, second: Line, seeds: Sequence[str], metric: str) -> bool:
    """Whether a bootstrap's difference is that of the rows.

    An identity says what was trained, not how often: the same run on another machine ends in other last digits.
    """
    a, b = first.mean(metric, seeds), second.mean(metric, seeds)
    return a is not None and b is not None and abs(b - a - float(bootstrap["difference"])) < SAME


def _read_bootstrap(row: Row | None, seeds: int) -> PairedTest | None:
    if row is None:
        return None
    known = bool(row["p_value"])
    p_value = float(row["p_value"]) if known and seeds >= MIN_SEEDS else None
    return PairedTest(
        float(row["difference"]), float(row["low"]), float(row["high"]), p_value, int(row["users"]),
        "" if known else "too few users",
    )  # fmt: skip


def _corrected(tests: list[Test]) -> list[Test]:
    seeds = holm([test.seeds.p_value for test in tests])
    users = iter(holm([test.users.p_value for test in tests if test.users is not None]))
    found = []
    for test, p_seeds in zip(tests, seeds):
        corrected = None if test.users is None else replace(test.users, p_value=next(users))
        found.append(replace(test, seeds=replace(test.seeds, p_value=p_seeds), users=corrected))
    return found


def paper_row(table: Sequence[Row], row: Row, **more: str) -> Row | None:
    """The line of a paper's table that stands for the run; None when it has none."""
    keys = {key: row.get(key, "") for key in ("model", "loss", "dataset", "num_negs", "plateau")} | more
    for line in table:
        if all(line[key] == value for key, value in keys.items() if key in line):
            return line
    return None


def machine_of(row: Row) -> str:
    """What a run was made on, in words, as far as seconds depend on it."""
    gpu = f", {row['gpu']}" if row.get("gpu") else ""
    return f"{row['processor']}, {row['cores']} cores, {row['memory_gib']} GiB, {row['threads']} threads{gpu}"


def machines_of(*lines: Line) -> set[str]:
    """What the lines' runs were made on."""
    return {machine_of(row) for line in lines for row in line.runs.values()}


def mean_curve(epochs: Mapping[str, Sequence[Row]], line: Line, column: str) -> list[float]:
    """A history column averaged over seeds, epoch by epoch, as far as all seeds go; empty where it is missing.

    Args:
        epochs: cell -> its epochs, as :meth:`Rows.whole_epochs` gives them.
    """
    curves = []
    for row in line.runs.values():
        history = epochs.get(row["cell"], [])
        if not history or any(not epoch.get(column) for epoch in history):
            return []
        curves.append([float(epoch[column]) for epoch in history])
    return [fmean(values) for values in zip(*curves)] if curves else []
