"""Runs of several suites in one pool: what stands for an experiment, and the gains read off it."""

from __future__ import annotations

import pytest

from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Rows
from tests.report.sample import cell, suite_of


def test_parity_reads_a_suite_that_holds_all_against_mml(tmp_path):
    sides = {"bslnative": {**cell("BSL", 1), "expid": "MF_yelp_bslnative"}, "mml": cell("MML", 1)}
    rows = suite_of(tmp_path, "parity", sides["mml"], sides["bslnative"])
    runs = " ".join(sides[name]["identity"][:12] for name in ("mml", "bslnative"))
    difference = float(sides["bslnative"]["Recall(k=20)"]) - float(sides["mml"]["Recall(k=20)"])
    interval = {"difference": str(difference), "low": "-0.004", "high": "-0.001"}
    rows.users = [{"runs": runs, "metric": "Recall(k=20)", **interval}]
    Rows(rows.cells, rows.history, rows.users).save(tmp_path / "suite_parity")
    gain = Pool(tmp_path).gain("MF_yelp_bslnative", "MF_yelp_mml", "Recall(k=20)")
    base = float(sides["bslnative"]["Recall(k=20)"])
    assert (gain.low, gain.high) == (pytest.approx(0.1 / base), pytest.approx(0.4 / base))


def test_an_interval_is_of_the_very_trainings_that_were_compared(tmp_path):
    """The same run on another machine has the same identity and other last digits."""
    old = [{**cell(loss, 1), "date": "2026-11-01"} for loss in ("CCL", "MML")]
    rows = suite_of(tmp_path, "table4", *old)
    difference = float(old[1]["Recall(k=20)"]) - float(old[0]["Recall(k=20)"])
    runs = " ".join(row["identity"][:12] for row in old)
    interval = {"difference": str(difference), "low": "0.001", "high": "0.002"}
    users = [{"runs": runs, "metric": "Recall(k=20)", **interval}]
    Rows(rows.cells, rows.history, users).save(tmp_path / "suite_table4")
    again = {**old[1], "date": "2026-11-02", "Recall(k=20)": f"{float(old[1]['Recall(k=20)']) + 0.001:.8f}"}
    suite_of(tmp_path, "parity", again)
    pool = Pool(tmp_path)
    gain = pool.gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    base = float(old[0]["Recall(k=20)"])
    assert gain.percent == pytest.approx(100 * (difference + 0.001) / base)
    assert gain.verdict(4.0) == "no interval yet"
    assert pool.line("MF_yelp_mml").mean("Recall(k=20)") == pytest.approx(float(again["Recall(k=20)"]))
    # Compared as it is now, and were it in another suite, it has one.
    users = [{"runs": runs, "metric": "Recall(k=20)", **interval, "difference": str(difference + 0.001)}]
    Rows([again], [], users).save(tmp_path / "suite_parity")
    gain = Pool(tmp_path).gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    assert gain.low == pytest.approx(0.1 / base)


def test_cut_runs_are_no_findings_and_the_newest_of_two_counts(tmp_path):
    suite_of(tmp_path, "a", {**cell("CCL", 1), "cut": "10 batches per epoch"})
    assert Pool(tmp_path).line("MF_yelp_ccl") is None
    old, new = {"Recall(k=20)": "0.1", "date": "2026-11-01"}, {"Recall(k=20)": "0.2", "date": "2026-11-02"}
    for names in (("a", "b"), ("b", "a")):
        for name, more in zip(names, (old, new)):
            suite_of(tmp_path, name, {**cell("CCL", 1), **more})
        assert Pool(tmp_path).line("MF_yelp_ccl").mean("Recall(k=20)") == 0.2


@pytest.mark.parametrize(("value", "said"), [("", "not measured"), ("0", "no percentage of 0")])
def test_a_gain_over_nothing_says_why_there_is_none(tmp_path, value, said):
    suite_of(tmp_path, "a", {**cell("CCL", 1), "Recall(k=20)": value}, cell("MML", 1))
    gain = Pool(tmp_path).gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    assert gain.percent is None
    assert gain.words() == gain.verdict(4.0) == gain.parity("MML", "CCL") == said
