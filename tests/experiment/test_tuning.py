"""The parameter tuner: the paper's grid, validation before the first run, failures, nothing run twice."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from mml_plugin.cli import main
from mml_plugin.data import synthetic
from mml_plugin.errors import UserError
from mml_plugin.experiment import tuning
from mml_plugin.experiment.config import load_experiment
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.experiment.tuning import expand, read_space

CONFIG = Path(__file__).resolve().parents[2] / "config"
PUBLISHED = {
    "MF_yelp_mml": ([0.6, 0.7, 0.8, 0.9], [0.05, 0.15, 0.2, 0.6], 400, range(150, 451, 50)),
    "MF_gowalla_mml": ([0.7, 0.8, 0.9], [0.10, 0.15, 0.75], 700, range(500, 1001, 100)),
}

SCRIPT = """
import json, pathlib, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open("calls.txt", "a") as stream:
    stream.write(words["--expid"] + " " + words["--gpu"] + " " + sys.executable + "\\n")
if words["--expid"].startswith("MF_tiny_mml_002") and not pathlib.Path("mended").exists():
    sys.exit(3)
folder = pathlib.Path(words["--runs"]) / words["--expid"] / "recbox-paper-s2019"
folder.mkdir(parents=True)
score = float(words["--expid"].split("_")[3])
(folder / "result.json").write_text(json.dumps({"metrics": {"Recall(k=20)": score}}))
"""


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_grid(name, tmp_path):
    margins, weights, best, range_ = PUBLISHED[name]
    file = CONFIG / "tuner" / f"{name}.yaml"
    _, cells = expand(file, read_space(file), tmp_path)
    assert {c.params["neg_weight"] for c in cells} == set(range_)
    lists = {tuple(c.params["margins"]) for c in cells}
    assert lists == {tuple(x / 10 for x in range(low, 10)) for low in range(5, 10)}
    assert len(cells) == len(range_) * len(lists) == len({c.expid for c in cells})
    for c in cells:
        assert c.params["margin_weights"] == sorted(c.params["margin_weights"])
        assert sum(c.params["margin_weights"]) == pytest.approx(1)
    wanted = load_experiment(CONFIG, name).identity()
    found = [c for c in cells if c.identity() == wanted]
    assert [(c.params["margins"], c.params["margin_weights"], c.params["neg_weight"]) for c in found] == [
        (margins, weights, best)
    ]


def test_importing_fuxictrs_tuner_leaves_yaml_alone(tmp_path):
    file = CONFIG / "tuner" / "MF_tiny_mml.yaml"
    expand(file, read_space(file), tmp_path)
    shared = [1]
    assert "*id001" in yaml.dump({"a": shared, "b": shared}, Dumper=yaml.Dumper)


def test_failures_are_reported_and_finished_cells_are_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(SCRIPT)
    words = ["tune", "--config", str(CONFIG / "tuner/MF_tiny_mml.yaml"), "--script", "fake.py", "--gpu", "-1", "-1"]
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "3 of 4 cells have a result" in said
    assert "failed: MF_tiny_mml_002_" in said
    calls = Path("calls.txt").read_text().splitlines()
    assert len(calls) == 4
    assert all(line.endswith(__import__("sys").executable) for line in calls)
    Path("mended").touch()
    assert main(words) == 0
    assert len(Path("calls.txt").read_text().splitlines()) == 5
    with open("runs/tuner/MF_tiny_mml/cells.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(r["Recall(k=20)"]) for r in rows] == [4, 3, 2, 1]
    assert {r["margin_spec"] for r in rows} == {"0.9:1", "0.6:0.05 0.7:0.15 0.8:0.2 0.9:0.6"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"tuner_space": {}}, "tuner_space is missing or empty"),
        ({"tuner_space": {"neg_wait": [1]}}, "unknown key 'neg_wait'; did you mean 'neg_weight'"),
        ({"tuner_space": {"neg_weight": []}}, "lists no value for neg_weight"),
        ({"tuner_space": {"neg_weight": [100, -1]}}, "neg_weight must be a number > 0, got -1"),
        ({"tuner_space": {"margin_spec": [{0.9: "x"}]}}, r"margin_weights\[0\] must be a number >= 0"),
        ({"tuner_space": {"train_data": ["x"]}}, "belongs to the data set"),
        (
            {"tuner_space": {"dataset_id": ["tiny_mf", "yelp_mf"]}},
            "dataset_id is not tuned; put one beside tuner_space",
        ),
        ({"dataset_id": "yelp_fm"}, "'yelp_fm'.*did you mean 'yelp_mf'"),
        ({"base_expid": "MF_tiny_mm"}, "did you mean 'MF_tiny_mml'"),
        ({"base_config": None}, "base_config must be one name, got None"),
        ({"base_config": 5}, "base_config must be one name, got 5"),
        ({"base_expid": ["MF_tiny_mml"]}, r"base_expid must be one name, got \['MF_tiny_mml'\]"),
        ({"tuner_spice": 1}, "unknown key 'tuner_spice'; did you mean 'tuner_space'"),
    ],
)
def test_nothing_runs_when_a_cell_is_wrong(tmp_path, change, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"base_config": str(CONFIG), "base_expid": "MF_tiny_mml", "tuner_space": {"neg_weight": [1]}}
    Path("space.yaml").write_text(yaml.safe_dump({**content, **change}))
    Path("fake.py").write_text(SCRIPT)
    assert main(["tune", "--config", "space.yaml", "--script", "fake.py"]) == 2
    assert __import__("re").search(says, capsys.readouterr().err)
    assert not Path("calls.txt").exists()
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--engine", "fst"], "--engine 'fst' is unknown; did you mean 'fast'"),
        (["--protocol", "heldout"], "--protocol 'heldout' is unknown; did you mean 'held-out'"),
        (["--valid-share", "0.2"], "--valid-share is for --protocol held-out"),
        (["--protocol", "held-out", "--valid-share", "nan"], "--valid-share must be in (0, 0.5], got nan"),
        (["--backend", "numba"], "--backend numba is the fast engine's; add --engine fast"),
        (["--engine", "fast", "--backend", "nmba"], "did you mean 'numba'"),
        (["--engine", "fast", "--backend", "triton"], "--backend triton cannot be used on cpu"),
        ([], "get the data with: mml data synth"),
        (["--engine", "fast"], "get the data with: mml data synth"),
    ],
)
def test_what_no_cell_could_run_is_said_before_the_first(tmp_path, words, says, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "--config", str(CONFIG / "tuner/MF_tiny_mml.yaml"), *words]) == 2
    assert says in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_tuner_files_data_set_takes_the_bases_place(tmp_path):
    file = tmp_path / "space.yaml"
    content = {"base_config": str(CONFIG), "base_expid": "MF_yelp_mml", "dataset_id": "gowalla_mf"}
    file.write_text(yaml.safe_dump({**content, "tuner_space": {"neg_weight": [1, 2]}}))
    _, cells = expand(file, read_space(file), tmp_path)
    wanted = load_experiment(CONFIG, "MF_gowalla_mml").params
    assert {c.params["dataset_id"] for c in cells} == {"gowalla_mf"}
    assert {c.params["train_data"] for c in cells} == {wanted["train_data"]}
    assert [c.params["neg_weight"] for c in cells] == [1, 2]


SEEDED = """
import json, pathlib, sys, yaml
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
cell = yaml.safe_load((pathlib.Path(words["--config"]) / "model_config.yaml").read_text())[words["--expid"]]
folder = pathlib.Path(words["--runs"]) / words["--expid"] / f"recbox-{words['--protocol']}-s{cell['seed']}"
folder.mkdir(parents=True)
(folder / "result.json").write_text(json.dumps({
    "metrics": {"Recall(k=20)": cell["seed"], "NDCG(k=20)": 0},
    "validation_metrics": {"Recall(k=20)": -cell["seed"], "NDCG(k=20)": cell["seed"] % 3},
}))
"""


@pytest.mark.parametrize(
    ("protocol", "monitor", "mode", "best_first"),
    [
        ("paper", "Recall(k=20)", "max", [2023, 2022, 2021]),
        ("held-out", "Recall(k=20)", "max", [2021, 2022, 2023]),
        ("held-out", "Recall(k=20)", "min", [2023, 2022, 2021]),
        ("held-out", {"Recall(k=20)": 0.5, "NDCG(k=20)": 1}, "max", [2021, 2023, 2022]),
    ],
)
def test_cells_are_ranked_by_what_the_epoch_was_chosen_by(protocol, monitor, mode, best_first, tmp_path, monkeypatch):
    """2021, 2022 and 2023 leave 2, 0 and 1 on division by 3; each cell has a seed of its own."""
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(SEEDED)
    space = {"seed": [2021, 2022, 2023], "monitor": monitor, "monitor_mode": mode}
    content = {"base_config": str(CONFIG), "base_expid": "MF_tiny_mml", "tuner_space": space}
    Path("space.yaml").write_text(yaml.safe_dump(content))
    assert main(["tune", "--config", "space.yaml", "--script", "fake.py", "--protocol", protocol]) == 0
    with open("runs/tuner/space/cells.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [int(row["seed"]) for row in rows] == best_first
    assert ("validation Recall(k=20)" in rows[0], "Recall(k=20)" in rows[0]) == (
        protocol == "held-out",
        protocol == "paper",
    )


FINGERPRINTED = """
import json, pathlib, sys, yaml
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
with open("calls.txt", "a") as stream:
    print(words["--expid"], file=stream)
