"""The Cosine Contrastive Loss (CCL) of SimpleX, Eq. 2."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import number


class CosineContrastiveLoss(SampledLoss):
    r"""SimpleX's loss (Mao et al. 2021), Eq. 2: only negatives above one margin have a gradient.

    Equal to recbox's class of the same name.

    .. math:: (1 - s_p)_+ + \frac{w}{N} \sum_j (s_j - m)_+

    Args:
        margin: m, any finite similarity; 0 by default.
        negative_weight: w > 0. None or 0 *sums* over the negatives with weight 1 instead of averaging
            them: recbox's behaviour, kept, with a warning, and the default.

    Raises:
        UserError: for a value out of its range.
    """

    needs_cosine = True

    def __init__(self, margin: float = 0.0, negative_weight: float | None = None) -> None:
        super().__init__()
        self.margin = number("margin", margin)
        self.negative_weight = number("negative_weight", negative_weight or 0.0, minimum=0.0)
        if not self.negative_weight:
            warnings.warn(
                "CosineContrastiveLoss without a negative_weight sums over the negatives with weight 1, "
                "as recbox does; a positive negative_weight multiplies their mean",
                stacklevel=2,
            )

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        penalty = torch.relu(negatives - self.margin)
        pushed = penalty.mean(dim=-1) * self.negative_weight if self.negative_weight else penalty.sum(dim=-1)
        return (torch.relu(1 - positive) + pushed).mean()
