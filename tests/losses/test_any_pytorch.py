"""The losses in other training loops: compile, autocast, half precision, torch.func, two processes, examples."""

from __future__ import annotations

import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from mml_plugin import available_losses, build_loss
from mml_plugin.losses import multi_margin_loss
from mml_plugin.losses.base import SampledLoss

NAMES = [spec.name for spec in available_losses()]
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PARAMETERS = {
    "MultiMarginLoss": {"margins": [0.6, 0.1, -0.4], "margin_weights": [0.5, 0.3, 0.2], "neg_weight": 400},
    "CosineContrastiveLoss": {"margin": 0.3, "negative_weight": 150},
    "BilateralSoftmaxLoss": {"temperature": 0.2, "temperature2": 1.1},
    "GeneralizedContrastiveLoss": {"f": "ccl", "margin": 0.2},
}
MML = {"margins": [0.6, 0.1, -0.4], "margin_weights": [0.5, 0.3, 0.2], "neg_weight": 7}


def example(name):
    return build_loss(name, **PARAMETERS.get(name, {}))


def cosines(batch=6, negatives=9, dtype=torch.float32):
    torch.manual_seed(1)
    return torch.rand(batch, 1 + negatives, dtype=dtype) * 2 - 1


def call(loss, y):
    users = torch.tensor([0, 1, 0, 2, 1, 0])[: len(y)]
    return loss(y, torch.eye(1, y.size(1)).expand(len(y), -1).to(y.dtype), users)


def value_and_gradient(function, y):
    y = y.clone().requires_grad_()
    value = function(y)
    value.backward()
    return value, y.grad


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_a_graph_break(name):
    torch._dynamo.reset()
    loss = example(name)
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    value, gradient = value_and_gradient(lambda y: call(loss, y), cosines())
    found, found_gradient = value_and_gradient(lambda y: call(compiled, y), cosines())
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(found_gradient, gradient)


@pytest.mark.slow
def test_compiles_with_the_default_compiler():
    torch._dynamo.reset()
    value, gradient = value_and_gradient(example("MultiMarginLoss"), cosines(200, 50))
    found = value_and_gradient(torch.compile(example("MultiMarginLoss"), fullgraph=True), cosines(200, 50))
    torch.testing.assert_close(found, (value, gradient))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_scores_are_computed_in_float32(name, dtype):
    y = cosines().to(dtype)
    value, gradient = value_and_gradient(lambda s: call(example(name), s), y)
    wanted, wanted_gradient = value_and_gradient(lambda s: call(example(name), s), y.float())
    assert value.dtype == torch.float32
    assert value.item() == wanted.item()
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted_gradient.to(dtype))


@pytest.mark.parametrize("name", NAMES)
def test_a_model_in_half_precision_leaves_its_loss_exact(name):
    model = torch.nn.ModuleDict({"loss": example(name)})
    y = cosines(dtype=torch.float64)
    wanted = call(example(name), y).item()
    for change in (lambda m: m.bfloat16(), lambda m: m.half(), lambda m: m.to(torch.float32), lambda m: m.double()):
        assert call(change(model)["loss"], y).item() == wanted


