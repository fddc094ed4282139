"""Write benchmarks/reports/README.md: for each claim of the paper, whether it came out here, from committed rows alone.

Usage: ``python benchmarks/findings.py`` (``--readme`` also fills the README between its ``findings`` marks).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean

from mml_plugin.files import atomic_write
from mml_plugin.report.comparison import (
    METRICS,
    Group,
    Line,
    groups_of,
    machines_of,
    monitor,
    paper_row,
    percent,
    shared_seeds,
)
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.families import cells_with_result, labels_of
from mml_plugin.report.gain import PAR
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Row, Rows, read_csv, state_of_cell
from mml_plugin.report.statistics import MIN_SEEDS
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN, rounded, short, signed, with_sd

ROOT = Path(__file__).resolve().parents[1]
RESULTS, REPORTS, PAPER = (ROOT / "benchmarks" / name for name in ("results", "reports", "paper"))
BEGIN, END = "<!-- findings:begin -->", "<!-- findings:end -->"
EPOCHS_LOST = "its epochs are not kept"
DATASETS = {"yelp": "Yelp2018", "gowalla": "Gowalla"}
FOLDERS = {"yelp": "yelp18", "gowalla": "gowalla"}
NEGATIVES = (10, 50, 100, 200, 400, 800)
FIRST = "epochs=20"
RULE = (
    "The verdict follows a fixed rule: **yes** when the sign is the paper's, the 95 % interval over users excludes 0 "
    f"(with {MIN_SEEDS} seeds or more the paired t interval over seeds too) and the gain is at least half the paper's; "
    "**smaller** when only the size is missing; **no difference seen** when an interval includes 0; **no** when the "
    "sign is the other one. Without an interval over users there is no verdict. That interval says whether other users "
    "would show the same for these very trainings, not whether another seed would: a verdict on fewer than "
    f"{MIN_SEEDS} seeds says so. sd is the standard deviation of the difference over seeds."
)


def claims(pool: Pool) -> list[str]:
    """The paper's claims, one section each."""
    table2 = read_csv(PAPER / "table2_models.csv")
    sections = {
        "MML beats CCL at 100 negatives": _gain_table(pool, _at_100(table2)),
        "MML beats CCL by about 20 % at 10 negatives": _gain_table(pool, _at_10(), TUNED_FOR_800),
        "Time per epoch grows by at most 2 seconds": _time(pool),
        "Early stopping hurts": _early_stopping(pool, table2),
        "On par with BSL at 100 negatives": _parity(pool),
    }
    short_lines = [[name, _counted(verdicts)] for name, (_, verdicts) in sections.items()]
    parts = [
        "## In short",
        markdown_table(["claim of the paper", "rows of its table below"], short_lines, left=2),
        RULE,
    ]
    for name, (text, _) in sections.items():
        parts += [f"## {name}", text]
    return parts


Section = tuple[str, list[str]]


def _counted(verdicts: Sequence[str]) -> str:
    """``3 yes (1 seed); 1 not run yet``."""
    found = {verdict: verdicts.count(verdict) for verdict in dict.fromkeys(verdicts)}
    return "; ".join(f"{count} {verdict}" for verdict, count in found.items())


Comparison = tuple[str, str, str, list[float]]


def _at_10() -> list[Comparison]:
    """Name, CCL's and MML's experiment, the paper's gains in percent."""
    return [
        (f"MF, {DATASETS[d]}", f"MF_{d}_ccl_n10", f"MF_{d}_mml_n10",
         [float(r["recall_gain_percent"]), float(r["ndcg_gain_percent"])])
        for d, folder in FOLDERS.items() for r in read_csv(PAPER / "figure3_gains.csv") if r["dataset"] == folder
    ]  # fmt: skip


def _at_100(table2: Sequence[Row]) -> list[Comparison]:
    """As :func:`_at_10`."""
    found = []
    for model in ("MF", "SimpleX"):
        for short_name, folder in FOLDERS.items():
            rows = {
                r["loss"]: r for r in table2 if (r["model"], r["dataset"], r["early_stop"]) == (model, folder, "no")
            }
            printed = [
                100 * (float(rows["MML"][c]) / float(rows["CCL"][c]) - 1) for c in ("recall_at_20", "ndcg_at_20")
            ]
            expids = (f"{model}_{short_name}_ccl", f"{model}_{short_name}_mml")
            found.append((f"{model}, {DATASETS[short_name]}", *expids, printed))
    return found


