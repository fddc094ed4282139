"""The triplet loss of FaceNet, Eq. 3, on similarities of unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import number
from mml_plugin.losses.contrastive import squared_distance


class TripletLoss(SampledLoss):
    r"""Every negative must be farther from the user than the positive, by a margin (Schroff et al. 2015), Eq. 3.

    .. math:: \frac1N \sum_j \max(0, d_p^2 - d_j^2 + m), \quad d^2 = \max(0, 2 - 2s)

    Args:
        margin: m >= 0, a difference of squared distances; 0.2, FaceNet's, by default.

    Raises:
        UserError: for a value out of its range.
    """

    needs_cosine = True

    def __init__(self, margin: float = 0.2) -> None:
        super().__init__()
        self.margin = number("margin", margin, minimum=0.0)

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        gap = squared_distance(positive).unsqueeze(1) - squared_distance(negatives)
        return torch.relu(gap + self.margin).mean()
