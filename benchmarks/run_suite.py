"""Run a suite of ``benchmarks/suites`` and keep its rows: ``python benchmarks/run_suite.py table4``.

Runs what is missing, resumes what was cut, skips what is finished; the same command goes on after any stop, and several
processes may work on one suite. Run it in a folder that holds ``data/``; run folders go to ``runs/``. Rows go to
``benchmarks/results/suite_<name>*.csv`` after every cell, the report to ``benchmarks/reports/<name>/``. Where rows are
kept and run folders are not, ``--new`` runs only what has no row.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import report as reports

from mml_plugin.data.interactions import load
from mml_plugin.devices import resolve_device
from mml_plugin.errors import UserError
from mml_plugin.experiment.cell_rows import SCREENED_OUT, WAITING, description, measured
from mml_plugin.experiment.cells import DONE, MISSING, Matcher, Outcome, Runner
from mml_plugin.experiment.collect import Collector, slim
from mml_plugin.experiment.dataset import data_identity, data_word
from mml_plugin.experiment.screening import check_screen, screen
from mml_plugin.experiment.shared_trainings import behind
from mml_plugin.experiment.suite import Cell, Suite, make_cells, read_suite
from mml_plugin.report.comparison import groups_of
from mml_plugin.report.families import cells_with_result
from mml_plugin.report.needs import check_installed
from mml_plugin.report.rows import Rows, stems_in

ROOT = Path(__file__).resolve().parents[1]
SUITES, RESULTS, REPORTS = (ROOT / "benchmarks" / name for name in ("suites", "results", "reports"))


def main(argv: list[str] | None = None) -> int:
    """Returns 0, 1 when a cell failed or the reader of its output left, 2 for a mistake, 130 after Ctrl-C."""
    try:
        code = run_suite(parse(argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader, such as head, has seen enough; Python flushes once more as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="a name in benchmarks/suites, or a YAML file")
    parser.add_argument("--config", type=Path, default=ROOT / "config")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where run folders go")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows go")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="where the report goes")
    parser.add_argument("--gpu", type=int, default=-1, help="CUDA index, -1 for the CPU")
    parser.add_argument("--seeds", help="instead of the suite's, for example 2019,2020,2021")
    parser.add_argument("--only", action="append", help="run only cells whose name, label or group contains this")
    parser.add_argument("--chosen", action="store_true", help="only the tuning cells that now stand for their family")
    parser.add_argument("--new", action="store_true", help="leave out cells whose rows are kept, run folder or not")
    parser.add_argument("--limit", type=_count, help="run at most so many cells that are not finished")
    parser.add_argument(
        "--any-machine", action="store_true", help="finished runs of other backends, devices or threads count"
    )
    parser.add_argument("--overwrite", action="store_true", help="begin every cell anew")
    parser.add_argument("--collect", action="store_true", help="run nothing; rows of what is finished, on any machine")
    parser.add_argument(
        "--slim", action="store_true", help="drop checkpoint, weights, vectors and ids of finished cells"
    )
    parser.add_argument("--list", action="store_true", help="only say which cells there are, and which are finished")
    parser.add_argument("--no-report", action="store_true", help="rows only")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of cells")
    return int(text)


def run_suite(options: argparse.Namespace) -> int:
    """Run, collect, report."""
    path = Path(options.suite) if options.suite.endswith((".yaml", ".yml")) else SUITES / f"{options.suite}.yaml"
    suite = read_suite(path)
    reports.paper_of(suite, str(path))
    stem = options.results / f"suite_{path.stem}"
    if suite.kind == "data" and options.list:
        return list_data(suite, stem)
    if not options.list:
        resolve_device(options.gpu)
        if not options.no_report:
            check_installed()
    if suite.kind == "data":
        return data_suite(suite, path, stem, options)
    cells = make_cells(suite, options.config, options.runs, options.gpu, _seeds(options.seeds), where=str(path))
    # The report's holes are the whole suite's, whatever part of it is run now.
    whole = cells if options.seeds is None else make_cells(suite, options.config, options.runs, options.gpu)
    # Seconds of another machine are no part of a suite of times.
    others = [] if suite.kind == "time" else stems_in(options.results)
    if options.chosen:
        cells = standing(cells, Collector(stem, cells, fingerprint=data_of).judged(others))
    screened, waiting = screening_of(suite, path, merged(whole, cells), options)
    if options.list:
        states = {**dict.fromkeys(waiting, WAITING), **dict.fromkeys(screened, SCREENED_OUT)}
        rows = Collector(stem, cells, screened=screened, waiting=waiting, fingerprint=data_of).judged(others)
        list_cells(cells, without_rows(cells, rows), states)
        return 0
    named = chosen(cells, options.only)
    asked = [
        cell
        for cell in named
        if (label := (cell.group, cell.label)) not in screened
        and (label not in waiting or (cell.folder.finished and not options.overwrite))
    ]
    left = [cell for cell in named if cell not in asked]
    for labels, said in ((screened, "are screened out"), (waiting, "wait for their short runs")):
        if count := sum((cell.group, cell.label) in labels for cell in left):
            print(f"{count} of {len(named)} cells {said}")
    collector = Collector(
        stem, merged(whole, cells), hide=ROOT, screened=screened, waiting=waiting, fingerprint=data_of
    )
    outcomes = work(without_rows(asked, collector.judged(others)) if options.new else asked, collector, options)
    collector.adopt(others)
    collector.add_bootstraps()
    for name in behind(stem, stems_in(options.results)):
        print(
            f"suite {name} has an older training of an experiment of this one, or none: run_suite.py {name} --collect"
        )
    if not options.no_report:
        report(path, options)
    without = [outcome.cell for outcome in outcomes if outcome.state == MISSING]
    return summary(outcomes, without_rows(without, collector.judged(others)))


def _seeds(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text!r}: write whole numbers with commas between") from None


def merged(*lists: list[Cell]) -> list[Cell]:
    """The cells of all lists, each once."""
    return list({cell.name: cell for cells in lists for cell in cells}.values())


def chosen(cells: list[Cell], only: list[str] | None) -> list[Cell]:
    """The cells that ``--only`` names."""
    if not only:
        return cells
    found = [c for c in cells if any(word in text for word in only for text in (c.name, c.label, c.group))]
    if not found:
        raise UserError(f"--only {' '.join(only)} matches none of the {len(cells)} cells")
    return found


def screening_of(
    suite: Suite, path: Path, cells: list[Cell], options: argparse.Namespace
) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """(group, label) of the cells that the suite's screen leaves out, and of those that wait for it, each with why."""
    asked = suite.screen
    if asked is None:
        return {}, {}
    if asked.suite == path.stem:
        raise UserError(f"{path}: screen: a suite cannot screen itself")
    other = path.parent / f"{asked.suite}.yaml"
    short = read_suite(other)
    short_cells = make_cells(short, options.config, options.runs, options.gpu, where=str(other))
    check_screen(suite, cells, short, short_cells, str(path))
    # Rows of other settings or data than the short suite now has choose nothing.
    short_rows = Collector(options.results / f"suite_{asked.suite}", short_cells, fingerprint=data_of).judged()
    found = screen(cells, short_rows, asked.keep)
    for (group, family), why in found.waiting.items():
        print(
            f"not screened yet: {family} ({group}), {why} in suite {asked.suite}; run that one first"
            + (" (a cell that can only fail must leave both grids)" if "failed" in why else "")
        )
    out = dict.fromkeys(
        ((cell.group, cell.label) for cell in found.out),
        f"not among the best {asked.keep} of its family in suite {asked.suite}",
    )
    waiting = {
        (cell.group, cell.label): f"{found.waiting[cell.group, cell.family]} in suite {asked.suite}"
        for cell in cells
        if (cell.group, cell.family) in found.waiting
    }
    return out, waiting


