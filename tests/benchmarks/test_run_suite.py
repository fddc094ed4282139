"""benchmarks/run_suite.py: mistakes before anything runs, rows and a report at the end."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest
import run_suite

from mml_plugin.data import synthetic
from mml_plugin.experiment.cells import Runner
from mml_plugin.experiment.suite import make_cells, read_suite
from mml_plugin.report.rows import Rows

ROOT = Path(__file__).resolve().parents[2]
SUITE = """
title: Two losses
early_stop: 2
set: {epochs: 3, verbose: 0, embedding_dim: 8, num_negs: 10, batch_size: 64}
experiments:
    - {expid: MF_tiny_ccl, label: CCL}
    - {expid: MF_tiny_mml, label: MML}
"""


@pytest.fixture
def script():
    run_suite.fingerprint_here.cache_clear()
    return run_suite


@pytest.fixture
def home(tmp_path, monkeypatch):
    synthetic.generate(tmp_path / "data" / "synth", users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "two.yaml").write_text(SUITE)
    return tmp_path


WHERE = ["--results", "results", "--reports", "reports"]


def test_mistakes_exit_2_and_leave_nothing(script, home, capsys):
    (home / "bad.yaml").write_text("title: T\nexperiments: [MF_tiny_mlm]\n")
    for words, says in (
        (["bad.yaml"], "there is no experiment 'MF_tiny_mlm'; did you mean"),
        (["table9"], "there is no suite 'table9'"),
        (["two.yaml", "--only", "XXL"], "--only XXL matches none of the 2 cells"),
        (["two.yaml", "--seeds", "1,b"], "--seeds '1,b': write whole numbers"),
    ):
        assert script.main([*words, *WHERE]) == 2
        assert says in capsys.readouterr().err
    assert not (home / "runs").exists()
    assert not list((home / "results").glob("*.csv")) if (home / "results").exists() else True


def test_rows_and_report_are_collected_from_finished_runs(script, home, capsys):
    cells = make_cells(read_suite(home / "two.yaml"), ROOT / "config", Path("runs"))
    Runner(Path("logs"), isolated=False, say=lambda text: None).run(cells[:1])
    assert script.main(["two.yaml", "--collect", *WHERE]) == 0
    assert "1 missing, 1 done" in capsys.readouterr().out
    rows = Rows.load(home / "results" / "suite_two")
    assert [row["state"] for row in rows.cells] == ["done", "missing"]
    assert "Not run yet: 1 of 2 cells" in (home / "reports" / "two" / "report.md").read_text()
    Runner(Path("logs"), isolated=False, say=lambda text: None).run(cells)
    assert script.main(["two.yaml", *WHERE]) == 0
    text = (home / "reports" / "two" / "report.md").read_text()
    assert "MML to CCL" in text
    assert "With early stopping (patience 2)" in text
    assert str(ROOT) not in (home / "results" / "suite_two.csv").read_text()


def test_listing_and_a_limit_of_none_run_nothing(script, home, capsys):
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert capsys.readouterr().out.count("open") == 2
    assert script.main(["two.yaml", "--limit", "0", *WHERE]) == 0
    assert not list((home / "runs").glob("*/*/result.json")) if (home / "runs").exists() else True


def test_new_cells_are_those_without_a_row_whatever_became_of_the_run_folder(script, home, capsys):
    cells = make_cells(read_suite(home / "two.yaml"), ROOT / "config", Path("runs"))
    Runner(Path("logs"), isolated=False, say=lambda text: None).run(cells[:1])
    assert script.main(["two.yaml", "--collect", "--no-report", *WHERE]) == 0
    shutil.rmtree(home / "runs")
    capsys.readouterr()
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["kept", "open"]
    assert script.main(["two.yaml", "--collect", "--no-report", *WHERE]) == 0
    assert capsys.readouterr().out == "1 kept, 1 missing\n"
    assert script.main(["two.yaml", "--new", "--no-report", *WHERE]) == 0
    assert [folder.parent.name for folder in (home / "runs").glob("*/*/result.json")] == [cells[1].folder.path.name]
    assert [row["state"] for row in Rows.load(home / "results" / "suite_two").cells] == ["done", "done"]
    synthetic.generate(home / "data" / "synth", users=80, items=120, seed=4, overwrite=True)
    script.fingerprint_here.cache_clear()
    capsys.readouterr()
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert "kept" not in capsys.readouterr().out  # rows of other data stand for nothing
    synthetic.generate(home / "data" / "synth", users=80, items=120, seed=3, overwrite=True)
    script.fingerprint_here.cache_clear()
    (home / "two.yaml").write_text(SUITE.replace("epochs: 3", "epochs: 2"))
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert capsys.readouterr().out.count("open") == 2  # rows of other settings stand for nothing
    assert script.main(["two.yaml", "--collect", "--no-report", *WHERE]) == 0
    (home / "two.yaml").write_text(SUITE)
    capsys.readouterr()
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["kept", "finished"]
    (home / "two.yaml").write_text(f"thresholds: [0.5, 0.7]{SUITE}")
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert "kept" not in capsys.readouterr().out


def test_new_cells_are_not_those_that_another_suite_has_rows_of(script, home, capsys):
    two = f"thresholds: [0.5, 0.7]{SUITE}"
    (home / "two.yaml").write_text(two)
    (home / "one.yaml").write_text(two.replace("    - {expid: MF_tiny_mml, label: MML}\n", ""))
    (cell,) = make_cells(read_suite(home / "one.yaml"), ROOT / "config", Path("runs"))
    Runner(Path("logs"), isolated=False, say=lambda text: None).run([cell])
    assert script.main(["one.yaml", "--collect", "--no-report", *WHERE]) == 0
    shutil.rmtree(home / "runs")
    capsys.readouterr()
    assert script.main(["two.yaml", "--list", *WHERE]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["kept", "open"]
    assert script.main(["two.yaml", "--new", "--no-report", *WHERE]) == 0
    assert [folder.parent.parent.name for folder in (home / "runs").glob("*/*/result.json")] == ["MF_tiny_mml"]
    theirs, rows = (Rows.load(home / "results" / f"suite_{name}") for name in ("one", "two"))
    assert [row["state"] for row in rows.cells] == ["done", "done"]
    assert rows.cells[0] == theirs.cells[0]
    # Its seconds are another machine's, perhaps: a suite that compares seconds trains for itself.
    (home / "times.yaml").write_text(f"kind: time\n{two}".replace("early_stop: 2\n", ""))
    capsys.readouterr()
    assert script.main(["times.yaml", "--list", *WHERE]) == 0
    assert "kept" not in capsys.readouterr().out
    assert script.main(["times.yaml", "--collect", "--no-report", *WHERE]) == 0
    assert [row["state"] for row in Rows.load(home / "results" / "suite_times").cells] == ["missing", "done"]


def test_more_seeds_of_the_chosen_cells_alone(script, home):
    suite = """
