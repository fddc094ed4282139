"""Triton's kernels in its interpreter, on CPU tensors, against the reference; test_triton.py runs this file.

Everything here needs ``TRITON_INTERPRET=1`` before Triton is first imported, hence a process of its own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mml_plugin.engine import backends
from mml_plugin.engine.backends import triton_gpu
from mml_plugin.engine.backends.base import AdamConstants, TableState
from mml_plugin.engine.scores import sampled_scores
from mml_plugin.errors import UserError
from mml_plugin.losses.score_range import ScoreRange

from .fed import LearntTemperature, Pair, make_trainer
from .recorded import RecordedGraph, recording_launch
from .test_cuda_graph import assert_same, assert_the_temperature_was_learnt
from .test_sampled_scores import gradients, inputs, normalised, plain, strided
from .test_sampler import ITEMS, RATES, SETTINGS, draw, lists_of, sampler

assert os.environ.get("TRITON_INTERPRET") == "1"

# The interpreter computes both sides of a `where`.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")

CPU = torch.device("cpu")
# B, I, N, d: one negative, more negatives than items, widths that are no power of two, one row, one column
SHAPES = [(1, 3, 1, 1), (5, 7, 1, 3), (4, 2, 9, 5), (7, 50, 37, 41), (3, 100, 100, 64), (3, 4, 2, 130)]
WIDE = "lambda w: nn.init.normal_(w, std=0.1)"


@pytest.fixture(scope="module")
def triton():
    return backends.select("triton", CPU)


@pytest.fixture(scope="module")
def reference():
    return backends.select("reference", CPU)


def test_auto_still_takes_what_a_cpu_is_for():
    assert backends.select("auto", CPU).name == "numba"


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", ["some", "none", "all"])
def test_value_and_gradients(triton, normalized, shape, share):
    user, table, index, weight, bias, scale = inputs(shape)
    weight = {"some": weight, "none": torch.zeros_like(weight), "all": torch.ones_like(weight)}[share]
    leaves = (user, table, bias, scale)
    y, found = gradients(
        lambda u, t, b, s: sampled_scores(u, t, index, normalized, item_bias=b, user_scale=s, backend=triton),
        leaves, weight,
    )  # fmt: skip
    wanted, grads = gradients(lambda u, t, b, s: plain(u, t, index, normalized, b, s), leaves, weight)
    assert torch.allclose(y, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("view", strided(torch.zeros(1, 1)))
def test_a_table_that_is_a_view(triton, view):
    user, table, index, weight, _, _ = inputs((7, 50, 37, 41))
    wanted, grads = gradients(lambda u, t: plain(u, t, index, True), (user, table), weight)
    y, found = gradients(normalised_view(index, triton, view), (user, table), weight)
    assert torch.allclose(y, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def normalised_view(index, backend, view):
    return lambda user, table: sampled_scores(user, strided(table)[view](), index, True, backend=backend)


def test_triton_that_cannot_launch_is_refused_with_the_reason(monkeypatch):
    def launch(*_, **__):
        raise AssertionError("libcuda.so cannot found!\nPossible files are located at ...")

    monkeypatch.setattr(triton_gpu, "launch", launch)
    with pytest.raises(UserError, match=r"triton cannot be used on cpu: .* \(libcuda.so cannot found!\)"):
        backends.select("triton", CPU)


def test_float32_is_as_exact_as_float32_is(triton):
    user, table, index, *_ = inputs((16, 300, 30, 48), torch.float32)
    exact = plain(normalize(user).double(), table.double(), index, True)
    assert (sampled_scores(normalize(user), table, index, True, backend=triton) - exact).abs().max() < 1e-6


@pytest.mark.parametrize("tiny", [0.0, 1e-13, 3e-12])
def test_zero_and_tiny_vectors_as_normalize_has_them(triton, tiny):
    user, table, index, weight, _, _ = inputs((6, 8, 5, 4))
    table[2] = tiny / 2  # |v| = tiny in four dimensions
    index[0, 1] = 2
    weight[0, 1] = 1.0
    y, found = gradients(normalised(index, triton), (user, table), weight)
    wanted, grads = gradients(lambda u, t: plain(u, t, index, True), (user, table), weight)
    assert torch.allclose(y, wanted, atol=1e-12)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_only_rows_with_a_gradient_are_touched_and_others_are_not_read(triton):
    user, table, index, weight, _, _ = inputs((20, 60, 25, 8))
    active = set(index[weight != 0].tolist())
    for row in set(range(60)) - active:
        table[row] = float("nan")
    y = plain(user, torch.nan_to_num(table), index, False)
    out, touched = torch.zeros_like(table), torch.zeros(60, dtype=torch.uint8)
    triton.item_gradient(weight, y, user, table, index.int(), table.norm(dim=1).reciprocal(), out, touched)
    assert out.isfinite().all()
    assert triton.user_gradient(weight, table, index.int(), None).isfinite().all()
    assert set(touched.nonzero().flatten().tolist()) == active


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_same_negatives_as_the_reference(kind):
    rows, users = torch.randperm(1000)[:300], torch.arange(300) % 60
    drawn = [draw(sampler(name, **SETTINGS[kind]), rows, users, 13, epoch=4) for name in ("reference", "triton")]
    assert torch.equal(*drawn)
    tensor = torch.full((1,), 4)
    assert torch.equal(draw(sampler("triton", **SETTINGS[kind]), rows, users, 13, epoch=tensor), drawn[0])


@pytest.mark.parametrize("row", [0, 2**31, 2**32 - 1])
@pytest.mark.parametrize("seed", [0, 2**31 + 5, 2**32 - 1])
def test_the_same_words_at_the_ends_of_their_range(triton, reference, row, seed):
    rows, out = torch.tensor([row]), [torch.zeros(1, 6, dtype=dtype) for dtype in (torch.int64, torch.int32)]
    ids = torch.arange(2**10)
    for backend, made in ((reference, out[0]), (triton, out[1])):
        backend.draw_items(
            rows, rows * 0, 5, seed=seed, epoch=2**31 + 7, num_items=len(ids), item_ids=ids.to(made.dtype),
            cumulative=None, positives=None, out=made,
        )  # fmt: skip
    assert torch.equal(out[0], out[1].long())


def test_a_user_with_few_items_left_draws_them():
    made = sampler("triton", positives=lists_of([[], [i for i in range(ITEMS) if i not in (77, 78, 79)]]))
    drawn = draw(made, torch.arange(4), torch.tensor([0, 1, 1, 0]), 3)[:, 1:]
    assert set((ITEMS - drawn[1:3]).flatten().tolist()) <= {77, 78, 79}


@pytest.mark.parametrize("count", [1, 4, 37, 1500])
def test_the_same_order_of_rows(triton, reference, count):
    assert torch.equal(triton.shuffled(count, 7, 3, CPU), reference.shuffled(count, 7, 3, CPU))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_same_dropout(triton, reference, dtype):
    rows = torch.tensor([5, 900, 3])
    keys = {"seed": 1, "stream": 3, "epoch": torch.full((1,), 2), "dtype": dtype}
    for rate in RATES:
        assert torch.equal(triton.dropout(rows, 7, rate, **keys), reference.dropout(rows, 7, rate, **keys)), rate


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_plain_users_as_autograd_has_them(triton, masked, normalized, first):
    table = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    table[3] = 0
    ids = torch.tensor([2, 7, 2, 3, 0, 2])
    mask = (torch.rand(6, 6, dtype=torch.float64) > 0.3) / 0.7 if masked else None  # one column for a bias beside
    weight = torch.randn(6, 5, dtype=torch.float64)
    leaf = table.clone().requires_grad_()
    vectors = leaf[ids]
    if masked and first:
        vectors = vectors * mask[:, :5]
    if normalized:
        vectors = normalize(vectors)
    if masked and not first:
        vectors = vectors * mask[:, :5]
    (vectors * weight).sum().backward()
    state = TableState.of(nn.Parameter(table))
    users = triton.plain_users(state.weight, ids, mask, normalized, first)
    assert torch.allclose(users.vectors, vectors, atol=1e-12)
    users.backward(weight, state)
    assert torch.allclose(state.grad, leaf.grad, rtol=1e-11, atol=1e-11)
    assert state.touched.nonzero().flatten().tolist() == [0, 2, 3, 7]


def states(dtype, shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, dtype=dtype, generator=generator)
    made = [TableState.of(nn.Parameter(weight.clone()), 0.05) for _ in range(2)]
    rows = torch.tensor([1, 0, 1])[: max(1, made[0].weight.shape[0])] % made[0].weight.shape[0]
    return made, rows, torch.randn(len(rows), made[0].weight.shape[1], dtype=dtype, generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(70, 41), (1000, 1), (3, 130), (7,), (1, 64)])
def test_steps_of_adam_with_clipping_and_decay(triton, reference, dtype, shape):
    (ours, theirs), rows, values = states(dtype, shape)
    exact = dtype == torch.float64
    close = {"rtol": 1e-11, "atol": 1e-12} if exact else {"rtol": 1e-5, "atol": 1e-6}
    count, rate = torch.zeros((), dtype=torch.float64), torch.full((), 0.01, dtype=torch.float64)
    squares = [float((s.weight.double() ** 2).sum()) for s in (ours, theirs)]
    for step in range(1, 5):
        count += 1
        norms = []
        for which, (backend, state) in enumerate(((triton, ours), (reference, theirs))):
            backend.add_rows(rows, values * step, state)
            norms.append(float(backend.squared_gradient_norm([state], [squares[which]])))
        assert norms[0] == pytest.approx(norms[1], rel=1e-12 if exact else 1e-5)
        clip = torch.full((), 0.3, dtype=torch.float64)
        squares[0] = float(triton.adam([ours], triton.adam_constants(count, rate), clip)[0])
        squares[1] = float(reference.adam([theirs], AdamConstants.at(step, 0.01), 0.3)[0])
        assert squares[0] == pytest.approx(squares[1], rel=1e-12 if exact else 1e-5)
        for name in ("weight", "first", "second", "squared_norms"):
            assert torch.allclose(getattr(ours, name), getattr(theirs, name), **close), name
        assert not ours.touched.any()
        assert not ours.grad.any()


def test_constants_of_any_step(triton):
    rate = torch.full((), 1e-4, dtype=torch.float64)
    for step in (1, 2, 10, 1000, 241_700):
        made = triton.adam_constants(torch.full((), float(step), dtype=torch.float64), rate)
        wanted = AdamConstants.at(step, 1e-4)
        assert float(made.rate) == pytest.approx(wanted.rate, rel=1e-11)
        assert float(made.epsilon) == pytest.approx(wanted.epsilon, rel=1e-11)


def test_clip_factors(triton, reference):
    for squared in (0.0, -1e-30, 1.0, 99.9, 100.0, 1e9, float("inf")):
        value = torch.full((), squared, dtype=torch.float64)
        wanted = min(1.0, 10 / (max(squared, 0.0) ** 0.5 + 1e-6))
        assert float(triton.clip_factor(value, 10.0)) == pytest.approx(wanted, rel=1e-14)
        assert float(reference.clip_factor(value, 10.0)) == pytest.approx(wanted, rel=1e-14)
    for backend in (triton, reference):
        assert backend.clip_factor(torch.full((), float("nan"), dtype=torch.float64), 10.0).isnan()


def test_an_infinite_gradient_is_cleared(triton):
    (state, _), rows, values = states(torch.float32, (4, 3))
    triton.add_rows(rows, values * float("inf"), state)
    triton.adam([state], AdamConstants.at(1, 0.1), 1.0)
    assert not state.grad.any()


def test_inverse_norms_and_their_ceiling(triton):
    for dtype in (torch.float32, torch.float64):
        state = TableState.of(nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-13, 0.0]], dtype=dtype)))
        found = triton.inverse_norms(state)
        assert found[0] == pytest.approx(0.2, rel=1e-6)
        assert not (found[1:] < triton.norm_ceiling()).any()


@pytest.mark.parametrize("thresholds", [[0.5], [-0.2, 0.0, 0.7], []])
def test_bands(triton, reference, thresholds):
    y, grad = torch.randn(9, 14, dtype=torch.float64), torch.randn(9, 14, dtype=torch.float64)
    edges = torch.tensor(thresholds, dtype=torch.float64)
    if thresholds:
        y[0, 1] = thresholds[0]  # equal is below
    found = []
    for backend in (triton, reference):
        counts = torch.ones(len(edges) + 1, dtype=torch.int64)
        sums = torch.ones(len(edges) + 1, dtype=torch.float64)
        backend.bands(y, grad, edges, counts, sums)
        found.append((counts, sums))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1])


USERS = 6


@pytest.fixture
def few_users(golden_params, tmp_path):
    """A function: experiment -> parameters on the golden data's first users alone, whose rows an interpreter bears."""

    def params(name, **changes):
        made = {**golden_params(name), "batch_size": 20, **changes}
        for key in ("train_data", "valid_data"):
            header, *lines = Path(made[key]).read_text().splitlines(keepends=True)
            made[key] = str(tmp_path / Path(made[key]).name)
            Path(made[key]).write_text("".join([header, *(a for a in lines if int(a.split(",")[0]) < USERS)]))
        made["item_corpus"] = shutil.copy(made["item_corpus"], tmp_path)
        return made

    return params


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("MF_ccl", {"negative_weight": 20000.0}),  # clipped in most steps
        ("SimpleX_mean_bias_ccl", {}),
        ("SimpleX_satt_ccl", {"enable_bias": True, "net_dropout": 0.2}),
    ],
)
def test_steps_equal_recboxs_in_float64(name, changes, few_users, tmp_path):
    assert_as_in_recbox(Pair(few_users(name, **changes), tmp_path, "triton", torch.float64))


