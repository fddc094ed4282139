"""Our six losses of recbox's names against recbox's own classes, in process."""

from __future__ import annotations

import pytest
import torch

from mml_plugin import build_loss
from mml_plugin.hosts import recbox

NAMES = {
    "CosineContrastiveLoss": {"margin": 0.4, "negative_weight": 50},
    "MSELoss": {},
    "PairwiseLogisticLoss": {},
    "PairwiseMarginLoss": {"margin": 0.7},
    "SigmoidCrossEntropyLoss": {},
    "SoftmaxCrossEntropyLoss": {},
}


@pytest.mark.parametrize("scale", [1.0, 20.0])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name, scale):
    recbox.load()
    from recbox.core.pytorch import losses as theirs

    torch.manual_seed(1)
    results = []
    y = (torch.rand(9, 21) * 2 - 1) * scale
    labels = torch.zeros_like(y)
    labels[:, 0] = 1
    for loss in (getattr(theirs, name)(**NAMES[name]), build_loss(name, **NAMES[name])):
        scores = y.clone().requires_grad_()
        value = loss(scores, labels)
        value.backward()
        results.append((value, scores.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)
    assert set(NAMES) == recbox.plugging.OWN
