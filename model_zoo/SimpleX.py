"""SimpleX (Mao et al. 2021) on recbox's pipeline, with reczoo's keys and arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mml_plugin.engine.declaration import Declaration, HistoryTower
from mml_plugin.errors import UserError, nearest
from mml_plugin.hosts import recbox

recbox.load()

from recbox.matching.pytorch.layers import EmbeddingDictLayer, EmbeddingLayer  # noqa: E402
from recbox.matching.pytorch.models import MatchingModel  # noqa: E402

AGGREGATORS = ("mean", "user_attention", "self_attention")
SIMILARITIES = ("dot", "cosine")


class SimpleX(MatchingModel):
    r"""A user is a mix of its own vector and its aggregated history: :math:`u = g e_u + (1-g) a(e_{h_1}, \dots)`.

    Args:
        feature_map: recbox's ``FeatureMap`` with user id, user history and item id columns.
        model_id: name of the checkpoint file.
        gpu: CUDA index, -1 for the CPU.
        learning_rate: of the optimizer.
        embedding_initializer: recbox's lambda string.
        embedding_dim: d.
        user_id_field, item_id_field, user_history_field: column names.
        enable_bias: append an item bias to the item vector (ranking too), add user and global bias in training.
        num_negs: N, negatives per positive.
        net_dropout: of the user vector, after normalisation (with ``enable_bias`` it also hits the constant 1).
        aggregator: ``"mean"``, ``"user_attention"`` or ``"self_attention"``.
        gamma: g in [0, 1]; at 1 the history does not matter.
        attention_dropout: of the attention weights.
        batch_norm: accepted and unused, as in reczoo's code.
        net_regularizer, embedding_regularizer: lambda of the L2 terms, split by parameter name.
        similarity_score: ``"dot"`` or ``"cosine"``.
        **kwargs: recbox's own keys.

    Raises:
        UserError: for an unknown ``aggregator`` or ``similarity_score`` (stock SimpleX accepts any string).
    """

    def __init__(
        self,
        feature_map: Any,
        model_id: str = "SimpleX",
        gpu: int = -1,
        learning_rate: float = 1e-3,
        embedding_initializer: str = "lambda w: nn.init.normal_(w, std=1e-4)",
        embedding_dim: int = 10,
        user_id_field: str = "user_id",
        item_id_field: str = "item_id",
        user_history_field: str = "user_history",
        enable_bias: bool = False,
        num_negs: int = 1,
        net_dropout: float = 0,
        aggregator: str = "mean",
        gamma: float = 0.5,
        attention_dropout: float = 0,
        batch_norm: bool = False,
        net_regularizer: float | str | None = None,
        embedding_regularizer: float | str | None = None,
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
            embedding_regularizer=embedding_regularizer,
            net_regularizer=net_regularizer,
            num_negs=num_negs,
            embedding_initializer=embedding_initializer,
            **kwargs,
        )
        self.similarity_score = similarity_score
        self.embedding_dim = embedding_dim
        self.user_id_field = user_id_field
        self.item_id_field = item_id_field
        self.user_history_field = user_history_field
        self.embedding_layer = EmbeddingDictLayer(feature_map, embedding_dim)
        self.behavior_aggregation = BehaviorAggregator(embedding_dim, gamma, aggregator, attention_dropout)
        self.enable_bias = enable_bias
        if enable_bias:
            # The order fixes the random draws: user bias, item bias.
            self.user_bias = self._bias_table(feature_map, user_id_field)
            self.item_bias = self._bias_table(feature_map, item_id_field)
            self.global_bias = nn.Parameter(torch.zeros(1))
        self.dropout = nn.Dropout(net_dropout)
        self.compile(lr=learning_rate, **kwargs)

    @staticmethod
    def _bias_table(feature_map: Any, field: str) -> EmbeddingLayer:
        return EmbeddingLayer(feature_map, 1, disable_sharing_pretrain=True, required_feature_columns=[field])

    def declare(self) -> Declaration:
        """What the fast engine needs to know."""
        tables = self.embedding_layer.embedding_layers
        bias = {"user": None, "item": None, "global": None}
        if self.enable_bias:
            bias = {
                "user": self.user_bias.embedding_layer.embedding_layers[self.user_id_field].weight,
                "item": self.item_bias.embedding_layer.embedding_layers[self.item_id_field].weight,
                "global": self.global_bias,
            }
        return Declaration(
            user_table=tables[self.user_id_field].weight,
            item_table=tables[self.item_id_field].weight,
            similarity=self.similarity_score,
            user_dropout=self.dropout.p,
            history=self.behavior_aggregation.declare(tables[self.user_history_field].weight),
            user_bias=bias["user"],
            item_bias=bias["item"],
            global_bias=bias["global"],
        )

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Score a batch.

        Args:
            inputs: user columns (history ``[B, L]``), item columns of ``B * (1+N)`` items, labels ``[B, 1+N]``.

        Returns:
            ``loss`` (regulariser included) and ``y_pred[B, 1+N]``.
        """
        users, items, labels = inputs[:3]
        user_vecs = self.dropout(self.user_tower(users))
        item_vecs = self.item_tower(items).view(len(user_vecs), self.num_negs + 1, -1)
        y_pred = torch.bmm(item_vecs, user_vecs.unsqueeze(-1)).squeeze(-1)
        if self.enable_bias:
            y_pred = y_pred + (self.user_bias(self.to_device(users)) + self.global_bias)
        return {"loss": self.get_total_loss(y_pred, labels), "y_pred": y_pred}

    def user_tower(self, inputs: dict[str, Tensor]) -> Tensor:
        """User vectors ``[B, d]`` (``[B, d+1]`` with bias: the constant 1 last), ready for ranking."""
        vectors = self.embedding_layer(self.to_device(inputs), feature_source="user")
        user = self.behavior_aggregation(vectors[self.user_id_field], vectors[self.user_history_field])
        if self.similarity_score == "cosine":
            user = normalize(user)
        if self.enable_bias:
            user = torch.cat([user, torch.ones_like(user[:, :1])], dim=-1)
        return user

    def item_tower(self, inputs: dict[str, Tensor]) -> Tensor:
        """Item vectors ``[B * (1+N), d]`` (``d+1`` with bias: the item's bias last), ready for ranking."""
        columns = self.to_device(inputs)
        item = self.embedding_layer.dict2tensor(self.embedding_layer(columns, feature_source="item"))
        if self.similarity_score == "cosine":
            item = normalize(item)
        if self.enable_bias:
            item = torch.cat([item, self.item_bias(columns)], dim=-1)
        return item


