"""Running the cells of a suite: what is missing, once each, whatever else runs or fails beside it."""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm

from mml_plugin.data.interactions import load
from mml_plugin.engine import backends
from mml_plugin.errors import UserError, lacking_memory
from mml_plugin.experiment.dataset import check_data, data_identity, data_word
from mml_plugin.experiment.identity import Conditions, identity_of
from mml_plugin.experiment.logs import show_duration
from mml_plugin.experiment.run import RunRequest, run
from mml_plugin.experiment.run_folder import exactly
from mml_plugin.experiment.suite import Cell
from mml_plugin.files import make_folder, writing
from mml_plugin.interrupts import children_heed_ctrl_c, termination_interrupts

DONE, FAILED, MISSING, ELSEWHERE = "done", "failed", "missing", "running elsewhere"
POLL_SECONDS = 1.0
LOOK_SECONDS = 10.0  # more than a look at a finished run takes


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: its state, and the error in one sentence."""

    cell: Cell
    state: str
    error: str = ""


@dataclass
class Matcher:
    """Says whether a finished run is the one that a cell asks for, by its identity.

    Attributes:
        any_machine: also accept a run of another device, backend or number of threads.
    """

    any_machine: bool = False
    _data: dict[Path, dict[str, str]] = field(default_factory=dict)

    def why_not(self, cell: Cell) -> str:
        """Why the finished run in the cell's folder is another one; "" when it is the cell's."""
        there = self._conditions_there(cell)
        if not self._same_run(cell, there):
            return f"{cell.folder.path} holds a run of another configuration or other data; --overwrite begins it anew"
        if self.any_machine:
            return ""
        here = self.conditions(cell.request)
        if there == here:
            return ""
        names = ("backend", "device", "threads")
        differ = [
            f"{n} {getattr(there, n)}, here {getattr(here, n)}" for n in names if getattr(there, n) != getattr(here, n)
        ]
        return (
            f"{cell.folder.path} holds a run of other conditions ({'; '.join(differ)}); --any-machine takes it as it "
            "is, --overwrite begins it anew"
        )

    def check_made(self, cell: Cell) -> str:
        """Why the run that just ended in the cell's folder is not the cell's: its files were changed meanwhile."""
        if self._same_run(cell, self._conditions_there(cell)):
            return ""
        return (
            f"{cell.folder.path} holds a run of another configuration or other data than the suite was read with: they "
            "were changed meanwhile; --overwrite begins it anew"
        )

    @staticmethod
    def _conditions_there(cell: Cell) -> Conditions:
        result = cell.folder.read_result()
        return Conditions(str(result["backend"]), str(result["device"]).split(":")[0], int(result["threads"]))

    def _same_run(self, cell: Cell, conditions: Conditions) -> bool:
        return cell.folder.read_result().get("identity") == self._identity(cell, conditions)

    def fingerprint(self, cell: Cell) -> str:
        """What rows call the cell's data; "" where they cannot be read."""
        try:
            return data_word(self._data_of(cell))
        except UserError:
            return ""

    def _identity(self, cell: Cell, conditions: Conditions) -> str:
        return identity_of(cell.experiment, cell.request, cell.seed, self._data_of(cell), conditions)

    def _data_of(self, cell: Cell) -> dict[str, str]:
        folder = check_data(cell.experiment.params)
        if folder not in self._data:
            self._data[folder] = data_identity(load(folder))
        return self._data[folder]

    @staticmethod
    def conditions(request: RunRequest) -> Conditions:
        """Where a run of the request would compute on this machine."""
        device = torch.device("cpu") if request.gpu < 0 else torch.device("cuda", request.gpu)
        name = "recbox" if request.engine == "recbox" else backends.select(request.backend, device).name
        return Conditions(name, device.type, torch.get_num_threads())


