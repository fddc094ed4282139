"""What a report reads off whole histories: bands, early stopping, curves by number of negatives."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mml_plugin.engine.schedule import Schedule
from mml_plugin.hosts import recbox
from mml_plugin.report.build import build
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.rows import Rows
from mml_plugin.report.spec import Spec
from tests.report.sample import cell, history, sample


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
