"""Rows that step late: the same weights and moments, to the bit, as when every step moves every row."""

from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.engine import backends
from mml_plugin.engine import trainer as engine_trainer
from mml_plugin.engine.backends import numba_late
from mml_plugin.engine.backends.base import AdamConstants, TableState
from mml_plugin.engine.optimiser import FusedAdam

from .fed import Pair, make_trainer

CPU = torch.device("cpu")
ROWS, DIM = 23, 5


def optimiser(dtype, decay, limit, seed=1):
    """An Adam of a table that may be delayed and one that may not, on numba."""
    draw = torch.Generator().manual_seed(seed)
    states = {
        name: TableState.of(torch.nn.Parameter(torch.randn(rows, DIM, generator=draw, dtype=dtype)), decay)
        for name, rows in (("users", ROWS), ("items", 7))
    }
    return FusedAdam(states, backends.select("numba", CPU), 0.05, limit)


def batches(dtype, steps, seed=2, size=6):
    """Rows that each step reads, some twice, and gradients of part of them and of all items."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(0, ROWS, (size,), generator=draw)
        scale = 10 ** (4 * torch.rand(1, generator=draw, dtype=dtype) - 2)
        gradient = torch.randn(size, DIM, generator=draw, dtype=dtype) * scale
        yield rows, gradient, torch.randn(7, DIM, generator=draw, dtype=dtype) * scale


def train(fused, steps, dtype, delayed):
    """The penalties of all steps, after the last of which no row is behind."""
    if delayed:
        assert fused.delay("users")
    penalties = 0.0
    users, items = fused.states["users"], fused.states["items"]
    for rows, gradient, of_items in batches(dtype, steps):
        fused.read("users", rows)
        fused.backend.add_rows(rows[:4], gradient[:4], users)
        items.add_dense(of_items)
        penalties += fused.penalty()
        fused.step()
    return penalties + fused.settle()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 1e-8, 0.3])
@pytest.mark.parametrize("limit", [math.inf, 10.0])
@pytest.mark.parametrize("capacity", [3, 4096])
def test_late_steps_are_the_same_steps(dtype, decay, limit, capacity, monkeypatch):
    monkeypatch.setattr(numba_late.LateRows.__init__, "__defaults__", (capacity,))
    late, dense = optimiser(dtype, decay, limit), optimiser(dtype, decay, limit)
    found = train(late, 40, dtype, delayed=True), train(dense, 40, dtype, delayed=False)
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert (found[0] > 0) == (decay > 0)
    assert_same(late, dense)


def assert_same(late, dense):
    for name, state in dense.states.items():
        for field in ("weight", "first", "second", "squared_norms", "grad", "touched"):
            assert torch.equal(getattr(late.states[name], field), getattr(state, field)), (name, field)
    assert late._squares == dense._squares
    assert late.steps == dense.steps


@pytest.mark.parametrize("limit", [math.inf, 10.0])
def test_late_steps_are_torchs(limit):
    """torch's own Adam, clipping and autograd through the penalty are the truth."""
    dtype, decay = torch.float64, 0.3
    fused = optimiser(dtype, decay, limit)
    parameters = {name: torch.nn.Parameter(state.weight.clone()) for name, state in fused.states.items()}
    adam, penalties = torch.optim.Adam(parameters.values(), lr=0.05), 0.0
    for rows, gradient, of_items in batches(dtype, 40):
        adam.zero_grad()
        penalty = decay / 2 * sum(p.square().sum() for p in parameters.values())
        scored = (parameters["users"][rows[:4]] * gradient[:4]).sum() + (parameters["items"] * of_items).sum()
        (scored + penalty).backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), limit)
        adam.step()
        penalties += float(penalty.detach())
    assert train(fused, 40, dtype, delayed=True) == pytest.approx(penalties, rel=1e-12)
    for name, parameter in parameters.items():
        torch.testing.assert_close(fused.states[name].weight, parameter.detach(), rtol=1e-10, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), steps=st.integers(1, 30), rate=st.floats(1e-6, 1.0))
def test_no_norm_is_above_its_bound(seed, steps, rate):
    """The gradient that grows a row the fastest is among those that are tried."""
    draw = np.random.default_rng(seed)
    state = TableState.of(torch.nn.Parameter(torch.randn(ROWS, DIM, dtype=torch.float64) * float(draw.random())), 0.1)
    backend = backends.select("numba", CPU)
    late = backend.late_rows(state)
    everyone = torch.arange(ROWS)
    growth = draw.choice([0.9, 1.0, 1.0 / 0.9])
    for step in range(1, steps + 1):
        late.read(everyone)
        state.grad[:] = state.weight.sign() * -(growth**step)
        state.touched.fill_(1)
        late.step(AdamConstants.at(step, rate), 1.0)
        # A read brings no row further here: all of them were touched.
        assert state.weight.norm() <= late.bound
    square, _ = late.settle()
    assert late.bound == pytest.approx(math.sqrt(square), rel=0.02)


def test_no_number_spreads_as_in_a_dense_step():
    late, dense = optimiser(torch.float32, 0.3, 10.0), optimiser(torch.float32, 0.3, 10.0)
    late.delay("users")
    for fused in (late, dense):
        for rows, gradient, _ in batches(torch.float32, 3):
            fused.read("users", rows)
            fused.backend.add_rows(rows, gradient * math.nan, fused.states["users"])
            fused.step()
    late.settle()
    assert dense.states["users"].weight.isnan().all()
    assert late.states["users"].weight.isnan().all()


