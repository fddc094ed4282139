"""One experiment in several suites: newer trainings and lacking ones are taken over, nothing else is."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mml_plugin.data import synthetic
from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from mml_plugin.experiment import kept_users
from mml_plugin.experiment.cell_rows import SCREENED_OUT, WAITING
from mml_plugin.experiment.cells import DONE, FAILED, MISSING, Outcome, Runner
from mml_plugin.experiment.collect import Collector
from mml_plugin.experiment.dataset import data_identity, data_word
from mml_plugin.experiment.shared_trainings import behind
from mml_plugin.report import rows as rows_module
from tests.experiment.small_suite import cells_of, collected

pytestmark = pytest.mark.usefixtures("in_home")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    synthetic.generate(folder / "data" / "synth", users=80, items=120, seed=3)
    return folder


def test_a_newer_training_of_a_run_stands_in_every_suite_that_has_it(home, caplog):
    cells = cells_of("MF_tiny_ccl", seeds=[1, 2])
    named = cells_of({"expid": "MF_tiny_ccl", "label": "the same"}, seeds=[1, 2])
    collected(cells, "suite_a")
    collector = collected(named, "suite_b")
    stems = [Path("results/suite_a"), collector.stem]
    before = rows_module.Rows.load(collector.stem)
    # The first seed was trained again, the second long ago, and both ended in other last digits.
    again = rows_module.Rows.load(stems[0])
    for row, date in zip(again.cells, ("2999-01-01T00:00:00+00:00", "1999-01-01T00:00:00+00:00")):
        row |= {"date": date, "Recall(k=20)": "0.12345678", "processor": "another"}
    for row in again.history:
        row["Recall(k=20)"] = "0.123"
    again.save(stems[0])
    rows = collector.adopt(stems)
    first, second = rows.cells
    assert first == {**again.cells[0], "label": "the same"} != before.cells[0]
    assert second == before.cells[1]
    assert rows.epochs()[first["cell"]] == again.epochs()[first["cell"]]
    assert rows.epochs()[second["cell"]] == before.epochs()[second["cell"]]
    assert rows_module.Rows.load(collector.stem) == rows
    # The older run folder does not come back, nor are its users taken for the newer one's.
    paths = [kept_users.path_of(Path("results"), row["identity"]) for row in rows.cells]
    of_the_first = paths[0].read_bytes()
    for path in paths:
        path.write_bytes(b"of the newer training")
    assert collector.update([Outcome(cell, DONE) for cell in named]) == rows
    assert caplog.text.count("its row is of 2999-01-01T00:00:00+00:00 and stays") == 1
    assert [path.read_bytes() == b"of the newer training" for path in paths] == [True, False]
    paths[0].write_bytes(of_the_first)


def fingerprint(cell):
    return data_word(data_identity(load(Path(cell.experiment.params["train_data"]).parent)))


@pytest.fixture
def theirs(home, monkeypatch, request):
    """Where another suite's rows of MF_tiny_ccl are, seed 1, whose run folder is gone."""
    monkeypatch.chdir(home)
    place = Path("lacking") / request.node.name
    shutil.copytree("data", place / "data")
    monkeypatch.chdir(place)
    stem = collected(cells_of("MF_tiny_ccl", seeds=[1]), "suite_a").stem
    shutil.rmtree("runs")
    return stem


def of_suite(name="suite_b", seeds=(1, 2), fingerprint=fingerprint, **keys):
    """A collector of the same experiment under another label, and what else is asked of it."""
    of_collector = {key: keys.pop(key) for key in ("screened", "waiting") if key in keys}
    cells = cells_of({"expid": "MF_tiny_ccl", "label": "the same"}, seeds=list(seeds), **keys)
    labels = {(cell.group, cell.label): "because" for cell in cells}
    of_collector = dict.fromkeys(of_collector, labels)
    return Collector(Path("results") / name, cells, fingerprint=fingerprint, **of_collector)


def states(rows):
    return [row["state"] for row in rows.cells]


def test_a_suite_takes_over_what_it_lacks_and_another_has(theirs):
    mine, taken = of_suite(), rows_module.Rows.load(theirs)
    assert states(mine.judged()) == [MISSING, MISSING]
    judged = mine.judged([theirs])
    assert not list(Path("results").glob("suite_b*.csv"))
    rows = mine.adopt([theirs])
    assert judged.cells == rows.cells
    assert rows.cells[0] == {**taken.cells[0], "label": "the same"}
    assert states(rows) == [DONE, MISSING]
    assert rows.history == taken.history
    written = [path.read_bytes() for path in rows_module.paths(mine.stem)[:2]]
    mine.adopt([theirs])
    assert [path.read_bytes() for path in rows_module.paths(mine.stem)[:2]] == written


def test_a_failed_cell_is_filled_likewise(theirs):
    mine = of_suite()
    mine.update([Outcome(mine.cells[0], FAILED, "it fell over")])
    assert behind(theirs, [theirs, mine.stem]) == ["b"]
    assert [(row["state"], row["error"]) for row in mine.adopt([theirs]).cells] == [(DONE, ""), (MISSING, "")]
    assert behind(theirs, [theirs, mine.stem]) == []


