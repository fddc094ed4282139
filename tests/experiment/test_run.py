"""Whole runs of the recbox engine on a small data set: files, protocols, resume, refusals."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from mml_plugin.cli import main
from mml_plugin.data import split, synthetic
from mml_plugin.data.importing import import_csv
from mml_plugin.data.interactions import load
from mml_plugin.experiment.run import Context, RunRequest, run
from mml_plugin.serving.evaluate import evaluate, split_pairs
from mml_plugin.serving.saved_run import load_run

CONFIG = Path(__file__).resolve().parents[2] / "config"
COUNTS = ("train", "test", "trained_on")
SMALL = ("epochs=2", "verbose=0", "num_workers=0", "embedding_dim=8", "num_negs=10")

pytestmark = pytest.mark.usefixtures("in_home")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    synthetic.generate(folder / "data" / "synth", users=80, items=120, seed=3)
    return folder


def go(expid="MF_tiny_mml", runs="runs", more=(), **keys):
    return run(RunRequest(expid, CONFIG, overrides=(*SMALL, *more), runs_dir=Path(runs), **keys))


def recall(users, items, data, indptr, masked, k=20):
    """Mean Recall@k by brute force, from the vectors a run leaves."""
    values = []
    for u in range(data.num_users):
        wanted = data.test_items[indptr[u] : indptr[u + 1]].tolist()
        scores = items @ users[u]
        scores[masked[u]] = -np.inf
        if wanted:
            values.append(len(set(np.argsort(-scores, kind="stable")[:k].tolist()) & set(wanted)) / len(wanted))
    return np.mean(values)


@pytest.mark.parametrize("loss", ["bpr", "hinge", "softmax", "mse", "ccl", "bsl"])
def test_every_loss_trains_in_recboxs_own_loop(loss):
    history = pd.read_csv(go(f"MF_tiny_{loss}", runs="losses").history)
    assert np.isfinite(history["train_loss"]).all()
    assert history["train_loss"][1] < history["train_loss"][0]


def test_a_run_leaves_everything_and_its_vectors_give_its_metrics(home):
    folder = go(runs="whole", tensorboard=True)
    names = {p.name for p in folder.path.iterdir()}
    assert names >= {"config.yaml", "history.csv", "result.json", "log.txt", "checkpoint.pt", "embeddings.safetensors",
                     "per_user.parquet", "ids.parquet", "seen.parquet", "tensorboard"}  # fmt: skip
    assert folder.path.name.startswith("recbox-paper-s2019-")
    result, history = folder.read_result(), pd.read_csv(folder.history)
    assert list(history["epoch"]) == [1, 2]
    best = history["Recall(k=20)"].idxmax()
    assert result["best_epoch"] == history["epoch"][best]
    assert result["metrics"]["NDCG(k=20)"] == pytest.approx(history["NDCG(k=20)"][best])
    assert history.filter(like="band_").sum(axis=1).to_numpy() == pytest.approx(1)
    assert result["peak_memory_bytes"] > 1e7
    assert set(result) >= {"versions", "machine", "commit", "command", "seed", "date", "identity", "protocol"}
    assert yaml.safe_load(folder.config.read_text())["MF_tiny_mml"]["epochs"] == 2
    torch.load(folder.checkpoint, weights_only=True)

    data, vectors = load(Path("data/synth")), load_file(folder.embeddings)
    ids = pd.read_parquet(folder.ids)
    assert list(ids[ids.side == "user"].id) == data.user_ids.tolist()
    assert list(ids[ids.side == "item"].id) == data.item_ids.tolist()
    seen = pd.read_parquet(folder.seen)
    masked = [seen.item_row[seen.user_row == u].tolist() for u in range(data.num_users)]
    found = recall(vectors["users"], vectors["items"], data, data.test_indptr, masked)
    assert found == pytest.approx(result["metrics"]["Recall(k=20)"], abs=1e-6)
    per_user = pd.read_parquet(folder.per_user)
    assert per_user["Recall(k=20)"].mean() == pytest.approx(result["metrics"]["Recall(k=20)"])
    assert list(per_user.user_row) == np.unique(data.test_users).tolist()
    assert "[exp_id] MF_tiny_mml" in (home / "config.csv").read_text()
    assert "[Metrics] Recall(k=20): " in folder.log.read_text()
    assert "Train loss: " in folder.log.read_text()


def test_vectors_of_a_model_with_a_bias_have_it_as_a_column(home):
    folder = go("SimpleX_tiny_mml", runs="bias", more=("enable_bias=True", "epochs=1"))
    data, vectors = load(Path("data/synth")), load_file(folder.embeddings)
    assert vectors["users"].shape[1] == 9
    masked = [data.train_items[a:b] for a, b in zip(data.train_indptr, data.train_indptr[1:])]
    found = recall(vectors["users"], vectors["items"], data, data.test_indptr, masked)
    assert found == pytest.approx(folder.read_result()["metrics"]["Recall(k=20)"], abs=1e-6)


def test_held_out_reads_test_once_and_masks_validation(monkeypatch):
    calls = []
    original = split.write_final_test
    monkeypatch.setattr(split, "write_final_test", lambda *a: calls.append(1) or original(*a))
    folder = go("SimpleX_tiny_mml", runs="held", protocol="held-out")
    assert calls == [1]
    result = folder.read_result()
    data = load(Path("data/synth"))
    carved = split.held_out(data, 0.1, 2019)
    assert result["data"]["trained_on"] == len(carved.training.train_items)
    history = pd.read_csv(folder.history)
    assert result["validation_metrics"]["Recall(k=20)"] == pytest.approx(history["Recall(k=20)"].max())
    vectors = load_file(folder.embeddings)
    masked = [data.train_items[a:b] for a, b in zip(data.train_indptr, data.train_indptr[1:])]
    found = recall(vectors["users"], vectors["items"], data, data.test_indptr, masked)
    assert found == pytest.approx(result["metrics"]["Recall(k=20)"], abs=1e-6)


def test_nrows_reports_the_rows_that_were_read():
    rows = pd.read_csv("data/synth/train.csv")[:200]
    folder = go(runs="rows", more=("nrows=200", "epochs=1"))
    found = folder.read_result()["data"]
    expected = {
        "nrows": 200,
        "users": rows.user_id.nunique(),
        "items": 120,
        "train": 200,
        "test": 200,
        "trained_on": 200,
    }
    assert len(pd.read_csv("data/synth/test.csv")) > 200
    assert {key: found[key] for key in expected} == expected
    users = load_file(folder.embeddings)["users"]
    ids = pd.read_parquet(folder.ids)
    ids = ids[ids.side == "user"].id[~np.isnan(users).any(axis=1)]
    assert set(ids) == set(rows.user_id.astype(str))


@pytest.mark.parametrize("what", ["is killed by signal: Killed. ", "exited unexpectedly"])
def test_a_killed_loader_is_one_sentence(what, capsys, monkeypatch):
    """The texts are torch's."""
    from mml_plugin.hosts.recbox import trainer

    def train(*_):
        raise RuntimeError(f"DataLoader worker (pid{'(s)' if 'exited' in what else ''} 77) {what}")

    monkeypatch.setattr(trainer._Loop, "_one_epoch", train)
    words = [w for text in SMALL for w in ("--set", text)]
    assert main(["train", "--config", str(CONFIG), "--expid", "MF_tiny_mml", "--runs", "killed", *words]) == 2
    assert "(pid 77) " in capsys.readouterr().err


