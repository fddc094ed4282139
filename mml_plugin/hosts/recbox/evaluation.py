"""recbox's evaluation of a trained model: vectors, metrics, and each user's own metrics."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch


def with_mask(train_gen: Any, *others: Any) -> Any:
    """Something that ``MatchingModel.evaluate`` takes for a train generator, masking the others' items too."""
    merged: dict[int, list[int]] = {}
    for generator in (train_gen, *others):
        for query, items in generator.user2items_dict.items():
            merged.setdefault(query, []).extend(items)
    # recbox looks up users without a training row as well.
    return SimpleNamespace(user2items_dict=_Lookup(merged))


class _Lookup(dict):
    def __missing__(self, key: int) -> list[int]:
        return []


def vectors(model: Any, generator: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranking-ready vectors as recbox's evaluation makes them.

    Args:
        model: a trained ``MatchingModel``.
        generator: a ``TestGenerator``.

    Returns:
        query indexes ``[U]``, user vectors ``[U, d]``, item vectors ``[I, d]`` in corpus order, float32.
    """
    model.eval()
    with torch.no_grad():
        users = [model.user_tower(batch).cpu().numpy() for batch in generator.user_loader]
        items = [model.item_tower(batch).cpu().numpy() for batch in generator.item_loader]
    return np.asarray(generator.query_indexes), np.concatenate(users), np.concatenate(items)


def per_user_metrics(model: Any, masked: Any, generator: Any) -> dict[str, np.ndarray]:
    """Each evaluated user's metrics, by recbox's own ranking and formulas.

    Returns:
        metric name -> ``[U]``, rows as ``generator.query_indexes``; their means are recbox's numbers.
    """
    from recbox.core import metrics as recbox_metrics

    from mml_plugin.hosts.recbox.allowed import parse_metric

    names = list(model._validation_metrics)
    parsed = [parse_metric(name) for name in names]
    functions = [getattr(recbox_metrics, kind)(k=k) for kind, k in parsed]
    queries, users, items = vectors(model, generator)
    index = recbox_metrics.FaissIndex(items.astype(np.float64), dim=items.shape[-1])
    depth = max(k for _, k in parsed)
    rows: list[Any] = []
    for start in range(0, len(users), 1000):
        stop = start + 1000
        rows += recbox_metrics.evaluate_block(
            users[start:stop].astype(np.float64),
            index,
            queries[start:stop],
            masked.user2items_dict,
            generator.user2items_dict,
            functions,
            depth,
        )
    table = np.asarray(rows, dtype=np.float64).reshape(len(users), len(names))
    return {name: table[:, column] for column, name in enumerate(names)}


def means(per_user: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The metrics over all users."""
    return {name: float(values.mean()) for name, values in per_user.items()}
