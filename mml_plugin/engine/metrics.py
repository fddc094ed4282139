"""recbox's ranking metrics from hit matrices, with recbox's definitions and epsilons.

``MRR`` adds the reciprocal ranks of all hits and ``MAP`` divides by the number of hits, as recbox's do; the standard
ones are ``StandardMRR`` and ``StandardMAP``.

Every metric takes ``hits[U, k]``, bool, whether the item at each rank is relevant, best first, and ``relevant[U]``, how
many relevant items a user has; it returns ``[U]`` float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPSILON = 1e-12


def recall(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Hits over the number of relevant items."""
    return hits.sum(1) / (relevant + EPSILON)


def normalised_recall(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Hits over the smaller of k and the number of relevant items."""
    return hits.sum(1) / np.minimum(hits.shape[1], relevant + EPSILON)


def precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Hits over k."""
    return hits.sum(1) / (hits.shape[1] + EPSILON)


def f1(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Harmonic mean of precision and recall."""
    p, r = precision(hits, relevant), recall(hits, relevant)
    return 2 * p * r / (p + r + EPSILON)


def dcg(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Discounted gain with the natural logarithm."""
    return hits @ _discounts(hits.shape[1])


def ndcg(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Discounted gain over the best possible one."""
    ideal = np.concatenate([[0.0], _discounts(hits.shape[1]).cumsum()])[np.minimum(hits.shape[1], relevant)]
    return dcg(hits, relevant) / (ideal + EPSILON)


def hit_rate(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """1 where there is a hit."""
    return hits.any(1).astype(float)


def sum_of_reciprocal_ranks(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """recbox's MRR."""
    return hits @ (1 / np.arange(1, hits.shape[1] + 1))


def reciprocal_rank(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """1 over the rank of the first hit, 0 without one."""
    return np.where(hits.any(1), 1 / (hits.argmax(1) + 1), 0.0)


def average_precision_over_hits(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """recbox's MAP: precision at each hit, averaged over the hits."""
    return _precision_at_hits(hits) / (hits.sum(1) + EPSILON)


def average_precision(hits: np.ndarray, relevant: np.ndarray) -> np.ndarray:
    """Precision at each hit, over the smaller of k and the number of relevant items."""
    return _precision_at_hits(hits) / np.maximum(np.minimum(hits.shape[1], relevant), 1)


def _discounts(k: int) -> np.ndarray:
    return 1 / np.log(np.arange(k) + 2)


def _precision_at_hits(hits: np.ndarray) -> np.ndarray:
    return (hits * hits.cumsum(1) / np.arange(1, hits.shape[1] + 1)).sum(1)


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Recall": recall,
    "nRecall": normalised_recall,
    "Precision": precision,
    "F1": f1,
    "DCG": dcg,
    "NDCG": ndcg,
    "MRR": sum_of_reciprocal_ranks,
    "HitRate": hit_rate,
    "MAP": average_precision_over_hits,
    "StandardMRR": reciprocal_rank,
    "StandardMAP": average_precision,
}


def per_user(names: dict[str, tuple[str, int]], hits: np.ndarray, relevant: np.ndarray) -> dict[str, np.ndarray]:
    """Each user's metrics.

    Args:
        names: label -> (metric, k).
        hits: ``[U, K]`` booleans: whether the user's k-th recommendation is relevant; K at least every k.
        relevant: ``[U]`` how many relevant items there are, repeated ones counted again as recbox does.

    Returns:
        label -> ``[U]`` float64.
    """
    return {label: METRICS[kind](hits[:, :k], relevant) for label, (kind, k) in names.items()}
