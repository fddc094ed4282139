"""What an epoch adds up, on the device and in memory that stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mml_plugin.engine.backends.base import Backend
from mml_plugin.engine.step import StepResult


class Tally:
    """Sums over an epoch's steps.

    Args:
        backend: counts the bands.
        thresholds: band edges; none counts no bands.
        device: where the sums are.

    Attributes:
        total: the losses' sum, float64.
        counts: ``[K+1]`` negatives per band.
        sums: ``[K+1]`` their ``|dL/dn|``, float64.
    """

    def __init__(self, backend: Backend, thresholds: Sequence[float], device: torch.device) -> None:
        self._backend = backend
        # In the scores' own type, a threshold is the number that the loss compares them with.
        edges = torch.tensor(sorted(set(thresholds)), dtype=torch.float64, device=device)
        self._thresholds = {dtype: edges.to(dtype) for dtype in (torch.float32, torch.float64)}
        self._counted = len(edges) > 0
        bands = len(edges) + 1
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        self.counts = torch.zeros(bands, dtype=torch.int64, device=device)
        self.sums = torch.zeros(bands, dtype=torch.float64, device=device)

    def clear(self) -> None:
        """Begin an epoch."""
        for tensor in (self.total, self.counts, self.sums):
            tensor.zero_()

    def add(self, result: StepResult) -> None:
        """Take a step in."""
        self.total += result.loss
        if self._counted:
            thresholds = self._thresholds[result.y_pred.dtype]
            self._backend.bands(result.y_pred, result.gradient, thresholds, self.counts, self.sums)

    def bands(self) -> tuple[list[int], list[float]]:
        """Counts and sums; two empty lists without thresholds. The host waits for them."""
        if not self._counted:
            return [], []
        return self.counts.tolist(), self.sums.tolist()


def active_share(gradient: Tensor) -> float:
    """The share of a batch's negatives that dL/dy ``[B, 1+N]`` pushes, whatever the loss; the host waits for it."""
    negatives = gradient[:, 1:]
    return int(negatives.count_nonzero()) / negatives.numel()
