"""The fast engine's training: epochs, evaluation, schedule, checkpoints, progress."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from mml_plugin.engine import optimiser, philox, ranking
from mml_plugin.engine.backends.base import Backend, Positives, TableState
from mml_plugin.engine.cuda_graph import CudaGraph, Graph, GraphedStep
from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.optimiser import FusedAdam, Penalty
from mml_plugin.engine.ranking import ItemLists
from mml_plugin.engine.sampler import NegativeSampler
from mml_plugin.engine.schedule import Schedule, reduced
from mml_plugin.engine.step import Batch, Step, StepResult
from mml_plugin.engine.tally import Tally, active_share
from mml_plugin.engine.trained import Loss, check_declared, settle_loss, trained_parameters, weights_of
from mml_plugin.engine.user_tower import RaggedHistories, UserTower
from mml_plugin.errors import UserError, nearest
from mml_plugin.memory import PeakMemory
from mml_plugin.records import EpochRecord
from mml_plugin.states import check_same, check_same_data, damage_named, read_state, write_state

STATE_VERSION = 2
USER_BLOCK = 4096
# A table of so many times a batch's rows is read seldom enough for late steps to save time.
SELDOM = 16


class HistorySource(Protocol):
    """What the engine needs of ``data.histories.Histories``."""

    max_len: int

    def of_rows(
        self, rows: Tensor, users: Tensor, total: int | None = None, room: int | None = None
    ) -> RaggedHistories: ...

    def row_lengths(self, users: Tensor) -> Tensor: ...

    def of_users(self, users: Tensor) -> RaggedHistories: ...


@dataclass(frozen=True)
class TrainingData:
    """What a training reads; int64 tensors on the training's device.

    Attributes:
        users, items: ``[n]`` user row and corpus row of each training row.
        user_ids: ``[U]`` user row -> row of the user table.
        item_ids: ``[I]`` corpus row -> row of the item table.
        train: training items per user row, masked in every ranking.
        valid: the items that the monitor looks for.
        history: histories, for models that read them.
        name_of: what messages call a user row.
    """

    users: Tensor
    items: Tensor
    user_ids: Tensor
    item_ids: Tensor
    train: ItemLists
    valid: ItemLists
    history: HistorySource | None = None
    name_of: Callable[[int], str] = "user row {}".format

    def positives(self) -> Positives:
        """Sorted distinct training items per user."""
        codes = torch.unique(self.train.codes(len(self.item_ids)))
        users = torch.div(codes, len(self.item_ids), rounding_mode="floor")
        counts = torch.bincount(users, minlength=len(self.user_ids))
        indptr = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        return Positives(indptr, codes - users * len(self.item_ids))


@dataclass(frozen=True)
class Settings:
    """How to train; defaults are recbox's.

    Attributes:
        epochs, batch_size, num_negs: counts.
        learning_rate, optimizer, max_gradient_norm: of the step.
        penalties: parameter name -> regulariser.
        batch_penalty: see :class:`step.Step`.
        dropout_first: dropout before normalisation.
        seed: of every stream.
        shuffle: a new order of training rows per epoch.
        popularity_alpha: exponent of the negatives' popularity; 0 is uniform.
        exclude_positives: never draw a training item of the user.
        metrics: label -> (metric, k).
        monitor: label -> weight.
        maximise, patience, reduce_lr_on_plateau, save_best_only: recbox's rule.
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


