"""The GPU backend: Triton's kernels on the tensors' own memory, and nothing that waits for the device.

Draws, dropout, shuffling, scores, the user gradient, norms and Adam are deterministic. The gradients of item, user and
history rows and the bands' |dL/dn| are summed by atomic adds in the order of the hardware: two runs agree to rounding.
With ``TRITON_INTERPRET=1`` set before Triton is imported, the same kernels run on CPU tensors, one program after the
other, for tests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from mml_plugin.engine import philox
from mml_plugin.engine.backends import triton_kernels as kernels
from mml_plugin.engine.backends.base import (
    BETA1,
    BETA2,
    CLIP_EPSILON,
    EPSILON,
    NORM_FLOOR,
    AdamConstants,
    Backend,
    CannotStart,
    PlainUsers,
    Positives,
    TableState,
)
from mml_plugin.errors import lacking_memory

BLOCK = 1024  # entries of a kernel without rows
TILE = 2048  # floats of a tile of rows
SLOTS = 32  # entries of a batch row per program, at most


class Engine(Backend):
    """CUDA from compute capability 7.5."""

    name = "triton"
    index_dtype = torch.int32
    dtypes = (torch.float32, torch.float64)

    def __init__(self) -> None:
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._longest: dict[int, tuple[Positives, int]] = {}

    def try_out(self, device: torch.device) -> None:
        """Compile and launch the smallest kernel: drivers, compilers and caches fail in many ways."""
        try:
            self.shuffled(1, 0, 0, device).tolist()
        except Exception as error:
            if lacking_memory(error):
                raise  # a full GPU is no reason to train on it with another backend, which needs more of it
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CannotStart(f"triton cannot compile or launch a kernel here ({why})") from error

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
        entries = len(rows) * count
        launch(
            kernels.draw_items, blocks(entries),
            rows, users, item_ids,
            rows if cumulative is None else cumulative,
            rows if positives is None else positives.indptr,
            rows if positives is None else positives.items,
            self._epoch(epoch, rows.device), out, entries, count, num_items, _key(seed, philox.NEGATIVES),
            POPULAR=cumulative is not None, POPULAR_STEPS=num_items.bit_length(),
            EXCLUDING=positives is not None,
            EXCLUDING_STEPS=0 if positives is None else self._longest_list(positives).bit_length(),
            BLOCK=BLOCK,
        )  # fmt: skip

    def _longest_list(self, positives: Positives) -> int:
        """The most training items of a user; the host waits for it once."""
        known = self._longest.get(id(positives))
        if known is None:
            longest = int(positives.indptr.diff().max()) if len(positives.indptr) > 1 else 0
            known = self._longest[id(positives)] = (positives, longest)
        return known[1]

    def _epoch(self, epoch: int | Tensor, device: torch.device) -> Tensor:
        if isinstance(epoch, Tensor):
            return epoch
        return torch.full((1,), epoch, dtype=torch.int64, device=device)

    def _numbers(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """Constants of a tensor's type on its device, made once."""
        key = (values, like.dtype, like.device)
        made = self._constants.get(key)
        if made is None:
            made = torch.empty(len(values), dtype=like.dtype, device=like.device)
            # One fill each: a copy from the host would wait for the device.
            for place, value in enumerate(values):
                made[place].fill_(value)
            self._constants[key] = made
        return made

    def _number(self, value: Tensor | float, like: Tensor) -> Tensor:
        """A number as the kernels take it: float64 on the device."""
        if isinstance(value, Tensor):
            return value
        return torch.full((), value, dtype=torch.float64, device=like.device)

    def _floor(self, like: Tensor) -> Tensor:
        return self._numbers((NORM_FLOOR, self.norm_ceiling()), like)

    def dropout(self, rows: Tensor, width: int, rate: float, *, seed: int, stream: int, epoch: int | Tensor, dtype):
        out = torch.empty(len(rows), width, dtype=dtype, device=rows.device)
        launch(
            kernels.dropout_mask, blocks(out.numel()),
            rows, self._epoch(epoch, rows.device), self._numbers((philox.kept_factor(rate, dtype),), out), out,
            out.numel(), width,
            philox.drop_threshold(rate), _key(seed, stream), BLOCK=BLOCK,
        )  # fmt: skip
        return out

    def shuffled(self, count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
        words = torch.empty(count, dtype=torch.int64, device=device)
        launch(
            kernels.row_words, blocks(count),
            self._epoch(epoch, device), words, count, _key(seed, philox.SHUFFLE), BLOCK=BLOCK,
        )  # fmt: skip
        return words.argsort(stable=True)

    def scores(self, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        y = torch.empty(index.shape, dtype=user.dtype, device=user.device)
        batch, width = index.shape
        slots, dim = slots_of(table, width)
        launch(
            kernels.scores, (batch, triton.cdiv(width, slots)),
            user, table, index, user if inverse is None else inverse, y, width, table.shape[1],
            SCALED=inverse is not None, J=slots, D=dim,
        )  # fmt: skip
        return y

    def user_gradient(self, grad: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        batch, width = index.shape
        out = torch.empty(batch, table.shape[1], dtype=table.dtype, device=table.device)
        slots, dim = slots_of(table, width)
        launch(
            kernels.user_gradient, (batch,),
            grad, table, index, grad if inverse is None else inverse, out, width, table.shape[1],
            SCALED=inverse is not None, J=slots, D=dim,
        )  # fmt: skip
        return out

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
        batch, width = index.shape
        slots, dim = slots_of(table, width)
        launch(
            kernels.item_gradient, (batch, triton.cdiv(width, slots)),
            grad, y, user, table, index, grad if inverse is None else inverse, self._floor(table), out, touched,
            width, table.shape[1], SCALED=inverse is not None, J=slots, D=dim,
        )  # fmt: skip

    def plain_users(
        self, table: Tensor, ids: Tensor, mask: Tensor | None, normalized: bool, dropout_first: bool
    ) -> PlainUsers:
        width = table.shape[1]
        out = torch.empty(len(ids), width, dtype=table.dtype, device=table.device)
        inverse = torch.empty(len(ids), dtype=table.dtype, device=table.device)
        factors = table if mask is None else mask
        rows, dim = rows_of(table)
        grid = (triton.cdiv(len(ids), rows),)
        shape = {"NORMALIZED": normalized, "MASKED": mask is not None, "DROPOUT_FIRST": dropout_first}
        launch(
            kernels.user_vectors, grid,
            table, ids, factors, self._floor(table), out, inverse, len(ids), width, factors.shape[1],
            **shape, R=rows, D=dim,
        )  # fmt: skip

        def backward(grad: Tensor, state: TableState) -> None:
            launch(
                kernels.add_user_gradient, grid,
                grad, state.weight, ids, factors, self._floor(table), inverse, state.grad, state.touched,
                len(ids), width, factors.shape[1], **shape, R=rows, D=dim,
            )  # fmt: skip

        return PlainUsers(out, backward)

    def add_rows(self, rows: Tensor, values: Tensor, state: TableState) -> None:
        tile, dim = rows_of(values)
        launch(
            kernels.add_rows, (triton.cdiv(len(rows), tile),),
            rows, values.contiguous(), state.grad, state.touched, len(rows), values.shape[1], R=tile, D=dim,
        )  # fmt: skip

    def squared_gradient_norm(self, states: Sequence[TableState], squared_weights: Sequence[Tensor | float]) -> Tensor:
        whole, parts = self._parts(states)
        for state, squared, part in zip(states, squared_weights, parts):
            rows, dim = rows_of(state.weight)
            launch(
                kernels.gradient_norms, (len(part),),
                state.weight, state.grad, state.touched, self._numbers((state.decay,), whole),
                self._number(squared, whole), part, *state.weight.shape, R=rows, D=dim,
            )  # fmt: skip
        return whole.sum()

    def clip_factor(self, squared: Tensor, limit: float) -> Tensor:
        out = torch.empty_like(squared)
        launch(kernels.clip_factor, (1,), squared, self._numbers((limit, CLIP_EPSILON, 1.0), squared), out)
        return out

    def adam(
        self, states: Sequence[TableState], constants: AdamConstants, clip: Tensor | float
    ) -> list[Tensor | float]:
        _, parts = self._parts(states)
        for state, part in zip(states, parts):
            self._step_one(state, part, constants, clip)
        return [part.sum() for part in parts]

    def _step_one(self, state: TableState, parts: Tensor, constants: AdamConstants, clip: Tensor | float) -> None:
        weight, beta1, beta2 = state.weight, constants.beta1, constants.beta2
        rows, dim = rows_of(weight)
        launch(
            kernels.adam, (len(parts),),
            weight, state.grad, state.first, state.second, state.touched, state.squared_norms, parts,
            self._numbers((state.decay, beta1, 1 - beta1, beta2, 1 - beta2), weight),
            self._number(constants.rate, weight), self._number(constants.epsilon, weight), self._number(clip, weight),
            *weight.shape, R=rows, D=dim,
        )  # fmt: skip

    def _parts(self, states: Sequence[TableState]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Room for one float64 per program, and each state's share of it."""
        counts = [triton.cdiv(len(state.weight), rows_of(state.weight)[0]) for state in states]
        whole = torch.empty(sum(counts), dtype=torch.float64, device=states[0].weight.device)
        return whole, whole.split(counts)

    def adam_constants(self, step: Tensor, rate: Tensor) -> AdamConstants:
        out = torch.empty(2, dtype=torch.float64, device=step.device)
        logarithms = self._numbers((math.log2(BETA1), math.log2(BETA2), EPSILON), step)
        launch(kernels.adam_constants, (1,), step, rate, logarithms, out)
        return AdamConstants(out[0], out[1], BETA1, BETA2)

    def inverse_norms(self, state: TableState) -> Tensor:
        out = torch.empty_like(state.squared_norms)
        launch(
            kernels.inverse_norms, blocks(len(out)),
            state.squared_norms, self._floor(out), out, len(out), BLOCK=BLOCK,
        )  # fmt: skip
        return out

    def bands(self, y: Tensor, grad: Tensor, thresholds: Tensor, counts: Tensor, sums: Tensor) -> None:
        entries = len(y) * (y.shape[1] - 1)
        launch(
            kernels.bands, blocks(entries),
            y, grad, thresholds, counts, sums, entries, y.shape[1] - 1, len(thresholds), BLOCK=BLOCK,
        )  # fmt: skip


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Run a kernel on its first tensor's device; nothing to do is done without one."""
    if 0 in grid:
        return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    with torch.cuda.device_of(first):
        kernel[grid](*arguments, **constants)


def blocks(entries: int) -> tuple[int]:
    """The grid of a kernel that goes through ``entries``."""
    return (triton.cdiv(entries, BLOCK),)


def rows_of(matrix: Tensor) -> tuple[int, int]:
    """A tile of a matrix's rows: how many, and the columns as a power of two."""
    dim = max(4, triton.next_power_of_2(matrix.shape[1]))
    return max(1, TILE // dim), dim


def slots_of(table: Tensor, width: int) -> tuple[int, int]:
    """A tile of one batch row's item vectors: entries and columns, both powers of two."""
    rows, dim = rows_of(table)
    return max(2, min(rows, SLOTS, triton.next_power_of_2(width))), dim


def _key(seed: int, stream: int) -> int:
    """Both of Philox's key words in one number."""
    return (seed & philox.MASK) | stream << 32
