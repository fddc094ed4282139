"""Run cells, keep their rows, write the report: what ``mml compare`` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mml_plugin.errors import UserError
from mml_plugin.experiment.cells import ELSEWHERE, FAILED, Matcher, Outcome, Runner, running_elsewhere
from mml_plugin.experiment.collect import Collector
from mml_plugin.experiment.suite import Cell, Suite
from mml_plugin.report.build import build
from mml_plugin.report.comparison import groups_of
from mml_plugin.report.document import Table
from mml_plugin.report.protocols import PROTOCOLS, only_protocol
from mml_plugin.report.rows import Rows
from mml_plugin.report.spec import Spec
from mml_plugin.report.table import markdown_table

STEM = "rows"


def check_out(out: Path) -> None:
    """Refuse a folder whose report is somebody else's: it would be written over.

    Raises:
        UserError: for a folder that holds a ``report.*`` and no rows of a comparison, or rows of something else.
    """
    Rows.load_own(out / STEM)
    if not (out / f"{STEM}.csv").is_file():
        for kind in ("md", "html", "csv"):
            if (path := out / f"report.{kind}").exists():
                raise UserError(f"--out {out}: {path} is there and no comparison made it; give another folder")


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    *,
    matcher: Matcher | None = None,
    overwrite: bool = False,
    beside: Sequence[Cell] = (),
    isolated: bool = True,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run what is missing; rows are in ``out`` after each cell, with those of the cells ``beside``.

    ``overwrite`` begins every cell anew.

    Raises:
        KeyboardInterrupt: after Ctrl-C; what is finished is kept.
    """
    matcher = matcher or Matcher()
    collector = Collector(out / STEM, [*beside, *cells], fingerprint=matcher.fingerprint)
    collector.update([])
    runner = Runner(
        out / "logs", matcher, overwrite, isolated=isolated, say=say,
        on_outcome=lambda outcome: collector.update([outcome]),
    )  # fmt: skip
    return runner.run(cells)


def tune_and_run(
    suite: Suite,
    seeds: Sequence[int],
    out: Path,
    make: Callable[[Suite, Sequence[int]], list[Cell]],
    **how: Any,
) -> tuple[list[Cell], list[Outcome]]:
    """Run every tuning cell with the first seed, then the chosen ones with all seeds.

    Args:
        suite: lines with a family are tuning cells of it; others run as they are.
        seeds: of the final runs; the first one is the tuning's too.
        out: where the rows go.
        make: the cells of a suite and seeds.
        **how: as for :func:`run_cells`.

    Returns:
        every cell and what became of it.
    """
    tuning = make(suite, seeds[:1])
    outcomes = run_cells(tuning, out, **how)
    matcher = how.get("matcher") or Matcher()
    done = only(Collector(out / STEM, tuning, fingerprint=matcher.fingerprint).update([]), tuning).done()
    # Of a family whose tuning another process still runs nobody can say yet which cell is worth more seeds.
    running = {outcome.cell.family for outcome in outcomes if outcome.state == ELSEWHERE} - {""}
    lines = [line.first for group in groups_of(done) for line in group.lines]
    labels = {row["label"] for row in lines if row.get("family", "") not in running}
    kept = [entry for entry in suite.entries() if (entry.label or entry.expid) in labels]
    # The final runs are counted on the margins of every tuning cell, as these were.
    thresholds = list(tuning[0].request.thresholds or ())
    final = suite.model_copy(update={"experiments": kept, "grids": [], "thresholds": thresholds})
    known = {cell.name for cell in tuning}
    rest = [cell for cell in make(final, seeds) if cell.name not in known] if final.experiments else []
    return [*tuning, *rest], outcomes + (run_cells(rest, out, beside=tuning, **how) if rest else [])


def write_report(cells: Sequence[Cell], out: Path, spec: Spec) -> str:
    """Compare over users, write ``report.*`` into ``out``, return the tables of metrics and where the report is."""
    rows = only(Collector(out / STEM, cells, fingerprint=Matcher().fingerprint).add_bootstraps(asked_only=True), cells)
    document = build(spec, rows)
    document.write(out)
    tables = [block for block in document.blocks if isinstance(block, Table) and block.header[0] == "run"]
    shown = [markdown_table(table.header, table.rows, table.left) for table in tables if "seeds" in table.header]
    found = only_protocol(rows.cells)
    words = f"Protocol {found}: {PROTOCOLS[found]}"
    kinds = " and ".join(kind for kind in (".md", ".csv") if (out / f"report{kind}").is_file())
    return "\n\n".join([words, *shown, f"Report: {(out / 'report.html').resolve()} (also {kinds})"])


def only(rows: Rows, cells: Sequence[Cell]) -> Rows:
    """The rows of these cells: an earlier comparison in the same folder may have had others."""
    names = {cell.name for cell in cells}
    return Rows(
        [row for row in rows.cells if row["cell"] in names],
        [row for row in rows.history if row["cell"] in names],
        rows.users,
    )


def exit_code(outcomes: Sequence[Outcome], say: Callable[[str], None] = print) -> int:
    """1 when a cell failed, after naming it; otherwise 0. Says also what another process still runs."""
    elsewhere = sum(outcome.state == ELSEWHERE for outcome in outcomes)
    if elsewhere:
        say(f"{running_elsewhere(elsewhere)}; the same command adds to the report what is missing there now")
    failed = [outcome for outcome in outcomes if outcome.state == FAILED]
    for outcome in failed:
        say(f"failed: {outcome.cell.name}: {outcome.error}")
    return 1 if failed else 0
