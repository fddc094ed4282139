"""From run folders to rows: everything that a report needs, so that run folders need not be kept."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mml_plugin.experiment import kept_users
from mml_plugin.experiment.cells import DONE, ELSEWHERE, FAILED, MISSING, Outcome
from mml_plugin.experiment.run import RunRequest
from mml_plugin.experiment.run_folder import RunFolder, band_column, exactly, history_thresholds
from mml_plugin.experiment.suite import SHORT, Cell, dataset_of, show
from mml_plugin.files import make_folder
from mml_plugin.registry import margins_of
from mml_plugin.report.comparison import groups_of, is_of, metrics_of, runs_of, shared_seeds
from mml_plugin.report.rows import Row, Rows
from mml_plugin.report.statistics import paired_bootstrap

OUTDATED, SCREENED_OUT, WAITING = "outdated", "screened out", "waiting"
RESAMPLES = 10_000
FINGERPRINT = 16  # digits of a data fingerprint in a row


class Collector:
    """Keeps a suite's rows up to date while its cells run; several processes may.

    Args:
        stem: where the rows are, without ``.csv``.
        cells: the suite's cells.
        hide: a path whose occurrences are taken out of commands.
        screened: (group, label) of cells that are to have no whole run -> why. What was measured of them before
            stays in their rows, and no report shows it.
        waiting: (group, label) of cells of which nobody can say yet whether they are to have one -> why.
        fingerprint: a cell -> the fingerprint of its data as they are now, "" where they cannot be read. What was
            measured on other data stays in its row, and no report shows it.
    """

    def __init__(
        self,
        stem: Path,
        cells: Sequence[Cell],
        hide: Path | None = None,
        screened: Mapping[tuple[str, str], str] | None = None,
        waiting: Mapping[tuple[str, str], str] | None = None,
        fingerprint: Callable[[Cell], str] = lambda cell: "",
    ) -> None:
        self.stem, self.cells, self.hide = stem, list(cells), hide
        self.screened, self.waiting = dict(screened or {}), dict(waiting or {})
        self._data = {_settings(description(cell)): fingerprint(cell)[:FINGERPRINT] for cell in self.cells}
        self._families = {(cell.group, cell.label): cell.family for cell in self.cells}
        self._lock = _lock_of(stem)

    def update(self, outcomes: Iterable[Outcome]) -> Rows:
        """Put the outcomes' rows in place of the same cells' older ones.

        A cell that failed or is missing keeps an older result's row: what was measured stays, beside the error.
        """
        make_folder(self.stem.parent)
        with self._lock:
            rows = Rows.load(self.stem)
            known = {row["cell"]: row for row in rows.cells}
            epochs = rows.epochs()
            for outcome in outcomes:
                name, old = outcome.cell.name, known.get(outcome.cell.name)
                if outcome.state == DONE:
                    row = self._row(outcome.cell)
                    if (
                        old is not None
                        and measured(old)
                        and _trained(old) == _trained(row)
                        and old["date"] > row["date"]
                    ):
                        said = "%s: its row is of %s and stays; the run folder is of %s"
                        logging.warning(said, name, old["date"], row["date"])
                        old["error"] = ""
                        continue
                    known[name] = row
                    epochs[name] = history_rows(outcome.cell)
                    kept_users.keep(self.stem.parent, outcome.cell.folder, row["identity"], metrics_of([row]))
                    continue
                error = outcome.error.replace(f"{self.hide}/", "") if self.hide else outcome.error
                if old is None or not measured(old):
                    known[name] = {**description(outcome.cell), "state": outcome.state, "error": error}
                elif outcome.state == FAILED:
                    old["error"] = error
            self._put(rows, known, epochs)
        return rows

    def adopt(self, stems: Iterable[Path]) -> Rows:
        """Take over what other suites' rows have of this suite's cells: newer trainings, and those it lacks.

        What stands in several suites is to have the same numbers in all of them; trained again, on another machine or
        with other threads, it ends in other last digits.

        Args:
            stems: of the suites, this one's among them or not.
        """
        newest = newest_of(stem for stem in stems if stem != self.stem)
        described = self._described
        with self._lock:
            rows = Rows.load(self.stem)
            epochs = rows.epochs()
            known = {row["cell"]: row for row in self._ordered({row["cell"]: row for row in rows.cells})}
            for name, row in known.items():
                theirs, history = newest.get(self._wanted(row), (None, []))
                if theirs is None:
                    continue
                date = row["date"] if measured(row) else ""
                if theirs["date"] > date:
                    taken = {key: value for key, value in theirs.items() if key not in described}
                    known[name] = {**row, **taken, "error": ""}
                    epochs[name] = []
                if theirs["date"] >= date and len(history) > len(epochs.get(name, [])):
                    epochs[name] = [{**epoch, "cell": name} for epoch in history]
            self._put(rows, known, epochs)
        return rows

    def _wanted(self, row: Row) -> tuple[str, ...]:
        """What has been trained for a row, or is to be; nothing of data that are not here or where a screen says no."""
        if measured(row):
            return _trained(row)
        data = self._data.get(_settings(row), "") if row["state"] in (MISSING, ELSEWHERE, FAILED) else ""
        return _trained({**row, "data_fingerprint": data}) if data else ()

    def _put(self, rows: Rows, known: dict[str, Row], epochs: Mapping[str, list[Row]]) -> None:
        """Order the rows and write them. To be called under the lock."""
        rows.cells = self._ordered(known)
        rows.history = [row for cell in rows.cells if measured(cell) for row in epochs.get(cell["cell"], [])]
        rows.save(self.stem)

    @property
    def _described(self) -> set[str]:
        """The columns that do not come from a run."""
        described = {key for cell in self.cells for key in description(cell)}
        return described | {"valid_share", "max_batches", "monitor_mode", "state", "error", "asked"}

    def judged(self) -> Rows:
        """The rows as they are, each marked as the cells now have it; nothing is written."""
        rows = Rows.load(self.stem)
        rows.cells = self._ordered({row["cell"]: row for row in rows.cells})
        return rows

    def add_bootstraps(self, asked_only: bool = False) -> Rows:
        """Compare over users what has per-user metrics here and is not compared yet.

        Args:
            asked_only: compare the cells alone, over their seeds, and keep what was compared of other rows.
        """
        names = {cell.name for cell in self.cells} if asked_only else None
        rows = self.update([])
        while True:
            # Minutes of resampling, so outside the lock: other processes go on writing their cells' rows meanwhile.
            before = _compared(rows, names)
            found = bootstraps(before, self._per_user)
            with self._lock:
                # Another comparison with these rows may have marked ours as none of its own.
                rows = self.judged()
                now = _compared(rows, names)
                if _identities(now) == _identities(before):
                    # Another process may have compared what could not be compared here.
                    found = bootstraps(replace(now, users=[*found, *rows.users]), lambda row: None)
                    rows.users = found + (_of_others(rows, found) if asked_only else [])
                    rows.save(self.stem)
                    return rows
            # What was compared already need not be compared again.
            rows.users = [*found, *rows.users]

    def _per_user(self, row: Row) -> Any:
        """A run's per-user metrics; also of one that the suite does not ask for just now (another seed)."""
        folder = RunFolder(Path(self.cells[0].request.runs_dir) / row["cell"]) if self.cells else None
        return kept_users.table_of(self.stem.parent, folder, row)

    def _ordered(self, known: dict[str, Row]) -> list[Row]:
        """The suite's cells in its order, then older results of cells that it does not ask for (other seeds).

        A result of other settings or data than the cells under its label now have is marked: it is kept, no report
        shows it. Where it stands in the place of a cell that is asked for, ``asked`` is that one's state.
        """
        asked = {cell.name: description(cell) for cell in self.cells}
        for name, row in asked.items():
            old = known.setdefault(name, {**row, "state": MISSING})
            if not measured(old):
                old.update(row)
            elif old.get("config_hash") == row["config_hash"]:
                # Its negatives were counted on what the row says, whatever the suite has now.
                old.update({**row, "suite_thresholds": old.get("suite_thresholds", "")})
            else:
                old.update({key: row[key] for key in ("group", "label", "family")})
        for name, row in known.items():
            row.pop("asked", None)
            row["family"] = self._families.get((row["group"], row["label"]), row["family"])
            if measured(row):
                if row["state"] == SCREENED_OUT:
                    row["error"] = ""
                row["state"] = DONE if self._is_current(row) else OUTDATED
            elif row["state"] in (SCREENED_OUT, WAITING):
                row["state"], row["error"] = MISSING, ""
            label = row["group"], row["label"]
            if label in self.screened and row["state"] != OUTDATED:
                row["state"], row["error"] = SCREENED_OUT, self.screened[label]
            elif label in self.waiting and row["state"] in (MISSING, ELSEWHERE):
                row["state"], row["error"] = WAITING, self.waiting[label]
            elif row["state"] == OUTDATED and name in asked:
                row["asked"] = SCREENED_OUT if label in self.screened else WAITING if label in self.waiting else MISSING
        place: dict[tuple[str, str], int] = {}
        for cell in self.cells:
            place.setdefault((cell.group, cell.label), len(place))
        kept = [row for name, row in known.items() if name in asked or measured(row)]
        last = len(place)
        return sorted(kept, key=lambda row: (place.get((row["group"], row["label"]), last), int(row["seed"])))

    def _is_current(self, row: Row) -> bool:
        """Whether a measured row has the settings, and the data, that the suite's cells now have."""
        data = self._data.get(_settings(row))
        if data == "":
            return row["state"] != OUTDATED  # nobody can say whether its data are these
        return data is not None and data == row.get("data_fingerprint")

    def _row(self, cell: Cell) -> Row:
        result = cell.folder.read_result()
        if self.hide:
            result["command"] = result["command"].replace(f"{self.hide}/", "")
        return {**description(cell), **result_row(result, cell)}