def without_rows(cells: list[Cell], rows: Rows) -> list[Cell]:
    """The cells that no row of a finished run with their settings, thresholds and data stands for."""
    keys = ("cell", "config_hash", "suite_thresholds")
    # A row that was outdated under other settings stands for its cell again once the suite has its settings.
    kept = [row for row in rows.cells if measured(row)]
    known = {tuple(row.get(key, "") for key in keys): row["data_fingerprint"] for row in kept}

    def stands(cell: Cell) -> bool:
        of = known.get(tuple(description(cell)[key] for key in keys))
        return of is not None and data_of(cell) in (of, "")

    return [cell for cell in cells if not stands(cell)]


def data_of(cell: Cell) -> str:
    """What rows call the cell's data; "" where they are not here."""
    return fingerprint_here(Path(cell.experiment.params["train_data"]).parent)


@cache
def fingerprint_here(folder: Path) -> str:
    """What rows call the data in a folder; "" where none are."""
    try:
        return data_word(data_identity(load(folder)))
    except UserError:
        return ""


def list_cells(cells: list[Cell], new: list[Cell], states: Mapping[tuple[str, str], str]) -> None:
    """Say which cells have a finished run here, which only the rows of one, which neither, and what the screen says.

    A cell that waits for its short run is shown as finished or kept where it has a whole one.
    """
    for cell in cells:
        state = "finished" if cell.folder.finished else "open" if cell in new else "kept"
        of_screen = states.get((cell.group, cell.label))
        if of_screen == SCREENED_OUT or (of_screen and state == "open"):
            state = of_screen
        print(f"{state:<12}  {cell.name}  {cell.group}: {cell.label}")


