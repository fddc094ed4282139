"""How much more one run reaches than another, in words, and what that says of a claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from mml_plugin.report.statistics import MIN_SEEDS, paired_t
from mml_plugin.report.words import NOT_RUN, signed

# On par: not further apart than this, in percent.
PAR = 2.0
NO_BASE = "no percentage of 0"


@dataclass(frozen=True)
class Gain:
    """How much more one run reaches than another.

    Attributes:
        percent: difference of the means in percent of the first; None when there is none.
        seeds: how many seeds both have.
        sd: standard deviation of the difference over seeds, in percent of the first.
        low, high: bootstrap interval over users, in percent; NaN without one.
        t_low, t_high: paired t interval over seeds, in percent; NaN with fewer than three.
        missing: why there is no percentage.
    """

    percent: float | None
    seeds: int = 0
    sd: float | None = None
    low: float = math.nan
    high: float = math.nan
    t_low: float = math.nan
    t_high: float = math.nan
    missing: str = NOT_RUN

    def words(self) -> str:
        """``+4.12 % (users: +3.11 to +5.00 %; 3 seeds: sd 0.30 %, t +3.40 to +4.80 %)``."""
        if self.percent is None:
            return self.missing
        users = "" if math.isnan(self.low) else f"users: {self.low:+.2f} to {self.high:+.2f} %; "
        noise = "1 seed" if self.sd is None else f"{self.seeds} seeds: sd {self.sd:.2f} %"
        if not math.isnan(self.t_low):
            noise += f", t {self.t_low:+.2f} to {self.t_high:+.2f} %"
        return f"{signed(self.percent)} ({users}{noise})"

    @property
    def seen(self) -> bool:
        """Whether every interval that there is excludes 0."""
        return not (self.low <= 0 <= self.high or self.t_low <= 0 <= self.t_high)

    def verdict(self, claimed: float) -> str:
        """What became of a claimed gain in percent."""
        if self.percent is None:
            return self.missing
        if math.isnan(self.low):
            return "no interval yet"
        if not self.seen:
            return self._on("no difference seen")
        if self.percent * claimed < 0:
            return self._on("no")
        return self._on("yes" if abs(self.percent) >= abs(claimed) / 2 else "smaller")

    def parity(self, second: str, first: str, claimed: float = 0.0) -> str:
        """Whether two sides are on par: every interval that there is lies within PAR percent either way.

        "no" when all lie beyond PAR on one side, "undecided" else; who is ahead when all exclude 0, as in
        :meth:`verdict`; after a "no" also whether the paper's own figures, ``claimed`` percent apart, are as far from
        par on that side.
        """
        if self.percent is None:
            return self.missing
        if math.isnan(self.low):
            return "no interval yet"
        intervals = [(self.low, self.high), (self.t_low, self.t_high)][: 1 if math.isnan(self.t_low) else 2]
        if all(low >= -PAR and high <= PAR for low, high in intervals):
            return self._on("yes")
        ahead = f", {second if self.percent > 0 else first} ahead" if self.seen else ""
        if not (all(low > PAR for low, _ in intervals) or all(high < -PAR for _, high in intervals)):
            return self._on(f"undecided{ahead}")
        as_printed = ", as in the paper" if abs(claimed) > PAR and claimed * self.percent > 0 else ""
        return self._on(f"no{ahead}{as_printed}")

    def _on(self, verdict: str) -> str:
        """The verdict, with the number of seeds where they are too few to speak of other seeds."""
        return verdict if self.seeds >= MIN_SEEDS else f"{verdict} ({self.seeds} seed{'s' if self.seeds > 1 else ''})"


def gain_over_seeds(
    first: Sequence[float], second: Sequence[float], users: tuple[float, float] = (math.nan, math.nan)
) -> Gain:
    """How much more the second run reaches than the first.

    Args:
        first, second: a metric of both, of the same seeds in the same order.
        users: the bootstrap interval over users of the difference, in the metric's own units.
    """
    if not len(first) == len(second) > 0:
        return Gain(None)
    base, seeds = fmean(first), len(first)
    if not base:
        return Gain(None, seeds, missing=NO_BASE)
    test = paired_t(first, second)
    sd = 100 * stdev(b - a for a, b in zip(first, second)) / base if seeds > 1 else None
    low, high, t_low, t_high = (100 * end / base for end in (*users, test.low, test.high))
    return Gain(100 * (fmean(second) / base - 1), seeds, sd, low, high, t_low, t_high)