TUNED_FOR_800 = (
    "CCL has the margin and weight that were published for 800 negatives; the section on margins and weight says how "
    "much of this gain a CCL re-tuned for 10 makes good."
)


def _gain_table(pool: Pool, comparisons: Iterable[Comparison], note: str = "") -> Section:
    lines = []
    for name, first, second, printed in comparisons:
        for metric, claimed in zip(METRICS, printed):
            gain = pool.gain(first, second, metric)
            lines.append([name, short(metric), signed(claimed), gain.words(), gain.verdict(claimed)])
    table = markdown_table(["", "metric", "paper", "here", "verdict"], lines, left=2)
    return f"{table}\n\n{note}".strip(), _last(lines)


def _last(lines: Sequence[Sequence[str]]) -> list[str]:
    return [line[-1] for line in lines]


def value_of(line: Line | None, metric: str) -> str:
    """A metric's mean over seeds; in words where there is none."""
    if line is None:
        return NOT_RUN
    mean = line.mean(metric)
    return NOT_MEASURED if mean is None else rounded(mean)


def _time(pool: Pool) -> Section:
    table, lines = read_csv(PAPER / "table3_time.csv"), []
    for name, folder in FOLDERS.items():
        for count in ("10", "100", "800"):
            suffix = "" if count == "100" else f"_n{count}"
            printed = {
                r["loss"]: float(r["seconds_per_epoch"])
                for r in table
                if (r["dataset"], r["num_negs"]) == (folder, count)
            }
            sides = [pool.line(f"MF_{name}_{loss}{suffix}", settings="epochs=5") for loss in ("ccl", "mml")]
            here, verdict = NOT_RUN, NOT_RUN
            if all(sides):
                a, b = (_seconds(side) for side in sides if side is not None)
                ranges = [_epoch_range(pool, side) for side in sides if side is not None]
                here = f"{a:.1f} s ({ranges[0]}), {b:.1f} s ({ranges[1]}): {b - a:+.2f} s"
                verdict = "yes" if b - a <= 2 else "no"
                if len(machines_of(*(side for side in sides if side is not None))) > 1:
                    verdict = "two machines, no verdict"
            paper = f"{printed['CCL']:g} s, {printed['MML']:g} s ({printed['MML'] - printed['CCL']:+g} s)"
            lines.append([f"{DATASETS[name]}, {count} negatives", paper, here, verdict])
    table_text = markdown_table(["MF", "paper: CCL, MML", "here: CCL, MML", "at most 2 s more"], lines)
    return (
        f"{table_text}\n\nThe paper's seconds are stock recbox on a P100; here they are the machine's that the report "
        "of table3 names, training and evaluation: the median epoch, in brackets the fastest and the slowest of five.",
        _last(lines),
    )


def _seconds(line: Line) -> float:
    return (line.mean("train_seconds_per_epoch") or 0.0) + (line.mean("eval_seconds_per_epoch") or 0.0)


def _epoch_range(pool: Pool, line: Line) -> str:
    """The fastest and the slowest epoch, training and evaluation."""
    epochs = [epoch for row in line.runs.values() for epoch in pool.epochs[row["identity"]]]
    seconds = [float(epoch["train_seconds"]) + float(epoch["eval_seconds"]) for epoch in epochs]
    if not seconds:
        return EPOCHS_LOST
    return f"{min(seconds):.1f} to {max(seconds):.1f}"


