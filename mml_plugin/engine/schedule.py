"""When to keep, when to cut the learning rate, when to stop: recbox's rule."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

MIN_DELTA = 1e-6
FACTOR, MIN_RATE = 0.1, 1e-6


@dataclass
class Schedule:
    """The monitor's history and what follows from it.

    Attributes:
        monitor: metric -> weight; their weighted sum is watched.
        maximise: whether larger is better.
        patience: stop after so many evaluations in a row without improvement.
        best: the best monitor so far.
        best_epoch: its epoch, 1-based; 0 before the first.
        stops: evaluations in a row without improvement.
    """

    monitor: Mapping[str, float]
    maximise: bool
    patience: int
    best: float = -math.inf
    best_epoch: int = 0
    stops: int = 0

    def __post_init__(self) -> None:
        if not self.maximise and not self.best_epoch:
            self.best = math.inf

    def value(self, metrics: Mapping[str, float]) -> float:
        """The monitor of one evaluation."""
        return sum(metrics[name] * weight for name, weight in self.monitor.items())

    def update(self, value: float, epoch: int) -> bool:
        """Take one evaluation in; returns whether it improved on the best by 1e-6 or more, as in recbox."""
        worse = value < self.best + MIN_DELTA if self.maximise else value > self.best - MIN_DELTA
        if worse:
            self.stops += 1
            return False
        self.best, self.best_epoch, self.stops = value, epoch, 0
        return True

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.stops >= self.patience


def reduced(rate: float) -> float:
    """The learning rate after a plateau: a tenth of it, 1e-6 at least."""
    return max(rate * FACTOR, MIN_RATE)
