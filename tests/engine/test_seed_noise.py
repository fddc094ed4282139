"""Each with its own randomness, the engines agree as two samples of the same distribution do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from mml_plugin import model_zoo
from mml_plugin.engine.trainer import Trainer
from mml_plugin.hosts import recbox
from mml_plugin.hosts.recbox import trainer as stock
from mml_plugin.hosts.recbox.training import prepare_training

from .fed import make_trainer

SEEDS = range(2019, 2024)
NAMES = ["MF_ccl", "MF_mml", "MF_softmax", "SimpleX_mean_g05_ccl", "SimpleX_uatt_mml"]
EPOCHS = 6
# Schedules cut in at different epochs for different seeds; without them every run is as long as the next.
WHOLE = {"epochs": EPOCHS, "patience": 100, "reduce_lr_on_plateau": False}
CHANCE = 1e-3  # per test; some sixty are made

pytestmark = pytest.mark.slow


def curve(record):
    return [record.train_loss, record.metrics["Recall(k=20)"]]


def recbox_curves(params, folder):
    records = []
    with recbox.registered():
        model, train, valid, params = prepare_training(params, getattr(model_zoo, params["model"]), folder / "cache")
        stock.fit(model, train, valid, epochs=EPOCHS, verbose=0, on_epoch=records.append)
    return [curve(record) for record in records]


def fast_curves(params):
    records = []
    trainer: Trainer = make_trainer(params, "numba", dtype=torch.float32, on_epoch=records.append)
    trainer.fit()
    return [curve(record) for record in records]


def p_values(one, other):
    """Welch's test of each epoch's loss and Recall@20 over seeds."""
    return stats.ttest_ind(np.array(one), np.array(other), equal_var=False, axis=0).pvalue


@pytest.mark.parametrize("name", NAMES)
def test_learning_curves_agree_within_seed_noise(name, golden_params, tmp_path):
    runs = [{**golden_params(name), **WHOLE, "seed": seed} for seed in SEEDS]
    theirs = [recbox_curves(params, tmp_path / str(params["seed"])) for params in runs]
    ours = [fast_curves(params) for params in runs]
    assert np.nanmin(p_values(theirs, ours)) > CHANCE


def test_the_comparison_would_see_a_difference(golden_params):
    runs = [{**golden_params("MF_mml"), **WHOLE, "seed": seed} for seed in SEEDS]
    ours = [fast_curves(params) for params in runs]
    changed = [fast_curves({**params, "embedding_dropout": 0.0}) for params in runs]
    assert np.nanmin(p_values(ours, changed)) < CHANCE
