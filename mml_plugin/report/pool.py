"""The finished runs of several suites, by experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mml_plugin.report.comparison import Line, is_of, runs_of, shared_seeds
from mml_plugin.report.gain import Gain, gain_over_seeds
from mml_plugin.report.rows import Row, Rows, stems_in
from mml_plugin.report.words import NOT_MEASURED

Key = tuple[str, str, str, str]


class Pool:
    """The finished runs of all suites, by experiment.

    A run that several suites share counts once, as its newest training; and of an experiment that has rows of several
    configurations or data the newest stands.

    Attributes:
        lines: (experiment, protocol, engine, settings) -> its runs.
        epochs: a run's identity -> its epochs, where all are kept.
        users: (runs, metric) -> bootstraps over users.
        suites: name -> rows.
        left_out: experiments of which older configurations or data were passed over.
    """

    def __init__(self, results: Path) -> None:
        self.epochs: dict[str, list[Row]] = {}
        self.users: dict[tuple[str, str], list[Row]] = {}
        self.suites: dict[str, Rows] = {}
        self.left_out: list[str] = []
        variants: dict[Key, dict[tuple[str, str], Line]] = {}
        for stem in stems_in(results):
            rows = Rows.load(stem)
            if not rows.cells or "state" not in rows.cells[0]:
                continue
            self.suites[stem.name.removeprefix("suite_")] = rows
            self._add(rows, variants)
        self.lines = {key: self._newest(key, found) for key, found in variants.items()}

    def _add(self, rows: Rows, variants: dict[Key, dict[tuple[str, str], Line]]) -> None:
        epochs = rows.whole_epochs()
        for row in rows.done():
            if row.get("cut") or row.get("valid_share"):
                continue
            key = (row["expid"], row["protocol"], row["engine"], row["settings"])
            variant = row.get("config_hash", ""), row["data_fingerprint"]
            runs = variants.setdefault(key, {}).setdefault(variant, Line(row["expid"], {})).runs
            known = runs.get(row["seed"])
            if known is None or known["date"] < row["date"]:
                runs[row["seed"]] = row
                self.epochs[row["identity"]] = epochs.get(row["cell"], [])
            elif known["date"] == row["date"] and not self.epochs[known["identity"]]:
                self.epochs[known["identity"]] = epochs.get(row["cell"], [])
        for row in rows.users:
            self.users.setdefault((row["runs"], row["metric"]), []).append(row)

    def _newest(self, key: Key, variants: dict[tuple[str, str], Line]) -> Line:
        if len(variants) > 1:
            self.left_out.append(" ".join(part for part in key if part))
        return max(variants.values(), key=lambda line: max(row["date"] for row in line.runs.values()))

    def line(self, expid: str, protocol: str = "paper", settings: str = "") -> Line | None:
        """The runs of an experiment on the fast engine, nothing overridden unless said."""
        return self.lines.get((expid, protocol, "fast", settings))

    def selected_on_test(self) -> list[Line]:
        """The fast engine's lines under the paper's protocol, nothing overridden."""
        wanted = ("paper", "fast", "")
        return [line for (_, *setting), line in self.lines.items() if tuple(setting) == wanted]

    def gain(self, first: str, second: str, metric: str, protocol: str = "paper") -> Gain:
        """How much more the second experiment reaches."""
        a, b = self.line(first, protocol), self.line(second, protocol)
        if a is None or b is None or not shared_seeds(a, b):
            return Gain(None)
        return self.gain_of(a, b, metric)

    def gain_of(self, first: Line, second: Line, metric: str) -> Gain:
        """How much more the second's runs reach, over the seeds that both have."""
        seeds = shared_seeds(first, second)
        a, b = first.values(metric, seeds), second.values(metric, seeds)
        if not len(a) == len(b) == len(seeds) > 0:
            return Gain(None, missing=NOT_MEASURED)
        return gain_over_seeds(a, b, self._interval(first, second, seeds, metric))

    def _interval(self, a: Line, b: Line, seeds: Sequence[str], metric: str) -> tuple[float, float]:
        """The bootstrap over users of these very runs, whichever of the two a suite has as its first."""
        for users in self.users.get((runs_of(a, b, seeds), metric), []):
            if is_of(users, a, b, seeds, metric):
                return float(users["low"]), float(users["high"])
        for users in self.users.get((runs_of(b, a, seeds), metric), []):
            if is_of(users, b, a, seeds, metric):
                return -float(users["high"]), -float(users["low"])
        return math.nan, math.nan
