"""Is the difference real? Paired tests over seeds and over users, corrected for how many were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mml_plugin.errors import UserError

MIN_SEEDS = 3


@dataclass(frozen=True)
class PairedTest:
    """The difference of two paired samples, second minus first.

    Attributes:
        difference: mean difference.
        low, high: ends of the confidence interval.
        p_value: two-sided, or None when there is too little to test (``reason`` says so).
        count: how many pairs.
        reason: why there is no p-value, in words; empty when there is one.
    """

    difference: float
    low: float
    high: float
    p_value: float | None
    count: int
    reason: str = ""


def paired_t(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> PairedTest:
    """Paired t test over seeds (Student, two-sided; SciPy's ``ttest_rel``).

    Args:
        first, second: one value per seed, same seeds in the same order.
        confidence: of the interval around the mean difference.

    Raises:
        UserError: when the two have different lengths or are empty.
    """
    a, b = _pair(first, second)
    difference = float(np.mean(b - a))
    if len(a) < MIN_SEEDS:
        reason = f"{len(a)} seed{'s' if len(a) > 1 else ''}: too few to test, {MIN_SEEDS} are needed"
        return PairedTest(difference, float("nan"), float("nan"), None, len(a), reason)
    if np.allclose(b - a, (b - a)[0], rtol=0, atol=1e-15):
        reason = "the difference is the same on every seed: no spread to test against"
        return PairedTest(difference, difference, difference, None, len(a), reason)
    from scipy.stats import ttest_rel

    test = ttest_rel(b, a)
    interval = test.confidence_interval(confidence)
    return PairedTest(difference, float(interval.low), float(interval.high), float(test.pvalue), len(a))


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, confidence: float = 0.95, resamples: int = 10_000, seed: int = 2019
) -> PairedTest:
    """Paired bootstrap over users: resample users with replacement, percentile interval.

    Args:
        first, second: one value per user ``[U]``, the same users in the same order; averaged over
            seeds beforehand, so that users are the only unit that is resampled.
        confidence: of the interval.
        resamples: bootstrap samples.
        seed: of the resampling.

    Returns:
        Mean difference, interval, and the two-sided p-value ``2 * min(P(d* <= 0), P(d* >= 0))``
        with the add-one correction, so that it is never 0.

    Raises:
        UserError: when the two have different lengths or are empty.
    """
    a, b = _pair(first, second)
    delta = b - a
    users = len(delta)
    if users < 2:
        return PairedTest(float(delta.mean()), float("nan"), float("nan"), None, users, "one user: nothing to resample")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples)
    chunk = max(1, min(resamples, 20_000_000 // users))
    for start in range(0, resamples, chunk):
        draws = rng.integers(0, users, size=(min(chunk, resamples - start), users), dtype=np.int32)
        means[start : start + len(draws)] = delta[draws].mean(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    below, above = int((means <= 0).sum()), int((means >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return PairedTest(float(delta.mean()), float(low), float(high), p_value, users)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (statsmodels); entries without a p-value stay None and do not count."""
    known = [p for p in p_values if p is not None]
    if not known:
        return list(p_values)
    from statsmodels.stats.multitest import multipletests

    corrected = iter(multipletests(known, method="holm")[1])
    return [None if p is None else float(next(corrected)) for p in p_values]


def _pair(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1 or not len(a):
        raise UserError(f"a paired test needs two equally long samples, got {a.shape} and {b.shape}")
    return a, b
