"""Differences between runs in a report: means over seeds, tests, intervals over users, what is comparable at all."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mml_plugin.errors import UserError
from mml_plugin.report.build import build
from mml_plugin.report.comparison import compare, groups_of, paper_row, percent
from mml_plugin.report.document import Table
from mml_plugin.report.spec import Spec
from tests.report.sample import LEVEL, PAPER, cell, sample, value


def test_the_table_shows_mean_sd_difference_and_the_paper():
    document = build(Spec("T", paper=PAPER), sample())
    table = next(block for block in document.blocks if isinstance(block, Table))
    ccl, mml, bsl = table.rows
    runs = {label: np.array([value(label, seed, 6) for seed in range(1, 6)]) for label in LEVEL}
    assert ccl[:3] == ["CCL", "5", f"{runs['CCL'].mean():.4f} ± {runs['CCL'].std(ddof=1):.4f}"]
    assert mml[3] == f"{100 * (runs['MML'].mean() / runs['CCL'].mean() - 1):+.2f} %"
    paper = table.header.index("paper Recall@20")
    assert ccl[paper : paper + 2] == ["0.0600", f"{100 * (runs['CCL'].mean() / 0.06 - 1):+.2f} %"]
    assert bsl[paper] == mml[paper] == "–"


def test_tests_are_scipys_and_holm_corrected():
    rows = sample()
    tests = compare(rows, groups_of(rows.done()))
    raw = []
    for test in tests:
        factor = 0.8 if test.metric == "NDCG(k=20)" else 1
        a, b = ([round(factor * value(label, seed, 6), 8) for seed in range(1, 6)] for label in ("CCL", test.second))
        raw.append(stats.ttest_rel(b, a).pvalue)
    order = np.argsort(raw)
    corrected, highest = np.empty(len(raw)), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(raw) - place) * raw[index]))
        corrected[index] = highest
    assert [test.seeds.p_value for test in tests] == pytest.approx(corrected.tolist(), rel=1e-6)


def test_one_seed_says_so_instead_of_a_p_value():
    text = build(Spec("T"), sample(seeds=(1,))).markdown()
    assert "1 seed: too few to test, 3 are needed" in text
    assert "p = " not in text
    assert "±" not in text.split("± is")[0]


def bootstrap_row(rows, metric="Recall(k=20)", **more):
    """What the collector writes for MML against CCL over the given rows' seeds."""
    runs = " ".join(row["identity"][:12] for row in rows.cells)
    ccl, mml = (np.mean([float(row[metric]) for row in rows.cells if row["label"] == name]) for name in ("CCL", "MML"))
    row = {"runs": runs, "metric": metric, "difference": f"{mml - ccl:.8f}", "low": "0.002", "high": "0.004",
           "p_value": "0.01"}  # fmt: skip
    return {**row, "users": "300", **more}


def test_one_seed_has_an_interval_over_users_but_no_p_value():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.users = [bootstrap_row(rows)]
    text = build(Spec("T"), rows).markdown()
    ccl = value("CCL", 1, 6)
    assert f"{0.2 / ccl:+.2f} to {0.4 / ccl:+.2f} % |" in text
    assert "p = " not in text
    assert "With fewer than 3 seeds there is no p-value, of either kind." in text


def test_intervals_are_in_percent_of_the_first():
    rows = sample(labels=("CCL", "MML"), seeds=(1, 2, 3))
    rows.users = [bootstrap_row(rows)]
    text = build(Spec("T"), rows).markdown()
    a, b = (np.array([value(label, seed, 6) for seed in (1, 2, 3)]) for label in ("CCL", "MML"))
    found = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert f"{100 * found.low / a.mean():+.2f} to {100 * found.high / a.mean():+.2f} %, p = " in text
    assert f"{0.2 / a.mean():+.2f} to {0.4 / a.mean():+.2f} %, p = 0.0100" in text
    assert "in this report: 2 over seeds, 1 over users." in text


def test_a_bootstrap_of_other_runs_is_not_shown():
    rows = sample(labels=("CCL", "MML"), seeds=(1, 2, 3))
    rows.users = [bootstrap_row(rows)]
    assert compare(rows, groups_of(rows.done()))[0].users is not None
    rows.cells[-1]["Recall(k=20)"] = "0.5"  # the same run, trained again elsewhere
    assert compare(rows, groups_of(rows.done()))[0].users is None
    rows.users = [bootstrap_row(rows)]
    rows.cells[-1]["identity"] = "another run since"
    assert compare(rows, groups_of(rows.done()))[0].users is None


