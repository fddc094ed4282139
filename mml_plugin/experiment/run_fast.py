"""The fast engine: an experiment's model, loss and protocol on mml_plugin.engine."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from mml_plugin.data import vocabulary
from mml_plugin.data.histories import Histories
from mml_plugin.data.interactions import Interactions
from mml_plugin.devices import resolve_device
from mml_plugin.engine import backends
from mml_plugin.engine.metrics import METRICS
from mml_plugin.engine.optimiser import Penalty
from mml_plugin.engine.ranking import ItemLists
from mml_plugin.engine.settings import Settings
from mml_plugin.engine.trained import trained_parameters
from mml_plugin.engine.trainer import Trainer
from mml_plugin.engine.training_data import TrainingData
from mml_plugin.errors import UserError
from mml_plugin.experiment.config import Experiment
from mml_plugin.experiment.dataset import RunData, check_data, load_data, say_what_is_odd
from mml_plugin.experiment.logs import warnings_logged
from mml_plugin.experiment.outputs import Trained, metrics_line
from mml_plugin.hosts.recbox.allowed import parse_metric
from mml_plugin.hosts.recbox.plugging import WithUsers
from mml_plugin.registry import build_loss

if TYPE_CHECKING:
    from mml_plugin.experiment.run import Context, RunRequest

INITIALIZERS = {"xavier_uniform": nn.init.xavier_uniform_, "xavier_normal": nn.init.xavier_normal_}


def check(experiment: Experiment, request: RunRequest) -> None:
    """Refuse what the fast engine cannot do, by name, before anything is written.

    Raises:
        UserError: for such keys and columns, for a GPU that is not there, for a backend that cannot run and for missing
            data files.
    """
    params = experiment.params
    if params.get("eval_interval_epochs", 1) != 1:
        raise UserError(
            f"eval_interval_epochs {params['eval_interval_epochs']}: the fast engine evaluates after every epoch; "
            "remove the key, or use --engine recbox, where it does not thin out evaluations either"
        )
    if params.get("nrows") is not None:
        raise UserError("nrows: the fast engine reads whole files; remove the key or use --engine recbox")
    _check_batch_scope(params)
    vocabulary.check_columns(params)
    backends.check(request.backend, resolve_device(request.gpu))
    check_data(params)


def _check_batch_scope(params: Mapping[str, Any]) -> None:
    """Native BSL's regulariser is lambda/2 |rows|^2 / B of one user and one item table, and nothing else."""
    if params.get("regularizer_scope") != "batch":
        return
    if params["model"] != "MF":
        raise UserError(
            f"regularizer_scope batch: it is defined for MF's two tables; {params['model']} has more parameters than "
            "those, so remove the key"
        )
    if isinstance(params.get("regularizer"), str):
        raise UserError(
            f"regularizer {params['regularizer']}: regularizer_scope batch takes a plain number, lambda of an L2 term"
        )


def train(context: Context) -> Trained:
    """Train one experiment on the fast engine and evaluate its best epoch."""
    started = time.monotonic()
    params = context.params
    backend = backends.select(context.request.backend, context.device)
    data = load_data(params, context.request.protocol, context.request.valid_share)
    words = vocabulary.build(data.training, params)
    read = time.monotonic()
    model = build_model(params, words, data.interactions.num_items, context.device)
    # By its own name: loss_params are translated, and an alias would translate a default mode that nobody wrote.
    with warnings_logged():
        loss = as_drawn(build_loss(context.experiment.loss, **context.experiment.loss_params), model).to(context.device)
    trainer = Trainer(
        model.declare(),
        model,
        loss,
        training_data(data, words, context.device),
        settings(context, model, loss),
        backend,
        state_path=context.folder.checkpoint,
        on_epoch=context.on_epoch,
        data_id=data.word,
    )
    say_what_is_odd(data)
    if context.resume:
        context.history.load(trainer.restore())
    stages = {"data": read - started, "model": time.monotonic() - read}
    trainer.fit()
    return _finish(context, data, trainer, backend.name, stages)


def build_model(params: Mapping[str, Any], words: vocabulary.Vocabulary, num_items: int, device: torch.device) -> Any:
    """The experiment's model with recbox's initial parameters, seed for seed, on the device."""
    from mml_plugin import model_zoo  # type: ignore[attr-defined]  # the folder model_zoo/, mapped into the package
    from mml_plugin.hosts import recbox
    from mml_plugin.hosts.recbox.feature_map import feature_map

    with recbox.registered():
        from recbox.utils.torch_utils import seed_everything

        seed_everything(seed=params["seed"])
        inputs = {**params, "gpu": -1, "model_root": "."}
        features = feature_map(params, words.specs, num_items)
        with recbox.plugging.without_optimizer():
            model = getattr(model_zoo, params["model"])(features, **inputs)
    model.count_parameters()
    if params.get("initializer"):
        _initialise(model, INITIALIZERS[params["initializer"]])
    model.device = device
    return model.to(device)


def as_drawn(loss: nn.Module, model: Any) -> nn.Module:
    """The loss, its state as recbox's ``compile`` drew it: a loss of one's own may begin with random parameters."""
    made = model.loss_fn.loss if isinstance(model.loss_fn, WithUsers) else model.loss_fn
    if type(made) is type(loss):
        loss.load_state_dict(made.state_dict())
    return loss