def _early_stopping(pool: Pool, table2: Sequence[Row]) -> Section:
    stops, lines = read_csv(PAPER / "table2_stop_epochs.csv"), []
    for model in ("MF", "SimpleX"):
        for name, folder in FOLDERS.items():
            for loss in ("CCL", "MML"):
                rows = {
                    r["early_stop"]: r for r in table2 if (r["model"], r["dataset"], r["loss"]) == (model, folder, loss)
                }
                printed, printed_ndcg = (
                    100 * (float(rows["yes"][key]) / float(rows["no"][key]) - 1)
                    for key in ("recall_at_20", "ndcg_at_20")
                )
                paper_stop = next(r["stop_epoch"] for r in stops if (r["model"], r["loss"]) == (model, loss))
                line = pool.line(f"{model}_{name}_{loss.lower()}")
                here = here_ndcg = stop_epochs = verdict = NOT_RUN
                if line is not None and not any(pool.epochs[row["identity"]] for row in line.runs.values()):
                    here = here_ndcg = stop_epochs = verdict = EPOCHS_LOST
                elif line is not None:
                    losses, ends = _stop_losses(pool, line, METRICS[0])
                    mean = fmean(losses)
                    here, stop_epochs = signed(mean), "/".join(ends)
                    here_ndcg = signed(fmean(_stop_losses(pool, line, METRICS[1])[0]))
                    verdict = "yes" if mean <= printed / 2 else "less" if mean < -0.1 else "hardly"
                    verdict += "" if len(losses) >= MIN_SEEDS else f" ({len(losses)} seed{'s' * (len(losses) > 1)})"
                cells = [
                    f"{model}, {DATASETS[name]}, {loss}",
                    signed(printed),
                    here,
                    signed(printed_ndcg),
                    here_ndcg,
                    paper_stop,
                    stop_epochs,
                    verdict,
                ]
                lines.append(cells)
    header = ["patience 3", "Recall@20, paper", "here", "NDCG@20, paper", "here", "paper stops at", "here at", "hurts"]
    said = (
        "Read off the full runs' own histories, which a run with patience only cuts short; where Recall@20 is what the "
        "epoch is chosen by, it can only lose by that. **yes**: at least half of the paper's loss; **less**: less than "
        "that; **hardly**: 0.1 % or less, of Recall@20."
    )
    return f"{markdown_table(header, lines)}\n\n{said}", _last(lines)


def _stop_losses(pool: Pool, line: Line, of: str) -> tuple[list[float], list[str]]:
    """Per seed: what stopping costs of a metric, in percent of the full run, and where it stops."""
    losses, ends = [], []
    for row in line.runs.values():
        history = pool.epochs[row["identity"]]
        if not history:
            continue
        metric = row["monitor"]
        stop = read_stop([float(epoch[metric]) for epoch in history], 3)
        value = float(history[stop.best_epoch - 1][of])
        losses.append(100 * (value / float(row[of]) - 1) if float(row[of]) else 0.0)
        ends.append(f"{stop.epoch}{'' if stop.reached else '+'}")
    return losses, ends


def _parity(pool: Pool) -> Section:
    table4, lines = read_csv(PAPER / "table4_losses.csv"), []
    for name, folder in FOLDERS.items():
        rows = {r["loss"]: r for r in table4 if r["dataset"] == folder}
        for metric, column in zip(METRICS, ("recall_at_20", "ndcg_at_20")):
            claimed = 100 * (float(rows["MML"][column]) / float(rows["BSL"][column]) - 1)
            for said, expid in (("BSL in the same pipeline", "bsl"), ("BSL in its authors' setting", "bslnative")):
                gain = pool.gain(f"MF_{name}_{expid}", f"MF_{name}_mml", metric)
                name_of = f"MML to {said}, {DATASETS[name]}"
                lines.append(
                    [name_of, short(metric), signed(claimed), gain.words(), gain.parity("MML", "BSL", claimed)]
                )
    said = (
        f"**yes**: the 95 % interval over users lies within {PAR:g} % either way; **no**: it does not, and excludes 0, "
        f'with {MIN_SEEDS} seeds or more the paired t interval over seeds too; **undecided** otherwise. "as in '
        "the paper\": its own figures are out of par on that side, too. The paper's "
        "BSL rows come from its authors' own code, so the second line of each pair is the one that stands for them."
    )
    table = markdown_table(["MF", "metric", "paper", "here", "on par"], lines, left=2)
    return f"{table}\n\n{said}", _last(lines)


def ablation(pool: Pool) -> str:
    """What several margins buy over the best re-tuned single one, in a sentence per number of negatives."""
    rows = pool.suites.get("ablation")
    sentences = []
    for group in groups_of(rows.done()) if rows else []:
        counts = cells_with_result(rows, group.name) if rows else {}
        if any(found < asked for found, asked in counts.values()):
            done = " and ".join(f"{found} of {asked} cells of {family}" for family, (found, asked) in counts.items())
            sentences.append(f"{group.name}: unfinished, only {done} have a result, so nothing is concluded yet.")
            continue
        if (families := _families(group)) is None:
            continue
        one, several = families
        gains = [f"{pool.gain_of(one, several, metric).words()} in {short(metric)}" for metric in METRICS]
        sentences.append(
            f"{group.name}: several margins buy {' and '.join(gains)} over the best re-tuned single margin; "
            f"{_tried(rows, group.name, one)} against {_tried(rows, group.name, several)}, both chosen on validation, "
            "measured on test."
        )
        sentences += _as_published(rows, group.name, one)
    sentences += _first_round(pool.suites.get("ablation15"))
    return "\n\n".join(sentences) or NOT_RUN.capitalize() + "."


