"""``mml train``: what is refused before anything is read or written."""

from __future__ import annotations

import pytest

from mml_plugin.cli import main


@pytest.mark.parametrize("text", ["", ",", "0.6,", "0.6;0.9", "high"])
def test_thresholds_are_numbers_with_commas_between(text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--expid", "MF_tiny_mml", "--engine", "fast", "--thresholds", text]) == 2
    assert "is no number; write numbers with commas between: 0.6,0.9" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
