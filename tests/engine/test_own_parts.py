"""Models and losses of one's own: what is trained, kept and refused."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mml_plugin import build_loss
from mml_plugin.engine import backends
from mml_plugin.engine.declaration import HistoryTower
from mml_plugin.engine.trainer import Trainer
from mml_plugin.errors import UserError
from mml_plugin.experiment import run_fast
from mml_plugin.hosts.recbox.plugging import WithUsers

from .test_corners import CPU, LISTS, VALID, Tables, data_of, seeded_tables, settings_of, trainer_of


class Learnt(nn.Module):
    """A loss with a parameter, and a buffer that counts batches; written without our base class."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, y_pred, y_true):
        self.batches += 1
        return nn.functional.cross_entropy(y_pred * self.scale.to(y_pred.dtype), y_true.argmax(1))


def learnt_trainer(path, **changes):
    tables = Tables(4, 7, 3)
    settings = settings_of(**{"epochs": 4, "patience": 9, "reduce_lr_on_plateau": False, **changes})
    data, backend = data_of(LISTS, 7, VALID), backends.select("numba", CPU)
    return Trainer(tables.declare(), tables, Learnt(), data, settings, backend, state_path=path)


def test_a_resumed_training_has_the_losss_own_parameters_and_buffers(tmp_path):
    whole = learnt_trainer(tmp_path / "whole.pt")
    whole.fit()
    cut = learnt_trainer(tmp_path / "cut.pt")
    cut.settings = dataclasses.replace(cut.settings, epochs=2)
    cut.fit()
    resumed = learnt_trainer(tmp_path / "cut.pt")
    assert resumed.restore() == 2
    resumed.fit()
    kept = [torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("whole", "cut")]
    for name in ("users", "items", "loss_fn.scale", "loss_fn.batches"):
        assert torch.equal(kept[0]["model"][name], kept[1]["model"][name]), name
        assert torch.equal(kept[0]["best"][name], kept[1]["best"][name]), name
    assert int(kept[0]["model"]["loss_fn.batches"]) == 4 * whole.batches.per_epoch
    assert float(kept[0]["model"]["loss_fn.scale"]) != 2.0


def test_a_plateau_puts_the_losss_best_parameters_back(tmp_path):
    trainer = learnt_trainer(None, reduce_lr_on_plateau=True)
    trainer.train_epoch()
    trainer._decide({"Recall(k=2)": 0.5})
    best = trainer.loss.scale.detach().clone()
    trainer.train_epoch()
    assert not torch.equal(trainer.loss.scale, best)
    trainer._decide({"Recall(k=2)": 0.1})
    assert torch.equal(trainer.loss.scale, best)


def test_a_loss_that_is_a_part_of_the_model_is_trained_once():
    tables = Tables(4, 7, 3)
    tables.own_loss = Learnt()
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID), loss=tables.own_loss)
    assert sorted(trainer.step.states) == ["items", "own_loss.scale", "users"]
    assert "loss_fn.scale" not in trainer.weights()
    trainer.train_epoch()
    assert float(tables.own_loss.scale.detach()) != 2.0


def test_a_frozen_parameter_of_a_loss_stays():
    loss = Learnt()
    loss.scale.requires_grad_(False)
    trainer = trainer_of(Tables(4, 7, 3), data_of(LISTS, 7, VALID), loss=loss)
    trainer.train_epoch()
    assert float(loss.scale) == 2.0


def test_a_checkpoint_without_what_the_loss_has_is_refused(tmp_path):
    learnt_trainer(tmp_path / "run.pt", epochs=1).fit()
    state = torch.load(tmp_path / "run.pt", weights_only=True)
    del state["model"]["loss_fn.scale"]
    torch.save(state, tmp_path / "run.pt")
    with pytest.raises(
        UserError, match=r"run.pt lacks loss_fn.scale, which an earlier version did not keep; --overwrite"
    ):
        learnt_trainer(tmp_path / "run.pt").restore()


class Odd(nn.Module):
    """A loss with what is neither trained nor a tensor."""

    def __init__(self):
        super().__init__()
        self.order = nn.Parameter(torch.tensor([0]), requires_grad=False)
        self.nothing = nn.Parameter(torch.zeros(0))

    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        raise AssertionError

    def forward(self, y_pred, y_true):
        return nn.functional.cross_entropy(y_pred, y_true.argmax(1) + self.order[0])


def cross_entropy(y_pred, y_true):
    return nn.functional.cross_entropy(y_pred, y_true.argmax(1))


def test_losses_of_every_kind_train_alike():
    found = []
    for loss in (cross_entropy, Odd(), build_loss("softmax")):
        tables = Tables(4, 7, 3)
        trainer_of(tables, data_of(LISTS, 7, VALID), loss=loss).fit()
        found.append((tables.users.detach(), tables.items.detach()))
    for users, items in found[1:]:
        assert torch.allclose(users, found[0][0], atol=1e-9)
        assert torch.allclose(items, found[0][1], atol=1e-9)


@pytest.mark.parametrize("apart", [True, False])
def test_a_loss_that_has_one_of_the_models_tables_is_refused(apart):
    tables, loss = Tables(4, 7, 3), Learnt()
    loss.table = tables.users
    if not apart:
        tables.loss_fn = loss
    with pytest.raises(UserError, match="the loss's parameter table is a table of the model's"):
        trainer_of(tables, data_of(LISTS, 7), loss=loss)