def _trained(row: Row) -> tuple[str, ...]:
    """What was trained, on any machine, and on which thresholds its negatives were counted."""
    keys = ("engine", "protocol", "valid_share", "max_batches", "seed", "config_hash", "data_fingerprint")
    return tuple(row.get(key, "") for key in (*keys, "suite_thresholds"))


def newest_of(stems: Iterable[Path]) -> dict[tuple[str, ...], tuple[Row, list[Row]]]:
    """The newest training of each experiment in the rows of suites, with its epochs."""
    found: dict[tuple[str, ...], tuple[Row, list[Row]]] = {}
    for stem in stems:
        with _lock_of(stem):
            rows = Rows.load(stem)
        epochs = rows.epochs()
        for row in rows.cells:
            if "state" not in row or not measured(row):
                continue
            new = row, epochs.get(row["cell"], [])
            old = found.get(_trained(row), new)
            found[_trained(row)] = max(old, new, key=lambda pair: (pair[0]["date"], len(pair[1])))
    return found


def behind(stem: Path, stems: Iterable[Path]) -> list[str]:
    """The other suites in whose rows an experiment of this one has an older training."""
    newest, found = newest_of([stem]), []
    for other in stems:
        of_other = newest_of([other])
        if any(new["date"] > of_other[key][0]["date"] for key, (new, _) in newest.items() if key in of_other):
            found.append(other.name.removeprefix("suite_"))
    return found


