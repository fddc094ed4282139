"""Tables and curves come from rows only."""

from __future__ import annotations

import pytest

from mml_plugin.errors import UserError
from mml_plugin.report.curves import active_share, plot_curves, read_history
from mml_plugin.report.table import markdown_table


def test_markdown_table_is_aligned():
    text = markdown_table(["loss", "Recall@20"], [["CCL", "0.1"], ["a long name", "0.25"]])
    assert text.splitlines() == [
        "| loss        | Recall@20 |",
        "| ----------- | --------: |",
        "| CCL         |       0.1 |",
        "| a long name |      0.25 |",
    ]


def test_active_share_is_all_but_the_easy_band():
    assert active_share({"band_0(-inf,0.6]": "0.9", "band_1(0.6,inf)": "0.1"}) == pytest.approx(0.1)
    assert active_share({"epoch": "1"}) is None


def test_curves_are_drawn_from_history_files(tmp_path):
    history = tmp_path / "history.csv"
    history.write_text("epoch,Recall(k=20)\n1,0.1\n2,0.2\n")
    plot_curves({"CCL": history}, "Recall(k=20)", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with pytest.raises(UserError, match="cannot read"):
        read_history(tmp_path / "none.csv")
    history.write_text("epoch,Recall(k=20)\n")
    with pytest.raises(UserError, match="holds no epoch"):
        read_history(history)
