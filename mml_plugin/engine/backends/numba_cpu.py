"""The CPU backend: numba's kernels on the tensors' own memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import torch
from torch import Tensor

from mml_plugin.engine import philox
from mml_plugin.engine.backends import base
from mml_plugin.engine.backends import numba_draws as draws
from mml_plugin.engine.backends import numba_items as by_item
from mml_plugin.engine.backends import numba_kernels as kernels
from mml_plugin.engine.backends.base import AdamConstants, Backend, HistoryItems, PlainUsers, Positives, TableState
from mml_plugin.engine.backends.numba_attention import history_items
from mml_plugin.engine.backends.numba_late import LateRows

if TYPE_CHECKING:
    from mml_plugin.engine.ranking import ItemLists

NOTHING = {dtype: np.empty(0, dtype) for dtype in (np.float32, np.float64)}
NO_POSITIVES = (
    np.empty(0, np.int64), np.empty(0, np.int32), np.empty((0, 2), np.int64), np.empty((0, 64), np.uint8)
)  # fmt: skip
NO_BOUNDS = (np.empty(0, np.uint32), np.empty(0, np.int32))
# With a smaller share of non-zero gradients than this, sorting them by item costs more than it saves.
SPARSE = 0.1
# With more entries per item than this, making an item's row anew costs more than writing and reading it.
FEW = 4
NOT_MEASURED = np.empty(0)
# A tile of scores is a megabyte: written and read again, it should not go to memory in between.
TILE_USERS, TILE_ITEMS = 512, 512


@dataclass(frozen=True)
class SortedGradient:
    """The non-zero entries of dL/dy in the order of their items, of which there are I; ``numba_items`` works on them.

    Attributes:
        begin: ``[I+1]`` int32, where each item's entries begin. This and the next are scratch memory.
        entries: of ``numba_items.entry_type``; room for ``B * (1+N)``.
        user: ``[B, d]`` user vectors.
        inverse: ``[I]`` what normalisation multiplies the items' rows with; empty for none.
        ceiling: inverse norms from here on belong to rows that are not projected.
        pulls: ``[I]`` or empty: so many times the item's row is part of its gradient, in :meth:`Engine.adam` alone.
    """

    begin: np.ndarray
    entries: np.ndarray
    user: np.ndarray
    inverse: np.ndarray
    ceiling: Any
    pulls: np.ndarray

    @property
    def few(self) -> bool:
        """Whether making each item's row anew costs less than moving the whole gradient through memory."""
        return self.begin[-1] < FEW * (len(self.begin) - 1)

    def arrays(self, table: Tensor) -> tuple[Any, ...]:
        """The kernels' first arguments."""
        return self.begin, self.entries, self.user, table.numpy(), self.inverse, self.ceiling

    def bound(self, parts: np.ndarray) -> None:
        """Fill ``parts`` with numbers that are at least the gradient's squared norm together."""
        # In float64, where the square of a tiny number is none of zero.
        lengths = np.linalg.norm(self.user.astype(np.float64), axis=1)
        by_item.squared_bound(self.begin, self.entries, lengths, self.inverse, parts)


class _Scratch(threading.local):
    """Memory that is kept between steps. A thread has its own: what one kernel leaves there the next one reads.

    Attributes:
        rooms: arrays by their use.
        active_of: the gradient whose non-zero entries were found last, until they are used.
        active_entries: how many these are.
    """

    def __init__(self) -> None:
        self.rooms: dict[str, np.ndarray] = {}
        self.active_of: Tensor | None = None
        self.active_entries = 0


