"""Exact full ranking: every corpus item scored for every user, items to leave out masked, ties by lowest corpus row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from mml_plugin.engine import metrics
from mml_plugin.engine.backends.base import Backend
from mml_plugin.engine.backends.reference import contains

# Scores held at once. A GPU is only busy with large blocks; a CPU's caches are small.
BLOCK_FLOATS, BLOCK_USERS = 1 << 22, 1024
GPU_BLOCK_FLOATS, GPU_BLOCK_USERS = 1 << 26, 8192
# Users whose metrics are computed at once: float64 intermediates of all users would be the peak of a training's memory.
METRIC_USERS = 8192


@dataclass(frozen=True)
class ItemLists:
    """Corpus rows per user row: ``items[indptr[u]:indptr[u+1]]``.

    Attributes:
        indptr: ``[U+1]`` int64.
        items: ``[n]`` int64, of each user in any order.
    """

    indptr: Tensor
    items: Tensor

    @classmethod
    def of(cls, indptr: np.ndarray, items: np.ndarray, device: torch.device) -> ItemLists:
        """From arrays ``[U+1]`` and ``[n]`` of integers, on the device."""
        return cls(*(torch.from_numpy(np.ascontiguousarray(a, np.int64)).to(device) for a in (indptr, items)))

    def pairs(self, users: Tensor) -> tuple[Tensor, Tensor]:
        """(position in ``users``, corpus row) of every entry of those users."""
        lengths = self.indptr[users + 1] - self.indptr[users]
        row = torch.repeat_interleave(torch.arange(len(users), device=users.device), lengths)
        offset = torch.arange(len(row), device=users.device) - (lengths.cumsum(0) - lengths)[row]
        return row, self.items[self.indptr[users][row] + offset]

    @cached_property
    def ascending(self) -> Tensor:
        """``items`` with each user's in ascending order."""
        width = int(self.items.max()) + 1 if len(self.items) else 1
        return self.codes(width).remainder_(width)

    def codes(self, num_items: int) -> Tensor:
        """``user * num_items + item`` of every entry, ascending."""
        users = torch.arange(len(self.indptr) - 1, device=self.items.device)
        codes = torch.repeat_interleave(users * num_items, self.indptr.diff()).add_(self.items)
        if codes.device.type != "cpu":
            return codes.sort().values
        # In place: torch's sort with its indices would be the peak of a training's memory.
        codes.numpy().sort()
        return codes


@torch.no_grad()
def top_items(
    user_vecs: Tensor,
    item_vecs: Tensor,
    k: int,
    backend: Backend,
    users: Tensor | None = None,
    exclude: tuple[ItemLists, ...] = (),
) -> Tensor:
    """The k best items of each user.

    Args:
        user_vecs: ``[U, d]``.
        item_vecs: ``[I, d]`` in corpus order.
        k: how many.
        backend: finds the top of a block of scores.
        users: ``[U]`` the vectors' user rows, for ``exclude``; 0 to U-1 by default.
        exclude: never recommended.

    Returns:
        ``[U, k]`` int64 corpus rows, best first, equal scores by lowest row; -1 where there are fewer than k
        candidates. A score of NaN is no candidate.

    Raises:
        IndexError: on a CPU, for a user row that ``exclude`` does not have.
    """
    rows = torch.arange(len(user_vecs), device=user_vecs.device) if users is None else users
    if k < 1:
        return rows.new_empty((len(user_vecs), 0), dtype=torch.int64)
    return backend.top_items(user_vecs, item_vecs, k, rows, exclude)


def top_by_blocks(
    user_vecs: Tensor, item_vecs: Tensor, k: int, backend: Backend, rows: Tensor, exclude: tuple[ItemLists, ...]
) -> Tensor:
    """:func:`top_items`, all items of some users at once: for devices that are only busy with large blocks."""
    found = torch.full((len(user_vecs), k), -1, dtype=torch.int64, device=user_vecs.device)
    users_at_once, floats = (GPU_BLOCK_USERS, GPU_BLOCK_FLOATS) if user_vecs.is_cuda else (BLOCK_USERS, BLOCK_FLOATS)
    size = max(1, min(users_at_once, floats // max(len(item_vecs), 1)))
    transposed = item_vecs.t()
    room = torch.empty(min(size, len(user_vecs)), len(item_vecs), dtype=user_vecs.dtype, device=user_vecs.device)
    for begin in range(0, len(user_vecs), size):
        part = slice(begin, min(begin + size, len(user_vecs)))
        scores = torch.mm(user_vecs[part], transposed, out=room[: part.stop - begin])
        for lists in exclude:
            row, item = lists.pairs(rows[part])
            scores[row, item] = -torch.inf
        best = backend.top(scores, min(k, len(item_vecs)))
        found[part, : best.shape[1]] = best
    return found


def per_user_metrics(
    top: Tensor, users: Tensor, relevant: ItemLists, num_items: int, names: dict[str, tuple[str, int]]
) -> dict[str, np.ndarray]:
    """Each user's metrics from its recommendations.

    Args:
        top: ``[U, K]`` from :func:`top_items`, K at least every k of ``names``.
        users: ``[U]`` user rows.
        relevant: the items to find.
        num_items: rows of the corpus.
        names: label -> (metric, k).

    Returns:
        label -> ``[U]`` float64.
    """
    codes = relevant.codes(num_items)
    counts = (relevant.indptr[users + 1] - relevant.indptr[users]).cpu().numpy()
    found = {label: np.empty(len(users)) for label in names}
    for begin in range(0, len(users), METRIC_USERS):
        part = slice(begin, begin + METRIC_USERS)
        asked = torch.where(top[part] >= 0, users[part, None] * num_items + top[part], -1)
        hits = contains(codes, asked).cpu().numpy()
        for label, values in metrics.per_user(names, hits, counts[part]).items():
            found[label][part] = values
    return found


def stable_top(scores: Tensor, k: int) -> Tensor:
    """The k largest scores' columns per row, equal ones by lowest column; -1 for minus infinity and NaN."""
    scores = torch.where(scores.isnan(), -torch.inf, scores)
    values, columns = scores.topk(k, dim=1)
    # topk breaks ties as it likes: rows where the last value is shared with a column left out are sorted whole.
    last = values[:, -1:]
    shared = ((scores >= last).sum(1) > k) & (last.squeeze(1) > -torch.inf)
    tied = shared.nonzero().flatten()
    for part in tied.split(64):
        ordered, order = scores[part].sort(dim=1, descending=True, stable=True)
        values[part], columns[part] = ordered[:, :k], order[:, :k]
    columns, order = columns.sort(dim=1)
    values, again = values.gather(1, order).sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, again)
    return torch.where(values > -torch.inf, columns, -1)
