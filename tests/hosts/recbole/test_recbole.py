"""Our losses in RecBole's training loop: against our engines' numbers, brute-force metrics, closed forms."""

from __future__ import annotations

import importlib
import importlib.metadata

import numpy as np
import pytest
import torch

from mml_plugin.errors import UserError
from mml_plugin.hosts import recbole as host
from mml_plugin.hosts.recbole.histories import TrainingHistories
from mml_plugin.registry import available_losses

PARAMETERS = {
    "BilateralSoftmaxLoss": {"temperature": 0.2, "temperature2": 1.1},
    "GeneralizedContrastiveLoss": {"f": "ccl", "margin": 0.2},
}


def make(model, config, **changes):
    """A model on RecBole's training data, untrained."""
    with host.registered():
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, init_seed

        from mml_plugin.hosts.recbole.running import _without_sampler

        made = Config(model=get_model(model), dataset="tiny", config_dict={**config, **changes})
        _without_sampler(made)
        init_seed(made["seed"], True)
        train, valid, _ = data_preparation(made, create_dataset(made))
        return get_model(model)(made, train._dataset), train, valid


def standard_error(values):
    return np.std(values, axis=0, ddof=1) / np.sqrt(len(values))


@pytest.mark.parametrize("expid", ["MF_ccl", "MF_mml", "SimpleX_ccl", "SimpleX_mml"])
def test_agrees_with_our_engines_within_seed_noise(config, reference, expid):
    experiment = reference["experiments"][expid]
    plain = {k: v for k, v in config.items() if k not in ("loss", "margins", "margin_weights", "neg_weight")}
    results = [
        host.run(experiment["model"], "tiny", config_dict={**plain, **experiment["keys"], "seed": seed, "epochs": 8})
        for seed in reference["seeds"]
    ]
    losses = np.array([r["train_losses"] for r in results])
    recalls = np.array([r["best_valid_result"]["recall@20"] for r in results])
    for engine in ("recbox", "fast"):
        theirs = np.array(experiment[engine]["losses"])
        noise = np.hypot(standard_error(losses), standard_error(theirs))
        print(expid, engine, "losses", losses.mean(0).round(4), theirs.mean(0).round(4), "noise", noise.round(4))
        assert (np.abs(losses.mean(0) - theirs.mean(0)) < 4 * noise + 1e-3).all()
        # The first epoch has the least noise: 1.5 % is far below what another regulariser, init or clipping would do.
        np.testing.assert_allclose(losses.mean(0), theirs.mean(0), rtol=0.02)
        theirs = np.array(experiment[engine]["recall_at_20"])
        noise = np.hypot(standard_error(recalls), standard_error(theirs))
        print(expid, engine, "Recall@20", recalls.mean().round(4), theirs.mean().round(4), "noise", noise.round(4))
        assert abs(recalls.mean() - theirs.mean()) < 4 * noise


def test_the_best_epoch_is_tested_and_its_metrics_are_brute_forces(config, tiny):
    result = host.run("SampledMF", "tiny", config_dict=config)
    assert result["test_result"] == result["best_valid_result"]
    saved = list((importlib.import_module("pathlib").Path(config["checkpoint_dir"])).glob("*.pth"))
    state = torch.load(saved[0], weights_only=True)
    model, train, _ = make("SampledMF", config)
    model.load_state_dict(state["state_dict"])
    data = train._dataset
    users = data.token2id("user_id", tiny.user_ids)
    items = data.token2id("item_id", tiny.item_ids)
    scores = (model.user_vectors(torch.tensor(users)) @ model.item_vectors(torch.tensor(items)).T).detach().numpy()
    recalls = []
    for u in range(tiny.num_users):
        wanted = set(tiny.test_items[tiny.test_indptr[u] : tiny.test_indptr[u + 1]].tolist())
        if not wanted:
            continue
        row = scores[u].copy()
        row[tiny.train_items[tiny.train_indptr[u] : tiny.train_indptr[u + 1]]] = -np.inf
        recalls.append(len(wanted & set(np.argsort(-row)[:20].tolist())) / len(wanted))
    assert np.mean(recalls) == pytest.approx(result["test_result"]["recall@20"], abs=1e-5)


