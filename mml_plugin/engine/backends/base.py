"""What a backend must do. Tensors in, tensors out; all of a call's tensors are on one device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from mml_plugin.engine.ranking import ItemLists

# F.normalize divides by at least this.
NORM_FLOOR = 1e-12
# torch.optim.Adam's defaults.
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
# A bound that is computed in floating point is one with this factor.
ROUNDING = 1.01
# clip_grad_norm_'s.
CLIP_EPSILON = 1e-6


@dataclass(frozen=True)
class Positives:
    """Each user's training items, for exclusion: ``items[indptr[u]:indptr[u+1]]``, sorted and distinct corpus rows."""

    indptr: Tensor
    items: Tensor


@dataclass
class TableState:
    """A parameter with its gradient, its Adam moments and what is known of its norms.

    Attributes:
        weight: ``[R, d]``, the parameter's data.
        grad: ``[R, d]``; zero but for touched rows.
        touched: ``[R]`` uint8, rows that received a gradient since the last step.
        first, second: Adam's moments.
        squared_norms: ``[R]``, each row's squared norm as of the last step.
        decay: lambda of the L2 term.
        deferred: what :meth:`Backend.defer_item_gradient` returned, until the step has taken it; ``grad`` is zero then.
    """

    weight: Tensor
    grad: Tensor
    touched: Tensor
    first: Tensor
    second: Tensor
    squared_norms: Tensor
    decay: float = 0.0
    deferred: object | None = None

    @classmethod
    def of(cls, parameter: nn.Parameter, decay: float = 0.0) -> TableState:
        """A fresh state; a parameter of another shape is seen as ``[R, d]``. Its data may move in memory."""
        own = zeros_like(parameter.detach())
        own.copy_(parameter.detach())
        parameter.data = own
        rows = own.reshape(len(own) if own.dim() else 1, -1)
        state = cls(
            weight=rows,
            grad=zeros_like(rows),
            touched=torch.zeros(len(rows), dtype=torch.uint8, device=rows.device),
            first=zeros_like(rows),
            second=zeros_like(rows),
            squared_norms=torch.empty(len(rows), dtype=rows.dtype, device=rows.device),
            decay=float(decay),
        )
        state.measure()
        return state

    def measure(self) -> None:
        """Compute the squared norms anew, after somebody else wrote the weight."""
        torch.sum(self.weight * self.weight, dim=1, out=self.squared_norms)

    def forget_gradient(self) -> None:
        """Drop what a step that broke off has left behind."""
        self.grad.zero_()
        self.touched.zero_()
        self.deferred = None

    def add_dense(self, gradient: Tensor) -> None:
        """Add a gradient of the whole parameter."""
        self.grad += gradient.reshape(self.grad.shape)
        self.touched.fill_(1)


def zeros_like(tensor: Tensor) -> Tensor:
    """Zeros of the same shape. On a CPU numpy allocates them, since it asks for huge pages and torch does not."""
    if tensor.device.type != "cpu":
        return torch.zeros_like(tensor, memory_format=torch.contiguous_format)
    return torch.from_numpy(np.zeros(tensor.shape, dtype=torch.empty(0, dtype=tensor.dtype).numpy().dtype))


@dataclass(frozen=True)
class AdamConstants:
    """One Adam step's numbers, bias correction folded in: w -= rate * m / (sqrt(v) + epsilon).

    ``rate`` and ``epsilon`` are float64 tensors of one element where the step is counted on the device.
    """

    rate: float | Tensor
    epsilon: float | Tensor
    beta1: float = BETA1
    beta2: float = BETA2

    @classmethod
    def at(
        cls,
        step: int | Tensor,
        rate: float | Tensor,
        beta1: float = BETA1,
        beta2: float = BETA2,
        epsilon: float = EPSILON,
    ) -> AdamConstants:
        """The constants of the given step, 1-based."""
        root = (1 - beta2**step) ** 0.5
        return cls(rate * root / (1 - beta1**step), epsilon * root, beta1, beta2)


class Attend(Protocol):
    """Pools attended histories, differentiable in the first three arguments."""

    def __call__(
        self, items: Tensor, key: Tensor, asked: Tensor, lengths: Tensor, mask: Tensor | None, absent: Tensor
    ) -> Tensor:
        """Pooled histories ``[B, d]``.

        Args:
            items, key: ``[k, d]`` vectors and keys of :attr:`HistoryItems.ids`.
            asked: ``[B, d]`` what the keys are multiplied with.
            lengths: ``[B]`` entries of each row.
            mask: ``[n]`` dropout factors of the attention weights, or None.
            absent: ``[B]`` what padding adds to each denominator.
        """