class Engine(Backend):
    """Parallel over the batch or the table; the same bits for any number of threads."""

    name = "numba"
    index_dtype = torch.int32
    dtypes = (torch.float32, torch.float64)

    def __init__(self) -> None:
        threads = torch.get_num_threads()
        self.follow_threads()
        # Numba's threads, on their start, set the number of threads of an OpenMP runtime that torch may share.
        torch.set_num_threads(threads)
        self._made: dict[int, tuple[Any, tuple[np.ndarray, ...]]] = {}
        self._scratch = _Scratch()

    def follow_threads(self) -> None:
        threads = min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
        if numba.get_num_threads() != threads:
            numba.set_num_threads(threads)

    @property
    def active_entries(self) -> int:
        """Non-zero entries of the gradient that this thread went through last."""
        return self._scratch.active_entries

    def draw_items(
        self,
        rows: Tensor,
        users: Tensor,
        count: int,
        *,
        seed: int,
        epoch: int | Tensor,
        num_items: int,
        item_ids: Tensor,
        cumulative: Tensor | None,
        positives: Positives | None,
        out: Tensor,
    ) -> None:
        key = np.uint64(int(epoch)), np.uint64(seed & philox.MASK), np.uint64(philox.NEGATIVES), np.uint64(num_items)
        if cumulative is None and positives is None:
            draws.uniform_items(numba.get_num_threads(), rows.numpy(), *key, item_ids.numpy(), out.numpy())
            return
        lasts, guide = self._guided(cumulative)
        indptr, items, places, marks = self._marked(positives)
        draws.general_items(
            numba.get_num_threads(), rows.numpy(), users.numpy(), *key, lasts, guide, indptr, items, places, marks,
            item_ids.numpy(), out.numpy(),
        )  # fmt: skip

    def _guided(self, cumulative: Tensor | None) -> tuple[np.ndarray, ...]:
        """Each row's last word, and for each value of a word's upper digits the first row that it can mean."""
        if cumulative is None:
            return NO_BOUNDS

        def make() -> tuple[np.ndarray, ...]:
            bounds, digits = cumulative.numpy(), int(draws.GUIDED)
            first = np.searchsorted(bounds, np.arange((1 << 32 - digits) + 1) << digits, side="right")
            # In 32 bits, half as much to fetch. What rows before the first with a weight get, no search sees.
            return (bounds - 1).astype(np.uint32), np.minimum(first, len(bounds) - 1).astype(np.int32)

        return self._remembered(cumulative, make)

    def _marked(self, positives: Positives | None) -> tuple[np.ndarray, ...]:
        """The lists with items in 32 bits, half as much to fetch, and the marks that make most looks needless."""
        if positives is None:
            return NO_POSITIVES

        def make() -> tuple[np.ndarray, ...]:
            indptr, items = positives.indptr.numpy().astype(np.int64), positives.items.numpy().astype(np.int32)
            return indptr, items, *draws.marked(indptr, items)

        return self._remembered(positives, make)

    def _remembered(self, of: Any, make: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
        """What ``make`` returns, made once for each object, which is kept so that its id stays its own."""
        known = self._made.get(id(of))
        if known is None:
            known = self._made[id(of)] = (of, make())
        return known[1]

    def dropout(self, rows: Tensor, width: int, rate: float, *, seed: int, stream: int, epoch: int | Tensor, dtype):
        out = torch.empty(len(rows), width, dtype=dtype)
        scale = out.numpy().dtype.type(philox.kept_factor(rate, dtype))
        draws.dropout_mask(
            numba.get_num_threads(), rows.numpy(), np.uint64(int(epoch)), np.uint64(seed & philox.MASK),
            np.uint64(stream), np.uint64(philox.drop_threshold(rate)), scale, out.numpy(),
        )  # fmt: skip
        return out

    def shuffled(self, count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
        words = np.empty(count, np.uint32)
        draws.row_words(np.uint64(epoch), np.uint64(seed & philox.MASK), np.uint64(philox.SHUFFLE), words)
        # Sorting word and row as one number is several times faster than argsort.
        both = words.astype(np.uint64)
        both <<= np.uint64(32)
        both |= np.arange(count, dtype=np.uint64)
        both.sort()
        both &= np.uint64(philox.MASK)
        return torch.from_numpy(both.view(np.int64))

    def scores(self, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        y = torch.empty(index.shape, dtype=user.dtype)
        kernels.scores(user.numpy(), table.numpy(), index.numpy(), _array(inverse, user), y.numpy())
        return y

    def user_gradient(self, grad: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        out = torch.empty(len(grad), table.shape[1], dtype=table.dtype)
        self._find_active(grad, table, index, inverse, out)
        return out

    def _find_active(self, grad: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None, out: Tensor) -> None:
        active = self._room("active", len(grad), np.int64)
        slots = self._room("slots", grad.numel(), np.int32).reshape(grad.shape)
        kernels.user_gradient(
            grad.numpy(), table.numpy(), index.numpy(), _array(inverse, table), out.numpy(), active, slots
        )
        self._scratch.active_entries = int(active.sum())
        self._scratch.active_of = grad

    def item_gradient(
        self,
        grad: Tensor,
        y: Tensor,
        user: Tensor,
        table: Tensor,
        index: Tensor,
        inverse: Tensor | None,
        out: Tensor,
        touched: Tensor,
    ) -> None:
        if self._scratch.active_of is not grad:
            self._find_active(grad, table, index, inverse, torch.empty_like(user))
        self._scratch.active_of = None  # found for this once: its tensor is not kept
        dtype = grad.numpy().dtype
        if self.active_entries < SPARSE * grad.numel():
            active, slots = self._room("active", len(grad), np.int64), self._room("slots", grad.numel(), np.int32)
            kernels.sparse_item_gradient(
                active, slots.reshape(grad.shape), grad.numpy(), y.numpy(), index.numpy(), user.numpy(),
                table.numpy(), _array(inverse, user), dtype.type(self.norm_ceiling()), numba.get_num_threads(),
                out.numpy(), touched.numpy(),
            )  # fmt: skip
            return
        found = self._sorted(grad, y, user, index, inverse, len(table))
        arguments = *found.arrays(table), out.numpy(), touched.numpy(), dtype.type(0), NOT_MEASURED
        by_item.item_gradient(*arguments)

    def defer_item_gradient(
        self, grad: Tensor, y: Tensor, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None
    ) -> SortedGradient | None:
        if self._scratch.active_of is not grad or self.active_entries < SPARSE * grad.numel():
            return None
        self._scratch.active_of = None
        return self._sorted(grad, y, user, index, inverse, len(table))

    def _sorted(
        self, grad: Tensor, y: Tensor, user: Tensor, index: Tensor, inverse: Tensor | None, items: int
    ) -> SortedGradient:
        dtype = grad.numpy().dtype
        begin = self._room("begin", items + 1, np.int32)
        counts = self._room("counts", numba.get_num_threads() * items, np.int32).reshape(-1, items)
        entries = self._room("entries", grad.numel(), by_item.entry_type(dtype))
        by_item.sort_by_item(grad.numpy(), y.numpy(), index.numpy(), counts, begin, entries)
        ceiling = dtype.type(self.norm_ceiling())
        return SortedGradient(begin, entries, user.numpy(), _array(inverse, user), ceiling, NOTHING[dtype.type])

    def _room(self, name: str, size: int, dtype) -> np.ndarray:
        """Scratch memory that is kept between steps."""
        room = self._scratch.rooms.get(name)
        if room is None or len(room) < size or room.dtype != dtype:
            room = self._scratch.rooms[name] = np.empty(size, dtype)
        return room[:size]

    def plain_users(
        self, table: Tensor, ids: Tensor, mask: Tensor | None, normalized: bool, dropout_first: bool
    ) -> PlainUsers:
        out = torch.empty(len(ids), table.shape[1], dtype=table.dtype)
        inverse = torch.empty(len(ids), dtype=table.dtype)
        factors = _mask(mask, table)
        kernels.user_vectors(
            table.numpy(), ids.numpy(), factors, normalized, dropout_first, out.numpy(), inverse.numpy()
        )

        def backward(grad: Tensor, state: TableState) -> None:
            kernels.add_user_gradient(
                numba.get_num_threads(), grad.numpy(), state.weight.numpy(), ids.numpy(), factors, normalized,
                dropout_first, inverse.numpy(), state.grad.numpy(), state.touched.numpy(),
            )  # fmt: skip

        return PlainUsers(out, backward)

    def history_items(self, ids: Tensor, rows: int) -> HistoryItems:
        return history_items(ids, rows)

    def add_rows(self, rows: Tensor, values: Tensor, state: TableState) -> None:
        arrays = rows.numpy(), values.contiguous().numpy(), state.grad.numpy(), state.touched.numpy()
        kernels.add_rows(numba.get_num_threads(), *arrays)

    def add_pull(self, state: TableState, rows: Tensor, share: float) -> float:
        counts = np.bincount(rows.numpy(), minlength=len(state.weight))
        pulls = (share * counts).astype(state.weight.numpy().dtype)
        found = np.flatnonzero(counts)
        deferred = _deferred(state)
        if deferred is not None:
            state.deferred = replace(deferred, pulls=pulls)
        else:
            kernels.add_pulls(found, pulls, state.weight.numpy(), state.grad.numpy(), state.touched.numpy())
        return float(counts[found] @ state.squared_norms.numpy()[found].astype(np.float64))

    def squared_gradient_norm(
        self, states: Sequence[TableState], squared_weights: Sequence[Tensor | float]
    ) -> Tensor | float:
        kind, arrays = _types(states)
        parts = self._room("parts", kernels.PARTS * len(states), np.float64).reshape(len(states), -1)
        decays = _decays(states, kind)
        kernels.gradient_norms(arrays("weight"), arrays("grad"), arrays("touched"), decays, parts)
        for state, decay, own_parts in zip(states, decays, parts):
            deferred, state.deferred = _deferred(state), None
            if deferred is not None:
                found = deferred.arrays(state.weight)
                arguments = *found, state.grad.numpy(), state.touched.numpy(), decay, own_parts
                by_item.item_gradient(*arguments)
        # 0 times a weight that is no number is none, and recbox adds no term whose lambda is 0.
        penalties = [state.decay**2 * squared for state, squared in zip(states, squared_weights) if state.decay]
        return float(parts.sum()) + sum(penalties)

    def gradient_norm_bound(self, states: Sequence[TableState], weight_norms: Sequence[Tensor | float]) -> float | None:
        found = [_deferred(state) for state in states]
        if not any(deferred is not None and deferred.few for deferred in found):
            return None
        kind, arrays = _types(states)
        parts = self._room("parts", kernels.PARTS * len(states), np.float64).reshape(len(states), -1)
        kernels.gradient_norms(arrays("weight"), arrays("grad"), arrays("touched"), np.zeros(len(states), kind), parts)
        for deferred, own_parts in zip(found, parts):
            if deferred is not None:
                deferred.bound(own_parts)
        lengths = np.sqrt(parts.sum(axis=1)) + [state.decay * float(norm) for state, norm in zip(states, weight_norms)]
        return float(np.linalg.norm(lengths))

    def adam(
        self, states: Sequence[TableState], constants: AdamConstants, clip: Tensor | float
    ) -> list[Tensor | float]:
        kind = states[0].weight.numpy().dtype.type
        numbers = tuple(
            kind(number) for number in (clip, constants.rate, constants.epsilon, constants.beta1, constants.beta2)
        )
        written = [state for state in states if _deferred(state) is None]
        if written:
            _, arrays = _types(written)
            tables = tuple(arrays(field) for field in ("weight", "grad", "first", "second", "touched"))
            arguments = *tables, _decays(written, kind), *numbers, arrays("squared_norms")
            kernels.adam(*arguments)
        for state in states:
            deferred, state.deferred = _deferred(state), None
            if deferred is not None:
                first, second, norms = state.first.numpy(), state.second.numpy(), state.squared_norms.numpy()
                found = deferred.arrays(state.weight)
                arguments = *found, deferred.pulls, first, second, kind(state.decay), *numbers, norms
                by_item.adam(*arguments)
        return [float(state.squared_norms.numpy().sum(dtype=np.float64)) for state in states]

    def late_rows(self, state: TableState) -> LateRows:
        return LateRows(state)

    def top_items(
        self, user_vecs: Tensor, item_vecs: Tensor, k: int, rows: Tensor, exclude: tuple[ItemLists, ...]
    ) -> Tensor:
        hidden = [(lists.indptr.numpy(), lists.ascending.numpy()) for lists in exclude]
        if len(rows) and not all(rows.min() >= 0 and rows.max() < len(indptr) - 1 for indptr, _ in hidden):
            raise IndexError("a user row is outside the lists of items to leave out")
        room = torch.empty(TILE_USERS * TILE_ITEMS, dtype=user_vecs.dtype)
        found = np.empty((len(user_vecs), k), np.int64)
        for begin in range(0, len(user_vecs), TILE_USERS):
            part = slice(begin, begin + TILE_USERS)
            found[part] = self._top_by_tiles(user_vecs[part], item_vecs, k, rows[part].numpy(), hidden, room)
        return torch.from_numpy(found)

    def _top_by_tiles(
        self,
        user_vecs: Tensor,
        item_vecs: Tensor,
        k: int,
        rows: np.ndarray,
        hidden: Sequence[tuple[np.ndarray, np.ndarray]],
        room: Tensor,
    ) -> np.ndarray:
        """The best items of a few users, so few items at a time that the scores stay in a core's own cache."""
        values, columns = _nothing_best(len(rows), k, room.numpy().dtype)
        places = [indptr[rows] for indptr, _ in hidden]
        width = min(TILE_ITEMS, len(item_vecs))
        out = room[: len(rows) * width].view(len(rows), width)
        for first in range(0, len(item_vecs), TILE_ITEMS):
            # All tiles are of one width, the last one overlaps: a BLAS gives narrow products other last bits, and equal
            # items would no longer have equal scores.
            begin = min(first, len(item_vecs) - width)
            scores = torch.mm(user_vecs, item_vecs[begin : begin + width].t(), out=out).numpy()
            for (indptr, listed), at in zip(hidden, places):
                kernels.hide(scores, begin, rows, indptr, listed, at)
            kernels.top(scores, begin, first - begin, values, columns)
        return columns

    def top(self, scores: Tensor, k: int) -> Tensor:
        values, columns = _nothing_best(len(scores), k, scores.numpy().dtype)
        kernels.top(scores.numpy(), 0, 0, values, columns)
        return torch.from_numpy(columns)

    def inverse_norms(self, state: TableState) -> Tensor:
        norms = state.squared_norms.numpy()
        out = torch.empty_like(state.squared_norms)
        kernels.inverse_norms(norms, norms.dtype.type(base.NORM_FLOOR), out.numpy())
        return out

    def bands(self, y: Tensor, grad: Tensor, thresholds: Tensor, counts: Tensor, sums: Tensor) -> None:
        shape = (kernels.PARTS, len(counts))
        part_counts, part_sums = np.zeros(shape, np.int64), np.zeros(shape, np.float64)
        kernels.bands(y.numpy(), grad.numpy(), thresholds.numpy(), part_counts, part_sums)
        counts += torch.from_numpy(part_counts.sum(0))
        sums += torch.from_numpy(part_sums.sum(0))


def _deferred(state: TableState) -> SortedGradient | None:
    """What :meth:`Engine.defer_item_gradient` left with the table, if anything."""
    found = state.deferred
    assert found is None or isinstance(found, SortedGradient)
    return found


def _nothing_best(rows: int, k: int, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """Scores and columns of the best where nothing was looked at yet."""
    return np.full((rows, k), -np.inf, dtype), np.full((rows, k), -1, np.int64)


def _types(states: Sequence[TableState]) -> tuple[Any, Callable[[str], tuple[np.ndarray, ...]]]:
    """The scalar type of the states, and a function: field -> that field's array of each state."""
    return states[0].weight.numpy().dtype.type, lambda name: tuple(getattr(state, name).numpy() for state in states)


def _decays(states: Sequence[TableState], kind: Any) -> np.ndarray:
    return np.array([state.decay for state in states], kind)


def _mask(mask: Tensor | None, like: Tensor) -> np.ndarray:
    return NOTHING[like.numpy().dtype.type].reshape(0, 0) if mask is None else mask.numpy()


def _array(inverse: Tensor | None, like: Tensor) -> np.ndarray:
    return NOTHING[like.numpy().dtype.type] if inverse is None else inverse.numpy()
