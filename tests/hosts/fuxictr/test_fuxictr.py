"""Our losses in FuxiCTR's BaseModel, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mml_plugin import build_loss
from mml_plugin.data.interactions import load
from mml_plugin.data.synthetic import sample
from mml_plugin.errors import UserError
from mml_plugin.hosts import fuxictr

pytest.importorskip("ray", reason="fuxictr's models need ray")
TINY = Path(__file__).resolve().parents[2] / "data" / "golden" / "tiny"
MML = {"loss": "MultiMarginLoss", "margins": [0.2, 0.5], "margin_weights": [0.3, 0.7], "neg_weight": 20}


@pytest.fixture(scope="module")
def data():
    return load(TINY)


def make(data, folder, **changes):
    from mml_plugin.hosts.fuxictr import example

    keys = {
        "verbose": 0,
        "model_root": str(folder),
        "metrics": ["Recall(k=20)", "NDCG(k=20)"],
        "monitor": "Recall(k=20)",
        "embedding_dim": 16,
        "learning_rate": 1e-2,
        "reduce_lr_on_plateau": False,
        "early_stop_patience": 9,
    }
    (folder / "tiny").mkdir(exist_ok=True)
    torch.manual_seed(0)
    return example.CosineMF(example.feature_map(data, "tiny", folder), **{**keys, **MML, **changes})


def test_training_uses_the_loss_with_its_margins_and_learns(tmp_path):
    from mml_plugin.hosts.fuxictr import example

    data = sample(users=300, items=400, seed=1)
    with fuxictr.registered():
        model = make(data, tmp_path)
        batch = next(iter(example.SampledLoader(data, 10, 32, seed=1)))
        y_pred = model(batch)["y_pred"]
        params = {k: v for k, v in MML.items() if k != "loss"}
        total = model.compute_loss({"y_pred": y_pred}, model.get_labels(batch))
        assert total.item() == pytest.approx(build_loss("MML", **params)(y_pred).item())
        before = model.evaluate(data)
        model.fit(example.SampledLoader(data, 10, 64, seed=1), epochs=3, validation_data=data)
        after = model.evaluate(data)
    assert after["Recall(k=20)"] > 1.3 * before["Recall(k=20)"]


def test_ranking_equals_brute_force(data, tmp_path):
    with fuxictr.registered():
        model = make(data, tmp_path)
    found = model.evaluate(data)["Recall(k=20)"]
    users = torch.nn.functional.normalize(model.users.weight).detach().numpy()
    items = torch.nn.functional.normalize(model.items.weight).detach().numpy()
    recalls = []
    for u in range(data.num_users):
        wanted = set(data.test_items[data.test_indptr[u] : data.test_indptr[u + 1]].tolist())
        seen = set(data.train_items[data.train_indptr[u] : data.train_indptr[u + 1]].tolist())
        ranked = [i for i in np.argsort(-(items @ users[u])).tolist() if i not in seen][:20]
        if wanted:
            recalls.append(len(wanted & set(ranked)) / len(wanted))
    assert found == pytest.approx(np.mean(recalls))


def test_bilateral_softmax_gets_user_ids(data, tmp_path):
    from mml_plugin.hosts.fuxictr import example

    with fuxictr.registered():
        model = make(data, tmp_path, loss="BSL", temperature=0.1, temperature2=1.1)
        batch = next(iter(example.SampledLoader(data, 10, 64, seed=1)))
        y_pred = model(batch)["y_pred"]
        found = model.add_loss({"y_pred": y_pred}, model.get_labels(batch))
    wanted = build_loss("BSL", temperature=0.1, temperature2=1.1)(y_pred, users=batch["user_id"])
    assert found.item() == pytest.approx(wanted.item())


def test_fuxictrs_own_loop_tells_the_loss_each_batch_s_users(data, tmp_path):
    from mml_plugin.hosts.fuxictr import example

    with fuxictr.registered():
        model = make(data, tmp_path, loss="BSL", temperature=0.1, temperature2=1.1)
        told = []
        model.loss_fn.loss.register_forward_hook(
            lambda module, args, kwargs, out: told.append(kwargs["users"].clone()), with_kwargs=True
        )
        model._max_gradient_norm = 10.0
        batches = list(example.SampledLoader(data, 10, 64, seed=1))[:3]
        for batch in batches:
            model.train_step(batch)
    assert len(told) == 3
    assert all(torch.equal(users, batch["user_id"]) for users, batch in zip(told, batches))


def test_a_pickled_model_forgets_its_users_and_does_not_train_with_them(data, tmp_path):
    from mml_plugin.hosts.fuxictr import example

    with fuxictr.registered():
        model = make(data, tmp_path, loss="BSL", temperature=0.1)
        model._max_gradient_norm = 10.0
        first, second = list(example.SampledLoader(data, 10, 64, seed=1))[:2]
        model.train_step(first)
        torch.save(model, tmp_path / "whole.pt")
        loaded = torch.load(tmp_path / "whole.pt", weights_only=False)
        with pytest.raises(ValueError, match="users"):
            loaded.train_step(second)


def test_what_is_not_listwise_is_refused_by_name(data, tmp_path):
    with fuxictr.registered():
        model = make(data, tmp_path)
    with pytest.raises(UserError, match=r"MultiMarginLoss needs y_pred of shape \[B, 1\+N\].*\[4, 1\]"):
        model.loss_fn(torch.zeros(4, 1), torch.ones(4, 1), reduction="mean")
    with pytest.raises(UserError, match=r"needs labels of shape \[B, 1\].* beside scores \[4, 3\]; they are \[4, 3\]"):
        model.loss_fn(torch.zeros(4, 3), torch.ones(4, 3), reduction="mean")
    with pytest.raises(UserError, match="reduction='none'"):
        model.loss_fn(torch.zeros(4, 3), torch.ones(4, 1), reduction="none")


def test_fuxictr_keeps_its_own_names_and_errors(data, tmp_path):
    with fuxictr.registered():
        assert make(data, tmp_path, loss="binary_crossentropy").loss_fn is torch.nn.functional.binary_cross_entropy
        with pytest.raises(NotImplementedError, match="loss=NoSuchLoss is not supported"):
            make(data, tmp_path, loss="NoSuchLoss")


def test_registration_is_idempotent_and_reversible():
    from fuxictr.pytorch.models import BaseModel

    before = (BaseModel.__init__, BaseModel.compile)
    fuxictr.register()
    once = BaseModel.compile
    fuxictr.register()
    assert BaseModel.compile is once
    assert fuxictr.is_registered()
    fuxictr.unregister()
    fuxictr.unregister()
    assert (BaseModel.__init__, BaseModel.compile) == before


def test_metrics_beyond_the_catalogue_and_unknown_ones(data, tmp_path):
    with fuxictr.registered():
        model = make(data, tmp_path)
    whole = model.evaluate(data, ["Recall(k=1000)", "NDCG(k=1000)"])
    seen = set(zip(data.train_users.tolist(), data.train_items.tolist()))
    hits = [
        np.mean([(u, i) not in seen for i in data.test_items[data.test_indptr[u] : data.test_indptr[u + 1]].tolist()])
        for u in np.unique(data.test_users).tolist()
    ]
    assert whole["Recall(k=1000)"] == pytest.approx(np.mean(hits))
    assert 0 < whole["NDCG(k=1000)"] < 1
    with pytest.raises(UserError, match="HitRate"):
        model.evaluate(data, ["HitRate(k=20)"])
