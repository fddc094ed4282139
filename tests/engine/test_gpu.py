"""On a real GPU: every backend against the reference on the CPU, the captured step, and that nothing waits."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mml_plugin import build_loss
from mml_plugin.devices import resolve_device
from mml_plugin.engine import backends
from mml_plugin.engine.backends.base import AdamConstants, Positives, TableState
from mml_plugin.engine.cuda_graph import GraphedStep
from mml_plugin.engine.ranking import per_user_metrics, top_items
from mml_plugin.engine.sampler import NegativeSampler
from mml_plugin.engine.scores import sampled_scores

from .fed import LearntTemperature, make_trainer
from .test_cuda_graph import assert_the_temperature_was_learnt
from .test_ranking import item_lists
from .test_sampled_scores import SHAPES, gradients, inputs, plain
from .test_sampler import ITEMS, SETTINGS

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def gpu():
    return resolve_device(0)


@pytest.fixture(params=["reference", "torch", "triton"])
def backend(request, gpu):
    info = next(info for info in backends.KNOWN if info.name == request.param)
    if info.obstacle(gpu):
        pytest.skip(f"{info.name} cannot run here: {info.obstacle(gpu)}")
    return backends.select(request.param, gpu)


def test_auto_takes_triton_from_7_5_on(gpu):
    wanted = "triton" if torch.cuda.get_device_capability(gpu) >= (7, 5) else "torch"
    assert backends.select("auto", gpu).name == wanted


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (512, 4000, 100, 64), (64, 500, 800, 48)])
@pytest.mark.parametrize("share", ["some", "none", "all"])
def test_value_and_gradients(backend, gpu, normalized, shape, share):
    user, table, index, weight, bias, scale = inputs(shape)
    weight = {"some": weight, "none": torch.zeros_like(weight), "all": torch.ones_like(weight)}[share]
    leaves = (user, table, bias, scale)
    there = index.to(gpu)
    y, found = gradients(
        lambda u, t, b, s: sampled_scores(u, t, there, normalized, item_bias=b, user_scale=s, backend=backend),
        [leaf.to(gpu) for leaf in leaves], weight.to(gpu),
    )  # fmt: skip
    wanted, grads = gradients(lambda u, t, b, s: plain(u, t, index, normalized, b, s), leaves, weight)
    assert torch.allclose(y.cpu(), wanted, rtol=1e-11, atol=1e-11)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours.cpu(), theirs, rtol=1e-10, atol=1e-10)


def test_float32_is_as_exact_as_float32_is(backend, gpu):
    user, table, index, *_ = inputs((64, 300, 30, 48), torch.float32)
    exact = plain(normalize(user).double(), table.double(), index, True)
    y = sampled_scores(normalize(user).to(gpu), table.to(gpu), index.to(gpu), True, backend=backend)
    assert (y.cpu() - exact).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tiny", [0.0, 1e-13])
def test_vectors_below_the_floor_are_not_projected(backend, gpu, dtype, tiny):
    user, table, index, weight, _, _ = inputs((6, 8, 5, 4), dtype)
    table[2] = tiny / 2
    index[0, 1], weight[0, 1] = 2, 1.0
    there = index.to(gpu)
    state = TableState.of(nn.Parameter(table.to(gpu)))
    inverse = backend.inverse_norms(state)
    _, found = gradients(
        lambda u, t: sampled_scores(u, t, there, True, backend=backend, inverse_norms=inverse),
        (user.to(gpu), state.weight), weight.to(gpu),
    )  # fmt: skip
    _, grads = gradients(lambda u, t: plain(u, t, index, True), (user.double(), table.double()), weight.double())
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours.cpu().double(), theirs, rtol=1e-4 if dtype == torch.float32 else 1e-9, atol=1e-5)


def moved(value, device):
    if isinstance(value, Positives):
        return Positives(value.indptr.to(device), value.items.to(device))
    return value.to(device) if isinstance(value, torch.Tensor) else value


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_same_negatives_as_on_a_cpu(backend, gpu, kind):
    ids = torch.arange(1, ITEMS + 1).flip(0)
    rows, users = torch.randperm(2**20)[:3000], torch.arange(3000) % 60
    drawn = []
    for device, one in ((CPU, backends.select("reference", CPU)), (gpu, backend)):
        keys = {name: moved(value, device) for name, value in SETTINGS[kind].items()}
        made = NegativeSampler.create(2**32 - 5, ids.to(device), one, **keys)
        positive = torch.zeros(len(rows), dtype=torch.int64, device=device)
        epoch = torch.full((1,), 4, device=device)
        drawn.append(made.index(epoch, rows.to(device), users.to(device), positive, 13).long().cpu())
        assert torch.equal(drawn[-1], made.index(4, rows.to(device), users.to(device), positive, 13).long().cpu())
    assert torch.equal(*drawn)


def test_the_same_order_and_dropout_as_on_a_cpu(backend, gpu):
    reference = backends.select("reference", CPU)
    for count in (1, 37, 100_001):
        assert torch.equal(backend.shuffled(count, 7, 3, gpu).cpu(), reference.shuffled(count, 7, 3, CPU))
    rows = torch.randperm(2**20)[:500]
    for dtype in (torch.float32, torch.float64):
        for rate in (0.1, 0.2, 0.5):
            keys = {"seed": 1, "stream": 3, "epoch": 2, "dtype": dtype}
            made = backend.dropout(rows.to(gpu), 65, rate, **keys)
            assert torch.equal(made.cpu(), reference.dropout(rows, 65, rate, **keys))


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
@pytest.mark.parametrize("shape", [(3000, 64), (500, 41), (2000, 1), (64,)])
def test_steps_of_adam(backend, gpu, dtype, close, shape):
    start = torch.randn(shape, dtype=dtype)
    reference = backends.select("reference", CPU)
    ours, theirs = TableState.of(nn.Parameter(start.to(gpu)), 0.05), TableState.of(nn.Parameter(start.clone()), 0.05)
    rows = torch.tensor([1, 0, 1, 30])
    values = torch.randn(4, theirs.weight.shape[1], dtype=dtype)
    count, rate = (torch.full((), v, dtype=torch.float64, device=gpu) for v in (0.0, 0.01))
    square = (ours.weight.double() ** 2).sum(), (theirs.weight.double() ** 2).sum()
    for step in range(1, 5):
        count += 1
        backend.add_rows(rows.to(gpu), values.to(gpu), ours)
        reference.add_rows(rows, values, theirs)
        norms = backend.squared_gradient_norm([ours], square[:1]), reference.squared_gradient_norm([theirs], square[1:])
        assert float(norms[0]) == pytest.approx(float(norms[1]), rel=close)
        clip = torch.full((), 0.3, dtype=torch.float64, device=gpu)
        square = (
            backend.adam([ours], backend.adam_constants(count, rate), clip)[0],
            reference.adam([theirs], AdamConstants.at(step, 0.01), 0.3)[0],
        )
        assert float(square[0]) == pytest.approx(float(square[1]), rel=close)
    for name in ("weight", "first", "second", "squared_norms", "grad", "touched"):
        assert torch.allclose(getattr(ours, name).cpu(), getattr(theirs, name), rtol=close, atol=close), name


def test_bands(backend, gpu):
    y, grad = torch.randn(64, 101, dtype=torch.float64), torch.randn(64, 101, dtype=torch.float64)
    edges = torch.tensor([-0.5, 0.0, 1.5], dtype=torch.float64)
    found = []
    for device, one in ((CPU, backends.select("reference", CPU)), (gpu, backend)):
        counts, sums = (torch.zeros(4, dtype=t, device=device) for t in (torch.int64, torch.float64))
        one.bands(y.to(device), grad.to(device), edges.to(device), counts, sums)
        found.append((counts.cpu(), sums.cpu()))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])


def test_the_same_ranking_as_on_a_cpu(backend, gpu, monkeypatch):
    monkeypatch.setattr("mml_plugin.engine.ranking.GPU_BLOCK_FLOATS", 40_000)  # several blocks
    generator = torch.Generator().manual_seed(0)
    user, item = (torch.randn(n, 16, dtype=torch.float64, generator=generator) for n in (300, 900))
    train, relevant = ([[(k * u + j) % 900 for j in range(u % 9)] for u in range(300)] for k in (7, 11))
    names = {"Recall(k=20)": ("Recall", 20), "NDCG(k=5)": ("NDCG", 5)}
    found = []
    for device, one in ((CPU, backends.select("reference", CPU)), (gpu, backend)):
        lists = [
            type(made)(made.indptr.to(device), made.items.to(device)) for made in map(item_lists, (train, relevant))
        ]
        users = torch.arange(300, device=device)
        top = top_items(user.to(device), item.to(device), 20, one, users, (lists[0],))
        found.append((top.cpu(), per_user_metrics(top, users, lists[1], 900, names)))
    assert torch.equal(found[0][0], found[1][0])
    for name in names:
        assert (found[0][1][name] == found[1][1][name]).all()


def test_ties_go_to_the_lowest_row(backend, gpu):
    scores = torch.tensor([[1.0, 2.0, 2.0, 0.0, 2.0], [float("nan"), -torch.inf, 1.0, 1.0, 1.0]], device=gpu)
    assert backend.top(scores, 2).tolist() == [[1, 2], [2, 3]]


def assert_alike(one, other, close):
    if one.optimiser.capturable:
        assert one.optimiser.steps == other.optimiser.steps
    assert float(one.tally.total) == pytest.approx(float(other.tally.total), rel=close)
    for key, value in one.module.state_dict().items():
        assert torch.allclose(value.cpu(), other.module.state_dict()[key].cpu(), rtol=close, atol=close), key


TRAININGS = [
    ("MF_ccl", {}),
    ("MF_mml", {}),
    ("MF_softmax", {"max_gradient_norm": 1e-3}),
    ("MF_mml_nodrop_ignorepos", {}),
    ("MF_ccl", {"regularizer_scope": "batch", "regularizer": 1e-3, "dropout_position": "before_normalize"}),
    ("MF_ccl", {"optimizer": "sgd"}),
    ("SimpleX_mean_g1_mml", {}),
    ("SimpleX_mean_bias_ccl", {}),
    ("SimpleX_satt_ccl", {"attention_dropout": 0.2}),
]


@pytest.mark.parametrize(("name", "changes"), TRAININGS)
def test_a_training_is_the_cpus(backend, gpu, name, changes, golden_params):
    params = {**golden_params(name), "batch_size": 60, "epochs": 4, **changes}
    records = []
    made = []
    for device, one in ((CPU, "reference"), (gpu, backend)):
        records.append([])
        trainer = make_trainer(params, one, device=device, on_epoch=records[-1].append)
        trainer.fit()
        made.append(trainer)
    for ours, theirs in zip(records[1], records[0]):
        assert ours.train_loss == pytest.approx(theirs.train_loss, rel=1e-9)
        assert ours.band_counts == theirs.band_counts
        assert ours.metrics == pytest.approx(theirs.metrics, abs=1e-9)
    assert_alike(made[1], made[0], 1e-7)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in ("MF_ccl", "MF_mml", "MF_softmax", "MF_bce", "SimpleX_mean_g1_mml")),
        *((name, {"attention_dropout": 0.2}) for name in ("SimpleX_uatt_mml", "SimpleX_satt_ccl")),
        ("SimpleX_mean_bias_ccl", {}),
    ],
)
def test_a_captured_training_is_the_training(gpu, name, changes, golden_params):
    params = {**golden_params(name), "batch_size": 60, "epochs": 5, **changes}
    made = [make_trainer(params, "auto", device=gpu, capture=capture) for capture in (True, False)]
    for trainer in made:
        trainer.fit()
    assert isinstance(made[0]._run, GraphedStep)
    assert made[0]._run.captured
    assert not isinstance(made[1]._run, GraphedStep)
    assert_alike(*made, 1e-7)


def test_grouped_users_are_captured(gpu, golden_params):
    params = {**golden_params("MF_ccl"), "batch_size": 60, "epochs": 2}
    made = [
        make_trainer(params, "auto", loss=build_loss("BSL", temperature=0.2), device=gpu, capture=capture)
        for capture in (True, False)
    ]
    for trainer in made:
        trainer.fit()
    assert made[0]._run.captured
    assert_alike(*made, 1e-7)


def test_a_loss_with_parameters_is_captured(gpu, golden_params):
    params = {**golden_params("MF_mml"), "batch_size": 60, "epochs": 2, "max_gradient_norm": 1.0}
    made = [
        make_trainer(params, "auto", loss=LearntTemperature(), device=gpu, capture=capture) for capture in (True, False)
    ]
    for trainer in made:
        trainer.fit()
    assert made[0]._run.captured
    assert_alike(*made, 1e-7)
    assert_the_temperature_was_learnt(*made)


class Waiting(nn.Module):
    """A loss that looks at its scores on the host."""

    def __init__(self):
        super().__init__()
        self.inner = build_loss("CCL", margin=0.5, negative_weight=10.0)

    def forward(self, y_pred, y_true):
        return self.inner(y_pred, y_true) * (1.0 if float(y_pred.detach().max()) < 100 else 2.0)


def test_a_loss_that_waits_is_trained_without_a_graph(gpu, golden_params, caplog):
    params = {**golden_params("MF_ccl"), "batch_size": 60, "epochs": 2}
    made = [make_trainer(params, "auto", loss=Waiting(), device=gpu, capture=capture) for capture in (True, False)]
    with caplog.at_level(logging.INFO):
        for trainer in made:
            trainer.fit()
    assert made[0]._run.refused
    assert sum("cannot be captured as a CUDA graph" in record.getMessage() for record in caplog.records) == 1
    assert_alike(*made, 1e-7)


@pytest.mark.parametrize("name", ["MF_ccl", "MF_mml", "MF_softmax", "MF_mml_nodrop_ignorepos", "SimpleX_satt_ccl"])
def test_no_step_waits_for_the_device(backend, gpu, name, golden_params):
    if obstacle := backend.capture_obstacle("ignorepos" in name):
        pytest.skip(obstacle)
    trainer = make_trainer({**golden_params(name), "batch_size": 60}, backend, torch.float32, device=gpu, capture=False)
    for _ in trainer.steps(0):
        pass
    steps = trainer.steps(1)
    next(steps)  # the epoch's order may be waited for
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in steps:
            pass
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("regularizer", "optimizer"), [(1e-9, "adam"), ("l1(1e-5)", "adam"), (1e-9, "nadam")])
def test_resuming_goes_on_where_it_stopped(gpu, regularizer, optimizer, golden_params, tmp_path):
    params = {**golden_params("MF_ccl"), "batch_size": 60, "reduce_lr_on_plateau": False, "regularizer": regularizer}
    params["optimizer"] = optimizer
    whole = make_trainer({**params, "epochs": 4}, "auto", device=gpu)
    whole.fit()
    half = make_trainer({**params, "epochs": 2}, "auto", device=gpu, state_path=tmp_path / "state.pt")
    half.fit()
    resumed = make_trainer({**params, "epochs": 4}, "auto", device=gpu, state_path=tmp_path / "state.pt")
    resumed.restore()
    if not resumed.optimiser.capturable:
        for kept in resumed.optimiser.optimizer.state.values():
            assert {kept[name].device for name in ("step", "mu_product") if name in kept} == {CPU}
    resumed.fit()
    assert_alike(resumed, whole, 1e-7)
