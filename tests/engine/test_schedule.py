"""The schedule against recbox's own methods, called on what they read of a model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mml_plugin.engine.schedule import Schedule, reduced
from mml_plugin.hosts import recbox


def matching_model():
    recbox.load()
    from recbox.matching.pytorch.models import MatchingModel

    return MatchingModel


@pytest.mark.parametrize("rate", [1.0, 1e-3, 1e-4, 1.5e-5, 1e-5, 9e-6, 1e-6])
def test_a_plateau_cuts_the_rate_as_recbox_does(rate):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    matching_model().reduce_learning_rate(SimpleNamespace(optimizer=optimizer))
    assert reduced(rate) == optimizer.param_groups[0]["lr"]


# Steps of less than 1e-6, of just that and of more, up and down.
STEPS = st.lists(st.sampled_from([-1e-3, -2e-6, -5e-7, 0.0, 5e-7, 2e-6, 1e-3]), min_size=1, max_size=15)


@given(STEPS, st.integers(1, 4), st.booleans())
def test_improvement_and_patience_are_recboxs(steps, patience, maximise):
    saved, values = [], (0.1 + np.cumsum(steps)).tolist()
    model = SimpleNamespace(
        _monitor=SimpleNamespace(get_value=lambda logs: logs["m"]), _monitor_mode="max" if maximise else "min",
        _best_metric=-np.inf if maximise else np.inf, _stopping_steps=0, _reduce_lr_on_plateau=False,
        _save_best_only=True, checkpoint="", _patience=patience, _eval_interval_epochs=1, _stop_training=False,
        save_weights=lambda path: saved.append(epoch),
    )  # fmt: skip
    ours = Schedule({"m": 1.0}, maximise, patience)
    for epoch, value in enumerate(values, 1):
        matching_model().checkpoint_and_earlystop(model, epoch, {"m": value})
        improved = ours.update(ours.value({"m": value}), epoch)
        assert improved == (saved[-1:] == [epoch])
        assert (ours.best, ours.stops, ours.best_epoch) == (model._best_metric, model._stopping_steps, saved[-1])
        assert ours.exhausted == model._stop_training
        if ours.exhausted:
            break


def test_a_monitor_is_the_weighted_sum():
    assert Schedule({"a": 1.0, "b": -0.5}, True, 1).value({"a": 3.0, "b": 2.0, "c": 9.0}) == 2.0
