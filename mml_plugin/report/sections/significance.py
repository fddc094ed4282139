"""A section of a report: whether differences are real."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.comparison import Test
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.rows import Row
from mml_plugin.report.statistics import MIN_SEEDS, PairedTest
from mml_plugin.report.words import short, signed


def add_significance(document: Document, tests: Sequence[Test]) -> None:
    """Both paired tests of every line against its group's first."""
    if not tests:
        return
    lines = []
    for test in tests:
        users = "not made" if test.users is None else _test_words(test.users, test.base)
        lines.append(
            [test.group, f"{test.second} to {test.first}", short(test.metric), signed(test.percent),
             _test_words(test.seeds, test.base), users]
        )  # fmt: skip
        document.numbers.append(
            {"group": test.group, "run": f"{test.second} to {test.first}", "metric": short(test.metric),
             "difference": f"{test.seeds.difference:.6f}", **_test_numbers("t", test.seeds),
             **(_test_numbers("bootstrap", test.users) if test.users else {})}
        )  # fmt: skip
    document.blocks += [
        Heading("Is the difference real?"),
        Table(["group", "comparison", "metric", "difference", "paired t over seeds", "bootstrap over users"], lines, 3),
        Text(
            "Paired t: over seeds, 95 % confidence interval of the mean difference; it says whether another seed would "
            "show the same. Bootstrap: users resampled in pairs, each user's metric averaged over the shared seeds, "
            "95 % percentile interval; it says whether other users would, for these very trainings, and nothing about "
            f"other seeds. Intervals are in percent of the first's mean, and are not corrected. {_family(tests)}"
        ),
    ]


def _family(tests: Sequence[Test]) -> str:
    """How many p-values there are and what was done to them."""
    seeds = sum(test.seeds.p_value is not None for test in tests)
    users = sum(test.users is not None and test.users.p_value is not None for test in tests)
    few = f"With fewer than {MIN_SEEDS} seeds there is no p-value, of either kind."
    some = "" if all(test.seeds.count >= MIN_SEEDS for test in tests) else f" {few}"
    if not seeds and not users:
        return some.strip()
    return (
        f"p-values are two-sided and Holm-corrected over all comparisons of their kind in this report: {seeds} over "
        f"seeds, {users} over users.{some}"
    )


def _test_words(test: PairedTest, base: float) -> str:
    if test.reason:
        return test.reason
    scale, unit, digits = (100 / base, " %", 2) if base else (1.0, "", 5)
    interval = f"{scale * test.low:+.{digits}f} to {scale * test.high:+.{digits}f}{unit}"
    if test.p_value is None:
        return interval
    return f"{interval}, {'p < 0.0001' if test.p_value < 0.0001 else f'p = {test.p_value:.4f}'}"


def _test_numbers(name: str, test: PairedTest) -> Row:
    if test.reason:
        return {f"{name} p (Holm)": test.reason}
    return {
        f"{name} low": f"{test.low:.6f}",
        f"{name} high": f"{test.high:.6f}",
        f"{name} p (Holm)": "" if test.p_value is None else f"{test.p_value:.6g}",
    }