def _families(group: Group) -> tuple[Line, Line] | None:
    """The line of the best single margin and that of the best several ones; None where one is missing."""
    lines = {line.name: line for line in group.lines}
    names = ("single margin", "several margins")
    return (lines[names[0]], lines[names[1]]) if set(lines) == set(names) else None


def _as_published(rows: Rows | None, group: str, tuned: Line) -> list[str]:
    """What the cells without an override reach on the same split, screened out or not, and what tuning gained."""
    lines: dict[str, Line] = {}
    for row in rows.cells if rows else []:
        if row["state"] == "outdated" or row["group"] != group or row["settings"]:
            continue
        if all(row[metric] for metric in METRICS):
            lines.setdefault(row["loss"], Line(row["loss"], {})).runs[row["seed"]] = row
    if not lines:
        return []
    reached = ", ".join(f"{loss} {_both(line)}" for loss, line in lines.items())
    names = " / ".join(short(metric) for metric in METRICS)
    said = f"{group}, whole runs of the published settings on the same split: {reached} ({names}, test)."
    before = lines.get(tuned.first["loss"])
    gains = [percent(before, tuned, metric) for metric in METRICS] if before else []
    if gains and all(gain is not None for gain in gains):
        said += f" Re-tuning alone gives {tuned.first['loss']} {' / '.join(map(signed, gains))}."
    return [said]


def _first_round(rows: Rows | None) -> list[str]:
    """The best of each family after the short runs, by validation: what goes on, and no result."""
    found = []
    for group in groups_of(rows.done()) if rows else []:
        counts = cells_with_result(rows, group.name) if rows else {}
        words = []
        for line in group.lines:
            value, (done, asked) = monitor(line), counts[line.name]
            words.append(f"{line.name} {rounded(value)} ({line.first['label']}; {done} of {asked} cells)")
        said = short(group.first.first["monitor"])
        found.append(
            f"{group.name}, first round of {group.first.first['max_epochs']} epochs, best {said} on validation: "
            f"{', '.join(words)}. It says what gets a whole run, not where it ends."
        )
    return found


def _tried(rows: Rows | None, group: str, line: Line) -> str:
    """How many tuning cells a line was chosen from, and which it is."""
    every = len(labels_of(rows, group, line.name)) if rows else line.cells
    many = f"{line.cells} whole runs of {every} cells" if every > line.cells else f"{line.cells} cells"
    return f"{many} ({line.first['label']})"


def held_out(pool: Pool) -> str:
    """CCL, BSL and MML with the epoch chosen on validation."""
    lines = []
    for name, dataset in DATASETS.items():
        for loss in ("ccl", "bsl", "mml"):
            line = pool.line(f"MF_{name}_{loss}", "held-out")
            cells = [f"{dataset}, {loss.upper()}"]
            for metric in METRICS:
                if line is None:
                    cells += [NOT_RUN, ""]
                    continue
                value = with_sd(line, metric) + (" (1 seed)" if len(line.runs) == 1 else "")
                first = loss == "ccl"
                cells += [
                    value,
                    "" if first else pool.gain(f"MF_{name}_ccl", f"MF_{name}_{loss}", metric, "held-out").words(),
                ]
            lines.append(cells)
    header = ["MF, 100 negatives", "Recall@20", "to CCL", "NDCG@20", "to CCL"]
    return markdown_table(header, lines)


