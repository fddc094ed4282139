"""A dense loss' item gradient, made anew where it is needed instead of written: torch's own step is the truth."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.engine import backends, late_tables, optimiser
from mml_plugin.engine import trainer as engine_trainer
from mml_plugin.engine.backends import numba_cpu
from mml_plugin.engine.backends import numba_items as by_item
from mml_plugin.engine.backends import numba_kernels as kernels
from mml_plugin.engine.backends.base import TableState
from mml_plugin.engine.optimiser import FusedAdam

from .fed import make_trainer

CPU = torch.device("cpu")
USERS, ITEMS = 9, 11 * kernels.PARTS + 5
# One that no vector register divides, and one that all do.
DIMS = pytest.mark.parametrize("dim", [7, 64])
DECAYS = {"users": 0.3, "items": 0.02}


class Tables:
    """User vectors and an item table under one loss, as numba steps them and as torch does."""

    def __init__(self, limit, normalize=True, dtype=torch.float64, seed=1, dim=7):
        draw = torch.Generator().manual_seed(seed)
        start = {"users": torch.randn(USERS, dim, generator=draw, dtype=dtype)}
        start["items"] = torch.randn(ITEMS, dim, generator=draw, dtype=dtype)
        # Below the floor of F.normalize: one of no direction, one of several entries and one of a single entry at most.
        start["items"][3] = 0
        start["items"][4:6] *= 1e-14
        self.limit, self.normalize, self.backend = limit, normalize, backends.select("numba", CPU)
        self.states = {name: TableState.of(torch.nn.Parameter(table), DECAYS[name]) for name, table in start.items()}
        self.fused = FusedAdam(self.states, self.backend, 0.05, limit)
        self.parameters = {name: torch.nn.Parameter(table.clone()) for name, table in start.items()}
        self.adam = torch.optim.Adam(self.parameters.values(), lr=0.05)

    def step(self, index, weights, deferring=True):
        """Ours, on the loss sum(weights * y)."""
        users, items = self.states["users"], self.states["items"]
        user, table = users.weight.clone(), items.weight
        inverse = self.backend.inverse_norms(items) if self.normalize else None
        y = self.backend.scores(user, table, index, inverse)
        by_user = self.backend.user_gradient(weights, table, index, inverse)
        found = weights, y, user, table, index, inverse
        if deferring:
            items.deferred = self.backend.defer_item_gradient(*found)
            assert items.deferred is not None
        else:
            self.backend.item_gradient(*found, items.grad, items.touched)
        self.backend.add_rows(torch.arange(USERS), by_user, users)
        self.fused.step()
        assert items.deferred is None
        assert not items.grad.any()
        assert not items.touched.any()

    def torch_step(self, index, weights):
        """torch's."""
        self.adam.zero_grad()
        table = self.parameters["items"]
        table = torch.nn.functional.normalize(table, dim=1) if self.normalize else table
        loss = (weights * (self.parameters["users"][:, None] * table[index.long()]).sum(-1)).sum()
        for name, parameter in self.parameters.items():
            loss = loss + DECAYS[name] / 2 * parameter.square().sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.limit)
        self.adam.step()

    def assert_same(self, other, tolerance=0.0):
        for name, state in self.states.items():
            for field in ("weight", "first", "second", "squared_norms"):
                theirs, ours = getattr(other.states[name], field), getattr(state, field)
                # Few digits stay of sums that all but cancel: what has a sign is held against the largest of its kind.
                atol = tolerance * float(ours.abs().max()) if field in ("weight", "first") else 0
                torch.testing.assert_close(theirs, ours, rtol=tolerance, atol=atol, msg=f"{name}.{field}")
        assert self.fused._squares == pytest.approx(other.fused._squares, rel=tolerance, abs=0)


def batches(width, size=1.0, steps=6, dtype=torch.float64, seed=2):
    """Indices that some items share and most have no part in, and weights of every entry but some of item 3."""
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        index = torch.randint(0, ITEMS, (USERS, width), generator=draw, dtype=torch.int32)
        index[:, 0] = 3
        index[: 1 + step, -1] = 4
        index[index == 5] = 6
        index[-1, -1] = 5
        weights = torch.randn(index.shape, generator=draw, dtype=dtype) * size * 10 ** (step % 3 - 2)
        weights[::2, 0] = 0
        yield index, weights


