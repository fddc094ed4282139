"""Whole runs of the fast engine: every experiment, what a run leaves, what it shares with recbox's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from mml_plugin.experiment.config import list_experiments, load_experiment
from mml_plugin.experiment.run import RunRequest, run
from tests.experiment.small_runs import CONFIG, SMALL, go, watched

pytestmark = pytest.mark.usefixtures("in_home")


@pytest.mark.parametrize("expid", list_experiments(CONFIG))
def test_no_experiment_is_refused(expid):
    folder = go(expid, runs="every", more=("epochs=1",), max_batches=2)
    result = folder.read_result()
    assert result["engine"] == "fast"
    assert np.isfinite(list(result["metrics"].values())).all()


def test_torchs_compiler_stays_out(home):
    """It comes with the first optimizer of torch's own: seconds of every start, and 150 MB."""
    code = "import sys; from mml_plugin.cli import main; main(sys.argv[1:]); assert 'torch._dynamo' not in sys.modules"
    words = [sys.executable, "-c", code, "train", "--engine", "fast", "--config", str(CONFIG), "--expid", "MF_tiny_mml"]
    keys = [word for key in (*SMALL, "epochs=1") for word in ("--set", key)]
    done = subprocess.run([*words, "--runs", "lean", *keys], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(Path("lean").glob("*/*/result.json"))


def test_a_run_leaves_everything_and_its_vectors_give_its_metrics(home):
    folder = go(runs="whole", tensorboard=True)
    names = {p.name for p in folder.path.iterdir()}
    assert names >= {"config.yaml", "history.csv", "result.json", "log.txt", "checkpoint.pt", "embeddings.safetensors",
                     "per_user.parquet", "ids.parquet", "seen.parquet", "tensorboard"}  # fmt: skip
    assert folder.path.name.startswith("fast-paper-s2019-")
    result, history = folder.read_result(), pd.read_csv(folder.history)
    assert list(history["epoch"]) == [1, 2, 3]
    data, vectors = load(home / "data" / "synth"), load_file(folder.embeddings)
    scores = vectors["users"] @ vectors["items"].T
    scores[data.train_users, data.train_items] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    recalls = []
    for user in range(data.num_users):
        wanted = set(data.test_items[data.test_indptr[user] : data.test_indptr[user + 1]].tolist())
        if wanted:
            recalls.append(len(wanted & set(top[user].tolist())) / len(wanted))
    assert np.mean(recalls) == pytest.approx(result["metrics"]["Recall(k=20)"], abs=1e-9)
    assert pd.read_parquet(folder.per_user)["Recall(k=20)"].mean() == pytest.approx(np.mean(recalls), abs=1e-9)
    bands = history[[c for c in history.columns if c.startswith("band_")]].to_numpy()
    assert bands.shape[1] >= 5


def test_vectors_of_a_model_with_a_bias_have_it_as_a_column():
    folder = go("SimpleX_tiny_mml", runs="bias", more=("enable_bias=True",))
    assert load_file(folder.embeddings)["users"].shape[1] == 9
    recalls = [hits[:20].sum() / count for hits, count in per_user_scores(folder)]
    assert np.mean(recalls) == pytest.approx(folder.read_result()["metrics"]["Recall(k=20)"], abs=1e-9)


def test_engines_share_initial_parameters_and_checkpoints(home, tmp_path):
    """The fast engine's weights, in recbox's model on recbox's loaders, give the fast engine's metrics."""
    from mml_plugin import model_zoo
    from mml_plugin.hosts import recbox
    from mml_plugin.hosts.recbox.evaluation import means, per_user_metrics
    from mml_plugin.hosts.recbox.training import prepare_training

    for expid in ("MF_tiny_mml", "SimpleX_gowalla_mml", "SimpleX_yelp_mml"):
        folder = go(expid, runs="shared")
        state = torch.load(folder.checkpoint, weights_only=True)
        params = {**load_experiment(CONFIG, expid, SMALL).params, "model_root": str(tmp_path), "num_workers": 0}
        with recbox.registered():
            model, train_gen, valid_gen, _ = prepare_training(params, getattr(model_zoo, params["model"]), tmp_path)
            model.load_state_dict(state["best"])
            found = means(per_user_metrics(model, train_gen, valid_gen))
        assert found == pytest.approx(folder.read_result()["metrics"], abs=1e-6)


def test_popularity_alpha_reaches_the_draws(monkeypatch):
    made = watched(monkeypatch)
    for alpha in (0.0, 1.0):
        go("MF_tiny_ccl", runs=f"popular{alpha:g}", more=(f"popularity_alpha={alpha}", "num_negs=200"), max_batches=1)
    counts = np.bincount(made[0].data.items.numpy(), minlength=len(made[0].data.item_ids))
    # E[count of a drawn item] is the mean of the counts, or their second moment over their sum.
    wanted = (counts.mean(), (counts.astype(float) ** 2).sum() / counts.sum())
    item_of = np.empty(counts.size + 1, np.int64)
    item_of[made[0].data.item_ids.numpy()] = np.arange(counts.size)
    for trainer, expected in zip(made, wanted):
        drawn = item_of[trainer.batches.of_rows(0, torch.arange(64)).index[:, 1:].numpy()]
        spread = counts[drawn].std() / np.sqrt(drawn.size)
        assert abs(counts[drawn].mean() - expected) < 6 * spread
    assert wanted[1] > 1.2 * wanted[0]


def test_early_stopping_equals_the_same_run_cut_short():
    more = ("epochs=30", "learning_rate=0.05", "reduce_lr_on_plateau=False")
    stopped = go(runs="early", more=(*more, "patience=2")).read_result()
    history = go(runs="late", more=(*more, "patience=200")).history
    whole = pd.read_csv(history, dtype=str)["Recall(k=20)"].map(float).tolist()
    best, best_epoch, stops = -np.inf, 0, 0
    for epoch, value in enumerate(whole, 1):
        if value < best + 1e-6:
            stops += 1
        else:
            best, best_epoch, stops = value, epoch, 0
        if stops == 2:
            break
    assert (stopped["best_epoch"], stopped["epochs"]) == (best_epoch, epoch)
    assert stopped["stopped_early"]
    assert stopped["metrics"]["Recall(k=20)"] == best


# tests/hosts/recbox/test_resume.py tests its loop; these are whole runs.
SLOW_RECBOX = pytest.param("recbox", marks=pytest.mark.slow)


@pytest.mark.parametrize("expid", ["SimpleX_yelp_mml", "SimpleX_gowalla_mml", "MF_tiny_mml"])
def test_an_initializer_leaves_padding_rows_at_zero(expid):
    """The item table of SimpleX on Yelp is its history's and has a padding row; on Gowalla the two are apart."""
    folder = go(
        expid, runs="initial", more=("initializer=xavier_uniform", "gamma=0.5")[: 2 if "SimpleX" in expid else 1]
    )
    best = torch.load(folder.checkpoint, weights_only=True)["best"]
    padded = {
        "SimpleX_yelp_mml": {"item_id", "user_history"},
        "SimpleX_gowalla_mml": {"user_history"},
        "MF_tiny_mml": set(),
    }[expid]
    for name, table in best.items():
        if "embedding_layers" in name:
            assert bool((table[-1] == 0).all()) == (name.split(".")[-2] in padded), name
            bound = (6 / sum(table.shape)) ** 0.5
            assert bound / 2 < table[:-1].abs().max() < bound + 0.2, name


@pytest.mark.parametrize("engine", ["fast", SLOW_RECBOX])
def test_the_reported_epoch_is_that_of_the_weights(engine):
    """Without save_best_only the last weights are kept; a plateau reloads, and so keeps, those before it."""
    more = ("save_best_only=False", "learning_rate=0.3", "epochs=6", "patience=50", "num_workers=0")
    for plateau in (False, True):
        overrides = (*SMALL, *more, f"reduce_lr_on_plateau={plateau}")
        folder = run(
            RunRequest("MF_tiny_mml", CONFIG, engine=engine, overrides=overrides, runs_dir=Path(f"last-{engine}"))
        )
        result, history = folder.read_result(), pd.read_csv(folder.history).set_index("epoch")
        names = list(result["metrics"])
        if not plateau:
            assert int(history[result["monitor"]].idxmax()) < 6  # the case has something to get wrong
            assert result["best_epoch"] == 6
        reported = history.loc[result["best_epoch"], names].tolist()
        assert reported == pytest.approx([result["metrics"][name] for name in names], abs=1e-6)


def test_standard_metrics_are_the_fast_engines():
    names = "metrics=['Recall(k=20)','StandardMRR(k=5)','StandardMAP(k=5)']"
    more = (names, "monitor=StandardMRR(k=5)")
    folder = go(runs="standard", more=more)
    scores = per_user_scores(folder)
    found = folder.read_result()["metrics"]
    ranks = [np.flatnonzero(hits[:5]) + 1 for hits, _ in scores]
    assert found["StandardMRR(k=5)"] == pytest.approx(np.mean([1 / r[0] if len(r) else 0 for r in ranks]))
    precisions = [sum((i + 1) / r for i, r in enumerate(rank)) / min(5, n) for rank, (_, n) in zip(ranks, scores)]
    assert found["StandardMAP(k=5)"] == pytest.approx(np.mean(precisions))
    with pytest.raises(UserError, match=r"stock recbox does not have StandardMRR\(k=5\); --engine fast does"):
        run(RunRequest("MF_tiny_mml", CONFIG, overrides=(*SMALL, *more)))


def per_user_scores(folder):
    """(whether each of the ranked items is one of test's, how many test has) of every test user, by brute force."""
    data, vectors = load(Path("data/synth")), load_file(folder.embeddings)
    scores = vectors["users"] @ vectors["items"].T
    scores[data.train_users, data.train_items] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")
    found = []
    for user in range(data.num_users):
        wanted = data.test_items[data.test_indptr[user] : data.test_indptr[user + 1]]
        if len(wanted):
            found.append((np.isin(top[user], wanted), len(wanted)))
    return found


def test_text_files_are_enough(home, tmp_path, monkeypatch):
    (tmp_path / "data" / "synth").mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        shutil.copy(home / "data" / "synth" / name, tmp_path / "data" / "synth" / name)
    with_csv = go(runs=tmp_path / "a").read_result()
    monkeypatch.chdir(tmp_path)
    assert go(runs=tmp_path / "b").read_result()["metrics"] == with_csv["metrics"]


@pytest.mark.slow  # compiles every kernel anew
@pytest.mark.parametrize("expid", ["MF_tiny_mml", "SimpleX_gowalla_mml"])
def test_the_process_that_compiles_gets_the_bits_of_those_that_load(expid, home, tmp_path):
    pytest.importorskip("numba")
    losses = []
    for name in ("compiles", "loads"):
        command = [sys.executable, "-m", "mml_plugin", "train", "--engine", "fast", "--backend", "numba",
                   "--config", str(CONFIG), "--expid", expid, "--runs", name, "--overwrite"]  # fmt: skip
        keys = [word for key in (*SMALL, "epochs=2", "learning_rate=0.02") for word in ("--set", key)]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
        subprocess.run(command + keys, cwd=home, env=environment, check=True, capture_output=True)
        (history,) = (home / name / expid).glob("*/history.csv")
        losses.append(pd.read_csv(history)["train_loss"].tolist())
    assert losses[0] == losses[1]


def test_an_alias_whose_mode_is_left_out_trains_the_default_mode(tmp_path):
    # BSLLoss translates a mode that is written; recbox's engine leaves the default, multi, as it is.
    block = yaml.safe_load((CONFIG / "model_config" / "MF.yaml").read_text())
    plain = {**block["Base"], **{k: v for k, v in block["MF_tiny_bsl"].items() if k != "mode"}}
    both = {"MF_named": {**plain, "loss": "BSL", "mode": "multi"}, "MF_alias": {**plain, "loss": "BSLLoss"}}
    (tmp_path / "model_config.yaml").write_text(yaml.safe_dump(both))
    shutil.copy(CONFIG / "dataset_config" / "tiny.yaml", tmp_path / "dataset_config.yaml")
    losses = [
        pd.read_csv(run(RunRequest(name, tmp_path, engine="fast", overrides=SMALL, runs_dir=Path("alias"))).history)
        for name in both
    ]
    assert losses[0]["train_loss"].tolist() == losses[1]["train_loss"].tolist()