def anchors(pool: Pool) -> str:
    """What others publish, with their settings, and what the same settings reach here."""
    table, lines = read_csv(PAPER / "anchors.csv"), []
    for anchor in table:
        match = [
            line for (_, protocol, engine, settings), line in pool.lines.items()
            if protocol == "paper" and engine == "fast" and not settings and paper_row([anchor], line.first)
            and (anchor["loss"] != "BSL" or "bslnative" in line.first["expid"])
            and (anchor["loss"] != "CCL" or "reczoo" in line.first["expid"])
        ]  # fmt: skip
        ours = [value_of(match[0] if match else None, metric) for metric in METRICS]
        lines.append(
            [f"{anchor['model']} + {anchor['loss']}, {anchor['dataset']}", anchor["recall_at_20"], ours[0],
             anchor["ndcg_at_20"], ours[1], anchor["setting"], anchor["source"]]
        )  # fmt: skip
    header = ["published", "Recall@20", "here", "NDCG@20", "here", "setting", "source"]
    return markdown_table(header, lines)


def crosscheck(pool: Pool) -> str:
    """Both engines on the same experiments, a few epochs."""
    lines = []
    for name, dataset in DATASETS.items():
        for loss in ("ccl", "mml"):
            sides = [
                pool.lines.get((f"MF_{name}_{loss}", "paper", engine, "epochs=2")) for engine in ("recbox", "fast")
            ]
            cells = [f"MF_{name}_{loss} ({dataset})"]
            for metric in METRICS:
                cells += [value_of(side, metric) for side in sides]
                stock, fast = sides
                both = stock is not None and fast is not None and shared_seeds(stock, fast)
                cells.append(pool.gain_of(stock, fast, metric).words() if both else "")
            lines.append(cells)
    header = ["after 2 epochs", "Recall@20, recbox", "fast", "fast to recbox"]
    return markdown_table([*header, "NDCG@20, recbox", *header[2:]], lines)


def by_negatives(pool: Pool) -> str:
    """CCL, BSL and MML by number of negatives; MML against CCL with as many, and with fewer than 100 against 100."""

    def expid(name: str, loss: str, count: int) -> str:
        return f"MF_{name}_{loss.lower()}" + ("" if count == 100 else f"_n{count}")

    losses = ("CCL", "MML", "BSL")
    counts = [n for n in NEGATIVES if any(pool.line(expid(name, loss, n)) for name in DATASETS for loss in losses)]
    if not counts:
        return NOT_RUN.capitalize() + "."
    values, gains, same = [], [], []
    for name, dataset in DATASETS.items():
        for metric in METRICS:
            what = f"{dataset}, {short(metric)}"
            for loss in losses:
                line = [pool.line(expid(name, loss, count)) for count in counts]
                values.append([what, loss, *(value_of(run, metric) for run in line)])
            equal = [pool.gain(expid(name, "CCL", n), expid(name, "MML", n), metric) for n in counts]
            same.append([what, *(gain.words() for gain in equal)])
            fewer = [pool.gain(expid(name, "CCL", 100), expid(name, "MML", n), metric) for n in counts if n < 100]
            gains.append([what, *(gain.words() for gain in fewer)])
    tables = (
        markdown_table(["MF", "", *map(str, counts)], values, left=2),
        markdown_table(["MML to CCL with as many", *map(str, counts)], same),
        markdown_table(["to CCL with 100 negatives", *(f"MML with {count}" for count in counts if count < 100)], gains),
    )
    return "\n\n".join(tables)


def first_epochs(pool: Pool) -> str:
    """CCL, BSL and MML after the suite first20's 20 epochs."""
    lines = []
    for name, ccl, mml in first_settings(pool):
        bsl = pool.line(ccl.first["expid"].replace("_ccl", "_bsl"), settings=FIRST)
        for metric in METRICS:
            values = [value_of(side, metric) for side in (ccl, mml, bsl)]
            lines.append([name, short(metric), *values, pool.gain_of(ccl, mml, metric).words()])
    if not lines:
        return NOT_RUN.capitalize() + "."
    return markdown_table(["after 20 epochs", "metric", "CCL", "MML", "BSL", "MML to CCL"], lines, left=2)


def first_settings(pool: Pool) -> list[tuple[str, Line, Line]]:
    """(name, CCL, MML) of what both have been trained on for 20 epochs."""
    found = []
    for name, dataset in DATASETS.items():
        for negatives, suffix in ((10, "_n10"), (100, "")):
            ccl, mml = (pool.line(f"MF_{name}_{loss}{suffix}", settings=FIRST) for loss in ("ccl", "mml"))
            if ccl is not None and mml is not None and shared_seeds(ccl, mml):
                found.append((f"MF, {dataset}, {negatives} negatives", ccl, mml))
    return found


