"""recbox's pipeline and the fast engine side by side on the same batches, negatives and dropout masks."""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import torch
from torch import nn

from mml_plugin import build_loss, model_zoo
from mml_plugin.data import vocabulary
from mml_plugin.data.histories import Ragged
from mml_plugin.engine import backends
from mml_plugin.engine.trainer import Trainer
from mml_plugin.experiment import run_fast
from mml_plugin.experiment.dataset import load_data
from mml_plugin.hosts import recbox
from mml_plugin.hosts.recbox.plugging import attach_loss
from mml_plugin.hosts.recbox.training import prepare_training
from mml_plugin.losses.base import SampledLoss
from mml_plugin.registry import margins_of, params_from_config


class RecordedDropout(nn.Module):
    """Dropout that keeps its last mask."""

    def __init__(self, rate: float, seed: int) -> None:
        super().__init__()
        self.p = rate
        self.mask: torch.Tensor | None = None
        self._generator = torch.Generator().manual_seed(seed)

    def forward(self, values):
        if not self.training or not self.p:
            return values
        keep = torch.rand(values.shape, generator=self._generator) >= self.p
        self.mask = keep.to(values.dtype) / (1 - self.p)
        return values * self.mask


class LearntTemperature(SampledLoss):
    """The softmax loss of a temperature that is trained, and of a scale that no score depends on."""

    def __init__(self, needs_users=False):
        super().__init__()
        self.needs_users = needs_users
        self.temperature = nn.Parameter(torch.tensor(0.2))
        self.unused = nn.Parameter(torch.ones(2))

    def compute(self, positive, negatives, users=None):
        scores = torch.cat([positive[:, None], negatives], dim=1) / self.temperature
        return (torch.logsumexp(scores, dim=1) - scores[:, 0]).mean()


class Pair:
    """One experiment, prepared twice.

    Args:
        loss: in place of the experiment's.

    Attributes:
        model, loader: recbox's.
        trainer: the fast engine's.
    """

    def __init__(self, params, tmp_path, backend="reference", dtype=torch.float64, loss=None):
        params = {"verbose": 0, "monitor_mode": "max", "save_best_only": True, **params}
        with recbox.registered():
            self.model, self.loader, self.valid, _ = prepare_training(
                params, getattr(model_zoo, params["model"]), tmp_path / "cache"
            )
        if loss is not None:
            attach_loss(self.model, loss)
        self.model.to(dtype)
        self.model.dropout = RecordedDropout(self.model.dropout.p, 1)
        attention = getattr(getattr(self.model, "behavior_aggregation", None), "dropout", None)
        if attention is not None:
            self.model.behavior_aggregation.dropout = RecordedDropout(attention.p, 2)
        # recbox's own loss class where it has one: the engine is what is compared here.
        self.trainer = make_trainer(params, backend, dtype, loss=copy.deepcopy(loss or self.model.loss_fn))
        self.params = params

    def batch(self, inputs):
        """The step's batch out of recbox's, its masks out of the forward pass that has just run."""
        users, items, _ = inputs[:3]
        ids = users["user_id"].flatten()
        index = items["item_id"].view(len(ids), -1)
        history = attention_mask = None
        if self.trainer.tower.needs_history:
            padding = self.trainer.model.history.table.shape[0] - 1
            row, column = (users["user_history"] != padding).nonzero(as_tuple=True)
            lengths = torch.bincount(row, minlength=len(ids))
            slot = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row]
            history = Ragged(users["user_history"][row, column].long(), row, slot, lengths)
            recorded = getattr(self.model.behavior_aggregation, "dropout", None)
            if recorded is not None:
                attention_mask = recorded.mask[row, column]
        mask = self.model.dropout.mask
        return SimpleNamespace(users=ids, index=index, history=history, mask=mask, attention_mask=attention_mask)

    def run(self, steps, plateau_at=None):
        """(recbox's losses, the fast engine's, how often the clipping bit)."""
        theirs, ours, bites, done = [], [], 0, 0
        limit = self.params.get("max_gradient_norm", 10.0)
        snapshot = {name: value.clone() for name, value in self.model.state_dict().items()}
        while done < steps:
            self.model.train()
            for inputs in self.loader:
                self.model.optimizer.zero_grad()
                loss = self.model(inputs)["loss"]
                loss.backward()
                norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
                bites += bool(norm > limit)
                batch = self.batch(inputs)
                ours.append(float(self.trainer.step(batch).loss))
                self.model.optimizer.step()
                theirs.append(loss.item())
                done += 1
                if done == plateau_at:
                    self.reload(snapshot)
        return theirs, ours, bites

    def reload(self, weights):
        """What both engines do on a plateau: cut the rate, load the best weights, keep the moments."""
        self.model.load_state_dict(weights)
        self.model.reduce_learning_rate()
        trainer = self.trainer
        trainer.settings = dataclasses.replace(trainer.settings, reduce_lr_on_plateau=True)
        trainer.best, trainer.schedule.best = weights, 1.0
        trainer._decide(dict.fromkeys(trainer.schedule.monitor, 0.0))


def make_trainer(params, backend="reference", dtype=torch.float64, loss=None, device=None, capture=True, **changes):
    """A fast-engine trainer of flat parameters, on a CPU unless told."""
    params = {"verbose": 0, "monitor_mode": "max", **params}
    data = load_data(params, "paper", 0.1)
    words = vocabulary.build(data.training, params)
    device = device or torch.device("cpu")
    model = run_fast.build_model(params, words, data.interactions.num_items, device).to(dtype)
    context = SimpleNamespace(
        params=params,
        request=SimpleNamespace(max_batches=None, protocol="paper"),
        thresholds=margins_of(params["loss"], params),
    )
    loss = loss or build_loss(params["loss"], **params_from_config(params["loss"], params))
    chosen = backends.select(backend, device) if isinstance(backend, str) else backend
    return Trainer(
        model.declare(), model, loss.to(device), run_fast.training_data(data, words, device),
        dataclasses.replace(run_fast.settings(context, model, loss), capture=capture), chosen, **changes,
    )  # fmt: skip
