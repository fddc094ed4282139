"""Tuned families in a report: which cell stands for all, what is unfinished, what a family buys."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_plugin.engine.schedule import Schedule
from mml_plugin.errors import UserError
from mml_plugin.report.build import build
from mml_plugin.report.comparison import groups_of
from mml_plugin.report.rows import Rows
from mml_plugin.report.spec import Spec
from tests.report.sample import cell, sample


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
