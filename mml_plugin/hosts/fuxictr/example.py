"""A minimal FuxiCTR model for our losses: cosine MF, a loader of one positive and N negatives, full ranking."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.models import BaseModel
from torch import Tensor, nn
from torch.nn.functional import normalize

from mml_plugin.data.interactions import Interactions
from mml_plugin.hosts.recbox.allowed import parse_metric


def feature_map(data: Interactions, dataset_id: str, folder: str | Path) -> FeatureMap:
    """A FuxiCTR feature map with a user, an item and a label, for row numbers as ids."""
    made = FeatureMap(dataset_id, str(folder))
    made.labels = ["label"]
    made.features["user_id"] = {"source": "user", "type": "categorical", "vocab_size": data.num_users}
    made.features["item_id"] = {"source": "item", "type": "categorical", "vocab_size": data.num_items}
    made.num_fields = 2
    return made


class SampledLoader:
    """Batches of training rows with uniformly drawn negatives: ``user_id[B]``, ``item_id[B, 1+N]``, ``label[B]``.

    Args:
        data: the interactions.
        num_negs: N.
        batch_size: B; the last batch may be smaller.
        seed: of order and negatives; each epoch draws anew.
    """

    def __init__(self, data: Interactions, num_negs: int, batch_size: int, seed: int) -> None:
        self.data, self.num_negs, self.batch_size = data, num_negs, batch_size
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.data.train_items) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        order = self._rng.permutation(len(self.data.train_items))
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            negatives = self._rng.integers(0, self.data.num_items, size=(len(rows), self.num_negs))
            items = np.concatenate([self.data.train_items[rows, None], negatives], axis=1)
            yield {
                "user_id": torch.from_numpy(self.data.train_users[rows]),
                "item_id": torch.from_numpy(items),
                "label": torch.ones(len(rows)),
            }


class CosineMF(BaseModel):
    """Matrix factorisation with cosine scores ``[B, 1+N]`` as a FuxiCTR model.

    Args:
        feature_map: from :func:`feature_map`.
        model_id, gpu, optimizer, loss, learning_rate, embedding_dim: as FuxiCTR's models take them.
        **kwargs: FuxiCTR's own keys and the loss's (``margins``, ``margin_weights``, ``neg_weight``, ...).
    """

    def __init__(
        self,
        feature_map: FeatureMap,
        model_id: str = "CosineMF",
        gpu: int = -1,
        optimizer: str = "adam",
        loss: str = "MultiMarginLoss",
        learning_rate: float = 1e-3,
        embedding_dim: int = 64,
        **kwargs: Any,
    ) -> None:
        super().__init__(feature_map, model_id=model_id, gpu=gpu, **kwargs)
        self.users = nn.Embedding(feature_map.features["user_id"]["vocab_size"], embedding_dim)
        self.items = nn.Embedding(feature_map.features["item_id"]["vocab_size"], embedding_dim)
        self.compile(optimizer, loss, learning_rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cosine scores ``y_pred[B, 1+N]`` of a :class:`SampledLoader` batch."""
        columns = self.get_inputs(inputs)
        users, items = normalize(self.users(columns["user_id"])), normalize(self.items(columns["item_id"]), dim=-1)
        return {"y_pred": torch.einsum("bd,bnd->bn", users, items)}

    def evaluate(self, data_generator: Interactions, metrics: list[str] | None = None) -> dict[str, float]:
        """Rank the whole catalogue for every test user, train items masked (Recall and NDCG).

        Args:
            data_generator: the interactions.
            metrics: such as ``"Recall(k=20)"``; default the configured ones.

        Raises:
            UserError: for another metric.
        """
        names = list(metrics or self.validation_metrics)
        parsed = [parse_metric(name, ("Recall", "NDCG")) for name in names]
        self.eval()
        with torch.no_grad():
            scores = normalize(self.users.weight) @ normalize(self.items.weight).T
        data = data_generator
        scores[data.train_users, data.train_items] = -torch.inf
        best = scores.topk(min(max(k for _, k in parsed), scores.size(1)), dim=1)
        # Where fewer items are left than asked for, the rest of the list is none.
        top = best.indices.masked_fill(best.values == -torch.inf, -1).cpu().numpy()
        values = [
            np.mean([_metric(kind, k, top[u], _test(data, u)) for u in np.unique(data.test_users)])
            for kind, k in parsed
        ]
        logs = {name: float(value) for name, value in zip(names, values)}
        logging.info("[Metrics] %s", " - ".join(f"{name}: {value:.6f}" for name, value in logs.items()))
        return logs


def _test(data: Interactions, user: int) -> np.ndarray:
    return data.test_items[data.test_indptr[user] : data.test_indptr[user + 1]]


def _metric(kind: str, k: int, ranked: np.ndarray, wanted: np.ndarray) -> float:
    hits = np.isin(ranked[:k], wanted)
    if kind == "Recall":
        return float(hits.sum() / len(wanted))
    discount = 1 / np.log2(np.arange(k) + 2)
    return float((hits * discount[: len(hits)]).sum() / discount[: min(k, len(wanted))].sum())