@dataclass(frozen=True)
class HistoryItems:
    """The items of a batch's histories, each once.

    Attributes:
        ids: ``[k]`` rows of the history table, ascending.
        attend: attention over the histories that they came from.
    """

    ids: Tensor
    attend: Attend


@dataclass(frozen=True)
class Settled:
    """What :meth:`LateRows.settle` found.

    Attributes:
        square: ``|W|^2`` now.
        before: the sum of what it was before each of the noted steps.
    """

    square: float
    before: float


class LateRows(Protocol):
    """A table whose rows take their Adam steps when they are next read, with the bits of :meth:`Backend.adam`."""

    @property
    def full(self) -> bool:
        """Whether no further step can be noted before :meth:`settle`."""

    @property
    def bound(self) -> float:
        """At least the table's norm ``|W|``, unless it is no finite number."""

    def read(self, rows: Tensor) -> None:
        """Bring these rows up to date; the next step may touch them and no others."""

    def step(self, constants: AdamConstants, clip: float) -> None:
        """Step the touched rows, clear their gradients, and note the step for the others."""

    def settle(self) -> Settled | None:
        """Bring every row up to date; None where no step was noted."""


@dataclass(frozen=True)
class PlainUsers:
    """User vectors without autograd.

    Attributes:
        vectors: ``[B, d]``.
        backward: adds the gradient of the users' table, given dL/d(vectors), to its state.
    """

    vectors: Tensor
    backward: Callable[[Tensor, TableState], None]


class CannotStart(Exception):
    """What only trying to start a backend tells: why it cannot run here."""


