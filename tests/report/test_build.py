"""Reports are a function of rows: rebuilt identical, honest about holes, noise and protocols, safe to open."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mml_plugin.engine.schedule import Schedule
from mml_plugin.errors import UserError
from mml_plugin.hosts import recbox
from mml_plugin.report.build import build
from mml_plugin.report.comparison import compare, groups_of, paper_row, percent
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.rows import Rows, columns_of, read_csv, write_csv
from mml_plugin.report.spec import Spec
from tests.report.sample import LEVEL, cell, history, sample, value

PAPER = [
    {"model": "MF", "loss": "CCL", "dataset": "yelp18", "recall_at_20": "0.0600", "ndcg_at_20": "0.0480"},
    {"model": "MF", "loss": "MML", "dataset": "gowalla", "recall_at_20": "0.9", "ndcg_at_20": "0.9"},
]


def test_a_report_is_rebuilt_identical_from_saved_rows(tmp_path):
    spec = Spec("A title", "About", paper=PAPER, early_stop=3)
    rows = sample()
    rows.save(tmp_path / "suite_x")
    build(spec, rows).write(tmp_path / "one")
    build(spec, Rows.load(tmp_path / "suite_x")).write(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"report.md", "report.html", "report.csv"} < set(names)
    assert sum(name.endswith(".png") for name in names) == 2
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


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


def test_failed_and_missing_cells_are_shown_with_their_error():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.cells.append({**cell("BSL", 1), "state": "failed", "error": "the loss is nan"})
    rows.cells.append({**cell("BSL", 2), "state": "missing"})
    text = build(Spec("T"), rows).markdown()
    assert "the loss is nan" in text
    assert "Not run yet: 1 of 4 cells.\n\n- MF on yelp18, 100 negatives: BSL\n" in text


def test_what_is_missing_is_named_by_group_seed_and_family():
    rows = sample(labels=("CCL",), seeds=(1,))
    rows.cells += [{**cell("CCL", seed), "state": "missing"} for seed in (2, 3)]
    tuned = [{**cell("MML", 1, negatives=10), "label": f"c{n}", "cell": f"c{n}", "family": "MML"} for n in range(3)]
    rows.cells += [tuned[0], *({**row, "state": "missing"} for row in tuned[1:])]
    text = build(Spec("T"), rows).markdown()
    assert "Not run yet: 4 of 6 cells." in text
    assert "- MF on yelp18, 100 negatives: CCL (seeds 2 3)\n" in text
    assert "- MF on yelp18, 10 negatives: MML (2 of 3 tuning cells)\n" in text
    assert "Cells with a result: MML 1 of 3." in text


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


def test_tuning_cells_are_listed_by_the_seeds_that_chose():
    rows = tuned()
    values = {"single 0": ("0.4", "0.1", "0.1"), "single 1": ("0.3",), "several 0": ("0.2",), "several 1": ("0.1",)}
    rows.cells = [row for row in rows.cells if int(row["seed"]) <= len(values[row["label"]])]
    for row in rows.cells:
        row["validation Recall(k=20)"] = values[row["label"]][int(row["seed"]) - 1]
    text = build(Spec("T"), rows).markdown()
    assert "Compared on seed 1, which all of them have." in text
    lines = [line for line in text.split("Tuning cells")[1].splitlines() if line.startswith(("| single", "| several"))]
    shown = [[word.strip() for word in line.strip("|").split("|")] for line in lines]
    assert [line[1:] for line in shown] == [
        ["single 0", "0.40000"], ["single 1", "0.30000"], ["several 0", "0.20000"], ["several 1", "0.10000"],
    ]  # fmt: skip


def tuned(count=2):
    """Two families of that many cells, MML's metrics half as high again; every cell has three seeds."""
    cells = []
    for label, family, recall in (("CCL", "single", "0.10"), ("MML", "several", "0.15")):
        for number in range(count):
            more = {"family": family, "label": f"{family} {number}", "Recall(k=20)": recall}
            for seed in (1, 2, 3):
                row = {**cell(label, seed, protocol="held-out"), "validation Recall(k=20)": "0.1", **more}
                cells.append({**row, "cell": f"{family}{number}s{seed}"})
    return Rows(cells)