@dataclass
class Runner:
    """Runs cells.

    Attributes:
        work: where the cells' output goes.
        matcher: what counts as finished.
        overwrite: begin every cell anew.
        isolated: each cell in a process of its own, so that one's end is not the others'.
        on_outcome: told after each cell, so that rows are kept at once.
        say: how to tell the user.
    """

    work: Path
    matcher: Matcher = field(default_factory=Matcher)
    overwrite: bool = False
    isolated: bool = True
    on_outcome: Callable[[Outcome], object] = lambda outcome: None
    say: Callable[[str], None] = print
    _began: float = 0.0

    def run(self, cells: Sequence[Cell]) -> list[Outcome]:
        """Run every cell that is not finished; a failed one does not stop the others.

        Raises:
            KeyboardInterrupt: after Ctrl-C or SIGTERM, with the running cell's state kept.
        """
        with termination_interrupts():
            return self._run(cells)

    def _run(self, cells: Sequence[Cell]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        started, ran = time.monotonic(), 0
        self._began = time.time()
        for number, cell in enumerate(cells, 1):
            begin = time.monotonic()
            try:
                outcome, new = self._claim_and_run(cell, f"[{number}/{len(cells)}] {cell.name}")
            except KeyboardInterrupt:
                self.say(f"stopped in cell {number} of {len(cells)}; {self._how_to_go_on()}")
                raise
            outcomes.append(outcome)
            ran += new
            self.on_outcome(outcome)
            if new or outcome.state != DONE:
                spent = show_duration(time.monotonic() - begin)
                left = (time.monotonic() - started) / max(ran, 1) * (len(cells) - number)
                more = f", about {show_duration(left)} left" if new and number < len(cells) else ""
                self.say(f"[{number}/{len(cells)}] {cell.name}: {outcome.state} {outcome.error} ({spent}{more})")
        return outcomes

    def _how_to_go_on(self) -> str:
        if not self.overwrite:
            return "the same command goes on from here"
        return "the same command begins anew, without --overwrite it goes on from here and keeps what runs are left"

    def _claim_and_run(self, cell: Cell, title: str) -> tuple[Outcome, bool]:
        """Run one cell unless it is finished or somebody else's; returns also whether it was run now."""
        folder = cell.folder
        make_folder(folder.path.parent)
        claim = FileLock(f"{folder.path}.cell.lock")
        try:
            with writing(folder.path):
                # Of a finished cell another process mostly looks only whether it is what was asked for.
                claim.acquire(timeout=LOOK_SECONDS if folder.finished else 0)
        except Timeout:
            return Outcome(cell, ELSEWHERE), False
        try:
            if is_locked(Path(f"{folder.path}.lock")):
                return Outcome(cell, ELSEWHERE), False
            folder.recover()
            # Begun anew since this one began: another process with --overwrite was here first.
            anew = folder.finished and folder.result.stat().st_mtime >= self._began
            if folder.finished and (anew or not self.overwrite):
                obstacle = self.matcher.why_not(cell)
                return Outcome(cell, FAILED if obstacle else DONE, obstacle), False
            if self.isolated and (error := self._just_failed(cell)):
                return Outcome(cell, FAILED, error), False
            resume = folder.checkpoint.is_file() and not self.overwrite
            # Rows keep what reczoo's summary lines say, and keep test from whoever chooses among tuning cells.
            request = replace(cell.request, resume=resume, overwrite=self.overwrite, summary=False)
            error = self._isolated(request, cell, title) if self.isolated else _in_process(request)
            error = error or self.matcher.check_made(cell)
            return Outcome(cell, FAILED if error else DONE, error), True
        except UserError as error:
            return Outcome(cell, FAILED, str(error)), False
        except (MemoryError, RuntimeError) as error:
            # What fits no more in this process, or on its GPU, may fit for the next cell.
            if not (lacking := lacking_memory(error)):
                raise
            return Outcome(cell, FAILED, f"not enough memory: {lacking}"), False
        finally:
            claim.release()

    def _log(self, cell: Cell) -> Path:
        """Where the output of a cell's process goes."""
        return self.work / f"{cell.name.replace('/', '.')}.log"

    def _just_failed(self, cell: Cell) -> str:
        """The error of a cell that failed in another process since this one began; a later call tries it again."""
        log = self._log(cell)
        if not log.is_file() or log.stat().st_mtime < self._began:
            return ""
        errors = _errors(log)
        return f"{errors[-1]} (tried by another process, see {log})" if errors else ""

    def _isolated(self, request: RunRequest, cell: Cell, title: str) -> str:
        """Run a cell in a process of its own; returns its error, "" for none."""
        make_folder(self.work)
        log = self._log(cell)
        with writing(log), open(log, "w", encoding="utf-8") as stream:
            # A session of its own: Ctrl-C reaches us alone, and we hand it on once.
            with children_heed_ctrl_c():
                process = subprocess.Popen(
                    [sys.executable, "-m", "mml_plugin", *train_words(request)],
                    stdout=stream, stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
            try:
                code = _watch(process, cell, title)
            except BaseException:
                process.send_signal(signal.SIGINT)
                process.wait()
                raise
        if code == 0 and cell.folder.finished:
            return ""
        if code < 0:
            said = f"killed by signal {-code}{' (out of memory?)' if code == -signal.SIGKILL else ''}"
            with contextlib.suppress(OSError), open(log, "a", encoding="utf-8") as stream:
                stream.write(f"error: {said}\n")
            return f"{said}; see {log}"
        return f"{last_words(log)} (exit {code}, see {log})"


def _watch(process: subprocess.Popen, cell: Cell, title: str) -> int:
    """Wait for a cell with a bar of its epochs; returns its exit code."""
    epochs = int(cell.experiment.params["epochs"])
    with tqdm(total=epochs, desc=title, unit="epoch", disable=None, leave=False) as bar:
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                bar.update(min(epochs, _epochs_done(cell)) - bar.n)


def _epochs_done(cell: Cell) -> int:
    try:
        with open(cell.folder.history, "rb") as stream:
            return max(0, sum(1 for _ in stream) - 1)
    except OSError:
        return 0


def _in_process(request: RunRequest) -> str:
    try:
        run(request)
    except Exception as error:  # a cell's mistake, whatever it is, must not stop the others
        logging.debug("cell failed", exc_info=True)
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return ""


def running_elsewhere(count: int) -> str:
    """``2 cells run in another process``."""
    return "1 cell runs in another process" if count == 1 else f"{count} cells run in another process"


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file of a run (one that its suite left behind, say)."""
    if not path.is_file():
        return False
    lock = FileLock(str(path))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def last_words(log: Path) -> str:
    """The sentence in which a run's output says what went wrong."""
    lines, errors = _lines(log), _errors(log)
    return errors[-1] if errors else (lines[-1] if lines else "no output")


def _lines(log: Path) -> list[str]:
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _errors(log: Path) -> list[str]:
    return [line.removeprefix("error: ") for line in _lines(log) if line.startswith("error: ")]


def train_words(request: RunRequest) -> list[str]:
    """The words after ``mml`` that run a request."""
    words: list[Any] = ["train", "--config", request.config_dir, "--expid", request.expid, "--engine", request.engine]
    words += ["--protocol", request.protocol, "--gpu", request.gpu, "--runs", request.runs_dir]
    words += ["--seed", request.seed] if request.seed is not None else []
    words += ["--backend", request.backend] if request.backend != "auto" else []
    if request.protocol == "held-out" and request.valid_share != RunRequest.valid_share:
        words += ["--valid-share", request.valid_share]
    words += ["--max-batches", request.max_batches] if request.max_batches else []
    for override in request.overrides:
        words += ["--set", override]
    if request.thresholds is not None:
        words += ["--thresholds", ",".join(exactly(t) for t in request.thresholds)]
    words += [] if request.summary else ["--no-summary"]
    words += ["--resume"] if request.resume else []
    words += ["--overwrite"] if request.overwrite else []
    return [str(word) for word in words]