def standing(cells: list[Cell], rows: Rows) -> list[Cell]:
    """The cells whose setting the report shows by now: with more seeds, these are worth running.

    Of a family whose tuning is unfinished none is: another cell may yet be the best.
    """
    labels: set[tuple[str, str]] = set()
    for group in groups_of(rows.done()):
        counts = cells_with_result(rows, group.name)
        for line in group.lines:
            have, of = counts.get(line.name, (1, 1))
            if have == of:
                labels.add((group.name, line.first["label"]))
            else:
                print(f"not chosen yet: {line.name} ({group.name}), {have} of {of} cells have a result")
    found = [cell for cell in cells if (cell.group, cell.label) in labels]
    if not found:
        raise UserError("--chosen: no cell is chosen yet; run the suite without it first")
    return found


def work(cells: list[Cell], collector: Collector, options: argparse.Namespace) -> list[Outcome]:
    """Run what is to be run; every cell's rows are written when it ends."""
    collector.update([])
    matcher = Matcher(any_machine=options.any_machine or options.collect)
    finished = [cell for cell in cells if cell.folder.finished]
    if options.collect:
        outcomes = [Outcome(cell, MISSING) for cell in cells if not cell.folder.finished]
        why = [(cell, why_not(matcher, cell)) for cell in finished]
        outcomes += [Outcome(cell, MISSING if reason else DONE, reason) for cell, reason in why]
        collector.update(outcomes)
        return outcomes
    if options.limit is not None:
        left = [cell for cell in cells if not cell.folder.finished][: options.limit]
        cells = [cell for cell in cells if cell in finished or cell in left]
    print(f"{len(cells)} cells, {len(finished)} of them have a finished run", flush=True)

    def keep(outcome: Outcome) -> None:
        collector.update([outcome])
        if options.slim and outcome.state == DONE:
            slim(outcome.cell.folder)

    runner = Runner(options.runs / "suites" / collector.stem.name, matcher, options.overwrite, on_outcome=keep)
    return runner.run(cells)


def why_not(matcher: Matcher, cell: Cell) -> str:
    """Why a finished run is not the cell's, a damaged one too; "" when it is."""
    try:
        return matcher.why_not(cell)
    except UserError as error:
        return str(error)


def list_data(suite: Suite, stem: Path) -> int:
    """Say which data sets a suite counts, and which are counted."""
    counted = {row["dataset"] for row in Rows.load(stem).cells}
    for name in suite.datasets:
        print(f"{'finished' if name in counted else 'open':<12}  {name}")
    return 0


def data_suite(suite: Suite, path: Path, stem: Path, options: argparse.Namespace) -> int:
    """Table 1: count the data sets; with ``--collect`` only the report, from the rows that there are."""
    if not options.collect:
        count_data(suite, stem)
    if not options.no_report:
        report(path, options)
    return 0


def count_data(suite: Suite, stem: Path) -> None:
    """Write the rows of a suite of data sets."""
    from mml_plugin.data.check import check
    from mml_plugin.experiment.environment import environment
    from mml_plugin.report.rows import write_csv

    commit = environment()["commit"]
    rows = [
        {"dataset": name, "what": line.what, "value": f"{line.found:.5g}" if line.found < 1 else f"{line.found:.0f}",
         "commit": commit}
        for name in suite.datasets
        for line in check(name, Path("data"))
    ]  # fmt: skip
    write_csv(stem.with_name(f"{stem.name}.csv"), rows)


def report(path: Path, options: argparse.Namespace) -> None:
    """Write the suite's report from its rows."""
    print(f"report: {reports.write(path, options.results, options.reports)}")


def summary(outcomes: list[Outcome], new: list[Cell]) -> int:
    """Say what came of it; returns the exit code. Of the cells without a run those that are not ``new`` have a row."""
    states = Counter(
        "kept" if outcome.state == MISSING and outcome.cell not in new else outcome.state for outcome in outcomes
    )
    if states:
        print(", ".join(f"{count} {state}" for state, count in states.items()))
    for outcome in outcomes:
        if outcome.state == MISSING and outcome.error:
            print(f"not taken: {outcome.error}", file=sys.stderr)
        if outcome.state == "failed":
            print(f"failed: {outcome.cell.name}: {outcome.error}", file=sys.stderr)
    return 1 if states.get("failed") else 0


if __name__ == "__main__":
    sys.exit(main())
