"""Losses on single scores and on the row's softmax: MSE, sigmoid and softmax cross entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from mml_plugin.losses.base import SampledLoss


class MSELoss(SampledLoss):
    r"""Squared error with recbox's balance: :math:`\tfrac12 (s_p - 1)^2 + \tfrac12 \sum_j s_j^2`, a sum over j.

    Equal to recbox's class of the same name.
    """

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return ((positive - 1).square() / 2 + negatives.square().sum(dim=1) / 2).mean()


class SoftmaxCrossEntropyLoss(SampledLoss):
    r"""Sampled softmax: :math:`-\log` of the positive's softmax probability, in a form that does not overflow.

    Equal to recbox's class of the same name.
    """

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return -torch.log_softmax(torch.cat([positive.unsqueeze(1), negatives], dim=1), dim=1)[:, 0].mean()


class SigmoidCrossEntropyLoss(SampledLoss):
    """Binary cross entropy on logits, *summed* over the batch as recbox does; the only reader of labels.

    Equal to recbox's class of the same name.

    Without ``y_true`` the labels are 1 for column 0 and 0 elsewhere.
    """

    def forward(self, y_pred: Tensor, y_true: Tensor | None = None, users: Tensor | None = None) -> Tensor:
        """See :meth:`SampledLoss.forward`; ``y_true`` may hold any probabilities."""
        scores = self.checked(y_pred, y_true)
        if y_true is None:
            y_true = torch.zeros_like(scores)
            y_true[:, 0] = 1
        return binary_cross_entropy_with_logits(scores, y_true.to(scores.dtype), reduction="sum")
