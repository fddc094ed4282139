"""recbox's own training, one epoch at a time: measured, stopped when it goes wrong, and resumable.

The epoch, the evaluation and the decision about the best epoch are stock recbox's methods; only the loop around them
is ours. It logs what recbox's loop logs and draws no random number.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mml_plugin.errors import UserError
from mml_plugin.interrupts import interruptible
from mml_plugin.losses.bands import BandCounter
from mml_plugin.memory import PeakMemory
from mml_plugin.records import EpochRecord
from mml_plugin.states import check_same, check_same_data, damage_named, read_state, write_state

STATE_VERSION = 2


@contextmanager
def killed_workers_named() -> Iterator[None]:
    """A loader's worker that the system killed, as a :class:`UserError` of one sentence."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(
            r"DataLoader worker \(pid\S* ([\d, ]+)\) (is killed by signal: [\w ]+|exited unexpectedly)", str(error)
        )
        if found is None:
            raise
        raise UserError(
            f"a process that loads data (pid {found[1]}) {found[2].strip()}, most often because memory ran out; "
            "num_workers 0 needs none, and --resume goes on after the last finished epoch"
        ) from error


@dataclass(frozen=True)
class FitResult:
    """How a training ended.

    Attributes:
        best_epoch: 1-based, of the weights that the model now holds.
        best_monitor: the best monitor of all.
        epochs_done: how many epochs were trained, resumed ones included.
        stopped_early: whether patience ended it.
    """

    best_epoch: int
    best_monitor: float
    epochs_done: int
    stopped_early: bool


def fit(
    model: Any,
    train_gen: Any,
    valid_gen: Any,
    *,
    epochs: int,
    verbose: int = 1,
    max_gradient_norm: float = 10.0,
    thresholds: Sequence[float] = (),
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    state_path: Path | None = None,
    resume: bool = False,
    on_resume: Callable[[int], None] = lambda epochs: None,
    data_id: str = "",
) -> FitResult:
    """Train a compiled recbox model as its own ``fit`` does and load its best weights.

    Args:
        model: a ``MatchingModel``.
        train_gen, valid_gen: from recbox's ``h5_generator``.
        epochs: at most so many.
        verbose: above 0, recbox's progress bar per epoch.
        max_gradient_norm: recbox's clip norm.
        thresholds: margins; negatives are counted per band between them.
        on_epoch: called after each epoch, before its state is written.
        state_path: where the state of the last finished epoch goes; None keeps none.
        resume: go on from ``state_path``; the end is the undisturbed run's, bit by bit, on a CPU.
        on_resume: told how many epochs the state holds.
        data_id: what the data are, in a word; a state of other data is not gone on with.

    Raises:
        UserError: when loss or monitor is no finite number, and when the state is missing, damaged or from another
            number of threads or device.
    """
    loop = _Loop(model, train_gen, valid_gen, epochs, BandCounter(thresholds), on_epoch, state_path, data_id)
    model.valid_gen, model._max_gradient_norm, model._verbose = valid_gen, max_gradient_norm, verbose
    model._best_metric = math.inf if model._monitor_mode == "min" else -math.inf
    model._stopping_steps = model._total_batches = 0
    model._stop_training = False
    model._batches_per_epoch = len(train_gen)
    model._eval_interval_batches = math.ceil(model._eval_interval_epochs * model._batches_per_epoch)
    if model._eval_interval_epochs != 1:
        warnings.warn(
            "eval_interval_epochs other than 1 does not thin out recbox's evaluations: above 1 it only halves the "
            "patience, below 1 it trains the rest of each epoch without dropout",
            stacklevel=2,
        )
    if resume:
        on_resume(loop.restore())
    return loop.run()


