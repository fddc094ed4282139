"""sampled_scores on every backend against the plain formula in float64, value and every gradient."""

from __future__ import annotations

import threading
import tracemalloc
from itertools import accumulate

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from mml_plugin.engine import backends
from mml_plugin.engine.backends import numba_kernels
from mml_plugin.engine.scores import sampled_scores
from mml_plugin.errors import UserError

CPU = torch.device("cpu")
NAMES = ["reference", "torch", "numba"]
# B, I, N, d: one negative, more negatives than items, widths that are no power of two, one row, one column
SHAPES = [(1, 3, 1, 1), (5, 7, 1, 3), (4, 2, 9, 5), (33, 50, 17, 41), (16, 100, 100, 64), (3, 4, 2, 130)]


def plain(user, table, index, normalized, bias=None, scale=None):
    items = normalize(table, dim=1) if normalized else table
    y = torch.einsum("bd,bjd->bj", user, items[index])
    return y if bias is None else y + scale[:, None] * bias.reshape(-1)[index]


def inputs(shape, dtype=torch.float64, seed=0):
    batch, items, negatives, dim = shape
    generator = torch.Generator().manual_seed(seed)
    user, table = (torch.randn(n, dim, generator=generator, dtype=dtype) for n in (batch, items))
    index = torch.randint(0, items, (batch, 1 + negatives), generator=generator)
    index[:, -1] = index[:, 0]  # a positive that is drawn again
    weight = torch.randn(batch, 1 + negatives, generator=generator, dtype=dtype)
    weight[torch.rand(weight.shape, generator=generator) < 0.5] = 0
    bias = torch.randn(items, 1, generator=generator, dtype=dtype)
    scale = torch.rand(batch, generator=generator, dtype=dtype)
    return user, table, index, weight, bias, scale


def normalised(index, backend):
    return lambda user, table: sampled_scores(user, table, index, True, backend=backend)


def gradients(function, leaves, weight):
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    y = function(*leaves)
    found = torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True, materialize_grads=True)
    return y.detach(), found


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", ["some", "none", "all"])
def test_value_and_gradients(backend, normalized, shape, share):
    user, table, index, weight, bias, scale = inputs(shape)
    weight = {"some": weight, "none": torch.zeros_like(weight), "all": torch.ones_like(weight)}[share]
    chosen = backends.select(backend, CPU)
    y, found = gradients(
        lambda u, t, b, s: sampled_scores(u, t, index, normalized, item_bias=b, user_scale=s, backend=chosen),
        (user, table, bias, scale), weight,
    )  # fmt: skip
    wanted, grads = gradients(
        lambda u, t, b, s: plain(u, t, index, normalized, b, s), (user, table, bias, scale), weight
    )
    assert torch.allclose(y, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("backend", NAMES)
def test_float32_is_as_exact_as_float32_is(backend):
    user, table, index, *_ = inputs((64, 300, 30, 48), torch.float32)
    exact = plain(normalize(user).double(), table.double(), index, True)
    y = sampled_scores(normalize(user), table, index, True, backend=backend)
    assert (y - exact).abs().max() < 1e-6


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("tiny", [0.0, 1e-13, 3e-12])
def test_zero_and_tiny_vectors_as_normalize_has_them(backend, tiny):
    user, table, index, weight, _, _ = inputs((6, 8, 5, 4))
    table[2] = tiny / 2  # |v| = tiny in four dimensions
    index[0, 1] = 2
    weight[0, 1] = 1.0
    y, found = gradients(normalised(index, backend), (user, table), weight)
    wanted, grads = gradients(lambda u, t: plain(u, t, index, True), (user, table), weight)
    assert torch.allclose(y, wanted, atol=1e-12)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_the_backward_touches_exactly_the_non_zero_entries():
    user, table, index, weight, _, _ = inputs((40, 60, 25, 8))
    backend = backends.select("numba", CPU)
    gradients(normalised(index, backend), (user, table), weight)
    assert backend.active_entries == int((weight != 0).sum())
    touched = torch.zeros(60, dtype=torch.uint8)
    inverse = table.norm(dim=1).reciprocal()
    backend.item_gradient(
        weight, plain(user, table, index, True), user, table, index.int(), inverse, torch.zeros_like(table), touched
    )
    assert set(touched.nonzero().flatten().tolist()) == set(index[weight != 0].tolist())


@pytest.mark.parametrize("kept", [1.0, 0.02], ids=["sorted by item", "few, as they come"])
def test_numba_gives_the_same_bits_for_any_number_of_threads(kept):
    import numba

    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    user, table, index, weight, _, _ = inputs((64, 300, 30, 48), torch.float32)
    weight[torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) >= kept] = 0
    results = []
    for count in (1, 2):
        backend = backends.select("numba", CPU)
        numba.set_num_threads(count)
        y, found = gradients(normalised(index, backend), (user, table), weight)
        results.append((y, *found))
    assert backend.active_entries == int((weight != 0).sum()) > 10
    assert all(torch.equal(a, b) for a, b in zip(*results))


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("wrong", [-1, 7])
def test_an_index_outside_the_table_is_refused(backend, wrong):
    user, table, index, *_ = inputs((5, 7, 1, 3))
    index[3, 1] = wrong
    with pytest.raises(IndexError, match=rf"item_index must be in \[0, 7\), got {wrong}"):
        sampled_scores(user, table, index, backend=backend)
    assert sampled_scores(user, table, index[:, :0], backend=backend).shape == (5, 0)


