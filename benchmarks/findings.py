"""Write benchmarks/reports/README.md: for each claim of the paper, whether it came out here, from committed rows alone.

Usage: ``python benchmarks/findings.py`` (``--readme`` also fills the README between its ``findings`` marks).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mml_plugin.files import atomic_write
from mml_plugin.report.build import short
from mml_plugin.report.comparison import METRICS, Line, groups_of, paper_row, percent, shared_seeds
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.rows import Row, Rows, read_csv
from mml_plugin.report.statistics import paired_t
from mml_plugin.report.table import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, REPORTS, PAPER = (ROOT / "benchmarks" / name for name in ("results", "reports", "paper"))
BEGIN, END = "<!-- findings:begin -->", "<!-- findings:end -->"
NOT_RUN = "not run yet"
DATASETS = {"yelp": "Yelp2018", "gowalla": "Gowalla"}
FOLDERS = {"yelp": "yelp18", "gowalla": "gowalla"}
RULE = (
    "The verdict follows a fixed rule: **yes** when the sign is the paper's, the 95 % interval over users excludes 0 "
    "and the gain is at least half the paper's; **smaller** when only the size is missing; **no difference seen** when "
    "the interval includes 0; **no** when the sign is the other one and the interval excludes 0. Without an interval "
    "there is no verdict. Noise is the standard deviation of the difference over seeds, where there are several."
)


@dataclass(frozen=True)
class Gain:
    """How much more one run reaches than another.

    Attributes:
        percent: difference of the means in percent of the first; None when a side is not there.
        seeds: how many seeds both have.
        sd: standard deviation of the difference over seeds, in percent of the first.
        low, high: bootstrap interval over users, in percent; NaN without one.
    """

    percent: float | None
    seeds: int = 0
    sd: float | None = None
    low: float = math.nan
    high: float = math.nan

    def words(self) -> str:
        """``+4.12 % (users: +3.1 to +5.0 %; 3 seeds: sd 0.3 %)``."""
        if self.percent is None:
            return NOT_RUN
        users = "" if math.isnan(self.low) else f"users: {self.low:+.2f} to {self.high:+.2f} %; "
        noise = "1 seed" if self.sd is None else f"{self.seeds} seeds: sd {self.sd:.2f} %"
        return f"{self.percent:+.2f} % ({users}{noise})"

    def verdict(self, claimed: float) -> str:
        """What became of a claimed gain in percent."""
        if self.percent is None:
            return NOT_RUN
        if math.isnan(self.low):
            return "no interval yet"
        if self.low <= 0 <= self.high:
            return "no difference seen"
        if self.percent * claimed < 0:
            return "no"
        return "yes" if abs(self.percent) >= abs(claimed) / 2 else "smaller"


class Pool:
    """The finished runs of all suites, by experiment; a run that several suites share counts once."""

    def __init__(self, results: Path) -> None:
        self.lines: dict[tuple[str, str, str, str], Line] = {}
        self.epochs: dict[str, list[Row]] = {}
        self.users: dict[tuple[str, str], Row] = {}
        self.suites: dict[str, Rows] = {}
        for path in sorted(results.glob("suite_*.csv")):
            if path.stem.endswith(("-history", "-users")):
                continue
            rows = Rows.load(path.with_suffix(""))
            if not rows.cells or "state" not in rows.cells[0]:
                continue
            self.suites[path.stem.removeprefix("suite_")] = rows
            for row in rows.done():
                key = (row["expid"], row["protocol"], row["engine"], row["settings"])
                self.lines.setdefault(key, Line(row["expid"], {})).runs.setdefault(row["seed"], row)
            self.epochs.update(rows.epochs())
            self.users.update({(row["runs"], row["metric"]): row for row in rows.users})

    def line(self, expid: str, protocol: str = "paper", settings: str = "") -> Line | None:
        """The runs of an experiment on the fast engine, nothing overridden unless said."""
        return self.lines.get((expid, protocol, "fast", settings))

    def gain(self, first: str, second: str, metric: str, protocol: str = "paper") -> Gain:
        """How much more the second experiment reaches."""
        a, b = self.line(first, protocol), self.line(second, protocol)
        if a is None or b is None or not shared_seeds(a, b):
            return Gain(None)
        return self._gain(a, b, metric)

    def _gain(self, a: Line, b: Line, metric: str) -> Gain:
        seeds = shared_seeds(a, b)
        base = a.mean(metric, seeds) or math.nan
        test = paired_t(a.values(metric, seeds), b.values(metric, seeds))
        differences = [y - x for x, y in zip(a.values(metric, seeds), b.values(metric, seeds))]
        spread = [d - test.difference for d in differences]
        sd = math.sqrt(sum(s * s for s in spread) / (len(spread) - 1)) if len(spread) > 1 else None
        runs = " ".join(line.runs[seed]["identity"][:12] for line in (a, b) for seed in seeds)
        users = self.users.get((runs, metric))
        low, high = (100 * float(users[end]) / base if users else math.nan for end in ("low", "high"))
        return Gain(percent(a, b, metric), len(seeds), None if sd is None else 100 * sd / base, low, high)


def claims(pool: Pool) -> list[str]:
    """The paper's claims, one section each."""
    table2, gains = read_csv(PAPER / "table2_models.csv"), read_csv(PAPER / "figure3_gains.csv")
    parts = ["## MML beats CCL at 100 negatives", _gain_table(pool, _at_100(table2))]
    at_10 = [
        (f"MF, {DATASETS[d]}", f"MF_{d}_ccl_n10", f"MF_{d}_mml_n10",
         [float(r["recall_gain_percent"]), float(r["ndcg_gain_percent"])])
        for d, folder in FOLDERS.items() for r in gains if r["dataset"] == folder
    ]  # fmt: skip
    parts += ["## MML beats CCL by about 20 % at 10 negatives", _gain_table(pool, at_10)]
    parts += ["## Time per epoch grows by at most 2 seconds", _time(pool)]
    parts += ["## Early stopping hurts", _early_stopping(pool, table2)]
    parts += ["## On par with BSL at 100 negatives", _parity(pool)]
    return parts


