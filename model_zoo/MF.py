"""Matrix factorisation on recbox's pipeline, with reczoo's keys and arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mml_plugin.engine.declaration import Declaration
from mml_plugin.errors import UserError, nearest
from mml_plugin.hosts import recbox

recbox.load()

from recbox.matching.pytorch.layers import EmbeddingLayer  # noqa: E402
from recbox.matching.pytorch.models import MatchingModel  # noqa: E402

SIMILARITIES = ("dot", "cosine", "sigmoid")


class MF(MatchingModel):
    r"""One vector per user and item: :math:`s(u, i) = \langle e_u, e_i \rangle` of the (normalised) vectors.

    The dropout acts on the user vector only, after normalisation, as in reczoo's SimpleX code: a cosine can
    exceed 1 in training. ``sigmoid`` squashes scores in training only; ranking uses the raw inner product.

    Args:
        feature_map: recbox's ``FeatureMap``; one ``user`` and one ``item`` column.
        model_id: name of the checkpoint file.
        gpu: CUDA index, -1 for the CPU.
        learning_rate: of the optimizer.
        embedding_initializer: recbox's lambda string.
        embedding_dim: d.
        num_negs: N, negatives per positive.
        regularizer: lambda of the whole-table L2 term.
        embedding_dropout: of the user vector.
        similarity_score: ``"dot"``, ``"cosine"`` or ``"sigmoid"``.
        **kwargs: recbox's own keys (``loss``, ``optimizer``, ``metrics``, ``model_root``, ...).

    Raises:
        UserError: for an unknown ``similarity_score``.
    """

    def __init__(
        self,
        feature_map: Any,
        model_id: str = "MF",
        gpu: int = -1,
        learning_rate: float = 1e-3,
        embedding_initializer: str = "lambda w: nn.init.normal_(w, std=1e-4)",
        embedding_dim: int = 10,
        num_negs: int = 1,
        regularizer: float | str | None = None,
        embedding_dropout: float = 0,
        similarity_score: str = "dot",
        **kwargs: Any,
    ) -> None:
        if similarity_score not in SIMILARITIES:
            raise UserError(
                f"similarity_score: {similarity_score!r} is unknown; {nearest(similarity_score, SIMILARITIES)}"
            )
        super().__init__(
            feature_map,
            model_id=model_id,
            gpu=gpu,
            embedding_regularizer=regularizer,
            num_negs=num_negs,
            embedding_initializer=embedding_initializer,
            **kwargs,
        )
        self.similarity_score = similarity_score
        self.embedding_dim = embedding_dim
        self.embedding_layer = EmbeddingLayer(feature_map, embedding_dim)
        self.dropout = nn.Dropout(embedding_dropout)
        self.compile(lr=learning_rate, **kwargs)

    def declare(self) -> Declaration:
        """What the fast engine needs to know."""
        return Declaration(
            user_table=self._table("user"),
            item_table=self._table("item"),
            similarity=self.similarity_score,
            user_dropout=self.dropout.p,
        )

    def _table(self, source: str) -> nn.Parameter:
        specs = self.feature_map.feature_specs
        (name,) = [n for n, spec in specs.items() if spec["source"] == source and spec["type"] == "categorical"]
        return self.embedding_layer.embedding_layer.embedding_layers[name].weight

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            inputs: user columns, item columns of ``B * (1+N)`` items, labels ``[B, 1+N]``.

        Returns:
            ``loss`` (regulariser included) and ``y_pred[B, 1+N]``.
        """
        users, items, labels = inputs[:3]
        user_vecs = self.dropout(self.user_tower(users))
        item_vecs = self.item_tower(items).view(len(user_vecs), self.num_negs + 1, -1)
        y_pred = torch.bmm(item_vecs, user_vecs.unsqueeze(-1)).squeeze(-1)
        if self.similarity_score == "sigmoid":
            y_pred = y_pred.sigmoid()
        return {"loss": self.get_total_loss(y_pred, labels), "y_pred": y_pred}

    def user_tower(self, inputs: dict[str, Tensor]) -> Tensor:
        """User vectors ``[B, d]``, ready for ranking."""
        return self._vectors(inputs, "user")

    def item_tower(self, inputs: dict[str, Tensor]) -> Tensor:
        """Item vectors ``[B * (1+N), d]``, ready for ranking."""
        return self._vectors(inputs, "item")

    def _vectors(self, inputs: dict[str, Tensor], side: str) -> Tensor:
        vectors = self.embedding_layer(self.to_device(inputs), feature_source=side)
        return normalize(vectors) if self.similarity_score == "cosine" else vectors
