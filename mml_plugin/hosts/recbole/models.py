"""MF and SimpleX as RecBole models: several negatives per positive, drawn on the device, and any of our losses.

RecBole's own sampler is left out (``run`` sets it to none): it would tile users and negatives in another order than one
expects, count negatives into the batch size, and draw them in Python. Arithmetic, initialisation and regulariser are
recbox's; ids are RecBole's, where 0 is padding.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType
from torch import Tensor, nn
from torch.nn.functional import normalize

from mml_plugin.errors import UserError, nearest
from mml_plugin.hosts.recbole.histories import TrainingHistories
from mml_plugin.registry import get_spec, params_from_config

SIMILARITIES = ("cosine", "dot")
AGGREGATORS = ("mean", "user_attention", "self_attention")


class Keys:
    """RecBole's configuration, read with defaults and checks; RecBole itself lets every key pass."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def number(self, key: str, default: float | None, low: float, high: float = float("inf")) -> float:
        """A number in [low, high]."""
        value = self.config[key]
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise UserError(f"{key} must be a number from {low:g} to {high:g}, got {value!r}")
        return value

    def count(self, key: str, default: int | None) -> int:
        """A whole number of at least 1."""
        value = self.config[key]
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{key} must be a whole number of at least 1, got {value!r}")
        return value

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of ``allowed``, the first by default."""
        value = self.config[key]
        value = allowed[0] if value is None else value
        if value not in allowed:
            raise UserError(f"{key}: {value!r} is unknown; {nearest(str(value), allowed)}")
        return value


def squares(parameters: list[Tensor]) -> Tensor:
    """Half the sum of all squares."""
    return 0.5 * torch.stack([p.square().sum() for p in parameters]).sum()


class SampledMF(GeneralRecommender):
    """Matrix factorisation.

    Keys of RecBole's configuration: ``loss`` and its parameters (``mml losses`` lists them), ``num_negs``,
    ``embedding_size`` (64), ``similarity_score`` (cosine, or dot), ``dropout_prob`` (0; of the user vector, after
    normalisation), ``regularizer`` (0; lambda of (lambda/2)*sum(W^2) over whole tables), ``init_std`` (1e-4).

    Raises:
        UserError: for a missing or wrong key.
    """

    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys = Keys(config)
        if config["loss"] is None:
            raise UserError("the configuration has no loss; set for example loss: MultiMarginLoss (see mml losses)")
        self.loss = get_spec(config["loss"]).cls(**params_from_config(config["loss"], config.final_config_dict))
        self.num_negs = keys.count("num_negs", None)
        self.cosine = keys.choice("similarity_score", SIMILARITIES) == "cosine"
        self.regularizer = keys.number("regularizer", 0.0, 0.0)
        size = keys.count("embedding_size", 64)
        self.user_table = nn.Embedding(self.n_users, size, padding_idx=0)
        self.item_table = nn.Embedding(self.n_items, size, padding_idx=0)
        self.dropout = nn.Dropout(keys.number("dropout_prob", 0.0, 0.0, 0.99))
        self.init_std = keys.number("init_std", 1e-4, 0.0)
        self.initialise()

    def initialise(self) -> None:
        """recbox's default: normal with a small deviation, padding 0."""
        for table in self.tables():
            nn.init.normal_(table, std=self.init_std)
            with torch.no_grad():
                table[0] = 0

    def tables(self) -> list[Tensor]:
        """The embedding tables, a shared one once."""
        return [self.user_table.weight, self.item_table.weight]

    def user_vectors(self, users: Tensor, targets: Tensor | None = None) -> Tensor:
        """``[B, d]`` ready for an inner product; ``targets`` are the training rows' positives."""
        vectors = self.user_table(users)
        return normalize(vectors) if self.cosine else vectors

    def item_vectors(self, items: Tensor | None = None) -> Tensor:
        """Vectors of ``items`` (any shape), or of the whole catalogue."""
        vectors = self.item_table.weight if items is None else self.item_table(items)
        return normalize(vectors, dim=-1) if self.cosine else vectors

    def penalty(self) -> Tensor:
        """The regulariser over whole tables."""
        return self.regularizer * squares(self.tables())

    def calculate_loss(self, interaction: Any) -> Tensor:
        """The loss of a batch of positives, each with ``num_negs`` fresh negatives (uniform, with replacement)."""
        users, positives = interaction[self.USER_ID], interaction[self.ITEM_ID]
        negatives = torch.randint(1, self.n_items, (len(users), self.num_negs), device=users.device)
        items = self.item_vectors(torch.cat([positives[:, None], negatives], dim=1))
        vectors = self.dropout(self.user_vectors(users, positives))
        y_pred = torch.bmm(items, vectors.unsqueeze(-1)).squeeze(-1)
        y_true = torch.zeros_like(y_pred)
        y_true[:, 0] = 1
        return self.loss(y_pred, y_true, users=users) + self.penalty()

    def predict(self, interaction: Any) -> Tensor:
        """``[B]`` scores of user-item pairs."""
        users = self.user_vectors(interaction[self.USER_ID])
        return (users * self.item_vectors(interaction[self.ITEM_ID])).sum(dim=-1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """``[B, n_items]`` scores of the whole catalogue (RecBole masks column 0 and the training items)."""
        return self.user_vectors(interaction[self.USER_ID]) @ self.item_vectors().T


class SampledSimpleX(SampledMF):
    """SimpleX: a user is a mix of its own vector and its aggregated history (without the target, in training).

    Keys besides MF's: ``gamma`` (0.5; share of the own vector), ``aggregator`` (mean, user_attention, self_attention),
    ``history_len`` (the longest; the last so many items), ``share_embedding`` (True; one table for items and
    histories), ``net_regularizer`` (0). The attention is recbox's: every padding slot up to ``history_len`` weighs e^0.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        keys = Keys(config)
        if config["enable_bias"]:
            raise UserError("enable_bias is not available in the RecBole host; the recbox and fast engines have it")
        self.gamma = keys.number("gamma", 0.5, 0.0, 1.0)
        self.aggregator = keys.choice("aggregator", AGGREGATORS)
        self.net_regularizer = keys.number("net_regularizer", 0.0, 0.0)
        longest = None if config["history_len"] is None else keys.count("history_len", None)
        self.histories = TrainingHistories(
            dataset.inter_feat[self.USER_ID], dataset.inter_feat[self.ITEM_ID], self.n_users, longest
        )
        size = self.item_table.embedding_dim
        shared = config["share_embedding"] is None or bool(config["share_embedding"])
        self.history_table = self.item_table if shared else nn.Embedding(self.n_items, size, padding_idx=0)
        self.W_v = nn.Linear(size, size, bias=False)
        self.W_k = nn.Sequential(nn.Linear(size, size), nn.Tanh()) if self.aggregator != "mean" else None
        self.W_q = nn.Linear(size, 1, bias=False) if self.aggregator == "self_attention" else None
        self.initialise()

    def initialise(self) -> None:
        """As MF's; linear layers Xavier normal with bias 0."""
        super().initialise()
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_normal_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def tables(self) -> list[Tensor]:
        history = getattr(self, "history_table", self.item_table)
        return super().tables() + ([] if history is self.item_table else [history.weight])

    def user_vectors(self, users: Tensor, targets: Tensor | None = None) -> Tensor:
        own = self.user_table(users)
        vectors = (
            own
            if self.gamma == 1
            else self.gamma * own + (1 - self.gamma) * self.W_v(self._pooled(users, own, targets))
        )
        return normalize(vectors) if self.cosine else vectors

    def _pooled(self, users: Tensor, own: Tensor, targets: Tensor | None) -> Tensor:
        """The history's weighted mean, ``[B, d]``."""
        items, real = self.histories.of(users, targets)
        vectors = self.history_table(items)
        if self.W_k is None:
            weights = real / (real.sum(dim=1, keepdim=True) + 1e-9)
        else:
            keys = self.W_k(vectors)
            scores = torch.einsum("bld,bd->bl", keys, own) if self.W_q is None else self.W_q(keys).squeeze(-1)
            raised = scores.exp() * real
            padding = self.histories.length - real.sum(dim=1, keepdim=True)
            weights = raised / (raised.sum(dim=1, keepdim=True) + padding + 1e-9)
        return torch.einsum("bl,bld->bd", weights, vectors)

    def penalty(self) -> Tensor:
        tables = {id(table) for table in self.tables()}
        others = [p for p in self.parameters() if id(p) not in tables]
        return super().penalty() + self.net_regularizer * squares(others)
