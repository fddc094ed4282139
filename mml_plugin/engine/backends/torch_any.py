"""Plain torch on any device, chunked: what a P100 gets, and a CPU without numba."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mml_plugin.engine.backends import reference
from mml_plugin.engine.backends.base import AdamConstants, TableState

# Floats of a chunk. A GPU is only busy with large ones; a CPU's caches are small.
CHUNK_FLOATS, GPU_CHUNK_FLOATS = 1 << 19, 1 << 21


class Engine(reference.Engine):
    """As the reference, but no tensor is larger than a chunk, and nothing waits for a GPU.

    On a CPU the backward gathers the non-zero entries first. Their number depends on the data, which a GPU would
    have to wait for, so there a chunk is computed whole.
    """

    name = "torch"

    def capture_obstacle(self, excluding: bool) -> str:
        return (
            "the torch backend draws until no negative is a positive, and the host waits to know" if excluding else ""
        )

    def scores(self, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        y = torch.empty(index.shape, dtype=user.dtype, device=user.device)
        for part in _chunks(index, table):
            torch.bmm(table[index[part]], user[part].unsqueeze(-1), out=y[part].unsqueeze(-1))
        return y if inverse is None else y.mul_(inverse[index])

    def user_gradient(self, grad: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        if self.may_wait(grad):
            row, slot = grad.nonzero(as_tuple=True)
            items, weight = index[row, slot], grad[row, slot]
            out = torch.zeros(len(grad), table.shape[1], dtype=table.dtype)
            for part in _slices(len(row), table.shape[1], table):
                here = items[part]
                scale = weight[part] if inverse is None else weight[part] * inverse[here]
                out.index_add_(0, row[part], scale[:, None] * table[here])
            return out
        weight = grad if inverse is None else grad * inverse[index]
        out = torch.empty(len(grad), table.shape[1], dtype=table.dtype, device=grad.device)
        for part in _chunks(index, table):
            torch.bmm(weight[part].unsqueeze(1), table[index[part]], out=out[part].unsqueeze(1))
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
        if self.may_wait(grad):
            row, slot = grad.nonzero(as_tuple=True)
            for part in _slices(len(row), table.shape[1], table):
                r, s = row[part, None], slot[part, None]
                super().item_gradient(grad[r, s], y[r, s], user[row[part]], table, index[r, s], inverse, out, touched)
            return
        for part in _chunks(index, table):
            self._dense_item_gradient(
                grad[part], y[part], user[part], table, index[part].flatten(), inverse, out, touched
            )

    def _dense_item_gradient(self, grad, y, user, table, items, inverse, out, touched) -> None:
        weight = grad.flatten()
        pulled = user.repeat_interleave(grad.shape[1], dim=0)
        if inverse is None:
            out.index_add_(0, items, weight[:, None] * pulled)
        else:
            scale = inverse[items]
            projected = y.flatten() * (scale < self.norm_ceiling()) * scale
            out.index_add_(0, items, (weight * scale)[:, None] * (pulled - projected[:, None] * table[items]))
        touched.index_fill_(0, items, 1)

    def norm_of(self, state: TableState, squared_weight: Tensor | float) -> Tensor | float:
        total: Tensor | float = state.decay**2 * squared_weight
        for part in _slices(len(state.weight), state.weight.shape[1], state.weight):
            grad, weight = state.grad[part], state.weight[part]
            total = total + (grad * (grad + 2 * state.decay * weight)).sum(dtype=torch.float64)
        return total

    def step_one(self, state: TableState, constants: AdamConstants, clip: Tensor | float) -> Tensor | float:
        for part in _slices(len(state.weight), state.weight.shape[1], state.weight):
            weight, step = state.weight[part], state.grad[part]
            step.add_(weight, alpha=state.decay).mul_(clip)
            state.first[part].mul_(constants.beta1).add_(step, alpha=1 - constants.beta1)
            state.second[part].mul_(constants.beta2).addcmul_(step, step, value=1 - constants.beta2)
            root = state.second[part].sqrt().add_(constants.epsilon)
            weight.sub_(torch.div(state.first[part], root, out=root).mul_(constants.rate))
            step.zero_()
            torch.sum(torch.mul(weight, weight, out=root), dim=1, out=state.squared_norms[part])
        state.touched.zero_()
        return state.squared_norms.sum(dtype=torch.float64)


def _chunks(index: Tensor, table: Tensor) -> Iterator[slice]:
    """Parts of a batch whose gathered item vectors are one chunk."""
    return _slices(len(index), index.shape[1] * table.shape[1], table)


def _slices(rows: int, width: int, like: Tensor) -> Iterator[slice]:
    size = max(1, (GPU_CHUNK_FLOATS if like.is_cuda else CHUNK_FLOATS) // max(width, 1))
    return (slice(begin, min(begin + size, rows)) for begin in range(0, rows, size))
