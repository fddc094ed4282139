"""What is committed under benchmarks/reports is what the committed rows give."""

from __future__ import annotations

import importlib.util
import re
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


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REPORTS.glob("*/report.md")))
def test_committed_reports_come_from_committed_rows(name, tmp_path):
    made = script("report").write(name, reports=tmp_path)
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


def test_every_suite_with_rows_has_its_report():
    rows = {p.stem.removeprefix("suite_") for p in (ROOT / "benchmarks" / "results").glob("suite_*.csv")}
    rows = {name for name in rows if not name.endswith(("-history", "-users"))}
    assert rows == {path.parent.name for path in REPORTS.glob("*/report.md")}


def test_verdicts_follow_the_rule():
    findings = script("findings")
    assert findings.Gain(None).verdict(4.0) == "not run yet"
    assert findings.Gain(4.0).verdict(4.0) == "no interval yet"
    assert findings.Gain(4.0, 1, None, 3.0, 5.0).verdict(4.0) == "yes"
    assert findings.Gain(1.0, 1, None, 0.5, 1.5).verdict(4.0) == "smaller"
    assert findings.Gain(1.0, 1, None, -0.5, 1.5).verdict(4.0) == "no difference seen"
    assert findings.Gain(-2.0, 1, None, -3.0, -1.0).verdict(4.0) == "no"


def test_findings_read_the_gains_off_the_rows(tmp_path):
    from mml_plugin.report.rows import Rows
    from tests.report.sample import history, sample, value

    findings = script("findings")
    rows = sample(labels=("CCL", "MML"))
    for row in rows.cells:
        row["expid"] = f"MF_yelp_{row['label'].lower()}"
    runs = " ".join(row["identity"][:12] for row in rows.cells)
    rows.users = [{"runs": runs, "metric": "Recall(k=20)", "low": "0.002", "high": "0.004"}]
    Rows(rows.cells, [line for row in rows.cells for line in history(row)], rows.users).save(tmp_path / "suite_table4")
    pool = findings.Pool(tmp_path)
    gain = pool.gain("MF_yelp_ccl", "MF_yelp_mml", "Recall(k=20)")
    ccl, mml = (sum(value(label, seed, 6) for seed in range(1, 6)) / 5 for label in ("CCL", "MML"))
    assert gain.percent == pytest.approx(100 * (mml / ccl - 1))
    assert gain.low == pytest.approx(100 * 0.002 / ccl)
    assert gain.seeds == 5
    page = findings.findings(pool)
    assert f"{gain.percent:+.2f} % (users: {gain.low:+.2f} to {gain.high:+.2f} %; 5 seeds: sd {gain.sd:.2f} %)" in page
