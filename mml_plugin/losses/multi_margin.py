"""The Multi-Margin Loss (MML), Eq. 7 of the paper."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import checked_margins, number


class MultiMarginLoss(SampledLoss):
    r"""Several margins, each with a weight, so that semi-hard and semi-easy negatives teach too: Eq. 7 of the paper.

    .. math:: w_p\,(1 - s_p)_+ + \frac{w_n}{N} \sum_j \sum_k w_k\,(s_j - m_k)_+

    The positive part is clipped at 0 because dropout after normalisation lets a cosine exceed 1. A score
    equal to a margin is inactive. Memory is O(B*N) for any number of margins: a negative in band b costs
    ``c_b + W_b (s - m_b)``, with c_b the penalty at margin m_b and W_b the sum of the weights reached.

    Args:
        margins: m_k, any finite similarities in any order.
        margin_weights: w_k >= 0, one per margin, not all 0.
        neg_weight: w_n > 0; it multiplies the mean over negatives.
        pos_weight: w_p >= 0; 1 by default, as in the paper.

    Attributes:
        margins, margin_weights: ``K`` of each, by rising margin.

    Raises:
        UserError: for a value out of its range, and for lists of different lengths.

    Example:
        >>> loss = MultiMarginLoss([0.6, 0.7, 0.8, 0.9], [0.05, 0.15, 0.2, 0.6], neg_weight=400)
        >>> round(loss(torch.tensor([[0.5, 0.95, 0.1]])).item(), 4)
        23.5
    """

    needs_cosine = True

    start: Tensor
    slope: Tensor
    offset: Tensor

    def __init__(
        self,
        margins: Sequence[float],
        margin_weights: Sequence[float],
        neg_weight: float,
        pos_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.pos_weight = number("pos_weight", pos_weight, minimum=0.0)
        self.neg_weight = number("neg_weight", neg_weight, above=0.0)
        pairs = sorted(zip(*checked_margins(margins, margin_weights)))
        levels = torch.tensor([m for m, _ in pairs], dtype=torch.float64)
        reached = torch.tensor([w for _, w in pairs], dtype=torch.float64).cumsum(0)
        at_margin = torch.zeros_like(levels)
        at_margin[1:] = (reached[:-1] * levels.diff()).cumsum(0)
        self.margins, self.margin_weights = (tuple(column) for column in zip(*pairs))
        none = torch.zeros(1, dtype=torch.float64)
        # Float64 keeps the table exact; it is cast to the scores' type when used.
        self.register_buffer("start", torch.cat([none, levels]), persistent=False)
        self.register_buffer("slope", torch.cat([none, reached]), persistent=False)
        self.register_buffer("offset", torch.cat([none, at_margin]), persistent=False)

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        pulled = self.pos_weight * torch.relu(1 - positive)
        return pulled.mean() + self.neg_weight * self.mean_penalty(negatives)

    def penalty(self, scores: Tensor) -> Tensor:
        """What each similarity costs, in the shape of ``scores``: 0 up to the lowest margin, then linear and rising."""
        start, slope, offset = (t.to(scores.dtype) for t in (self.start, self.slope, self.offset))
        band = torch.bucketize(scores.detach().contiguous(), start[1:])
        # Without the relu a negative that is masked with -inf would be 0 * inf below the lowest margin.
        return offset[band] + slope[band] * torch.relu(scores - start[band])

    def mean_penalty(self, scores: Tensor) -> Tensor:
        """The mean of :meth:`penalty`, a scalar, computed from the active scores alone where that is faster.

        On a CPU, selecting the few active scores first is several times as fast; its result's size depends
        on the data, which another device would have to wait for and which compile and vmap cannot trace.
        """
        traced = torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(scores)
        if traced or scores.device.type != "cpu":
            return self.penalty(scores).mean()
        # By place in one dimension: the gradient of a choice by a mask over two is several times as slow.
        every = scores.reshape(-1)
        # Negated, so that a NaN is selected: training that has gone wrong must show in the loss.
        active = (every.detach() <= self.start[1].to(scores.dtype)).logical_not_().nonzero().squeeze(1)
        return self.penalty(every.index_select(0, active)).sum() / scores.numel()
