"""How much of each suite has been run."""

from __future__ import annotations

from pathlib import Path

from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Rows, state_of_cell
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_RUN

BENCHMARKS = Path(__file__).resolve().parents[1]
NO_CLAIM = ("table1", "tiny")  # the data's statistics, and a suite to try things with


def progress(pool: Pool) -> str:
    """How much of each suite has been run."""
    lines = []
    for name in sorted(path.stem for path in (BENCHMARKS / "suites").glob("*.yaml")):
        if name in NO_CLAIM:
            continue
        rows = pool.suites.get(name)
        done = _progress(rows) if rows else NOT_RUN
        report = f"[report]({name}/report.md)" if (BENCHMARKS / "reports" / name / "report.md").is_file() else ""
        lines.append([name, done, report])
    return markdown_table(["suite", "cells run", ""], lines)


def _progress(rows: Rows) -> str:
    states = [state for row in rows.cells if (state := state_of_cell(row))]
    failed, screened, waiting = (states.count(state) for state in ("failed", "screened out", "waiting"))
    said = f"{states.count('done')} of {len(states) - screened - waiting}" + (f", {failed} failed" if failed else "")
    said += f" so far, {waiting} wait for their short runs" if waiting else ""
    return said + (f", {screened} screened out" if screened else "")
