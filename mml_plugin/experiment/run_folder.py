"""The folder of one run: ``runs/<expid>/<engine>-<protocol>-s<seed>[-<hash8>]/`` and the files in it."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write, make_folder, writing
from mml_plugin.records import EpochRecord

# Raised when the files of a run change so that an older reader would misread them; absent means 1.
RUN_FORMAT = 1
# In a folder of vectors that were exported from a run.
EXPORT = "export.json"
FIXED_COLUMNS = ("epoch", "train_loss", "learning_rate", "train_seconds", "eval_seconds", "peak_memory_bytes")
TOTALS = ("negatives", "gradient_sum")
# What readers of a finished run rely on, with a dot for a key within a key.
RESULT_KEYS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("backend", "device", "identity", "cut", "commit", "date", "command"), str),
    **dict.fromkeys(("best_epoch", "epochs", "threads", "peak_memory_bytes", "data.users"), int),
    **dict.fromkeys(("metrics", "validation_metrics", "machine", "versions"), dict),
    **dict.fromkeys([f"seconds.{p}{s}" for p in ("train", "evaluation") for s in ("", "_per_epoch")], (int, float)),
    **dict.fromkeys([f"machine.{name}" for name in ("processor", "cores", "memory_gib")], object),
    "data.fingerprint": str,
    "stopped_early": bool,
    "monitor": (str, dict),
}


def folder_name(engine: str, protocol: str, seed: int, override_hash: str = "") -> str:
    """``recbox-paper-s2019``, with ``-<hash8>`` of what ``--set``, ``--max-batches`` or ``--valid-share`` changed."""
    return f"{engine}-{protocol}-s{seed}" + (f"-{override_hash[:8]}" if override_hash else "")


def exactly(value: float) -> str:
    """A number as short as it can be written without becoming another one: thresholds are compared after reading."""
    short = f"{value:.12g}"
    return short if float(short) == value else repr(float(value))


def band_column(band: int, thresholds: Sequence[float], what: str = "band") -> str:
    """The header of a band's share, with its similarity interval: ``band_1(0.6,0.7]``."""
    low = exactly(thresholds[band - 1]) if band else "-inf"
    high = f"{exactly(thresholds[band])}]" if band < len(thresholds) else "inf)"
    return f"{what}_{band}({low},{high}"