def _check_monitor(settings: Settings) -> None:
    for name in settings.monitor:
        if name not in settings.metrics:
            raise UserError(f"the monitor {name!r} is none of the metrics; {nearest(name, tuple(settings.metrics))}")


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
        _check_monitor(settings)
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
        self.sampler = self._sampler()
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
        self._history_room: int | None = None  # how many entries a captured step's histories always have
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

    def _sampler(self) -> NegativeSampler:
        data, settings = self.data, self.settings
        return NegativeSampler.create(
            settings.seed,
            data.item_ids,
            self.backend,
            popularity=torch.bincount(data.items, minlength=len(data.item_ids)),
            alpha=settings.popularity_alpha,
            positives=data.positives() if settings.exclude_positives else None,
            name_of=data.name_of,
        )

    @property
    def batches_per_epoch(self) -> int:
        """Steps in an epoch; the last batch may be short."""
        whole = -(-len(self.data.users) // self.settings.batch_size)
        return min(whole, self.settings.max_batches or whole)

    def fit(self) -> None:
        """Train until the last epoch or the end of patience, then load the best weights.

        Raises:
            UserError: when loss or monitor is no finite number.
            KeyboardInterrupt: after Ctrl-C; the checkpoint holds the last finished epoch.
        """
        logging.info("**** Start training: %d batches/epoch ****", self.batches_per_epoch)
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
        metrics = self.evaluate(self.data.valid)
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
        progress = _Progress(self)
        with progress.bar:
            for result in self.steps(self.epoch):
                progress.advance(result)
        return float(self.tally.total) / self.batches_per_epoch, *self.tally.bands()

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
            for number, (rows, total) in enumerate(self._row_batches(epoch), start=1):
                result = self._run(rows) if self._fits(rows, total) else self._train_on(rows, total)
                if number == self.batches_per_epoch:
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
            self._reads = {name: rows_of for name, rows_of in self._seldom_read().items() if fused.delay(name)}

    def _settle(self) -> None:
        self._reads = {}
        self.tally.total += self.optimiser.settle()

    def _seldom_read(self) -> dict[str, Callable[[Batch], Tensor]]:
        """The tables of which a batch reads few rows, and those rows; none where something else may read any."""
        model, size = self.model, self.settings.batch_size
        if model.item_tower is not None or self.tower.needs_history:
            return {}
        tables = [
            (model.user_table, size, lambda batch: batch.users),
            (model.item_table, size * (1 + self.settings.num_negs), lambda batch: batch.index.flatten()),
        ]
        biases = (model.user_bias, model.item_bias, model.global_bias)
        found = {}
        for name, parameter in self._parameters.items():
            mine = [(read, rows_of) for table, read, rows_of in tables if table is parameter]
            alone = len(mine) == 1 and not any(bias is parameter for bias in biases)
            if alone and len(parameter) >= SELDOM * mine[0][0]:
                found[name] = mine[0][1]
        return found

    def _fits(self, rows: Tensor, history_total: int | None) -> bool:
        """Whether a batch is one for ``_run``: of a length that nobody needs to know, or that a captured step has."""
        if history_total is None:
            return True
        step, room = self._run, self._history_room
        captures = isinstance(step, GraphedStep) and not step.refused and len(rows) == self.settings.batch_size
        return captures and room is not None and history_total <= room

    def _train_filled(self, rows: Tensor) -> StepResult:
        """Train on rows whose histories have room in those of a captured step."""
        return self._train_on(rows, history_room=self._history_room)

    def _train_on(self, rows: Tensor, history_total: int | None = None, history_room: int | None = None) -> StepResult:
        """Train on the training rows ``[B]`` in the current epoch."""
        batch = self.batch(self._current, rows, history_total, history_room)
        for name, rows_of in self._reads.items():
            cast(FusedAdam, self.optimiser).read(name, rows_of(batch))
        result = self.step(batch)
        self.tally.add(result)
        return result

    def batches(self, epoch: int) -> Iterator[Batch]:
        """The batches of an epoch, all draws made."""
        return (self.batch(epoch, rows, total) for rows, total in self._row_batches(epoch))

    def _row_batches(self, epoch: int) -> Iterator[tuple[Tensor, int | None]]:
        """The training rows of an epoch's batches, and their histories' length where it has to be known beforehand."""
        settings = self.settings
        if settings.shuffle:
            rows = self.backend.shuffled(len(self.data.users), settings.seed, epoch, self.device)
        else:
            rows = torch.arange(len(self.data.users), device=self.device)
        parts = rows.split(settings.batch_size)[: self.batches_per_epoch]
        yield from zip(parts, self._history_totals(rows, len(parts)))

    def _history_totals(self, rows: Tensor, batches: int) -> list[int | None]:
        """The summed length of each batch's histories, asked of a GPU once an epoch; None where nobody needs it."""
        history, size = self.data.history, self.settings.batch_size
        if not self.tower.needs_history or history is None or self.backend.may_wait(rows):
            return [None] * batches
        lengths = history.row_lengths(self.data.users[rows])
        totals = torch.stack([part.sum() for part in lengths.split(size)[:batches]]).tolist()
        if self._history_room is None:
            self._history_room = max(totals)  # few later batches have more
        return totals

    def batch(
        self, epoch: int | Tensor, rows: Tensor, history_total: int | None = None, history_room: int | None = None
    ) -> Batch:
        """The batch of training rows ``[B]`` in an epoch; total and room as :meth:`HistorySource.of_rows` has them."""
        data, settings = self.data, self.settings
        users = data.users.index_select(0, rows)
        positive = data.item_ids.index_select(0, data.items.index_select(0, rows))
        index = self.sampler.index(epoch, rows, users, positive, settings.num_negs)
        history = None
        if self.tower.needs_history and data.history is not None:
            history = data.history.of_rows(rows, users, history_total, history_room)
        return Batch(
            data.user_ids.index_select(0, users),
            index,
            history,
            self._mask(rows, epoch),
            None if history is None else self._attention_mask(rows, epoch, history),
        )

    def _mask(self, rows: Tensor, epoch: int | Tensor) -> Tensor | None:
        rate = self.model.user_dropout
        if not rate:
            return None
        return self._dropout(rows, self.tower.width, rate, philox.USER_DROPOUT, epoch)

    def _attention_mask(self, rows: Tensor, epoch: int | Tensor, history: RaggedHistories) -> Tensor | None:
        tower = self.model.history
        if tower is None or not tower.dropout or tower.aggregator == "mean":
            return None
        width = self.data.history.max_len if self.data.history else 0
        whole = self._dropout(rows, width, tower.dropout, philox.ATTENTION_DROPOUT, epoch)
        return whole[history.row, history.slot]

    def _dropout(self, rows: Tensor, width: int, rate: float, stream: int, epoch: int | Tensor) -> Tensor:
        dtype = self.model.user_table.dtype
        return self.backend.dropout(rows, width, rate, seed=self.settings.seed, stream=stream, epoch=epoch, dtype=dtype)

    @torch.no_grad()
    def user_vectors(self, users: Tensor) -> Tensor:
        """Ranking-ready vectors of user rows ``[U]``: ``[U, d]``, the constant 1 last beside an item bias."""
        self.module.eval()
        parts = []
        for part in users.split(USER_BLOCK):
            history = self.data.history.of_users(part) if self.tower.needs_history and self.data.history else None
            made = self.tower(self.data.user_ids[part], history)
            vectors = made.vectors if made.scale is None else torch.cat([made.vectors, made.scale[:, None]], 1)
            parts.append(vectors.detach())
        return torch.cat(parts)

    @torch.no_grad()
    def item_vectors(self) -> Tensor:
        """Ranking-ready vectors of the corpus ``[I, d]``, the item's bias last where there is one."""
        self.module.eval()
        ids, model = self.data.item_ids, self.model
        if model.item_tower is not None:
            vectors = torch.cat([model.item_tower(part) for part in ids.split(USER_BLOCK)])
        else:
            assert model.item_table is not None
            vectors = model.item_table[ids]
            if model.similarity == "cosine":
                nn.functional.normalize(vectors, out=vectors)
        return vectors if model.item_bias is None else torch.cat([vectors, model.item_bias[ids]], 1)

    def per_user_metrics(self, relevant: ItemLists, *more: ItemLists) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(user rows, metric -> values) of the users with something to find, train items and ``more`` masked."""
        users = relevant.indptr.diff().nonzero().flatten()
        depth = max(k for _, k in self.settings.metrics.values())
        top = ranking.top_items(
            self.user_vectors(users), self.item_vectors(), depth, self.backend, users, (self.data.train, *more)
        )
        names = dict(self.settings.metrics)
        found = ranking.per_user_metrics(top, users, relevant, len(self.data.item_ids), names)
        return users.cpu().numpy(), found

    def evaluate(self, relevant: ItemLists, *more: ItemLists) -> dict[str, float]:
        """Mean metrics over those users."""
        return {name: float(values.mean()) for name, values in self.per_user_metrics(relevant, *more)[1].items()}

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


class _Progress:
    """A bar with ETA; looks at the device a few times a second at most."""

    INTERVAL = 0.5

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._done, self._shown, self._last = 0, 0, time.monotonic()
        self.bar = tqdm(
            total=trainer.batches_per_epoch,
            desc=f"epoch {trainer.epoch + 1}/{trainer.settings.epochs}",
            unit=" batches",
            disable=None if trainer.settings.progress else True,
            leave=False,
        )

    def advance(self, result: StepResult) -> None:
        """One more batch; a :class:`UserError` when the look finds a loss that is no finite number."""
        self._done += 1
        if time.monotonic() - self._last < self.INTERVAL:
            return
        self._last = time.monotonic()
        loss = float(self._trainer.tally.total) / self._done
        self._trainer.check_finite(loss)
        if self.bar.disable:
            return
        facts = {"loss": f"{loss:.4f}", "active": f"{100 * active_share(result.gradient):.2f} %"}
        if self._trainer.schedule.best_epoch:
            facts["best"] = f"{self._trainer.schedule.best:.4f}"
        self.bar.set_postfix(facts, refresh=False)
        self.bar.update(self._done - self._shown)
        self._shown = self._done
