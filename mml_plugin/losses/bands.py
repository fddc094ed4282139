"""How many negatives fall in each band, and how much gradient each band has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mml_plugin.losses.base import at_least_float32
from mml_plugin.losses.checks import number


class BandCounter:
    """Counts the negatives between neighbouring thresholds; draws no random number, forces no synchronisation.

    K thresholds make K + 1 bands, band_0 the lowest. A score equal to a threshold belongs to the band below
    it, as a score equal to a margin is inactive. NaN belongs to no band above 0.

    Args:
        thresholds: finite similarities in any order; repeated ones count once. May be empty: then nothing is counted.

    Raises:
        UserError: for a threshold that is no finite number.
    """

    def __init__(self, thresholds: Sequence[float]) -> None:
        self.thresholds = tuple(sorted({number("threshold", t) for t in thresholds}))
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._above: list[Tensor | int] = [0] * len(self.thresholds)
        self._gradient_above: list[Tensor | float] = [0.0] * (len(self.thresholds) + 1)
        self._total = 0
        self._has_gradient = False

    @torch.no_grad()
    def update(self, y_pred: Tensor, gradient: Tensor | None = None) -> None:
        """Add one batch; does nothing without thresholds.

        Args:
            y_pred: training scores ``[B, 1+N]``; column 0, the positive, is not counted.
            gradient: dL/dy_pred of the same shape, to measure each band's share of the gradient.
        """
        if not self.thresholds:
            return
        negatives = at_least_float32(y_pred.detach()[:, 1:])  # as the losses compare them with their margins
        self._total += negatives.numel()
        size = gradient.detach()[:, 1:].abs() if gradient is not None else None
        if size is not None:
            self._has_gradient = True
            self._gradient_above[0] = self._gradient_above[0] + size.sum(dtype=torch.float64)
        for k, threshold in enumerate(self.thresholds):
            above = negatives > threshold
            self._above[k] = self._above[k] + above.sum()
            if size is not None:
                part = (size * above).sum(dtype=torch.float64)
                self._gradient_above[k + 1] = self._gradient_above[k + 1] + part

    @property
    def counts(self) -> tuple[int, ...]:
        """Negatives per band; empty without thresholds."""
        if not self.thresholds:
            return ()
        above = [self._total, *(int(a) for a in self._above), 0]
        return tuple(above[b] - above[b + 1] for b in range(len(above) - 1))

    @property
    def gradients(self) -> tuple[float, ...]:
        """Sum of ``|dL/dn|`` per band; empty without thresholds or when no gradient was given."""
        if not self._has_gradient:
            return ()
        above = [*(float(g) for g in self._gradient_above), 0.0]
        return tuple(above[b] - above[b + 1] for b in range(len(above) - 1))
