"""Registering, taking back, and what recbox does in between."""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import subprocess
import sys

import pytest
import torch

from mml_plugin import build_loss, model_zoo
from mml_plugin.errors import UserError
from mml_plugin.hosts import recbox
from mml_plugin.hosts.recbox import shims
from mml_plugin.hosts.recbox.training import prepare_training

QUIET = """
import socket, sys, threading
def refuse(*a, **k):
    print("NETWORK", a)
    raise OSError("no network")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
before = threading.active_count()
from mml_plugin.hosts import recbox
recbox.load()
import recbox as host
assert threading.active_count() == before, threading.enumerate()
assert "recbox.third_party.deepctr.utils" not in sys.modules
assert "tensorflow" not in sys.modules
print("quiet", host.__version__)
"""

ROUND_TRIP = """
import mml_plugin
from mml_plugin.hosts import recbox
recbox.load()
import numpy, yaml
from recbox.matching.pytorch.models import MatchingModel, match_model
from recbox.utils import core_utils
before = (MatchingModel.compile, match_model.np, core_utils.yaml, yaml.load)
mml_plugin.register()
once = MatchingModel.compile
mml_plugin.register()
assert MatchingModel.compile is once and once is not before[0]
assert core_utils.yaml.load("a: 1") == {"a": 1} and match_model.np.Inf == float("inf")
assert yaml.load is before[3]
with mml_plugin.registered():
    pass
assert recbox.is_registered()
mml_plugin.unregister()
mml_plugin.unregister()
assert (MatchingModel.compile, match_model.np, core_utils.yaml, yaml.load) == before
import mml_plugin.hosts.recbox.auto
assert MatchingModel.compile is not before[0]
print("same objects")
"""


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)


def test_importing_recbox_starts_no_thread_and_asks_no_network():
    done = run(QUIET)
    assert done.stdout.split() == ["quiet", "0.0.4"], done.stderr


def test_unregister_puts_back_the_very_objects():
    done = run(ROUND_TRIP)
    assert done.stdout.strip() == "same objects", done.stderr


def test_yaml_of_recbox_stays_safe():
    with recbox.registered():
        from recbox.utils import core_utils

        with pytest.raises(Exception, match="could not determine a constructor"):
            core_utils.yaml.load("!!python/object/apply:os.getcwd []")


@pytest.mark.parametrize("found", ["0.0.3", "0.1.0"])
def test_another_recbox_is_refused_by_version(monkeypatch, found):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: found)
    with pytest.raises(UserError, match=rf"recbox {found} is not supported: pip install recbox==0\.0\.4"):
        shims.check_version()


def compiled(golden_params, tmp_path, **changes):
    params = {**golden_params("MF_mse"), **changes}
    with recbox.registered():
        return prepare_training(params, model_zoo.MF, tmp_path / "cache")


def test_unknown_names_still_reach_recbox(golden_params, tmp_path):
    with pytest.raises(NotImplementedError, match="loss=NoSuchLoss is not supported"):
        compiled(golden_params, tmp_path, loss="NoSuchLoss")


@pytest.mark.parametrize(
    "name",
    ["SigmoidCrossEntropyLoss", "PairwiseLogisticLoss", "SoftmaxCrossEntropyLoss", "PairwiseMarginLoss", "MSELoss",
     "CosineContrastiveLoss"],
)  # fmt: skip
def test_recbox_names_mean_recbox_classes(name, golden_params, tmp_path):
    model, *_ = compiled(golden_params, tmp_path, loss=name)
    assert type(model.loss_fn).__module__.startswith("recbox.")
    assert type(model.loss_fn).__name__ == name


def test_without_optimizer_a_model_has_the_same_parameters_and_the_next_one_has_an_optimizer(golden_params, tmp_path):
    models = []
    for block in (recbox.plugging.without_optimizer, contextlib.nullcontext):
        with block():
            models.append(compiled(golden_params, tmp_path)[0])
    bare, whole = models
    assert isinstance(bare.optimizer, recbox.plugging.NoOptimizer)
    assert isinstance(whole.optimizer, torch.optim.Adam)
    for one, other in zip(bare.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_loss_authors_keys_work_and_leave_the_checkpoint_alone(golden_params, tmp_path):
    keys = {"margin_values_list": [0.2, 0.4], "negative_weights_list": [0.5, 0.5], "pos_weight": 1, "neg_weight": 3}
    model, *_ = compiled(golden_params, tmp_path, loss="MultiCosineContrastiveLoss", **keys)
    assert model.loss_fn.margins == (0.2, 0.4)
    assert not [key for key in model.state_dict() if "loss" in key]


def test_bilateral_softmax_gets_the_batch_users(golden_params, tmp_path):
    model, train_gen, _, _ = compiled(golden_params, tmp_path, loss="BSL", temperature=0.2, temperature2=1.1)
    users, items, labels, _ = next(iter(train_gen))
    ids = users["user_id"].clone()
    model.eval()
    model._embedding_regularizer = None
    out = model([users, items, labels])
    wanted = build_loss("BSL", temperature=0.2, temperature2=1.1)(out["y_pred"], users=ids)
    assert len(ids.unique()) < len(ids)
    assert out["loss"].item() == pytest.approx(wanted.item())


def test_recboxs_own_loop_tells_the_loss_each_batch_s_users(golden_params, tmp_path):
    model, train_gen, _, _ = compiled(golden_params, tmp_path, loss="BSL", temperature=0.2, temperature2=1.1)
    twin = copy.deepcopy(model)
    assert twin.forward.__self__ is twin
    told = []
    model.loss_fn.loss.register_forward_hook(
        lambda module, args, kwargs, out: told.append(kwargs["users"].clone()), with_kwargs=True
    )
    batches = list(train_gen)[:3]
    wanted = [batch[0]["user_id"].clone() for batch in batches]
    model._verbose, model._batches_per_epoch = 0, len(batches)
    model._stop_training, model._max_gradient_norm, model.on_batch_end = False, 10.0, lambda *args: None
    before = next(model.parameters()).clone()
    model.train_on_epoch(batches, 0)
    assert len(told) == 3
    assert all(torch.equal(a, b) for a, b in zip(told, wanted))
    assert not torch.equal(before, next(model.parameters()))
    assert twin.loss_fn.users is None


def test_a_learnable_loss_is_trained(golden_params, tmp_path):
    model, *_ = compiled(golden_params, tmp_path)
    loss = torch.nn.Linear(1, 1)
    recbox.plugging.attach_loss(model, loss)
    assert sum(len(group["params"]) for group in model.optimizer.param_groups) == len(list(model.parameters()))
