"""Evaluation on the fast engine: the model's vectors, ranked whole."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mml_plugin.engine import ranking
from mml_plugin.engine.backends.base import Backend
from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.ranking import ItemLists
from mml_plugin.engine.training_data import TrainingData
from mml_plugin.engine.user_tower import UserTower

USER_BLOCK = 4096


class Evaluator:
    """Ranks the whole catalogue for users with something to find.

    Args:
        model: the declaration.
        module: the module that owns the model's parameters; set to ``eval()`` by whatever computes vectors.
        tower: user vectors.
        data: users, catalogue and training items.
        metrics: label -> (metric, k).
        backend: ranks.
    """

    def __init__(
        self,
        model: Declaration,
        module: nn.Module,
        tower: UserTower,
        data: TrainingData,
        metrics: Mapping[str, tuple[str, int]],
        backend: Backend,
    ) -> None:
        self._model, self._module, self._tower, self._data = model, module, tower, data
        self._metrics, self._backend = metrics, backend

    @torch.no_grad()
    def user_vectors(self, users: Tensor) -> Tensor:
        """Ranking-ready vectors of user rows ``[U]``: ``[U, d]``, the constant 1 last beside an item bias."""
        self._module.eval()
        parts = []
        for part in users.split(USER_BLOCK):
            history = self._data.history.of_users(part) if self._tower.needs_history and self._data.history else None
            made = self._tower(self._data.user_ids[part], history)
            vectors = made.vectors if made.scale is None else torch.cat([made.vectors, made.scale[:, None]], 1)
            parts.append(vectors.detach())
        return torch.cat(parts)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Ranking-ready vectors of the corpus ``[I, d]``, the item's bias last where there is one."""
        self._module.eval()
        ids, model = self._data.item_ids, self._model
        if model.item_tower is not None:
            vectors = torch.cat([model.item_tower(part) for part in ids.split(USER_BLOCK)])
        else:
            assert model.item_table is not None
            vectors = model.item_table[ids]
            if model.similarity == "cosine":
                nn.functional.normalize(vectors, out=vectors)
        return vectors if model.item_bias is None else torch.cat([vectors, model.item_bias[ids]], 1)

    def per_user_metrics(self, relevant: ItemLists, *more: ItemLists) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(user rows, metric -> values) of the users with something to find, train items and ``more`` masked."""
        users = relevant.indptr.diff().nonzero().flatten()
        depth = max(k for _, k in self._metrics.values())
        top = ranking.top_items(
            self.user_vectors(users), self.item_vectors(), depth, self._backend, users, (self._data.train, *more)
        )
        names = dict(self._metrics)
        found = ranking.per_user_metrics(top, users, relevant, len(self._data.item_ids), names)
        return users.cpu().numpy(), found

    def metrics(self, relevant: ItemLists, *more: ItemLists) -> dict[str, float]:
        """Mean metrics over those users."""
        return {name: float(values.mean()) for name, values in self.per_user_metrics(relevant, *more)[1].items()}
