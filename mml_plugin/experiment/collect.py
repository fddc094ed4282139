"""From run folders to rows: everything that a report needs, so that run folders need not be kept."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mml_plugin.experiment import kept_users
from mml_plugin.experiment.cell_rows import (
    OUTDATED,
    SCREENED_OUT,
    WAITING,
    description,
    history_rows,
    measured,
    result_row,
    settings_of,
    trained,
)
from mml_plugin.experiment.cells import DONE, ELSEWHERE, FAILED, MISSING, Outcome
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.experiment.shared_trainings import Trainings, lock_of, newest_of
from mml_plugin.experiment.suite import Cell
from mml_plugin.experiment.user_comparisons import bootstraps, identities, of_others, rows_to_compare
from mml_plugin.files import make_folder
from mml_plugin.report.comparison import metrics_of
from mml_plugin.report.rows import Row, Rows


class Collector:
    """Keeps a suite's rows up to date while its cells run; several processes may.

    Args:
        stem: where the rows are, without ``.csv``.
        cells: the suite's cells.
        hide: a path whose occurrences are taken out of commands.
        screened: (group, label) of cells that are to have no whole run -> why. What was measured of them before
            stays in their rows, and no report shows it.
        waiting: (group, label) of cells of which nobody can say yet whether they are to have one -> why.
        fingerprint: a cell -> the :func:`~mml_plugin.experiment.dataset.data_word` of its data as they are now, ""
            where they cannot be read. What was measured on other data, or on these in another order, stays in its row,
            and no report shows it.
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
        self._data = {settings_of(description(cell)): fingerprint(cell) for cell in self.cells}
        self._by_name = {cell.name: cell for cell in self.cells}
        self._families = {(cell.group, cell.label): cell.family for cell in self.cells}
        self._lock = lock_of(stem)

    def update(self, outcomes: Iterable[Outcome]) -> Rows:
        """Put the outcomes' rows in place of the same cells' older ones.

        A cell that failed or is missing keeps an older result's row: what was measured stays, beside the error.
        """
        make_folder(self.stem.parent)
        with self._lock:
            rows = Rows.load_own(self.stem)
            known = {row["cell"]: row for row in rows.cells}
            epochs = rows.epochs()
            for outcome in outcomes:
                name, old = outcome.cell.name, known.get(outcome.cell.name)
                if outcome.state == DONE:
                    row = self._row(outcome.cell)
                    if old is not None and measured(old) and trained(old) == trained(row) and old["date"] > row["date"]:
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
        make_folder(self.stem.parent)
        newest = newest_of(stem for stem in stems if stem != self.stem)
        with self._lock:
            rows = Rows.load_own(self.stem)
            self._put(rows, *self._taken_over(rows, newest))
        return rows

    def _taken_over(self, rows: Rows, newest: Trainings) -> tuple[dict[str, Row], dict[str, list[Row]]]:
        """The rows by cell, and their epochs, with what others have in place of what is older or missing here."""
        known = {row["cell"]: row for row in self._ordered({row["cell"]: row for row in rows.cells})}
        epochs, of_cells, described = rows.epochs(), self._trainings_asked(), self._described
        for name, row in known.items():
            own = trained(row) if measured(row) else ()
            asked = of_cells.get(name, own)
            lacks = asked != own and asked in newest
            theirs, history = newest.get(asked if lacks else own, ({}, []))
            if not theirs or not self._may_be_of(name, theirs):
                continue
            date = "" if lacks else row["date"]
            if theirs["date"] > date:
                taken = {key: value for key, value in theirs.items() if key not in described}
                of_suite = description(self._by_name[name]) if lacks else row
                known[name] = {**of_suite, **taken, "state": DONE, "error": ""}
                epochs[name] = []
            if theirs["date"] >= date and len(history) > len(epochs.get(name, [])):
                epochs[name] = [{**epoch, "cell": name} for epoch in history]
        return known, epochs

    def _trainings_asked(self) -> dict[str, tuple[str, ...]]:
        """What each cell is to have trained, of those that may be filled from elsewhere.

        Not of what a screen leaves out or lets wait, nor where the data cannot be read, nor of a cell whose own run
        folder is finished: that is what its row is made from.
        """
        found = {}
        for cell in self.cells:
            row, label = description(cell), (cell.group, cell.label)
            data = self._data[settings_of(row)]
            if data and label not in self.screened and label not in self.waiting and not cell.folder.finished:
                found[cell.name] = trained({**row, "data_fingerprint": data})
        return found

    def _may_be_of(self, name: str, theirs: Row) -> bool:
        """Whether a training is by the backend that the cell asks for; any is where it leaves the choice."""
        cell = self._by_name.get(name)
        return cell is None or cell.request.backend in ("auto", theirs["backend"])

    def _put(self, rows: Rows, known: dict[str, Row], epochs: Mapping[str, list[Row]]) -> None:
        """Order the rows and write them. To be called under the lock."""
        self._set(rows, known, epochs)
        rows.save(self.stem)

    def _set(self, rows: Rows, known: dict[str, Row], epochs: Mapping[str, list[Row]]) -> None:
        rows.cells = self._ordered(known)
        rows.history = [row for cell in rows.cells if measured(cell) for row in epochs.get(cell["cell"], [])]

    @property
    def _described(self) -> set[str]:
        """The columns that do not come from a run."""
        described = {key for cell in self.cells for key in description(cell)}
        return described | {"valid_share", "max_batches", "monitor_mode", "state", "error", "asked"}

    def judged(self, stems: Iterable[Path] = ()) -> Rows:
        """The rows as they are, each marked as the cells now have it; nothing is written.

        Args:
            stems: of suites whose rows count as after :meth:`adopt`.
        """
        rows = Rows.load_own(self.stem)
        newest = newest_of(stem for stem in stems if stem != self.stem)
        known, epochs = self._taken_over(rows, newest)
        self._set(rows, known, epochs)
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
            before = rows_to_compare(rows, names)
            found = bootstraps(before, self._per_user)
            with self._lock:
                # Another comparison with these rows may have marked ours as none of its own.
                rows = self.judged()
                now = rows_to_compare(rows, names)
                if identities(now) == identities(before):
                    # Another process may have compared what could not be compared here.
                    found = bootstraps(replace(now, users=[*found, *rows.users]), lambda row: None)
                    rows.users = found + (of_others(rows, found) if asked_only else [])
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
        data = self._data.get(settings_of(row))
        if data == "":
            return row["state"] != OUTDATED  # nobody can say whether its data are these
        return data is not None and data == row.get("data_fingerprint")

    def _row(self, cell: Cell) -> Row:
        result = cell.folder.read_result()
        if self.hide:
            result["command"] = result["command"].replace(f"{self.hide}/", "")
        return {**description(cell), **result_row(result, cell)}


def slim(folder: RunFolder) -> None:
    """Remove what no report needs from a finished run: checkpoint, weights, vectors, ids and seen items."""
    for path in (folder.checkpoint, folder.embeddings, folder.ids, folder.seen):
        path.unlink(missing_ok=True)
    shutil.rmtree(folder.recbox, ignore_errors=True)
