"""The recbox engine: an experiment on stock recbox's own pipeline, epoch by epoch."""

from __future__ import annotations

import logging
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from mml_plugin.errors import UserError
from mml_plugin.experiment.config import Experiment
from mml_plugin.experiment.dataset import RunData, load_run_data
from mml_plugin.experiment.outputs import Trained

if TYPE_CHECKING:
    from mml_plugin.experiment.run import Context, RunRequest

# What only the fast engine can do: native BSL's step (see docs/experiments.md).
FAST_ONLY = ("regularizer_scope", "dropout_position", "initializer")


def check(experiment: Experiment, request: RunRequest) -> None:
    """Refuse what stock recbox cannot run, by name.

    Raises:
        UserError: for ``--backend``, and for keys that only the fast engine reads.
    """
    if request.backend != "auto":
        raise UserError(f"--backend {request.backend} belongs to the fast engine; add --engine fast")
    extra = [key for key in FAST_ONLY if experiment.params.get(key) is not None]
    if extra:
        raise UserError(
            f"experiment {experiment.expid} sets {extra[0]}, which stock recbox does not have; add --engine fast"
        )


def train(context: Context) -> Trained:
    """Train one experiment the way reczoo's script does, and evaluate its best epoch.

    The order of every random draw is the script's: seed, model, epochs.
    """
    from mml_plugin.hosts import recbox

    recbox.load()
    from recbox.matching.pytorch.dataloaders import h5_generator
    from recbox.utils.torch_utils import seed_everything

    started = time.monotonic()
    data = load_run_data(context)
    params = {**context.params, **data.paths, "model_root": str(context.folder.path / "recbox")}
    _make_model_folder(params)
    logging.info("Parameters: %s", _as_json(params))
    seed_everything(seed=params["seed"])
    prepared = recbox.dataset.prepare(params, data.cache_root)
    params.update(prepared.h5_paths())
    data_seconds = time.monotonic() - started
    with recbox.registered():
        model = _model_class(params["model"])(prepared.feature_map, **params)
        model.count_parameters()
        train_gen, valid_gen = h5_generator(prepared.feature_map, stage="train", **params)
        fit = recbox.trainer.fit(
            model,
            train_gen,
            valid_gen,
            epochs=params["epochs"],
            verbose=params["verbose"],
            max_gradient_norm=params.get("max_gradient_norm", 10.0),
            thresholds=context.thresholds,
            on_epoch=context.on_epoch,
            state_path=context.folder.checkpoint,
            resume=context.resume,
            on_resume=context.history.load,
        )
        return _finish(context, data, params, prepared, model, train_gen, valid_gen, fit, data_seconds)
