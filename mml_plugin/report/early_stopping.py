"""Early stopping read off a full history: the run that stops early is the full run cut short."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MIN_DELTA = 1e-6


@dataclass(frozen=True)
class Stop:
    """Where a run with patience would have ended.

    Attributes:
        epoch: the last epoch that it trains, 1-based.
        best_epoch: the epoch that it reports.
        reached: whether patience ended it; otherwise the history did.
    """

    epoch: int
    best_epoch: int
    reached: bool


def read_stop(monitor: Sequence[float], patience: int) -> Stop:
    """Apply recbox's rule to the monitor of every epoch (larger is better, plateau schedule off).

    An epoch improves when it exceeds the best by 1e-6; after ``patience`` epochs in a row that do not, training stops.
    """
    best, best_epoch, stops = float("-inf"), 0, 0
    for epoch, value in enumerate(monitor, 1):
        if value < best + MIN_DELTA:
            stops += 1
        else:
            best, best_epoch, stops = value, epoch, 0
        if stops >= patience:
            return Stop(epoch, best_epoch, True)
    return Stop(len(monitor), best_epoch, False)
