"""Synthetic data sets."""

from __future__ import annotations

import numpy as np

from mml_plugin.cli import main
from mml_plugin.data import synthetic
from tests.data_room.files import same


def test_a_synthetic_set_that_is_there_already_is_left_as_it_is(tmp_path, capsys):
    words = ["data", "synth", "--users", "20", "--items", "64", "--root", str(tmp_path)]
    assert main(words) == 0
    before = (tmp_path / "synth" / "train.txt").stat().st_mtime_ns
    assert main(words) == 0
    assert "already there, made with the same sizes and seed" in capsys.readouterr().out
    assert (tmp_path / "synth" / "train.txt").stat().st_mtime_ns == before
    assert main([*words, "--seed", "7"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    (tmp_path / "synth" / "train.csv").unlink()
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    (tmp_path / "synth" / "dataset.json").write_text("[")
    assert main(words) == 2


def test_synthetic_data_is_the_same_everywhere():
    data = synthetic.sample(users=60, items=90, seed=5)
    assert same(data, synthetic.sample(users=60, items=90, seed=5))
    # A known answer: any change of generator or arithmetic shows here.
    assert data.fingerprint == "d0b8b09106ec9d62d03fb1a0896bcee77eff48aebe1e6ffc7af5e1b8b11da85a"
    assert np.diff(data.train_indptr).min() >= 1
    counts = np.sort(np.bincount(data.train_items, minlength=data.num_items))[::-1]
    assert counts[: len(counts) // 10].sum() > 2 * len(data.train_items) / 10


def test_a_synthetic_set_beyond_memory_is_refused(tmp_path, capsys):
    words = ["data", "synth", "--users", "100000", "--items", "100000", "--root", str(tmp_path / "d")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--users 100000 --items 100000: a value is drawn for each of 10,000,000,000 pairs" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "d").exists()
