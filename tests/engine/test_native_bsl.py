"""BSL in its authors' setting against autograd and torch's Adam: the batch's own L2 term, no clipping, dropout."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

from mml_plugin import build_loss
from mml_plugin.engine import backends, late_tables
from mml_plugin.engine.backends import numba_cpu
from mml_plugin.engine.backends import numba_items as by_item
from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.ranking import ItemLists
from mml_plugin.engine.settings import Settings
from mml_plugin.engine.trainer import Trainer
from mml_plugin.engine.training_data import TrainingData

CPU = torch.device("cpu")
LISTS = [[0, 1, 2], [3], [1, 4, 5, 6], [2, 6], [7, 8], [0]]
LAMBDA, RATE, BATCH = 0.7, 0.01, 5


class Tables(nn.Module):
    """A user and an item table in float64."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(1)
        self.users = nn.Parameter(torch.randn(6, 5, generator=draw, dtype=torch.float64))
        self.items = nn.Parameter(torch.randn(9, 5, generator=draw, dtype=torch.float64))


def trainer_of(tables, backend, dropout_first):
    counts = [len(items) for items in LISTS]
    lists = ItemLists.of(np.concatenate([[0], np.cumsum(counts)]), np.concatenate(LISTS), CPU)
    users = torch.from_numpy(np.repeat(np.arange(6), counts))
    data = TrainingData(users, lists.items, torch.arange(6), torch.arange(9), lists, lists)
    settings = Settings(
        1, BATCH, 4, RATE, 1, {"Recall(k=2)": ("Recall", 2)}, {"Recall(k=2)": 1.0}, progress=False,
        max_gradient_norm=math.inf, batch_penalty=LAMBDA, dropout_first=dropout_first,
    )  # fmt: skip
    model = Declaration(tables.users, tables.items, "cosine", user_dropout=0.4)
    loss = build_loss("BSL", temperature=0.2, temperature2=1.1)
    return Trainer(model, tables, loss, data, settings, backends.select(backend, CPU)), loss


@pytest.mark.parametrize("dropout_first", [True, False])
@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
def test_steps_equal_autograd_and_torchs_adam(backend, dropout_first):
    tables = Tables()
    trainer, loss = trainer_of(tables, backend, dropout_first)
    users, items = (table.detach().clone().requires_grad_() for table in (tables.users, tables.items))
    adam = torch.optim.Adam([users, items], lr=RATE)
    for step in range(15):
        rows = torch.tensor([0, 1, 2, 5, 8]) + step % 4
        batch = trainer.batches.of_rows(step, rows)
        user, item = users[batch.users], items[batch.index.long()]
        vector = normalize(user * batch.mask) if dropout_first else normalize(user) * batch.mask
        y_pred = torch.einsum("bd,bjd->bj", vector, normalize(item, dim=-1))
        penalty = LAMBDA / 2 * (user.square().sum() + item.square().sum()) / BATCH
        total = loss(y_pred, users=batch.users) + penalty
        adam.zero_grad()
        total.backward()
        adam.step()
        assert float(trainer.step(batch).loss) == pytest.approx(total.item(), rel=1e-12)
    trainer.optimiser.settle()
    torch.testing.assert_close(tables.users, users, rtol=0, atol=1e-12)
    torch.testing.assert_close(tables.items, items, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_epochs_are_the_same_however_numba_steps(dtype, monkeypatch):
    """Rows that step when they are read, gradients that are made in Adam's pass, and neither."""
    found, passes = [], []
    real = by_item.adam
    monkeypatch.setattr(by_item, "adam", lambda *arguments: passes.append(1) or real(*arguments))
    for seldom, deferring in ((0, True), (math.inf, True), (math.inf, False)):
        with monkeypatch.context() as patched:
            patched.setattr(late_tables, "SELDOM", seldom)
            if not deferring:
                patched.setattr(numba_cpu.Engine, "defer_item_gradient", lambda *arguments: None)
            tables = Tables().to(dtype)
            trainer, _ = trainer_of(tables, "numba", True)
            losses = [trainer.train_epoch()[0] for _ in range(12)]
        found.append((tables, losses, len(passes)))
        passes.clear()
    assert [steps > 0 for _, _, steps in found] == [False, True, False]
    for tables, losses, _ in found[1:]:
        assert losses == pytest.approx(found[0][1], rel=1e-6)
        torch.testing.assert_close(tables.users, found[0][0].users, rtol=0, atol=0)
        torch.testing.assert_close(tables.items, found[0][0].items, rtol=0, atol=0)
