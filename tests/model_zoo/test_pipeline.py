"""Seed for seed, our models on recbox's pipeline give the numbers that the original code printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mml_plugin import model_zoo
from mml_plugin.hosts import recbox
from mml_plugin.hosts.recbox import trainer
from mml_plugin.hosts.recbox.evaluation import means, per_user_metrics
from mml_plugin.hosts.recbox.training import prepare_training

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "golden"
NAMES = sorted(json.loads((GOLDEN / "pipeline.json").read_text()))
HITS = 1 / 120  # one hit of one of the 120 users
CLOSE, CLOSE_ELSEWHERE = 1e-5, 2e-5  # where a machine rounds as the golden one, and where it does not


def own_loss(config):
    return config["loss"] in recbox.plugging.OWN


# Matrix products round differently on another make of processor, whatever the torch. A rounding error that moves a
# score across a margin grows from there; within the epochs at hand that happened in one experiment, after its third.
DRIFTING, CLOSE_EPOCHS, DRIFT, DRIFT_HITS = "MF_mml_noplateau", 3, 5e-3, 8 * HITS


# A sum along a row's scores is made in as many parts as the processor's vectors are wide, and only this loss has one.
SUMS_BY_WIDTH = "MF_softmax"


@pytest.fixture(scope="session")
def golden_rounding(golden_pipeline, golden_paths, tmp_path_factory):
    """Whether this machine rounds as the golden one did: then the plainest experiment comes out to the last bit."""
    if not torch.__version__.startswith("2.13."):
        return False
    golden = golden_pipeline["MF_mse"]
    folder = tmp_path_factory.mktemp("canary")
    records = train({**golden["config"], **golden_paths(folder)}, folder)[2]
    return [record.train_loss for record in records] == golden["epoch_loss"]


def train(params, folder):
    records = []
    with recbox.registered():
        model, train_gen, valid_gen, params = prepare_training(
            params, getattr(model_zoo, params["model"]), folder / "cache"
        )
        initial = {k: v.clone() for k, v in model.state_dict().items()}
        result = trainer.fit(model, train_gen, valid_gen, epochs=params["epochs"], verbose=0, on_epoch=records.append)
    return model, initial, records, result, train_gen, valid_gen


@pytest.fixture
def trained(golden_params, tmp_path):
    return lambda name, **changes: train({**golden_params(name), **changes}, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_pipeline_equals_the_original(name, golden_masks, trained, golden_pipeline, golden_rounding):
    if not golden_masks:
        pytest.skip("this torch draws other dropout masks than the one behind the golden numbers")
    golden = golden_pipeline[name]
    model, initial, records, _, train_gen, valid_gen = trained(name)
    exact = own_loss(golden["config"]) and golden_rounding and name != SUMS_BY_WIDTH
    close = CLOSE if golden_rounding else CLOSE_ELSEWHERE

    assert set(initial) == set(golden["initial_state"])
    for key, (shape, total, absolute) in golden["initial_state"].items():
        assert list(initial[key].shape) == shape
        assert initial[key].double().sum().item() == pytest.approx(total, rel=1e-6, abs=1e-9)
        assert initial[key].double().abs().sum().item() == pytest.approx(absolute, rel=1e-6, abs=1e-9)

    assert len(records) == len(golden["epoch_metrics"])
    for epoch, (record, loss, wanted) in enumerate(zip(records, golden["epoch_loss"], golden["epoch_metrics"])):
        drifts = name == DRIFTING and not golden_rounding and epoch >= CLOSE_EPOCHS
        assert record.train_loss == pytest.approx(loss, rel=0 if exact else DRIFT if drifts else close, abs=0)
        assert record.metrics == pytest.approx(wanted, rel=0, abs=0 if exact else DRIFT_HITS if drifts else HITS)
    final = means(per_user_metrics(model, train_gen, valid_gen))
    spread = 1e-12 if exact else DRIFT_HITS if name == DRIFTING and not golden_rounding else HITS
    assert final == pytest.approx(golden["final"], rel=0, abs=spread)
