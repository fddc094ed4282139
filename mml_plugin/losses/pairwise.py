"""Pairwise losses: BPR and hinge, every negative against its row's positive."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import number


class PairwiseLogisticLoss(SampledLoss):
    r"""BPR (Rendle et al. 2009): the mean of :math:`-\log \sigma(s_p - s_j)`, in a form that does not overflow.

    Equal to recbox's class of the same name.
    """

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return softplus(negatives - positive.unsqueeze(1)).mean()


class PairwiseMarginLoss(SampledLoss):
    r"""Pairwise hinge: the mean of :math:`(m + s_j - s_p)_+`. Equal to recbox's class of the same name.

    Args:
        margin: m, any finite number; 1, recbox's, by default.

    Raises:
        UserError: for a value out of its range.
    """

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = number("margin", margin)

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        return torch.relu(self.margin + negatives - positive.unsqueeze(1)).mean()
