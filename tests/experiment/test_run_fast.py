"""Whole runs of the fast engine: every experiment, protocols, resume, refusals, what it shares with recbox's."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from mml_plugin.data import split, synthetic
from mml_plugin.data.importing import import_csv
from mml_plugin.data.interactions import load
from mml_plugin.engine.trainer import Trainer
from mml_plugin.errors import UserError
from mml_plugin.experiment import run as run_module
from mml_plugin.experiment import run_fast
from mml_plugin.experiment.config import list_experiments, load_experiment
from mml_plugin.experiment.run import RunRequest, run
from mml_plugin.hosts.recbox import trainer as recbox_trainer
from mml_plugin.states import write_state

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
SMALL = ("epochs=3", "verbose=0", "embedding_dim=8", "num_negs=10", "batch_size=64")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    for name in ("synth", "yelp18", "gowalla"):
        synthetic.generate(folder / "data" / name, users=80, items=120, seed=3)
    return folder


@pytest.fixture(autouse=True)
def in_home(home, monkeypatch):
    monkeypatch.chdir(home)


def go(expid="MF_tiny_mml", runs="runs", more=(), **keys):
    return run(RunRequest(expid, CONFIG, engine="fast", overrides=(*SMALL, *more), runs_dir=Path(runs), **keys))


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


def test_engines_share_initial_parameters_and_checkpoints(home, tmp_path):
    """The fast engine's weights, in recbox's model on recbox's loaders, give the fast engine's metrics."""
    from mml_plugin import model_zoo
    from mml_plugin.experiment.config import load_experiment
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


def test_held_out_masks_validation_and_looks_at_test_once(home, monkeypatch):
    calls = []
    monkeypatch.setattr(run_fast, "final_test", lambda *a, real=run_fast.final_test: calls.append(1) or real(*a))
    folder = go(runs="held", protocol="held-out")
    assert calls == [1]
    data = load(home / "data" / "synth")
    held = split.held_out(data, 0.1, 2019)
    vectors = load_file(folder.embeddings)
    scores = vectors["users"] @ vectors["items"].T
    scores[data.train_users, data.train_items] = -np.inf  # all of train: its training and its validation part
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    wanted = [set(data.test_items[data.test_indptr[u] : data.test_indptr[u + 1]].tolist()) for u in range(80)]
    recalls = [len(w & set(t.tolist())) / len(w) for w, t in zip(wanted, top) if w]
    result = folder.read_result()
    assert np.mean(recalls) == pytest.approx(result["metrics"]["Recall(k=20)"], abs=1e-9)
    assert result["data"]["trained_on"] == len(held.training.train_items)
    assert result["validation_metrics"] != result["metrics"]


def watched(monkeypatch):
    """Every trainer that runs build from now on."""
    made = []

    class Watched(Trainer):
        def __init__(self, *args, **keys):
            super().__init__(*args, **keys)
            made.append(self)

    monkeypatch.setattr(run_fast, "Trainer", Watched)
    return made


def rows_by_count(counts, ids):
    """Whether a table's rows are numbered by falling count, as recbox numbers them."""
    return bool((np.diff(counts[np.argsort(ids.numpy(), kind="stable")]) <= 0).all())


def test_held_out_training_sees_nothing_of_validation(home, monkeypatch):
    """Batches, masks, positives, vocabulary and histories are those of a data set that never had the carved items."""
    made = watched(monkeypatch)
    folder = go("SimpleX_tiny_mml", runs="unseen", protocol="held-out", more=("gamma=0.5",))
    seen, whole = made[0].data, load(home / "data" / "synth")
    held = split.held_out(whole, 0.1, 2019)
    left = held.training
    users = range(left.num_users)
    kept = [left.train_items[left.train_indptr[u] : left.train_indptr[u + 1]].tolist() for u in users]
    carved = [held.items[held.indptr[u] : held.indptr[u + 1]].tolist() for u in users]
    assert sum(map(len, carved)) > 20

    def lists(of):
        return [of.items[of.indptr[u] : of.indptr[u + 1]].tolist() for u in users]

    assert sorted(zip(seen.users.tolist(), seen.items.tolist())) == sorted((u, i) for u in users for i in kept[u])
    assert lists(seen.train) == kept
    assert lists(seen.positives()) == [sorted(items) for items in kept]
    assert lists(seen.valid) == carved
    for data, ordered in ((left, True), (whole, False)):
        sizes = np.diff(data.train_indptr)
        assert rows_by_count(sizes, seen.user_ids) == ordered
        # The items share the histories' table, whose order is by count in the histories of all training rows.
        in_histories = np.bincount(data.train_items, weights=np.repeat(sizes - 1, sizes), minlength=data.num_items)
        assert rows_by_count(in_histories, seen.item_ids) == ordered
    item_of = {row: item for item, row in enumerate(seen.item_ids.tolist())}
    history = seen.history.of_users(torch.arange(left.num_users))
    for user in users:
        read = [item_of[row] for row in history.ids[history.row == user].tolist()]
        assert read == kept[user][-seen.history.max_len :]

    vectors = load_file(folder.embeddings)
    scores = vectors["users"] @ vectors["items"].T
    scores[left.train_users, left.train_items] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    recalls = [len(set(items) & set(top[u].tolist())) / len(items) for u, items in enumerate(carved) if items]
    assert np.mean(recalls) == pytest.approx(folder.read_result()["validation_metrics"]["Recall(k=20)"], abs=1e-9)


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