@pytest.mark.parametrize("state", ["missing", "failed"])
def test_an_unfinished_tuning_concludes_nothing(state):
    finished = build(Spec("T"), tuned()).markdown()
    assert "+50.00 %" in finished
    assert "Is the difference real?" in finished
    assert "Unfinished" not in finished
    rows = tuned()
    for row in rows.cells[-3:]:
        row["state"] = state
    document = build(Spec("T"), rows)
    text = document.markdown()
    assert "50.0" not in text
    assert "Is the difference real?" not in text
    assert "the best of" not in text
    assert "Unfinished tuning (single 2 of 2, several 1 of 2 have a result)" in text
    assert not any(row.get("Recall@20 percent to first") for row in document.numbers)


def test_a_cell_whose_row_is_outdated_is_unfinished_too():
    rows = tuned()
    for row in rows.cells[-3:]:
        row.update(state="outdated", asked="missing")
    text = build(Spec("T"), rows).markdown()
    assert "Unfinished tuning (single 2 of 2, several 1 of 2 have a result)" in text
    assert "- MF on yelp18, 100 negatives: several (1 of 2 tuning cells)" in text
    assert "Not run yet: 3 of 12 cells." in text
    for row in rows.cells[-3:]:
        row["asked"] = "waiting"
    text = build(Spec("T"), rows).markdown()
    assert "Unfinished tuning (single 2 of 2, several 1 of 2 have a result)" in text
    assert "Not run yet: " not in text
    assert "worth a whole run:\n\n- MF on yelp18, 100 negatives: several\n" in text
    for row in rows.cells[-3:]:
        row["asked"] = "screened out"
    text = build(Spec("T"), rows).markdown()
    assert "Unfinished" not in text
    assert "- MF on yelp18, 100 negatives: 1 of 2 several" in text
    for row in rows.cells[-3:]:
        del row["asked"]  # the suite has another cell in its place
    text = build(Spec("T"), rows).markdown()
    assert "Unfinished" not in text
    assert "Not run yet" not in text


def test_what_a_family_buys_counts_the_cells_that_were_screened_out_too():
    rows = tuned()
    text = build(Spec("T"), rows).markdown()
    assert "the best of 2 cells with several (several 0)" in text
    assert "against the best of 2 cells with single (single 0)" in text
    more = [
        {**row, "label": "several 9", "cell": f"{row['cell']}9", "state": "screened out"} for row in rows.cells[-3:]
    ]
    text = build(Spec("T"), Rows([*rows.cells, *more], rows.history)).markdown()
    assert "the best of 2 whole runs out of 3 cells with several (several 0)" in text
    assert "against the best of 2 cells with single (single 0)" in text


def test_a_chosen_cell_is_said_to_be_flattered_by_the_seed_that_chose_it():
    rows = tuned()
    assert "with the seed that chose it" not in build(Spec("T"), rows).markdown()
    further = [{**row, "seed": "9", "cell": f"{row['cell']}9"} for row in rows.cells if row["label"].endswith("0")][::3]
    assert "with the seed that chose it" in build(Spec("T"), Rows([*rows.cells, *further], rows.history)).markdown()


def test_a_cell_that_another_process_runs_has_not_failed():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.cells[1]["state"] = "running elsewhere"
    text = build(Spec("T"), rows).markdown()
    assert "Running in another process: MML (MF on yelp18, 100 negatives)." in text
    assert "failed" not in text


def test_tuning_cells_without_a_seed_in_common_are_unfinished():
    rows = tuned()
    rows.cells = [row for row in rows.cells if row["label"] != "several 0" or row["seed"] == "1"]
    rows.cells = [row for row in rows.cells if row["label"] != "several 1" or row["seed"] == "2"]
    assert "Unfinished tuning (single 2 of 2, several 1 of 2 have a result)" in build(Spec("T"), rows).markdown()


def test_further_seeds_of_a_chosen_cell_are_no_tuning_cells():
    rows = tuned()
    for row in rows.cells:
        if row["label"] == "several 1" and row["seed"] != "1":
            row["state"] = "missing"
    text = build(Spec("T"), rows).markdown()
    assert "- MF on yelp18, 100 negatives: several 1 (seeds 2 3)" in text
    assert "tuning cells)" not in text.split("Where these")[0].split("Unfinished")[0]