def test_an_interrupted_run_resumes_to_the_same_end(monkeypatch):
    from mml_plugin.experiment.run import Context

    whole = go(runs="undisturbed", more=("epochs=3",))
    original = Context.on_epoch
    monkeypatch.setattr("sys.argv", ["/bin/mml", "train", "--expid", "MF_tiny_mml"])

    def stop_in_the_third(self, record):
        if record.epoch == 3:
            raise KeyboardInterrupt
        original(self, record)

    monkeypatch.setattr(Context, "on_epoch", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        go(runs="cut", more=("epochs=3",))
    monkeypatch.setattr(Context, "on_epoch", original)
    cut = go(runs="cut", more=("epochs=3",), resume=True)
    keep = ["epoch", "train_loss", "Recall(k=20)", "NDCG(k=50)"]
    pd.testing.assert_frame_equal(pd.read_csv(whole.history)[keep], pd.read_csv(cut.history)[keep])
    assert cut.read_result()["metrics"] == whole.read_result()["metrics"]
    assert cut.read_result()["identity"] == whole.read_result()["identity"]
    threads = os.environ.get("OMP_NUM_THREADS")
    start = f"OMP_NUM_THREADS={threads} " if threads else ""
    assert f"Stopped. Go on with: {start}mml train --expid MF_tiny_mml --resume\n" in cut.log.read_text()
    for name, vectors in load_file(whole.embeddings).items():
        np.testing.assert_array_equal(vectors, load_file(cut.embeddings)[name])


def test_only_a_command_that_takes_resume_is_told_to():
    from mml_plugin.experiment.run import _takes_resume

    assert _takes_resume(["run_expid.py", "--expid", "X"])
    assert not _takes_resume(["/bin/mml", "quickstart"])
    assert not _takes_resume(["/bin/mml"])


def command(*words):
    small = [part for pair in SMALL for part in ("--set", pair)]
    return main(["train", "--config", str(CONFIG), "--expid", "MF_tiny_ccl", "--runs", "cli", *small, *words])


def test_a_finished_run_is_not_overwritten_unasked(capsys):
    assert command() == 0
    folder = next(path for path in Path("cli/MF_tiny_ccl").glob("recbox*") if path.is_dir())
    before = (folder / "result.json").read_text()
    assert command() == 2
    assert "holds a finished run; --overwrite begins it anew" in capsys.readouterr().err
    assert (folder / "result.json").read_text() == before
    (folder / "result.json").unlink()
    assert command() == 2
    assert "holds an unfinished run; --resume goes on" in capsys.readouterr().err
    assert command("--resume") == 0
    assert json.loads((folder / "result.json").read_text())["metrics"] == json.loads(before)["metrics"]
    assert command("--overwrite", "--max-batches", "3") == 0
    cut = [json.loads(p.read_text())["cut"] for p in Path("cli/MF_tiny_ccl").glob("*/result.json")]
    assert "at most 3 batches per epoch" in cut


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--expid", "MF_tiny_cc"], "there is no experiment 'MF_tiny_cc'"),
        (["--engine", "fst"], "--engine 'fst' is unknown"),
        (["--protocol", "paperr"], "--protocol 'paperr' is unknown; did you mean 'paper'"),
        (["--gpu", "99"], "--gpu 99 is not there"),
        (["--set", "train_data=none/train.csv", "--runs", "none"], "train_data: there is no file"),
        (["--resume", "--overwrite"], "exclude each other"),
        (["--valid-share", "0.2"], "--valid-share is for --protocol held-out"),
        (["--set", "gpu=0"], "--set gpu: nothing would read it; --gpu names the GPU"),
        (["--set", "nrows=100"], "nrows: 100 would cut the item corpus, which has 120 rows"),
        (["--set", "eval_interval_epochs=.inf"], "eval_interval_epochs input should be less than or equal to 1000000"),
        (["--set", "sep=ab"], "--set sep=ab: sep value error, it must be one character"),
        (["--set", "model_root=x"], "--set model_root: nothing would read it"),
        (["--seed", "7", "--resume"], "holds nothing to resume"),
        (["--runs", "data/synth/train.txt/x"], "cannot write"),
        (["--config", "nowhere"], "--config nowhere holds neither"),
        (["--engine", "fast", "--set", "embedding_dim=1000000000000"], "error: not enough memory: "),
    ],
)
def test_mistakes_are_one_sentence_and_exit_2(words, says, capsys):
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert says in error
    assert "Traceback" not in error
    assert not Path("none").exists()