def assert_as_in_recbox(pair):
    theirs, ours, _ = pair.run(4)
    assert len(ours) >= 4
    assert ours == pytest.approx(theirs, rel=1e-10)
    own = pair.trainer.weights()
    for key, value in pair.model.state_dict().items():
        assert (value - own[key]).abs().max() < 1e-8, key


def test_a_loss_with_parameters_is_trained_beside_the_kernels(few_users, tmp_path):
    pair = Pair(few_users("MF_mml", max_gradient_norm=1.0), tmp_path, "triton", loss=LearntTemperature())
    assert_as_in_recbox(pair)
    assert float(pair.trainer.loss.temperature.detach()) != pytest.approx(0.2, abs=1e-4)


def test_a_captured_training_is_the_references(few_users, monkeypatch):
    monkeypatch.setattr(triton_gpu, "launch", recording_launch(triton_gpu.launch))
    params = few_users("MF_softmax", epochs=2, ignore_pos_items=True)
    graph = RecordedGraph()
    captured, uncaptured = make_trainer(params, "triton", graph=graph), make_trainer(params, "reference")
    for one in (captured, uncaptured):
        one.fit()
    whole = len(captured.data.users) // 20
    assert graph.launches == 2 * whole - 3 > 0
    assert_same(captured, uncaptured)