@torch.no_grad()
def _initialise(model: Any, initialise: Callable[[torch.Tensor], Any]) -> None:
    """Fill the model's vectors, the history's too; a padding row, which is the last, stays the zero that recbox has."""
    declared = model.declare()
    history = None if declared.history is None else declared.history.table
    padded = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding) and m.padding_idx is not None}
    tables = {id(table): table for table in (declared.user_table, declared.item_table, history) if table is not None}
    for key, table in tables.items():
        initialise(table[:-1] if key in padded else table)


def training_data(data: RunData, words: vocabulary.Vocabulary, device: torch.device) -> TrainingData:
    """What the trainer reads, on the device."""
    training = data.training
    indptr, items = validation_items(data)

    def tensor(array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)

    return TrainingData(
        users=tensor(training.train_users),
        items=tensor(training.train_items),
        user_ids=tensor(words.users.ids),
        item_ids=tensor(words.items.ids),
        train=ItemLists.of(training.train_indptr, training.train_items, device),
        valid=ItemLists.of(indptr, items, device),
        history=Histories(training, words, device) if words.history is not None else None,
        name_of=lambda row: f"{data.folder}: user {training.user_ids[row]}",
    )


def validation_items(data: RunData) -> tuple[np.ndarray, np.ndarray]:
    """What the monitor looks for: the held-out part, or test under ``paper``."""
    if data.held_out is not None:
        return data.held_out.indptr, data.held_out.items
    return data.interactions.test_indptr, data.interactions.test_items


def settings(context: Context, model: nn.Module, loss: nn.Module) -> Settings:
    """The engine's settings out of recbox's keys."""
    params = context.params
    monitor = params["monitor"] if isinstance(params["monitor"], dict) else {params["monitor"]: 1.0}
    by_batch = params.get("regularizer_scope") == "batch"
    norm = params.get("max_gradient_norm")
    return Settings(
        epochs=params["epochs"],
        batch_size=params["batch_size"],
        num_negs=params["num_negs"],
        learning_rate=params["learning_rate"],
        seed=params["seed"],
        metrics={name: parse_metric(name, tuple(METRICS)) for name in params["metrics"]},
        monitor=monitor,
        optimizer=params["optimizer"],
        max_gradient_norm=10.0 if norm is None else norm,
        penalties={} if by_batch else penalties(params, model, loss),
        batch_penalty=float(params.get("regularizer") or 0) if by_batch else 0.0,
        dropout_first=params.get("dropout_position") == "before_normalize",
        shuffle=params.get("shuffle", True),
        popularity_alpha=params.get("popularity_alpha") or 0.0,
        exclude_positives=params.get("ignore_pos_items", False),
        maximise=params["monitor_mode"] == "max",
        patience=params.get("patience", 2),
        reduce_lr_on_plateau=params.get("reduce_lr_on_plateau", True),
        save_best_only=params.get("save_best_only", True),
        thresholds=context.thresholds,
        max_batches=context.request.max_batches,
        progress=params["verbose"] > 0,
    )


def penalties(params: Mapping[str, Any], model: nn.Module, loss: nn.Module) -> dict[str, Penalty]:
    """Each parameter's regulariser, the loss's own included, split by its name as recbox does."""
    embedding = _penalty(params.get("regularizer" if params["model"] == "MF" else "embedding_regularizer"))
    net = _penalty(params.get("net_regularizer"))
    return {name: embedding if "embedding_layer" in name else net for name in trained_parameters(model, loss)}


def _penalty(value: float | str | None) -> Penalty:
    """recbox's three spellings: a number, ``l1(x)`` or ``l2(x)``, ``l1_l2(x,y)``."""
    if not value:
        return Penalty()
    if not isinstance(value, str):
        return Penalty(l2=float(value))
    kind, _, numbers = value.rstrip(")").partition("(")
    parts = [float(number) for number in numbers.split(",")]
    return Penalty(**dict(zip(kind.split("_"), parts)))


def _finish(context: Context, data: RunData, trainer: Trainer, backend: str, stages: dict[str, float]) -> Trained:
    whole, device = data.interactions, trainer.device
    validation: dict[str, float] = {}
    if data.held_out is None:
        users, per_user = trainer.evaluator.per_user_metrics(trainer.data.valid)
    else:
        validation = trainer.evaluator.metrics(trainer.data.valid)
        logging.info("Best epoch on the validation split: %s", metrics_line(validation))
        users, per_user = trainer.evaluator.per_user_metrics(final_test(whole, device), trainer.data.valid)
    metrics = {name: float(values.mean()) for name, values in per_user.items()}
    logging.info("******** %s ********", "Test evaluation" if data.held_out else "Best epoch, selected on test")
    logging.info("[Metrics] %s", metrics_line(metrics))
    known = torch.from_numpy(np.flatnonzero(np.diff(data.training.train_indptr))).to(device)
    vectors = trainer.evaluator.user_vectors(known).float().cpu().numpy()
    user_vectors = np.full((whole.num_users, vectors.shape[1]), math.nan, np.float32)
    user_vectors[known.cpu().numpy()] = vectors
    return Trained(
        best_epoch=trainer.kept_epoch,
        epochs=trainer.epoch,
        stopped_early=trainer.stopped,
        metrics=metrics,
        validation_metrics=validation,
        user_ids=whole.user_ids,
        item_ids=whole.item_ids,
        user_vectors=user_vectors,
        item_vectors=trainer.evaluator.item_vectors().float().cpu().numpy(),
        per_user={"user_row": users, **per_user},
        seen=(whole.train_users, whole.train_items),
        data=data.summary(),
        backend=backend,
        stages=stages,
    )


def final_test(data: Interactions, device: torch.device) -> ItemLists:
    """The held-out protocol's one look at the test interactions."""
    return ItemLists.of(data.test_indptr, data.test_items, device)
