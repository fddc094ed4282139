"""What is committed under benchmarks/reports is what the committed rows give."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "benchmarks" / "reports"


def script(name):
    spec = importlib.util.spec_from_file_location(f"benchmarks_{name}", ROOT / "benchmarks" / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def without_pictures(page):
    """Pictures differ in their bits between versions of matplotlib; everything else must not."""
    return re.sub(r"data:image/png;base64,[^\"]+", "data:", page)


def test_every_committed_report_was_opened_in_a_browser():
    """``make test-report`` needs a browser, so it is no part of ``make test``: its log must know every report."""
    log = (ROOT / "benchmarks" / "results" / "test_report.log").read_text()
    opened = re.findall(r"^passed .*test_committed_reports_open_too\[(.+)\]$", log, re.MULTILINE)
    assert sorted(opened) == sorted(path.parent.name for path in REPORTS.glob("*/report.html"))


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REPORTS.glob("*/report.md")))
def test_committed_reports_come_from_committed_rows(name, tmp_path):
    made = script("report").write(ROOT / "benchmarks" / "suites" / f"{name}.yaml", reports=tmp_path)
    for file in ("report.md", "report.csv"):
        committed = REPORTS / name / file
        assert (made / file).exists() == committed.exists()
        if committed.exists():
            assert (made / file).read_text() == committed.read_text()
    assert without_pictures((made / "report.html").read_text()) == without_pictures(
        (REPORTS / name / "report.html").read_text()
    )
    assert {path.name for path in made.iterdir()} == {path.name for path in (REPORTS / name).iterdir()}


def test_committed_findings_come_from_committed_rows():
    findings = script("findings")
    assert findings.findings(findings.Pool(findings.RESULTS)) == (REPORTS / "README.md").read_text(encoding="utf-8")


def test_the_readmes_findings_come_from_committed_rows():
    findings = script("findings")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text[text.index(findings.BEGIN) + len(findings.BEGIN) : text.index(findings.END)]
    assert block.strip("\n") == findings.readme_table(findings.Pool(findings.RESULTS))


def test_every_suite_with_rows_has_its_report():
    rows = {p.stem.removeprefix("suite_") for p in (ROOT / "benchmarks" / "results").glob("suite_*.csv")}
    rows = {name for name in rows if not name.endswith(("-history", "-users"))}
    assert rows == {path.parent.name for path in REPORTS.glob("*/report.md")}


def test_an_experiment_has_the_same_training_in_every_suite(tmp_path):
    from mml_plugin.experiment.collect import behind
    from mml_plugin.report.rows import stems_in

    for path in (ROOT / "benchmarks" / "results").glob("suite_*.csv"):
        shutil.copy(path, tmp_path)
    stems = stems_in(tmp_path)
    assert {stem.name: older for stem in stems if (older := behind(stem, stems))} == {}


def test_verdicts_follow_the_rule():
    findings = script("findings")
    assert findings.Gain(None).verdict(4.0) == "not run yet"
    assert findings.Gain(4.0).verdict(4.0) == "no interval yet"
    assert findings.Gain(4.0, 3, 0.1, 3.0, 5.0, 2.0, 6.0).verdict(4.0) == "yes"
    assert findings.Gain(4.0, 3, 0.1, 3.0, 5.0, -2.0, 9.0).verdict(4.0) == "no difference seen"
    assert findings.Gain(1.0, 3, 0.1, 0.5, 1.5, 0.5, 1.5).verdict(4.0) == "smaller"
    assert findings.Gain(1.0, 1, None, -0.5, 1.5).verdict(4.0) == "no difference seen (1 seed)"
    assert findings.Gain(-2.0, 2, 0.1, -3.0, -1.0).verdict(4.0) == "no (2 seeds)"
    assert findings.Gain(-1.0, 3, 0.1, -1.9, -0.1, -1.9, -0.1).parity("MML", "BSL") == "yes"
    assert findings.Gain(-1.9, 3, 0.1, -2.8, -1.0, -2.8, -1.0).parity("MML", "BSL") == "no, BSL ahead"
    assert findings.Gain(1.9, 1, None, 1.0, 2.8).parity("MML", "BSL") == "no, MML ahead (1 seed)"
    assert findings.Gain(1.0, 3, 0.1, -0.5, 2.5, 0.5, 1.5).parity("MML", "BSL") == "undecided"
    # Beyond the band and users exclude 0, but seeds do not: the page says that it takes both.
    assert findings.Gain(1.9, 3, 0.9, 1.0, 2.8, -0.5, 4.3).parity("MML", "BSL") == "undecided"
    assert findings.Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", -5.65) == (
        "no, BSL ahead, as in the paper (1 seed)"
    )
    assert findings.Gain(-5.9, 1, None, -6.8, -5.0).parity("MML", "BSL", 5.65) == "no, BSL ahead (1 seed)"
    assert findings.Gain(None, 1).verdict(4.0) == findings.Gain(None, 1).words() == "no percentage of 0"
    assert (
        "with 3 seeds or more the paired t interval over seeds too; **undecided**"
        in findings._parity(findings.Pool(ROOT / "nowhere"))[0]
    )


def test_findings_read_the_gains_off_the_rows(tmp_path):
    from mml_plugin.report.rows import Rows
    from tests.report.sample import history, sample, value

    findings = script("findings")
    rows = sample(labels=("CCL", "MML"))
    for row in rows.cells:
        row["expid"] = f"MF_yelp_{row['label'].lower()}"
    runs = " ".join(row["identity"][:12] for row in rows.cells)
    ccl, mml = (sum(value(label, seed, 6) for seed in range(1, 6)) / 5 for label in ("CCL", "MML"))
    interval = {"difference": str(mml - ccl), "low": "0.002", "high": "0.004"}
    rows.users = [{"runs": runs, "metric": "Recall(k=20)", **interval}]
    Rows(rows.cells, [line for row in rows.cells for line in history(row)], rows.users).save(tmp_path / "suite_table4")
    pool = findings.Pool(tmp_path)
    gain = pool.gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    assert gain.percent == pytest.approx(100 * (mml / ccl - 1))
    assert gain.low == pytest.approx(100 * 0.002 / ccl)
    assert gain.seeds == 5
    page = findings.findings(pool)
    assert f"{gain.percent:+.2f} % (users: {gain.low:+.2f} to {gain.high:+.2f} %; 5 seeds: sd {gain.sd:.2f} %)" in page


def suite_of(tmp_path, name, *rows):
    """A suite file of these rows, with their histories."""
    from mml_plugin.report.rows import Rows
    from tests.report.sample import history

    made = Rows(
        list(rows), [{**line, "cell": row["cell"]} for row in rows for line in history({**row, "label": row["loss"]})]
    )
    made.save(tmp_path / f"suite_{name}")
    return made


def test_parity_reads_a_suite_that_holds_all_against_mml(tmp_path):
    from mml_plugin.report.rows import Rows
    from tests.report.sample import cell

    findings = script("findings")
    sides = {"bslnative": {**cell("BSL", 1), "expid": "MF_yelp_bslnative"}, "mml": cell("MML", 1)}
    rows = suite_of(tmp_path, "parity", sides["mml"], sides["bslnative"])
    runs = " ".join(sides[name]["identity"][:12] for name in ("mml", "bslnative"))
    difference = float(sides["bslnative"]["Recall(k=20)"]) - float(sides["mml"]["Recall(k=20)"])
    interval = {"difference": str(difference), "low": "-0.004", "high": "-0.001"}
    rows.users = [{"runs": runs, "metric": "Recall(k=20)", **interval}]
    Rows(rows.cells, rows.history, rows.users).save(tmp_path / "suite_parity")
    gain = findings.Pool(tmp_path).gain("MF_yelp_bslnative", "MF_yelp_mml", "Recall(k=20)")
    base = float(sides["bslnative"]["Recall(k=20)"])
    assert (gain.low, gain.high) == (pytest.approx(0.1 / base), pytest.approx(0.4 / base))


def test_an_interval_is_of_the_very_trainings_that_were_compared(tmp_path):
    """The same run on another machine has the same identity and other last digits."""
    from mml_plugin.report.rows import Rows
    from tests.report.sample import cell

    findings = script("findings")
    old = [{**cell(loss, 1), "date": "2026-11-01"} for loss in ("CCL", "MML")]
    rows = suite_of(tmp_path, "table4", *old)
    difference = float(old[1]["Recall(k=20)"]) - float(old[0]["Recall(k=20)"])
    runs = " ".join(row["identity"][:12] for row in old)
    interval = {"difference": str(difference), "low": "0.001", "high": "0.002"}
    users = [{"runs": runs, "metric": "Recall(k=20)", **interval}]
    Rows(rows.cells, rows.history, users).save(tmp_path / "suite_table4")
    again = {**old[1], "date": "2026-11-02", "Recall(k=20)": f"{float(old[1]['Recall(k=20)']) + 0.001:.8f}"}
    suite_of(tmp_path, "parity", again)
    pool = findings.Pool(tmp_path)
    gain = pool.gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    base = float(old[0]["Recall(k=20)"])
    assert gain.percent == pytest.approx(100 * (difference + 0.001) / base)
    assert gain.verdict(4.0) == "no interval yet"
    assert pool.line("MF_yelp_mml").mean("Recall(k=20)") == pytest.approx(float(again["Recall(k=20)"]))
    # Compared as it is now, and were it in another suite, it has one.
    users = [{"runs": runs, "metric": "Recall(k=20)", **interval, "difference": str(difference + 0.001)}]
    Rows([again], [], users).save(tmp_path / "suite_parity")
    gain = findings.Pool(tmp_path).gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    assert gain.low == pytest.approx(0.1 / base)


def test_older_settings_of_an_experiment_are_left_out_and_named(tmp_path):
    from tests.report.sample import cell

    findings = script("findings")
    for name, seed, setting, date, value in (
        ("a", 1, "old", "2026-11-01", "0.01"),
        ("b", 2, "new", "2026-11-02", "0.09"),
    ):
        suite_of(tmp_path, name, {**cell("CCL", seed), "config_hash": setting, "date": date, "Recall(k=20)": value})
    pool = findings.Pool(tmp_path)
    assert pool.line("MF_yelp_ccl").values("Recall(k=20)") == [0.09]
    said = "Left out, because newer rows of theirs have other settings or data: MF_yelp_ccl paper fast."
    assert said in findings.findings(pool)


def test_runs_without_their_epochs_do_not_take_the_page_down(tmp_path):
    from mml_plugin.report.rows import Rows
    from tests.report.sample import cell

    findings = script("findings")
    timed = [
        {**cell(loss, 1), "expid": f"MF_yelp_{loss.lower()}", "settings": "epochs=5", "cell": f"timed {loss}"}
        for loss in ("CCL", "MML")
    ]
    Rows([cell("CCL", 1), *timed]).save(tmp_path / "suite_x")
    page = findings.findings(findings.Pool(tmp_path))
    lines = [
        line for line in page.splitlines() if line.startswith(("| MF, Yelp2018, CCL ", "| Yelp2018, 100 negatives "))
    ]
    assert [line.count("its epochs are not kept") for line in lines] == [2, 4]


def test_every_comparison_of_the_page_is_made_by_a_suite():
    """Each pair that the page needs an interval for is a line against the first of its group in some suite."""
    from mml_plugin.experiment.suite import make_cells, read_suite

    made = set()
    for name in ("table2", "table4", "figure3", "parity"):
        firsts = {}
        for cell in make_cells(read_suite(ROOT / "benchmarks" / "suites" / f"{name}.yaml"), ROOT / "config", Path("x")):
            first = firsts.setdefault(cell.group, cell.request.expid)
            made.add(frozenset((first, cell.request.expid)))
    for data in ("yelp", "gowalla"):
        for first, second in (
            (f"MF_{data}_ccl", f"MF_{data}_mml"), (f"SimpleX_{data}_ccl", f"SimpleX_{data}_mml"),
            (f"MF_{data}_ccl_n10", f"MF_{data}_mml_n10"), (f"MF_{data}_bsl", f"MF_{data}_mml"),
            (f"MF_{data}_bslnative", f"MF_{data}_mml"),
        ):  # fmt: skip
            assert frozenset((first, second)) in made


def test_cut_runs_are_no_findings_and_the_newest_of_two_counts(tmp_path):
    from tests.report.sample import cell

    findings = script("findings")
    suite_of(tmp_path, "a", {**cell("CCL", 1), "cut": "10 batches per epoch"})
    assert findings.Pool(tmp_path).line("MF_yelp_ccl") is None
    old, new = {"Recall(k=20)": "0.1", "date": "2026-11-01"}, {"Recall(k=20)": "0.2", "date": "2026-11-02"}
    for names in (("a", "b"), ("b", "a")):
        for name, more in zip(names, (old, new)):
            suite_of(tmp_path, name, {**cell("CCL", 1), **more})
        assert findings.Pool(tmp_path).line("MF_yelp_ccl").mean("Recall(k=20)") == 0.2


def test_an_unfinished_ablation_concludes_nothing(tmp_path):
    from tests.report.sample import cell

    findings = script("findings")
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
    assert "several margins buy" in findings.ablation(findings.Pool(tmp_path))
    rows[0]["state"] = "missing"
    suite_of(tmp_path, "ablation", *rows)
    text = findings.ablation(findings.Pool(tmp_path))
    assert "unfinished, only 1 of 2 cells of single margin and 2 of 2 cells of several margins" in text
    assert "buy" not in text


def test_the_ablation_says_what_the_published_settings_reach_and_what_tuning_gained(tmp_path):
    from tests.report.sample import cell

    findings = script("findings")

    def row(loss, family, number, **more):
        return {**cell(loss, 1, protocol="held-out"), "family": family, "label": f"{family} {number}",
                "cell": f"{loss}{number}", **more}  # fmt: skip

    tuned = {"settings": "margin=0.6", "Recall(k=20)": "0.0625", "NDCG(k=20)": "0.05"}
    published = {"state": "screened out", "settings": "", "Recall(k=20)": "0.05", "NDCG(k=20)": "0.04"}
    rows = [row("CCL", "single margin", 0, **published), row("CCL", "single margin", 1, **tuned),
            row("MML", "several margins", 0, settings="neg_weight=1")]  # fmt: skip
    suite_of(tmp_path, "ablation", *rows)
    text = findings.ablation(findings.Pool(tmp_path))
    assert "published settings on the same split: CCL 0.0500 / 0.0400 (Recall@20 / NDCG@20, test)." in text
    assert "Re-tuning alone gives CCL +25.00 % / +25.00 %." in text
    # The seeds that both have are compared, and what was measured on other data is not spoken of.
    further = row("CCL", "single margin", 1, **{**tuned, "seed": "2", "cell": "more", "Recall(k=20)": "0.9"})
    suite_of(tmp_path, "ablation", *rows, further)
    assert "Re-tuning alone gives CCL +25.00 % / +25.00 %." in findings.ablation(findings.Pool(tmp_path))
    rows[0]["state"] = "outdated"
    suite_of(tmp_path, "ablation", *rows)
    assert "published" not in findings.ablation(findings.Pool(tmp_path))
    suite_of(tmp_path, "ablation", *rows[1:])
    assert "published" not in findings.ablation(findings.Pool(tmp_path))
