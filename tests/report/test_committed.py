"""What is committed under benchmarks/reports, and in tables elsewhere, is what the committed rows give."""

from __future__ import annotations

import re
import shutil

import findings
import matrix
import pytest
import real_data
import report
import speed
from marks import written
from speed_jobs import tables
from speed_jobs.rows import read

from mml_plugin.report.pool import Pool
from tests.report.sample import ROOT

REPORTS = ROOT / "benchmarks" / "reports"


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
    made = report.write(ROOT / "benchmarks" / "suites" / f"{name}.yaml", reports=tmp_path)
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
    assert findings.findings(Pool(findings.RESULTS)) == (REPORTS / "README.md").read_text(encoding="utf-8")


def test_the_readmes_findings_come_from_committed_rows():
    assert written(ROOT / "README.md", "findings") == findings.readme_table(Pool(findings.RESULTS))


def test_the_tables_of_speed_come_from_committed_rows():
    rows = read(speed.RESULTS)
    assert written(ROOT / "README.md", "speed") == tables.readme_table(rows)
    assert written(speed.DOCS, "cases") == tables.every_case(rows, list(speed.CASES))
    assert written(speed.DOCS, "sweep") == tables.growth_table(read(speed.SWEEP))
    assert written(speed.DOCS, "sampler") == tables.sampler_table(read(speed.SAMPLER))


def test_the_readmes_matrix_comes_from_committed_rows():
    assert written(ROOT / "README.md", "matrix") == matrix.table(read(matrix.RESULTS))


def test_the_table_of_real_epochs_comes_from_committed_rows():
    assert written(ROOT / "docs" / "engines.md", "real") == real_data.table()


def test_every_suite_with_rows_has_its_report():
    rows = {p.stem.removeprefix("suite_") for p in (ROOT / "benchmarks" / "results").glob("suite_*.csv")}
    rows = {name for name in rows if not name.endswith(("-history", "-users"))}
    assert rows == {path.parent.name for path in REPORTS.glob("*/report.md")}


def test_an_experiment_has_the_same_training_in_every_suite(tmp_path):
    from mml_plugin.experiment.shared_trainings import behind
    from mml_plugin.report.rows import stems_in

    for path in (ROOT / "benchmarks" / "results").glob("suite_*.csv"):
        shutil.copy(path, tmp_path)
    stems = stems_in(tmp_path)
    assert {stem.name: older for stem in stems if (older := behind(stem, stems))} == {}