class Learnt(SampledLoss):
    """A loss of one's own, with a parameter, a buffer of its own and a module in it."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.1234567890123, dtype=torch.float64))
        self.inner = torch.nn.Module()
        self.inner.register_buffer("order", torch.tensor([1, 0]))
        self.register_buffer("seen", torch.zeros(2, dtype=torch.float64))

    def compute(self, positive, negatives):
        return self.scale * (negatives.mean(dim=1) - positive)[self.inner.order].mean()


def test_what_is_learnt_in_a_loss_is_moved_and_cast_as_in_any_module():
    plain = torch.nn.Module()
    for change in (lambda m: m.to("cpu"), lambda m: m.double(), lambda m: m.bfloat16().cpu(), lambda m: m.half().cpu()):
        loss, plain = Learnt(), torch.nn.Module()
        plain.register_parameter("scale", torch.nn.Parameter(loss.scale.detach().clone()))
        plain.register_buffer("seen", loss.seen.clone())
        change(torch.nn.ModuleDict({"loss": loss})), change(plain)
        assert loss.inner.order.dtype == torch.int64
        assert loss.scale.dtype == plain.scale.dtype
        assert loss.scale.item() == plain.scale.item()
        assert loss.seen.dtype == plain.seen.dtype
        assert loss(cosines(batch=2)).isfinite()


def test_a_loss_can_be_made_without_memory_and_given_some():
    with torch.device("meta"):
        loss = example("MultiMarginLoss")
    assert all(buffer.is_meta for buffer in loss.buffers())
    loss.to_empty(device="cpu")
    assert {buffer.dtype for buffer in loss.buffers()} == {torch.float64}


# The others are pointwise: a square of infinity, and torch's cross entropy on labels, which recbox has, too.
MASKABLE = [name for name in NAMES if name not in ("MSELoss", "SigmoidCrossEntropyLoss")]


@pytest.mark.parametrize("name", MASKABLE)
def test_negatives_masked_with_minus_infinity_count_for_nothing(name):
    """As in-batch negatives are masked; in every way to run a loss the same, and no gradient for what is masked."""
    y, masked = cosines(), torch.zeros(6, 10, dtype=torch.bool)
    masked[:, 3] = masked[2, 5:] = True
    y[masked] = -torch.inf
    loss = example(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        value, gradient = value_and_gradient(lambda s: call(loss, s), y)
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert (gradient[masked] == 0).all()
    assert (gradient[~masked] != 0).any()
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(value_and_gradient(lambda s: call(compiled, s), y), (value, gradient))


def test_masked_negatives_of_a_function_and_of_vmap():
    y = cosines()
    y[:, 3] = -torch.inf
    wanted = build_loss("MML", **MML)(y)
    assert multi_margin_loss(y[:, 0], y[:, 1:], **MML) == pytest.approx(wanted.item())
    each = torch.func.vmap(lambda row: build_loss("MML", **MML)(row[None]))(y)
    assert each.mean() == pytest.approx(wanted.item())
    kept = y[:, [0, 1, 2, *range(4, 10)]]
    # N counts what is masked, too.
    ratio = build_loss("MML", **MML, pos_weight=0)(y) / build_loss("MML", **MML, pos_weight=0)(kept)
    assert ratio.item() == pytest.approx(8 / 9)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_can_be_traced_without_data(name):
    loss = example(name).to("meta")
    y = torch.empty(6, 10, device="meta")
    assert loss(y, y, torch.empty(6, dtype=torch.int64, device="meta")).shape == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_autocast_gives_finite_values_and_gradients(name, dtype):
    torch.manual_seed(0)
    users, items = (torch.nn.functional.normalize(torch.randn(n, 16)).requires_grad_() for n in (6, 10))
    with torch.autocast("cpu", dtype=dtype):
        y = users @ items.T
        value = call(example(name), y)
    assert y.dtype == dtype
    assert value.dtype == torch.float32
    value.backward()
    exact = call(example(name), users.detach() @ items.detach().T)
    assert value.item() == pytest.approx(exact.item(), rel=0.05)
    assert all(torch.isfinite(t.grad).all() and t.grad.abs().sum() > 0 for t in (users, items))


def test_torch_func_gives_autograds_gradient_and_per_row_ones():
    y = cosines(dtype=torch.float64)
    _, gradient = value_and_gradient(example("MultiMarginLoss"), y)
    torch.testing.assert_close(torch.func.grad(example("MultiMarginLoss"))(y), gradient)
    rows = torch.func.vmap(torch.func.grad(lambda row: multi_margin_loss(row[:1], row[None, 1:], **MML)))(y)
    _, whole = value_and_gradient(lambda s: multi_margin_loss(s[:, 0], s[:, 1:], **MML, reduction="sum"), y)
    torch.testing.assert_close(rows, whole)


def test_in_batch_and_shared_negatives_are_eq_7_in_loops():
    torch.manual_seed(3)
    users, items, shared = (torch.nn.functional.normalize(torch.randn(n, 4, dtype=torch.float64)) for n in (5, 5, 7))

    def eq_7(row, others):
        positive = max(0.0, 1 - (users[row] @ items[row]).item())
        scores = [(users[row] @ other).item() for other in others]
        pushed = sum(w * max(0.0, s - m) for s in scores for m, w in zip(MML["margins"], MML["margin_weights"]))
        return positive + MML["neg_weight"] * pushed / len(scores)

    scores = users @ items.T
    off_diagonal = scores[~torch.eye(5, dtype=torch.bool)].view(5, 4)
    found = multi_margin_loss(scores.diagonal(), off_diagonal, **MML)
    wanted = sum(eq_7(r, [items[o] for o in range(5) if o != r]) for r in range(5)) / 5
    assert found.item() == pytest.approx(wanted, rel=1e-12)
    found = multi_margin_loss(scores.diagonal(), users @ shared.T, **MML)
    assert found.item() == pytest.approx(sum(eq_7(r, shared) for r in range(5)) / 5, rel=1e-12)


TWO_PROCESSES = """
import os, sys, warnings
import torch, torch.distributed as dist, torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel
from mml_plugin.losses import MultiMarginLoss

