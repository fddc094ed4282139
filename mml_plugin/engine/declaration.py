"""What a model tells the fast engine about how it computes; the engine looks at nothing else of it.

Its module is asked for parameters, state and training mode, as any module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class HistoryTower:
    """How a user's history joins the user vector: ``gamma * own + (1 - gamma) * value(pooled history)``.

    Attributes:
        table: ``[H, d]`` vectors of history items; may be the item table itself.
        value: W_v, applied to the pooled history.
        gamma: share of the user's own vector.
        aggregator: ``"mean"``, ``"user_attention"`` or ``"self_attention"``.
        key: W_k with its tanh, for the attentions; each item's key depends on its vector alone and is drawn from no
            random number, as it may be computed once for all histories of a batch.
        query: W_q ``[d, 1]``, for ``self_attention``.
        dropout: of the attention weights.
    """

    table: nn.Parameter
    value: nn.Module
    gamma: float
    aggregator: str
    key: nn.Module | None = None
    query: Tensor | None = None
    dropout: float = 0.0


@dataclass(frozen=True)
class Declaration:
    """A two-tower model as the engine sees it.

    Attributes:
        user_table: ``[U, d]``.
        item_table: ``[I, d]``; None when ``item_tower`` is given.
        similarity: ``"dot"``, ``"cosine"`` (both vectors normalised) or ``"sigmoid"`` (of the dot product, in
            training only).
        user_dropout: of the user vector, after normalisation (before it with ``dropout_position: before_normalize``).
        history: the user's history, if it has a part.
        user_bias, item_bias: ``[U, 1]`` and ``[I, 1]`` tables. The item's is appended to the item vector (ranking
            too), against a constant 1 that dropout hits as well; the user's is added in training.
        global_bias: ``[1]``, added in training.
        item_tower: any other way from item ids ``[n]`` to ranking-ready vectors ``[n, d]``, differentiable; the item
            bias is appended to them as to a table's. Its module is in training mode for training alone. It must draw
            no random number that a resumed run would have to repeat.

    Raises:
        ValueError: for both or none of ``item_table`` and ``item_tower``, and for another similarity.
    """

    user_table: nn.Parameter
    item_table: nn.Parameter | None
    similarity: str
    user_dropout: float = 0.0
    history: HistoryTower | None = None
    user_bias: nn.Parameter | None = None
    item_bias: nn.Parameter | None = None
    global_bias: nn.Parameter | None = None
    item_tower: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        if (self.item_table is None) == (self.item_tower is None):
            raise ValueError("a model declares either an item_table or an item_tower")
        if self.similarity not in ("dot", "cosine", "sigmoid"):
            raise ValueError(f"similarity must be dot, cosine or sigmoid, got {self.similarity!r}")
