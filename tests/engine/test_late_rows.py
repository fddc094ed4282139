"""Rows that step late: the same weights and moments, to the bit, as when every step moves every row."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.engine import backends, late_tables
from mml_plugin.engine.backends import numba_kernels as kernels
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


def train(fused, steps, dtype, delayed, epochs=1, seed=2):
    """The penalties of all steps, after the last of which no row is behind."""
    penalties = 0.0
    users, items = fused.states["users"], fused.states["items"]
    for epoch in range(epochs):
        fused.measure()
        assert fused.delay("users") if delayed else True
        for rows, gradient, of_items in batches(dtype, steps, seed + epoch):
            fused.read("users", rows)
            fused.backend.add_rows(rows[:4], gradient[:4], users)
            items.add_dense(of_items)
            penalties += fused.penalty()
            fused.step()
        penalties += fused.settle()
        fused.rate *= 0.5
    return penalties


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 1e-8, 0.3])
@pytest.mark.parametrize("limit", [math.inf, 10.0])
@pytest.mark.parametrize("capacity", [3, 4096])
def test_late_steps_are_the_same_steps(dtype, decay, limit, capacity, monkeypatch):
    monkeypatch.setattr(numba_late.LateRows.__init__, "__defaults__", (capacity,))
    late, dense = optimiser(dtype, decay, limit), optimiser(dtype, decay, limit)
    found = train(late, 20, dtype, True, epochs=2), train(dense, 20, dtype, False, epochs=2)
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert (found[0] > 0) == (decay > 0)
    assert_same(late, dense)


def assert_same(late, dense):
    for name, state in dense.states.items():
        for field in ("weight", "first", "second", "squared_norms", "grad", "touched"):
            assert torch.equal(getattr(late.states[name], field), getattr(state, field)), (name, field)
    assert late._squares == dense._squares
    assert late.steps == dense.steps


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whatever_the_sizes_of_penalty_and_gradient(dtype):
    """Clipping, too, is the same to the last bit, where sums of very different numbers are rounded."""
    draw = np.random.default_rng(5)
    for seed in range(40):
        decays, limit = draw.choice([0.0, 1e-9, 1e-4, 0.3, 5.0], 2), draw.choice([0.1, 1.0, 10.0])
        pair = [optimiser(dtype, 0.0, limit, seed), optimiser(dtype, 0.0, limit, seed)]
        for fused in pair:
            for state, decay in zip(fused.states.values(), decays):
                state.decay = float(decay)
        found = [train(fused, 6, dtype, fused is pair[0], epochs=2, seed=seed) for fused in pair]
        assert found[0] == pytest.approx(found[1], rel=1e-12)
        assert_same(*pair)


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


@settings(max_examples=30)
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
    square = late.settle().square
    assert late.bound == pytest.approx(math.sqrt(square), rel=0.02)


def test_a_gradient_that_is_no_number_spreads_as_in_a_dense_step():
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


@pytest.mark.parametrize("kernel", ["catch_up", "step_rows"])
def test_a_part_belongs_to_one_worker_however_many_there_are(kernel):
    """Each worker adds to the sums of its parts alone, in the order of the rows: sums with the same last bits."""
    draw = np.random.default_rng(1)
    rows = draw.permutation(300)
    found = []
    for workers in (1, 2, 3, 5):
        tables = [np.random.default_rng(2).random((300, DIM)) for _ in range(4)]
        stepped, squares, noted = np.zeros(300, np.int32), np.zeros((kernels.PARTS, 3)), np.full((3, 3), 0.1)
        words = (workers, rows, *tables[:3], np.zeros(300), stepped)
        if kernel == "catch_up":
            numba_late.catch_up(*words, 3, *noted, 0.9, 0.999, squares)
        else:
            numba_late.step_rows(*words, tables[3], np.ones(300, np.uint8), 1, 0.1, 1.0, 0.1, 0.1, 0.9, 0.999, squares)
        assert stepped.min() == stepped.max() > 0
        found.append(squares)
    assert found[0].sum() > 0
    assert all((squares == found[0]).all() for squares in found)


@pytest.mark.parametrize("variant", [{}, {"regularizer": 1e-2, "negative_weight": 20000.0}])
def test_two_hundred_steps_equal_recboxs(variant, golden_params, tmp_path, monkeypatch):
    """Fed recbox's batches, in float64; with the second variant the clipping bites."""
    monkeypatch.setattr(late_tables, "SELDOM", 0)
    pair = Pair({**golden_params("MF_ccl"), **variant}, tmp_path, "numba")
    trainer, step = pair.trainer, pair.trainer.step
    trainer._delay()
    assert len(trainer._reads) == 2

    def announced(batch):
        for name, rows_of in trainer._reads.items():
            trainer.optimiser.read(name, rows_of(batch))
        return step(batch)

    trainer.step = announced
    theirs, ours, bites = pair.run(200)
    assert sum(ours) + trainer.optimiser.settle() == pytest.approx(sum(theirs), rel=1e-10)
    assert bool(variant) == (bites > 100)
    own = trainer.module.state_dict()
    for name, value in pair.model.state_dict().items():
        assert (value - own[name]).abs().max().item() <= 1e-8, name


def both_ways(golden_params, monkeypatch, name, run):
    """The trainers on which ``run`` was called, with every table that may be late late, and with none."""
    found = []
    for seldom in (0, math.inf):
        monkeypatch.setattr(late_tables, "SELDOM", seldom)
        torch.manual_seed(1)
        trainer = make_trainer(golden_params(name), "numba", torch.float32)
        run(trainer)
        found.append(trainer)
    for one, other in zip(*(made.module.state_dict().items() for made in found)):
        assert torch.equal(one[1], other[1]), one[0]
    late, dense = (made.optimiser.state_dict()["moments"] for made in found)
    for key, moments in dense.items():
        for field, value in moments.items():
            assert torch.equal(late[key][field], value), (key, field)
    return found


