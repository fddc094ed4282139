"""Rebuild a suite's report from its committed rows: ``python benchmarks/report.py table4`` (or ``all``)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment.suite import Suite, read_suite
from mml_plugin.report.build import build
from mml_plugin.report.rows import Row, Rows, read_csv
from mml_plugin.report.spec import Spec

ROOT = Path(__file__).resolve().parents[1]
SUITES, RESULTS, REPORTS, PAPER = (ROOT / "benchmarks" / name for name in ("suites", "results", "reports", "paper"))


def paper_of(suite: Suite, where: str) -> list[Row]:
    """The paper's table that stands beside the suite's figures; none where it names none.

    Raises:
        UserError: for a table that is not there.
    """
    path = PAPER / f"{suite.paper}.csv"
    if suite.paper and not path.is_file():
        known = nearest(suite.paper, [p.stem for p in PAPER.glob("*.csv")])
        raise UserError(f"{where}: paper: there is no table {suite.paper!r} in benchmarks/paper; {known}")
    return read_csv(path) if suite.paper else []


def spec_of(suite: Suite, name: str) -> Spec:
    """What the report says beside its rows."""
    return Spec(
        suite.title,
        suite.about,
        suite.kind,
        paper=paper_of(suite, name),
        source="published" if suite.paper == "anchors" else "paper",
        stop_epochs=read_csv(PAPER / "table2_stop_epochs.csv") if suite.paper == "table2_models" else [],
        early_stop=suite.early_stop,
        rebuild=f"python benchmarks/report.py {name}",
    )


def write(suite_file: Path, results: Path = RESULTS, reports: Path = REPORTS) -> Path:
    """Write the report of a suite; returns its folder."""
    name, suite = suite_file.stem, read_suite(suite_file)
    rows = Rows.load(results / f"suite_{name}")
    if not rows.cells:
        raise UserError(f"there are no rows of suite {name!r} in {results}; run benchmarks/run_suite.py {name} first")
    build(spec_of(suite, name), rows).write(reports / name)
    return reports / name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", help="a name in benchmarks/suites, or all")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--reports", type=Path, default=REPORTS)
    options = parser.parse_args()
    names = [options.suite]
    if options.suite == "all":
        names = sorted(p.stem for p in SUITES.glob("*.yaml") if (options.results / f"suite_{p.stem}.csv").is_file())
    try:
        for name in names:
            print(f"wrote {write(SUITES / f'{name}.yaml', options.results, options.reports)}")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