@pytest.mark.parametrize("backend", NAMES)
def test_a_second_derivative_is_refused_and_not_wrong(backend):
    user, table, index, *_ = inputs((5, 7, 1, 3))
    user.requires_grad_()
    y = sampled_scores(user, table, index, True, backend=backend)
    # Of a sum of the scores, too: there autograd itself would see nothing wrong.
    for value in (y.square().sum(), y.sum()):
        with pytest.raises(RuntimeError, match="can be differentiated once"):
            torch.autograd.grad(value, user, create_graph=True)


def peak_bytes(function):
    """What torch and numpy hold at most, one beside the other, while the function runs."""
    with torch.profiler.profile(profile_memory=True, activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        tracemalloc.start()
        function()
        _, numpy_peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    steps = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(accumulate(steps), default=0) + numpy_peak


def test_memory_stays_below_one_tensor_of_item_vectors():
    batch, items, negatives, dim = 128, 2000, 800, 64
    user, table, index, weight, _, _ = inputs((batch, items, negatives, dim), torch.float32)
    peaks = {}
    for name in NAMES:
        backend = backends.select(name, CPU)
        gradients(normalised(index, backend), (user, table), weight)  # what stays between steps is there now
        peaks[name] = peak_bytes(lambda: gradients(normalised(index, backend), (user, table), weight))  # noqa: B023
    bound = batch * negatives * dim * 4
    assert peaks["numba"] < bound / 4
    assert peaks["torch"] < bound
    # The definition makes that tensor: were it not seen, nothing above would say anything.
    assert peaks["reference"] > bound


def test_the_peak_adds_up_what_is_held_and_not_what_is_let_go():
    def many_small():
        kept = [torch.zeros(1 << 18) for _ in range(8)] + [np.zeros(1 << 20, np.uint8) for _ in range(8)]
        return len(kept)

    def one_after_the_other():
        for _ in range(8):
            torch.zeros(1 << 18)

    assert peak_bytes(many_small) == pytest.approx(16 << 20, rel=0.05)
    assert peak_bytes(one_after_the_other) == pytest.approx(1 << 20, rel=0.05)


def strided(table):
    """Two views that are the table to the eye and not row by row in memory."""
    return {
        "columns of a wider one": lambda: torch.cat([table, table.flip(0)], 1)[:, : table.shape[1]],
        "transposed": lambda: table.t().contiguous().t(),
    }


@pytest.mark.parametrize("backend", NAMES)
@pytest.mark.parametrize("view", strided(torch.zeros(1, 1)))
@pytest.mark.parametrize("normalized", [False, True])
def test_a_table_that_is_a_view(backend, view, normalized):
    user, table, index, weight, _, _ = inputs((16, 100, 100, 64))
    wanted, grads = gradients(lambda u, t: plain(u, t, index, normalized), (user, table), weight)
    y, found = gradients(
        lambda u, t: sampled_scores(u, strided(t)[view](), index, normalized, backend=backend), (user, table), weight
    )
    assert torch.allclose(y, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(found, grads):
        assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("leaves", ["table", "user, then table"])
@pytest.mark.parametrize("backend", ["auto", *NAMES])
def test_a_gradient_that_its_caller_writes_anew_is_read_anew(backend, leaves):
    user, table, index, *_ = inputs((6, 9, 3, 5))
    weight = torch.zeros(6, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        weight.copy_(torch.randn(6, 4, generator=generator) * (torch.rand(6, 4, generator=generator) < 0.1 * step))
        if leaves != "table":
            asked = user.clone().requires_grad_()
            sampled_scores(asked, table, index, True, backend=backend).backward(weight)
            weight.mul_(-1).add_(torch.rand(6, 4, generator=generator) < 0.1)
        found, wanted = table.clone().requires_grad_(), table.clone().requires_grad_()
        sampled_scores(user, found, index, True, backend=backend).backward(weight)
        plain(user, wanted, index, True).backward(weight)
        assert torch.allclose(found.grad, wanted.grad, rtol=1e-11, atol=1e-11)


def test_backwards_of_two_threads_do_not_meet(monkeypatch):
    user, table, index, *_ = inputs((16, 30, 8, 5))
    backend = backends.select("numba", CPU)
    found, wanted, weights = {}, {}, {}
    first_has_looked, second_is_done = threading.Event(), threading.Event()
    kernel = numba_kernels.sparse_item_gradient

    def waiting(*arguments):
        if threading.current_thread().name == "first":
            first_has_looked.set()
            assert second_is_done.wait(30)
        kernel(*arguments)

    def train(name):
        leaves = [user.clone().requires_grad_(), table.clone().requires_grad_()]
        y = sampled_scores(*leaves, index, True, backend=backend)
        found[name] = torch.autograd.grad(y, leaves, weights[name])

    monkeypatch.setattr(numba_kernels, "sparse_item_gradient", waiting)
    threads = {name: threading.Thread(target=train, args=(name,), name=name) for name in ("first", "second")}
    for name, kept in (("first", 3), ("second", 7)):
        weights[name] = torch.zeros(16, 9, dtype=torch.float64)
        weights[name][kept, kept] = 1
        leaves = [user.clone().requires_grad_(), table.clone().requires_grad_()]
        wanted[name] = torch.autograd.grad(plain(*leaves, index, True), leaves, weights[name])
    threads["first"].start()
    assert first_has_looked.wait(30)
    threads["second"].start()
    threads["second"].join()
    second_is_done.set()
    threads["first"].join()
    for name in threads:
        for ours, theirs in zip(found[name], wanted[name]):
            assert torch.allclose(ours, theirs, rtol=1e-11, atol=1e-11)


def test_a_backend_is_picked_and_logged_once_in_a_thread(caplog):
    user, table, index, *_ = inputs((5, 7, 1, 3))
    used = []

    def train():
        for _ in range(3):
            y = sampled_scores(user.requires_grad_(), table, index)
            used.append(y.grad_fn.backend)

    with caplog.at_level("INFO"):
        for _ in range(2):
            thread = threading.Thread(target=train)
            thread.start()
            thread.join()
    assert [record.getMessage() for record in caplog.records] == ["Backend numba on cpu (picked by auto)"] * 2
    assert [id(one) for one in used] == [id(used[0])] * 3 + [id(used[3])] * 3
    assert used[0] is not used[3]


def test_numba_follows_torch_s_number_of_threads_back_and_forth():
    import numba

    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    user, table, index, *_ = inputs((5, 7, 1, 3))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (2, 1, 2):
            torch.set_num_threads(threads)
            sampled_scores(user, table, index, backend="numba")
            found.append((numba.get_num_threads(), torch.get_num_threads()))
            # Another training in this thread, with another number.
            numba.set_num_threads(3 - threads)
    finally:
        torch.set_num_threads(before)
        backends.select("numba", CPU)
    assert found == [(2, 2), (1, 1), (2, 2)]


def test_what_does_not_fit_is_refused():
    user, table, index, *_ = inputs((5, 7, 1, 3))
    with pytest.raises(ValueError, match="do not fit"):
        sampled_scores(user[:, :2], table, index)
    with pytest.raises(ValueError, match="integers"):
        sampled_scores(user, table, index.double())
    with pytest.raises(ValueError, match="float32"):
        sampled_scores(user.float(), table, index)
    with pytest.raises(UserError, match="did you mean 'numba'"):
        sampled_scores(user, table, index, backend="nmba")
    with pytest.raises(UserError, match="triton cannot be used on cpu: it runs on cuda"):
        sampled_scores(user, table, index, backend="triton")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_to_a_backend_that_takes_it(dtype):
    torch.manual_seed(1)
    users, items = torch.randn(3, 8, dtype=dtype, requires_grad=True), torch.randn(7, 8, dtype=dtype)
    index = torch.randint(7, (3, 5))
    found = sampled_scores(users, items, index)
    wanted = torch.einsum("bd,bnd->bn", users.double(), items[index].double())
    torch.testing.assert_close(found.double(), wanted, rtol=0.02, atol=0.05)
    found.sum().backward()
    torch.testing.assert_close(users.grad.double(), items[index].double().sum(1), rtol=0.02, atol=0.05)
    if "numba" in NAMES:
        with pytest.raises(ValueError, match="backend 'numba' takes float32, float64, and the vectors are"):
            sampled_scores(users, items, index, backend="numba")