def strongest(pool: Pool) -> str:
    """The best finished run of each loss on MF, whatever its setting."""
    lines = []
    for name, folder in FOLDERS.items():
        for loss in ("CCL", "MML", "BSL"):
            runs = [
                line for (_, protocol, engine, settings), line in pool.lines.items()
                if protocol == "paper" and engine == "fast" and not settings and not line.first.get("cut")
                and (line.first["model"], line.first["dataset"], line.first["loss"]) == ("MF", folder, loss)
            ]  # fmt: skip
            if not runs:
                lines.append([f"{DATASETS[name]}, {loss}", NOT_RUN, "", "", ""])
                continue
            best = max(runs, key=lambda line: line.mean(METRICS[0]) or 0.0)
            plain = best.first
            lines.append(
                [f"{DATASETS[name]}, {loss}", best.name, plain["num_negs"], *(value_of(best, m) for m in METRICS)]
            )
    return markdown_table(["MF", "experiment", "negatives", "Recall@20", "NDCG@20"], lines, left=2)


def progress(pool: Pool) -> str:
    """How much of each suite has been run."""
    lines = []
    for name in sorted(path.stem for path in (ROOT / "benchmarks" / "suites").glob("*.yaml")):
        if name in ("tiny", "table1"):
            continue
        rows = pool.suites.get(name)
        done = _progress(rows) if rows else NOT_RUN
        report = f"[report]({name}/report.md)" if (REPORTS / name / "report.md").is_file() else ""
        lines.append([name, done, report])
    return markdown_table(["suite", "cells run", ""], lines)


def _progress(rows: Rows) -> str:
    states = [state for row in rows.cells if (state := state_of_cell(row))]
    failed, screened, waiting = (states.count(state) for state in ("failed", "screened out", "waiting"))
    said = f"{states.count('done')} of {len(states) - screened - waiting}" + (f", {failed} failed" if failed else "")
    said += f" so far, {waiting} wait for their short runs" if waiting else ""
    return said + (f", {screened} screened out" if screened else "")


def findings(pool: Pool) -> str:
    """The whole page."""
    parts = [
        "# Findings",
        "Written by `python benchmarks/findings.py` from `benchmarks/results/`; do not edit by hand.",
        "Claims of the paper, and what came out here with the fast engine. Everything in the claims' sections is "
        "selected on test (protocol paper: best epoch on the test split, as the paper selects); the held-out protocol "
        "has a section of its own and is never mixed in.",
        *claims(pool),
        "## How many negatives each loss needs",
        "As in the paper each loss keeps its margins, weights or temperatures whatever the number.",
        by_negatives(pool),
        "## The first 20 epochs",
        "The same experiments cut after 20 epochs, best of these on test: how fast each loss learns, not where it "
        "ends. No claim above is judged by them. The paper's early stopping ends MF at epoch 19.",
        first_epochs(pool),
        "## Is it the margins, or the weight?",
        "Held-out protocol. The paper keeps CCL at weight 150 and margin 0.9, tuned for 800 negatives; here both sides "
        "are given 25 tuning cells per number of negatives, of which the best after 15 epochs get whole runs.",
        ablation(pool),
        "## CCL, BSL and MML under the held-out protocol",
        "Selected on validation; test ranked once.",
        held_out(pool),
        "## Public anchors",
        "**Other settings than the paper's** (800 to 2000 negatives, other schedules), so not comparable with the "
        "tables above; selected on test. They say how far the same models have been taken by others.",
        anchors(pool),
        "## The strongest number of each loss here",
        "Over every setting that was run (paper's, plateau schedule, more negatives, authors' own); tuning effort is "
        "not equal, and all are selected on test.",
        strongest(pool),
        "## Both engines on the same experiments",
        "Selected on test. The engines draw different negatives from the same distribution, so they agree as two seeds "
        "do; fed the same batches and negatives they agree to rounding (tests).",
        crosscheck(pool),
        "## What has been run",
        progress(pool),
    ]  # fmt: skip
    if pool.left_out:
        parts.append(
            f"Left out, because newer rows of theirs have other settings or data: {', '.join(sorted(pool.left_out))}."
        )
    return "\n\n".join(parts) + "\n"