def _at_100(table2: Sequence[Row]) -> list[tuple[str, str, str, list[float]]]:
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


def _gain_table(pool: Pool, comparisons: Iterable[tuple[str, str, str, list[float]]]) -> str:
    lines = []
    for name, first, second, printed in comparisons:
        for metric, claimed in zip(METRICS, printed):
            gain = pool.gain(first, second, metric)
            lines.append([name, short(metric), f"{claimed:+.2f} %", gain.words(), gain.verdict(claimed)])
    return markdown_table(["", "metric", "paper", "here", "verdict"], lines, left=2)


def _time(pool: Pool) -> str:
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
                here, verdict = f"{a:.1f} s, {b:.1f} s ({b - a:+.2f} s)", "yes" if b - a <= 2 else "no"
            paper = f"{printed['CCL']:g} s, {printed['MML']:g} s ({printed['MML'] - printed['CCL']:+g} s)"
            lines.append([f"{DATASETS[name]}, {count} negatives", paper, here, verdict])
    table_text = markdown_table(["MF", "paper: CCL, MML", "here: CCL, MML", "at most 2 s more"], lines)
    return (
        f"{table_text}\n\nThe paper's seconds are stock recbox on a P100; here they are the machine's that the report "
        "of table3 names."
    )


def _seconds(line: Line) -> float:
    return (line.mean("train_seconds_per_epoch") or 0.0) + (line.mean("eval_seconds_per_epoch") or 0.0)


def _early_stopping(pool: Pool, table2: Sequence[Row]) -> str:
    stops, lines = read_csv(PAPER / "table2_stop_epochs.csv"), []
    for model in ("MF", "SimpleX"):
        for name, folder in FOLDERS.items():
            for loss in ("CCL", "MML"):
                rows = {
                    r["early_stop"]: float(r["recall_at_20"])
                    for r in table2
                    if (r["model"], r["dataset"], r["loss"]) == (model, folder, loss)
                }
                printed = 100 * (rows["yes"] / rows["no"] - 1)
                paper_stop = next(r["stop_epoch"] for r in stops if (r["model"], r["loss"]) == (model, loss))
                line = pool.line(f"{model}_{name}_{loss.lower()}")
                here, stop_epochs, verdict = NOT_RUN, NOT_RUN, NOT_RUN
                if line is not None:
                    losses, ends = _stop_losses(pool, line)
                    mean = sum(losses) / len(losses)
                    here, stop_epochs = f"{mean:+.2f} %", "/".join(ends)
                    verdict = "yes" if mean < -0.1 else "no loss seen"
                cells = [
                    f"{model}, {DATASETS[name]}, {loss}",
                    f"{printed:+.2f} %",
                    here,
                    paper_stop,
                    stop_epochs,
                    verdict,
                ]
                lines.append(cells)
    header = ["Recall@20, patience 3", "paper", "here", "paper stops at", "here at", "hurts"]
    return markdown_table(header, lines)


def _stop_losses(pool: Pool, line: Line) -> tuple[list[float], list[str]]:
    """Per seed: what stopping costs in percent of the full run, and where it stops."""
    losses, ends = [], []
    for row in line.runs.values():
        history = pool.epochs[row["cell"]]
        metric = row["monitor"]
        stop = read_stop([float(epoch[metric]) for epoch in history], 3)
        value = float(history[stop.best_epoch - 1][METRICS[0]])
        losses.append(100 * (value / float(row[METRICS[0]]) - 1))
        ends.append(f"{stop.epoch}{'' if stop.reached else '+'}")
    return losses, ends


