"""Rows say what run folders say: bands rebinned exactly, bootstraps of the per-user metrics, nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_plugin.data import synthetic
from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from mml_plugin.experiment.cell_rows import rebinned
from mml_plugin.experiment.cells import DONE, FAILED, Outcome, Runner
from mml_plugin.experiment.collect import Collector
from mml_plugin.experiment.config import load_experiment
from mml_plugin.experiment.dataset import data_identity
from mml_plugin.experiment.run import RunRequest, run
from mml_plugin.experiment.run_folder import History, band_column, history_thresholds
from mml_plugin.experiment.suite import make_cells, make_suite
from mml_plugin.records import EpochRecord
from mml_plugin.report import rows as rows_module
from mml_plugin.report.rows import Rows
from mml_plugin.report.statistics import paired_bootstrap
from tests.experiment.small_suite import CONFIG, SMALL, WORDS, cells_of, collected

pytestmark = pytest.mark.usefixtures("in_home")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("collect")
    synthetic.generate(folder / "data" / "synth", users=80, items=120, seed=3)
    return folder


@pytest.mark.parametrize("engine", ["fast", "recbox"])
def test_bands_and_their_gradient_are_the_losss(engine, home):
    """Every active negative of CCL has the gradient w/(N*B): counts and sums must fit, on either engine."""
    thresholds = (-0.2, 0.05, 0.3)
    more = ("margin=0.05", "negative_weight=150", "learning_rate=0.01")
    folder = run(RunRequest("MF_tiny_ccl", CONFIG, engine=engine, overrides=(*WORDS, *more), thresholds=thresholds,
                            runs_dir=Path(f"bands-{engine}"), max_batches=3))  # fmt: skip
    history = pd.read_csv(folder.history)
    assert history_thresholds(folder.history) == thresholds
    shares = history[[band_column(b, thresholds) for b in range(4)]].to_numpy()
    slopes = history[[band_column(b, thresholds, "gradient") for b in range(4)]].to_numpy()
    assert shares.sum(axis=1) == pytest.approx(np.ones(2), abs=1e-12)
    assert (history["negatives"] == 3 * 64 * 10).all()
    counts = shares * history["negatives"].to_numpy()[:, None]
    assert slopes[:, :2].sum() == 0
    assert slopes[:, 2:].sum(axis=1) == pytest.approx(np.ones(2), abs=1e-9)
    sums = slopes * history["gradient_sum"].to_numpy()[:, None]
    assert counts[:, 2:].min() > 0
    assert sums[:, 2:] == pytest.approx(counts[:, 2:] * 150 / (10 * 64), rel=1e-4)


def test_thresholds_change_the_history_and_nothing_else(home):
    plain = run(RunRequest("MF_tiny_ccl", CONFIG, engine="fast", overrides=WORDS, runs_dir=Path("plain")))
    binned = run(
        RunRequest(
            "MF_tiny_ccl", CONFIG, engine="fast", overrides=WORDS, runs_dir=Path("binned"), thresholds=(0.1, 0.9)
        )
    )
    assert plain.read_result()["identity"] == binned.read_result()["identity"]
    assert plain.path.name == binned.path.name
    assert plain.read_result()["metrics"] == binned.read_result()["metrics"]
    assert history_thresholds(plain.history) == (0.9,)
    assert history_thresholds(binned.history) == (0.1, 0.9)


def test_a_resumed_run_goes_on_counting_as_it_began(home, monkeypatch):
    from mml_plugin.engine.trainer import Trainer

    real = Trainer.train_epoch

    def interrupted(trainer):
        if trainer.epoch:
            raise KeyboardInterrupt
        return real(trainer)

    request = RunRequest("MF_tiny_ccl", CONFIG, engine="fast", overrides=WORDS, runs_dir=Path("cut"), thresholds=(0.2,))
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(request)
    folder = run(RunRequest("MF_tiny_ccl", CONFIG, engine="fast", overrides=WORDS, runs_dir=Path("cut"), resume=True))
    history = pd.read_csv(folder.history)
    assert history_thresholds(folder.history) == (0.2,)
    assert history.notna().all().all()


@given(
    st.lists(st.integers(-10, 10).map(lambda v: v / 10) | st.floats(-1, 1), min_size=1, max_size=6, unique=True),
    st.data(),
    st.lists(st.floats(-1, 1), min_size=1, max_size=60),
)
def test_rebinning_equals_counting_anew(fine, data, scores):
    fine = sorted(fine)
    coarse = sorted(data.draw(st.lists(st.sampled_from(fine), min_size=1, unique=True)))

    def shares(thresholds):
        return np.bincount(np.searchsorted(thresholds, scores, side="left"), minlength=len(thresholds) + 1) / len(
            scores
        )

    line = {band_column(b, fine): str(share) for b, share in enumerate(shares(fine))}
    assert rebinned(line, fine, coarse) == pytest.approx(shares(coarse).tolist(), abs=1e-12)


def test_what_was_not_counted_is_not_made_up():
    assert rebinned({"band_0(-inf,0.5]": "1", "band_1(0.5,inf)": "0"}, [0.5], [0.5, 0.6]) == []
    assert rebinned({"band_0(-inf,0.5]": "1"}, [0.5], [0.5]) == []


def test_history_header_round_trips(tmp_path):
    history = History(tmp_path / "h.csv", ["m"], (0.1 + 0.2, 1 / 3))
    history.add(EpochRecord(1, 0.5, {"m": 1.0}, band_counts=(1, 2, 3), band_gradients=(0.0, 1.0, 3.0)))
    assert history_thresholds(tmp_path / "h.csv") == pytest.approx((0.3, 1 / 3), abs=1e-11)
    row = pd.read_csv(tmp_path / "h.csv").iloc[0]
    assert row["negatives"] == 6
    assert row["gradient_sum"] == 4.0


def test_rows_bootstrap_the_users_of_the_runs(home):
    cells = cells_of({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_mml", "label": "MML"})
    collector = collected(cells, "users")
    rows = collector.add_bootstraps()
    sides = []
    for expid in ("MF_tiny_ccl", "MF_tiny_mml"):
        frames = [pd.read_parquet(c.folder.per_user).set_index("user_row") for c in cells if c.request.expid == expid]
        sides.append(sum(frame["NDCG(k=20)"] for frame in frames).sort_index() / 2)
    expected = paired_bootstrap(sides[0].to_numpy(), sides[1].to_numpy())
    found = next(row for row in rows.users if row["metric"] == "NDCG(k=20)")
    assert (found["label"], found["against"], found["seeds"]) == ("MML", "CCL", "1 2")
    assert [float(found[k]) for k in ("difference", "low", "high", "p_value")] == pytest.approx(
        [expected.difference, expected.low, expected.high, expected.p_value], abs=1e-6
    )
    assert float(found["difference"]) == pytest.approx(sides[1].mean() - sides[0].mean(), abs=1e-7)
    for cell in cells:
        shutil.rmtree(cell.folder.path)
    assert collector.add_bootstraps().users == rows.users


def test_damaged_per_user_metrics_cost_their_comparison_and_nothing_else(home, caplog):
    cells = cells_of({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_mml", "label": "MML"}, seeds=[3])
    collected(cells, "whole")
    cells[0].folder.per_user.write_bytes(b"PAR1 torn")
    collector = Collector(Path("torn") / "rows", cells)
    collector.update([Outcome(cell, DONE) for cell in cells])
    rows = collector.add_bootstraps()
    assert [row["state"] for row in rows.cells] == [DONE, DONE]
    assert not rows.users
    assert f"{cells[0].folder.per_user} cannot be read and is left out of the comparison over users" in caplog.text


@pytest.mark.parametrize("metrics", [["Recall(k=10)"], ["NDCG(k=20)", "Recall(k=10)"]])
def test_runs_that_measure_something_else_are_reported_too(home, metrics):
    from mml_plugin.report.build import build
    from mml_plugin.report.spec import Spec

    keys = {**SMALL, "metrics": metrics, "monitor": metrics[0]}
    lines = ({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_mml", "label": "MML"})
    cells = cells_of(*lines, seeds=[1], set=keys)
    rows = collected(cells, f"other-{len(metrics)}").add_bootstraps()
    sides = [pd.read_parquet(cell.folder.per_user).set_index("user_row")[metrics[0]].sort_index() for cell in cells]
    expected = paired_bootstrap(sides[0].to_numpy(), sides[1].to_numpy())
    assert [(row["metric"], float(row["low"])) for row in rows.users] == [
        (metrics[0], pytest.approx(expected.low, abs=1e-7))
    ]
    text = build(Spec("T"), rows).markdown()
    assert metrics[0].replace("(k=", "@").rstrip(")") in text
    assert "Is the difference real?" in text


def test_a_failure_never_takes_an_older_result_away(home):
    cells = cells_of("MF_tiny_bsl", seeds=[5])
    collector = collected(cells, "kept")
    (before,) = collector.update([]).cells
    after = collector.update([Outcome(cells[0], FAILED, "disk full")])
    assert after.cells == [{**before, "error": "disk full"}]
    assert before["state"] == DONE
    assert len(after.history) == 2
    assert collector.update([Outcome(cells[0], DONE)]).cells == [before]


def test_a_result_of_other_data_is_kept_and_not_shown(home):
    cells = cells_of("MF_tiny_bsl", seeds=[5])
    (before,) = collected(cells, "moved").update([]).cells
    stem = Path("results") / "moved"
    assert Collector(stem, cells, fingerprint=lambda cell: before["data_fingerprint"]).update([]).cells == [before]
    (other,) = Collector(stem, cells, fingerprint=lambda cell: "f" * 64).update([]).cells
    assert other == {**before, "state": "outdated", "asked": "missing"}
    # In another order the same interactions number their users otherwise, and bootstraps pair users by number.
    assert before["data_fingerprint"].endswith(f"/{data_identity(load(Path('data/synth')))['order'][:8]}")
    turned = before["data_fingerprint"].partition("/")[0] + "/00000000"
    assert Collector(stem, cells, fingerprint=lambda cell: turned).update([]).cells == [other]
    # Where the data are away, nobody knows better than before.
    assert Collector(stem, cells, fingerprint=lambda cell: "").update([]).cells == [other]
    assert Collector(stem, cells, fingerprint=lambda cell: before["data_fingerprint"]).update([]).cells == [before]
    assert Collector(stem, cells, fingerprint=lambda cell: "").update([]).cells == [before]


def test_a_failure_never_takes_an_outdated_result_away(home):
    """The configuration was edited, so the cell's name is the old one's, and the new run fails."""
    shutil.copytree(CONFIG / "dataset_config", home / "edited" / "dataset_config")

    def cells(**changes):
        experiment = load_experiment(CONFIG, "MF_tiny_bsl", WORDS)
        (home / "edited" / "model_config.yaml").write_text(experiment.to_yaml(**changes))
        suite = make_suite({"title": "T", "experiments": ["MF_tiny_bsl"], "seeds": [7]}, "x")
        return make_cells(suite, home / "edited", Path("runs-edited"))

    (before,) = collected(cells(), "edited").update([]).cells
    edited = cells(learning_rate=0.5)
    assert [cell.name for cell in edited] == [before["cell"]]
    collector = Collector(Path("results") / "edited", edited)
    (marked,) = collector.update([]).cells
    assert (marked["state"], marked["asked"]) == ("outdated", "missing")
    after = collector.update([Outcome(edited[0], FAILED, "disk full")])
    assert after.cells == [{**marked, "error": "disk full"}]
    assert marked["NDCG(k=20)"] == before["NDCG(k=20)"]
    assert len(after.history) == 2


def test_a_full_disk_is_one_sentence_and_the_old_rows_stay(home):
    import resource

    collector = collected(cells_of("MF_tiny_bsl", seeds=[5]), "full")
    before = collector.stem.with_name("full.csv").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(
            UserError, match=r"cannot write .*full-history.csv: the file would be larger than the limit"
        ):
            collector.update([])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert collector.stem.with_name("full.csv").read_bytes() == before


def test_other_seeds_results_stay_in_the_rows(home):
    first = collected(cells_of("MF_tiny_bsl", seeds=[5]), "seeds")
    assert len(first.update([]).cells) == 1
    rows = collected(cells_of("MF_tiny_bsl", seeds=[6]), "seeds").update([])
    assert [row["seed"] for row in rows.cells] == ["5", "6"]
    assert {row["cell"] for row in rows.history} == {row["cell"] for row in rows.cells}


def test_a_run_whose_folder_is_gone_is_still_compared_over_users(home):
    lines = [{"expid": f"MF_tiny_{loss}", "label": loss.upper()} for loss in ("ccl", "mml")]
    cells = cells_of(*lines, seeds=[1])
    whole = collected(cells, "gone").add_bootstraps().users
    Path("results/gone-users.csv").unlink()
    hidden = cells[0].folder.path.rename(home / "hidden")
    try:
        users = Collector(Path("results/gone"), cells).add_bootstraps().users
    finally:
        hidden.rename(cells[0].folder.path)
    assert len(whole) == 2
    assert [row["metric"] for row in users] == [row["metric"] for row in whole]
    for one, other in zip(users, whole):
        assert float(one["low"]) == pytest.approx(float(other["low"]), abs=1e-6)
        assert float(one["difference"]) == pytest.approx(float(other["difference"]), abs=1e-6)


def test_more_seeds_are_compared_over_users_with_the_earlier_ones(home):
    """The seeds were asked for one after the other; the comparison needs the folders of both."""
    lines = ({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_mml", "label": "MML"})
    for seed in (1, 2):
        collector = collected(cells_of(*lines, seeds=[seed]), "one-by-one")
        users = collector.add_bootstraps().users
    assert {row["seeds"] for row in users} == {"1 2"}
    whole = collected(cells_of(*lines), "at-once").add_bootstraps().users
    assert users == whole


def test_a_result_of_earlier_settings_is_kept_but_not_counted(home):
    def line(weight):
        return {"expid": "MF_tiny_ccl", "label": "CCL", "set": {"negative_weight": weight}}

    first = collected(cells_of(line(7), seeds=[5, 6]), "settings").update([])
    rows = collected(cells_of(line(8), seeds=[5]), "settings").update([])
    assert [(row["seed"], row["settings"].split()[-1], row["state"]) for row in rows.cells] == [
        ("5", "negative_weight=7", "outdated"), ("5", "negative_weight=8", DONE),
        ("6", "negative_weight=7", "outdated"),
    ]  # fmt: skip
    assert [row["settings"].split()[-1] for row in rows.done()] == ["negative_weight=8"]
    back = collected(cells_of(line(7), seeds=[5, 6]), "settings").update([])
    assert back.done() == first.done()


def test_another_share_and_cut_epochs_are_other_settings(home):
    (old,) = collected(cells_of("MF_tiny_bsl", seeds=[5], protocol="held-out"), "share").update([]).cells
    for changes in ({"valid_share": 0.2}, {"max_batches": 2}):
        rows = collected(cells_of("MF_tiny_bsl", seeds=[6], protocol="held-out", **changes), "share").update([])
        assert [row["seed"] for row in rows.done()] == ["6"]
        (kept,) = (row for row in rows.cells if row["cell"] == old["cell"])
        assert (kept["state"], kept.get("asked", "")) == ("outdated", "")
    cells = cells_of("MF_tiny_bsl", seeds=[5], protocol="held-out")
    back = Collector(Path("results/share"), cells, fingerprint=lambda cell: old["data_fingerprint"]).update([])
    assert [row["seed"] for row in back.done()] == ["5"]


def test_bands_keep_the_thresholds_that_they_were_counted_on(home):
    (row,) = collected(cells_of("MF_tiny_bsl", seeds=[5], thresholds=[0.1, 0.9]), "thresholds").update([]).cells
    other = Collector(Path("results/thresholds"), cells_of("MF_tiny_bsl", seeds=[5], thresholds=[-0.5, 0.0]))
    assert other.update([]).cells == [row]
    assert other.update([Outcome(other.cells[0], DONE)]).cells[0]["suite_thresholds"] == "-0.5 0"


def test_fewer_seeds_than_an_earlier_comparison_are_compared_too(home):
    lines = ({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_mml", "label": "MML"})
    both = collected(cells_of(*lines), "fewer").add_bootstraps().users
    alone = collected(cells_of(*lines, seeds=[1]), "fewer")
    assert alone.add_bootstraps().users == both
    users = alone.add_bootstraps(asked_only=True).users
    assert sorted(row["seeds"] for row in users) == ["1", "1", "1 2", "1 2"]
    assert [row for row in users if row["seeds"] == "1 2"] == both
    # Comparisons with a loss that this one leaves out stay, too.
    third = ({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_bsl", "label": "BSL"})
    users = collected(cells_of(*third), "fewer").add_bootstraps(asked_only=True).users
    assert [row for row in users if row["label"] == "MML" and row["seeds"] == "1 2"] == both
    assert {row["label"] for row in users} == {"MML", "BSL"}


def test_what_another_process_compared_meanwhile_stays(home, monkeypatch):
    lines = ({"expid": "MF_tiny_ccl", "label": "CCL"}, {"expid": "MF_tiny_mml", "label": "MML"})
    first, whole = collected(cells_of(*lines, seeds=[1]), "race"), collected(cells_of(*lines), "race-whole")
    real = Collector._per_user
    meanwhile = []

    def slowly(row):
        if not meanwhile:
            meanwhile.append(collected(cells_of(*lines, seeds=[2]), "race").add_bootstraps().users)
        return real(first, row)

    monkeypatch.setattr(first, "_per_user", slowly)
    assert first.add_bootstraps().users == meanwhile[0] == whole.add_bootstraps().users


def test_a_damaged_result_costs_nothing_that_is_kept(home):
    lines = [{"expid": f"MF_tiny_{loss}", "label": loss.upper()} for loss in ("ccl", "mml")]
    collector = collected(cells_of(*lines, seeds=[8]), "damaged-result")
    result = collector.cells[0].folder.result
    whole = result.read_bytes()
    try:
        result.write_text("{")
        assert len(collector.add_bootstraps().users) == 2
    finally:
        result.write_bytes(whole)


def test_a_cells_row_comes_after_all_that_belongs_to_it(home, monkeypatch):
    collector = collected(cells_of("MF_tiny_bsl", seeds=[5]), "order")
    before = collector.stem.with_name("order.csv").read_bytes()
    write = rows_module.write_csv

    def full(path, rows):
        if path.stem.endswith("-history"):
            raise UserError("cannot write it: no space left")
        write(path, rows)

    more = cells_of("MF_tiny_bsl", seeds=[6])
    Runner(Path("logs"), isolated=False, say=lambda t: None).run(more)
    monkeypatch.setattr(rows_module, "write_csv", full)
    with pytest.raises(UserError, match="no space left"):
        Collector(collector.stem, more).update([Outcome(more[0], DONE)])
    assert collector.stem.with_name("order.csv").read_bytes() == before


@pytest.mark.parametrize("engine", ["fast", "recbox"])
def test_held_out_training_never_sees_test(engine, home, monkeypatch):
    """Whatever stands in the test split, every epoch's loss, validation and chosen epoch are the same."""
    from mml_plugin.data.store import store

    data = load(home / "data" / "synth")
    seen = []
    for seed in range(2):
        shuffled = np.random.default_rng(seed).permutation(data.test_items)
        other = type(data)(
            data.user_ids, data.item_ids, data.train_indptr, data.train_items, data.test_indptr, shuffled
        )
        place = home / f"{engine}{seed}"
        store(other, place / "data" / "synth", "shuffled")
        monkeypatch.chdir(place)
        folder = run(RunRequest("MF_tiny_mml", CONFIG, engine=engine, protocol="held-out", overrides=WORDS))
        history, result = pd.read_csv(folder.history), folder.read_result()
        shown = history[[c for c in history if "seconds" not in c and "memory" not in c]]
        seen.append((shown.to_csv(), result["best_epoch"], result["validation_metrics"], result["metrics"]))
    assert seen[0][:3] == seen[1][:3]
    assert seen[0][3] != seen[1][3]


def test_rows_of_somebody_else_are_not_written_over(home):
    stem = Path("results") / "foreign"
    stem.parent.mkdir(exist_ok=True)
    cells = cells_of("MF_tiny_bsl", seeds=[6])
    for name, text in (("foreign.csv", "a,b\n1,2\n"), ("foreign-history.csv", "cell,b\n1,2\n")):
        path = stem.with_name(name)
        path.write_text(text)
        with pytest.raises(UserError, match=rf"{name} holds no rows of a comparison: its column '(cell|epoch)'"):
            Collector(stem, cells).update([])
        assert path.read_text() == text
        path.unlink()
    collected(cells, "foreign")
    path = stem.with_suffix(".csv")
    before = Rows.load(stem)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets save it
    assert Rows.load(stem) == before
