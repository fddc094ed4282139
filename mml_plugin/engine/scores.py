"""The one operation that carries the fast engine: sampled scores without the item vectors they are made of."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mml_plugin.engine import backends
from mml_plugin.engine.backends.base import NORM_FLOOR, Backend


@dataclass(frozen=True)
class TableGradient:
    """Where the item table's gradient goes instead of a new tensor per step: ``dense[I, d]``, rows ``touched[I]``."""

    dense: Tensor
    touched: Tensor


class _SampledScores(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, user, table, index, inverse, backend, sink):
        y = backend.scores(user.detach(), table.detach(), index, inverse)
        ctx.save_for_backward(user, table, index, inverse, y)
        ctx.backend, ctx.sink = backend, sink
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        check_once()
        user, table, index, inverse, y = ctx.saved_tensors
        user, table = user.detach(), table.detach()
        # A tensor object of this backward's: the caller may pass its own again and have written to it meanwhile.
        grad = grad.detach().contiguous()
        by_user = by_table = None
        if ctx.needs_input_grad[0]:
            by_user = ctx.backend.user_gradient(grad, table, index, inverse)
        sink = ctx.sink
        if sink is None and ctx.needs_input_grad[1]:
            by_table = torch.zeros_like(table)
            sink = TableGradient(by_table, torch.zeros(len(table), dtype=torch.uint8, device=table.device))
        if sink is not None:
            ctx.backend.item_gradient(grad, y, user, table, index, inverse, sink.dense, sink.touched)
        return by_user, by_table, None, None, None, None


def check_once() -> None:
    """Refuse a backward that is to be differentiated itself: the kernels leave no graph, and it would be wrong."""
    if torch.is_grad_enabled():
        raise RuntimeError("the fast engine's scores can be differentiated once: leave create_graph out")


def sampled_scores(
    user_vecs: Tensor,
    item_table: Tensor,
    item_index: Tensor,
    normalize: bool = False,
    *,
    item_bias: Tensor | None = None,
    user_scale: Tensor | None = None,
    backend: Backend | str = "auto",
    inverse_norms: Tensor | None = None,
    gradient: TableGradient | None = None,
    in_range: bool = False,
) -> Tensor:
    """Scores of each user with its own sampled items, differentiable in users, table and bias.

    ``y[b, j] = <user_vecs[b], v> + user_scale[b] * item_bias[i]`` with i = ``item_index[b, j]`` and v the row i of
    the table, divided by ``max(|v|, 1e-12)`` when ``normalize``. The backends ``numba``, ``triton`` and, beyond a
    chunk, ``torch`` make no ``[B, 1+N, d]`` tensor; on a CPU their backward skips every zero of dL/dy.

    Args:
        user_vecs: ``[B, d]``, final: normalised and dropped out already.
        item_table: ``[I, d]``.
        item_index: ``[B, 1+N]`` integers in [0, I), column 0 the positive.
        normalize: whether item rows are divided by their norms.
        item_bias: ``[I]`` or ``[I, 1]``, added after normalisation.
        user_scale: ``[B]``, what dropout made of the constant 1 that the bias is multiplied with; 1 by default.
        backend: one of :data:`backends.NAMES`, or what :func:`backends.select` returned.
        inverse_norms: ``[I]``, ``1 / max(|v|, 1e-12)``, when the caller knows them.
        gradient: adds the table's gradient there instead of returning it to autograd.
        in_range: the caller knows that no index is outside the table, so that none is looked at.

    Returns:
        ``[B, 1+N]`` in the vectors' type.

    Raises:
        ValueError: for shapes or types that do not fit.
        IndexError: on a CPU, for an index outside the table (on a GPU the check would make the host wait).
        UserError: for a backend that is unknown or cannot run.
        RuntimeError: from the backward, when it is asked for a graph of its own (``create_graph``).
    """
    _check(user_vecs, item_table, item_index)
    if not in_range:
        _check_range(item_index, len(item_table))
    chosen = _chosen(backend, user_vecs)
    if normalize and inverse_norms is None:
        inverse_norms = item_table.detach().norm(dim=1).clamp_min(NORM_FLOOR).reciprocal()
    index = item_index.to(chosen.index_dtype).contiguous()
    y = _SampledScores.apply(
        user_vecs.contiguous(), item_table.contiguous(), index, inverse_norms if normalize else None, chosen, gradient
    )
    if item_bias is not None:
        bias = torch.nn.functional.embedding(index, item_bias.reshape(-1, 1)).squeeze(-1)
        y = y + (bias if user_scale is None else user_scale.reshape(-1, 1) * bias)
    return y


class _Selected(threading.local):
    """Backends by name and device, picked and logged once: ``sampled_scores`` stands in the steps of others' trainings.

    A thread has its own, since numba's number of threads, which a backend sets, is a thread's own.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, torch.device], Backend] = {}

    def of(self, name: str, device: torch.device) -> Backend:
        """The backend, with as many threads as torch has now."""
        key = name, device
        if key not in self._known:
            self._known[key] = backends.select(name, device)
        self._known[key].follow_threads()
        return self._known[key]


_selected = _Selected()


def _chosen(backend: str | Backend, vectors: Tensor) -> Backend:
    """The backend; for vectors of a type that ``auto``'s pick does not take, the one that takes any."""
    chosen = _selected.of(backend, vectors.device) if isinstance(backend, str) else backend
    if vectors.dtype in chosen.dtypes:
        return chosen
    if backend == "auto":
        return _selected.of("torch", vectors.device)
    known = ", ".join(str(dtype).removeprefix("torch.") for dtype in chosen.dtypes)
    raise ValueError(f"backend {chosen.name!r} takes {known}, and the vectors are {vectors.dtype}")


def _check(user: Tensor, table: Tensor, index: Tensor) -> None:
    if user.dim() != 2 or table.dim() != 2 or user.shape[1] != table.shape[1]:
        raise ValueError(f"user_vecs [B, d] and item_table [I, d] do not fit: {list(user.shape)}, {list(table.shape)}")
    if index.dim() != 2 or len(index) != len(user) or index.is_floating_point() or index.dtype == torch.bool:
        raise ValueError(f"item_index must be integers [B, 1+N] for {len(user)} users, got {list(index.shape)}")
    if user.dtype != table.dtype:
        raise ValueError(f"user_vecs are {user.dtype} and item_table is {table.dtype}")


def _check_range(index: Tensor, items: int) -> None:
    if index.device.type == "cpu" and index.numel():
        low, high = (int(bound) for bound in torch.aminmax(index))
        if low < 0 or high >= items:
            raise IndexError(f"item_index must be in [0, {items}), got {low if low < 0 else high}")
