"""MML as a function of separate positive and negative scores, for any PyTorch code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mml_plugin.losses.base import at_least_float32
from mml_plugin.losses.checks import choice
from mml_plugin.losses.multi_margin import MultiMarginLoss
from mml_plugin.losses.score_range import ScoreRange

_range = ScoreRange("multi_margin_loss")


def multi_margin_loss(
    positive: Tensor,
    negatives: Tensor,
    margins: Sequence[float],
    margin_weights: Sequence[float],
    neg_weight: float,
    pos_weight: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Eq. 7 on scores that are already there.

    Args:
        positive: ``[B]`` similarities with the positives, of any floating type.
        negatives: ``[B, N]`` similarities with each row's negatives (shared or in-batch ones included).
        margins, margin_weights, neg_weight, pos_weight: see :class:`MultiMarginLoss`.
        reduction: ``"mean"`` (a scalar), ``"sum"`` (a scalar) or ``"none"`` (``[B]``).

    Raises:
        ValueError: for other shapes or types, and for parameters out of range.
    """
    choice("reduction", reduction, ("mean", "sum", "none"))
    _check(positive, negatives)
    _range.look(negatives)
    loss = MultiMarginLoss(margins, margin_weights, neg_weight, pos_weight).to(positive.device)
    pulled = loss.pos_weight * torch.relu(1 - at_least_float32(positive))
    rows = pulled + loss.neg_weight * loss.penalty(at_least_float32(negatives)).mean(dim=1)
    if reduction == "none":
        return rows
    return rows.mean() if reduction == "mean" else rows.sum()


def _check(positive: Tensor, negatives: Tensor) -> None:
    shapes = [list(positive.shape), list(negatives.shape)]
    if positive.dim() != 1 or negatives.dim() != 2 or len(negatives) != len(positive) or not negatives.numel():
        raise ValueError(
            f"positive must be [B] and negatives [B, N] with B and N >= 1, got {shapes[0]} and {shapes[1]}"
        )
    for name, scores in (("positive", positive), ("negatives", negatives)):
        if not scores.is_floating_point():
            raise ValueError(f"{name} must hold floating-point scores, got {scores.dtype}")