class _Loop:
    """The state of one training, and what is observed around recbox's methods."""

    def __init__(
        self,
        model: Any,
        train_gen: Any,
        valid_gen: Any,
        epochs: int,
        bands: BandCounter,
        on_epoch: Callable[[EpochRecord], None],
        state_path: Path | None,
        data_id: str,
    ) -> None:
        self.model, self.train_gen, self.valid_gen, self.epochs = model, train_gen, valid_gen, epochs
        self.bands, self.on_epoch, self.state_path, self.data_id = bands, on_epoch, state_path, data_id
        self.epoch = 0
        self.best_epoch = 0
        self.metrics: dict[str, float] = {}
        self.eval_seconds = 0.0
        self.check_interrupt: Callable[[], None] = lambda: None

    def run(self) -> FitResult:
        model = self.model
        device = model.device.index if model.device.type == "cuda" else None
        logging.info("**** Start training: %d batches/epoch ****", model._batches_per_epoch)
        observers = self._observe()
        try:
            with PeakMemory(cuda_device=device) as memory, interruptible() as self.check_interrupt:
                while self.epoch < self.epochs and not model._stop_training:
                    self._one_epoch(memory)
        finally:
            for remove in observers:
                remove()
        logging.info("Training finished.")
        logging.info("Load best model: %s", model.checkpoint)
        model.load_weights(model.checkpoint)
        return FitResult(self.best_epoch, float(model._best_metric), self.epoch, model._stop_training)

    def _observe(self) -> list[Callable[[], None]]:
        model = self.model
        hook = model.loss_fn.register_forward_hook(lambda module, inputs, output: self._count(inputs[0]))
        model.evaluate = self._evaluate
        model.checkpoint_and_earlystop = self._decide

        def restore() -> None:
            del model.evaluate, model.checkpoint_and_earlystop

        return [hook.remove, restore]

    def _count(self, y_pred: torch.Tensor) -> None:
        """Count the batch's negatives once its gradient is there; every batch comes by here."""
        self.check_interrupt()
        if self.bands.thresholds and y_pred.requires_grad:
            scores = y_pred.detach()
            y_pred.register_hook(lambda gradient: self.bands.update(scores, gradient))

    def _evaluate(self, train_gen: Any, valid_gen: Any) -> dict[str, float]:
        started = time.perf_counter()
        logs = type(self.model).evaluate(self.model, train_gen, valid_gen)
        self.eval_seconds += time.perf_counter() - started
        self.metrics = {name: float(value) for name, value in logs.items()}
        return logs

    def _decide(self, epoch: float, logs: dict[str, float]) -> None:
        model = self.model
        monitor = float(model._monitor.get_value(logs))
        if not math.isfinite(monitor):
            raise self._diverged(f"the monitor is {monitor}")
        try:
            type(model).checkpoint_and_earlystop(model, epoch, logs)
        except (OSError, RuntimeError) as error:
            # torch reports a full disk as a RuntimeError of its file writer.
            if isinstance(error, RuntimeError) and "PytorchStreamWriter" not in str(error):
                raise
            raise UserError(f"cannot write {model.checkpoint}: is there space left on the disk? ({error})") from error
        improved = model._stopping_steps == 0
        # Without save_best_only recbox keeps every epoch's weights, except that a plateau has just reloaded the kept.
        if improved or not (model._save_best_only or model._reduce_lr_on_plateau):
            self.best_epoch = self.epoch + 1

    def _one_epoch(self, memory: PeakMemory) -> None:
        model = self.model
        rate = model.optimizer.param_groups[0]["lr"]
        self.bands.reset()
        self.metrics, self.eval_seconds = {}, 0.0
        started = time.perf_counter()
        loss = model.train_on_epoch(self.train_gen, self.epoch)
        seconds = time.perf_counter() - started - self.eval_seconds
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        self.epoch += 1
        logging.info("Train loss: %.6f", loss)
        if not model._stop_training:
            logging.info("************ Epoch=%d end ************", self.epoch)
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=float(loss),
            metrics=self.metrics,
            learning_rate=float(rate),
            train_seconds=seconds,
            eval_seconds=self.eval_seconds,
            peak_memory_bytes=memory.peak,
            band_counts=self.bands.counts,
            band_gradients=self.bands.gradients,
        )
        self.on_epoch(record)
        self.save()

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"training stopped in epoch {self.epoch + 1}: {what}; a smaller learning_rate or smaller weights may help"
        )

    def save(self) -> None:
        """Write everything that the next epoch depends on."""
        if self.state_path is None:
            return
        model = self.model
        state = {
            "version": STATE_VERSION,
            "data": self.data_id,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_metric": float(model._best_metric),
            "stopping_steps": model._stopping_steps,
            "total_batches": model._total_batches,
            "stop_training": model._stop_training,
            "threads": torch.get_num_threads(),
            "device": str(model.device),
            "model": model.state_dict(),
            "best": torch.load(model.checkpoint, map_location=model.device, weights_only=True),
            "optimizer": model.optimizer.state_dict(),
            "random": random_state(model.device),
        }
        write_state(self.state_path, state)

    def restore(self) -> int:
        """Put the saved state back; returns how many epochs it holds."""
        model = self.model
        if self.state_path is None:
            raise UserError("there is no checkpoint to resume from: the training keeps none")
        state = read_state(self.state_path, model.device, STATE_VERSION)
        check_same_data(self.state_path, state, self.data_id)
        check_same(self.state_path, state, threads=torch.get_num_threads(), device=str(model.device))
        with damage_named(self.state_path):
            model.load_state_dict(state["model"])
            model.optimizer.load_state_dict(state["optimizer"])
            self.epoch, self.best_epoch = state["epoch"], state["best_epoch"]
            model._best_metric, model._stopping_steps = state["best_metric"], state["stopping_steps"]
            model._total_batches, model._stop_training = state["total_batches"], state["stop_training"]
            set_random_state(state["random"], model.device)
            best = state["best"]
        write_state(Path(model.checkpoint), best)
        logging.info("Resumed after epoch %d from %s", self.epoch, self.state_path)
        return self.epoch


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of every generator that recbox draws from, as tensors and plain values."""
    legacy: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = legacy
    version, internal, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "python": [version, list(internal), gauss],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`random_state` returned."""
    torch.set_rng_state(state["torch"].cpu())
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