def test_an_unfinished_family_is_no_point_of_the_curve():
    cells = [cell(label, 1, negatives=n, protocol="held-out") for n in (10, 100) for label in ("CCL", "MML")]
    for row in cells:
        row.update({"family": row["label"], "validation Recall(k=20)": "0.1"})
    rows = Rows([*cells, {**cells[-1], "label": "MML 2", "cell": "other", "state": "missing"}])
    text = build(Spec("T"), rows).markdown()
    table = text.split("## Recall@20 by number of negatives")[1].split("!")[0]
    assert table.count("–") == 1
    assert "–" in next(line for line in table.splitlines() if line.startswith("| MML"))


def test_an_unfinished_tuning_leaves_other_groups_alone():
    rows = tuned()
    rows.cells[-1]["state"] = "missing"
    rows.cells += sample(labels=("CCL", "MML"), seeds=(1, 2, 3), protocol="held-out", negatives=10).cells
    text = build(Spec("T"), rows).markdown()
    assert "Unfinished" not in text  # a chosen cell's further seed is no tuning cell
    for row in rows.cells:
        if row["label"] == "several 1":
            row["state"] = "missing"
    text = build(Spec("T"), rows).markdown()
    assert "Unfinished tuning" in text
    compared = text[text.index("Is the difference real?") :]
    assert "MF on yelp18, 10 negatives" in compared
    assert "several to single" not in compared


def test_nothing_run_is_a_report_too():
    assert "Nothing has been run yet." in build(Spec("T"), Rows([{**cell("CCL", 1), "state": "missing"}])).markdown()


def test_html_is_one_safe_page():
    evil = '<script>alert("x")</script>'
    rows = sample(seeds=(1,))
    for row in rows.cells:
        row["label"] = row["label"] + evil
    page = build(Spec(evil, f"by `mml` and `{evil}`"), rows).html()
    assert "<script" not in page
    assert "by <code>mml</code> and <code>&lt;script&gt;" in page
    assert "&lt;script&gt;" in page
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    assert '<meta name="viewport" content="width=device-width' in page


def test_pipes_do_not_break_markdown_tables():
    document = Document([Heading("T", 1), Table(["a|b"], [["c|d"]]), Text("end")])
    assert "| a\\|b |" in document.markdown()


def test_csv_holds_the_tables_numbers(tmp_path):
    build(Spec("T"), sample()).write(tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "report.csv").read_text())))
    mml = next(row for row in rows if row["run"] == "MML")
    assert float(mml["Recall@20"]) == pytest.approx(np.mean([value("MML", s, 6) for s in range(1, 6)]), abs=1e-6)


def test_bands_on_other_margins_are_said_not_shown():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    for row in rows.cells:
        if row["label"] == "MML":
            row["thresholds"] = "0.6"
    for line in rows.history:
        if "mml" in line["cell"]:
            line.update({f"{what}_{band}": "" for what in ("band", "gradient") for band in range(3)})
    text = build(Spec("T"), rows).markdown()
    assert "because the run was counted on other margins: MML (counted on 0.6)" in text
    assert "98.000 %" in text


def test_bands_of_other_thresholds_and_lost_epochs_are_not_shown():
    rows = sample(seeds=(1,))
    for row in rows.cells:
        row["suite_thresholds"] = "0.7 0.9" if row["label"] != "MML" else "0.5 0.6"
        row["thresholds"] = row["suite_thresholds"]
    rows.history = [line for line in rows.history if "bsl" not in line["cell"]]
    text = build(Spec("T"), rows).markdown()
    assert "because the run was counted on other margins: MML (counted on 0.5 0.6)" in text
    more = sample(labels=("CCL",), seeds=(2,))
    more.cells[0]["suite_thresholds"] = "0.5 0.6"
    both = Rows([*rows.cells, *more.cells], [*rows.history, *more.history])
    assert "other margins: CCL (counted on 0.7 0.9), MML" in build(Spec("T"), both).markdown()
    assert "because not all epochs of the run are kept: BSL" in text
    bands = text.split("## Band occupancy")[1]
    assert "| CCL" in bands
    assert "| MML" not in bands.split("## Time")[0]