title: Tuned
protocol: held-out
set: {epochs: 2, verbose: 0, embedding_dim: 8, num_negs: 10, batch_size: 64}
grids:
    - {expid: MF_tiny_ccl, family: single, space: {margin: [0.9, 0.1]}}
    - {expid: MF_tiny_mml, family: several, space: {neg_weight: [400, 4]}}
"""
    (home / "tuned.yaml").write_text(suite)
    assert script.main(["tuned.yaml", "--chosen", *WHERE]) == 2
    cells = make_cells(read_suite(home / "tuned.yaml"), ROOT / "config", Path("runs"))
    Runner(Path("logs"), isolated=False, say=lambda text: None).run(cells)
    assert script.main(["tuned.yaml", "--collect", *WHERE]) == 0
    report = (home / "reports" / "tuned" / "report.md").read_text()
    assert "the best of 2 cells with several" in report
    chosen = script.standing(cells, Rows.load(home / "results" / "suite_tuned"))
    assert sorted(cell.family for cell in chosen) == ["several", "single"]
    rows = {
        row["label"]: float(row["validation Recall(k=20)"])
        for row in Rows.load(home / "results" / "suite_tuned").done()
    }
    for cell in chosen:
        assert rows[cell.label] == max(rows[c.label] for c in cells if c.family == cell.family)


def test_short_runs_say_which_cells_get_a_whole_run(script, home, capsys, monkeypatch):
    # A process per cell, as other tests have it, would be most of this test's time.
    monkeypatch.setattr(script, "Runner", functools.partial(Runner, isolated=False))
    grids = """
