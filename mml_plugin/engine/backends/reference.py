"""The definition: plain torch in any dtype, nothing chunked, nothing skipped that autograd would not skip."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mml_plugin.engine import philox
from mml_plugin.engine.backends.base import AdamConstants, Backend, Positives, TableState


class Engine(Backend):
    """Readable and slow; every other backend is tested against it."""

    name = "reference"

    def capture_obstacle(self, excluding: bool) -> str:
        return "the reference backend looks for the entries with a gradient, and the host waits for their number"

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
        items = torch.empty(len(rows), count, dtype=torch.int64, device=rows.device)
        wrong = torch.ones_like(items, dtype=torch.bool)
        codes = sorted_codes(positives, num_items) if positives is not None else None
        attempt = 0
        while True:
            word = philox.words(rows, count, seed=seed, stream=philox.NEGATIVES, epoch=epoch, attempt=attempt)
            drawn = to_items(word, num_items, cumulative)
            items = torch.where(wrong, drawn, items)
            if codes is None:
                break
            wrong &= contains(codes, users.to(torch.int64)[:, None] * num_items + items)
            if not bool(wrong.any()):
                break
            attempt += 1
        out[:, 1:] = item_ids[items].to(out.dtype)

    def dropout(self, rows: Tensor, width: int, rate: float, *, seed: int, stream: int, epoch: int | Tensor, dtype):
        drawn = philox.words(rows, width, seed=seed, stream=stream, epoch=epoch)
        return philox.keep_mask(drawn, rate, dtype)

    def scores(self, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        items = table[index]
        if inverse is not None:
            items = items * inverse[index].unsqueeze(-1)
        return torch.einsum("bd,bjd->bj", user, items)

    def user_gradient(self, grad: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        weight = grad if inverse is None else grad * inverse[index]
        return torch.einsum("bj,bjd->bd", weight, table[index])

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
        row, slot = grad.nonzero(as_tuple=True)
        items, weight = index[row, slot], grad[row, slot]
        if inverse is None:
            part = weight[:, None] * user[row]
        else:
            scale = inverse[items]
            projected = torch.where(scale < self.norm_ceiling(), y[row, slot], torch.zeros_like(weight))
            unit = table[items] * scale[:, None]
            part = (weight * scale)[:, None] * (user[row] - projected[:, None] * unit)
        out.index_add_(0, items, part)
        touched.index_fill_(0, items, 1)

    def add_rows(self, rows: Tensor, values: Tensor, state: TableState) -> None:
        state.grad.index_add_(0, rows, values)
        # Assigning 1 to [rows] would copy it from the host, for which a GPU waits.
        state.touched.index_fill_(0, rows, 1)

    def squared_gradient_norm(
        self, states: Sequence[TableState], squared_weights: Sequence[Tensor | float]
    ) -> Tensor | float:
        return sum(self.norm_of(state, squared) for state, squared in zip(states, squared_weights))

    def adam(
        self, states: Sequence[TableState], constants: AdamConstants, clip: Tensor | float
    ) -> list[Tensor | float]:
        return [self.step_one(state, constants, clip) for state in states]

    def norm_of(self, state: TableState, squared_weight: Tensor | float) -> Tensor | float:
        """One table's part of :meth:`squared_gradient_norm`."""
        total = state.grad + state.decay * state.weight
        return (total.double() ** 2).sum()

    def step_one(self, state: TableState, constants: AdamConstants, clip: Tensor | float) -> Tensor | float:
        """One table's part of :meth:`adam`."""
        step = (state.grad + state.decay * state.weight) * clip
        state.first.mul_(constants.beta1).add_(step, alpha=1 - constants.beta1)
        state.second.mul_(constants.beta2).addcmul_(step, step, value=1 - constants.beta2)
        state.weight.sub_(constants.rate * state.first / (state.second.sqrt() + constants.epsilon))
        state.grad.zero_()
        state.touched.zero_()
        state.measure()
        return state.squared_norms.sum(dtype=torch.float64)


def to_items(word: Tensor, num_items: int, cumulative: Tensor | None) -> Tensor:
    """32-bit words as corpus rows: uniform by multiply-high, or by the first cumulative bound above the word."""
    if cumulative is None:
        return philox.below(word, num_items)
    return torch.searchsorted(cumulative, word.contiguous(), right=True)


def sorted_codes(positives: Positives, num_items: int) -> Tensor:
    """``user * num_items + item`` of every positive, ascending."""
    counts = positives.indptr.diff()
    users = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    return users * num_items + positives.items.to(torch.int64)


def contains(codes: Tensor, asked: Tensor) -> Tensor:
    """Which of ``asked`` are in the sorted ``codes``."""
    if not len(codes):
        return torch.zeros_like(asked, dtype=torch.bool)
    place = torch.searchsorted(codes, asked).clamp_max(len(codes) - 1)
    return codes[place] == asked