class Backend(ABC):
    """One way to compute sampled scores, draws, and the dense step."""

    name: str = ""
    index_dtype: torch.dtype = torch.int64
    # Of the vectors that sampled scores take; training takes the wider two alone.
    dtypes: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

    def may_wait(self, data: Tensor) -> bool:
        """Whether the host may look at the data before it goes on; for a GPU that would be a wait in every step."""
        return not data.is_cuda

    def try_out(self, device: torch.device) -> None:  # noqa: B027  # most work wherever they can be imported
        """Run something small on the device, where only that tells whether the backend works there.

        Raises:
            CannotStart: when it does not.
        """

    def follow_threads(self) -> None:  # noqa: B027  # torch itself needs nothing
        """Use as many threads as torch does now, in the thread that calls."""

    def capture_obstacle(self, excluding: bool) -> str:
        """Why a step cannot be captured as a CUDA graph, with or without positives excluded; "" when it can."""
        return ""

    @abstractmethod
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
        """Fill ``out[:, 1:]`` with sampled items' table rows (``sampler.NegativeSampler`` says which)."""

    @abstractmethod
    def dropout(self, rows: Tensor, width: int, rate: float, *, seed: int, stream: int, epoch: int | Tensor, dtype):
        """Dropout factors ``[B, width]``: 0 or 1 / (1 - rate)."""

    @abstractmethod
    def scores(self, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        """``<user[b], table[index[b, j]]> * inverse[index[b, j]]`` as ``[B, 1+N]``; ``inverse`` None: 1."""

    @abstractmethod
    def user_gradient(self, grad: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None) -> Tensor:
        """dL/d(user) ``[B, d]`` from dL/dy; entries of ``grad`` that are 0 are skipped."""

    @abstractmethod
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
        """Add dL/d(table) to ``out`` and mark its rows in ``touched``; zero entries of ``grad`` are skipped."""

    def defer_item_gradient(
        self, grad: Tensor, y: Tensor, user: Tensor, table: Tensor, index: Tensor, inverse: Tensor | None
    ) -> object | None:
        """What :meth:`squared_gradient_norm` and :meth:`adam` can make dL/d(table) of as they go, row by row.

        It is for :attr:`TableState.deferred`, with no other gradient beside it but :meth:`add_pull`'s, and holds until
        this thread next calls it or :meth:`item_gradient`. None where :meth:`item_gradient` does as well.
        """
        return None

    def plain_users(
        self, table: Tensor, ids: Tensor, mask: Tensor | None, normalized: bool, dropout_first: bool
    ) -> PlainUsers | None:
        """Vectors of users that are a row of a table and nothing else; None leaves them to autograd."""
        return None

    def history_items(self, ids: Tensor, rows: int) -> HistoryItems | None:
        """The distinct ones of history entries ``ids[n]``, row after row, of a table of so many rows.

        None leaves attention to torch's own operations, entry by entry.
        """
        return None

    @abstractmethod
    def add_rows(self, rows: Tensor, values: Tensor, state: TableState) -> None:
        """``state.grad[rows[k]] += values[k]`` for repeated rows too."""

    def add_pull(self, state: TableState, rows: Tensor, share: float) -> Tensor | float:
        """Add ``share`` times the row to the gradient of each of ``rows``, as often as it is there.

        With a limit on the gradient's norm nothing of the table may be deferred.

        Returns:
            The sum of the rows' ``|w|^2``, repeated ones too, as of the last step.
        """
        counts = _counts(rows, len(state.weight), state.weight.dtype)
        state.grad.addcmul_(counts[:, None], state.weight, value=share)
        state.touched.masked_fill_(counts > 0, 1)
        return (counts * state.squared_norms).sum(dtype=torch.float64)

    @abstractmethod
    def squared_gradient_norm(
        self, states: Sequence[TableState], squared_weights: Sequence[Tensor | float]
    ) -> Tensor | float:
        """``|g + decay W|^2`` over all states, whose ``|W|^2`` are given; what was deferred is written to ``grad``."""

    def gradient_norm_bound(self, states: Sequence[TableState], weight_norms: Sequence[Tensor | float]) -> float | None:
        """At least ``|g + decay W|`` over all states, whose ``|W|`` are at most as given.

        None where the norm itself is as cheap.
        """
        return None

    @abstractmethod
    def adam(
        self, states: Sequence[TableState], constants: AdamConstants, clip: Tensor | float
    ) -> list[Tensor | float]:
        """Step each state on ``clip * (g + decay W)``, clear gradients, renew row norms; returns the new ``|W|^2``."""

    def late_rows(self, state: TableState) -> LateRows | None:
        """The table with rows that step late, all up to date now; None where every step moves every row."""
        return None

    def clip_factor(self, squared: Tensor, limit: float) -> Tensor:
        """What brings a gradient of that squared norm down to the limit; 1 below it."""
        return (limit / (squared.clamp_min(0).sqrt() + CLIP_EPSILON)).clamp_max(1)

    def adam_constants(self, step: Tensor, rate: Tensor) -> AdamConstants:
        """The constants of a step that is counted on the device, in float64 tensors of one element."""
        return AdamConstants.at(step, rate)

    def shuffled(self, count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
        """The epoch's order of training rows, as ``sampler.shuffled`` defines it."""
        from mml_plugin.engine.sampler import shuffled

        return shuffled(count, seed, epoch, device)

    def top_items(
        self, user_vecs: Tensor, item_vecs: Tensor, k: int, rows: Tensor, exclude: tuple[ItemLists, ...]
    ) -> Tensor:
        """As ``ranking.top_items`` says; ``rows[U]`` are the vectors' user rows."""
        from mml_plugin.engine.ranking import top_by_blocks

        return top_by_blocks(user_vecs, item_vecs, k, self, rows, exclude)

    def top(self, scores: Tensor, k: int) -> Tensor:
        """The k best columns of each row, as ``ranking.stable_top`` defines them."""
        from mml_plugin.engine.ranking import stable_top

        return stable_top(scores, k)

    def inverse_norms(self, state: TableState) -> Tensor:
        """``1 / max(|w_r|, 1e-12)`` per row."""
        return state.squared_norms.sqrt().clamp_min(NORM_FLOOR).reciprocal()

    def norm_ceiling(self) -> float:
        """Inverse norms from here on belong to rows below the floor, which normalisation does not project."""
        return 1 / NORM_FLOOR

    def bands(self, y: Tensor, grad: Tensor, thresholds: Tensor, counts: Tensor, sums: Tensor) -> None:
        """Add to ``counts[K+1]`` the negatives in each band and to ``sums[K+1]`` their ``|dL/dy|``."""
        band = torch.bucketize(y[:, 1:].contiguous(), thresholds).flatten()
        if not self.may_wait(y):
            _add_bands(band, grad[:, 1:].abs().flatten(), counts, sums)
            return
        counts += torch.bincount(band, minlength=len(counts))
        sums.index_add_(0, band, grad[:, 1:].abs().flatten().to(sums.dtype))


def _add_bands(band: Tensor, grad: Tensor, counts: Tensor, sums: Tensor) -> None:
    """As bincount, band by band: a GPU's bincount makes the host wait for the largest band."""
    for k in range(len(counts)):
        here = band == k
        counts[k] += here.sum()
        sums[k] += (grad * here).sum(dtype=sums.dtype)


def _counts(rows: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """How often each of ``size`` rows is in ``rows``; a GPU's bincount would make the host wait."""
    if not rows.is_cuda:
        return torch.bincount(rows, minlength=size).to(dtype)
    return torch.zeros(size, dtype=dtype, device=rows.device).index_add_(0, rows, torch.ones_like(rows, dtype=dtype))