def test_attended_histories_are_captured(few_users, monkeypatch):
    monkeypatch.setattr(triton_gpu, "launch", recording_launch(triton_gpu.launch))
    # As on a GPU, which is never waited for and records.
    monkeypatch.setattr(triton_gpu.Engine, "may_wait", lambda self, data: False)
    monkeypatch.setattr(ScoreRange, "look", lambda self, scores: None)
    params = few_users("SimpleX_satt_ccl", epochs=2, attention_dropout=0.2)
    graph = RecordedGraph()
    captured, uncaptured = make_trainer(params, "triton", graph=graph), make_trainer(params, "reference")
    for one in (captured, uncaptured):
        one.fit()
    assert graph.launches > 0
    assert_same(captured, uncaptured)


def test_a_loss_with_parameters_is_captured(few_users, monkeypatch):
    monkeypatch.setattr(triton_gpu, "launch", recording_launch(triton_gpu.launch))
    params = few_users("MF_mml", epochs=2, max_gradient_norm=1.0)
    graph = RecordedGraph()
    captured = make_trainer(params, "triton", loss=LearntTemperature(), graph=graph)
    uncaptured = make_trainer(params, "reference", loss=LearntTemperature())
    for one in (captured, uncaptured):
        one.fit()
    assert graph.launches > 0
    assert_same(captured, uncaptured)
    assert_the_temperature_was_learnt(captured, uncaptured)


def test_native_regularisation_in_float32(few_users):
    params = few_users(
        "MF_ccl", epochs=1, embedding_initializer=WIDE, regularizer_scope="batch", regularizer=1e-3,
        dropout_position="before_normalize", net_dropout=0.2,
    )  # fmt: skip
    made = [make_trainer(params, name, torch.float32) for name in ("triton", "reference")]
    for one in made:
        one.fit()
    mine, theirs = (one.module.state_dict() for one in made)
    for key, value in mine.items():
        assert torch.allclose(value, theirs[key], atol=1e-4), key
