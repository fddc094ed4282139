"""Evaluation of a finished run against brute force, and against what the run itself reported."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from mml_plugin.cli import main
from mml_plugin.data import synthetic
from mml_plugin.data.interactions import Interactions, load
from mml_plugin.data.store import store
from mml_plugin.experiment.outputs import write_parquet
from mml_plugin.experiment.run import RunRequest, run
from mml_plugin.serving.evaluate import evaluate, split_pairs
from mml_plugin.serving.saved_run import load_run
from tests.serving.conftest import COLD, ITEMS, USERS

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture
def pairs(written):
    """Unseen interactions of warm users, by row."""
    random = np.random.default_rng(8)
    found = np.unique(random.integers(0, [USERS, ITEMS], size=(150, 2)), axis=0)
    return [(u, i) for u, i in found.tolist() if u != COLD and i not in written.seen[u]]


@pytest.fixture
def own_data(written, pairs, change_result):
    """The folder of the data that the run was trained on; the ids are numbers in an order that is not theirs."""
    random = np.random.default_rng(2)
    users, items = (random.permutation(n).astype(str) for n in (USERS, ITEMS))
    sides, rows = np.repeat(["user", "item"], [USERS, ITEMS]), np.concatenate([np.arange(USERS), np.arange(ITEMS)])
    write_parquet(written.path / "ids.parquet", {"side": sides, "row": rows, "id": np.concatenate([users, items])})
    splits = (written.seen, [[i for u, i in pairs if u == user] for user in range(USERS)])
    parts = []
    for lists in splits:
        parts += [np.cumsum([0, *map(len, lists)]), np.array([i for items_of in lists for i in items_of])]
    folder = written.path.parents[1] / "data" / "own"
    store(Interactions(users, items, *parts), folder, "this test")
    change_result(data={"fingerprint": load(folder).fingerprint})
    config = yaml.safe_load((written.path / "config.yaml").read_text())
    config["MF_x"]["train_data"] = str(folder / "train.csv")
    (written.path / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def ids(written, pairs):
    users, items = (np.array(column) for column in zip(*pairs))
    return written.user_ids[users], written.item_ids[items]


def brute(written, pairs, k):
    """Mean Recall and NDCG at k, with logarithms to base 2, which NDCG does not depend on."""
    recalls, gains = [], []
    for user in sorted({u for u, _ in pairs}):
        wanted = {i for u, i in pairs if u == user}
        hits = [item in wanted for item in written.ranked(user)[:k]]
        recalls.append(sum(hits) / len(wanted))
        best = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
        gains.append(sum(h / math.log2(r + 2) for r, h in enumerate(hits)) / best)
    return np.mean(recalls), np.mean(gains)


def test_metrics_equal_brute_force(written, pairs):
    found = evaluate(load_run(written.path), ids(written, pairs), k=(3, 10))
    for k in (3, 10):
        recall, gain = brute(written, pairs, k)
        assert found.metrics[f"Recall(k={k})"] == pytest.approx(recall)
        assert found.metrics[f"NDCG(k={k})"] == pytest.approx(gain)
    assert found.users.tolist() == written.user_ids[sorted({u for u, _ in pairs})].tolist()
    assert found.notes == ()


def test_more_than_the_catalogue_finds_everything(written, pairs):
    found = evaluate(load_run(written.path), ids(written, pairs), k=(ITEMS + 30,), metrics=("Recall",))
    assert found.metrics[f"Recall(k={ITEMS + 30})"] == pytest.approx(1)


def test_cold_users_and_training_interactions_are_left_out_and_counted(written, pairs):
    trained = [(0, i) for i in sorted(written.seen[0])]
    found = evaluate(load_run(written.path), ids(written, [*pairs, (COLD, 1), (COLD, 2), *trained]))
    assert found.notes == (
        "1 cold users without training interactions were left out",
        f"{len(trained)} interactions that the run was trained on were left out",
    )
    assert found.metrics == evaluate(load_run(written.path), ids(written, pairs)).metrics


def test_repeated_interactions_count_once(written, pairs):
    found = evaluate(load_run(written.path), ids(written, [*pairs, pairs[3], pairs[0], pairs[3]]))
    assert found.notes == ("3 repeated interactions were left out",)
    assert found.metrics == evaluate(load_run(written.path), ids(written, pairs)).metrics


def test_a_text_file_of_a_data_set_holds_its_rows(written, pairs, own_data, capsys):
    """Both calls measure the same, and what brute force finds."""
    assert (own_data / "users.txt").is_file()
    words = ["evaluate", str(written.path), "--k", "5"]
    assert main(words) == 0
    own = capsys.readouterr().out
    assert main([*words, "--file", str(own_data / "test.txt")]) == 0
    named = capsys.readouterr().out
    assert own.splitlines()[1:] == named.splitlines()[1:]
    assert f"Recall(k=5)          {brute(written, pairs, 5)[0]:.6f}" in own


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("more.txt", "0 1 50\n", "more.txt: 50 has no line in {0}/items.txt, whose 50 ids are numbered 0 to 49"),
        ("items.txt", None, "users.txt needs items.txt beside it"),
        ("train.txt", None, "holds rows of the users.txt and items.txt beside it, and that data set cannot be read"),
    ],
)
def test_rows_that_cannot_be_told_are_refused(written, own_data, capsys, name, content, says):
    (own_data / "more.txt").write_text("0 1\n")
    if content is None:
        (own_data / name).unlink()
    else:
        (own_data / name).write_text(content)
    assert main(["evaluate", str(written.path), "--file", str(own_data / "more.txt")]) == 2
    assert says.format(own_data) in capsys.readouterr().err


def test_data_that_changed_since_are_refused(written, own_data, capsys, change_result):
    lines = (own_data / "test.txt").read_text().splitlines(keepends=True)
    (own_data / "test.txt").write_text("".join(lines[1:]))
    assert main(["evaluate", str(written.path)]) == 2
    error = capsys.readouterr().err
    assert "was trained on other data (fingerprint " in error
    assert "name what to measure on with --file FILE or --data DIR" in error
    assert main(["evaluate", str(written.path), "--data", str(own_data)]) == 0
    change_result(data={})
    assert main(["evaluate", str(written.path)]) == 2
    assert "it has no data.fingerprint" in capsys.readouterr().err


def test_a_csv_file_and_per_user_metrics(written, pairs, tmp_path, capsys):
    file, out = tmp_path / "more.csv", tmp_path / "users.parquet"
    users, items = ids(written, pairs)
    pd.DataFrame({"user": users, "item": items}).to_csv(file, index=False)
    words = ["evaluate", str(written.path), "--file", str(file), "--k", "5", "--metric", "Recall"]
    assert main([*words, "--output", str(out)]) == 0
    assert f"Recall(k=5)          {brute(written, pairs, 5)[0]:.6f}" in capsys.readouterr().out
    assert pd.read_parquet(out)["Recall(k=5)"].mean() == pytest.approx(brute(written, pairs, 5)[0])


@pytest.mark.parametrize("name", ["more.CSV", "more.csv.gz", "more.txt", "more"])
def test_a_csv_file_is_known_by_its_name_or_its_first_line(written, pairs, tmp_path, capsys, name):
    users, items = ids(written, pairs)
    pd.DataFrame({"user": users, "item": items}).to_csv(tmp_path / name, index=False)
    words = ["evaluate", str(written.path), "--file", str(tmp_path / name), "--k", "5", "--metric", "Recall"]
    assert main(words) == 0
    assert f"Recall(k=5)          {brute(written, pairs, 5)[0]:.6f}" in capsys.readouterr().out
    assert main([*words, "--output", "users.csv"]) == 2
    assert "--output is a Parquet file, not .csv: name it users.parquet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("user,item\nu001,article 3\nwho,article 3\n", "user 'who' is unknown to"),
        ("user,item\nu001,nothing\nu001,void\n", "item 'nothing' (and 1 more) is unknown to"),
        ("user\nu001\n", "column 'item' is missing"),
    ],
)
def test_unknown_ids_and_malformed_files_are_named(written, tmp_path, capsys, text, says):
    (tmp_path / "more.csv").write_text(text)
    assert main(["evaluate", str(written.path), "--file", str(tmp_path / "more.csv")]) == 2
    assert says in capsys.readouterr().err


def test_unknown_ids_can_be_skipped(written, pairs):
    users, items = ids(written, pairs)
    more = np.append(users, "who"), np.append(items, "article 3")
    found = evaluate(load_run(written.path), more, skip_unknown=True)
    assert found.notes == ("1 unknown users were left out with their interactions",)
    assert found.metrics == evaluate(load_run(written.path), (users, items)).metrics


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--metric", "Recal"], "there is no metric 'Recal'; did you mean 'Recall'"),
        (["--file", "a", "--data", "b"], "give either --file or --data"),
        ([], "nowhere is not there; give --data DIR or --file FILE"),
    ],
)
def test_mistakes_are_one_sentence(written, capsys, words, says, monkeypatch, tmp_path):
    (tmp_path / "b.csv").write_text(f"user,item\n{written.user_ids[0]},{written.item_ids[0]}\n")
    if words[:1] == ["--metric"]:
        words = [*words, "--file", str(tmp_path / "b.csv")]
    assert main(["evaluate", str(written.path), *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(("engine", "protocol"), [("recbox", "paper"), ("fast", "held-out")])
def test_a_real_run_evaluates_to_what_it_reported(tmp_path, monkeypatch, protocol, engine):
    monkeypatch.chdir(tmp_path)
    synthetic.generate(Path("data/synth"), users=80, items=120, seed=3)
    small = ("epochs=1", "verbose=0", "num_workers=0", "embedding_dim=8", "num_negs=10")
    folder = run(RunRequest("MF_tiny_mml", CONFIG, engine=engine, protocol=protocol, overrides=small))
    saved = load_run(folder.path)
    found = evaluate(saved, split_pairs(Path("data/synth")), k=(20, 50))
    reported = saved.result["metrics"]
    for name in ("Recall(k=20)", "NDCG(k=20)", "Recall(k=50)"):
        assert found.metrics[name] == pytest.approx(reported[name], abs=1e-6)


def test_a_runs_own_files_are_not_written_over(written, own_data, capsys):
    out = written.path / "per_user.parquet"
    before = out.read_bytes() if out.exists() else None
    assert main(["evaluate", str(written.path), "--data", str(own_data), "--output", str(out)]) == 2
    assert "per_user.parquet is a file of the run in" in capsys.readouterr().err
    link = own_data / "link.parquet"
    link.symlink_to(out)
    assert main(["evaluate", str(written.path), "--data", str(own_data), "--output", str(link)]) == 2
    assert "link.parquet is a file of the run in" in capsys.readouterr().err
    assert (out.read_bytes() if out.exists() else None) == before
