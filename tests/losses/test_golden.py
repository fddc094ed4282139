"""Values and gradients that the original code printed (tests/data/golden/losses.*)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mml_plugin import build_loss
from mml_plugin.errors import UserError

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
ROWS = json.loads((GOLDEN / "losses.json").read_text())
ARRAYS = np.load(GOLDEN / "losses.npz")
RENAMED = {"BSL(native)": "BilateralSoftmaxLoss", "BSLLoss(recbox port by the loss author)": "BSLLoss"}
KEYS = {
    "tau1": "temperature",
    "tau2": "temperature2",
    "margins": "margin_values_list",
    "weights": "negative_weights_list",
}


def parse(text):
    """``name|key=value,...`` as the golden file writes it."""
    name, _, rest = text.partition("|")
    params = {}
    for pair in filter(None, rest.split(",")):
        key, value = pair.split("=")
        key = KEYS.get(key, key)
        if ":" in value:
            params[key] = [float(v) for v in value.split(":")]
        else:
            params[key] = None if value == "null" else value
    return RENAMED.get(name, name), params


@pytest.mark.filterwarnings("ignore:CosineContrastiveLoss without")
@pytest.mark.parametrize("row", ROWS, ids=[row["key"] for row in ROWS])
def test_value_and_gradient_equal_the_original(row):
    name, params = parse(row["loss"])
    scores = torch.from_numpy(ARRAYS[f"{row['shape']}.y_pred"]).requires_grad_()
    users = torch.from_numpy(ARRAYS[f"{row['shape']}.users"])
    labels = torch.zeros_like(scores)
    labels[:, 0] = 1
    value = build_loss(name, **params)(scores, labels, users=users)
    value.backward()
    assert value.item() == pytest.approx(row["value"], rel=1e-6)
    np.testing.assert_allclose(scores.grad.numpy(), ARRAYS[f"{row['key']}|grad"], rtol=1e-5, atol=1e-8)


def test_every_golden_loss_is_covered():
    assert {parse(row["loss"])[0] for row in ROWS} >= {"MultiCosineContrastiveLoss", "BilateralSoftmaxLoss", "BSLLoss"}
    assert len(ROWS) == sum("|grad" in key for key in ARRAYS.files)


def test_the_native_multi_mode_is_not_the_port(caplog):
    shape = ROWS[0]["shape"]
    scores = torch.from_numpy(ARRAYS[f"{shape}.y_pred"])
    users = torch.from_numpy(ARRAYS[f"{shape}.users"])
    ours = build_loss("BSL", temperature=0.11, temperature2=1.1)(scores, users=users)
    with caplog.at_level("INFO"):
        port = build_loss("BSLLoss", temperature=0.11, temperature2=1.1, mode="multi")(scores)
    assert "author_port" in caplog.text
    assert abs(ours.item() - port.item()) > 1e-3
    with pytest.raises(UserError, match="mode must be one of"):
        build_loss("BSLLoss", temperature=0.1, mode="test")