@pytest.mark.parametrize("name", ["../../outside", ".."])
def test_an_experiment_stays_in_the_folder_of_runs(name, tmp_path, capsys):
    shutil.copytree(CONFIG, tmp_path / "config")
    file = tmp_path / "config" / "model_config" / "MF.yaml"
    file.write_text(file.read_text().replace("MF_tiny_ccl:", f"{name}:"))
    assert command("--config", str(tmp_path / "config"), "--expid", name) == 2
    assert f"experiment {name!r} cannot be run: its name is a folder's" in capsys.readouterr().err
    assert not Path("../outside").exists()


def test_a_summary_that_cannot_be_written_costs_no_result(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.generate(Path("data/synth"), users=40, items=60)
    Path("config.csv").mkdir()
    folder = go("MF_tiny_ccl", more=("epochs=1",), engine="fast", max_batches=2)
    assert folder.finished
    assert "No summary line: cannot write config.csv: it is a folder" in folder.log.read_text()


def test_what_can_be_resumed_instead_is_named(tmp_path, capsys):
    for name, finished in (("fast-paper-s2019-0a1b2c3d", False), ("fast-paper-s2020", True)):
        folder = tmp_path / "MF_tiny_ccl" / name
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").touch()
        if finished:
            (folder / "result.json").touch()
    assert command("--expid", "MF_tiny_ccl", "--resume", "--runs", str(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "Unfinished beside it: fast-paper-s2019-0a1b2c3d; a run is resumed with the --engine, --protocol" in error


@pytest.mark.parametrize("engine", ["recbox", "fast"])
@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train_data", "data/other.csv", "train_data: "),
        ("valid_data", "data/synth/valid.csv", "valid_data: a data set is one folder"),
        ("test_data", "data/synth/train.csv", "test_data: data/synth/train.csv would not be read"),
    ],
)
def test_a_file_that_would_not_be_read_is_refused(engine, key, value, says, capsys):
    for name in ("data/other.csv", "data/synth/valid.csv"):
        Path(name).write_bytes(Path("data/synth/test.csv").read_bytes())
    assert command("--engine", engine, "--runs", "unread", "--set", f"{key}={value}") == 2
    assert says in capsys.readouterr().err
    assert not Path("unread").exists()


@pytest.mark.parametrize("engine", ["recbox", "fast"])
def test_a_refused_run_leaves_no_folder(engine, home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    assert command("--engine", engine, "--resume") == 2
    assert not Path("cli").exists()
    with open("data/synth/train.txt", "a") as stream:
        stream.write("x\n")
    assert command("--engine", engine) == 2
    assert "only whole numbers" in capsys.readouterr().err
    assert not Path("cli").exists()


def cut(path):
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-3]))