# So small a gradient that the bound tells it, so large a one that it is clipped, and both.
SIZES = pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
# Fewer entries than items, and more than numba_cpu.FEW per item.
WIDTHS = pytest.mark.parametrize("width", [2, 60, 5 * ITEMS // USERS])
LIMITS = pytest.mark.parametrize("limit", [math.inf, 10.0, 0.5])


@SIZES
@WIDTHS
@LIMITS
@DIMS
@pytest.mark.parametrize("normalize", [True, False])
def test_a_step_is_torchs(size, width, limit, dim, normalize):
    tables = Tables(limit, normalize, dim=dim)
    for index, weights in batches(width, size):
        tables.step(index, weights)
        tables.torch_step(index, weights)
        # A row of zeros has no direction: torch and we part where Adam divides nothing by nothing.
        for name, parameter in tables.parameters.items():
            torch.testing.assert_close(tables.states[name].weight, parameter.detach(), rtol=1e-8, atol=1e-9)
    for name, parameter in tables.parameters.items():
        state, moments = tables.states[name], tables.adam.state[parameter]
        torch.testing.assert_close(state.first, moments["exp_avg"], rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(state.squared_norms, state.weight.square().sum(1), rtol=1e-12, atol=0)


@SIZES
@WIDTHS
@LIMITS
@DIMS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_written_gradients_step(size, width, limit, dim, dtype):
    """To the bit in float32, in which models train; with numba 0.60, float64 was seen to end in other last bits."""
    tolerance = 0.0 if dtype == torch.float32 else 1e-10
    deferred, written = Tables(limit, dtype=dtype, dim=dim), Tables(limit, dtype=dtype, dim=dim)
    for index, weights in batches(width, size, dtype=dtype):
        deferred.step(index, weights)
        written.step(index, weights, deferring=False)
        deferred.assert_same(written, tolerance)


def test_the_norm_is_taken_only_where_the_bound_does_not_tell(monkeypatch):
    taken = []
    real = numba_cpu.Engine.squared_gradient_norm
    monkeypatch.setattr(
        numba_cpu.Engine, "squared_gradient_norm", lambda *arguments: taken.append(1) or real(*arguments)
    )
    monkeypatch.setattr(optimiser, "MEASURED", 2)
    # The first step's gradient is large whatever its entries are: items below the floor are divided by next to nothing.
    for size, width, expected in ((1e-3, 60, 3), (1e3, 60, 6), (1e-3, 5 * ITEMS // USERS, 6)):
        tables = Tables(100.0)
        for index, weights in batches(width, size):
            tables.step(index, weights)
        assert len(taken) == expected, (size, width)
        taken.clear()


@pytest.mark.parametrize("decay", [0.1, 5.0])
def test_a_late_tables_penalty_is_in_the_bound(decay):
    """With the larger one the users' L2 term alone is clipped, though no row of theirs has a gradient of that size."""
    late, dense = Tables(10.0, dtype=torch.float32), Tables(10.0, dtype=torch.float32)
    for tables in (late, dense):
        tables.states["users"].decay = decay
        tables.fused.measure()
    assert late.fused.delay("users")
    for index, weights in batches(60, 1e-3, dtype=torch.float32):
        index[index < 6] = 6
        late.fused.read("users", torch.arange(USERS))
        for tables in (late, dense):
            tables.step(index, weights)
    late.fused.settle()
    late.assert_same(dense)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**16), width=st.integers(1, 200), normalize=st.booleans(), exponent=st.integers(-8, 8))
def test_no_norm_is_above_its_bound(seed, width, normalize, exponent):
    tables = Tables(math.inf, normalize, seed=seed)
    index, weights = next(batches(width, 10.0**exponent, steps=1, seed=seed))
    users, items = tables.states["users"], tables.states["items"]
    inverse = tables.backend.inverse_norms(items) if normalize else None
    y = tables.backend.scores(users.weight, items.weight, index, inverse)
    tables.backend.add_rows(
        torch.arange(USERS), tables.backend.user_gradient(weights, items.weight, index, inverse), users
    )
    items.deferred = tables.backend.defer_item_gradient(weights, y, users.weight, items.weight, index, inverse)
    norms = [float(state.weight.norm()) for state in (users, items)]
    bound = tables.backend.gradient_norm_bound([users, items], norms)
    exact = tables.backend.squared_gradient_norm([users, items], [norm**2 for norm in norms])
    whole = [(state.grad + state.decay * state.weight).square().sum() for state in (users, items)]
    assert exact == pytest.approx(float(sum(whole)), rel=1e-9)
    assert bound is not None
    assert math.sqrt(exact) <= bound * (1 + 1e-9)
    # One entry per row and no direction lost: the bound is the norm.
    if width == 1 and not normalize:
        assert bound < 10 * math.sqrt(exact)


def test_a_weight_that_is_no_number_is_left_to_the_norm():
    tables = Tables(10.0)
    index, weights = next(batches(2, 1e-3))
    weights[1, 1] = math.nan
    tables.step(index, weights)
    assert tables.states["items"].weight.isnan().all()
    assert tables.states["users"].weight.isnan().all()


def test_threads_change_no_bit():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            tables = Tables(10.0, dtype=torch.float32)
            tables.backend.follow_threads()
            for index, weights in batches(60, dtype=torch.float32):
                tables.step(index, weights)
        finally:
            torch.set_num_threads(before)
            numba.set_num_threads(min(before, numba.config.NUMBA_NUM_THREADS))
        found.append(tables)
    found[0].assert_same(found[1])


def trained(params, monkeypatch, deferring, change=lambda trainer: None, limit=math.inf):
    """A trainer after two epochs on numba, and how often the item gradient was made in Adam's own pass."""
    passes = []
    with monkeypatch.context() as patched:
        real = by_item.adam
        patched.setattr(by_item, "adam", lambda *arguments: passes.append(1) or real(*arguments))
        if not deferring:
            patched.setattr(numba_cpu.Engine, "defer_item_gradient", lambda *arguments: None)
        torch.manual_seed(1)
        trainer = make_trainer(params, "numba", torch.float32)
        trainer.optimiser.max_norm = limit
        change(trainer)
        for _ in range(2):
            trainer.train_epoch()
    return trainer, len(passes)


@pytest.mark.parametrize("seldom", [0, math.inf])
@pytest.mark.parametrize("limit", [10.0, math.inf])
@pytest.mark.parametrize("name", ["MF_bpr", "MF_softmax", "MF_mse", "MF_bce"])
def test_whole_epochs_are_the_same(seldom, limit, name, golden_params, monkeypatch):
    """Whether or not the users step late, too."""
    monkeypatch.setattr(late_tables, "SELDOM", seldom)
    monkeypatch.setattr(numba_cpu, "FEW", math.inf)
    real = engine_trainer.seldom_read
    # Of so small a set a batch reads every item: they would be late.
    monkeypatch.setattr(
        engine_trainer, "seldom_read",
        lambda model, parameters, *more: {
            key: rows for key, rows in real(model, parameters, *more).items() if parameters[key] is model.user_table
        },
    )  # fmt: skip
    params = {**golden_params(name), "regularizer": 1e-4}
    (one, passes), (other, none) = (trained(params, monkeypatch, deferring, limit=limit) for deferring in (True, False))
    assert none == 0
    if math.isinf(limit):
        assert passes > 0
    for key, value in one.module.state_dict().items():
        assert torch.equal(value, other.module.state_dict()[key]), key
    moments, others = one.optimiser.state_dict()["moments"], other.optimiser.state_dict()["moments"]
    for key in moments:
        for field, value in moments[key].items():
            assert torch.equal(value, others[key][field]), (key, field)


def test_only_what_nothing_else_adds_to_is_deferred(golden_params, monkeypatch):
    def passes(name, change=lambda trainer: None, limit=math.inf, **params):
        return trained({**golden_params(name), **params}, monkeypatch, True, change, limit)[1]

    def penalised(trainer):
        trainer.step.batch_penalty = 0.1

    def one_table(trainer):
        table = trainer.model.item_table
        trainer.step.model = SimpleNamespace(**{**trainer.model.__dict__, "user_table": table})
        assert not trainer.step._may_defer(table)

    monkeypatch.setattr(late_tables, "SELDOM", math.inf)
    assert passes("MF_bpr") > 0
    assert passes("MF_bpr", penalised) > 0
    monkeypatch.setattr(numba_cpu, "FEW", math.inf)
    assert passes("MF_bpr", limit=1e6) > 0
    # The bound knows no batch's L2 term.
    assert passes("MF_bpr", penalised, limit=1e6) == 0
    assert passes("MF_bpr", optimizer="sgd") == 0
    assert passes("SimpleX_uatt_mml") == 0
    one_table(make_trainer(golden_params("MF_bpr"), "numba", torch.float32))
    monkeypatch.setattr(late_tables, "SELDOM", 0)
    assert passes("MF_bpr") == 0  # the items step late


def test_a_step_that_broke_off_leaves_nothing_to_the_next(golden_params, monkeypatch):
    monkeypatch.setattr(late_tables, "SELDOM", math.inf)
    trainer = make_trainer(golden_params("MF_bpr"), "numba", torch.float32)
    state = trainer.step._state_of[id(trainer.model.item_table)]
    real, trainer.optimiser.step = trainer.optimiser.step, lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(trainer.steps(0))
    assert state.deferred is not None
    trainer.optimiser.step = real
    monkeypatch.setattr(numba_cpu, "SPARSE", math.inf)
    next(trainer.steps(0))
    assert state.deferred is None
    assert not state.grad.any()


def test_a_gradient_that_a_broken_off_step_has_written_is_forgotten(golden_params, monkeypatch):
    monkeypatch.setattr(late_tables, "SELDOM", math.inf)
    trainer = make_trainer(golden_params("MF_bpr"), "numba", torch.float32)
    state = trainer.step._state_of[id(trainer.model.item_table)]
    with monkeypatch.context() as patched:
        patched.setattr(numba_cpu.Engine, "adam", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(trainer.steps(0))
    assert state.grad.any()
    trainer.optimiser.max_norm = math.inf
    next(trainer.steps(0))
    assert not state.grad.any()
    assert not state.touched.any()


def test_a_gradient_that_autograd_has_left_is_forgotten(golden_params, monkeypatch):
    """A layer's, where a step breaks off between its backward and its collection."""
    losses = []
    for breaks in (True, False):
        trainer = make_trainer(golden_params("SimpleX_uatt_mml"), "numba", torch.float32)
        if breaks:
            with monkeypatch.context() as patched:
                patched.setattr(numba_cpu.Engine, "add_rows", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    next(trainer.steps(0))
            assert any(parameter.grad is not None for parameter in trainer.step.parameters.values())
        losses.append([float(step.loss) for step in trainer.steps(0)])
    assert losses[0] == losses[1]


def interrupted(*arguments):
    raise KeyboardInterrupt


def test_tiny_users_do_not_vanish_from_the_bound():
    """Their squares are below float32's smallest number."""
    found = []
    for deferring in (True, False):
        tables = Tables(10.0, normalize=False, dtype=torch.float32)
        tables.states["users"].weight *= 1e-23
        for state in tables.states.values():
            state.decay = 0.0
        tables.fused.measure()
        index, weights = next(batches(60, 1e27, dtype=torch.float32))
        tables.step(index, weights, deferring)
        found.append(tables)
    found[0].assert_same(found[1])


def test_a_score_that_is_no_number_is_left_to_the_norm():
    tables = Tables(10.0)
    index, weights = next(batches(60, 1e-6))
    items, user = tables.states["items"], tables.states["users"].weight
    inverse = tables.backend.inverse_norms(items)
    y = tables.backend.scores(user, items.weight, index, inverse)
    tables.backend.user_gradient(weights, items.weight, index, inverse)
    y[2, 3] = math.nan
    items.deferred = tables.backend.defer_item_gradient(weights, y, user, items.weight, index, inverse)
    assert math.isnan(tables.backend.gradient_norm_bound([items], [1.0]))