def readme_table(pool: Pool) -> str:
    """The short tables of the README: paper and here, value by value, then MML against CCL."""
    parts = [_readme_values(pool), _readme_gains(pool), _readme_ablation(pool)]
    early = [_readme_early(pool, *setting) for setting in first_settings(pool) if not _has_whole_runs(pool, *setting)]
    if early:
        header = ["cut after 20 epochs, Recall@20 / NDCG@20", "CCL", "MML", "MML to CCL, Recall@20"]
        parts.append(markdown_table(header, early))
    parts.append(
        "The fast engine, selected on test as the paper selects, where it does not say held-out (selected on "
        "validation, measured on test); in brackets the 95 % interval over users and how many seeds. "
        "[All findings](benchmarks/reports/README.md)"
    )
    return "\n\n".join(part for part in parts if part)


def _readme_values(pool: Pool) -> str:
    printed = {(r["model"], r["dataset"], r["loss"]): r for r in read_csv(PAPER / "table4_losses.csv")}
    printed |= {
        (r["model"], r["dataset"], r["loss"]): r
        for r in read_csv(PAPER / "table2_models.csv")
        if r["early_stop"] == "no"
    }
    lines = []
    for model, loss in (("MF", "CCL"), ("MF", "BSL"), ("MF", "MML"), ("SimpleX", "CCL"), ("SimpleX", "MML")):
        cells = [f"{model} + {loss}"]
        for name, folder in FOLDERS.items():
            row, line = printed[model, folder, loss], pool.line(f"{model}_{name}_{loss.lower()}")
            cells.append(f"{row['recall_at_20']} / {row['ndcg_at_20']}")
            cells.append(NOT_RUN if line is None else _both(line))
        lines.append(cells)
    header = ["Recall@20 / NDCG@20", *(cell for name in DATASETS.values() for cell in (f"{name}: paper", "here"))]
    return markdown_table(header, lines)


def _readme_gains(pool: Pool) -> str:
    lines = []
    for at, comparisons in ((100, _at_100(read_csv(PAPER / "table2_models.csv"))), (10, _at_10())):
        for name, first, second, printed in comparisons:
            gains = [pool.gain(first, second, metric) for metric in METRICS]
            if gains[0].percent is not None:
                cells = (cell for gain, claimed in zip(gains, printed) for cell in (signed(claimed), gain.words()))
                lines.append([f"{name}, {at} negatives", *cells])
    header = ["MML over CCL", "Recall@20, paper", "here", "NDCG@20, paper", "here"]
    return markdown_table(header, lines) if lines else ""


def _readme_ablation(pool: Pool) -> str:
    """Several margins against the best re-tuned single one, where all cells have a result."""
    rows, lines = pool.suites.get("ablation"), []
    for group in groups_of(rows.done()) if rows else []:
        families, counts = _families(group), cells_with_result(rows, group.name) if rows else {}
        if families and all(found == asked for found, asked in counts.values()):
            one, several = families
            gains = [pool.gain_of(one, several, metric).words() for metric in METRICS]
            lines.append([group.name, _both(one), _both(several), *gains])
    header = [
        "margins or weight? Both tuned, held-out",
        "best single margin",
        "several margins",
        "Recall@20",
        "NDCG@20",
    ]
    return markdown_table(header, lines) if lines else ""


def _has_whole_runs(pool: Pool, name: str, ccl: Line, mml: Line) -> bool:
    return pool.gain(ccl.first["expid"], mml.first["expid"], METRICS[0]).percent is not None


def _both(line: Line) -> str:
    return " / ".join(value_of(line, metric) for metric in METRICS)


def _readme_early(pool: Pool, name: str, ccl: Line, mml: Line) -> list[str]:
    return [name, _both(ccl), _both(mml), pool.gain_of(ccl, mml, METRICS[0]).words()]


def fill(path: Path, text: str) -> None:
    """Put the text between the file's marks."""
    content = path.read_text(encoding="utf-8")
    begin, end = content.index(BEGIN) + len(BEGIN), content.index(END)
    with atomic_write(path) as stream:
        stream.write(content[:begin] + "\n" + text + "\n" + content[end:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--out", type=Path, default=REPORTS / "README.md")
    parser.add_argument("--readme", action="store_true", help="also fill the README between its findings marks")
    options = parser.parse_args()
    pool = Pool(options.results)
    with atomic_write(options.out) as stream:
        stream.write(findings(pool))
    if options.readme:
        fill(ROOT / "README.md", readme_table(pool))


if __name__ == "__main__":
    main()