def swap_items_of_two_users(path):
    """The same items and the same number of rows for every user, and yet other pairs."""
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    other = rows.index[(rows.query_index != rows.query_index[0]) & (rows.corpus_index != rows.corpus_index[0])][0]
    rows.loc[[0, other], "corpus_index"] = rows.loc[[other, 0], "corpus_index"].to_numpy()
    rows.to_csv(path, index=False)


def label_0(path):
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    rows.loc[1, "label"] = "0"
    rows.to_csv(path, index=False)


def swap_lines(path):
    header, first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, second, first, *rest]))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("train.csv", cut, "train.csv and train.txt hold different interactions"),
        ("train.csv", swap_items_of_two_users, "train.csv and train.txt hold different interactions"),
        ("test.csv", cut, "test.csv and test.txt hold different interactions"),
        ("test.csv", swap_items_of_two_users, "test.csv and test.txt hold different interactions"),
        ("item_corpus.csv", swap_lines, "item_corpus.csv does not have the items of"),
        ("train.csv", label_0, "train.csv: row 2 has a label that is not 1"),
    ],
)
def test_text_and_csv_that_differ_are_refused(home, tmp_path, monkeypatch, capsys, name, change, says):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    change(Path("data/synth", name))
    assert command() == 2
    error = capsys.readouterr().err
    assert says in error
    assert "import the data set again" in error
    assert not Path("cli").exists()


def test_the_order_of_rows_is_nobodys_mistake(home, tmp_path, monkeypatch):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    for name in ("train.csv", "test.csv"):
        swap_lines(Path("data/synth", name))
    assert command("--set", "epochs=1") == 0