def test_threads_change_no_bit():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    found = []
    for threads in (1, 2):
        fused = optimiser(torch.float32, 1e-3, 10.0)
        numba.set_num_threads(threads)
        penalties = train(fused, 40, torch.float32, delayed=True)
        found.append((penalties, fused.states["users"].weight))
    numba.set_num_threads(torch.get_num_threads())
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("variant", [{}, {"regularizer": 1e-2, "negative_weight": 20000.0}])
def test_two_hundred_steps_equal_recboxs(variant, golden_params, tmp_path):
    """Fed recbox's batches, in float64; with the second variant the clipping bites."""
    pair = Pair({**golden_params("MF_ccl"), **variant}, tmp_path, "numba")
    fused, step = pair.trainer.optimiser, pair.trainer.step
    step.reads = {name: rows_of for name, rows_of in delayed(pair.trainer, seldom=0).items() if fused.delay(name)}
    assert len(step.reads) == 2
    theirs, ours, bites = pair.run(200)
    assert sum(ours) + fused.settle() == pytest.approx(sum(theirs), rel=1e-10)
    assert bool(variant) == (bites > 100)
    own = pair.trainer.module.state_dict()
    for name, value in pair.model.state_dict().items():
        assert (value - own[name]).abs().max().item() <= 1e-8, name


def delayed(trainer, seldom):
    """Which tables an epoch would delay, and the rows it would announce, were ``seldom`` the bound."""
    patch = pytest.MonkeyPatch()
    with patch.context():
        patch.setattr(engine_trainer, "SELDOM", seldom)
        return trainer._seldom_read()


@pytest.mark.parametrize("name", ["MF_mml", "SimpleX_uatt_mml", "SimpleX_mean_g1_mml", "SimpleX_mean_bias_ccl"])
def test_whole_epochs_are_the_same(name, golden_params, monkeypatch):
    found = []
    for seldom in (0, math.inf):
        monkeypatch.setattr(engine_trainer, "SELDOM", seldom)
        torch.manual_seed(1)
        trainer = make_trainer(golden_params(name), "numba", torch.float32)
        losses = [trainer.train_epoch()[0] for _ in range(3)]
        found.append((losses, trainer.module.state_dict(), trainer.optimiser.state_dict(), trainer.step.reads))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)  # a step's loss is float32, what settles is not
    for key, value in found[1][1].items():
        assert torch.equal(found[0][1][key], value), key
    for key, moments in found[1][2]["moments"].items():
        for field, value in moments.items():
            assert torch.equal(found[0][2]["moments"][key][field], value), (key, field)
    assert found[0][3] == {}


def test_an_epoch_that_is_left_leaves_no_row_behind(golden_params, monkeypatch):
    found = []
    for seldom in (0, math.inf):
        monkeypatch.setattr(engine_trainer, "SELDOM", seldom)
        torch.manual_seed(1)
        trainer = make_trainer(golden_params("MF_mml"), "numba", torch.float32)
        steps = trainer.steps(0)
        for _ in range(3):
            next(steps)
        steps.close()
        found.append(trainer.module.state_dict())
    assert all(torch.equal(found[0][key], value) for key, value in found[1].items())


def test_only_tables_that_the_batch_alone_reads_are_delayed(golden_params):
    def names(experiment, seldom=0, **changes):
        trainer = make_trainer({**golden_params(experiment), **changes}, "numba", torch.float32)
        tables = {id(trainer.model.user_table): "users", id(trainer.model.item_table): "items"}
        parameters = trainer.step.parameters
        return sorted(tables[id(parameters[name])] for name in delayed(trainer, seldom))

    assert names("MF_ccl") == ["items", "users"]
    assert names("MF_ccl", seldom=1e9) == []
    own_histories = make_trainer(golden_params("SimpleX_uatt_mml"), "numba", torch.float32)
    assert len(delayed(own_histories, 0)) == 2
    model = own_histories.model
    tower = dataclasses.replace(model.history, table=model.item_table)
    own_histories.model = dataclasses.replace(model, history=tower)
    assert len(delayed(own_histories, 0)) == 1
    # A batch reads 1 + num_negs items for each user.
    trainer = make_trainer(golden_params("MF_ccl"), "numba", torch.float32)
    users, size = len(trainer.model.user_table), trainer.settings.batch_size
    assert names("MF_ccl", seldom=users / size) == ["users"]


def test_what_cannot_be_late_is_not(golden_params):
    trainer = make_trainer(golden_params("MF_ccl"), "numba", torch.float32)
    trainer.model = SimpleNamespace(**{**trainer.model.__dict__, "item_tower": lambda ids: None})
    assert delayed(trainer, 0) == {}
    trainer = make_trainer(golden_params("MF_ccl"), "numba", torch.float32)
    trainer.settings.__dict__["batch_penalty"] = 0.1
    assert delayed(trainer, 0) == {}
    fused = make_trainer(golden_params("MF_ccl"), "reference", torch.float32).optimiser
    assert not any(fused.delay(name) for name in fused.states)


def test_a_step_that_announces_no_rows_is_refused():
    fused = optimiser(torch.float32, 0.0, 10.0)
    fused.delay("users")
    with pytest.raises(ValueError, match="which rows it has read"):
        fused.step()