def test_a_history_that_begins_late_is_not_read_as_if_it_began_at_the_first_epoch():
    rows = sample(labels=("CCL", "MML"), seeds=(1,))
    rows.history = [line for line in rows.history if "mml" not in line["cell"] or int(line["epoch"]) > 3]
    text = build(Spec("T", early_stop=1), rows).markdown()
    stops = text.split("With early stopping")[1].split("A stop epoch")[0]
    assert "| CCL" in stops
    assert "| MML" not in stops
    curves = text.split("## Learning curves")[1]
    assert "because not all epochs of the run are kept: MML (MF on yelp18, 100 negatives)" in curves
    assert "because not all epochs of the run are kept: MML." in text.split("## Band occupancy")[1]
    costs = [line.split("|") for line in text.split("## Time and memory")[1].splitlines() if "| MF on" in line]
    assert [[cell.strip() for cell in line][-3] for line in costs] == ["1.2", "–"]


def test_a_seed_without_any_gradient_does_not_lower_the_others_shares():
    rows = sample(labels=("CCL", "MML"), seeds=(1, 2))
    for line in rows.history:
        if line["cell"].endswith("s2") or "mml" in line["cell"]:
            line.update({f"gradient_{band}": "0" for band in range(3)})
    bands = build(Spec("T"), rows).markdown().split("## Band occupancy")[1].split("## Time")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in bands.splitlines() if "| gradient" in line]
    assert cells == [["CCL", "gradient", "0.0 %", "40.0 %", "60.0 %"], ["MML", "gradient", *["none"] * 3]]


def test_bands_are_those_of_each_seeds_own_best_epoch():
    rows = sample(labels=("CCL",), seeds=(1, 2))
    for row, best in zip(rows.cells, ("2", "8")):
        row["best_epoch"] = best
    for line in rows.history:
        seed = line["cell"][-1]
        line["band_0"] = "0.5" if (seed, line["epoch"]) in {("1", "2"), ("2", "8")} else "0.9"
    bands = build(Spec("T"), rows).markdown().split("## Band occupancy")[1]
    assert "50.000 %" in bands
    assert "90.000 %" not in bands


def test_early_stopping_and_the_full_run_are_of_the_same_seeds():
    rows = sample(labels=("CCL",), seeds=(1, 2, 3))
    alone = build(Spec("T", early_stop=3), sample(labels=("CCL",), seeds=(1, 2))).markdown()
    for metric in ("Recall(k=20)", "NDCG(k=20)"):
        rows.cells[2][metric] = "0.9"
    rows.history = [line for line in rows.history if not line["cell"].endswith("s3")]
    tables = [
        t.split("With early stopping")[1].split("A stop")[0]
        for t in (alone, build(Spec("T", early_stop=3), rows).markdown())
    ]
    assert tables[0] == tables[1]


def test_what_only_an_earlier_report_had_is_removed(tmp_path):
    rows = sample(seeds=(1,))
    build(Spec("T"), rows).write(tmp_path)
    (tmp_path / "mine.png").touch()
    with open(tmp_path / "report.md", "ab") as stream:
        stream.write(b"\n![mine](mine.png)\n\xff\xfe\n")
    before = {path.name for path in tmp_path.iterdir()}
    for row in rows.cells:
        row["state"] = "outdated"
    build(Spec("T"), rows).write(tmp_path)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"report.md", "report.html", "mine.png"}
    assert len(before - left) == 3


def test_early_stopping_of_groups_that_measure_different_things():
    rows = sample(labels=("CCL",), seeds=(1,))
    other = sample(labels=("CCL",), seeds=(1,), negatives=10)
    for line in [*other.cells, *other.history]:
        del line["NDCG(k=20)"]
    rows.cells += other.cells
    rows.history += other.history
    text = build(Spec("T", early_stop=3), rows).markdown()
    table = text.split("With early stopping")[1].split("A stop epoch")[0]
    assert [line.count("|") for line in table.splitlines() if line.startswith("|")] == [13] * 4


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


def test_metric_by_number_of_negatives():
    cells = [cell(label, 1, negatives=n) for n in (10, 100) for label in ("CCL", "MML")]
    rows = Rows(cells, [line for row in cells for line in history(row)])
    text = build(Spec("T"), rows).markdown()
    assert "Recall@20 by number of negatives, MF on yelp18" in text


