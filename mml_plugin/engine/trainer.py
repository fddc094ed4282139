"""The fast engine's training: epochs, evaluation, schedule, checkpoints, progress."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mml_plugin.engine import optimiser
from mml_plugin.engine.backends.base import Backend, TableState
from mml_plugin.engine.batches import Batches
from mml_plugin.engine.cuda_graph import CudaGraph, Graph, GraphedStep
from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.evaluator import Evaluator
from mml_plugin.engine.late_tables import seldom_read
from mml_plugin.engine.optimiser import FusedAdam
from mml_plugin.engine.progress import Progress
from mml_plugin.engine.schedule import Schedule, reduced
from mml_plugin.engine.settings import Settings
from mml_plugin.engine.step import Batch, Step, StepResult
from mml_plugin.engine.tally import Tally
from mml_plugin.engine.trained import Loss, check_declared, settle_loss, trained_parameters, weights_of
from mml_plugin.engine.training_data import TrainingData
from mml_plugin.engine.user_tower import UserTower
from mml_plugin.errors import UserError
from mml_plugin.memory import PeakMemory
from mml_plugin.records import EpochRecord
from mml_plugin.states import check_same, check_same_data, damage_named, read_state, write_state

STATE_VERSION = 2


class Trainer:
    """Trains a declared model.

    Args:
        model: its declaration.
        module: the module that owns the model's parameters; its ``state_dict`` is kept, with the loss's.
        loss: on ``y_pred[B, 1+N]``; its parameters, if any, are trained and kept as the model's, by this trainer alone.
        data: what to read.
        settings: how to train.
        backend: computes the steps.
        state_path: where the checkpoint of the last finished epoch goes; None keeps none.
        on_epoch: told of each finished epoch.
        graph: captures the step; by default a CUDA graph on a GPU and none on a CPU.
        data_id: what the data are, in a word; a checkpoint of other data is not gone on with.

    Raises:
        UserError: for a declared table that is not trained or that the loss has as well, for a batch penalty on a model
            that is more than two tables, and for a monitor that is none of the metrics.
    """

    def __init__(
        self,
        model: Declaration,
        module: nn.Module,
        loss: Loss,
        data: TrainingData,
        settings: Settings,
        backend: Backend,
        state_path: Path | None = None,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        graph: Graph | None = None,
        data_id: str = "",
    ) -> None:
        self.data_id = data_id
        self.model, self.module, self.loss, self.data = model, module, loss, data
        self.settings, self.backend = settings, backend
        self.state_path, self.on_epoch = state_path, on_epoch
        self.device = data.users.device
        self.tower = UserTower(model, data.history.max_len if data.history else 0, settings.dropout_first, backend)
        if model.history is not None and not self.tower.needs_history:
            logging.info("gamma is 1: histories cannot matter and are not computed")
        self._parameters = parameters = trained_parameters(module, loss)
        check_declared(model, parameters, loss)
        _check_types(parameters)
        settings.check_monitor()
        settings.check_size(len(data.users))
        settle_loss(loss, model.user_table)
        self._reads: dict[str, Callable[[Batch], Tensor]] = {}  # of each delayed table, the rows that a batch reads
        states = {name: TableState.of(parameter) for name, parameter in parameters.items()}
        self.optimiser = optimiser.create(
            settings.optimizer, parameters.items(), states, settings.penalties, backend,
            settings.learning_rate, settings.max_gradient_norm, on_device=True if graph else None,
        )  # fmt: skip
        self.step = Step(
            model, parameters, states, self.tower, loss, self.optimiser, backend, settings.batch_penalty
        )  # fmt: skip
        self.batches = Batches(model, self.tower, data, settings, backend)
        self.evaluator = Evaluator(model, module, self.tower, data, settings.metrics, backend)
        self.schedule = Schedule(settings.monitor, settings.maximise, settings.patience)
        self.epoch = 0
        self.stopped = False
        self.best: dict[str, Tensor] = {}
        self.kept_epoch = 0  # that of ``best``, which is the last one's without save_best_only
        self.tally = Tally(backend, settings.thresholds, self.device)
        if graph is None and self.device.type == "cuda" and settings.capture:
            graph = CudaGraph(self.device)
        # The epoch of the running steps; on a GPU a tensor, since a captured step reads it and copying it would wait.
        self._current: int | Tensor = 0
        if graph is not None or self.device.type == "cuda":
            self._current = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._run = self._runner(graph)

    def _runner(self, graph: Graph | None) -> Callable[[Tensor], StepResult]:
        """What trains on row ids: the step as it is, or captured where it can be."""
        if graph is None:
            return self._train_on
        obstacle = self._capture_obstacle()
        if obstacle:
            logging.info("The step is not captured as a CUDA graph: %s", obstacle)
            return self._train_on
        return GraphedStep(self._train_filled, self.settings.batch_size, self.device, graph, self._drop_gradients)

    def _capture_obstacle(self) -> str:
        """Why a capture cannot succeed, as far as is known beforehand; "" where it is worth the attempt."""
        if not self.optimiser.capturable:
            return f"the optimizer {self.settings.optimizer} or an L1 term takes its learning rate from the host"
        if self.model.item_table is None:
            return "the batches' distinct items, which the item tower is given, differ in number"
        return self.backend.capture_obstacle(self.settings.exclude_positives)

    def _drop_gradients(self) -> None:
        """Forget gradients that nobody has collected, or that a failed capture has announced and never computed."""
        for parameter in self._parameters.values():
            parameter.grad = None

    def fit(self) -> None:
        """Train until the last epoch or the end of patience, then load the best weights.

        Raises:
            UserError: when loss or monitor is no finite number.
            KeyboardInterrupt: after Ctrl-C; the checkpoint holds the last finished epoch.
        """
        logging.info("**** Start training: %d batches/epoch ****", self.batches.per_epoch)
        with PeakMemory(cuda_device=self.device.index or 0 if self.device.type == "cuda" else None) as memory:
            while self.epoch < self.settings.epochs and not self.stopped:
                self._one_epoch(memory)
        logging.info("Training finished.")
        logging.info("Load best model: epoch %d", self.kept_epoch)
        self._load(self.best)

    def _one_epoch(self, memory: PeakMemory) -> None:
        rate = self.optimiser.rate
        started = time.perf_counter()
        loss, counts, sums = self.train_epoch()
        trained = time.perf_counter()
        self.check_finite(loss)
        logging.info("Train loss: %.6f", loss)
        metrics = self.evaluator.metrics(self.data.valid)
        logging.info("[Metrics] %s", " - ".join(f"{name}: {value:.6f}" for name, value in metrics.items()))
        self._decide(metrics)
        self.epoch += 1
        record = EpochRecord(
            epoch=self.epoch,
            train_loss=loss,
            metrics=metrics,
            learning_rate=rate,
            train_seconds=trained - started,
            eval_seconds=time.perf_counter() - trained,
            peak_memory_bytes=memory.peak,
            band_counts=tuple(counts),
            band_gradients=tuple(sums),
        )
        self.on_epoch(record)
        self.save()

    def train_epoch(self) -> tuple[float, list[int], list[float]]:
        """Train one epoch; returns the mean loss and, per band, how many negatives fell there and their |dL/dn|."""
        # The norms of a resumed training are computed anew; so that both go on alike, everyone's are.
        self.optimiser.settle()
        self.optimiser.measure()
        self.tally.clear()
        self.module.train()
        progress = self._progress()
        with progress.bar:
            for result in self.steps(self.epoch):
                progress.advance(result)
        return float(self.tally.total) / self.batches.per_epoch, *self.tally.bands()

    def _progress(self) -> Progress:
        return Progress(
            self.batches.per_epoch, self.epoch + 1, self.settings.epochs, self.tally, self.schedule, self.check_finite,
            shown=self.settings.progress,
        )  # fmt: skip

    def steps(self, epoch: int) -> Iterator[StepResult]:
        """Train the epoch's batches one by one; a result holds until the next.

        Until the last one, rows of the tables that the latest batches did not read may be behind.
        """
        if isinstance(self._current, Tensor):
            self._current.fill_(epoch)
        else:
            self._current = epoch
        self._delay()
        try:
            for number, (rows, total) in enumerate(self.batches.rows_of_epoch(epoch), start=1):
                result = self._run(rows) if self._fits(rows, total) else self._train_on(rows, total)
                if number == self.batches.per_epoch:
                    self._settle()
                yield result
        finally:
            self._settle()

    def _delay(self) -> None:
        """Let rows that batches seldom read take their optimiser steps when one does."""
        fused = self.optimiser
        fused.settle()
        self._drop_gradients()  # of a step that broke off
        for state in fused.states.values():
            state.forget_gradient()
        if isinstance(fused, FusedAdam):
            seldom = seldom_read(self.model, self._parameters, self.settings, self.tower.needs_history)
            self._reads = {name: rows_of for name, rows_of in seldom.items() if fused.delay(name)}

    def _settle(self) -> None:
        self._reads = {}
        self.tally.total += self.optimiser.settle()

    def _fits(self, rows: Tensor, history_total: int | None) -> bool:
        """Whether a batch is one for ``_run``: of a length that nobody needs to know, or that a captured step has."""
        if history_total is None:
            return True
        step, room = self._run, self.batches.history_room
        captures = isinstance(step, GraphedStep) and not step.refused and len(rows) == self.settings.batch_size
        return captures and room is not None and history_total <= room

    def _train_filled(self, rows: Tensor) -> StepResult:
        """Train on rows whose histories have room in those of a captured step."""
        return self._train_on(rows, history_room=self.batches.history_room)

    def _train_on(self, rows: Tensor, history_total: int | None = None, history_room: int | None = None) -> StepResult:
        """Train on the training rows ``[B]`` in the current epoch."""
        batch = self.batches.of_rows(self._current, rows, history_total, history_room)
        for name, rows_of in self._reads.items():
            cast(FusedAdam, self.optimiser).read(name, rows_of(batch))
        result = self.step(batch)
        self.tally.add(result)
        return result

    def _decide(self, metrics: Mapping[str, float]) -> None:
        value = self.schedule.value(metrics)
        if not math.isfinite(value):
            raise self._diverged(f"the monitor is {value}")
        mode = "max" if self.schedule.maximise else "min"
        improved = self.schedule.update(value, self.epoch + 1)
        if improved:
            logging.info("Save best model: monitor(%s): %.6f", mode, value)
        else:
            logging.info("Monitor(%s) STOP: %.6f !", mode, value)
            if self.settings.reduce_lr_on_plateau:
                self.optimiser.rate = reduced(self.optimiser.rate)
                logging.info("Reduce learning rate on plateau: %.6f", self.optimiser.rate)
                self._load(self.best)
        # On a plateau the kept weights were reloaded just now: they are still those of their own epoch.
        reloaded = not improved and self.settings.reduce_lr_on_plateau
        if improved or not (self.settings.save_best_only or reloaded):
            self.best = {name: tensor.detach().clone() for name, tensor in self.weights().items()}
            self.kept_epoch = self.epoch + 1
        if self.schedule.exhausted:
            self.stopped = True
            logging.info("Early stopping at epoch=%d", self.epoch + 1)

    @torch.no_grad()
    def _load(self, weights: Mapping[str, Tensor]) -> None:
        self.optimiser.settle()
        own = self.weights()
        for name, tensor in weights.items():
            own[name].copy_(tensor)
        self.optimiser.measure()

    def weights(self) -> dict[str, Tensor]:
        """Name -> tensor of the model's and the loss's, recbox's names for them; the tensors themselves, no copies."""
        return weights_of(self.module, self.loss)

    def check_finite(self, loss: float) -> None:
        """Raise a :class:`UserError` for a loss that is no finite number."""
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")

    def _diverged(self, what: str) -> UserError:
        return UserError(
            f"training stopped in epoch {self.epoch + 1}: {what}; a smaller learning_rate or smaller weights may help"
        )

    def _random_states(self) -> list[Tensor]:
        """torch's own generators: nothing here draws from them, but a loss or a history tower of somebody's may."""
        on_device = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *on_device]

    def _put_back_random_states(self, states: Sequence[Tensor]) -> None:
        for state in states[:1]:
            torch.set_rng_state(state.cpu())
        for state in states[1:]:
            torch.cuda.set_rng_state(state.cpu(), self.device)

    def _conditions(self) -> dict[str, Any]:
        return {"threads": torch.get_num_threads(), "device": str(self.device), "backend": self.backend.name}

    def save(self) -> None:
        """Write everything that the next epoch depends on."""
        if self.state_path is None:
            return
        schedule = self.schedule
        state = {
            "version": STATE_VERSION,
            "data": self.data_id,
            **self._conditions(),
            "epoch": self.epoch,
            "stopped": self.stopped,
            "schedule": [schedule.best, schedule.best_epoch, schedule.stops],
            "model": self.weights(),
            "best": self.best,
            "kept_epoch": self.kept_epoch,
            "optimiser": self.optimiser.state_dict(),
            "random": self._random_states(),
        }
        write_state(self.state_path, state)

    def restore(self) -> int:
        """Put the checkpoint back; returns how many epochs it holds.

        Raises:
            UserError: when it is missing, damaged, or from other data, another device, backend or number of threads.
        """
        if self.state_path is None:
            raise UserError("there is no checkpoint to resume from: the training keeps none")
        state = read_state(self.state_path, self.device, STATE_VERSION)
        check_same_data(self.state_path, state, self.data_id)
        check_same(self.state_path, state, **self._conditions())
        self._check_complete(state)
        with damage_named(self.state_path):
            self.epoch, self.stopped, self.best = state["epoch"], state["stopped"], state["best"]
            self.kept_epoch = state["kept_epoch"]
            self.schedule.best, self.schedule.best_epoch, self.schedule.stops = state["schedule"]
            self.optimiser.load_state_dict(state["optimiser"])
            self._load(state["model"])
            self._put_back_random_states(state.get("random", []))
        logging.info("Resumed after epoch %d from %s", self.epoch, self.state_path)
        return self.epoch

    def _check_complete(self, state: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of a version that did not keep what the loss has."""
        with damage_named(cast(Path, self.state_path)):
            missing = sorted(
                name for name in self.weights() if name not in state["model"] and name.startswith("loss_fn.")
            )
        if missing:
            lacking = f"{self.state_path} lacks {', '.join(missing)}, which an earlier version did not keep"
            raise UserError(f"{lacking}; --overwrite begins anew")


def _check_types(parameters: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        if parameter.dtype not in (torch.float32, torch.float64):
            raise UserError(f"the fast engine trains float32 or float64, and {name} is {parameter.dtype}")