@pytest.mark.parametrize(
    ("why", "keys", "state"),
    [
        ("other data", {"fingerprint": lambda cell: "0" * 16}, MISSING),
        ("data that cannot be read", {"fingerprint": lambda cell: ""}, MISSING),
        ("other thresholds", {"thresholds": [0.1, 0.2]}, MISSING),
        ("another backend", {"backend": "torch"}, MISSING),
        ("another protocol", {"protocol": "held-out"}, MISSING),
        ("a screen that leaves it out", {"screened": True}, SCREENED_OUT),
        ("a screen that lets it wait", {"waiting": True}, WAITING),
    ],
)
@pytest.mark.parametrize("failed", [False, True])
def test_nothing_is_taken_over_for(theirs, why, keys, state, failed):
    mine = of_suite(seeds=[1], **keys)
    if failed:
        Collector(mine.stem, mine.cells).update([Outcome(mine.cells[0], FAILED, "it fell over")])
    found = mine.adopt([theirs]).cells[0]
    assert found["state"] == (state if state == SCREENED_OUT or not failed else FAILED), why
    assert "identity" not in found or not found["identity"]


@pytest.mark.parametrize(
    ("column", "value"), [("config_hash", "0" * 16), ("data_fingerprint", "0" * 16), ("suite_thresholds", "0.1 0.2")]
)
def test_a_row_of_something_else_does_not_keep_the_cells_own_training_out(theirs, column, value):
    """The cell was run before under other settings, on other data, or counted on other thresholds."""
    mine, taken = of_suite(seeds=[1]), rows_module.Rows.load(theirs)
    older = rows_module.Rows.load(theirs)
    older.cells[0] |= {column: value, "label": "the same", "date": "2999-01-01T00:00:00+00:00", "error": "once"}
    older.history = [{**epoch, "train_loss": "7"} for epoch in older.history]
    older.save(mine.stem)
    rows = mine.adopt([theirs])
    assert rows.cells == [{**taken.cells[0], "label": "the same"}]
    assert rows.history == taken.history


def test_a_finished_run_folder_comes_before_another_suites_row(theirs):
    """Its row is made from the folder; adopting first would leave a newer training out."""
    mine, older = of_suite(seeds=[1]), rows_module.Rows.load(theirs)
    older.cells[0]["date"] = "1999-01-01T00:00:00+00:00"
    older.save(theirs)
    Runner(Path("logs"), isolated=False, say=lambda text: None).run(mine.cells)
    assert states(mine.judged([theirs])) == states(mine.adopt([theirs])) == [MISSING]
    newer = mine.update([Outcome(mine.cells[0], DONE)]).cells[0]
    assert mine.adopt([theirs]).cells[0]["date"] == newer["date"] > older.cells[0]["date"]


def test_taking_over_into_a_file_is_one_sentence(theirs):
    Path("taken").write_text("")
    with pytest.raises(UserError, match="taken: it is a file"):
        Collector(Path("taken/suite_b"), of_suite().cells).adopt([theirs])


def test_users_of_a_newer_training_outlive_an_older_run_folder(home):
    """Kept beside the rows by another machine, they are what the adopted row is compared by."""
    import pyarrow.parquet as pq

    lines = [{"expid": f"MF_tiny_{loss}", "label": loss, "group": "both"} for loss in ("ccl", "mml")]
    cells = cells_of(*lines, seeds=[1])
    first = collected(cells, "newer/suite_a")
    row, other = first.update([]).cells
    kept = kept_users.path_of(Path("results/newer"), row["identity"])
    table = pq.read_table(kept)
    assert table.schema.metadata[b"date"].decode() == row["date"]
    # As if trained again later, where every user came out a little better.
    better = table.set_column(1, "Recall(k=20)", [np.asarray(table["Recall(k=20)"]) + np.float32(0.25)])
    pq.write_table(better.replace_schema_metadata({b"date": b"2999-01-01"}), kept)
    rows = rows_module.Rows.load(first.stem)
    changed = {"date": "2999-01-01", "Recall(k=20)": f"{float(row['Recall(k=20)']) + 0.25:.8f}"}
    rows.cells[0].update(changed)
    rows.users = []
    rows.save(first.stem)
    # Another suite meets the old run folder first, and this one's row after it.
    second = collected(cells, "newer/suite_b")
    assert pq.read_table(kept).schema.metadata[b"date"] == b"2999-01-01"
    assert behind(first.stem, [first.stem, second.stem]) == ["b"]
    second.adopt([first.stem])
    assert behind(first.stem, [first.stem, second.stem]) == []
    for collector in (first, second):
        (comparison,) = [user for user in collector.add_bootstraps().users if user["metric"] == "Recall(k=20)"]
        difference = float(other["Recall(k=20)"]) - float(changed["Recall(k=20)"])
        assert float(comparison["difference"]) == pytest.approx(difference, abs=1e-6)


def test_a_history_that_one_suite_lost_comes_back_from_another(home):
    cells = cells_of("MF_tiny_ccl", seeds=[1])
    whole, torn = collected(cells, "lost/suite_a"), collected(cells, "lost/suite_b")
    rows = rows_module.Rows.load(torn.stem)
    rows.history = rows.history[1:]
    rows.save(torn.stem)
    assert torn.adopt([whole.stem]).history == rows_module.Rows.load(whole.stem).history