def test_points_of_unlike_numbers_of_seeds_say_how_many():
    seeds = {("CCL", 10): (1, 2), ("MML", 10): (1, 2), ("CCL", 100): (1,), ("MML", 100): (1, 2)}
    cells = [cell(label, seed, negatives=n) for (label, n), own in seeds.items() for seed in own]

    def points(cells, loss):
        table = build(Spec("T"), Rows(cells)).markdown().split("## Recall@20 by number of negatives")[1].split("![")[0]
        line = next(line for line in table.splitlines() if line.startswith(f"| {loss}"))
        return [point.strip() for point in line.split("|")[2:-1]]

    assert [re.sub(r"^0\.\d{4}", "", point) for point in points(cells, "CCL")] == [" (2 seeds)", " (1 seed)"]
    assert [re.sub(r"^0\.\d{4}", "", point) for point in points(cells, "MML")] == [" (2 seeds)", " (2 seeds)"]
    alike = [row for row in cells if row["seed"] == "1"]
    assert all(re.fullmatch(r"0\.\d{4}", point) for loss in ("CCL", "MML") for point in points(alike, loss))


def test_points_of_one_name_at_one_number_of_negatives_are_no_one_curve():
    """As of a suite that compares engines: groups have the losses, lines the engines."""
    cells = [
        {**cell(loss, 1, negatives=n), "group": f"{loss} at {n}", "label": engine, "cell": f"{loss}{n}{engine}"}
        for loss in ("CCL", "MML") for n in (10, 100) for engine in ("recbox", "fast")
    ]  # fmt: skip
    text = build(Spec("T"), Rows(cells)).markdown()
    table = text.split("Recall@20 by number of negatives")[1].split("![")[0]
    for name in ("recbox, CCL", "recbox, MML", "fast, CCL", "fast, MML"):
        assert f"| {name}" in table
    again = [{**row, "group": f"again, {row['group']}", "cell": f"{row['cell']}again"} for row in cells]
    text = build(Spec("T"), Rows([*cells, *again])).markdown()
    assert "No curve by number of negatives, MF on yelp18: several runs of one name stand at one number" in text
    assert "Recall@20 by number of negatives" not in text


def test_of_a_family_the_best_on_validation_stands_for_all():
    cells = []
    for number, valid in enumerate((0.1, 0.3, 0.2)):
        more = {"validation Recall(k=20)": str(valid), "family": "several", "protocol": "held-out"}
        made = {
            **cell("MML", 1),
            **more,
            "label": f"cell {number}",
            "cell": f"c{number}",
            "Recall(k=20)": str(0.9 - valid),
        }
        cells.append(made)
    one = {"family": "single", "validation Recall(k=20)": "0.2", "protocol": "held-out", "label": "only", "cell": "c9"}
    rows = Rows([{**cell("CCL", 1), **one}, *cells])
    (group,) = groups_of(rows.done())
    assert [line.name for line in group.lines] == ["only", "several"] or group.lines[0].first["label"] == "only"
    assert group.lines[1].first["label"] == "cell 1"
    assert group.lines[1].cells == 3
    text = build(Spec("T"), rows).markdown()
    assert "the best of 3 cells with several (cell 1)" in text


def family_of(monitor, values, **more):
    """One family; values: (Recall, NDCG) on validation of each cell."""
    facts = {"family": "f", "monitor": monitor, "protocol": "held-out", **more}
    return [
        {**cell("MML", 1), **facts, "label": f"cell {n}", "cell": f"c{n}", "validation Recall(k=20)": str(recall),
         "validation NDCG(k=20)": str(ndcg)}
        for n, (recall, ndcg) in enumerate(values)
    ]  # fmt: skip


@given(
    st.lists(st.tuples(*[st.integers(0, 64).map(lambda v: v / 128)] * 2), min_size=2, max_size=6),  # sums are exact
    st.tuples(*[st.sampled_from([-1.0, 0.5, 1.0, 2.0])] * 2),
    st.booleans(),
)
def test_cells_are_ranked_as_the_trainers_schedule_ranks_epochs(values, weights, maximise):
    names = ("Recall(k=20)", "NDCG(k=20)")
    schedule = Schedule(dict(zip(names, weights)), maximise, 99)
    for epoch, pair in enumerate(values, 1):
        schedule.update(schedule.value(dict(zip(names, pair))), epoch)
    cells = family_of(json.dumps(dict(zip(names, weights))), values, monitor_mode="max" if maximise else "min")
    (group,) = groups_of(cells)
    assert group.lines[0].first["label"] == f"cell {schedule.best_epoch - 1}"