grids:
    - {expid: MF_tiny_ccl, family: single, space: {margin: [0.9, 0.1, 0.5]}}
    - {expid: MF_tiny_mml, family: several, space: {neg_weight: [400, 4, 40]}}
"""
    common = "protocol: held-out\nset: {epochs: %d, verbose: 0, embedding_dim: 8, num_negs: 10, batch_size: 64}"
    (home / "short.yaml").write_text(f"title: Short\n{common % 1}{grids}")
    whole = f"title: Whole\n{common % 2}{grids}screen: {{suite: short, keep: %d}}\n"
    (home / "whole.yaml").write_text(whole % 1)

    def listed():
        capsys.readouterr()
        assert script.main(["whole.yaml", "--list", *WHERE]) == 0
        return [line.split("  ")[0].strip() for line in capsys.readouterr().out.splitlines()]

    short = make_cells(read_suite(home / "short.yaml"), ROOT / "config", Path("runs"))
    run = Runner(Path("logs"), isolated=False, say=lambda text: None).run
    run(short[:5])
    assert script.main(["short.yaml", "--collect", "--no-report", *WHERE]) == 0
    # A family without all its short runs is not screened yet, and none of its cells is run.
    says = "not screened yet: several (MF on synth, 10 negatives), 2 of 3 cells have a result in suite short"
    assert listed()[0].startswith(says)
    assert listed()[4:] == ["waiting"] * 3
    assert sorted(listed()[1:4]) == ["open", "screened out", "screened out"]
    assert script.main(["whole.yaml", "--only", "neg_weight=", *WHERE]) == 0
    assert "3 of 3 cells wait for their short runs\n0 cells" in capsys.readouterr().out
    whole_rows = home / "results" / "suite_whole"
    assert [row["state"] for row in Rows.load(whole_rows).cells][3:] == ["waiting"] * 3
    report = (home / "reports" / "whole" / "report.md").read_text()
    assert "Not run yet: 1 of 1 cells." in report
    assert "MF on synth, 10 negatives: several, 2 of 3 cells have a result in suite short" in report
    run(short)
    assert script.main(["short.yaml", "--collect", "--no-report", *WHERE]) == 0
    rows = Rows.load(home / "results" / "suite_short").done()
    best = [
        max(members, key=lambda row: float(row["validation Recall(k=20)"]))["label"] for members in (rows[:3], rows[3:])
    ]
    assert script.main(["whole.yaml", *WHERE]) == 0
    kept = Rows.load(home / "results" / "suite_whole").cells
    assert [row["label"] for row in kept if row["state"] == "done"] == best
    assert [row["state"] for row in kept].count("screened out") == 4
    report = (home / "reports" / "whole" / "report.md").read_text()
    assert "Screened out, not among the best 1 of its family in suite short:" in report
    assert "2 of 3 single, 2 of 3 several" in report
    assert "Unfinished" not in report
    assert "Cells that failed" not in report
    # More may go on: the next ones are open again, and what was run stays.
    (home / "whole.yaml").write_text(whole % 2)
    assert sorted(listed()) == ["finished"] * 2 + ["open"] * 2 + ["screened out"] * 2
    assert script.main(["whole.yaml", "--collect", *WHERE]) == 0
    states = [row["state"] for row in Rows.load(home / "results" / "suite_whole").cells]
    assert [states.count(state) for state in ("done", "missing", "screened out")] == [2, 2, 2]
    assert "Unfinished tuning (single 1 of 2, several 1 of 2" in (home / "reports/whole/report.md").read_text()
    # A whole run of a cell that is screened out later is kept, and is no try more than the others had.
    assert script.main(["whole.yaml", *WHERE]) == 0
    assert "the best of 2 whole runs out of 3 cells with" in (home / "reports/whole/report.md").read_text()
    (home / "whole.yaml").write_text(whole % 1)
    capsys.readouterr()
    assert script.main(["whole.yaml", "--only", "neg_weight=", *WHERE]) == 0
    assert "2 of 3 cells are screened out" in capsys.readouterr().out
    rows = Rows.load(home / "results" / "suite_whole")
    states = [row["state"] for row in rows.cells]
    assert [states.count(state) for state in ("done", "screened out")] == [2, 4]
    assert sum(bool(row["identity"]) for row in rows.cells) == 4
    assert len({row["cell"] for row in rows.history}) == 4
    assert [row["label"] for row in rows.done()] == best
    assert "the best of 2 cells" not in (home / "reports/whole/report.md").read_text()
    # So it is of a seed that the suite does not ask for.
    loser = next(row for row in rows.cells if row["state"] == "screened out" and row["identity"])
    rows.cells.append({**loser, "cell": f"{loser['cell']}-more", "seed": "2020", "state": "done"})
    rows.save(home / "results" / "suite_whole")
    assert script.main(["whole.yaml", "--collect", *WHERE]) == 0
    rows = Rows.load(home / "results" / "suite_whole")
    assert [row["label"] for row in rows.done()] == best
    rows.cells = [row for row in rows.cells if not row["cell"].endswith("-more")]
    rows.save(home / "results" / "suite_whole")
    (home / "whole.yaml").write_text(whole % 2)
    assert script.main(["whole.yaml", "--new", "--collect", *WHERE]) == 0
    assert [row["state"] for row in Rows.load(home / "results" / "suite_whole").cells].count("done") == 4


def test_a_screen_believes_no_rows_of_other_settings(script, home, capsys):
    common = "title: T\nprotocol: held-out\nset: {epochs: %d, verbose: 0, embedding_dim: 8, num_negs: 10}"
    grids = "\ngrids:\n    - {expid: MF_tiny_ccl, family: single, space: {margin: [0.9, 0.1]}}\n"
    (home / "short.yaml").write_text(common % 1 + grids)
    (home / "whole.yaml").write_text(common % 2 + grids + "screen: {suite: short, keep: 1}\n")
    short = make_cells(read_suite(home / "short.yaml"), ROOT / "config", Path("runs"))
    Runner(Path("logs"), isolated=False, say=lambda text: None).run(short)
    assert script.main(["short.yaml", "--collect", "--no-report", *WHERE]) == 0

    def waits():
        capsys.readouterr()
        assert script.main(["whole.yaml", "--list", *WHERE]) == 0
        return capsys.readouterr().out.count("waiting")

    assert waits() == 0
    (home / "short.yaml").write_text(common % 3 + grids)
    assert waits() == 2
    assert script.main(["short.yaml", "--chosen", "--list", *WHERE]) == 2
    assert "no cell is chosen yet" in capsys.readouterr().err
    assert not (home / "results" / "suite_whole.csv").exists()
    (home / "short.yaml").write_text(common % 1 + grids + "screen: {suite: other, keep: 1}\n")
    assert script.main(["whole.yaml", "--list", *WHERE]) == 2
    assert "the short suite has a screen of its own" in capsys.readouterr().err


def test_a_yml_suite_has_its_report_and_a_paper_table_must_be_there(script, home, capsys):
    (home / "mine.yml").write_text(SUITE)
    assert script.main(["mine.yml", "--limit", "0", *WHERE]) == 0
    assert (home / "reports" / "mine" / "report.md").is_file()
    (home / "mine.yml").write_text(SUITE + "paper: tabel4_losses\n")
    assert script.main(["mine.yml", *WHERE]) == 2
    assert (
        "paper: there is no table 'tabel4_losses' in benchmarks/paper; did you mean 'table4" in capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        script.main(["mine.yml", "--limit", "-1", *WHERE])


def test_why_a_finished_run_is_not_taken_is_said(script, home, capsys):
    (home / "tiny.yaml").write_text(SUITE)
    cells = make_cells(read_suite(home / "tiny.yaml"), ROOT / "config", Path("runs"))
    cells[0].folder.path.mkdir(parents=True)
    cells[0].folder.result.write_text("{")
    assert script.main(["tiny.yaml", "--collect", *WHERE]) == 0
    assert "result.json cannot be read" in capsys.readouterr().err


SCREENED = """
title: Screened
protocol: held-out
grids:
    - {expid: MF_tiny_ccl, family: single, space: {margin: [0.9, 0.1]}}