@pytest.mark.parametrize("name", [spec.name for spec in available_losses()])
def test_every_loss_trains(config, name):
    keys = {**PARAMETERS.get(name, {}), "loss": name, "epochs": 1}
    result = host.run("SampledMF", "tiny", config_dict={**config, **keys}, saved=False)
    assert np.isfinite(result["train_losses"]).all()


def test_the_loss_authors_keys_work(config):
    keys = {"loss": "MultiCosineContrastiveLoss", "margin_values_list": [0.2, 0.4, 0.6],
            "negative_weights_list": [0.1, 0.3, 0.6]}  # fmt: skip
    plain = {k: v for k, v in config.items() if k not in ("margins", "margin_weights")}
    ours = host.run("SampledMF", "tiny", config_dict=config)
    theirs = host.run("SampledMF", "tiny", config_dict={**plain, **keys})
    assert theirs["train_losses"] == ours["train_losses"]


def test_a_config_file_is_enough(config, tmp_path):
    import yaml

    (tmp_path / "mml.yaml").write_text(yaml.safe_dump({**config, "model": "SampledMF", "dataset": "tiny"}))
    found = host.run("SampledMF", "tiny", config_file_list=[str(tmp_path / "mml.yaml")])
    assert found["train_losses"] == host.run("SampledMF", "tiny", config_dict=config)["train_losses"]


def test_loss_of_a_batch_by_hand(config):
    model, train, _ = make("SampledMF", config, dropout_prob=0, init_std=0.5)
    batch = next(iter(train))
    users, positives = batch["user_id"], batch["item_id"]
    torch.manual_seed(4)
    found = model.calculate_loss(batch)
    torch.manual_seed(4)
    negatives = torch.randint(1, model.n_items, (len(users), 20))
    u, v = model.user_table.weight.detach().double(), model.item_table.weight.detach().double()
    total = 0.0
    for user, positive, others in zip(users, positives, negatives):

        def cosine(item, user=user):
            return (u[user] @ v[item] / u[user].norm() / v[item].norm()).item()

        pushed = sum(w * max(0, cosine(n) - m) for n in others for m, w in zip((0.2, 0.4, 0.6), (0.1, 0.3, 0.6)))
        total += max(0, 1 - cosine(positive)) + 40 * pushed / 20
    wanted = total / len(users) + 0.5e-6 * (u.square().sum() + v.square().sum()).item()
    assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_negatives_are_fresh_real_and_as_many_as_asked(config, monkeypatch):
    model, train, _ = make("SampledMF", config)
    seen = []
    original = model.item_vectors
    monkeypatch.setattr(model, "item_vectors", lambda items=None: seen.append(items) or original(items))
    batch = next(iter(train))
    assert len(batch) == 64  # RecBole's sampler would have made it 64 // 20 positives
    model.calculate_loss(batch)
    model.calculate_loss(batch)
    assert seen[0].shape == (64, 21)
    assert torch.equal(seen[0][:, 0], batch["item_id"])
    assert not torch.equal(seen[0][:, 1:], seen[1][:, 1:])
    assert all(items.min() >= 1 and items.max() < model.n_items for items in seen)


def test_many_users_are_ranked_at_once(config, monkeypatch):
    from recbole.trainer import Trainer

    sizes = []
    original = Trainer._full_sort_batch_eval
    monkeypatch.setattr(Trainer, "_full_sort_batch_eval", lambda self, b: sizes.append(len(b[0])) or original(self, b))
    host.run("SampledMF", "tiny", config_dict={**config, "epochs": 1})
    assert sizes == [sizes[0]] * 2  # one batch of every test user, in validation and in test
    sizes.clear()
    host.run("SampledMF", "tiny", config_dict={**config, "epochs": 1, "eval_batch_size": 302})
    assert set(sizes[:-1]) == {2}