@pytest.mark.parametrize(("mode", "best"), [({}, 1), ({"monitor_mode": "min"}, 2)])
def test_monitor_mode_is_respected_and_zero_is_a_value(mode, best):
    cells = family_of("Recall(k=20)", [(0.2, 0), (0.3, 0), (0.0, 0)], **mode)
    (group,) = groups_of(cells)
    assert group.lines[0].first["label"] == f"cell {best}"
    text = build(Spec("T"), Rows(cells)).markdown()
    assert ("the least is best" in text) == bool(mode)
    assert re.search(rf"\| f +\| cell {best} \|", text[text.index("Tuning cells") :]).start() < text.index(
        "cell 0", text.index("Tuning cells")
    )


def test_what_cannot_be_ranked_is_said():
    cells = family_of("Recall(k=20)", [(0.2, 0), (0.3, 0)])
    cells[0]["monitor"] = "NDCG(k=20)"
    with pytest.raises(UserError, match="the tuning cells of 'f' cannot be ranked: their monitors differ"):
        groups_of(cells)
    cells = family_of("HitRate(k=20)", [(0.2, 0), (0.3, 0)])
    with pytest.raises(UserError, match=r"'cell 0' has no value of its monitor HitRate\(k=20\)"):
        groups_of(cells)


def test_paper_rows_match_by_every_key_they_have():
    assert paper_row(PAPER, cell("CCL", 1))["recall_at_20"] == "0.0600"
    assert paper_row(PAPER, cell("MML", 1)) is None


@given(st.lists(st.integers(0, 30).map(lambda v: v / 1000), min_size=1, max_size=40), st.integers(1, 5))
def test_early_stopping_is_the_trainers_rule(monitor, patience):
    schedule = Schedule({"m": 1.0}, True, patience)
    for epoch, reached in enumerate(monitor, 1):
        schedule.update(reached, epoch)
        if schedule.exhausted:
            break
    stop = read_stop(monitor, patience)
    assert (stop.epoch, stop.best_epoch, stop.reached) == (epoch, schedule.best_epoch, schedule.exhausted)


@given(st.lists(st.integers(0, 9).map(lambda v: 0.05 + v * 4e-7), min_size=1, max_size=25), st.integers(1, 4))
def test_early_stopping_is_recboxs_own_rule(monitor, patience):
    """recbox's method itself, on values whose steps straddle its 1e-6."""
    recbox.load()
    from recbox.matching.pytorch.models import MatchingModel

    saved = []
    model = SimpleNamespace(
        _monitor=SimpleNamespace(get_value=lambda logs: logs["m"]), _monitor_mode="max", _best_metric=-np.inf,
        _stopping_steps=0, _reduce_lr_on_plateau=False, _save_best_only=True, checkpoint="", _patience=patience,
        _eval_interval_epochs=1, _stop_training=False, save_weights=lambda path: saved.append(epoch),
    )  # fmt: skip
    for epoch, reached in enumerate(monitor, 1):
        MatchingModel.checkpoint_and_earlystop(model, epoch, {"m": reached})
        if model._stop_training:
            break
    stop = read_stop(monitor, patience)
    assert (stop.epoch, stop.best_epoch, stop.reached) == (epoch, saved[-1], model._stop_training)


def test_rows_survive_their_files(tmp_path):
    rows = [{"cell": "a, b", "state": "done", "x": "1"}, {"cell": 'c"d', "y": "2"}]
    write_csv(tmp_path / "r.csv", rows)
    assert columns_of(rows)[:2] == ["cell", "state"]
    first = {"cell": "a, b", "state": "done", "x": "1", "y": ""}
    assert read_csv(tmp_path / "r.csv") == [first, {"cell": 'c"d', "state": "", "x": "", "y": "2"}]
    assert read_csv(Path("nowhere.csv")) == []
