"""User vectors: the user's own row, its history's share, normalisation and dropout, with recbox's arithmetic.

Histories stay ragged. recbox's padding has three effects, and only these are computed: each of the L - n padding slots
adds e^0 to an attention's denominator, the mean divides by the real slots + 1e-9, and a slot whose vector sums to
exactly 0 counts as padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mml_plugin.engine.backends.base import Backend, HistoryItems
from mml_plugin.engine.declaration import Declaration, HistoryTower

EPSILON = 1e-9


class RaggedHistories(Protocol):
    """What the tower needs of ``data.histories.Ragged``: all entries of a batch's histories, one after another.

    Attributes:
        ids: ``[n]`` row of the history table of each entry.
        row: ``[n]`` row of the batch that it belongs to.
        slot: ``[n]`` its position within that row's history.
        lengths: ``[B]`` entries of each row.
        real: ``[n]``, false for entries that fill up to a size; None where all are real.
    """

    @property
    def ids(self) -> Tensor: ...

    @property
    def row(self) -> Tensor: ...

    @property
    def slot(self) -> Tensor: ...

    @property
    def lengths(self) -> Tensor: ...

    @property
    def real(self) -> Tensor | None: ...


@dataclass(frozen=True)
class UserVectors:
    """The tower's output for one batch.

    Attributes:
        vectors: ``[B, d]``, normalised for cosine, dropped out where there is a mask.
        scale: ``[B]``, what dropout made of the constant 1 beside an item bias; None without one.
        leaves: (table, its rows, gathered vectors), where gradients arrive.
    """

    vectors: Tensor
    scale: Tensor | None
    leaves: tuple[tuple[Tensor, Tensor, Tensor], ...]


class UserTower:
    """Computes user vectors of a declared model.

    Args:
        model: its declaration.
        max_len: L of recbox's padded histories.
        dropout_first: drop out before normalising, as BSL's code does, not after.
        backend: pools attended histories where it can; None uses torch's operations.
    """

    def __init__(
        self, model: Declaration, max_len: int = 0, dropout_first: bool = False, backend: Backend | None = None
    ) -> None:
        self.model, self.max_len, self.dropout_first, self.backend = model, max_len, dropout_first, backend

    @property
    def needs_history(self) -> bool:
        """Whether the history can matter; with gamma 1 it cannot."""
        return self.model.history is not None and self.model.history.gamma != 1

    @property
    def width(self) -> int:
        """Columns that dropout acts on: d, and the constant 1 beside an item bias."""
        return self.model.user_table.shape[1] + (self.model.item_bias is not None)

    def __call__(
        self,
        ids: Tensor,
        history: RaggedHistories | None = None,
        mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        training: bool = False,
    ) -> UserVectors:
        """User vectors ``[B, d]`` of table rows ``ids[B]``.

        Args:
            ids: rows of the user table.
            history: needed where :attr:`needs_history`.
            mask: dropout factors ``[B, width]``; None drops nothing.
            attention_mask: dropout factors of the attention weights, one per history entry.
            training: whether leaves collect gradients.
        """
        dim = self.model.user_table.shape[1]
        own = self.model.user_table.detach().index_select(0, ids).requires_grad_(training)
        leaves = [(self.model.user_table, ids, own)]
        vectors = own
        if self.model.history is not None and self.needs_history:
            if history is None:
                raise ValueError("this model's user vectors need histories")
            table, distinct = self.model.history.table, self._distinct(self.model.history, history)
            rows = history.ids if distinct is None else distinct.ids
            items = table.detach().index_select(0, rows).requires_grad_(training)
            leaves.append((table, rows, items))
            vectors = self._mix(self.model.history, own, items, history, distinct, attention_mask)
        factors = None if mask is None else mask[:, :dim]
        if factors is not None and self.dropout_first:
            vectors = vectors * factors
        if self.model.similarity == "cosine":
            vectors = normalize(vectors)
        if factors is not None and not self.dropout_first:
            vectors = vectors * factors
        scale = None
        if self.model.item_bias is not None:
            scale = torch.ones(len(ids), dtype=own.dtype, device=own.device) if mask is None else mask[:, dim]
        return UserVectors(vectors, scale, tuple(leaves))

    def _distinct(self, tower: HistoryTower, history: RaggedHistories) -> HistoryItems | None:
        """Each attended item once, where the backend can attend so."""
        if self.backend is None or tower.aggregator == "mean" or history.real is not None:
            return None
        return self.backend.history_items(history.ids, len(tower.table))

    def _mix(
        self,
        tower: HistoryTower,
        own: Tensor,
        items: Tensor,
        history: RaggedHistories,
        distinct: HistoryItems | None,
        attention_mask: Tensor | None,
    ) -> Tensor:
        if tower.aggregator == "mean":
            # recbox counts in float32, where 1e-9 disappears beside a whole number.
            real = _by_row((~_padding(items, history)).float()[:, None], history.row, len(own))
            summed = items if history.real is None else items * history.real[:, None]
            pooled = _by_row(summed, history.row, len(own)) / (real + EPSILON)
        else:
            pooled = self._attend(tower, own, items, history, distinct, attention_mask)
        return tower.gamma * own + (1 - tower.gamma) * tower.value(pooled)

    def _attend(
        self,
        tower: HistoryTower,
        own: Tensor,
        items: Tensor,
        history: RaggedHistories,
        distinct: HistoryItems | None,
        mask: Tensor | None,
    ) -> Tensor:
        if tower.key is None:
            raise ValueError(f"the aggregator {tower.aggregator} needs a key")
        key = tower.key(items)
        asked = own if tower.aggregator == "user_attention" else cast(Tensor, tower.query).t().expand_as(own)
        absent = (self.max_len - history.lengths).to(items.dtype) + EPSILON
        if distinct is not None:
            return distinct.attend(items, key, asked, history.lengths, mask, absent)
        # index_select, whose gradient is added up without sorting the rows first.
        scores = (key * asked.index_select(0, history.row)).sum(dim=-1)
        raised = scores.masked_fill(_padding(items, history), 0).exp()
        if history.real is not None:
            raised = raised * history.real
        total = _by_row(raised[:, None], history.row, len(own)).squeeze(-1) + absent
        weights = raised / total.index_select(0, history.row)
        if mask is not None:
            weights = weights * mask
        return _by_row(weights[:, None] * items, history.row, len(own))


def _padding(items: Tensor, history: RaggedHistories) -> Tensor:
    """``[n]``, the entries that count as padding to recbox, and those that are no entries."""
    zero = items.detach().sum(dim=-1) == 0
    return zero if history.real is None else zero | ~history.real


def _by_row(values: Tensor, row: Tensor, rows: int) -> Tensor:
    """Sum ``values[n, d]`` by their row numbers into ``[rows, d]``."""
    return torch.zeros(rows, values.shape[1], dtype=values.dtype, device=values.device).index_add(0, row, values)
