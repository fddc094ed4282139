"""The original contrastive loss, Eq. 1, on similarities of unit vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import number


def squared_distance(similarity: Tensor) -> Tensor:
    """d^2 = max(0, 2 - 2s), the squared distance of unit vectors with inner product s."""
    return torch.relu(2 - 2 * similarity)


def distance(similarity: Tensor) -> Tensor:
    """The root of :func:`squared_distance`, with gradient 0 (not infinite) where the distance is 0; NaN stays NaN."""
    squared = squared_distance(similarity)
    apart = (squared <= 0).logical_not()
    return torch.where(apart, squared, 1.0).sqrt() * apart


class ContrastiveLoss(SampledLoss):
    r"""Pull the positive in, push negatives out of a radius (Chopra et al. 2005), Eq. 1.

    .. math:: \tfrac12 \Bigl[ d_p^2 + \frac1N \sum_j \max(0, m - d_j)^2 \Bigr], \quad d^2 = \max(0, 2 - 2s)

    The paper sums over pairs; the mean over negatives is our choice, so that N does not change the balance.

    Args:
        margin: m > 0, a distance (unit vectors are at most 2 apart); 1 by default.

    Raises:
        UserError: for a value out of its range.
    """

    needs_cosine = True

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = number("margin", margin, above=0.0)

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        pushed = torch.relu(self.margin - distance(negatives)).square().mean(dim=-1)
        return 0.5 * (squared_distance(positive) + pushed).mean()