def _parity(pool: Pool) -> str:
    table4, lines = read_csv(PAPER / "table4_losses.csv"), []
    for name, folder in FOLDERS.items():
        rows = {r["loss"]: r for r in table4 if r["dataset"] == folder}
        for metric, column in zip(METRICS, ("recall_at_20", "ndcg_at_20")):
            claimed = 100 * (float(rows["MML"][column]) / float(rows["BSL"][column]) - 1)
            for said, expid in (("BSL in the same pipeline", "bsl"), ("BSL in its authors' setting", "bslnative")):
                gain = pool.gain(f"MF_{name}_{expid}", f"MF_{name}_mml", metric)
                lines.append([f"MML to {said}, {DATASETS[name]}", short(metric), f"{claimed:+.2f} %", gain.words()])
    return markdown_table(["MF", "metric", "paper", "here"], lines, left=2)


def ablation(pool: Pool) -> str:
    """What several margins buy over the best re-tuned single one, in a sentence per number of negatives."""
    rows = pool.suites.get("ablation")
    sentences = []
    for group in groups_of(rows.done()) if rows else []:
        lines = {line.name: line for line in group.lines}
        if set(lines) != {"single margin", "several margins"}:
            continue
        one, several = lines["single margin"], lines["several margins"]
        gains = [f"{pool._gain(one, several, metric).words()} in {short(metric)}" for metric in METRICS]
        sentences.append(
            f"{group.name}: several margins buy {' and '.join(gains)} over the best re-tuned single margin; "
            f"{one.cells} cells ({one.first['label']}) against {several.cells} ({several.first['label']}), both chosen "
            "on validation, measured on test."
        )
    return "\n\n".join(sentences) or NOT_RUN.capitalize() + "."


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
                sd = line.sd(metric)
                value = f"{line.mean(metric):.4f}" + (f" ± {sd:.4f}" if sd is not None else "")
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
        ours = [f"{match[0].mean(metric):.4f}" if match else NOT_RUN for metric in METRICS]
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
                cells += [NOT_RUN if side is None else f"{side.mean(metric):.4f}" for side in sides]
            lines.append(cells)
    header = ["after 2 epochs", "Recall@20, recbox", "fast", "NDCG@20, recbox", "fast"]
    return markdown_table(header, lines)


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
                [f"{DATASETS[name]}, {loss}", best.name, plain["num_negs"], *(f"{best.mean(m):.4f}" for m in METRICS)]
            )
    return markdown_table(["MF", "experiment", "negatives", "Recall@20", "NDCG@20"], lines, left=2)


def progress(pool: Pool) -> str:
    """How much of each suite has been run."""
    lines = []
    for name in sorted(path.stem for path in (ROOT / "benchmarks" / "suites").glob("*.yaml")):
        if name in ("tiny", "table1"):
            continue
        rows = pool.suites.get(name)
        done = f"{len(rows.done())} of {len(rows.cells)}" if rows else NOT_RUN
        report = f"[report]({name}/report.md)" if (REPORTS / name / "report.md").is_file() else ""
        lines.append([name, done, report])
    return markdown_table(["suite", "cells run", ""], lines)


def findings(pool: Pool) -> str:
    """The whole page."""
    parts = [
        "# Findings",
        "Written by `python benchmarks/findings.py` from `benchmarks/results/`; do not edit by hand.",
        "Claims of the paper, and what came out here with the fast engine. Everything in the claims' sections is "
        "selected on test (protocol paper: best epoch on the test split, as the paper selects); the held-out protocol "
        "has a section of its own and is never mixed in.",
        RULE,
        *claims(pool),
        "## Is it the margins, or the weight?",
        "Held-out protocol. CCL was kept at weight 150 and margin 0.9, tuned for 800 negatives; here both sides got "
        "the same number of tuning cells.",
        ablation(pool),
        "## CCL, BSL and MML under the held-out protocol",
        "Selected on validation; test read once.",
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
    return "\n\n".join(parts) + "\n"


def readme_table(pool: Pool) -> str:
    """The short table of the README: MML against CCL, paper and here."""
    table2 = read_csv(PAPER / "table2_models.csv")
    lines = []
    for name, first, second, printed in _at_100(table2):
        cells = [name]
        for metric, claimed in zip(METRICS, printed):
            gain = pool.gain(first, second, metric)
            cells += [f"{claimed:+.2f} %", NOT_RUN if gain.percent is None else f"{gain.percent:+.2f} %"]
        lines.append(cells)
    header = ["MML over CCL, 100 negatives", "Recall@20, paper", "here", "NDCG@20, paper", "here"]
    return (
        markdown_table(header, lines)
        + "\n\nSelected on test, as the paper selects. [All findings](benchmarks/reports/README.md)"
    )


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
