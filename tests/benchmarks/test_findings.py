"""The findings page over rows that were made up."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import stdev

import pytest
from findings import findings
from findings_page import negatives_and_epochs
from findings_page.claims import by_sign, on_par
from findings_page.early_stopping import early_stopping
from findings_page.epoch_time import SETTINGS, epoch_time
from findings_page.margins_or_weight import ablation, retuned
from findings_page.negatives_and_epochs import NEGATIVES, by_negatives, first_epochs
from findings_page.other_settings import plateau
from findings_page.words import ANYTHING, both_metrics, value_of

from mml_plugin.report.comparison import Line, groups_of
from mml_plugin.report.gain import Gain
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Rows
from tests.report.sample import ROOT, cell, history, sample, suite_of, value


def test_the_page_says_its_rule_of_parity():
    text, _ = on_par(Pool(ROOT / "nowhere"))
    assert "it lies beyond 2 % on one side; **undecided** otherwise" in text
    assert "All this holds for the paired t interval over seeds too, with 3 seeds or more." in text


def test_a_small_loss_is_no_gain_where_nothing_was_claimed():
    assert Gain(-0.4, 3, 0.1, -0.7, -0.1, -0.6, -0.2).verdict(ANYTHING) == "no"
    assert Gain(0.4, 3, 0.1, 0.1, 0.7, 0.2, 0.6).verdict(ANYTHING) == "yes"


def test_findings_read_the_gains_off_the_rows(tmp_path):
    rows = sample(labels=("CCL", "MML"))
    for row in rows.cells:
        row["expid"] = f"MF_yelp_{row['label'].lower()}"
    runs = " ".join(row["identity"][:12] for row in rows.cells)
    ccl, mml = (sum(value(label, seed, 6) for seed in range(1, 6)) / 5 for label in ("CCL", "MML"))
    interval = {"difference": str(mml - ccl), "low": "0.002", "high": "0.004"}
    rows.users = [{"runs": runs, "metric": "Recall(k=20)", **interval}]
    Rows(rows.cells, [line for row in rows.cells for line in history(row)], rows.users).save(tmp_path / "suite_table4")
    pool = Pool(tmp_path)
    gain = pool.gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    assert gain.percent == pytest.approx(100 * (mml / ccl - 1))
    assert gain.low == pytest.approx(100 * 0.002 / ccl)
    assert gain.seeds == 5
    noise = f"5 seeds: sd {gain.sd:.2f} %, t {gain.t_low:+.2f} to {gain.t_high:+.2f} %"
    assert f"{gain.percent:+.2f} % (users: {gain.low:+.2f} to {gain.high:+.2f} %; {noise})" in findings(pool)


def test_older_settings_of_an_experiment_are_left_out_and_named(tmp_path):
    for name, seed, setting, date, reached in (
        ("a", 1, "old", "2026-11-01", "0.01"),
        ("b", 2, "new", "2026-11-02", "0.09"),
    ):
        suite_of(tmp_path, name, {**cell("CCL", seed), "config_hash": setting, "date": date, "Recall(k=20)": reached})
    pool = Pool(tmp_path)
    assert pool.line("MF_yelp_ccl").values("Recall(k=20)") == [0.09]
    said = "Left out, because newer rows of theirs have other settings or data: MF_yelp_ccl paper fast."
    assert said in findings(pool)


def test_runs_without_their_epochs_do_not_take_the_page_down(tmp_path):
    timed = [
        {**cell(loss, 1), "expid": f"MF_yelp_{loss.lower()}", "settings": SETTINGS, "cell": f"timed {loss}"}
        for loss in ("CCL", "MML")
    ]
    Rows([cell("CCL", 1), *timed]).save(tmp_path / "suite_x")
    page = findings(Pool(tmp_path))
    lines = [
        line for line in page.splitlines() if line.startswith(("| MF, Yelp2018, CCL ", "| Yelp2018, 100 negatives "))
    ]
    assert [line.count("its epochs are not kept") for line in lines] == [2, 4]


def test_every_comparison_of_the_page_is_made_by_a_suite():
    """Each pair that the page needs an interval for is a line against the first of its group in some suite."""
    from mml_plugin.experiment.suite import make_cells, read_suite

    made = set()
    for name in ("table2", "table4", "figure3", "parity", "plateau"):
        firsts = {}
        for made_cell in make_cells(
            read_suite(ROOT / "benchmarks" / "suites" / f"{name}.yaml"), ROOT / "config", Path("x")
        ):
            first = firsts.setdefault(made_cell.group, made_cell.request.expid)
            made.add(frozenset((first, made_cell.request.expid)))
    for data in ("yelp", "gowalla"):
        for first, second in (
            *((f"{m}_{data}_ccl_plateau", f"{m}_{data}_mml_plateau") for m in ("MF", "SimpleX")),
            (f"MF_{data}_ccl", f"MF_{data}_mml"), (f"SimpleX_{data}_ccl", f"SimpleX_{data}_mml"),
            (f"MF_{data}_ccl_n10", f"MF_{data}_mml_n10"), (f"MF_{data}_bsl", f"MF_{data}_mml"),
            (f"MF_{data}_bslnative", f"MF_{data}_mml"), (f"MF_{data}_mse", f"MF_{data}_mml"),
            *((f"MF_{data}_{loss}_n{n}", f"MF_{data}_mml_n{n}")
              for n in NEGATIVES if n != 100 for loss in ("ccl", "bsl")),
        ):  # fmt: skip
            assert frozenset((first, second)) in made


def test_an_unfinished_ablation_concludes_nothing(tmp_path):
    rows = [
        {
            **cell(loss, 1, protocol="held-out"),
            "family": family,
            "label": f"{family} {number}",
            "cell": f"{loss}{number}",
        }
        for loss, family in (("CCL", "single margin"), ("MML", "several margins"))
        for number in range(2)
    ]
    suite_of(tmp_path, "ablation", *rows)
    assert "several margins buy" in ablation(Pool(tmp_path))
    rows[0]["state"] = "missing"
    suite_of(tmp_path, "ablation", *rows)
    text = ablation(Pool(tmp_path))
    assert "unfinished, only 1 of 2 cells of single margin and 2 of 2 cells of several margins" in text
    assert "buy" not in text


def test_what_was_published_stands_beside_what_tuning_chose(tmp_path):
    reached = {"CCL re-tuned": "0.0625", "CCL published": "0.05", "MML published": "0.0650", "MML re-tuned": "0.075"}
    rows = [
        {**cell(label[:3], 1, protocol="held-out"), "label": label, "cell": label, "Recall(k=20)": value}
        for label, value in reached.items()
    ]
    suite_of(tmp_path, "retuned", *rows)
    lines = [re.split(r" *\| *", line)[1:-1] for line in retuned(Pool(tmp_path)).splitlines()]
    assert lines[0][2:6] == ["CCL published", "CCL re-tuned", "MML published", "MML re-tuned"]
    assert lines[2][1:6] == ["Recall@20", "0.0500", "0.0625", "0.0650", "0.0750"]
    assert lines[2][6:] == ["+25.00 % (1 seed)", "+4.00 % (1 seed)", "+20.00 % (1 seed)"]
    suite_of(tmp_path, "retuned", *rows[1:])
    lines = [re.split(r" *\| *", line)[1:-1] for line in retuned(Pool(tmp_path)).splitlines()]
    assert lines[2][6:] == ["not run yet"] * 3


def test_the_retuned_settings_are_those_that_the_ablation_chose():
    results = ROOT / "benchmarks" / "results"
    chosen = {
        (group.name, line.first["loss"]): line.first["identity"]
        for group in groups_of(Rows.load(results / "suite_ablation").done()) for line in group.lines
    }  # fmt: skip
    tuned = {
        (row["group"], row["loss"]): row["identity"]
        for row in Rows.load(results / "suite_retuned").done() if row["label"].endswith("re-tuned")
    }  # fmt: skip
    assert len(tuned) == 4
    assert tuned == chosen


def test_where_a_chosen_cell_stood_after_the_short_runs(tmp_path):
    def row(family, number, validation, **more):
        return {**cell("CCL", 1, protocol="held-out"), "family": family, "label": f"{family} {number}",
                "cell": f"{family}{number}", "validation Recall(k=20)": validation, **more}  # fmt: skip

    names = ("single margin", "several margins")
    suite_of(tmp_path, "ablation", *(row(name, 1, "0.2") for name in names))
    short = [row(name, number, f"0.1{number}", max_epochs="15") for name in names for number in (0, 1, 2)]
    suite_of(tmp_path, "ablation15", *short)
    said = "single margin 2 of 3 after 15 epochs, several margins 2 of 3 after 15 epochs"
    assert said in ablation(Pool(tmp_path))


def test_losses_are_held_side_by_side_at_each_number_of_negatives(tmp_path):
    reached = {("CCL", 10): 0.04, ("MML", 10): 0.05, ("CCL", 100): 0.08, ("MML", 100): 0.06, ("BSL", 100): 0.07}
    rows = [
        {**cell(loss, 1, negatives=count), "Recall(k=20)": str(value), "NDCG(k=20)": str(value),
         "expid": f"MF_yelp_{loss.lower()}" + ("_n10" if count == 10 else "")}
        for (loss, count), value in reached.items()
    ]  # fmt: skip
    suite_of(tmp_path, "figure3", *rows)
    text = by_negatives(Pool(tmp_path))
    tables = [[re.split(r" *\| *", line)[1:-1] for line in table.splitlines()] for table in text.split("\n\n")]
    values, to_ccl, to_bsl, fewer = (
        [line[1:] for line in table if line[0] == "Yelp2018, Recall@20"] for table in tables
    )
    assert values == [["CCL", "0.0400", "0.0800"], ["MML", "0.0500", "0.0600"], ["BSL", "not run yet", "0.0700"]]
    assert to_ccl == [["+25.00 % (1 seed)", "-25.00 % (1 seed)"]]
    assert to_bsl == [["not run yet", "-14.29 % (1 seed)"]]
    assert fewer == [["100", "-37.50 % (1 seed)"]]


def test_mml_with_fewer_negatives_stands_beside_ccl_with_as_many_as_it_was_run_with(tmp_path):
    reached = {("CCL", 100): 0.08, ("CCL", 400): 0.1, ("MML", 10): 0.06, ("MML", 100): 0.09, ("MML", 800): 0.12}
    rows = [
        {**cell(loss, 1, negatives=count), "Recall(k=20)": str(value),
         "expid": f"MF_gowalla_{loss.lower()}" + ("" if count == 100 else f"_n{count}")}
        for (loss, count), value in reached.items()
    ]  # fmt: skip
    suite_of(tmp_path, "figure3", *rows)
    lines = [re.split(r" *\| *", line)[1:-1] for line in by_negatives(Pool(tmp_path)).split("\n\n")[-1].splitlines()]
    assert lines[0] == ["MML to CCL with more", "CCL with", "MML with 10", "MML with 100"]
    assert [line[1:] for line in lines if line[0] == "Gowalla, Recall@20"] == [
        ["100", "-25.00 % (1 seed)", "–"], ["400", "-40.00 % (1 seed)", "-10.00 % (1 seed)"]
    ]  # fmt: skip


def test_the_schedule_stands_beside_the_constant_learning_rate(tmp_path):
    reached = {"ccl": "0.04", "ccl_plateau": "0.05", "mml": "0.06", "mml_plateau": "0.055"}
    rows = [
        {**cell("CCL", 1), "expid": f"MF_gowalla_{name}", "cell": name, "Recall(k=20)": value}
        for name, value in reached.items()
    ]
    suite_of(tmp_path, "plateau", *rows)
    lines = [re.split(r" *\| *", line)[1:-1] for line in plateau(Pool(tmp_path)).splitlines()]
    found = next(line for line in lines if line[:2] == ["MF, Gowalla", "Recall@20"])
    assert found[2:] == ["0.0400", "0.0500", "0.0600", "0.0550", "+10.00 % (1 seed)", "no interval yet"]
    assert next(line for line in lines if line[0] == "MF, Yelp2018")[2:] == ["not run yet"] * 6


def test_what_the_first_epochs_reach_is_read_off_whole_runs(tmp_path, monkeypatch):
    """The made-up curves rise until epoch 6: the best of the first four is the fourth."""
    monkeypatch.setattr(negatives_and_epochs, "FIRST_EPOCHS", 4)
    rows = sample(labels=("CCL", "MML"))
    for row in rows.cells:
        row["expid"] = f"MF_yelp_{row['label'].lower()}"
    cut = {"expid": "MF_yelp_bsl", "settings": "epochs=20", "cell": "cut", "Recall(k=20)": "0.0123"}
    Rows(
        [*rows.cells, {**cell("BSL", 1), **cut}], [line for row in rows.cells for line in history(row)], rows.users
    ).save(tmp_path / "suite_table4")
    lines = [re.split(r" *\| *", line)[1:-1] for line in first_epochs(Pool(tmp_path)).splitlines()[2:]]
    assert [line[:2] for line in lines] == [["MF, Yelp2018, 100 negatives", m] for m in ("Recall@20", "NDCG@20")]
    ccl, mml = ([value(label, seed, 4) for seed in range(1, 6)] for label in ("CCL", "MML"))
    assert lines[0][2:5] == [f"{sum(ccl) / 5:.4f} (5 seeds)", f"{sum(mml) / 5:.4f} (5 seeds)", "not run yet"]
    assert lines[0][5].startswith(f"{100 * (sum(mml) / sum(ccl) - 1):+.2f} % ({seeds_and_sd(ccl, mml)}")


def test_a_later_epoch_that_is_better_by_less_than_recbox_counts_is_not_the_best(tmp_path):
    row = {**cell("CCL", 1), "expid": "MF_yelp_ccl"}
    reached = [("0.05", "0.04"), ("0.06", "0.05"), ("0.0600005", "0.049"), *[("0.055", "0.06")] * 5]
    epochs = [
        {**epoch, "cell": row["cell"], "Recall(k=20)": recall, "NDCG(k=20)": ndcg}
        for epoch, (recall, ndcg) in zip(history(row), reached)
    ]
    Rows([row], epochs).save(tmp_path / "suite_table4")
    lines = [re.split(r" *\| *", line)[1:-1] for line in first_epochs(Pool(tmp_path)).splitlines()[2:]]
    assert [line[2] for line in lines] == ["0.0600", "0.0500"]


def test_what_a_run_does_not_measure_of_its_first_epochs_is_said(tmp_path):
    rows = [{**cell(loss, 1), "expid": f"MF_yelp_{loss.lower()}", "cell": loss} for loss in ("CCL", "MML")]
    epochs = [{**epoch, "cell": row["cell"]} for row in rows for epoch in history(row)]
    for epoch in epochs:
        if epoch["cell"] == "MML":
            epoch["NDCG(k=20)"] = ""
    Rows(rows, epochs).save(tmp_path / "suite_table4")
    lines = [re.split(r" *\| *", line)[1:-1] for line in first_epochs(Pool(tmp_path)).splitlines()[2:]]
    assert lines[1][1:] == ["NDCG@20", lines[1][2], "not measured", "not run yet", "not measured"]
    assert float(lines[1][2]) > 0
    assert "measured" not in " ".join(lines[0])


def test_a_claim_without_a_size_is_judged_by_its_sign(tmp_path):
    above = {"ccl": 0.05, "mml": 0.06, "bsl": 0.07}
    rows = [
        {
            **cell("CCL", 1),
            "expid": f"MF_yelp_{name}_n200",
            "cell": name,
            "identity": name * 5,
            "Recall(k=20)": str(value),
        }
        for name, value in above.items()
    ]
    users = [
        {"runs": f"{other * 4} {'mml' * 4}", "metric": "Recall(k=20)", "difference": str(0.06 - above[other]),
         "low": str(0.06 - above[other] - 0.001), "high": str(0.06 - above[other] + 0.001)}
        for other in ("ccl", "bsl")
    ]  # fmt: skip
    Rows(rows, [], users).save(tmp_path / "suite_figure3")
    text, verdicts = by_sign(Pool(tmp_path), (200,), {"CCL": 1, "BSL": -1})
    lines = [re.split(r" *\| *", line)[1:-1] for line in text.splitlines()]
    found = {line[0]: line[2] for line in lines if line[1:2] == ["Recall@20"]}
    assert found["MML ahead of CCL, Yelp2018"] == "yes (1 seed)"
    assert found["BSL ahead of MML, Yelp2018"] == "yes (1 seed)"
    assert by_sign(Pool(tmp_path), (200,), {"CCL": -1})[1][0] == "no (1 seed)"
    users[1] |= {"low": "-0.02", "high": "0.001"}
    Rows(rows, [], users).save(tmp_path / "suite_figure3")
    assert by_sign(Pool(tmp_path), (200,), {"BSL": -1})[1][0] == "no difference seen (1 seed)"
    assert verdicts.count("not run yet") == 4


def test_seeds_that_differ_on_what_early_stopping_costs_are_said_to(tmp_path):
    """Curves of eight epochs that fall at the third to fifth, so that patience 3 ends them at the second."""
    rows, epochs = [], []
    for seed, last in ((1, "0.0600"), (2, "0.0505")):
        row = {**cell("CCL", seed), "expid": "MF_yelp_ccl", "Recall(k=20)": last, "NDCG(k=20)": last}
        curve = ["0.04", "0.05", "0.01", "0.01", "0.01", "0.055", "0.0502", last]
        epochs += [
            {**epoch, "Recall(k=20)": reached, "NDCG(k=20)": reached} for epoch, reached in zip(history(row), curve)
        ]
        rows.append(row)
    Rows(rows, epochs).save(tmp_path / "suite_table2")
    text, _ = early_stopping(Pool(tmp_path))
    found = next(
        re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("| MF, Yelp2018, CCL")
    )
    assert found[2] == "-8.83 % (-16.67/-0.99)"
    assert found[6:] == ["5/5", "seeds differ (2 seeds)"]


def test_seconds_are_compared_round_by_round(tmp_path):
    timed = {("ccl", 1): (10, 1), ("mml", 1): (11, 1.5), ("ccl", 2): (12, 1), ("mml", 2): (15, 1)}
    rows = [
        {**cell("CCL", seed), "expid": f"MF_yelp_{loss}", "settings": SETTINGS, "cell": f"{loss}{seed}",
         "identity": f"{loss}{seed}", "date": f"2026-12-01T10:0{3 - seed if loss == 'ccl' else seed}",
         "train_seconds_per_epoch": str(train), "eval_seconds_per_epoch": str(evaluation)}
        for (loss, seed), (train, evaluation) in timed.items()
    ]  # fmt: skip
    suite_of(tmp_path, "table3", *rows)
    text, _ = epoch_time(Pool(tmp_path))
    found = next(re.split(r" *\| *", line)[1:-1] for line in text.splitlines() if line.startswith("| Yelp2018, 100 "))
    assert "12.0 s" in found[2]
    assert "14.2 s" in found[2]
    assert found[2].endswith(": +2.25 s (+1.50/+3.00), +18.8 %")
    assert found[3] == "rounds differ"
    assert "once (round 1: MML first, round 2: CCL first); the difference" in text
    # A round that lacks a figure of one loss is none.
    rows[2]["eval_seconds_per_epoch"] = ""
    suite_of(tmp_path, "table3", *rows)
    assert ": +1.50 s, +13.6 %" in epoch_time(Pool(tmp_path))[0]
    rows[0]["train_seconds_per_epoch"] = ""
    suite_of(tmp_path, "table3", *rows)
    assert epoch_time(Pool(tmp_path))[1].count("not measured") == 1


def seeds_and_sd(first, second):
    sd = 100 * stdev(b - a for a, b in zip(first, second)) / (sum(first) / len(first))
    return f"{len(first)} seeds: sd {sd:.2f} %"


def test_a_mean_says_over_how_many_seeds_where_there_are_several():
    def line(*reached):
        return Line(
            "X", {str(seed): {"Recall(k=20)": value, "NDCG(k=20)": "0.5"} for seed, value in enumerate(reached)}
        )

    assert value_of(line("0.1", "0.2"), "Recall(k=20)") == "0.1500 (2 seeds)"
    assert value_of(line("0.1"), "Recall(k=20)") == "0.1000"
    assert both_metrics(line("0.1", "0.2", "0.3")) == "0.2000 / 0.5000 (3 seeds)"
    assert both_metrics(line("")) == "not measured / 0.5000"
