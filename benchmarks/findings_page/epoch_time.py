"""Whether an epoch with MML takes at most two seconds more than one with CCL."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from findings_page.paper import DATASETS, FOLDERS, printed
from findings_page.words import EPOCHS_LOST, Section, judged
from mml_plugin.report.comparison import Line, machines_of, shared_seeds
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Row
from mml_plugin.report.words import NOT_MEASURED, NOT_RUN

AT_MOST = 2.0  # seconds
PARTS = ("train_seconds_per_epoch", "eval_seconds_per_epoch")
SETTINGS = "epochs=3"  # of the suite table3
NOTE = (
    "The paper's seconds are stock recbox on a P100; here they are the machine's that the report of table3 names: the "
    "median training plus the median evaluation of three epochs, the mean of the rounds', in brackets the fastest and "
    "the slowest epoch of all. A round trains every experiment once{order}; the difference is the mean of "
    "the rounds', in brackets each one's. **yes** when it is at most 2 seconds in every round, **no** when it is more "
    "in every one. The machine is a virtual one: where a loss's own epochs lie as far apart as the losses do, the "
    "difference is noise. These are a run's first epochs; at 10 negatives more of them are active later. The claim is "
    "in seconds; as an epoch takes a fraction of the paper's here, the percentages say more."
)


def epoch_time(pool: Pool) -> Section:
    """Seconds of an epoch, CCL and MML, the paper's and here, at 10, 100 and 800 negatives."""
    lines, orders = [], []
    for data, folder in FOLDERS.items():
        for count in ("10", "100", "800"):
            seconds = {
                r["loss"]: float(r["seconds_per_epoch"])
                for r in printed("table3_time")
                if (r["dataset"], r["num_negs"]) == (folder, count)
            }
            ccl, mml = seconds["CCL"], seconds["MML"]
            suffix = "" if count == "100" else f"_n{count}"
            sides = [pool.line(f"MF_{data}_{loss}{suffix}", settings=SETTINGS) for loss in ("ccl", "mml")]
            paper = f"{ccl:g} s, {mml:g} s: {mml - ccl:+g} s, {_percent(ccl, mml)}"
            lines.append([f"{DATASETS[data]}, {count} negatives", paper, *_here(pool, *sides)])
            orders += [_first_of_rounds(*sides)]
    note = NOTE.format(order=_order(orders))
    return judged(["MF", "paper: CCL, MML", "here: CCL, MML", "at most 2 s more"], lines, note)


def _here(pool: Pool, ccl: Line | None, mml: Line | None) -> tuple[str, str]:
    """Both losses' seconds here, and the verdict."""
    if ccl is None or mml is None:
        return NOT_RUN, NOT_RUN
    rounds = _rounds(ccl, mml)
    if not rounds:
        return NOT_MEASURED, NOT_MEASURED
    before, after = (_seconds(line, rounds) for line in (ccl, mml))
    sides = ((ccl, before), (mml, after))
    said = ", ".join(f"{fmean(seconds):.1f} s ({_epoch_range(pool, line, rounds)})" for line, seconds in sides)
    more = [b - a for a, b in zip(before, after)]
    each = f" ({'/'.join(f'{one:+.2f}' for one in more)})" if len(more) > 1 else ""
    difference = f"{fmean(more):+.2f} s{each}, {_percent(fmean(before), fmean(after))}"
    return f"{said}: {difference}", _verdict(ccl, mml, more)


def _rounds(ccl: Line, mml: Line) -> list[str]:
    return [seed for seed in shared_seeds(ccl, mml) if _timed(ccl.runs[seed]) and _timed(mml.runs[seed])]


def _first_of_rounds(ccl: Line | None, mml: Line | None) -> tuple[str, ...]:
    """Which loss was trained first, in each round; rows have the time at which their run ended."""
    if ccl is None or mml is None:
        return ()
    return tuple("CCL" if ccl.runs[seed]["date"] <= mml.runs[seed]["date"] else "MML" for seed in _rounds(ccl, mml))


def _order(orders: Sequence[tuple[str, ...]]) -> str:
    """In words, where it is the same in every row."""
    known = {order for order in orders if order}
    if len(known) != 1:
        return ""
    (order,) = known
    return f" ({', '.join(f'round {turn}: {first} first' for turn, first in enumerate(order, 1))})"


def _timed(row: Row) -> bool:
    return all(row.get(part) for part in PARTS)


def _verdict(ccl: Line, mml: Line, more: Sequence[float]) -> str:
    if len(machines_of(ccl, mml)) > 1:
        return "two machines, no verdict"
    verdicts = {"yes" if one <= AT_MOST else "no" for one in more}
    return verdicts.pop() if len(verdicts) == 1 else "rounds differ"


def _percent(before: float, after: float) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before else NOT_MEASURED


def _seconds(line: Line, rounds: Sequence[str]) -> list[float]:
    """Of an epoch, training and evaluation, in each round."""
    return [sum(float(line.runs[seed][part]) for part in PARTS) for seed in rounds]


def _epoch_range(pool: Pool, line: Line, rounds: Sequence[str]) -> str:
    """The fastest and the slowest epoch, training and evaluation."""
    epochs = [epoch for seed in rounds for epoch in pool.epochs[line.runs[seed]["identity"]]]
    seconds = [float(epoch["train_seconds"]) + float(epoch["eval_seconds"]) for epoch in epochs]
    return f"{min(seconds):.1f} to {max(seconds):.1f}" if seconds else EPOCHS_LOST