"""


@pytest.mark.parametrize(
    ("changes", "screen", "says"),
    [
        ({}, "{suit: short, keep: 1}", "unknown key 'screen.suit'; did you mean 'suite'"),
        ({}, "{suite: short, keep: 0}", "screen.keep"),
        ({}, "{suite: ../short, keep: 1}", "screen.suite"),
        ({}, "{suite: shrt, keep: 1}", "there is no suite 'shrt' in .; did you mean 'short'"),
        ({}, "{suite: whole, keep: 1}", "a suite cannot screen itself"),
        ({"held-out": "paper"}, "{suite: short, keep: 1}", "both must choose on the same split"),
        ({"0.1": "0.2"}, "{suite: short, keep: 1}", "no cell 'single margin=0.2' of family 'single'"),
        ({"single": "singel"}, "{suite: short, keep: 1}", "of family 'singel'"),
    ],
)
def test_a_wrong_screen_is_refused(script, home, capsys, changes, screen, says):
    (home / "short.yaml").write_text(SCREENED)
    text = SCREENED
    for old, new in changes.items():
        text = text.replace(old, new)
    (home / "whole.yaml").write_text(f"{text}screen: {screen}\n")
    assert script.main(["whole.yaml", *WHERE]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (home / "runs").exists()


def test_a_screen_without_families_is_refused(script, home, capsys):
    (home / "short.yaml").write_text(SCREENED)
    (home / "two.yaml").write_text(f"{SUITE}screen: {{suite: short, keep: 1}}\n")
    assert script.main(["two.yaml", *WHERE]) == 2
    assert "no cell has a family" in capsys.readouterr().err


def test_table1_counts_the_data(script, home):
    (home / "data1.yaml").write_text("title: Data\nkind: data\npaper: table1_data\ndatasets: [synth]\n")
    assert script.main(["data1.yaml", *WHERE]) == 0
    text = (home / "reports" / "data1" / "report.md").read_text()
    assert "| users " in text
    assert "80" in text


def test_listing_and_collecting_a_suite_of_data_count_nothing(script, home, capsys):
    (home / "data1.yaml").write_text("title: Data\nkind: data\npaper: table1_data\ndatasets: [synth]\n")
    assert script.main(["data1.yaml", "--list", *WHERE]) == 0
    assert capsys.readouterr().out.split() == ["open", "synth"]
    assert script.main(["data1.yaml", "--collect", *WHERE]) == 2
    assert "there are no rows of suite 'data1'" in capsys.readouterr().err
    assert not (home / "results").exists()
    assert not (home / "reports").exists()
    assert script.main(["data1.yaml", *WHERE]) == 0
    rows = home / "results" / "suite_data1.csv"
    before = rows.read_bytes(), rows.stat().st_mtime_ns
    synthetic.generate(home / "data" / "synth", users=70, items=110, seed=4, overwrite=True)
    capsys.readouterr()
    assert script.main(["data1.yaml", "--list", *WHERE]) == 0
    assert capsys.readouterr().out.split() == ["finished", "synth"]
    assert script.main(["data1.yaml", "--collect", *WHERE]) == 0
    assert (rows.read_bytes(), rows.stat().st_mtime_ns) == before