def history_thresholds(path: Path) -> tuple[float, ...] | None:
    """The thresholds that a ``history.csv`` counts negatives on, as its header says; None where there is no file."""
    if not path.is_file():
        return None
    with _reading(path), open(path, newline="", encoding="utf-8") as stream:
        header = next(csv.reader(stream), [])
        lows = [re.fullmatch(r"band_[1-9]\d*\((.+),.+", name) for name in header]
        return tuple(float(match[1]) for match in lows if match)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A history that cannot be read is one sentence; without its file a run resumes all the same."""
    try:
        yield
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and only these epochs' curves and seconds are lost; or begin "
            "anew with --overwrite"
        ) from None


def _check_keys(content: Mapping[str, Any], needed: Mapping[str, type | tuple[type, ...]]) -> None:
    """Raise a :class:`ValueError` that names the first key that is missing or holds something else."""
    for name, kind in needed.items():
        value: Any = content
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise ValueError(f"it has no {name}")
            value = value[part]
        if not isinstance(value, kind):
            raise ValueError(f"its {name} is {value!r:.40}")
    for name in {"metrics", "validation_metrics"} & needed.keys():
        for metric, value in content[name].items():
            if not isinstance(value, (int, float)):
                raise ValueError(f"its {name} {metric} is {value!r:.40}")


class FolderInUse(UserError):
    """Another process trains in the run folder."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run; nothing here knows how it is trained."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration (YAML)."""
        return self.path / "config.yaml"

    @property
    def history(self) -> Path:
        """One row per epoch (CSV)."""
        return self.path / "history.csv"

    def epochs_in_history(self) -> int:
        """How many epochs ``history.csv`` has; 0 where there is no file."""
        if not self.history.is_file():
            return 0
        return max(0, len(self.history.read_bytes().splitlines()) - 1)

    @property
    def result(self) -> Path:
        """What the run came to (JSON); it exists only when the run finished."""
        return self.path / "result.json"

    @property
    def log(self) -> Path:
        """Every log line of the run."""
        return self.path / "log.txt"

    @property
    def checkpoint(self) -> Path:
        """What ``--resume`` needs, and the best weights."""
        return self.path / "checkpoint.pt"

    @property
    def embeddings(self) -> Path:
        """Ranking-ready user and item vectors."""
        return self.path / "embeddings.safetensors"

    @property
    def per_user(self) -> Path:
        """Each evaluated user's metrics at the reported epoch (Parquet)."""
        return self.path / "per_user.parquet"

    @property
    def ids(self) -> Path:
        """Original user and item ids by row (Parquet)."""
        return self.path / "ids.parquet"

    @property
    def events(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def recbox(self) -> Path:
        """Where recbox itself writes: its best weights, in a folder of the data set's name."""
        return self.path / "recbox"

    @property
    def seen(self) -> Path:
        """Training interactions as (user row, item row), to exclude seen items later (Parquet)."""
        return self.path / "seen.parquet"

    @property
    def finished(self) -> bool:
        """Whether the run wrote its result."""
        return self.result.is_file()

    def read_result(self, needed: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
        """The content of ``result.json``.

        Args:
            needed: the keys that it must have and their types; None: those of a run that this package trained.

        Raises:
            UserError: when it is missing or damaged, lacks a key, or was laid out by another version.
        """
        try:
            content = json.loads(self.result.read_text(encoding="utf-8"))
            if not isinstance(content, dict):
                raise ValueError("it holds no JSON object")
            self._check_format(content)
            _check_keys(content, RESULT_KEYS if needed is None else needed)
            return content
        except FileNotFoundError:
            raise UserError(f"{self.path} holds no result.json: the run has not finished") from None
        except UserError:
            raise
        except (ValueError, OSError) as error:
            raise UserError(f"{self.result} cannot be read: {error}; --overwrite begins the run anew") from None

    def _check_format(self, content: Mapping[str, Any]) -> None:
        found = content.get("run_format", 1)
        if found == RUN_FORMAT:
            return
        versions = content.get("versions")
        writer = versions.get("mml_plugin") if isinstance(versions, dict) else "of another version"
        raise UserError(
            f"{self.path} was written by mml_plugin {writer} in run format {found}, and this version reads format "
            f"{RUN_FORMAT}; read it with that version, or train it again with --overwrite"
        )

    def read_config(self, expid: str) -> dict[str, Any]:
        """The resolved parameters in ``config.yaml``; a :class:`UserError` when it is missing or damaged."""
        try:
            content = yaml.safe_load(self.config.read_text(encoding="utf-8"))[expid]
        except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
            raise UserError(f"{self.config} is missing or damaged; begin anew with --overwrite") from None
        if not isinstance(content, dict):
            raise UserError(f"{self.config} is missing or damaged; begin anew with --overwrite")
        return content

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write ``result.json``; the last thing a run does."""
        with atomic_write(self.result) as stream:
            json.dump(result, stream, indent=2)
            stream.write("\n")

    @property
    def _earlier(self) -> Path:
        """Where a run waits that another one is to take the place of."""
        return self.path / ".earlier"

    @property
    def holds_earlier(self) -> bool:
        """Whether a run waits here for the first epoch of the one that is to take its place."""
        return self._earlier.is_dir()

    @property
    def _whole(self) -> Path:
        """Stands in it once everything is there."""
        return self._earlier / "whole"

    @property
    def _dropped(self) -> Path:
        return self.path / ".dropped"

    def set_aside(self) -> None:
        """Move an earlier run's files out of the way, ``result.json`` first, so that a stop never looks finished.

        They are gone for good with :meth:`drop_earlier`; :meth:`put_back` undoes it. To be called under the lock.
        """
        there = [path for path in self._files() if path.exists()]
        if there:
            with writing(self.path):
                self._earlier.mkdir(exist_ok=True)
                for path in there:
                    os.replace(path, self._earlier / path.name)
                self._whole.touch()

    def drop_earlier(self) -> None:
        """Remove what :meth:`set_aside` moved: the run that took its place has an epoch of its own."""
        shutil.rmtree(self._dropped, ignore_errors=True)
        if self._earlier.is_dir():
            # Renamed first: what a stop leaves of it is nothing that could be put back.
            os.replace(self._earlier, self._dropped)
        shutil.rmtree(self._dropped, ignore_errors=True)

    def put_back(self) -> None:
        """Undo :meth:`set_aside` where the run that was to take the place has no epoch. To be called under the lock."""
        if not self._earlier.is_dir():
            return
        if self._whole.exists() and self.checkpoint.exists():
            self.drop_earlier()
            return
        if self._whole.exists():
            # A history without a checkpoint is of no use to anybody.
            self.history.unlink(missing_ok=True)
            self._whole.unlink()
        # From here on, and after a stop within set_aside(), what is still there belongs to the earlier run.
        for path in reversed(self._files()):
            if (self._earlier / path.name).exists():
                if path.is_dir():
                    shutil.rmtree(path)
                os.replace(self._earlier / path.name, path)
        self.drop_earlier()

    def recover(self) -> None:
        """Tidy up after a process that was killed: half-written files, and a run that it had only set aside.

        Raises:
            UserError: when another process has the folder (:class:`FolderInUse`), and when it cannot be written to.
        """
        if not self.path.is_dir():
            return
        with self.lock():
            try:
                self.tidy()
            except OSError as error:
                reason = error.strerror or error
                raise UserError(f"{self.path} cannot be tidied up after a process that was killed: {reason}") from None

    def tidy(self) -> None:
        """:meth:`sweep` and :meth:`put_back`. To be called under the lock."""
        self.sweep()
        self.put_back()

    def _files(self) -> list[Path]:
        """All that a run writes, ``result.json`` first, and what was exported from it into its folder."""
        exports = {path.parent.name for place in (self.path, self._earlier) for path in place.glob(f"*/{EXPORT}")}
        # Aside, an export of the mark's name would pass for it; in a folder of the run's own it goes with that.
        exports -= {self._whole.name, self.recbox.name, self.events.name}
        return [
            self.result, self.history, self.checkpoint, self.embeddings, self.per_user, self.ids, self.seen, self.log,
            self.config, self.events, self.recbox, *(self.path / name for name in sorted(exports)),
        ]  # fmt: skip

    def sweep(self) -> None:
        """Remove half-written files of a process that was killed. To be called under the lock."""
        shutil.rmtree(self._dropped, ignore_errors=True)
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    def missing(self) -> list[Path]:
        """This folder and those above it that are not there yet, the innermost first."""
        return [folder for folder in (self.path, *self.path.parents) if not os.path.exists(folder)]

    def take_back(self, made: Sequence[Path]) -> None:
        """Remove what a run wrote that was refused before its first epoch ended, if it made this folder.

        Args:
            made: what :meth:`missing` returned before. To be called under the lock.
        """
        if self.path not in made or self.checkpoint.exists() or self.history.exists():
            return
        shutil.rmtree(self.path, ignore_errors=True)
        Path(f"{self.path}.lock").unlink(missing_ok=True)
        with suppress(OSError):  # another run's folder or a grid's stands there
            for folder in made[1:]:
                folder.rmdir()

    def lock(self) -> FileLock:
        """Take the folder for this process; a :class:`FolderInUse` when another process has it.

        The lock file lies beside the folder, so that a run folder holds results only.
        """
        make_folder(self.path)
        lock = FileLock(str(self.path) + ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(f"another process is running {self.path}; wait for it or give another --seed") from None
        except OSError as error:
            raise UserError(f"cannot write to {self.path.parent}: {error.strerror}") from None
        return lock


def _number_in(row: Mapping[str, str], name: str, line: int) -> None:
    try:
        (int if name == "epoch" else float)(row[name])
    except KeyError:
        raise ValueError(f"it has no column {name!r}") from None
    except ValueError:
        raise ValueError(f"line {line}: {name} is {row[name]!r}, not a number") from None


class History:
    """``history.csv``: rewritten whole after each epoch, so that it is always complete."""

    def __init__(self, path: Path, metrics: Sequence[str], thresholds: Sequence[float] = ()) -> None:
        """Args:
        path: the file.
        metrics: metric names in their configured order, one column each.
        thresholds: margins in rising order; K of them give K + 1 columns with each band's share of the negatives
            and K + 1 with its share of their gradient, ``sum |dL/dn|``; the two totals stand beside.
        """
        self.path = path
        self.metrics = list(metrics)
        bands = range(len(thresholds) + 1) if thresholds else ()
        self.bands = [band_column(b, thresholds) for b in bands]
        self.gradients = [band_column(b, thresholds, "gradient") for b in bands]
        self.rows: list[dict[str, Any]] = []

    @property
    def columns(self) -> list[str]:
        """The header."""
        counted = [*self.bands, *self.gradients, *TOTALS] if self.bands else []
        return [*FIXED_COLUMNS[:2], *self.metrics, *FIXED_COLUMNS[2:], *counted]

    def load(self, epochs: int) -> None:
        """Read back the first ``epochs`` rows of an interrupted run (a later, half-done epoch is dropped).

        What was trained and has no row is warned of.
        """
        rows = self._read() if self.path.is_file() else []
        self.rows = [row for row in rows if int(row["epoch"]) <= epochs]
        if epochs and not self.rows:
            logging.warning(
                "%s has none of the %d epochs that are trained already: curves, seconds and early stopping begin "
                "with epoch %d", self.path, epochs, epochs + 1,
            )  # fmt: skip

    def _read(self) -> list[dict[str, Any]]:
        with _reading(self.path), open(self.path, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
            if not rows:
                return []
            unknown = sorted(set(reader.fieldnames or ()) - set(self.columns))
            if unknown:
                raise ValueError(f"it has a column {unknown[0]!r}, which this run does not write")
            for line, row in enumerate(rows, start=2):
                if None in row or None in row.values():
                    raise ValueError(f"line {line} has another number of cells than the header")
                for name in FIXED_COLUMNS:
                    _number_in(row, name, line)
            return rows

    def add(self, record: EpochRecord) -> None:
        """Append one epoch and write the file."""
        row: dict[str, Any] = {name: getattr(record, name) for name in FIXED_COLUMNS}
        row.update({name: record.metrics.get(name, "") for name in self.metrics})
        for columns, values, name in zip(
            (self.bands, self.gradients), (record.band_counts, record.band_gradients), TOTALS
        ):
            total = sum(values)
            if columns and len(values):
                row[name] = total
                row.update({column: value / total if total else 0.0 for column, value in zip(columns, values)})
        self.rows = [r for r in self.rows if int(r["epoch"]) != record.epoch] + [row]
        with atomic_write(self.path) as stream:
            writer = csv.DictWriter(stream, self.columns, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows(self.rows)