class Scorer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.users, self.items = torch.nn.Embedding(12, 4), torch.nn.Embedding(20, 4)
    def forward(self, users, items):
        u = torch.nn.functional.normalize(self.users(users))
        return torch.einsum("bd,bnd->bn", u, torch.nn.functional.normalize(self.items(items), dim=-1))

def batch():
    torch.manual_seed(7)
    return torch.randint(12, (8,)), torch.randint(20, (8, 6))

def gradients(rank, store, out):
    torch.manual_seed(0)
    model = Scorer()
    loss = MultiMarginLoss([0.2, 0.5], [0.4, 0.6], neg_weight=9)
    users, items = batch()
    if store:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
        wrapped, part = DistributedDataParallel(model), slice(4 * rank, 4 * rank + 4)
        loss(wrapped(users[part], items[part])).backward()
    else:
        loss(model(users, items)).backward()
    torch.save({name: p.grad for name, p in model.named_parameters()}, f"{out}-{rank}.pt")
    if store:
        dist.destroy_process_group()
        # The wrapped model keeps gloo's threads alive; one that wants the interpreter while it is taken down aborts.
        os._exit(0)

if __name__ == "__main__":
    folder = sys.argv[1]
    gradients(2, None, f"{folder}/grad")
    mp.spawn(gradients, (f"{folder}/store", f"{folder}/grad"), nprocs=2)
"""


def test_two_processes_give_the_whole_batch_gradient(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, whole = (torch.load(tmp_path / f"grad-{r}.pt", weights_only=True) for r in range(3))
    for name in whole:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], whole[name])
        assert whole[name].abs().sum() > 0


def warnings_of(loss, batches):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for y in batches:
            call(loss, y)
    return [str(w.message) for w in caught if "made for cosine similarities" in str(w.message)]


COSINE_LOSSES = (
    "MultiMarginLoss",
    "CosineContrastiveLoss",
    "ContrastiveLoss",
    "TripletLoss",
    "GeneralizedContrastiveLoss",
)


@pytest.mark.parametrize("name", NAMES)
def test_cosine_losses_and_only_they_warn_once_about_unbounded_scores(name):
    found = warnings_of(example(name), [cosines() * 20] * 10)
    assert len(found) == (1 if name in COSINE_LOSSES else 0)
    assert not found or f"{name} is made for cosine similarities in [-1, 1] and met a score of size 19" in found[0]


@pytest.mark.parametrize("name", COSINE_LOSSES)
def test_cosines_after_dropout_do_not_warn(name):
    assert warnings_of(example(name), [cosines() * 2] * 20) == []


def test_info_nce_in_eq_6_is_no_cosine_loss():
    assert warnings_of(build_loss("GeneralizedContrastiveLoss", f="infonce"), [cosines() * 20]) == []


def test_scores_that_grow_later_are_noticed_at_few_looks(monkeypatch):
    looks = []
    original = torch.Tensor.amax
    monkeypatch.setattr(torch.Tensor, "amax", lambda self, *a: looks.append(1) or original(self, *a))
    batches = [cosines() if step < 300 else cosines() * 50 for step in range(600)]
    assert len(warnings_of(example("MultiMarginLoss"), batches)) == 1
    assert len(looks) == 10  # batches 1, 2, 4, ..., 512


def test_the_watch_leaves_the_state_dict_alone():
    loss = example("MultiMarginLoss")
    loss(cosines())
    assert loss.state_dict() == {}
    assert "range" not in repr(loss)


def test_a_printed_loss_shows_its_hyper_parameters_alone():
    loss = build_loss("CosineContrastiveLoss", margin=0.8, negative_weight=5.0)
    assert repr(loss) == "CosineContrastiveLoss(margin=0.8, negative_weight=5.0)"


def test_the_two_tower_example_learns(capsys):
    runpy.run_path(str(EXAMPLES / "two_tower.py"), run_name="__main__")
    before, after = (float(line.split()[1]) for line in capsys.readouterr().out.splitlines())
    assert before < 0.2
    assert after > 0.8


@pytest.mark.parametrize("shared", [False, True])
def test_the_image_text_example_learns(shared):
    before, after = runpy.run_path(str(EXAMPLES / "image_text_pairs.py"))["train"](shared)
    assert before < 0.05
    assert after > 0.8
