"""What one epoch of training says about itself, whichever engine trained it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class EpochRecord:
    """One row of ``history.csv``.

    Attributes:
        epoch: 1-based.
        train_loss: mean over the epoch's batches of the total loss (regulariser included).
        metrics: the evaluation that closed the epoch, by recbox's names (``"Recall(k=20)"``); empty
            when the epoch had none.
        learning_rate: the rate the epoch was trained with.
        train_seconds: training alone, sampling included, evaluation excluded.
        eval_seconds: evaluation alone.
        peak_memory_bytes: peak PSS of the process tree so far, or the device's peak.
        band_counts: how many training negatives fell in each band, band_0 (easy) first; empty when no
            thresholds were asked for. K thresholds give K + 1 bands.
        band_gradients: the sum of ``|dL/dn|`` in each band, or empty when not measured.
    """

    epoch: int
    train_loss: float
    metrics: dict[str, float] = field(default_factory=dict)
    learning_rate: float = float("nan")
    train_seconds: float = 0.0
    eval_seconds: float = 0.0
    peak_memory_bytes: int = 0
    band_counts: tuple[int, ...] = ()
    band_gradients: tuple[float, ...] = ()