def _lock_of(stem: Path) -> FileLock:
    return FileLock(str(stem.parent / f".{stem.name}.lock"))


def _compared(rows: Rows, names: Collection[str] | None) -> Rows:
    """The rows without the cells that are not named."""
    return rows if names is None else replace(rows, cells=[row for row in rows.cells if row["cell"] in names])


def _identities(rows: Rows) -> set[str]:
    return {row["identity"] for row in rows.done()}


def _of_others(rows: Rows, found: Sequence[Row]) -> list[Row]:
    """The comparisons that are not among those found and whose runs are all there."""
    there = {row["identity"][:12] for row in rows.cells if measured(row)}
    known = {(row["runs"], row["metric"]) for row in found}
    others = (row for row in rows.users if (row["runs"], row["metric"]) not in known)
    return [row for row in others if there.issuperset(row["runs"].split())]


def measured(row: Row) -> bool:
    """Whether a row holds a finished run's values, shown by a report or not."""
    return row["state"] in (DONE, OUTDATED) or bool(row.get("identity"))


def _settings(row: Row) -> tuple[str, ...]:
    """What two seeds of one line have in common."""
    keys = ("group", "label", "engine", "protocol", "valid_share", "max_batches", "dataset", "config_hash")
    return tuple(row.get(key, "") for key in keys)