def test_a_parameter_that_model_and_loss_share_is_trained_once():
    tables, loss = Tables(4, 7, 3), Learnt()
    tables.shared = loss.scale
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID), loss=loss)
    assert sorted(trainer.step.states) == ["items", "shared", "users"]
    trainer.train_epoch()
    assert float(loss.scale.detach()) != 2.0


def test_a_loss_of_the_fast_engine_begins_as_recboxs_compile_drew_it():
    drawn, loss = Learnt(), Learnt()
    with torch.no_grad():
        drawn.scale.fill_(0.625)
    run_fast.as_drawn(loss, SimpleNamespace(loss_fn=drawn))
    assert float(loss.scale.detach()) == 0.625
    with torch.no_grad():
        drawn.scale.fill_(0.125)
    run_fast.as_drawn(loss, SimpleNamespace(loss_fn=WithUsers(drawn)))
    assert float(loss.scale.detach()) == 0.125
    run_fast.as_drawn(loss, SimpleNamespace(loss_fn=nn.MSELoss()))
    assert float(loss.scale.detach()) == 0.125


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_a_loss_that_writes_on_its_labels_gets_new_ones_in_every_step(backend):
    seen = []

    class Smoothing(nn.Module):
        def forward(self, y_pred, y_true):
            y_true.mul_(0.5)
            seen.append(y_true[:, 0].tolist())
            return ((y_pred - y_true) ** 2).mean()

    trainer = trainer_of(Tables(4, 7, 3), data_of(LISTS, 7, VALID), backend, loss=Smoothing())
    for _ in range(2):
        trainer.train_epoch()
    assert len(seen) == 2 * trainer.batches.per_epoch
    assert all(value == 0.5 for row in seen for value in row)


def frozen(tables, name):
    getattr(tables, name).requires_grad_(False)
    return tables.declare()


DECLARED = {
    "user_table is none of the model's trained parameters: it is frozen": lambda tables: frozen(tables, "users"),
    r"item_table is none of .* frozen; items that are not to be trained can be declared as an item_tower": (
        lambda tables: frozen(tables, "items")
    ),
    "item_table is none of .* not a view or a copy of one": (
        lambda tables: dataclasses.replace(tables.declare(), item_table=tables.items[:, :2])
    ),
    "history table is none of .* not a view or a copy of one": lambda tables: dataclasses.replace(
        tables.declare(), history=HistoryTower(nn.Parameter(tables.items.detach()), nn.Identity(), 1.0, "mean")
    ),
}


@pytest.mark.parametrize("message", DECLARED)
def test_a_declared_table_that_is_not_trained_is_refused(message):
    tables = Tables(4, 7, 3)
    declared = DECLARED[message](tables)
    loss, settings = build_loss("CCL", margin=0.1, negative_weight=2.0), settings_of()
    with pytest.raises(UserError, match=message):
        Trainer(declared, tables, loss, data_of(LISTS, 7), settings, backends.select("numba", CPU))


def test_items_that_are_not_trained_can_be_declared_as_a_tower():
    tables = Tables(4, 7, 3, tower=True)
    for part in (tables.items, tables.bias, *tables.mix.parameters()):
        part.requires_grad_(False)
    before = {name: p.detach().clone() for name, p in tables.named_parameters()}
    trainer = trainer_of(tables, data_of(LISTS, 7, VALID))
    trainer.train_epoch()
    changed = [name for name, p in tables.named_parameters() if not torch.equal(p, before[name])]
    assert changed == ["users"]


def test_a_monitor_that_is_no_metric_is_refused_before_anything_is_trained():
    with pytest.raises(UserError, match=r"the monitor 'Recall\(k=20\)' is none of the metrics.*Recall\(k=2\)"):
        trainer_of(Tables(4, 7, 3), data_of(LISTS, 7), monitor={"Recall(k=20)": 1.0})


class Noisy(nn.Module):
    """A loss that draws from torch's own generator."""

    def forward(self, y_pred, y_true):
        return (torch.rand_like(y_pred) * y_pred).mean()


def test_a_resumed_training_goes_on_drawing_where_it_stopped(tmp_path):
    def trainer(name, epochs):
        tables = seeded_tables()
        settings = settings_of(epochs=epochs, patience=9, reduce_lr_on_plateau=False)
        data = data_of(LISTS, 7, VALID)
        return Trainer(
            tables.declare(), tables, Noisy(), data, settings, backends.select("numba", CPU), state_path=tmp_path / name
        )

    whole, first = trainer("whole", 4), trainer("cut", 2)
    for training in (whole, first):
        torch.manual_seed(3)
        training.fit()
    torch.manual_seed(4)
    resumed = trainer("cut", 4)
    resumed.restore()
    resumed.fit()
    kept = [torch.load(tmp_path / name, weights_only=True)["model"] for name in ("whole", "cut")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])


def test_half_precision_and_too_many_scores_are_one_sentence():
    tables = Tables(4, 7, 3)
    with pytest.raises(UserError, match=r"trains float32 or float64, and users.* is torch.bfloat16"):
        trainer_of(tables.bfloat16(), data_of(LISTS, 7, VALID))
    rows = len(data_of(LISTS, 7).users)
    with pytest.raises(UserError, match=r"a batch may have at most 2\^31 - 1 scores"):
        trainer_of(Tables(4, 7, 3), data_of(LISTS, 7, VALID), batch_size=2**20, num_negs=2**31 // rows)
