"""The dense Adam pass on tables of many rows, which numba moves several at a time; torch's own step is the truth."""

from __future__ import annotations

import math

import numba
import pytest
import torch

from mml_plugin.engine import backends
from mml_plugin.engine.backends import numba_kernels as kernels
from mml_plugin.engine.backends.base import TableState
from mml_plugin.engine.optimiser import FusedAdam

CPU = torch.device("cpu")
# Parts of 24 rows and of one; the first ones have runs of every length up to the longest, and more than one of those.
ROWS = {"users": 24 * kernels.PARTS + 7, "items": kernels.PARTS - 1}
DECAYS = {"users": 0.3, "items": 0.0}


def tables(dim, dtype=torch.float64):
    draw = torch.Generator().manual_seed(1)
    return {name: torch.randn(rows, dim, generator=draw, dtype=dtype) for name, rows in ROWS.items()}


def gradients(dim, share, steps, dtype=torch.float64):
    """For each step and table the rows that have a gradient, each with the probability ``share``, and gradients."""
    draw = torch.Generator().manual_seed(2)
    for step in range(steps):
        found = {}
        for name, rows in ROWS.items():
            touched = (torch.rand(rows, generator=draw) < share).nonzero().flatten()
            # Norms on both sides of the limit.
            values = torch.randn(len(touched), dim, generator=draw, dtype=dtype) * 10 ** (step % 3 - 2)
            found[name] = touched, values
        yield found


def stepped(dim, share, limit, dtype=torch.float64):
    states = {
        name: TableState.of(torch.nn.Parameter(table), DECAYS[name]) for name, table in tables(dim, dtype).items()
    }
    fused = FusedAdam(states, backends.select("numba", CPU), 0.05, limit)
    for found in gradients(dim, share, 6, dtype):
        for name, (rows, values) in found.items():
            fused.backend.add_rows(rows, values, states[name])
        fused.step()
    return fused


@pytest.mark.parametrize("limit", [math.inf, 10.0])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("dim", [3, 64])
def test_a_step_is_torchs(dim, share, limit):
    parameters = {name: torch.nn.Parameter(table) for name, table in tables(dim).items()}
    adam = torch.optim.Adam(parameters.values(), lr=0.05)
    for found in gradients(dim, share, 6):
        for name, (rows, values) in found.items():
            parameters[name].grad = DECAYS[name] * parameters[name].detach()
            parameters[name].grad.index_add_(0, rows, values)
        torch.nn.utils.clip_grad_norm_(parameters.values(), limit)
        adam.step()
    fused = stepped(dim, share, limit)
    for name, parameter in parameters.items():
        state, moments = fused.states[name], adam.state[parameter]
        torch.testing.assert_close(state.weight, parameter.detach(), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(state.first, moments["exp_avg"], rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(state.second, moments["exp_avg_sq"], rtol=1e-10, atol=1e-16)
        torch.testing.assert_close(state.squared_norms, state.weight.square().sum(1), rtol=1e-12, atol=0)
        assert not state.grad.any()
        assert not state.touched.any()


@pytest.mark.parametrize("share", [0.02, 0.5])
def test_threads_change_no_bit(share):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    found = []
    for threads in (1, 2):
        torch_threads = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            found.append(stepped(64, share, 10.0, dtype=torch.float32))
        finally:
            torch.set_num_threads(torch_threads)
            numba.set_num_threads(min(torch_threads, numba.config.NUMBA_NUM_THREADS))
    for name, state in found[0].states.items():
        for field in ("weight", "first", "second", "squared_norms"):
            assert torch.equal(getattr(found[1].states[name], field), getattr(state, field)), (name, field)
