"""The batches of an epoch: training rows in their order, negatives, dropout, histories."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mml_plugin.engine import philox
from mml_plugin.engine.backends.base import Backend
from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.sampler import NegativeSampler
from mml_plugin.engine.settings import Settings
from mml_plugin.engine.step import Batch
from mml_plugin.engine.training_data import TrainingData
from mml_plugin.engine.user_tower import RaggedHistories, UserTower


class Batches:
    """Makes batches; the same ones for the same seed and epoch, in whatever order they are asked for.

    Args:
        model: the declaration.
        tower: what the model's user vectors need.
        data: the training rows.
        settings: batch size, negatives, seed.
        backend: draws.

    Attributes:
        sampler: draws the negatives.
        max_batches: where an epoch ends early; None makes it whole. May be changed between epochs.
        history_room: how many entries the histories of a batch of the first epoch have at most; None before it began,
            and where nobody needs to know.
    """

    def __init__(
        self, model: Declaration, tower: UserTower, data: TrainingData, settings: Settings, backend: Backend
    ) -> None:
        self._model, self._tower, self._data, self._settings = model, tower, data, settings
        self._backend = backend
        self.sampler = self._sampler()
        self.max_batches = settings.max_batches
        self.history_room: int | None = None

    def _sampler(self) -> NegativeSampler:
        data, settings = self._data, self._settings
        return NegativeSampler.create(
            settings.seed,
            data.item_ids,
            self._backend,
            popularity=torch.bincount(data.items, minlength=len(data.item_ids)),
            alpha=settings.popularity_alpha,
            positives=data.positives() if settings.exclude_positives else None,
            name_of=data.name_of,
        )

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; the last one may be short."""
        whole = -(-len(self._data.users) // self._settings.batch_size)
        return min(whole, self.max_batches or whole)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, all draws made."""
        return (self.of_rows(epoch, rows, total) for rows, total in self.rows_of_epoch(epoch))

    def rows_of_epoch(self, epoch: int) -> Iterator[tuple[Tensor, int | None]]:
        """The training rows of an epoch's batches, and their histories' length where it has to be known beforehand."""
        settings, users = self._settings, self._data.users
        if settings.shuffle:
            rows = self._backend.shuffled(len(users), settings.seed, epoch, users.device)
        else:
            rows = torch.arange(len(users), device=users.device)
        parts = rows.split(settings.batch_size)[: self.per_epoch]
        yield from zip(parts, self._history_totals(rows, len(parts)))

    def _history_totals(self, rows: Tensor, batches: int) -> list[int | None]:
        """The summed length of each batch's histories, asked of a GPU once an epoch; None where nobody needs it."""
        history, size = self._data.history, self._settings.batch_size
        if not self._tower.needs_history or history is None or self._backend.may_wait(rows):
            return [None] * batches
        lengths = history.row_lengths(self._data.users[rows])
        totals = torch.stack([part.sum() for part in lengths.split(size)[:batches]]).tolist()
        if self.history_room is None:
            self.history_room = max(totals)  # few later batches have more
        return totals

    def of_rows(
        self, epoch: int | Tensor, rows: Tensor, history_total: int | None = None, history_room: int | None = None
    ) -> Batch:
        """The batch of training rows ``[B]`` in an epoch; total and room as :meth:`HistorySource.of_rows` has them."""
        data, settings = self._data, self._settings
        users = data.users.index_select(0, rows)
        positive = data.item_ids.index_select(0, data.items.index_select(0, rows))
        index = self.sampler.index(epoch, rows, users, positive, settings.num_negs)
        history = None
        if self._tower.needs_history and data.history is not None:
            history = data.history.of_rows(rows, users, history_total, history_room)
        return Batch(
            data.user_ids.index_select(0, users),
            index,
            history,
            self._mask(rows, epoch),
            None if history is None else self._attention_mask(rows, epoch, history),
        )

    def _mask(self, rows: Tensor, epoch: int | Tensor) -> Tensor | None:
        rate = self._model.user_dropout
        if not rate:
            return None
        return self._dropout(rows, self._tower.width, rate, philox.USER_DROPOUT, epoch)

    def _attention_mask(self, rows: Tensor, epoch: int | Tensor, history: RaggedHistories) -> Tensor | None:
        tower = self._model.history
        if tower is None or not tower.dropout or tower.aggregator == "mean":
            return None
        width = self._data.history.max_len if self._data.history else 0
        whole = self._dropout(rows, width, tower.dropout, philox.ATTENTION_DROPOUT, epoch)
        return whole[history.row, history.slot]

    def _dropout(self, rows: Tensor, width: int, rate: float, stream: int, epoch: int | Tensor) -> Tensor:
        seed, dtype = self._settings.seed, self._model.user_table.dtype
        return self._backend.dropout(rows, width, rate, seed=seed, stream=stream, epoch=epoch, dtype=dtype)
