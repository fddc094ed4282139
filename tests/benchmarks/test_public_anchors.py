"""Public logs beside runs that were made up."""

from __future__ import annotations

import re
from pathlib import Path

from findings_page.paper import printed
from findings_page.public_anchors import anchors, public_logs

from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Row, Rows
from tests.report.sample import cell, history

RATES = [1e-4, 1e-4, 1e-4, 1e-5, 1e-5, 1e-5, 1e-6, 1e-6]


def reczoo(**more: str) -> tuple[Row, list[Row]]:
    """MF with CCL on Yelp2018 in RecZoo's setting, cut after epochs 3 and 6."""
    row = cell("CCL", 1, negatives=800, expid="MF_yelp_ccl_reczoo", plateau="yes", **more)
    return row, [{**epoch, "learning_rate": f"{rate:g}"} for epoch, rate in zip(history(row), RATES)]


def saved(folder: Path, row: Row, epochs: list[Row]) -> Pool:
    Rows([row], epochs).save(folder / "suite_anchors")
    return Pool(folder)


def table(text: str) -> dict[str, list[str]]:
    lines = [[cell.strip() for cell in re.split(r"\|", line)[1:-1]] for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines}


def test_a_log_and_a_run_stand_side_by_side(tmp_path):
    row, epochs = reczoo()
    found = table(public_logs(saved(tmp_path, row, epochs)))
    assert found[""] == ["MF + CCL, yelp18", "here, seed 1"]
    assert found["loss, epoch 1"] == ["0.470", "0.500"]
    assert found["first cut of the learning rate"] == ["epoch 16", "epoch 3"]
    assert found["second cut of the learning rate"] == ["epoch 26", "epoch 6"]
    watched = [float(epoch["Recall(k=20)"]) for epoch in epochs]
    assert found["best until the first cut"] == ["0.0651", f"{max(watched[:3]):.4f}"]
    assert found["best until the second cut"] == ["0.0698", f"{max(watched[:6]):.4f}"]
    assert found["best epoch"] == ["28 of 31", "6 of 8"]
    assert found["Recall@20"] == ["0.069846", f"{float(row['Recall(k=20)']):.6f}"]
    assert found["Recall@50"] == ["0.132210", "not measured"]


def test_what_was_not_run_or_not_kept_is_said(tmp_path):
    assert public_logs(Pool(tmp_path)) == "Not run yet."
    row, epochs = reczoo()
    found = table(public_logs(saved(tmp_path, row, [])))
    assert found["first cut of the learning rate"] == ["epoch 16", "its epochs are not kept"]
    assert found["loss, best epoch"] == ["0.1321", "its epochs are not kept"]
    never = [{**epoch, "learning_rate": "0.0001"} for epoch in epochs]
    assert table(public_logs(saved(tmp_path, row, never)))["first cut of the learning rate"] == ["epoch 16", "never"]


def test_the_difference_to_what_is_published_is_in_percent_of_it(tmp_path):
    row, epochs = reczoo(**{"Recall(k=20)": "0.0691", "NDCG(k=20)": "0.0572"})
    cells = table(anchors(saved(tmp_path, row, epochs)))["MF + CCL, yelp18"]
    assert cells[:4] == ["0.069846", "0.069100 (-1.07 %)", "0.057244", "0.057200 (-0.08 %)"]


def test_a_run_in_another_setting_does_not_stand_for_an_anchor(tmp_path):
    row, epochs = reczoo()
    for other in ({"num_negs": "100"}, {"plateau": "no"}, {"expid": "MF_yelp_ccl_n800"}, {"dataset": "beauty"}):
        assert public_logs(saved(tmp_path, {**row, **other}, epochs)) == "Not run yet."


def test_what_the_papers_text_states_is_as_it_is_printed():
    """Section 4.2: where its early stopping ends, and MML's gains over CCL at 10 and at 100 negatives."""
    stops = {(row["model"], row["loss"]): row["stop_epoch"] for row in printed("table2_stop_epochs")}
    assert stops == {("SimpleX", "CCL"): "33", ("SimpleX", "MML"): "19", ("MF", "CCL"): "19", ("MF", "MML"): "19"}
    gains = {
        (row["num_negs"], row["dataset"]): (float(row["recall_gain_percent"]), float(row["ndcg_gain_percent"]))
        for row in printed("figure3_gains")
    }
    assert gains == {
        ("10", "yelp18"): (19.5, 20.13), ("10", "gowalla"): (12.99, 15.07),
        ("100", "yelp18"): (4.31, 5.26), ("100", "gowalla"): (1.85, 0.63),
    }  # fmt: skip


def test_both_files_of_published_figures_agree():
    """They were typed from the same logs, one of them in more digits."""
    anchored = {(a["model"], a["dataset"], a["num_negs"]): a for a in printed("anchors") if a["loss"] == "CCL"}
    logs = printed("anchor_logs")
    assert len(logs) == len(anchored) == 4
    for log in logs:
        anchor = anchored[log["model"], log["dataset"], log["num_negs"]]
        for column in ("recall_at_20", "ndcg_at_20"):
            assert log[column] == anchor[column]