config = pathlib.Path(words["--config"])
cell = yaml.safe_load((config / "model_config.yaml").read_text())[words["--expid"]]
data = yaml.safe_load((config / "dataset_config.yaml").read_text())[cell["dataset_id"]]
print_of = json.loads((pathlib.Path(data["train_data"]).parent / "dataset.json").read_text())["fingerprint"]
folder = pathlib.Path(words["--runs"]) / words["--expid"] / "recbox-paper-s2019"
folder.mkdir(parents=True, exist_ok=True)
(folder / "result.json").write_text(json.dumps({"metrics": {"Recall(k=20)": 1}, "data": {"fingerprint": print_of}}))
"""


def test_results_on_other_data_are_nobodys(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(FINGERPRINTED)
    for name, seed in (("synth", 3), ("other", 4)):
        synthetic.generate(tmp_path / "data" / name, users=30, items=70, seed=seed)
    shutil.copytree(CONFIG, "config")
    block = yaml.safe_load((CONFIG / "dataset_config" / "tiny.yaml").read_text())["tiny_mf"]
    other = {key: value.replace("synth", "other") if isinstance(value, str) else value for key, value in block.items()}
    Path("config/dataset_config/other.yaml").write_text(yaml.safe_dump({"other_mf": other}))
    content = {"base_config": "config", "base_expid": "MF_tiny_mml", "tuner_space": {"neg_weight": [1, 2]}}
    for name, more in (("a", {}), ("b", {"dataset_id": "other_mf"})):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**content, **more}))
        assert main(["tune", "--config", f"{name}.yaml", "--script", "fake.py"]) == 0
    assert len(set(Path("calls.txt").read_text().split())) == 4
    # The data change under their name; then a result is damaged.
    shutil.rmtree("data/synth")
    synthetic.generate(tmp_path / "data" / "synth", users=30, items=70, seed=5)
    tuning._fingerprint.cache_clear()
    capsys.readouterr()
    assert main(["tune", "--config", "a.yaml", "--script", "fake.py"]) == 1
    said = capsys.readouterr().out
    assert "0 of 2 cells have a result" in said
    assert said.count("is of other data than data/synth has now; remove its folder") == 2
    name = yaml.safe_load(Path("runs/tuner/b/config/model_config.yaml").read_text()).popitem()[0]
    Path("runs", name, "recbox-paper-s2019", "result.json").write_text("{")
    assert main(["tune", "--config", "b.yaml", "--script", "fake.py"]) == 1
    assert f"not taken: runs/{name}/recbox-paper-s2019/result.json cannot be read" in capsys.readouterr().out
    with open("runs/tuner/b/cells.csv") as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["done", "damaged"]
    with open("runs/tuner/a/cells.csv") as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == ["other data"] * 2
    tuning._fingerprint.cache_clear()


def test_a_cell_that_another_tuner_runs_is_left_to_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(SCRIPT)
    Path("mended").touch()
    words = ["tune", "--config", str(CONFIG / "tuner/MF_tiny_mml.yaml"), "--script", "fake.py"]
    assert main([*words, "--tag", "_001_"]) == 0
    work = Path("runs/tuner/MF_tiny_mml")
    name = list(yaml.safe_load((work / "config/model_config.yaml").read_text()))[1]
    run = Path("runs") / name / "recbox-paper-s2019"
    run.parent.mkdir(parents=True)
    with FileLock(f"{run}.cell.lock"):
        assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 cell runs in another process" in said
    assert "3 of 4 cells have a result" in said
    assert not list(work.glob(f"{name}*.log"))
    assert main(words) == 0
    assert "4 of 4 cells have a result" in capsys.readouterr().out
    # A result that lacks what the protocol chooses by is none, at once and the next time.
    held_out = [*words, "--protocol", "held-out"]
    Path("fake.py").write_text(SCRIPT.replace("recbox-paper", "recbox-held-out"))
    for _ in range(2):
        assert main(held_out) == 1
        said = capsys.readouterr().out
        assert "0 of 4 cells have a result" in said
        assert said.count("it has no validation_metrics; remove its folder") == 4


def test_what_cells_are_asked_for_is_passed_on_and_a_share_has_folders_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthetic.generate(tmp_path / "data" / "synth", users=30, items=70, seed=3)
    content = {"base_config": str(CONFIG), "base_expid": "MF_tiny_mml"}
    Path("space.yaml").write_text(yaml.safe_dump({**content, "tuner_space": {"epochs": [1], "num_negs": [3]}}))
    words = ["tune", "--config", "space.yaml", "--engine", "fast", "--backend", "reference", "--protocol", "held-out"]
    assert main([*words, "--seed", "5"]) == 0
    assert main([*words, "--seed", "5", "--valid-share", "0.2"]) == 0
    results = [json.loads(path.read_text()) for path in Path("runs").glob("*/*/result.json")]
    assert [(r["backend"], r["seed"], r["protocol"]) for r in results] == [("reference", 5, "held-out")] * 2
    shares = sorted(1 - r["data"]["trained_on"] / r["data"]["train"] for r in results)
    assert shares[1] > 1.5 * shares[0]


def test_a_finished_cell_that_a_killed_process_set_aside_is_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(SCRIPT)
    Path("mended").touch()
    words = ["tune", "--config", str(CONFIG / "tuner/MF_tiny_mml.yaml"), "--script", "fake.py"]
    assert main(words) == 0
    calls, results = Path("calls.txt").read_text(), sorted(Path("runs").glob("*/recbox-paper-s2019/result.json"))
    RunFolder(results[1].parent).set_aside()
    assert not results[1].exists()
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "put_back", refused)
        assert main(words) == 1
    said = capsys.readouterr().out
    assert "3 of 4 cells have a result" in said
    log = re.search(r"failed: MF_tiny_mml\S*, see (\S+)", said)
    assert log
    assert re.fullmatch("error: .* cannot be tidied up .*: Permission denied\n", Path(log[1]).read_text())
    assert main(words) == 0
    assert "4 of 4 cells have a result" in capsys.readouterr().out
    assert results[1].exists()
    assert Path("calls.txt").read_text() == calls


def test_a_gpu_that_is_not_there(capsys):
    assert main(["tune", "--config", str(CONFIG / "tuner/MF_tiny_mml.yaml"), "--gpu", "77"]) == 2
    assert "--gpu 77 is not there" in capsys.readouterr().err
    with pytest.raises(UserError, match="there is no file"):
        read_space(Path("none.yaml"))


def test_a_damaged_result_is_a_row_of_the_table(tmp_path):
    cells = [tuning.Cell(f"x_{n}", {"lr": n}, tmp_path / f"{n}" / "result.json", tmp_path / "log") for n in range(3)]
    for cell, text in zip(cells, ("{}", '{"metrics": {"Recall(k=20)": 0.5}}', "[half")):
        cell.result.parent.mkdir()
        cell.result.write_text(text)
    params = {"monitor": "Recall(k=20)", "monitor_mode": "max"}
    lines = tuning.write_table(cells, {}, tmp_path / "cells.csv", params, "paper").read_text().splitlines()
    assert lines[0] == "expid,lr,state,protocol,Recall(k=20)"
    assert lines[1] == "x_1,1,done,paper,0.5"
    assert sorted(lines[2:]) == ["x_0,0,damaged,paper,", "x_2,2,damaged,paper,"]


def refused(*_):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_cell_whose_folder_cannot_be_made_fails_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("fake.py").write_text(SCRIPT)
    Path("mended").touch()
    words = ["tune", "--config", str(CONFIG / "tuner/MF_tiny_mml.yaml"), "--script", "fake.py"]
    assert main([*words, "--tag", "_001_"]) == 0
    name = list(yaml.safe_load(Path("runs/tuner/MF_tiny_mml/config/model_config.yaml").read_text()))[1]
    Path("runs", name).write_text("in the way")
    assert main(words) == 1
    said = capsys.readouterr().out
    assert "3 of 4 cells have a result" in said
    assert f"failed: {name}, cannot write to runs/{name}: it is a file, not a folder" in said
    with open("runs/tuner/MF_tiny_mml/cells.csv") as stream:
        assert sorted(row["state"] for row in csv.DictReader(stream)) == ["done"] * 3 + ["failed"]


def test_a_date_is_no_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text(
        f"base_config: {CONFIG}\nbase_expid: MF_tiny_mml\ntuner_space: {{learning_rate: [2020-01-01]}}\n"
    )
    assert main(["tune", "--config", "a.yaml"]) == 2
    assert "tuner_space, learning_rate: a date or another thing that is no setting" in capsys.readouterr().err
