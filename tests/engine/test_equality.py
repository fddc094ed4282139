"""Fed recbox's own batches, negatives and dropout masks, the fast engine reproduces recbox's training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from .fed import LearntTemperature, Pair

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
NAMES = sorted(json.loads((GOLDEN / "pipeline.json").read_text()))
STEPS = 200
WIDE = "lambda w: nn.init.normal_(w, std=0.1)"


def compare(pair, losses, parameters, plateau_at=None):
    initial = {name: value.clone() for name, value in pair.model.state_dict().items()}
    own = pair.trainer.weights()
    assert set(initial) == set(own)
    assert all(torch.equal(initial[name], own[name]) for name in initial)
    theirs, ours, bites = pair.run(STEPS, plateau_at)
    assert len(ours) >= STEPS
    for a, b in zip(theirs, ours):
        assert abs(a - b) <= losses * abs(a)
    own = pair.trainer.weights()
    moved = max((value - initial[name]).abs().max().item() for name, value in own.items())
    assert moved > 1e-3
    for name, value in pair.model.state_dict().items():
        assert (value - own[name]).abs().max().item() <= parameters, name
    return bites


@pytest.mark.parametrize("name", NAMES)
def test_float64_equals_recbox(name, golden_params, tmp_path):
    compare(Pair(golden_params(name), tmp_path), losses=reported(name), parameters=1e-8)


def reported(name):
    """recbox's labels are float32, and torch's cross entropy then reports its float64 loss rounded to float32."""
    return 1e-7 if name == "MF_bce" else 1e-10


VARIANTS = {
    "clipped": ("MF_ccl", {"negative_weight": 20000.0}),
    "l1 and l2": ("MF_ccl", {"regularizer": "l1_l2(1e-5,1e-4)"}),
    "sgd": ("MF_mml", {"optimizer": "sgd", "learning_rate": 0.5}),
    "heavy l2": ("SimpleX_uatt_mml", {"embedding_regularizer": 1e-2, "net_regularizer": 1e-2}),
    "heavy l2, gamma 1": (
        "SimpleX_mean_g1_mml",
        {"embedding_regularizer": 1e-2, "net_regularizer": 1e-2, "unshared": True},
    ),
    "heavy l2, clipped": ("MF_ccl", {"regularizer": 1e-2, "negative_weight": 20000.0}),
    "attention dropout": ("SimpleX_uatt_mml", {"attention_dropout": 0.3}),
    "short histories": ("SimpleX_satt_ccl", {"max_len": 3}),
    "bias and attention": ("SimpleX_satt_ccl", {"enable_bias": True, "net_dropout": 0.2}),
    "sigmoid": ("MF_bce", {"similarity_score": "sigmoid"}),
    # Losses of the paper's section 3 that no experiment of config/ trains.
    "contrastive": ("MF_ccl", {"loss": "ContrastiveLoss", "margin": 1.2}),
    "triplet": ("MF_ccl", {"loss": "TripletLoss", "margin": 0.3}),
    "infonce": ("MF_ccl", {"loss": "InfoNCELoss", "temperature": 0.2}),
    "generalized": ("MF_ccl", {"loss": "GeneralizedContrastiveLoss", "f": "triplet", "margin": 0.3}),
}


# The norm that is clipped and the L2 term are each backend's own kernels.
HEAVY = ("heavy l2", "heavy l2, gamma 1", "heavy l2, clipped")
OWN_KERNELS = [(variant, backend) for variant in HEAVY for backend in ("torch", "numba")]


@pytest.mark.parametrize(("variant", "backend"), [*((variant, "reference") for variant in VARIANTS), *OWN_KERNELS])
def test_variants_in_float64(variant, backend, golden_params, tmp_path):
    name, changes = VARIANTS[variant]
    params = {**golden_params(name), **changes}
    if params.pop("unshared", False):
        # The history's table and W_v decay and count in the norm, though nothing else reaches them.
        params["feature_cols"] = [
            {key: value for key, value in c.items() if key != "share_embedding"} for c in params["feature_cols"]
        ]
    if "max_len" in changes:
        params["feature_cols"] = [
            {**c, **({"max_len": 3} if c["type"] == "sequence" else {})} for c in params["feature_cols"]
        ]
    bites = compare(Pair(params, tmp_path, backend), losses=reported(name), parameters=1e-8)
    assert "clipped" not in variant or bites > STEPS // 2


@pytest.mark.parametrize("name", ["MF_mml", "SimpleX_uatt_mml"])
def test_plateau_reload_keeps_the_moments(name, golden_params, tmp_path):
    compare(Pair(golden_params(name), tmp_path), losses=1e-10, parameters=1e-8, plateau_at=STEPS // 2)


@pytest.mark.parametrize(
    ("name", "backend", "needs_users"),
    [("MF_mml", "numba", False), ("MF_mml", "torch", True), ("SimpleX_uatt_mml", "reference", False)],
)
def test_a_loss_with_parameters_is_trained_as_in_recbox(name, backend, needs_users, golden_params, tmp_path):
    params = {**golden_params(name), "max_gradient_norm": 1.0}
    if name.startswith("SimpleX"):
        params["net_regularizer"] = 1e-2
    pair = Pair(params, tmp_path, backend, loss=LearntTemperature(needs_users))
    bites = compare(pair, losses=1e-10, parameters=1e-8, plateau_at=STEPS // 2)
    assert bites > 0
    assert abs(float(pair.trainer.loss.temperature.detach()) - 0.2) > 1e-3


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize(
    "name", ["MF_mml", "MF_softmax", "SimpleX_mean_bias_ccl", "SimpleX_uatt_mml", "SimpleX_satt_ccl"]
)
def test_float32_backends_stay_close_to_recbox(name, backend, golden_params, tmp_path):
    # From vectors of 1e-4 a rounding error is amplified a thousandfold by the first normalisations, whoever computes
    # them; from 0.1 the comparison measures the engine.
    params = {**golden_params(name), "learning_rate": 1e-3, "embedding_initializer": WIDE}
    pair = Pair(params, tmp_path, backend, torch.float32)
    compare(pair, losses=1e-5, parameters=0.01 * params["learning_rate"] * STEPS)


@pytest.mark.parametrize("backend", ["torch", "numba"])
@pytest.mark.parametrize(("changes", "plateau_at"), [({"max_gradient_norm": 0.01}, None), ({}, STEPS // 2)])
def test_float32_stays_close_where_the_norm_is_clipped_and_after_a_plateau(
    changes, plateau_at, backend, golden_params, tmp_path
):
    params = {**golden_params("MF_ccl"), "learning_rate": 1e-3, "embedding_initializer": WIDE, **changes}
    pair = Pair(params, tmp_path, backend, torch.float32)
    bites = compare(pair, 1e-5, 0.01 * params["learning_rate"] * STEPS, plateau_at)
    assert not changes or bites > STEPS // 2