def test_only_shared_seeds_are_compared():
    rows = sample(labels=("CCL", "MML"))
    rows.cells = [row for row in rows.cells if (row["label"], row["seed"]) not in (("CCL", "1"), ("MML", "5"))]
    (group,) = groups_of(rows.done())
    a, b = ([value(label, seed, 6) for seed in (2, 3, 4)] for label in ("CCL", "MML"))
    assert percent(group.lines[0], group.lines[1], "Recall(k=20)") == pytest.approx(100 * (np.mean(b) / np.mean(a) - 1))


def test_two_protocols_never_stand_in_one_report():
    rows = sample(seeds=(1,))
    rows.cells.append(cell("CCL", 1, protocol="held-out"))
    with pytest.raises(UserError, match="protocols held-out and paper cannot stand in one report"):
        build(Spec("T"), rows)
    rows.cells[-1]["state"] = "outdated"  # the suite's file had that protocol once; no table shows it
    assert "Selected on test" in build(Spec("T"), rows).markdown()


def test_a_report_says_its_protocol_in_words():
    assert "Selected on test (protocol paper)" in build(Spec("T"), sample(seeds=(1,))).markdown()
    held = sample(seeds=(1,), protocol="held-out")
    assert "Selected on validation (protocol held-out)" in build(Spec("T"), held).markdown()


def test_a_stand_in_for_a_missing_first_is_said():
    rows = sample(labels=("MML", "BSL"), seeds=(1,))
    said = "CCL, which the others are held against, has no result yet: MML stands in."
    assert said not in build(Spec("T"), rows).markdown()
    rows.cells.insert(0, {**cell("CCL", 1), "state": "missing"})
    assert said in build(Spec("T"), rows).markdown()


def test_a_group_of_one_run_shows_both_metrics():
    table = next(block for block in build(Spec("T"), sample(("CCL",), (1,))).blocks if isinstance(block, Table))
    assert {"Recall@20", "NDCG@20"} < set(table.header)


def test_results_of_other_settings_are_left_out_and_said():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.cells.append({**cell("MML", 2), "state": "outdated", "Recall(k=20)": "0.99"})
    text = build(Spec("T"), rows).markdown()
    assert "no longer the suite's: MML (MF on yelp18, 100 negatives)." in text
    assert "±" not in text.split("± is")[0]
    assert "Cells that failed" not in text
    rows.cells[-1]["error"], rows.cells[0]["error"] = "disk full", "no data"
    text = build(Spec("T"), rows).markdown()
    assert "failed; an earlier result is left out | disk full" in text
    assert "failed; an earlier result is shown    | no data" in text


def test_several_machines_are_said():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    said = "Runs of several machines stand here"
    assert said not in build(Spec("T"), rows).markdown()
    rows.cells[0]["gpu"] = "A GPU"
    text = build(Spec("T"), rows).markdown()
    assert said in text
    costs = [line.split("|") for line in text.split("## Time and memory")[1].splitlines() if "| MF on" in line]
    assert [line[6].strip() for line in costs] == ["1", "2"]
    for number, where in (("1", "2 threads, A GPU"), ("2", "2 threads")):
        assert f"- machine {number}: A processor, 2 cores, 16 GiB, {where}\n" in text
    # Seconds of two machines make no difference; of one they do, also beside a run of no time at all.
    assert "–, two machines" in build(Spec("T", kind="time"), rows).markdown()
    rows.cells[0] |= {"gpu": "", "train_seconds_per_epoch": "0.0", "eval_seconds_per_epoch": "0.0"}
    text = build(Spec("T", kind="time"), rows).markdown()
    assert "two machines" not in text
    rows.cells[0]["train_seconds_per_epoch"] = "6.0"
    assert "+3.00 s (+50.0 %)" in build(Spec("T", kind="time"), rows).markdown()


def test_paper_rows_match_by_every_key_they_have():
    assert paper_row(PAPER, cell("CCL", 1))["recall_at_20"] == "0.0600"
    assert paper_row(PAPER, cell("MML", 1)) is None