def description(cell: Cell) -> Row:
    """What is known of a cell before it runs."""
    params = cell.experiment.params
    overridden = cell.experiment.overridden
    return {
        "cell": cell.name,
        "group": cell.group,
        "label": cell.label,
        "family": cell.family,
        "expid": cell.request.expid,
        "settings": " ".join(f"{key}={_setting(key, value, params)}" for key, value in overridden.items()),
        "model": params["model"],
        "dataset": dataset_of(cell.experiment),
        "loss": SHORT.get(cell.experiment.loss, cell.experiment.loss),
        "loss_params": json.dumps(cell.experiment.loss_params, sort_keys=True),
        "suite_thresholds": " ".join(exactly(t) for t in cell.request.thresholds or ()),
        "margins": " ".join(exactly(m) for m in margins_of(params["loss"], params)),
        "num_negs": str(params["num_negs"]),
        "plateau": "yes" if params.get("reduce_lr_on_plateau", True) else "no",
        "patience": str(params.get("patience", "")),
        "max_epochs": str(params["epochs"]),
        **({"monitor_mode": "min"} if params["monitor_mode"] == "min" else {}),  # an empty one is max
        "engine": cell.request.engine,
        "protocol": cell.request.protocol,
        **_unusual(cell.request),
        "seed": str(cell.seed),
        "config_hash": cell.experiment.identity()[:16],
    }


def _unusual(request: RunRequest) -> Row:
    """What sets runs apart beside their configuration; the usual is not written."""
    found = {}
    if request.protocol == "held-out" and request.valid_share != RunRequest.valid_share:
        found["valid_share"] = exactly(request.valid_share)
    if request.max_batches:
        found["max_batches"] = str(request.max_batches)
    return found


def _setting(key: str, value: Any, params: Mapping[str, Any]) -> str:
    """An overridden value in words; ``margin_spec`` stands for two lists."""
    if key == "margin_spec":
        return show(dict(zip(params["margins"], params["margin_weights"])))
    return show(value)


def result_row(result: Mapping[str, Any], cell: Cell) -> Row:
    """What a finished run says, flat."""
    seconds, machine, versions = result["seconds"], result["machine"], result["versions"]
    monitor = result["monitor"] if isinstance(result["monitor"], str) else json.dumps(result["monitor"])
    row: dict[str, Any] = {
        "state": DONE,
        "error": "",
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs"],
        "stopped_early": "yes" if result["stopped_early"] else "no",
        "monitor": monitor,
        **{name: f"{value:.8f}" for name, value in result["metrics"].items()},
        **{f"validation {name}": f"{value:.8f}" for name, value in result["validation_metrics"].items()},
        "train_seconds_per_epoch": f"{seconds['train_per_epoch']:.3f}",
        "eval_seconds_per_epoch": f"{seconds['evaluation_per_epoch']:.3f}",
        "train_seconds": f"{seconds['train']:.1f}",
        "eval_seconds": f"{seconds['evaluation']:.1f}",
        "peak_memory_bytes": result["peak_memory_bytes"],
        "thresholds": " ".join(exactly(t) for t in history_thresholds(cell.folder.history) or ()),
        "cut": result["cut"],
        "backend": result["backend"],
        "device": result["device"].split(":")[0],
        "threads": result["threads"],
        "processor": machine["processor"],
        "cores": machine["cores"],
        "memory_gib": machine["memory_gib"],
        "gpu": " ".join(machine.get("gpus", [])) if result["device"] != "cpu" else "",
        **{name: versions.get(name, "") for name in ("python", "torch", "numpy", "numba", "triton", "recbox")},
        "users": result["data"]["users"],
        "data_fingerprint": result["data"]["fingerprint"][:FINGERPRINT],
        "identity": result["identity"],
        "commit": result["commit"],
        "date": result["date"],
        "command": result["command"],
    }
    return {key: str(value) for key, value in row.items()}