@pytest.mark.parametrize("name", ["MF_mml", "SimpleX_uatt_mml", "SimpleX_mean_g1_mml", "SimpleX_mean_bias_ccl"])
def test_whole_epochs_are_the_same(name, golden_params, monkeypatch):
    losses = []

    def run(trainer):
        losses.append([])
        for _ in range(3):
            losses[-1].append(trainer.train_epoch()[0])
            trainer._load(dict(trainer.module.state_dict()))  # as on a plateau
            trainer.optimiser.rate *= 0.5

    both_ways(golden_params, monkeypatch, name, run)
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)  # a step's loss is float32, what settles is not


def test_no_row_is_behind_at_the_last_result_nor_where_the_epoch_is_left(golden_params, monkeypatch):
    def to_the_last(trainer):
        steps = trainer.steps(0)
        for _ in range(trainer.batches.per_epoch):
            next(steps)
        trainer.kept = steps  # neither exhausted nor closed

    def left(trainer):
        steps = trainer.steps(0)
        next(steps)
        next(steps)
        steps.close()

    for run in (to_the_last, left):
        both_ways(golden_params, monkeypatch, "MF_mml", run)


def test_an_open_epoch_does_not_spoil_what_comes_after_it(golden_params, monkeypatch, tmp_path):
    def another(trainer):
        trainer.kept = trainer.steps(0)
        next(trainer.kept)
        next(trainer.kept)
        trainer.train_epoch()

    def reloaded(trainer):
        start = {name: value.clone() for name, value in trainer.module.state_dict().items()}
        trainer.kept = trainer.steps(0)
        next(trainer.kept)
        next(trainer.kept)
        trainer._load(start)
        trainer.train_epoch()

    def resumed(trainer):
        trainer.state_path = tmp_path / "state"
        trainer.save()
        trainer.kept = trainer.steps(0)
        next(trainer.kept)
        next(trainer.kept)
        trainer.restore()
        trainer.train_epoch()

    for run in (another, reloaded, resumed):
        both_ways(golden_params, monkeypatch, "MF_mml", run)


def test_a_gradient_of_a_broken_off_step_is_forgotten(golden_params, monkeypatch):
    monkeypatch.setattr(late_tables, "SELDOM", 0)
    torch.manual_seed(1)
    trainer = make_trainer(golden_params("MF_mml"), "numba", torch.float32)
    steps = trainer.steps(0)
    next(steps)
    real, trainer.optimiser.step = trainer.optimiser.step, lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(steps)
    trainer.optimiser.step = real
    assert any(state.touched.any() for state in trainer.optimiser.states.values())
    trainer._delay()
    for state in trainer.optimiser.states.values():
        assert not state.touched.any()
        assert not state.grad.any()


def late_names(trainer):
    """What an epoch would delay: "users", "items"."""
    tables = {id(trainer.model.user_table): "users", id(trainer.model.item_table): "items"}
    trainer._delay()
    found = sorted(tables[id(trainer._parameters[name])] for name in trainer._reads)
    trainer._settle()
    return found


def test_a_table_of_sixteen_times_what_a_batch_reads_is_late(golden_params):
    trainer = make_trainer(golden_params("MF_ccl"), "numba", torch.float32)
    users, items = len(trainer.model.user_table), len(trainer.model.item_table)
    assert late_names(trainer) == []
    set_to(trainer, batch_size=users // 16, num_negs=items)
    assert late_names(trainer) == ["users"]
    set_to(trainer, batch_size=users // 16 + 1)
    assert late_names(trainer) == []
    # A batch reads 1 + num_negs items for each user.
    set_to(trainer, batch_size=1, num_negs=items // 16 - 1)
    assert late_names(trainer) == ["items", "users"]
    set_to(trainer, batch_size=1, num_negs=items // 16)
    assert late_names(trainer) == ["users"]


def set_to(trainer, **changes):
    trainer.settings.__dict__.update(changes)


def test_only_tables_that_the_batch_alone_reads_are_late(golden_params, monkeypatch):
    monkeypatch.setattr(late_tables, "SELDOM", 0)

    def made(name, **changes):
        trainer = make_trainer(golden_params(name), "numba", torch.float32)
        model = trainer.model
        trainer.model = SimpleNamespace(**{**model.__dict__, **{k: change(model) for k, change in changes.items()}})
        return trainer

    assert late_names(made("MF_ccl")) == ["items", "users"]
    assert late_names(made("MF_ccl", item_tower=lambda model: len)) == []
    assert late_names(made("MF_ccl", user_table=lambda model: model.item_table)) == []
    assert late_names(made("MF_ccl", user_bias=lambda model: model.user_table)) == ["items"]
    # Histories go through modules of the model's own, which may read anything; with gamma 1 there are none.
    assert late_names(made("SimpleX_uatt_mml")) == []
    assert late_names(made("SimpleX_mean_g1_mml")) == ["items", "users"]
    penalised = made("MF_ccl")
    set_to(penalised, batch_penalty=0.1)
    assert late_names(penalised) == ["items", "users"]
    fused = make_trainer(golden_params("MF_ccl"), "reference", torch.float32).optimiser
    assert not any(fused.delay(name) for name in fused.states)


def test_a_step_that_announces_no_rows_is_refused():
    fused = optimiser(torch.float32, 0.0, 10.0)
    fused.delay("users")
    with pytest.raises(ValueError, match="which rows it has read"):
        fused.step()