def test_padding_stays_zero_and_the_norm_is_clipped(config):
    model, _, _ = make("SampledSimpleX", config)
    assert model.user_table.weight[0].abs().sum() == model.item_table.weight[0].abs().sum() == 0
    result = host.run("SampledSimpleX", "tiny", config_dict={**config, "neg_weight": 1e6, "clip_grad_norm": None})
    assert np.isfinite(result["train_losses"]).all()


def test_resume_goes_on_from_tensors_alone(config, tmp_path):
    from mml_plugin.hosts.recbole.trainer import TensorTrainer

    model, train, valid = make("SampledMF", config, epochs=1)
    with host.registered():
        trainer = TensorTrainer(train.config, model)
        trainer.fit(train, valid, verbose=False)
        again = TensorTrainer(train.config, make("SampledMF", config, epochs=1)[0])
        again.resume_checkpoint(trainer.saved_model_file)
    assert again.start_epoch == 1
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.model.state_dict().values()))


@pytest.mark.parametrize("repeated", [False, True])
def test_histories_against_lists(repeated):
    random = np.random.default_rng(0)
    pairs = random.integers(1, [9, 15], size=(60, 2))
    if not repeated:
        pairs = random.permutation(np.unique(pairs, axis=0))
    users, items = torch.tensor(pairs[:, 0]), torch.tensor(pairs[:, 1])
    lists = {u: [i for v, i in pairs.tolist() if v == u] for u in range(1, 9)}
    for length in (1, 3, 40):
        histories = TrainingHistories(users, items, 9, length)
        found, real = histories.of(users, items)
        for row, (u, target) in enumerate(pairs.tolist()):
            rest = list(lists[u])
            rest.remove(target)
            assert found[row][real[row] > 0].tolist() == rest[-length:]
        found, real = histories.of(torch.arange(1, 9))
        for u in range(1, 9):
            assert found[u - 1][real[u - 1] > 0].tolist() == lists[u][-length:]


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"loss": None}, "the configuration has no loss"),
        ({"loss": "MultiMarginLos"}, "there is no loss 'MultiMarginLos'; did you mean 'MultiMarginLoss'"),
        ({"margins": [0.2]}, "equally long"),
        ({"num_negs": None}, "num_negs must be a whole number of at least 1, got None"),
        ({"num_negs": 2.5}, "num_negs must be a whole number"),
        ({"similarity_score": "cosin"}, "did you mean 'cosine'"),
        ({"gamma": 3}, "gamma must be a number from 0 to 1, got 3"),
        ({"enable_bias": True}, "enable_bias is not available in the RecBole host"),
    ],
)
def test_mistakes_are_one_sentence(config, keys, says):
    with pytest.raises(UserError) as caught:
        host.run("SampledSimpleX", "tiny", config_dict={**config, **keys})
    assert says in str(caught.value)


def test_another_model_or_recbole_is_refused(monkeypatch):
    with pytest.raises(UserError, match="there is no model 'BPR' in the RecBole host"):
        host.run("BPR", "tiny")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.1.1")
    with pytest.raises(UserError, match=r"RecBole 1\.1\.1 is not supported; these work: 1\.2\.0, 1\.2\.1"):
        host.register()


def test_unregister_puts_back_the_very_objects():
    from recbole import utils
    from recbole.config import Config, configurator
    from recbole.evaluator import metrics

    before = (utils.get_model, configurator.get_model, Config.compatibility_settings, metrics.np)
    with host.registered():
        assert utils.get_model("BPR").__name__ == "BPR"
        assert utils.get_model is not before[0]
    assert (utils.get_model, configurator.get_model, Config.compatibility_settings, metrics.np) == before