def history_rows(cell: Cell) -> list[Row]:
    """A run's epochs, compact: metrics, seconds, and its bands rebinned to the suite's thresholds where it can be.

    A run that was counted on other thresholds keeps empty bands: reports say so.
    """
    wanted = cell.request.thresholds or ()
    if not cell.folder.history.is_file():  # a damaged one may be deleted
        return []
    with open(cell.folder.history, newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    counted = history_thresholds(cell.folder.history) or ()
    rows = []
    for line in lines:
        row = {"cell": cell.name, "epoch": line["epoch"], "train_loss": _short(line["train_loss"])}
        row |= {name: _short(value, 9) for name, value in line.items() if "(k=" in name}
        row |= {"learning_rate": _short(line["learning_rate"])}
        row |= {name: _short(line[name], 5) for name in ("train_seconds", "eval_seconds")}
        for what in ("band", "gradient"):
            for band, share in enumerate(rebinned(line, counted, wanted, what)):
                row[f"{what}_{band}"] = _short(share)
        rows.append(row)
    return rows


def rebinned(
    line: Mapping[str, str], counted: Sequence[float], wanted: Sequence[float], what: str = "band"
) -> list[float]:
    """One epoch's shares between the ``wanted`` thresholds; empty when they cannot be had from what was counted.

    Args:
        line: a row of ``history.csv``.
        counted: its thresholds.
        wanted: the thresholds asked for; every one of them must be among ``counted``.
        what: ``"band"`` (share of negatives) or ``"gradient"`` (share of their gradient).
    """
    columns = [band_column(band, counted, what) for band in range(len(counted) + 1)]
    if not wanted or not set(wanted) <= set(counted) or any(not line.get(column) for column in columns):
        return []
    shares = [0.0] * (len(wanted) + 1)
    for band, column in enumerate(columns):
        low = counted[band - 1] if band else -np.inf
        shares[sum(t <= low for t in wanted)] += float(line[column])
    return shares


def _short(value: str | float, digits: int = 6) -> str:
    return f"{float(value):.{digits}g}" if value != "" else ""


def bootstraps(rows: Rows, per_user: Callable[[Row], Any]) -> list[Row]:
    """A bootstrap over users of each line against the first of its group, per metric.

    Users are resampled; each user's metric is averaged over the seeds that both sides have. One that is there already
    for the same runs is kept. ``per_user`` gives a row's table of metrics, or None.
    """
    old = {(r["group"], r["label"], r["against"], r["metric"], r["runs"]): r for r in reversed(rows.users)}
    found: list[Row] = []
    for group in groups_of(rows.done()):
        first = group.first
        for line in group.lines[1:]:
            seeds = shared_seeds(first, line)
            sides = [[part.runs[seed] for seed in seeds] for part in (first, line)]
            labels = (group.name, line.first["label"], first.first["label"])
            for metric in metrics_of([*first.runs.values(), *line.runs.values()]):
                runs = runs_of(first, line, seeds)
                kept = old.get((*labels, metric, runs))
                if kept is not None and is_of(kept, first, line, seeds, metric):
                    found.append(kept)
                elif (
                    seeds
                    and (made := _bootstrap(sides, metric, per_user)) is not None
                    and is_of(made, first, line, seeds, metric)
                ):
                    facts = dict(zip(("group", "label", "against", "metric"), (*labels, metric)))
                    found.append({**facts, "seeds": " ".join(seeds), **made, "runs": runs})
    return found


def _bootstrap(sides: Sequence[Sequence[Row]], metric: str, per_user: Callable[[Row], Any]) -> Row | None:
    values = []
    for side in sides:
        parts = [_values(per_user(row), metric) for row in side]
        if any(part is None for part in parts):
            return None
        users, metrics = zip(*(part for part in parts if part is not None))
        if any(not np.array_equal(users[0], more) for more in users[1:]):
            return None
        values.append((users[0], np.mean(metrics, axis=0)))
    if not np.array_equal(values[0][0], values[1][0]):
        return None
    test = paired_bootstrap(values[0][1], values[1][1], resamples=RESAMPLES)
    return {
        "users": str(test.count),
        "resamples": str(RESAMPLES),
        "difference": f"{test.difference:.8f}",
        "low": f"{test.low:.8f}",
        "high": f"{test.high:.8f}",
        "p_value": "" if test.p_value is None else f"{test.p_value:.6g}",
    }


def _values(table: Any, metric: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Users and their metric, where the run's per-user metrics are here and hold it."""
    if table is None or metric not in table.column_names:
        return None
    users = table["user_row"].to_numpy()
    order = np.argsort(users, kind="stable")
    return users[order], np.asarray(table[metric].to_numpy(), np.float64)[order]


def slim(folder: RunFolder) -> None:
    """Remove what no report needs from a finished run: checkpoint, vectors, ids and seen items."""
    for path in (folder.checkpoint, folder.embeddings, folder.ids, folder.seen):
        path.unlink(missing_ok=True)
