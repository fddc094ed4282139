"""The files of a run: the held-out split in the cache, and what the log says of the data."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mml_plugin.data import split, synthetic
from mml_plugin.data.importing import import_dataset
from mml_plugin.experiment.dataset import prepare_data
from mml_plugin.experiment.run import RunRequest, run

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture
def params(tmp_path):
    folder = synthetic.generate(tmp_path / "data" / "mine", users=30, items=70, seed=1)
    names = {"train_data": "train.csv", "valid_data": "test.csv", "item_corpus": "item_corpus.csv"}
    return {key: str(folder / name) for key, name in names.items()}


def test_of_runs_that_start_together_one_writes_the_split(params, monkeypatch):
    write, calls, second = split.write_held_out, [], threading.Event()

    def slowly(*words):
        calls.append(words)
        if len(calls) > 1:
            second.set()
        second.wait(0.5)  # without a lock the other one comes here too
        write(*words)

    monkeypatch.setattr(split, "write_held_out", slowly)
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: prepare_data(params, "held-out", 0.2).paths, range(2)))
    assert both[0] == both[1]
    assert len(calls) == 1


@pytest.mark.parametrize("name", ["train.csv", "valid.csv", "item_corpus.csv"])
def test_a_split_without_one_of_its_files_is_made_anew(params, name, caplog):
    paths = {Path(path).name: Path(path) for path in prepare_data(params, "held-out", 0.2).paths.values()}
    before = paths[name].read_bytes()
    made = paths[name].parent.stat().st_ino
    prepare_data(params, "held-out", 0.2)
    assert paths[name].parent.stat().st_ino == made
    paths[name].unlink()
    prepare_data(params, "held-out", 0.2)
    assert paths[name].read_bytes() == before
    assert "is damaged and is built anew" in caplog.text


@pytest.mark.parametrize(("engine", "backend"), [("fast", "reference"), ("recbox", "auto")])
def test_the_log_says_what_is_not_trained_on_and_what_is_in_both(engine, backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text("".join(f"{u} {u} {u + 1} {(u + 5) % 31}\n" for u in range(30)))
    Path("test.txt").write_text("".join(f"{u} {u} {u + 10}\n" for u in range(30)))
    import_dataset("synth", Path(), Path("data"))
    small = ("epochs=1", "verbose=0", "num_workers=0", "embedding_dim=8", "num_negs=10")
    request = RunRequest("MF_tiny_ccl", CONFIG, engine=engine, backend=backend, overrides=small, runs_dir=Path("runs"))
    log = run(request).log.read_text()
    assert "9 items and 0 users have no training interaction; they share the out-of-vocabulary row" in log
    assert "30 test interactions are also in train, whose items are masked when test is ranked" in log
