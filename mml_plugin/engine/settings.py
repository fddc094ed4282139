"""How the fast engine trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mml_plugin.engine.optimiser import Penalty
from mml_plugin.errors import UserError, nearest


@dataclass(frozen=True)
class Settings:
    """How to train; defaults are recbox's.

    Attributes:
        epochs: at most so many.
        batch_size, num_negs: training rows in a batch, negatives of each.
        learning_rate: of the first epoch.
        optimizer: a class of ``torch.optim``, upper and lower case being the same; ``adam`` by default.
        max_gradient_norm: the norm of the whole gradient that is clipped at; 10 by default.
        penalties: parameter name -> regulariser.
        batch_penalty: see :class:`step.Step`.
        dropout_first: dropout before normalisation.
        seed: of every stream.
        shuffle: a new order of training rows per epoch.
        popularity_alpha: exponent of the negatives' popularity; 0 is uniform.
        exclude_positives: never draw a training item of the user.
        metrics: label -> (metric, k).
        monitor: label -> weight.
        maximise: whether a larger monitor is better; True by default.
        patience: evaluations in a row without improvement after which training stops; 2 by default.
        reduce_lr_on_plateau: after each of them, go back to the best weights and cut the rate; True by default.
        save_best_only: keep the best epoch's weights, not the last's; True by default.
        thresholds: band edges to count training negatives by.
        max_batches: end each epoch early; None trains it whole.
        capture: on a GPU, replay the step as a CUDA graph.
        progress: show a bar.
    """

    epochs: int
    batch_size: int
    num_negs: int
    learning_rate: float
    seed: int
    metrics: Mapping[str, tuple[str, int]]
    monitor: Mapping[str, float]
    optimizer: str = "adam"
    max_gradient_norm: float = 10.0
    penalties: Mapping[str, Penalty] = field(default_factory=dict)
    batch_penalty: float = 0.0
    dropout_first: bool = False
    shuffle: bool = True
    popularity_alpha: float = 0.0
    exclude_positives: bool = False
    maximise: bool = True
    patience: int = 2
    reduce_lr_on_plateau: bool = True
    save_best_only: bool = True
    thresholds: Sequence[float] = ()
    max_batches: int | None = None
    capture: bool = True
    progress: bool = True

    def check_size(self, rows: int) -> None:
        """Raise a :class:`UserError` for batches of more scores than 32 bits count, which the kernels count in."""
        if min(self.batch_size, rows) * (1 + self.num_negs) >= 2**31:
            raise UserError(
                f"batch_size {self.batch_size} with num_negs {self.num_negs}: a batch may have at most 2^31 - 1 scores"
            )

    def check_monitor(self) -> None:
        """Raise a :class:`UserError` for a monitor that is none of the metrics."""
        for name in self.monitor:
            if name not in self.metrics:
                raise UserError(f"the monitor {name!r} is none of the metrics; {nearest(name, tuple(self.metrics))}")
