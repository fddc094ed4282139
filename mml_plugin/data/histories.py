"""Ragged histories: what recbox pads to L slots, as flat ids with a row number each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mml_plugin.data.interactions import Interactions
from mml_plugin.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Ragged:
    """The histories of B rows.

    Attributes:
        ids: ``[n]`` rows of the history table, row after row, in file order.
        row: ``[n]`` which of the B rows each belongs to.
        slot: ``[n]`` position within its row.
        lengths: ``[B]``.
        real: ``[n]``, false for entries that are there to make n what was asked for; None where all are real.
    """

    ids: Tensor
    row: Tensor
    slot: Tensor
    lengths: Tensor
    real: Tensor | None = None


class Histories:
    """The training histories of a data set.

    A training row's history is the user's items without the first occurrence of the target; a user's own is all of
    them. Either keeps the last ``max_len`` (the first, with padding ``"post"``).

    Args:
        data: training interactions.
        vocabulary: with a history table.
        device: where the arrays live.
    """

    def __init__(self, data: Interactions, vocabulary: Vocabulary, device: torch.device) -> None:
        if vocabulary.history is None:
            raise ValueError("the vocabulary has no history")
        self.max_len, self._keep_last = vocabulary.max_len, vocabulary.padding == "pre"
        self._begin = torch.from_numpy(data.train_indptr).to(device)
        self._ids = torch.from_numpy(vocabulary.history.ids[data.train_items]).to(device)
        self._target = torch.from_numpy(first_occurrences(data)).to(device)

    def of_rows(self, rows: Tensor, users: Tensor, total: int | None = None, room: int | None = None) -> Ragged:
        """The histories of training rows ``[B]`` of user rows ``[B]``.

        ``total`` is the sum of their lengths; without it, and without ``room``, the host waits for a GPU's. ``room``,
        at least that sum, is how many entries there are to be whatever it is; the last ones are not ``real``.
        """
        available = self._begin[users + 1] - self._begin[users] - 1
        target = self._target[rows]
        return (
            self._cut(users, available, target, total) if room is None else self._fill(users, available, target, room)
        )

    def row_lengths(self, users: Tensor) -> Tensor:
        """How long the history of a training row of each of these user rows is."""
        return (self._begin[users + 1] - self._begin[users] - 1).clamp(0, self.max_len)

    def of_users(self, users: Tensor) -> Ragged:
        """The whole histories of user rows ``[B]``."""
        return self._cut(users, self._begin[users + 1] - self._begin[users], None)

    def _cut(self, users: Tensor, available: Tensor, target: Tensor | None, total: int | None = None) -> Ragged:
        lengths = available.clamp(0, self.max_len)
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), lengths, output_size=total)
        slot = torch.arange(len(row), device=users.device) - (lengths.cumsum(0) - lengths)[row]
        return Ragged(self._ids[self._places(users, available, lengths, target, row, slot)], row, slot, lengths)

    def _fill(self, users: Tensor, available: Tensor, target: Tensor, room: int) -> Ragged:
        lengths = available.clamp(0, self.max_len)
        ends, number = lengths.cumsum(0), torch.arange(room, device=users.device)
        real = number < ends[-1]
        # What fills up is of all rows and items in turn: thousands of entries of one would be added one after another.
        row = torch.where(real, torch.searchsorted(ends, number, right=True), number % len(users))
        slot = (number - (ends - lengths)[row]) * real
        places = self._places(users, available, lengths, target, row, slot)
        places = torch.where(real, places, number % len(self._ids))
        return Ragged(self._ids[places], row, slot, lengths, real)

    def _places(
        self, users: Tensor, available: Tensor, lengths: Tensor, target: Tensor | None, row: Tensor, slot: Tensor
    ) -> Tensor:
        """Where among all training items each entry stands."""
        position = slot + (available - lengths)[row] if self._keep_last else slot
        if target is not None:
            position = position + (position >= target[row])
        return self._begin[users][row] + position


def first_occurrences(data: Interactions) -> np.ndarray:
    """For each training row, where its item first occurs in its user's list ``[N]``."""
    users, items = data.train_users, data.train_items
    code = users * data.num_items + items
    order = np.argsort(code, kind="stable")
    ordered = code[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    first = np.empty(len(code), np.int64)
    first[order] = np.repeat(order[starts], np.diff(np.append(starts, len(code))))
    return first - data.train_indptr[users]