class BehaviorAggregator(nn.Module):
    r"""The history's part of the user vector.

    ``mean``: the average of the history's vectors. The attentions weigh them by
    :math:`e^{q_j} / (\sum_l e^{q_l} + 10^{-9})`, with :math:`q_j` the product of ``tanh(W_k h_j)`` with the user's own
    vector (``user_attention``) or a learned one (``self_attention``). A slot whose vector sums to exactly 0 counts as
    padding: it is left out of the mean, and has q = 0 in the attentions, so padding weakens the attended vector.

    Args:
        embedding_dim: d.
        gamma: share of the user's own vector.
        aggregator: one of the three.
        dropout_rate: of the attention weights.
    """

    def __init__(
        self, embedding_dim: int, gamma: float = 0.5, aggregator: str = "mean", dropout_rate: float = 0.0
    ) -> None:
        super().__init__()
        if aggregator not in AGGREGATORS:
            raise UserError(f"aggregator: {aggregator!r} is unknown; {nearest(str(aggregator), AGGREGATORS)}")
        self.aggregator = aggregator
        self.gamma = gamma
        self.W_v = nn.Linear(embedding_dim, embedding_dim, bias=False)
        if aggregator == "mean":
            return
        self.W_k = nn.Sequential(nn.Linear(embedding_dim, embedding_dim), nn.Tanh())
        self.dropout = nn.Dropout(dropout_rate) if dropout_rate > 0 else None
        if aggregator == "self_attention":
            self.W_q = nn.Parameter(torch.empty(embedding_dim, 1))
            nn.init.xavier_normal_(self.W_q)

    def declare(self, table: nn.Parameter) -> HistoryTower:
        """What the fast engine needs to know, the history's vectors being in ``table``."""
        attends = self.aggregator != "mean"
        return HistoryTower(
            table=table,
            value=self.W_v,
            gamma=self.gamma,
            aggregator=self.aggregator,
            key=self.W_k if attends else None,
            query=self.W_q if self.aggregator == "self_attention" else None,
            dropout=self.dropout.p if attends and self.dropout is not None else 0.0,
        )

    def forward(self, user: Tensor, history: Tensor) -> Tensor:
        """Mix ``user[B, d]`` with its aggregated ``history[B, L, d]``; returns ``[B, d]``."""
        padding = history.sum(dim=-1) == 0
        pooled = self._mean(history, padding) if self.aggregator == "mean" else self._attend(user, history, padding)
        return self.gamma * user + (1 - self.gamma) * self.W_v(pooled)

    def _mean(self, history: Tensor, padding: Tensor) -> Tensor:
        return history.sum(dim=1) / ((~padding).float().sum(dim=-1, keepdim=True) + 1e-9)

    def _attend(self, user: Tensor, history: Tensor, padding: Tensor) -> Tensor:
        key = self.W_k(history)
        if self.aggregator == "user_attention":
            scores = torch.bmm(key, user.unsqueeze(-1)).squeeze(-1)
        else:
            scores = torch.matmul(key, self.W_q).squeeze(-1)
        raised = scores.masked_fill(padding, 0).exp()
        weights = raised / (raised.sum(dim=1, keepdim=True) + 1e-9)
        if self.dropout is not None:
            weights = self.dropout(weights)
        return torch.bmm(weights.unsqueeze(1), history).squeeze(1)