CASES = {
    "plateau": ("MF_tiny_mml", ("epochs=6", "reduce_lr_on_plateau=True", "learning_rate=0.3", "patience=50")),
    "attention": ("SimpleX_gowalla_mml", ("epochs=4", "attention_dropout=0.2", "learning_rate=0.01")),
    "general": ("MF_tiny_ccl", ("epochs=4", "optimizer=rmsprop", "learning_rate=0.01")),
}


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_resumes_to_the_same_end(case, backend, monkeypatch):
    expid, more = CASES[case]
    whole = go(expid, runs=f"{case}-{backend}-whole", more=more, backend=backend)
    cut = f"{case}-{backend}-cut"
    real = Trainer.train_epoch

    def interrupted(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(expid, runs=cut, more=more, backend=backend)
    resumed = go(expid, runs=cut, more=more, backend=backend, resume=True)
    columns = ["epoch", "train_loss", "Recall(k=20)", "learning_rate"]
    first, second = (pd.read_csv(folder.history)[columns] for folder in (whole, resumed))
    assert first.equals(second)
    for name, tensor in torch.load(whole.checkpoint, weights_only=True)["model"].items():
        assert torch.equal(tensor, torch.load(resumed.checkpoint, weights_only=True)["model"][name]), name
    assert load_file(whole.embeddings)["users"].tobytes() == load_file(resumed.embeddings)["users"].tobytes()
    if case == "plateau":
        assert first["learning_rate"].nunique() > 1


def test_resume_refuses_other_conditions():
    real = Trainer.train_epoch

    def interrupted(trainer):
        if trainer.epoch:
            raise KeyboardInterrupt
        return real(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(runs="refused")
    with pytest.raises(UserError, match="was written with backend numba and this process has torch"):
        go(runs="refused", resume=True, backend="torch")
    path = next(Path("refused").glob("*/*/checkpoint.pt"))
    state = torch.load(path, weights_only=True)
    for key, other, how in (("threads", 64, "set OMP_NUM_THREADS=64"), ("device", "cuda:0", "use device cuda:0")):
        write_state(path, {**state, key: other})
        with pytest.raises(UserError, match=f"was written with {key} {other} and this process has .*{how}"):
            go(runs="refused", resume=True)
    for broken in ({k: v for k, v in state.items() if k != "schedule"}, {**state, "model": {"none": torch.zeros(1)}}):
        write_state(path, broken)
        with pytest.raises(UserError, match=r"checkpoint .* is damaged \(KeyError: .*begin anew with --overwrite"):
            go(runs="refused", resume=True)
    moments = {name: {"first": torch.zeros(3, 3), "second": torch.zeros(3, 3)} for name in state["model"]}
    write_state(path, {**state, "optimiser": {**state["optimiser"], "moments": moments}})
    with pytest.raises(UserError, match=r"is damaged \(RuntimeError: The size of tensor"):
        go(runs="refused", resume=True)
    write_state(path, state)
    assert go(runs="refused", resume=True).finished


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


@pytest.mark.parametrize(
    ("more", "keys", "says"),
    [
        (("eval_interval_epochs=2",), {}, "eval_interval_epochs 2.0: the fast engine evaluates after every epoch"),
        (("nrows=5",), {}, "nrows: the fast engine reads whole files"),
        ((), {"backend": "nmba"}, "--backend 'nmba' is unknown; did you mean 'numba'"),
        ((), {"backend": "triton"}, "--backend triton cannot be used on cpu: it runs on cuda, not on cpu"),
        (("learning_rate=1.e+30",), {}, "training stopped in epoch"),
    ],
)
def test_refusals(more, keys, says):
    with pytest.raises(UserError, match=says):
        go(runs="refusals", more=more, overwrite=True, **keys)


def test_a_refused_overwrite_leaves_the_old_run_and_one_that_goes_on_does_not(home, monkeypatch):
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = go(runs="again", tensorboard=True)

    def contents():
        return {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}

    def events():
        found = tensorboard.EventAccumulator(str(folder.events))
        found.Reload()
        return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}

    def steps():
        return [step for step, _ in events()["train/loss"]]

    before = contents()
    test = home / "data" / "synth" / "train.txt"
    text = test.read_text()
    try:
        test.write_text(text + "x y\n")
        with pytest.raises(UserError, match="only whole numbers"):
            go(runs="again", overwrite=True)
    finally:
        test.write_text(text)
    assert contents() == before
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            go(runs="again", overwrite=True)
    assert contents() == before
    real = Trainer.train_epoch

    def stopped(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(runs="again", overwrite=True, tensorboard=True)
    assert not folder.finished
    assert steps() == [1]
    go(runs="again", resume=True, tensorboard=True)
    assert steps() == [1, 2, 3]
    history, metrics = pd.read_csv(folder.history), folder.read_result()["metrics"]
    columns = {"train/loss": "train_loss", "train/seconds": "train_seconds"}
    columns |= {f"evaluation/{name}": name for name in metrics}
    told = events()
    assert set(told) == {*columns, "train/active_share"}
    for tag, column in columns.items():
        assert [value for _, value in told[tag]] == pytest.approx(list(history[column]), rel=1e-3), tag
    active = 1 - history["band_0(-inf,0.6]"]
    assert [value for _, value in told["train/active_share"]] == pytest.approx(list(active), rel=1e-3)
    assert not [path.name for path in folder.path.iterdir() if path.name.startswith(".")]


def test_a_user_with_every_item_is_named_as_in_the_file(home):
    (home / "all.csv").write_text(
        "user,item\n" + "".join(f"{u},{i}\n" for u in ("ben", "anna") for i in "xyz"[: len(u)])
    )
    (home / "one.csv").write_text("user,item\nben,x\n")
    import_csv("full", home / "all.csv", home / "one.csv", home / "data", overwrite=True)
    names = {"train_data": "train.csv", "valid_data": "test.csv", "item_corpus": "item_corpus.csv"}
    where = [f"{key}=data/full/{name}" for key, name in names.items()]
    with pytest.raises(UserError, match=r"data/full: user ben has every item among its training items \(3\)"):
        go(more=(*where, "ignore_pos_items=True"))


def test_two_seeds_are_one_too_many():
    with pytest.raises(UserError, match="--seed 5 and --set seed=7 are two; give one"):
        go(more=("seed=7",), seed=5)


# tests/hosts/recbox/test_resume.py tests its loop; these are whole runs.
SLOW_RECBOX = pytest.param("recbox", marks=pytest.mark.slow)
BATCH_SCOPE = "regularizer_scope=batch"


@pytest.mark.parametrize(
    ("expid", "more", "says"),
    [
        ("SimpleX_yelp_mml", (), "regularizer_scope batch: it is defined for MF's two tables; SimpleX has more"),
        (
            "MF_tiny_mml",
            ("regularizer=l1(1.e-4)",),
            r"regularizer l1\(1.e-4\): regularizer_scope batch takes a plain number",
        ),
        ("MF_tiny_mml", ("regularizer='l1_l2(1.e-4,1.e-3)'",), "regularizer_scope batch takes a plain number"),
    ],
)
def test_a_batch_scope_that_cannot_be_served_is_refused_before_anything_is_written(expid, more, says):
    with pytest.raises(UserError, match=says):
        go(expid, runs="scope", more=(BATCH_SCOPE, *more))
    assert not Path("scope").exists()


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


@pytest.mark.parametrize("engine", ["fast", "recbox"])
def test_a_share_too_small_for_a_validation_item_is_one_sentence(engine):
    request = RunRequest(
        "MF_tiny_mml", CONFIG, engine=engine, overrides=SMALL, protocol="held-out", valid_share=0.001,
        runs_dir=Path("empty"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"--valid-share 0.001 leaves no validation item: .*\(the most is \d+,"):
        run(request)
    assert not Path("empty").exists()


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


@pytest.mark.parametrize("engine", ["fast", SLOW_RECBOX])
def test_resume_refuses_data_that_changed(engine, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "synth"
    synthetic.generate(folder, users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    module = Trainer if engine == "fast" else recbox_trainer._Loop
    real = module._one_epoch

    def interrupted(loop, memory):
        if loop.epoch:
            raise KeyboardInterrupt
        return real(loop, memory)

    request = RunRequest("MF_tiny_mml", CONFIG, engine=engine, overrides=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_one_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(request)
    shutil.rmtree(folder)
    synthetic.generate(folder, users=80, items=120, seed=4)
    resumed = dataclasses.replace(request, resume=True)
    with pytest.raises(
        UserError, match=r"checkpoint.pt was trained on other data \(fingerprint \w{12}\) than are there now"
    ):
        run(resumed)
    shutil.rmtree(folder)
    synthetic.generate(folder, users=80, items=120, seed=3)
    assert run(resumed).read_result()["epochs"] == 3


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


def test_recbox_refuses_what_is_the_fast_engines():
    with pytest.raises(UserError, match="--backend numba is the fast engine's"):
        run(RunRequest("MF_tiny_mml", CONFIG, backend="numba"))
    with pytest.raises(UserError, match="popularity_alpha, which stock recbox does not have; --engine fast does"):
        run(RunRequest("MF_tiny_mml", CONFIG, overrides=("popularity_alpha=0.5",)))


def test_text_files_are_enough(home, tmp_path, monkeypatch):
    (tmp_path / "data" / "synth").mkdir(parents=True)
    for name in ("train.txt", "test.txt"):
        shutil.copy(home / "data" / "synth" / name, tmp_path / "data" / "synth" / name)
    with_csv = go(runs=tmp_path / "a").read_result()
    monkeypatch.chdir(tmp_path)
    assert go(runs=tmp_path / "b").read_result()["metrics"] == with_csv["metrics"]


def test_ctrl_c_and_kill_leave_a_run_that_goes_on(home):
    """Ctrl-C, then kill -9, then Ctrl-C: each time the run goes on after the last finished epoch."""
    words = [sys.executable, str(ROOT / "run_expid.py"), "--config", str(CONFIG), "--expid", "MF_tiny_mml"]
    words += ["--engine", "fast", "--runs", "killed", "--set", "epochs=5000", "--set", "verbose=0"]
    epochs = [0]
    for ending in (signal.SIGINT, signal.SIGKILL, signal.SIGINT):
        more = ["--resume"] if epochs[-1] else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words + more, stderr=subprocess.PIPE, text=True, env=environment)
        deadline = time.monotonic() + 90
        while finished_epochs() < epochs[-1] + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(ending)
        _, text = process.communicate(timeout=60)
        if ending == signal.SIGINT:
            assert process.returncode == 130
            assert re.search(r"Stopped\. Go on with: (OMP_NUM_THREADS=\d+ )?python", text)
        epochs.append(finished_epochs())
    assert epochs == sorted(set(epochs))
    history = pd.read_csv(next(Path("killed/MF_tiny_mml").glob("*/history.csv")))
    # The row is written first: stopped before the checkpoint, the next run drops it.
    assert len(history) - epochs[-1] in (0, 1)
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))


def test_a_ctrl_c_that_ends_as_another_error_says_how_to_go_on_too(home, monkeypatch):
    """As when it comes while torch writes a checkpoint: its C++ makes a RuntimeError of it."""
    real = Trainer._one_epoch

    def pressed(loop, memory):
        if loop.epoch:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("unexpected pos 64 vs 0") from None
        return real(loop, memory)

    request = RunRequest("MF_tiny_mml", CONFIG, engine="fast", overrides=SMALL, runs_dir=Path("torn"))
    said = []
    monkeypatch.setattr(run_module, "_say_how_to_resume", said.append)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_epoch", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(request)
        assert [folder.checkpoint.is_file() for folder in said] == [True]
        # An error that is one stays one.
        patch.setattr(Trainer, "_one_epoch", lambda loop, memory: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataclasses.replace(request, resume=True))
    assert run(dataclasses.replace(request, resume=True)).read_result()["epochs"] == 3
    assert len(said) == 1


def finished_epochs():
    path = next(Path("killed/MF_tiny_mml").glob("*/checkpoint.pt"), None)
    return torch.load(path, weights_only=True)["epoch"] if path else 0


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


def test_a_backend_that_cannot_run_is_refused_before_anything_is_written(tmp_path):
    request = RunRequest("MF_tiny_ccl", ROOT / "config", engine="fast", backend="triton", runs_dir=tmp_path / "runs")
    with pytest.raises(UserError, match="--backend triton cannot be used on cpu"):
        run_fast.check(load_experiment(request.config_dir, request.expid), request)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"na_value": "x"}, "cannot read column 'user_id' (its na_value)"),
        ({"share_embedding": "user_history"}, "'item_id' can share the item's table only"),
    ],
)
def test_columns_that_it_cannot_read_are_refused_before_anything_is_written(change, says, tmp_path):
    request = RunRequest("MF_tiny_ccl", ROOT / "config", engine="fast", runs_dir=tmp_path / "runs")
    experiment = load_experiment(request.config_dir, request.expid)
    for column in experiment.params["feature_cols"]:
        if column["name"] == says.split("'")[1]:
            column.update(change)
    with pytest.raises(UserError, match=re.escape(says)):
        run_fast.check(experiment, request)


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
