"""Rows that take their Adam steps late: kernels and the state they work on.

A step's dense Adam pass moves all of a table, though the batch reads few of its rows. A row that nobody reads can wait
and, when it is next read, take the steps it missed one after another: the same operations on the same numbers, so the
same bits, but its weights and moments come from memory once per read instead of once per step.
"""

from __future__ import annotations

import math

import numba
import numpy as np
from numba import njit, prange
from torch import Tensor

from mml_plugin.engine.backends.base import ROUNDING, AdamConstants, Settled, TableState
from mml_plugin.engine.backends.numba_kernels import PARTS, dot

# Steps that are noted before everybody has to take them.
CAPACITY = 4096


class LateRows:
    """As ``base.LateRows`` says.

    Args:
        state: the table.
        capacity: steps between two settlings, at most.
    """

    def __init__(self, state: TableState, capacity: int = CAPACITY) -> None:
        self._state, self._kind = state, state.weight.numpy().dtype.type
        self._stepped = np.zeros(len(state.weight), np.int32)
        # Of each noted step: what the L2 term multiplies a weight with, the rate, epsilon.
        self._noted = np.empty((3, capacity), self._kind)
        # Per part of the rows and noted step, the rows' |w|^2 after it; the parts make sums independent of threads.
        self._squares = np.zeros((PARTS, capacity), np.float64)
        self._count = 0
        self._read: np.ndarray | None = None
        self._square = self._present_square()
        self._bound = ROUNDING * math.sqrt(self._square)
        self._betas = self._kind(0), self._kind(0)

    @property
    def full(self) -> bool:
        return self._count == self._noted.shape[1]

    @property
    def bound(self) -> float:
        return self._bound

    def read(self, rows: Tensor) -> None:
        # In one type, for which the kernels are compiled once.
        self._read = rows.numpy().astype(np.int64, copy=False)
        catch_up(  # type: ignore[call-arg]
            numba.get_num_threads(), self._read, *self._arrays(), self._count, *self._noted, *self._betas, self._squares
        )

    def step(self, constants: AdamConstants, clip: float) -> None:
        if self._read is None:
            raise ValueError("a step of late rows needs to know which rows it has read")
        state, kind, at = self._state, self._kind, self._count
        decay, factor = kind(state.decay), kind(clip)
        self._noted[:, at] = factor * decay, kind(constants.rate), kind(constants.epsilon)
        self._betas = kind(constants.beta1), kind(constants.beta2)
        step_rows(  # type: ignore[call-arg]
            numba.get_num_threads(), self._read, *self._arrays(), state.grad.numpy(), state.touched.numpy(), at, decay,
            factor, *self._noted[1:, at], *self._betas, self._squares,
        )  # fmt: skip
        self._read = None
        self._count += 1
        self._bound += drift(constants, state.weight.numel())

    def settle(self) -> Settled | None:
        count = self._count
        if not count:
            return None
        settle(  # type: ignore[call-arg]
            *self._arrays(), count, *self._noted, *self._betas, self._squares
        )
        after = self._squares[:, :count].sum(axis=0)
        before = self._square + float(after[:-1].sum())
        self._squares[:, :count] = 0
        self._count = 0
        self._stepped[:] = 0
        self._square = self._present_square()
        self._bound = ROUNDING * math.sqrt(self._square)
        return Settled(self._square, before)

    def _present_square(self) -> float:
        return float(self._state.squared_norms.numpy().sum(dtype=np.float64))

    def _arrays(self) -> tuple[np.ndarray, ...]:
        state = self._state
        return *(t.numpy() for t in (state.weight, state.first, state.second, state.squared_norms)), self._stepped


def drift(constants: AdamConstants, size: int) -> float:
    """More than the norm of a table of ``size`` numbers can grow in a step.

    |m| <= sqrt(v) (1 - beta1) / sqrt((1 - beta2) (1 - beta1^2 / beta2)), by the inequality of Cauchy and Schwarz.
    """
    beta1, beta2 = constants.beta1, constants.beta2
    ratio = (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2))
    return ROUNDING * ratio * float(constants.rate) * math.sqrt(size)


# Called instead of copied into the kernels it would not use vector registers, and take four times as long.
@njit(inline="always")
def bring(r, weight, first, second, squared_norms, stepped, now, pulls, rates, epsilons, beta1, beta2, squares):
    """Row ``r`` takes the noted steps up to ``now``; as numba_kernels.adam moves a row without a gradient."""
    w, m, v = weight[r], first[r], second[r]
    one = weight.dtype.type(1)
    rest1, rest2 = one - beta1, one - beta2
    dim = weight.shape[1]
    for s in range(stepped[r], now):
        pull, rate, epsilon = pulls[s], rates[s], epsilons[s]
        for d in range(dim):
            step = pull * w[d]
            m[d] = beta1 * m[d] + rest1 * step
            v[d] = beta2 * v[d] + rest2 * step * step
            w[d] -= rate * m[d] / (np.sqrt(v[d]) + epsilon)
        squares[s] += dot(w, w)
    squared_norms[r] = dot(w, w)
    stepped[r] = now


@njit(parallel=True, cache=True)
def catch_up(
    workers, rows, weight, first, second, squared_norms, stepped, now, pulls, rates, epsilons, beta1, beta2, squares
):  # fmt: skip
    """Bring the read rows up to ``now``; a worker owns whole parts, so that a row that is read twice is its alone."""
    for worker in prange(workers):
        for k in range(rows.shape[0]):
            r = rows[k]
            if stepped[r] < now and r % PARTS % workers == worker:
                bring(
                    r, weight, first, second, squared_norms, stepped, now, pulls, rates, epsilons, beta1, beta2,
                    squares[r % PARTS],
                )  # fmt: skip


@njit(parallel=True, cache=True)
def settle(weight, first, second, squared_norms, stepped, now, pulls, rates, epsilons, beta1, beta2, squares):
    """Bring every row up to ``now``."""
    rows = weight.shape[0]
    for p in prange(PARTS):
        for r in range(p * rows // PARTS, (p + 1) * rows // PARTS):
            if stepped[r] < now:
                bring(
                    r, weight, first, second, squared_norms, stepped, now, pulls, rates, epsilons, beta1, beta2,
                    squares[p],
                )  # fmt: skip


@njit(parallel=True, cache=True)
def step_rows(
    workers, rows, weight, first, second, squared_norms, stepped, grad, touched, now, decay, clip, rate, epsilon,
    beta1, beta2, squares,
):  # fmt: skip
    """Step ``now`` of the touched ones of the read rows, as numba_kernels.adam does it; clears what was touched."""
    one = weight.dtype.type(1)
    rest1, rest2 = one - beta1, one - beta2
    for worker in prange(workers):
        for k in range(rows.shape[0]):
            r = rows[k]
            if r % PARTS % workers != worker or not touched[r]:
                continue
            touched[r] = 0
            w, m, v, g = weight[r], first[r], second[r], grad[r]
            for d in range(w.shape[0]):
                step = clip * (g[d] + decay * w[d])
                g[d] = 0
                m[d] = beta1 * m[d] + rest1 * step
                v[d] = beta2 * v[d] + rest2 * step * step
                w[d] -= rate * m[d] / (np.sqrt(v[d]) + epsilon)
            squared_norms[r] = dot(w, w)
            squares[r % PARTS, now] += squared_norms[r]
            stepped[r] = now + 1
