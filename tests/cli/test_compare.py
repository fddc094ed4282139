"""``mml compare``: experiments side by side, and losses on two CSV files of one's own."""

from __future__ import annotations

import csv
import json
import random
import shutil
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from mml_plugin.cli import main
from mml_plugin.data import synthetic
from mml_plugin.errors import UserError
from mml_plugin.experiment import own_data, side_by_side
from mml_plugin.experiment.cells import Runner
from mml_plugin.experiment.suite import make_cells
from mml_plugin.report.rows import Rows

OWN = ["--train", "my_train.csv", "--test", "my_test.csv", "--losses"]
CONFIG = Path(__file__).resolve().parents[2] / "config"
SMALL = ("epochs=2", "verbose=0", "embedding_dim=8", "num_negs=10", "batch_size=64")
SETS = [word for setting in SMALL for word in ("--set", setting)]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder with data; cells run in this process, because starting many of them takes long."""
    synthetic.generate(tmp_path / "data" / "synth", users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(side_by_side, "Runner", lambda *a, **k: Runner(*a, **{**k, "isolated": False}))
    return tmp_path


def write(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["user", "item"])
        writer.writerows(rows)


@pytest.fixture
def files(home):
    draw = random.Random(1)
    rows = [(f"anna {u}", f"item-{i}") for u in range(60) for i in draw.sample(range(50), 10)]
    draw.shuffle(rows)
    write(home / "my_train.csv", rows[:450])
    write(home / "few.csv", [(f"anna {u}", f"item-{i}") for u in range(60) for i in (u % 50, 49 - u % 50)])
    write(home / "my_test.csv", [*rows[450:], ("nobody", "item-1"), ("nobody", "item-2"), ("neither", "item-3")])
    return home


compare = partial(main, default_config=CONFIG)


def test_two_experiments(home, capsys):
    words = ["compare", "MF_tiny_ccl", "MF_tiny_mml", "--seeds", "3", *SETS, "--out", "out"]
    assert compare(words) == 0
    said = capsys.readouterr().out
    assert "| MF_tiny_mml |     3 |" in said
    assert "Protocol paper: best epoch on the test split" in said
    with open(home / "out" / "report.csv", newline="") as stream:
        assert {line["protocol"] for line in csv.DictReader(stream)} == {"paper"}
    text = (home / "out" / "report.md").read_text()
    assert "Selected on test (protocol paper)" in text
    assert "MF_tiny_mml to MF_tiny_ccl" in text
    assert "in this report: 2 over seeds, 2 over users." in text
    assert {row["suite_thresholds"] for row in Rows.load(home / "out" / "rows").cells} == {"0.6 0.7 0.8 0.9"}
    before = (home / "out" / "report.html").read_bytes()
    assert compare(words) == 0
    assert (home / "out" / "report.html").read_bytes() == before


def test_the_other_protocol_in_the_same_folder_has_a_report_of_its_own(home, capsys):
    words = ["compare", "MF_tiny_ccl", "MF_tiny_mml", "--seeds", "1", *SETS, "--out", "out"]
    assert compare(words) == 0
    assert compare([*words, "--protocol", "held-out"]) == 0
    assert "Protocol held-out: " in capsys.readouterr().out
    assert "Selected on validation" in (home / "out" / "report.md").read_text()


def test_an_override_of_the_data_set_is_what_is_compared(home):
    synthetic.generate(home / "data" / "gowalla", users=70, items=110, seed=4)
    words = ["compare", "MF_tiny_ccl", "MF_tiny_mml", "--seeds", "1", *SETS, "--out", "out"]
    assert compare([*words, "--set", "dataset_id=gowalla_mf"]) == 0
    rows = Rows.load(home / "out" / "rows").done()
    assert {(row["group"], row["dataset"], row["users"]) for row in rows} == {("on gowalla", "gowalla", "70")}
    assert compare(words) == 0
    rows = Rows.load(home / "out" / "rows").cells
    assert sorted((row["group"], row["users"], row["state"]) for row in rows) == [
        *[("on gowalla", "70", "outdated")] * 2, *[("on synth", "80", "done")] * 2,
    ]  # fmt: skip


def test_a_failing_experiment_leaves_a_hole_and_exit_1(home, capsys):
    words = ["compare", "MF_tiny_ccl", "MF_tiny_mml", "--seeds", "1", *SETS, "--out", "out"]
    assert compare([*words, "--set", "learning_rate=1e30"]) == 1
    assert "failed: MF_tiny_ccl/fast-paper-s2019" in capsys.readouterr().err
    assert "Cells that failed" in (home / "out" / "report.md").read_text()


def test_missing_packages_are_named_before_anything_runs(home, capsys, monkeypatch):
    from mml_plugin.report import needs

    monkeypatch.setattr(needs, "PACKAGES", ("scipy", "no_such_package"))
    assert compare(["compare", "MF_tiny_ccl", "MF_tiny_mml"]) == 2
    assert "reports need no_such_package: pip install no_such_package" in capsys.readouterr().err
    assert not (home / "runs").exists()


def test_own_files(files, capsys):
    words = ["compare", "--train", "my_train.csv", "--test", "my_test.csv", "--losses", "ccl,mml,bsl", "--seeds", "2",
             "--negatives", "10", "--epochs", "2", "--out", "out"]  # fmt: skip
    assert compare(words) == 0
    said = capsys.readouterr().out
    assert "defaults, not tuned here (1 cell per loss)" in said
    assert "2 test users without training history were left out." in said
    text = (files / "out" / "report.md").read_text()
    assert "Selected on validation (protocol held-out)" in text
    assert "defaults, not tuned here" in text
    assert "2 test users without training history were left out." in text
    rows = Rows.load(files / "out" / "rows").done()
    assert sorted((row["loss"], row["seed"]) for row in rows) == [
        (n, s) for n in ("BSL", "CCL", "MML") for s in ("2019", "2020")
    ]
    assert json.loads((files / "out/data/own/dataset.json").read_text())["users"] == 60


def test_an_import_with_items_in_two_orders_is_made_again(files):
    def prepare():
        own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))

    folder = Path("out/data/own")
    prepare()
    corpus = folder / "item_corpus.csv"
    whole, made = corpus.read_text(), (folder / "dataset.json").stat().st_mtime_ns
    prepare()
    assert (folder / "dataset.json").stat().st_mtime_ns == made
    header, *ids = whole.splitlines()
    corpus.write_text("\n".join([header, *reversed(ids)]) + "\n")
    prepare()
    assert corpus.read_text() == whole


def test_other_options_are_other_runs(files):
    words = ["compare", "--train", "my_train.csv", "--test", "my_test.csv", "--losses", "ccl,mml", "--seeds", "1",
             "--negatives", "10", "--out", "out", "--epochs"]  # fmt: skip
    assert compare([*words, "1"]) == 0
    config = (files / "out/config/model_config.yaml").read_bytes()
    assert compare([*words, "2"]) == 0
    rows = Rows.load(files / "out" / "rows")
    assert [row["epochs"] for row in rows.done()] == ["2", "2"]
    assert [row["epochs"] for row in rows.cells if row["state"] == "outdated"] == ["1", "1"]
    # A comparison that was running meanwhile would have gone on reading what it began with.
    assert (files / "out/config/model_config.yaml").read_bytes() == config
    assert compare([*words, "1", "--overwrite"]) == 0
    assert "--overwrite" not in (files / "out" / "report.md").read_text().split("Written by")[1].split("\n")[0]


def test_a_folder_holds_comparisons_on_the_same_files_only(files, capsys):
    words = ["compare", *OWN, "ccl,mml", "--seeds", "1", "--epochs", "1", "--out", "out"]
    assert compare(words) == 0
    capsys.readouterr()
    before = {path: path.read_bytes() for path in (files / "out").rglob("*.c*") if path.is_file()}
    with open("my_train.csv", "a") as stream:
        stream.write("anna 1,item-1\n")
    for more in ([], ["--overwrite"]):
        assert compare([*words, *more]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: out holds a comparison on other data: --train my_train.csv is not the file")
    assert {path: path.read_bytes() for path in before} == before


def test_short_histories_leave_little_validation_and_that_is_said(files, capsys):
    rows = [(f"u{u}", f"i{(u + k) % 30}") for u in range(30) for k in range(5)]
    write(files / "my_train.csv", [*rows, *(("u0", f"i{k}") for k in range(10, 20))])
    write(files / "my_test.csv", [(f"u{u}", f"i{(u + 7) % 30}") for u in range(30)])
    own = own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))
    (said,) = [note for note in own.notes if note.startswith("Validation: ")]
    # 15 items times 0.1 is 2 (rounded half to even); every other user has 5, and half an item is none.
    assert said.startswith("Validation: 2 training interactions of 1 of 30 users (the others have too few")
    assert "chosen by luck" in said


def test_how_many_users_a_metric_is_a_mean_over_is_said(files, capsys):
    own = own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))
    tested = sum(user != "nobody" and user != "neither" for user in users_of("my_test.csv"))
    assert tested > 2
    assert f"Every metric is a mean over {tested} test users; over so few, a difference is mostly luck." in " ".join(
        own.notes
    )
    write(files / "one.csv", [("anna 3", "item-1"), ("anna 3", "item-2"), ("anna 3", "item-3"), ("anna 3", "item-4")])
    words = ["compare", "--train", "my_train.csv", "--test", "one.csv", "--losses", "ccl,mml", "--seeds", "1"]
    words += ["--epochs", "1", "--out", "one"]
    assert compare(words) == 0
    assert "Every metric is a mean over 1 test user; over so few" in (files / "one" / "report.md").read_text()
    assert {row["test_users"] for row in Rows.load(files / "one" / "rows").done()} == {"1"}


def users_of(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return {line["user"] for line in csv.DictReader(stream)}


def test_own_files_with_tuning_cells(files):
    words = ["compare", "--train", "my_train.csv", "--test", "my_test.csv", "--losses", "ccl,softmax", "--seeds", "2",
             "--cells", "3", "--negatives", "10", "--epochs", "2", "--out", "out"]  # fmt: skip
    assert compare(words) == 0
    rows = Rows.load(files / "out" / "rows").done()
    cells = {loss: {row["label"] for row in rows if row["loss"] == loss} for loss in ("CCL", "softmax")}
    assert {len(labels) for labels in cells.values()} == {3}
    for loss in cells:
        tuned = [row for row in rows if row["loss"] == loss and row["seed"] == "2019"]
        best = max(tuned, key=lambda row: float(row["validation Recall(k=20)"]))
        assert [row["label"] for row in rows if row["loss"] == loss and row["seed"] == "2020"] == [best["label"]]
    assert "Every loss had 3 tuning cells, the same number" in (files / "out" / "report.md").read_text()
    assert len({row["suite_thresholds"] for row in rows}) == 1


def test_further_seeds_wait_for_a_tuning_that_another_process_runs(files, capsys):
    words = ["compare", "--train", "my_train.csv", "--test", "my_test.csv", "--losses", "ccl,softmax", "--seeds", "2",
             "--cells", "2", "--negatives", "10", "--epochs", "1", "--out", "out"]  # fmt: skip
    own = own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "softmax"], Path("out"), cells=2,
                           negatives=10, epochs=1)  # fmt: skip
    cells = make_cells(own.suite, own.config_dir, Path("out/runs"))
    (files / cells[1].folder.path.parent).mkdir(parents=True)
    with FileLock(f"{cells[1].folder.path}.cell.lock"):
        assert compare(words) == 0
    seeds = {(row["loss"], row["seed"]) for row in Rows.load(files / "out" / "rows").done()}
    assert seeds == {("CCL", "2019"), ("softmax", "2019"), ("softmax", "2020")}
    assert "1 cell runs in another process" in capsys.readouterr().err
    assert compare(words) == 0
    seeds = {(row["loss"], row["seed"]) for row in Rows.load(files / "out" / "rows").done()}
    assert len(seeds) == 4


def test_what_is_damaged_or_overridden_is_said(files, capsys):
    words = ["compare", "--train", "my_train.csv", "--test", "my_test.csv", "--losses", "ccl,mml", "--out", "out"]
    said = own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"),
                            overrides=("learning_rate=0.05",)).notes[0]  # fmt: skip
    assert said.endswith("Overridden for every loss: learning_rate=0.05.")
    mark = files / "out" / "data" / "files.json"
    whole = json.loads(mark.read_text())
    for text in ("{", "{}", "[]"):
        mark.write_text(text)
        assert compare(words) == 2
        assert "out/data/files.json is damaged" in capsys.readouterr().err
    mark.write_text(json.dumps({**whole, "more": 1}))
    own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))


@pytest.mark.parametrize(("protocol", "split"), [("paper", "test"), ("held-out", "validation")])
def test_the_note_on_tuning_says_what_it_was_chosen_on(files, protocol, split):
    own = own_data.prepare(
        Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"), cells=2, protocol=protocol
    )
    assert f"the best on {split} with seed 2019 stands for it." in own.notes[0]


def test_simplex_on_own_files(files):
    words = ["compare", "--train", "my_train.csv", "--test", "my_test.csv", "--losses", "ccl,mml", "--model", "SimpleX",
             "--seeds", "1", "--negatives", "10", "--epochs", "1", "--out", "out"]  # fmt: skip
    assert compare(words) == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([*OWN, "ccl,mml", "--config", "x"], "--config goes with experiments"),
        ([*OWN, "ccl,mml", "--cells", "2", "--set", "margins=[0.5]"], "--set margins: the tuning cells choose it"),
        ([], "give at least two different experiments"),
        (["MF_tiny_ccl"], "give at least two different experiments"),
        (["MF_tiny_cll", "MF_tiny_mml"], "there is no experiment 'MF_tiny_cll'"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--engine", "recbox", "--backend", "torch"],
         "--backend torch is the fast engine's"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--backend", "trton"], "--backend 'trton' is unknown; did you mean 'triton'"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--engine", "fasst"], "engine 'fasst' is unknown; did you mean 'fast'"),
        ([*OWN, "ccl,mml", "--backend", "triton"], "--backend triton cannot be used on cpu: it runs on cuda"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--set", "seed=7"], "mml compare: set seed: every cell has a seed of its own"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--set", "gpu=0"], "--set gpu: nothing would read it; --gpu names the GPU"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--cells", "2"], "--cells goes with --train, --test and --losses"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--gpu", "9"], "--gpu 9 is not there"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--valid-share", "0.2"], "--valid-share is for --protocol held-out"),
        (["MF_tiny_ccl", "MF_tiny_mml", "--protocol", "papr"], "protocol 'papr' is unknown; did you mean 'paper'"),
        (["MF_yelp_ccl", "MF_yelp_mml", "MF_gowalla_mml"],
         "MF_gowalla_mml is on gowalla and nothing else is (the others: yelp18)"),
        (["--train", "my_train.csv"], "give either experiments, or all three"),
        (["--train", "no.csv", "--test", "my_test.csv", "--losses", "ccl,mml"], "there is no file no.csv"),
        (["--train", "few.csv", "--test", "my_test.csv", "--losses", "ccl,mml"], "share 0.1 leaves no validation item"),
        ([*OWN, "ccl,mlm"], "there is no loss 'mlm'"),
        ([*OWN, "ccl"], "at least two different losses"),
        ([*OWN, "ccl,mml", "--model", "MFF"], "no model 'MFF'"),
        ([*OWN, "ccl,mml", "--set", "epochs=2"], "--set epochs: use --epochs with --train and --test"),
        ([*OWN, "ccl,mml", "--cells", "2", "--set", "learning_rate=0.01"], "learning_rate: the tuning cells choose"),
        ([*OWN, "ccl,mml", "--cells", "9999"], "has 300 cells"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(files, capsys, words, says):
    assert compare(["compare", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert not (files / "runs").exists()
    assert not (files / "reports").exists()


def test_mended_files_may_take_the_name_of_refused_ones(files):
    """Also in a folder that was there before."""
    few = (files / "few.csv").read_bytes()
    (files / "there" / "data").mkdir(parents=True)
    for out in ("new", "there"):
        (files / "few.csv").write_bytes(few)
        before = set(files.rglob("*"))
        with pytest.raises(UserError, match="leaves no validation item"):
            own_data.prepare(Path("few.csv"), Path("my_test.csv"), ["ccl", "mml"], Path(out))
        assert set(files.rglob("*")) - {files / "there" / ".prepare.lock"} == before
        shutil.copy(files / "my_train.csv", files / "few.csv")
        own_data.prepare(Path("few.csv"), Path("my_test.csv"), ["ccl", "mml"], Path(out))


@pytest.mark.parametrize("taken", ["data/own", "config"])
def test_data_and_configuration_of_somebody_else_are_not_written_over(files, capsys, taken):
    """``--out .`` in a project: it would be its data set of that name, and its configuration."""
    (files / taken).mkdir()
    (files / taken / "model_config.yaml").write_text("mine: {}\n")
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*") if path.is_file()}
    assert compare(["compare", *OWN, "ccl,mml", "--seeds", "1", "--epochs", "1", "--out", "."]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: --out .: {taken} is there and no comparison made it")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert {path for path in files.rglob("*") if path.is_file()} - {files / ".prepare.lock"} == set(before)


def test_a_comparison_whose_data_were_deleted_imports_them_again(files, monkeypatch):
    def prepare():
        return own_data.prepare(Path("my_train.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))

    def full(*_):
        raise UserError("cannot write x: there is no space left on the disk")

    with monkeypatch.context() as patched:
        patched.setattr(own_data, "write_config", full)
        with pytest.raises(UserError, match="no space left"):
            prepare()
    assert not (files / "out").exists()
    prepare()
    shutil.rmtree(files / "out" / "data")
    assert "60 users" in prepare().notes[1]
    (files / "out" / "data" / "own" / "dataset.json").unlink()
    with pytest.raises(UserError, match=r"own is damaged: it has no dataset.json; remove it"):
        prepare()


def test_files_whose_import_was_stopped_may_be_mended(files, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(own_data, "_validation_notes", stopped)
        with pytest.raises(KeyboardInterrupt):
            own_data.prepare(Path("few.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))
    shutil.copy(files / "my_train.csv", files / "few.csv")
    assert "60 users" in own_data.prepare(Path("few.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out")).notes[1]


def test_what_cannot_be_taken_back_hides_no_refusal(files):
    (files / "out").mkdir()
    (files / "out" / "data").symlink_to(files / "elsewhere")
    with pytest.raises(UserError, match=r"out/data is a link to .*, which is not there"):
        own_data.prepare(Path("few.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))
    (files / "out" / "data").unlink()
    (files / "out" / "data").touch()
    with pytest.raises(UserError, match="out/data: it is a file, not a folder"):
        own_data.prepare(Path("few.csv"), Path("my_test.csv"), ["ccl", "mml"], Path("out"))


def test_every_loss_gets_as_many_different_cells():
    for loss in ("CosineContrastiveLoss", "MultiMarginLoss", "BilateralSoftmaxLoss", "MSELoss"):
        cells = own_data.tuning_cells(loss, 12, 1)
        assert len({json.dumps(cell, sort_keys=True, default=str) for cell in map(str, cells)}) == 12
        assert own_data.tuning_cells(loss, 12, 1) == cells
        assert own_data.tuning_cells(loss, 5, 1)[0] == cells[0]
    rates = [[cell["learning_rate"] for cell in own_data.tuning_cells(loss, 30, 1)] for loss in own_data.LOSS_SPACES
             if len(own_data.LOSS_SPACES[loss]) > 1]  # fmt: skip
    assert len(rates) > 2
    assert all(other == rates[0] for other in rates)
    with pytest.raises(UserError, match="MSELoss has 12 cells and every loss gets the same number"):
        own_data.tuning_cells("MSELoss", 13, 1)


def test_a_report_of_somebody_else_is_not_written_over(files, capsys):
    (files / "report.md").write_text("mine")
    for words in (["MF_tiny_ccl", "MF_tiny_mml"], [*OWN, "ccl,mml"]):
        assert compare(["compare", *words, "--seeds", "1", "--out", "."]) == 2
        assert "--out .: report.md is there and no comparison made it" in capsys.readouterr().err
    assert (files / "report.md").read_text() == "mine"
    assert not (files / "rows.csv").exists()
    (files / "rows.csv").write_text("a,b\n")
    assert compare(["compare", *OWN, "ccl,mml", "--seeds", "1", "--out", "."]) == 2
    assert "rows.csv holds no rows of a comparison: its column 'cell' is missing" in capsys.readouterr().err
    assert not (files / "config").exists()
