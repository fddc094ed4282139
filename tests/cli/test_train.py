"""``mml train``: what is refused before anything is read or written, and the words that a suite runs its cells with."""

from __future__ import annotations

import errno
import runpy
import sys
from pathlib import Path

import pytest

from mml_plugin.cli import main
from mml_plugin.experiment import run as runs
from mml_plugin.experiment.cells import train_words
from mml_plugin.experiment.run import RunRequest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("text", [",", "0.6,", " ", "0.6;0.9", "high"])
def test_thresholds_are_numbers_with_commas_between(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--expid", "MF_tiny_mml", "--engine", "fast", "--thresholds", text]) == 2
    assert "is no number; write numbers with commas between: 0.6,0.9" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("thresholds", [None, (), (0.5,), (-0.25, 0.6, 0.9)])
@pytest.mark.parametrize("more", [{}, {"protocol": "held-out", "valid_share": 0.25, "seed": 7}, {"backend": "torch"}])
def test_a_cells_words_ask_for_the_cell(thresholds, more, tmp_path, monkeypatch):
    asked = RunRequest(
        "MF_tiny_bpr", Path("config"), engine="fast", thresholds=thresholds, runs_dir=Path("some runs"),
        overrides=("epochs=2", "metrics=[Recall(k=10)]"), max_batches=3, **more,
    )  # fmt: skip
    heard = []
    monkeypatch.setattr(runs, "run", heard.append)
    monkeypatch.chdir(tmp_path)
    assert main(train_words(asked)) == 0
    assert heard == [asked]


@pytest.mark.parametrize("script", ["run_expid.py", "run_param_tuner.py"])
@pytest.mark.parametrize("words", [["-h"], ["--help"], ["--no-such-option"], []])
def test_a_script_names_itself_in_its_usage(script, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, *words])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    asked = words in (["-h"], ["--help"])
    assert stop.value.code == (0 if asked else 2)
    said = capsys.readouterr()
    assert (said.out if asked else said.err).startswith(f"Usage: {script} [OPTIONS]\n")


def test_what_the_system_refuses_is_one_sentence_whatever_the_command(monkeypatch, capsys):
    from mml_plugin.cli import env

    def refuse():
        raise PermissionError(errno.EACCES, "Permission denied", "/data/.cache/x.lock")

    monkeypatch.setattr(env, "environment", refuse)
    assert main(["env"]) == 2
    assert capsys.readouterr().err == "error: /data/.cache/x.lock: permission denied\n"
