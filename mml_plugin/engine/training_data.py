"""What the fast engine trains on: interactions, tables' rows, what is masked and what is looked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mml_plugin.engine.backends.base import Positives
from mml_plugin.engine.ranking import ItemLists
from mml_plugin.engine.user_tower import RaggedHistories


class HistorySource(Protocol):
    """What the engine needs of ``data.histories.Histories``.

    Attributes:
        max_len: the longest padded history.
    """

    max_len: int

    def of_rows(
        self, rows: Tensor, users: Tensor, total: int | None = None, room: int | None = None
    ) -> RaggedHistories: ...

    def row_lengths(self, users: Tensor) -> Tensor: ...

    def of_users(self, users: Tensor) -> RaggedHistories: ...


@dataclass(frozen=True)
class TrainingData:
    """What a training reads; int64 tensors on the training's device.

    Attributes:
        users, items: ``[n]`` user row and corpus row of each training row.
        user_ids: ``[U]`` user row -> row of the user table.
        item_ids: ``[I]`` corpus row -> row of the item table.
        train: training items per user row, masked in every ranking.
        valid: the items that the monitor looks for.
        history: histories, for models that read them.
        name_of: what messages call a user row.
    """

    users: Tensor
    items: Tensor
    user_ids: Tensor
    item_ids: Tensor
    train: ItemLists
    valid: ItemLists
    history: HistorySource | None = None
    name_of: Callable[[int], str] = "user row {}".format

    def positives(self) -> Positives:
        """Sorted distinct training items per user."""
        codes = torch.unique(self.train.codes(len(self.item_ids)))
        users = torch.div(codes, len(self.item_ids), rounding_mode="floor")
        counts = torch.bincount(users, minlength=len(self.user_ids))
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Positives(indptr, codes - users * len(self.item_ids))
