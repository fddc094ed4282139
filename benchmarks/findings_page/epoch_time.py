"""Whether an epoch with MML takes at most two seconds more than one with CCL."""

from __future__ import annotations

from findings_page.paper import DATASETS, FOLDERS, printed
from findings_page.words import EPOCHS_LOST, Section, judged
from mml_plugin.report.comparison import Line, machines_of
from mml_plugin.report.pool import Pool
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN

AT_MOST = 2.0  # seconds
NOTE = (
    "The paper's seconds are stock recbox on a P100; here they are the machine's that the report of table3 names, "
    "the median training plus the median evaluation of an epoch, in brackets the fastest and the slowest of five. The "
    "claim is in seconds; as an epoch takes a fraction of the paper's here, the percentages say more."
)


def epoch_time(pool: Pool) -> Section:
    """Seconds of an epoch, CCL and MML, the paper's and here, at 10, 100 and 800 negatives."""
    lines = []
    for data, folder in FOLDERS.items():
        for count in ("10", "100", "800"):
            seconds = {
                r["loss"]: float(r["seconds_per_epoch"])
                for r in printed("table3_time")
                if (r["dataset"], r["num_negs"]) == (folder, count)
            }
            ccl, mml = seconds["CCL"], seconds["MML"]
            suffix = "" if count == "100" else f"_n{count}"
            sides = [pool.line(f"MF_{data}_{loss}{suffix}", settings="epochs=5") for loss in ("ccl", "mml")]
            paper = f"{ccl:g} s, {mml:g} s: {mml - ccl:+g} s, {_percent(ccl, mml)}"
            lines.append([f"{DATASETS[data]}, {count} negatives", paper, *_here(pool, *sides)])
    return judged(["MF", "paper: CCL, MML", "here: CCL, MML", "at most 2 s more"], lines, NOTE)


def _here(pool: Pool, ccl: Line | None, mml: Line | None) -> tuple[str, str]:
    """Both losses' seconds here, and the verdict."""
    if ccl is None or mml is None:
        return NOT_RUN, NOT_RUN
    said = ", ".join(f"{_seconds(line):.1f} s ({_epoch_range(pool, line)})" for line in (ccl, mml))
    more = _seconds(mml) - _seconds(ccl)
    verdict = "yes" if more <= AT_MOST else "no"
    percent = _percent(_seconds(ccl), _seconds(mml))
    return f"{said}: {more:+.2f} s, {percent}", "two machines, no verdict" if len(
        machines_of(ccl, mml)
    ) > 1 else verdict


def _percent(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else NOT_MEASURED


def _seconds(line: Line) -> float:
    return (line.mean("train_seconds_per_epoch") or 0.0) + (line.mean("eval_seconds_per_epoch") or 0.0)


def _epoch_range(pool: Pool, line: Line) -> str:
    """The fastest and the slowest epoch, training and evaluation."""
    epochs = [epoch for row in line.runs.values() for epoch in pool.epochs[row["identity"]]]
    seconds = [float(epoch["train_seconds"]) + float(epoch["eval_seconds"]) for epoch in epochs]
    return f"{min(seconds):.1f} to {max(seconds):.1f}" if seconds else EPOCHS_LOST
