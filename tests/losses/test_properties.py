"""What must hold for any scores: equalities between losses, invariances, monotonicity, kinks, types, memory."""

from __future__ import annotations

import functools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from mml_plugin import available_losses, build_loss, losses
from mml_plugin.errors import UserError
from mml_plugin.losses import BandCounter, multi_margin_loss
from mml_plugin.registry import check_params, margins_of, params_from_config

EXAMPLES = {
    "MultiMarginLoss": {"margins": [0.6, 0.1, -0.4], "margin_weights": [0.5, 0.3, 0.2], "neg_weight": 7},
    "CosineContrastiveLoss": {"margin": 0.3, "negative_weight": 5},
    "BilateralSoftmaxLoss": {"temperature": 0.2, "temperature2": 1.1},
    "GeneralizedContrastiveLoss": {"f": "ccl", "margin": 0.2},
}
NAMES = [spec.name for spec in available_losses()]
SIMILARITY = st.floats(-1, 1, width=32)


def example(name):
    return build_loss(name, **EXAMPLES.get(name, {}))


def scores(batch=5, negatives=7, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return torch.rand(batch, 1 + negatives, dtype=dtype) * 2 - 1


def naive_mml(y, margins, weights, neg_weight, pos_weight=1.0):
    """Eq. 7 in loops."""
    total = 0.0
    for row in y.tolist():
        pushed = sum(w * max(0.0, s - m) for s in row[1:] for m, w in zip(margins, weights))
        total += pos_weight * max(0.0, 1 - row[0]) + neg_weight * pushed / (len(row) - 1)
    return total / len(y)


@given(
    st.lists(st.tuples(SIMILARITY, st.floats(0, 3, width=32)), min_size=1, max_size=6),
    st.lists(st.lists(st.floats(-1, 2, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
)
@settings(max_examples=60)
def test_mml_equals_eq_7_in_loops(pairs, rows):
    margins, weights = zip(*pairs)
    if not any(weights):
        weights = (1.0, *weights[1:])
    y = torch.tensor(rows, dtype=torch.float64)
    found = build_loss("MML", margins=list(margins), margin_weights=list(weights), neg_weight=3, pos_weight=2)(y)
    assert found.item() == pytest.approx(naive_mml(y, margins, weights, 3, 2), rel=1e-9, abs=1e-12)


@given(SIMILARITY, st.floats(0.1, 500))
@settings(max_examples=25)
def test_one_margin_is_ccl(margin, weight):
    y = scores()
    mml = build_loss("MML", margins=[margin], margin_weights=[1], neg_weight=weight)(y)
    assert mml.item() == pytest.approx(build_loss("CCL", margin=margin, negative_weight=weight)(y).item(), rel=1e-12)


def value_and_gradient(loss, y):
    y = y.clone().requires_grad_()
    value = loss(y)
    value.backward()
    return value.item(), y.grad


def test_split_permuted_and_zero_weights_change_nothing():
    y = scores()
    whole = value_and_gradient(build_loss("MML", margins=[0.2, 0.6], margin_weights=[0.3, 0.7], neg_weight=9), y)
    variants = [
        {"margins": [0.6, 0.2], "margin_weights": [0.7, 0.3]},
        {"margins": [0.2, 0.2, 0.6], "margin_weights": [0.1, 0.2, 0.7]},
        {"margins": [0.2, 0.4, 0.6], "margin_weights": [0.3, 0.0, 0.7]},
    ]
    for variant in variants:
        value, gradient = value_and_gradient(build_loss("MML", **variant, neg_weight=9), y)
        assert value == pytest.approx(whole[0], rel=1e-12)
        torch.testing.assert_close(gradient, whole[1], rtol=1e-12, atol=0)


@given(st.integers(1, 7), st.floats(0, 1))
@settings(max_examples=25)
def test_a_more_similar_negative_never_lowers_a_margin_loss(column, step):
    for name in ("MultiMarginLoss", "CosineContrastiveLoss", "TripletLoss", "ContrastiveLoss", "PairwiseMarginLoss"):
        y = scores()
        raised = y.clone()
        raised[:, column] += step
        assert example(name)(raised) >= example(name)(y) - 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", [0.6, 0.7, 0.9])
def test_a_score_equal_to_a_margin_is_inactive(dtype, margin):
    at = torch.tensor([[0.5, margin]], dtype=dtype)
    above = torch.nextafter(at, torch.full_like(at, 2))
    loss = build_loss("MML", margins=[margin], margin_weights=[1], neg_weight=5)
    assert value_and_gradient(loss, at)[1][0, 1] == 0
    assert value_and_gradient(loss, above)[1][0, 1] == 5


def test_a_positive_beyond_one_has_no_gradient():
    loss = build_loss("MML", margins=[0.9], margin_weights=[1], neg_weight=5)
    for p in (1.0, 1.5, 2.0):
        value, gradient = value_and_gradient(loss, torch.tensor([[p, 0.1]]))
        assert (value, gradient[0, 0].item()) == (0.0, 0.0)


def test_selecting_active_scores_changes_nothing():
    loss = example("MultiMarginLoss").double()
    y = scores(6, 50)
    fast = value_and_gradient(loss, y)
    dense = value_and_gradient(lambda s: torch.relu(1 - s[:, 0]).mean() + 7 * loss.penalty(s[:, 1:]).mean(), y)
    assert fast[0] == pytest.approx(dense[0], rel=1e-12)
    torch.testing.assert_close(fast[1], dense[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_against_finite_differences(name):
    y = scores(3, 4, seed=3).requires_grad_()
    users = torch.tensor([4, 9, 4])
    assert torch.autograd.gradcheck(lambda s: example(name)(s, users=users), y)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_every_loss_keeps_the_contract(name, dtype):
    y = scores(dtype=dtype).requires_grad_()
    labels = torch.zeros_like(y)
    labels[:, 0] = 1
    value = example(name)(y, labels, users=torch.arange(5))
    value.backward()
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert y.grad.shape == y.shape
    assert torch.isfinite(value)
    assert torch.isfinite(y.grad).all()
    assert not example(name).state_dict()


@pytest.mark.parametrize("name", NAMES)
def test_extreme_logits_stay_finite(name):
    for p, n in ((300.0, -300.0), (-300.0, 300.0)):
        y = torch.tensor([[p, n, n]], requires_grad=True)
        value = example(name)(y, users=torch.zeros(1))
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(y.grad).all()


@pytest.mark.parametrize("column", [0, 2])
@pytest.mark.parametrize("name", NAMES)
def test_a_score_of_nan_makes_the_loss_nan(name, column):
    y = scores()
    y[1, column] = math.nan
    assert example(name)(y, users=torch.zeros(5)).isnan()


def test_nan_is_nan_in_every_form():
    y = torch.tensor([[0.5, math.nan, 0.95]])
    loss = example("MultiMarginLoss")
    assert loss.penalty(y).isnan().tolist() == [[False, True, False]]
    assert multi_margin_loss(y[:, 0], y[:, 1:], **EXAMPLES["MultiMarginLoss"]).isnan()
    assert build_loss("GeneralizedContrastiveLoss", f="contrastive")(y).isnan()


@pytest.mark.parametrize("name", NAMES)
def test_wrong_shapes_are_refused(name):
    for wrong in (torch.zeros(3), torch.zeros(3, 1), torch.zeros(0, 4), torch.zeros(2, 3, dtype=torch.long)):
        with pytest.raises(ValueError, match="y_pred must"):
            example(name)(wrong, users=torch.zeros(3))


def test_eq_1_3_6_by_closed_form():
    y = torch.tensor([[0.5, 0.9, -1.0]], dtype=torch.float64)
    d = [math.sqrt(2 - 2 * s) for s in y[0].tolist()]
    contrastive = 0.5 * (d[0] ** 2 + sum(max(0, 1.2 - x) ** 2 for x in d[1:]) / 2)
    triplet = sum(max(0, d[0] ** 2 - x**2 + 0.4) for x in d[1:]) / 2
    infonce = -math.log(math.exp(5) / (math.exp(5) + math.exp(9) + math.exp(-10)))
    assert build_loss("ContrastiveLoss", margin=1.2)(y).item() == pytest.approx(contrastive)
    assert build_loss("TripletLoss", margin=0.4)(y).item() == pytest.approx(triplet)
    assert build_loss("InfoNCELoss", temperature=0.1)(y).item() == pytest.approx(infonce)
    general = {"contrastive": (contrastive, 1.2, 1), "triplet": (triplet, 0.4, 0)}
    for f, (wanted, margin, weight) in general.items():
        found = build_loss("GeneralizedContrastiveLoss", f=f, margin=margin, pos_weight=weight)(y)
        assert found.item() == pytest.approx(wanted)
    y = scores()
    assert build_loss("GeneralizedContrastiveLoss", f="infonce", pos_weight=0)(y).item() == pytest.approx(
        build_loss("InfoNCELoss")(y).item()
    )
    assert build_loss("GeneralizedContrastiveLoss", f="ccl", margin=0.2, neg_weight=3)(y).item() == pytest.approx(
        build_loss("CCL", margin=0.2, negative_weight=3)(y).item()
    )


def test_distance_zero_has_no_gradient():
    _, gradient = value_and_gradient(build_loss("ContrastiveLoss"), torch.tensor([[0.5, 1.0]]))
    assert gradient[0, 1] == 0


def test_missing_users_are_an_error():
    with pytest.raises(ValueError, match=r"needs users\[B\]"):
        build_loss("BSL", temperature=0.1)(scores())
    with pytest.raises(ValueError, match="must hold 5 ids"):
        build_loss("BSL", temperature=0.1)(scores(), users=torch.zeros(4))


def test_grouping_by_user_in_loops():
    y, users = scores(6, 3), [2, 7, 2, 2, 5, 7]
    t1, t2 = 0.3, 1.2
    rows = y.tolist()
    total = 0.0
    for row, user in zip(rows, users):
        same = [math.exp(r[0] / t1) for r, u in zip(rows, users) if u == user]
        total += -math.log(sum(same) / len(same)) + t2 * math.log(sum(math.exp(n / t1) for n in row[1:]) / 3)
    found = build_loss("BSL", temperature=t1, temperature2=t2)(y, users=torch.tensor(users))
    assert found.item() == pytest.approx(total / 6)


class LargestTensor(TorchDispatchMode):
    """Records the most elements that any operation returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (list, tuple)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.largest = max(self.largest, tensor.numel())
        return out


def test_memory_does_not_grow_with_the_number_of_margins():
    margins = torch.linspace(-1, 0.9, 40).tolist()
    loss = build_loss("MML", margins=margins, margin_weights=[0.1] * 40, neg_weight=5)
    y = scores(16, 100).requires_grad_()
    with LargestTensor() as seen:
        loss(y).backward()
    assert seen.largest <= y.numel()
    one = build_loss("MML", margins=[margins[0]], margin_weights=[4.0], neg_weight=5)
    assert kept_for_backward(loss, y) == kept_for_backward(one, y)


def kept_for_backward(loss, y):
    """How many numbers autograd keeps between forward and backward."""
    kept = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.setdefault(id(t), t) is None or t, lambda t: t):
        loss(y)
    return sum(tensor.numel() for tensor in kept.values())


def test_penalties_keep_their_digits_just_above_a_margin():
    """The difference of two large numbers, W s - C, would keep none of them at the lowest margin."""
    margins, weights = [0.6, 0.7, 0.8, 0.9], [0.05, 0.15, 0.2, 0.6]
    loss = build_loss("MML", margins=margins, margin_weights=weights, neg_weight=400)
    levels = torch.tensor(margins).double()  # as float32 has them
    for level in torch.tensor(margins):
        scores = level + torch.arange(1, 51) * torch.finfo(torch.float32).eps / 2
        scores = scores[scores > level].unique()
        wanted = torch.relu(scores.double()[:, None] - levels) @ torch.tensor(weights).double()
        assert torch.allclose(loss.penalty(scores).double(), wanted, rtol=1e-6, atol=0)


def test_scores_beyond_1_are_at_distance_0_and_push_nothing():
    """Dropout scales what it keeps, so that scores of unit vectors exceed 1."""
    y = torch.tensor([[1.5, 0.2, 1.3]], dtype=torch.float64, requires_grad=True)
    for keys in ({"name": "ContrastiveLoss", "margin": 1.0},
                 {"name": "GeneralizedContrastiveLoss", "f": "contrastive", "margin": 1.0}):  # fmt: skip
        # Half of: the positive at 0, and of two negatives the one at 0 within the margin of 1, squared.
        loss = build_loss(**keys)(y)
        assert loss.item() == pytest.approx(0.5 * (0 + (0 + 1) / 2))
    for name in ("TripletLoss", "GeneralizedContrastiveLoss"):
        keys = {"margin": 0.2, **({"f": "triplet"} if name.startswith("G") else {})}
        loss = build_loss(name, **keys)(y)
        assert loss.item() == pytest.approx((max(0, 0 - 1.6 + 0.2) + max(0, 0 - 0 + 0.2)) / 2)
        (gradient,) = torch.autograd.grad(loss, y)
        assert gradient.tolist() == [[0, 0, 0]]


def test_functional_form_and_shared_negatives():
    y = scores()
    keys = {"margins": [0.2, 0.6], "margin_weights": [0.3, 0.7], "neg_weight": 9}
    found = multi_margin_loss(y[:, 0], y[:, 1:], **keys)
    assert found.item() == pytest.approx(build_loss("MML", **keys)(y).item())
    rows = multi_margin_loss(y[:, 0], y[:, 1:], **keys, reduction="none")
    assert rows.mean().item() == pytest.approx(found.item())
    with pytest.raises(ValueError, match=r"positive must be \[B\]"):
        multi_margin_loss(y, y, **keys)


def test_torch_func_and_vmap():
    loss = example("MultiMarginLoss").double()
    y = scores()
    torch.testing.assert_close(torch.func.grad(loss)(y), value_and_gradient(loss, y)[1])
    stacked = torch.stack([y, y * 0.5])
    torch.testing.assert_close(torch.func.vmap(loss)(stacked), torch.stack([loss(y), loss(y * 0.5)]))


def test_bands_by_brute_force():
    y = scores(8, 30)
    y[0, 1] = 0.2
    gradient = scores(8, 31 - 1, seed=5)
    counter = BandCounter([0.6, 0.2, 0.6])
    for part in (slice(0, 3), slice(3, 8)):
        counter.update(y[part], gradient[part])
    flat = list(zip(y[:, 1:].flatten().tolist(), gradient[:, 1:].abs().flatten().tolist()))
    bands = [[g for s, g in flat if low < s <= high] for low, high in ((-9, 0.2), (0.2, 0.6), (0.6, 9))]
    assert counter.counts == tuple(len(b) for b in bands)
    assert counter.gradients == pytest.approx([sum(b) for b in bands])
    assert BandCounter([]).counts == ()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_fall_where_the_loss_gives_them_a_gradient(dtype):
    margin = 0.6  # float16 and bfloat16 have no 0.6: the nearest score is above or below it
    for score in (margin, math.nextafter(margin, 1), 0.7):
        y = torch.tensor([[0.5, score]], dtype=dtype, requires_grad=True)
        loss = build_loss("MML", margins=[margin], margin_weights=[1], neg_weight=1)(y)
        loss.backward()
        counter = BandCounter([margin])
        counter.update(y)
        assert counter.counts[1] == (y.grad[0, 1] > 0).item() == (y[0, 1].float() > margin).item()


@pytest.mark.parametrize(
    ("name", "params", "says"),
    [
        ("MML", {"margins": [0.6], "margin_weights": [0.1, 0.2], "neg_weight": 1}, "1 margins and 2 weights"),
        (
            "MML",
            {"margins": [float("nan")], "margin_weights": [1], "neg_weight": 1},
            r"margins\[0\].*, got nan",
        ),
        ("MML", {"margins": ["x"], "margin_weights": [1], "neg_weight": 1}, r"margins\[0\].*got 'x'"),
        ("MML", {"margins": [0.6], "margin_weights": [-1], "neg_weight": 1}, r"margin_weights\[0\].*>= 0, got -1"),
        ("MML", {"margins": [0.6], "margin_weights": [0], "neg_weight": 1}, "must not all be 0"),
        ("MML", {"margins": [0.6], "margin_weights": [1], "neg_weight": 0}, "neg_weight must be a number > 0, got 0"),
        (
            "MML",
            {"margins": [0.6], "margin_weights": [1], "neg_weight": 1, "pos_weight": -1},
            "pos_weight must be a number >= 0, got -1",
        ),
        ("MML", {"margins": [True], "margin_weights": [1], "neg_weight": 1}, "got .True."),
        ("MML", {"margins": [], "margin_weights": [], "neg_weight": 1}, "at least one number"),
        ("MML", {"margns": [1]}, "did you mean 'margins'"),
        ("MMCL", {"margins": [1], "margin_values_list": [1]}, "given margins twice"),
        ("MultiCosineContrastiveLoss", {"neg_weight": 1}, "needs margin_values_list"),
        ("InfoNCE", {"temperature": 0}, "temperature must be a number > 0"),
        ("CCL", {"negative_weight": -2}, "negative_weight.*got -2"),
        ("MML", {"margins": {0.6, 0.9}, "margin_weights": [1, 2], "neg_weight": 1}, "margins must be a list of finite"),
        ("MML", {"margins": 0.6, "margin_weights": [1], "neg_weight": 1}, "margins must be a list of finite"),
        (
            "GeneralizedContrastiveLoss",
            {"f": "contrastive", "margin": 0},
            "margin of f contrastive must be greater than 0, got 0",
        ),
        (
            "GeneralizedContrastiveLoss",
            {"f": "triplet", "margin": -0.1},
            "margin of f triplet must be at least 0, got -0.1",
        ),
        (
            "GeneralizedContrastiveLoss",
            {"f": "pairs"},
            "f must be one of ccl, contrastive, triplet, infonce, got 'pairs'",
        ),
        ("Foo", {}, "there is no loss 'Foo'; known: BCE"),
        ("MultiMarginLos", {}, "did you mean 'MultiMarginLoss'"),
    ],
)
def test_bad_parameters_get_one_sentence(name, params, says):
    with pytest.raises(UserError, match=says) as caught:
        build_loss(name, **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [losses.MultiMarginLoss, functools.partial(build_loss, "MML")])
def test_arrays_and_numbers_of_numpy_and_torch_are_taken(make):
    y = scores()
    wanted = make(margins=[0.5, 0.75], margin_weights=[0.25, 0.75], neg_weight=3)(y)
    for kind in (tuple, np.array, torch.tensor):
        found = make(margins=kind([0.5, 0.75]), margin_weights=kind([0.25, 0.75]), neg_weight=np.int64(3))
        assert found(y) == wanted
    assert make(margins=[np.float32(0.5), 0.75], margin_weights=[0.25, 0.75], neg_weight=np.float32(3))(y) == wanted


@pytest.mark.parametrize("wrong", [10**400, True, "1", None, math.inf, 1j])
def test_what_is_no_finite_number_is_said_to_be_none(wrong):
    with pytest.raises(UserError, match="margin must be a finite number, got"):
        losses.CosineContrastiveLoss(wrong, 1)


@pytest.mark.parametrize(("f", "loss"), [("contrastive", "ContrastiveLoss"), ("triplet", "TripletLoss")])
def test_eq_6_has_the_margin_of_the_loss_that_it_contains(f, loss):
    y = scores()
    own = build_loss("GeneralizedContrastiveLoss", f=f)
    assert own.margin == build_loss(loss).margin
    assert own(y).item() == pytest.approx(build_loss(loss)(y).item())
    assert build_loss("GeneralizedContrastiveLoss", f="ccl").margin == build_loss("CCL", negative_weight=1).margin


def test_the_function_refuses_what_holds_no_scores():
    good = torch.zeros(2), torch.zeros(2, 3)
    for _ in range(4):  # the range of scores is looked at in the first, second and fourth batch
        for positive, negatives in ((good[0], good[1][:1]), (good[0][:0], good[1][:0]), (good[0], good[1][:, :0])):
            with pytest.raises(ValueError, match=r"positive must be \[B\] and negatives \[B, N\] with B and N >= 1"):
                multi_margin_loss(positive, negatives, [0.5], [1], 1)
    with pytest.raises(ValueError, match=r"negatives must hold floating-point scores, got torch\.bool"):
        multi_margin_loss(good[0], good[1].bool(), [0.5], [1], 1)


def test_users_may_be_a_list_and_scores_may_not():
    y = scores()
    loss = build_loss("BSL", temperature=0.2)
    assert loss(y, users=[0, 1, 0, 1, 2]) == loss(y, users=torch.tensor([0, 1, 0, 1, 2]))
    with pytest.raises(ValueError, match="y_pred must be a tensor, got list"):
        loss(y.tolist(), users=[0, 1, 0, 1, 2])


def test_numbers_written_as_text_are_converted():
    checked = check_params("MultiCosineContrastiveLoss", {"margin_values_list": ["6e-1", "9e-1"],
                           "negative_weights_list": ["1", 2], "neg_weight": "4e2"})  # fmt: skip
    assert checked == {"margins": [0.6, 0.9], "margin_weights": [1.0, 2.0], "neg_weight": 400.0, "pos_weight": 1.0}


def test_config_keys_of_other_things_are_left_alone():
    config = {"margin": 0.9, "negative_weight": 150, "learning_rate": 1}
    assert params_from_config("CCL", config) == {"margin": 0.9, "negative_weight": 150.0}
    assert margins_of("CCL", config) == (0.9,)
    zero = {"margins": [0.9, 0.5, 0.1], "margin_weights": [1, 2, 0], "neg_weight": 1}
    assert margins_of("MML", zero) == (0.5, 0.9)
    assert margins_of("BPR", config) == ()


def test_ccl_without_weight_sums_and_warns():
    y = scores()
    with pytest.warns(UserWarning, match="sums over the negatives with weight 1"):
        loss = build_loss("CCL", margin=0.1, negative_weight=0)
    wanted = torch.relu(1 - y[:, 0]) + torch.relu(y[:, 1:] - 0.1).sum(dim=1)
    assert loss(y).item() == pytest.approx(wanted.mean().item())


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in "recbox fuxictr ray pandas h5py yaml numba click faiss sklearn pyarrow".split():
            raise ImportError(name)
sys.meta_path.insert(0, Block())
import torch, mml_plugin
loss = mml_plugin.build_loss("MML", margins=[0.5], margin_weights=[1], neg_weight=2)
print(loss(torch.tensor([[0.5, 0.75]])).item())
"""


def test_a_loss_needs_torch_and_pydantic_alone():
    done = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True)
    assert float(done.stdout) == 1.0
