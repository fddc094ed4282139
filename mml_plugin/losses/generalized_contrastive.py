"""The generalised contrastive loss, Eq. 6: one form, four functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import choice, number
from mml_plugin.losses.contrastive import distance, squared_distance

# f -> the margin of the loss that it contains.
FUNCTIONS = {"ccl": 0.0, "contrastive": 1.0, "triplet": 0.2, "infonce": 0.0}


class GeneralizedContrastiveLoss(SampledLoss):
    r"""A weighted positive term and the weighted mean of clipped negative terms: Eq. 6 of the paper.

    .. math:: w_p f(u, i) + \frac{w_n}{N} \sum_j \max(0, f(u, i, j, m))

    ==============  =============================  ===========================  =====================
    f               f(u, i)                        f(u, i, j, m)                equals
    ==============  =============================  ===========================  =====================
    ``ccl``         (1 - s_p)_+                    s_j - m                      CCL at w_p = 1
    ``contrastive`` d_p^2 / 2                      (m - d_j)_+^2 / 2            Eq. 1 at w_p = w_n = 1
    ``triplet``     0                              d_p^2 - d_j^2 + m            Eq. 3 at w_n = 1
    ``infonce``     0                              log(1 + sum_j e^(s_j-s_p))   Eq. 4 at w_n = 1
    ==============  =============================  ===========================  =====================

    The paper leaves f open; the square in ``contrastive`` and the set-wise ``infonce`` are our choice, made so
    that the form contains Eq. 1 and Eq. 4 exactly.

    Args:
        f: one of the four.
        margin: m, finite; > 0 for ``contrastive`` and >= 0 for ``triplet``, as in those losses; ``infonce`` does not
            use it. None is the loss's own: 0 for ``ccl``, 1 for ``contrastive``, 0.2 for ``triplet``.
        pos_weight: w_p >= 0; 1 by default.
        neg_weight: w_n > 0; 1 by default.

    Raises:
        UserError: for a value out of its range and for another f.
    """

    def __init__(self, f: str, margin: float | None = None, pos_weight: float = 1.0, neg_weight: float = 1.0) -> None:
        super().__init__()
        self.f = choice("f", f, tuple(FUNCTIONS))
        self.needs_cosine = f != "infonce"
        bound = {"contrastive": {"above": 0.0}, "triplet": {"minimum": 0.0}}.get(f, {})
        self.margin = number(f"margin of f {f}", FUNCTIONS[f] if margin is None else margin, **bound)
        self.pos_weight = number("pos_weight", pos_weight, minimum=0.0)
        self.neg_weight = number("neg_weight", neg_weight, above=0.0)

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        pulled, pushed = getattr(self, f"_{self.f}")(positive, negatives)
        return (self.pos_weight * pulled + self.neg_weight * torch.relu(pushed).mean(dim=1)).mean()

    def _ccl(self, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(1 - positive), negatives - self.margin

    def _contrastive(self, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        return squared_distance(positive) / 2, torch.relu(self.margin - distance(negatives)).square() / 2

    def _triplet(self, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        gap = squared_distance(positive).unsqueeze(1) - squared_distance(negatives)
        return torch.zeros_like(positive), gap + self.margin

    def _infonce(self, positive: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(positive), softplus(torch.logsumexp(negatives, dim=1) - positive).unsqueeze(1)