def test_a_changed_held_out_split_is_refused(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    assert command("--protocol", "held-out", "--set", "epochs=1") == 0
    cut(next(Path("data/.cache").glob("synth-held-out-*/valid.csv")))
    capsys.readouterr()
    assert command("--protocol", "held-out", "--set", "epochs=1", "--overwrite") == 2
    assert "valid.csv and the held-out split hold different interactions" in capsys.readouterr().err


def test_a_run_on_imported_whole_number_ids_is_what_evaluate_finds(home, tmp_path, monkeypatch, capsys):
    """Every id is met equally often, so that no count tells the rows apart: 2 is before 10, in all files or in none."""
    monkeypatch.chdir(tmp_path)
    for name, shifts in (("train", range(6)), ("test", range(6, 9))):
        pairs = [f"{u},{(u + s) % 60}" for u in range(60) for s in shifts]
        Path(f"{name}.csv").write_text("\n".join(["user,item", *pairs]) + "\n")
    assert main(["data", "import", "synth", "--train", "train.csv", "--test", "test.csv", "--root", "data"]) == 0
    assert command("--set", "epochs=1") == 0
    folder = next(path for path in Path("cli/MF_tiny_ccl").glob("recbox*") if path.is_dir())
    ids = pd.read_parquet(folder / "ids.parquet")
    assert ids[ids.side == "item"].id.tolist() == pd.read_csv("data/synth/item_corpus.csv", dtype=str).item_id.tolist()
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    found = evaluate(load_run(folder), split_pairs(Path("data/synth"))).metrics
    assert found["Recall(k=20)"] == pytest.approx(metrics["Recall(k=20)"], abs=1e-6)
    assert found["NDCG(k=20)"] == pytest.approx(metrics["NDCG(k=20)"], abs=1e-6)


def test_what_a_killed_process_left_goes_with_the_next(home, tmp_path, monkeypatch):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    assert command() == 0
    folder = next(path for path in Path("cli/MF_tiny_ccl").iterdir() if path.is_dir())
    (folder / "scratch").mkdir()
    (folder / "scratch" / "users.csv").write_text("half")
    cache = next(path for path in Path("data/.cache/recbox").iterdir() if path.is_dir())
    cache.rename(cache.with_name(f".{cache.name}.abcd"))
    assert command("--overwrite") == 0
    assert not (folder / "scratch").exists()
    assert [path.name for path in Path("data/.cache").iterdir()] == ["recbox"]
    assert [path.name for path in Path("data/.cache/recbox").iterdir() if path.is_dir()] == [cache.name]


def test_a_cache_that_is_deleted_while_a_run_goes_on_is_said_and_made_anew(home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    real = Context.on_epoch

    def delete(context, record):
        real(context, record)
        shutil.rmtree("data/.cache", ignore_errors=True)

    monkeypatch.setattr(Context, "on_epoch", delete)
    assert command() == 2
    assert "test.h5 was deleted while the run went on; --resume builds it anew" in capsys.readouterr().err
    monkeypatch.setattr(Context, "on_epoch", real)
    assert command("--resume") == 0


def test_a_run_that_trained_keeps_its_folder_when_it_is_refused():
    assert command("--runs", "kept", "--set", "epochs=1") == 0
    folder = next(path for path in Path("kept/MF_tiny_ccl").iterdir() if path.is_dir())
    before = sorted(path.name for path in folder.iterdir())
    assert command("--runs", "kept", "--set", "epochs=1", "--resume") == 2
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("engine", ["recbox", "fast"])
def test_resume_refuses_another_configuration_but_more_epochs(engine, home, tmp_path, monkeypatch, capsys):
    config = shutil.copytree(CONFIG, tmp_path / "config")
    words = ["train", "--config", str(config), "--expid", "MF_tiny_mml", "--engine", engine, "--runs", "changed"]

    def edit(old, new):
        path = config / "model_config" / "MF.yaml"
        text = path.read_text()
        begin = text.index("MF_tiny_mml:")
        assert old in text[begin:]
        path.write_text(text[:begin] + text[begin:].replace(old, new, 1))

    edit("    epochs: ", "    num_workers: 0\n    embedding_dim: 8\n    epochs: 1 #")
    assert main(words) == 0
    next(Path("changed").glob(f"MF_tiny_mml/{engine}*/result.json")).unlink()
    edit("embedding_dim: 8", "embedding_dim: 16")
    assert main([*words, "--resume"]) == 2
    assert "was begun with embedding_dim 8, which is 16 now" in capsys.readouterr().err
    edit("embedding_dim: 16", "embedding_dim: 8")
    edit("epochs: 1", "epochs: 2")
    assert main([*words, "--resume"]) == 0
    history = next(Path("changed").glob(f"MF_tiny_mml/{engine}*/history.csv"))
    assert pd.read_csv(history)["epoch"].tolist() == [1, 2]
    next(Path("changed").glob(f"MF_tiny_mml/{engine}*/result.json")).unlink()
    edit("epochs: 2", "epochs: 1")
    assert main([*words, "--resume"]) == 2
    assert "has trained 2 epochs, and epochs is 1 now; set it to 2 or more" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["recbox", "fast"])
def test_a_test_user_without_history_is_refused(engine, home, tmp_path, monkeypatch, capsys):
    shutil.copytree(home / "data" / "synth", tmp_path / "data" / "synth")
    monkeypatch.chdir(tmp_path)
    with open("data/synth/test.txt", "a") as stream:
        stream.write("900 3\n")
    assert command("--engine", engine) == 2
    assert "user 900 has test items but no training history" in capsys.readouterr().err
    assert not Path("cli").exists()


def data_at(folder):
    names = {"train_data": "train.csv", "valid_data": "test.csv", "item_corpus": "item_corpus.csv"}
    return [word for key, name in names.items() for word in ("--set", f"{key}={folder}/{name}")]


def test_a_path_is_no_pattern(home):
    shutil.copytree(home / "data" / "synth", home / "proj[1]" / "synth", dirs_exist_ok=True)
    assert command("--set", "epochs=1", "--max-batches", "1", *data_at("proj[1]/synth")) == 0


def test_a_user_with_every_item_leaves_no_negative(home, capsys):
    (home / "all.csv").write_text("user,item\nben,x\nben,y\nben,z\nanna,x\nanna,x\nanna,y\n")
    (home / "one.csv").write_text("user,item\nben,x\n")
    import_csv("full", home / "all.csv", home / "one.csv", home / "data", overwrite=True)
    assert command("--set", "ignore_pos_items=True", "--runs", "no_negative", *data_at("data/full")) == 2
    says = "data/full: user ben has every item among its training items (3), so excluding positives leaves no negative"
    assert says in capsys.readouterr().err
    assert not Path("no_negative").exists()


@pytest.mark.parametrize("engine", ["recbox", "fast"])
def test_a_loss_s_warning_is_in_the_log(engine):
    folder = go("MF_tiny_ccl", f"warned-{engine}", ("epochs=1", "negative_weight=0"), engine=engine, max_batches=1)
    found = [line for line in folder.log.read_text().splitlines() if "CosineContrastiveLoss without" in line]
    assert len(found) == 1
    assert " WARNING " in found[0]


def test_native_bsl_is_refused_by_the_recbox_engine(capsys):
    assert main(["train", "--config", str(CONFIG), "--expid", "MF_yelp_bslnative"]) == 2
    assert "sets regularizer_scope, which stock recbox does not have" in capsys.readouterr().err


def test_usage_errors_of_the_command_line(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'; did you mean 'train'" in capsys.readouterr().err
    assert main(["train"]) == 2
    assert main(["--help"]) == 0
    assert main(["losses", "MML"]) == 0
    assert "margin_values_list = margins" in capsys.readouterr().out
    assert main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"]["torch"] == torch.__version__
    assert main(["data", "check", "none"]) == 2


def test_root_logger_is_left_as_it_was():
    before = logging.getLogger().handlers[:]
    go(runs="logs", more=("epochs=1",))
    assert logging.getLogger().handlers == before
