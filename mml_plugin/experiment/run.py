"""One run: config -> folder -> engine -> files. Engines differ, this does not."""

from __future__ import annotations

import importlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from mml_plugin.devices import resolve_device
from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment import outputs
from mml_plugin.experiment.config import Experiment, load_experiment
from mml_plugin.experiment.dataset import FILES
from mml_plugin.experiment.environment import environment
from mml_plugin.experiment.identity import canonical_hash, run_identity
from mml_plugin.experiment.logs import log_to, show_duration
from mml_plugin.experiment.run_folder import RUN_FORMAT, History, RunFolder, folder_name, history_thresholds
from mml_plugin.experiment.schema import NOT_IDENTITY
from mml_plugin.files import atomic_write, writing
from mml_plugin.interrupts import interruptible
from mml_plugin.losses.checks import number
from mml_plugin.records import EpochRecord
from mml_plugin.registry import margins_of
from mml_plugin.report.protocols import PROTOCOLS

ENGINES = {"recbox": "mml_plugin.experiment.run_recbox", "fast": "mml_plugin.experiment.run_fast"}

# Which data a run reads.
DATA_KEYS = frozenset({*FILES, "test_data", "dataset_id"})
# Keys that may differ from those a run was begun with: they do not change an epoch's numbers.
FREE_ON_RESUME = (NOT_IDENTITY - set(FILES) - {"dataset_id", "seed"}) | {"epochs"}
# reczoo's keys that a configuration may hold and a run takes from elsewhere: an override would change nothing.
NO_OVERRIDE = {
    "gpu": "--gpu names the GPU",
    "model_root": "--runs says where run folders go",
    "model_id": "--expid names the run",
    "data_root": "train_data, valid_data and item_corpus say where the data are",
}


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for, unresolved.

    Attributes:
        expid: the experiment's name.
        config_dir: a folder in reczoo's layout.
        gpu: CUDA index, -1 for the CPU.
        engine: ``"recbox"``, the stock pipeline, or ``"fast"``.
        backend: how the fast engine computes scores; one of ``engine.backends.NAMES``.
        protocol: ``"paper"`` or ``"held-out"``.
        seed: overrides the configuration's seed.
        overrides: ``key=value`` strings; any of them appends a hash to the run folder's name.
        runs_dir: where run folders are made.
        resume: go on with an unfinished run.
        overwrite: begin a finished or unfinished run anew.
        valid_share: share of each user's training items that ``held-out`` carves away.
        tensorboard: also write TensorBoard event files into the run folder.
        max_batches: end each epoch after so many batches; the result is labelled ``cut``.
        thresholds: similarities between which training negatives are counted; None: the loss's own margins. They
            change what ``history.csv`` shows and nothing that is computed, so they are no part of the run's identity;
            a resumed run goes on counting on those of its history.
        summary: append reczoo's summary line to ``<config>.csv`` in the working directory.
    """

    expid: str
    config_dir: Path
    gpu: int = -1
    engine: str = "recbox"
    backend: str = "auto"
    protocol: str = "paper"
    seed: int | None = None
    overrides: tuple[str, ...] = ()
    runs_dir: Path = Path("runs")
    resume: bool = False
    overwrite: bool = False
    valid_share: float = 0.1
    tensorboard: bool = False
    max_batches: int | None = None
    thresholds: tuple[float, ...] | None = None
    summary: bool = True


@dataclass
class Context:
    """A resolved run, as an engine's ``train(context)`` receives it."""

    request: RunRequest
    experiment: Experiment
    params: dict[str, Any]
    device: torch.device
    folder: RunFolder
    thresholds: tuple[float, ...]
    history: History
    resume: bool
    started: float = field(default_factory=time.monotonic)
    epochs_this_time: int = 0
    listeners: list[Any] = field(default_factory=list)

    def on_epoch(self, record: EpochRecord) -> None:
        """Keep one epoch's row and say how long the rest will take."""
        self.history.add(record)
        if self.folder.checkpoint.exists():  # not yet after the first epoch, which is saved when this returns
            self.folder.drop_earlier()
        self.epochs_this_time += 1
        for listener in self.listeners:
            listener(record)
        epochs = int(self.params["epochs"])
        left = (time.monotonic() - self.started) / self.epochs_this_time * (epochs - record.epoch)
        logging.info(
            "Epoch %d/%d: %.1f s training, %.1f s evaluation, at most %s left",
            record.epoch, epochs, record.train_seconds, record.eval_seconds, show_duration(left),
        )  # fmt: skip


def run(request: RunRequest) -> RunFolder:
    """Train and evaluate one experiment and write its run folder (design, contract 6).

    Returns:
        The finished folder.

    Raises:
        UserError: for every mistake in names, values and files; for a finished run without
            ``overwrite``, an unfinished one without ``resume`` or ``overwrite``.
        KeyboardInterrupt: after Ctrl-C, with the way to resume logged.
    """
    check_request(request)
    experiment = load_experiment(request.config_dir, request.expid, request.overrides)
    check_overrides(experiment.overridden)
    if request.seed is not None and "seed" in experiment.overridden:
        raise UserError(f"--seed {request.seed} and --set seed={experiment.overridden['seed']} are two; give one")
    device = resolve_device(request.gpu)
    engine = importlib.import_module(ENGINES[request.engine])
    engine.check(experiment, request)
    seed = request.seed if request.seed is not None else int(experiment.params["seed"])
    params = {**experiment.params, "seed": seed, "gpu": request.gpu}
    folder = run_folder_of(experiment, request)
    made = folder.missing()
    with folder.lock():
        folder.tidy()
        try:
            resume = _prepare_folder(folder, request, params)
            with log_to(folder.log, append=resume):
                thresholds = _thresholds(experiment, request, folder if resume else None)
                context = Context(
                    request=request,
                    experiment=experiment,
                    params=params,
                    device=device,
                    folder=folder,
                    thresholds=thresholds,
                    history=History(folder.history, params["metrics"], thresholds),
                    resume=resume,
                )
                _train(context, engine)
        except BaseException as error:
            folder.put_back()
            if isinstance(error, UserError):  # of anything else the log is wanted
                folder.take_back(made)
            raise
    return folder


def check_request(request: RunRequest) -> None:
    """Refuse an unknown engine or protocol, and a share of validation that nothing carves away or can.

    Raises:
        UserError: with the nearest name, or with what the share is for.
    """
    check_choice("engine", request.engine, ENGINES)
    check_choice("protocol", request.protocol, PROTOCOLS)
    if request.protocol == "paper" and request.valid_share != RunRequest.valid_share:
        raise UserError("--valid-share is for --protocol held-out; the protocol paper has no validation split")
    if not 0 < request.valid_share <= 0.5:  # as NaN is not
        raise UserError(f"--valid-share must be in (0, 0.5], got {request.valid_share!r}")


def check_overrides(keys: Iterable[str], where: str = "") -> None:
    """Refuse to override a key that a run takes from elsewhere.

    Raises:
        UserError: for such a key, with what to write instead.
    """
    given = set(keys)
    for key, instead in NO_OVERRIDE.items():
        if key in given:
            raise UserError(f"{where}--set {key}: nothing would read it; {instead}")


def run_folder_of(experiment: Experiment, request: RunRequest) -> RunFolder:
    """Where the run of a request is, or would be; a :class:`UserError` for an expid that is no folder's name."""
    if Path(request.expid).name != request.expid or request.expid == "..":
        raise UserError(f"experiment {request.expid!r} cannot be run: its name is a folder's, so without / and not ..")
    seed = request.seed if request.seed is not None else int(experiment.params["seed"])
    name = folder_name(request.engine, request.protocol, seed, _override_hash(experiment, request))
    return RunFolder(Path(request.runs_dir) / request.expid / name)


def _thresholds(experiment: Experiment, request: RunRequest, resumed: RunFolder | None) -> tuple[float, ...]:
    """What the run's negatives are counted on; ``resumed`` is the folder of a run that goes on."""
    wanted = margins_of(experiment.params["loss"], experiment.params)
    if request.thresholds is not None:
        wanted = tuple(sorted({number("threshold", t) for t in request.thresholds}))
    begun = history_thresholds(resumed.history) if resumed is not None else None
    if begun is not None and begun != wanted:
        logging.info("The history counts negatives on %s; the resumed run goes on so", begun)
        return begun
    return wanted


def _override_hash(experiment: Experiment, request: RunRequest) -> str:
    """What sets an overridden run's folder apart from the experiment's own; "" when nothing was overridden."""
    changes: dict[str, Any] = {}
    if experiment.overridden:
        changes["config"] = experiment.identity()
    if DATA_KEYS & set(experiment.overridden):
        # The identity has no paths: without this, runs on two data sets would share a folder.
        changes["data"] = {key: experiment.params.get(key) for key in sorted(DATA_KEYS)}
    if request.max_batches:
        changes["max_batches"] = request.max_batches
    if request.protocol == "held-out" and request.valid_share != RunRequest.valid_share:
        changes["valid_share"] = request.valid_share
    return canonical_hash(changes) if changes else ""


def check_choice(what: str, value: str, known: dict[str, str]) -> None:
    """Raise a :class:`UserError` with the nearest name for a flag's value that is not among the known ones."""
    if value not in known:
        raise UserError(f"--{what} {value!r} is unknown; {nearest(value, known)}")


def _prepare_folder(folder: RunFolder, request: RunRequest, params: dict[str, Any]) -> bool:
    """Decide between a new run and a resumed one; returns whether to resume."""
    if request.resume and request.overwrite:
        raise UserError("--resume and --overwrite exclude each other: one goes on, the other begins anew")
    if request.overwrite:
        folder.set_aside()
        return False
    if folder.finished:
        raise UserError(f"{folder.path} holds a finished run; --overwrite begins it anew, another --seed makes another")
    if folder.checkpoint.is_file() and not request.resume:
        raise UserError(f"{folder.path} holds an unfinished run; --resume goes on with it, --overwrite begins it anew")
    if request.resume and not folder.checkpoint.is_file():
        raise UserError(
            f"{folder.path} holds nothing to resume; run without --resume to begin{_unfinished_beside(folder)}"
        )
    if request.resume:
        _check_unchanged(folder, request.expid, params)
    return request.resume


def _unfinished_beside(folder: RunFolder) -> str:
    """The experiment's other runs that can be resumed, and how, for a message."""
    found = sorted(path.parent.name for path in folder.path.parent.glob("*/checkpoint.pt"))
    names = [name for name in found if not RunFolder(folder.path.parent / name).finished]
    if not names:
        return ""
    return (
        f". Unfinished beside it: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}; a run is resumed with the "
        "--engine, --protocol, --valid-share, --seed, --set and --max-batches that it was begun with"
    )


def _check_unchanged(folder: RunFolder, expid: str, params: dict[str, Any]) -> None:
    """Refuse to go on with another configuration; more epochs are the same run, longer."""
    begun = folder.read_config(expid)
    trained = folder.epochs_in_history()
    if trained > params["epochs"]:
        raise UserError(
            f"{folder.path} has trained {trained} epochs, and epochs is {params['epochs']} now; set it to {trained} "
            "or more, or begin anew with --overwrite"
        )
    for key in sorted({*begun, *params} - FREE_ON_RESUME):
        if begun.get(key) != params.get(key):
            raise UserError(
                f"{folder.path} was begun with {key} {begun.get(key)!r}, which is {params.get(key)!r} now; "
                "--overwrite begins it anew"
            )


def _train(context: Context, engine: Any) -> None:
    request, folder = context.request, context.folder
    with atomic_write(folder.config) as stream:
        stream.write(context.experiment.to_yaml(seed=context.params["seed"]))
    logging.info("Run folder: %s", folder.path.resolve())
    logging.info("Engine %s, protocol %s: %s", request.engine, request.protocol, PROTOCOLS[request.protocol])
    if request.tensorboard:
        own = context.thresholds == margins_of(context.params["loss"], context.params)
        context.listeners.append(outputs.tensorboard_listener(folder.events, own, context.resume))
    try:
        with interruptible():
            _write_result(context, engine.train(context))
    except KeyboardInterrupt:
        _say_how_to_resume(folder)
        raise


def _write_result(context: Context, trained: outputs.Trained) -> None:
    """Write what a trained run leaves, ``result.json`` last."""
    request, folder = context.request, context.folder
    folder.drop_earlier()
    outputs.write_vectors(folder, trained)
    result = {
        "run_format": RUN_FORMAT,
        "expid": request.expid,
        "engine": request.engine,
        "protocol": request.protocol,
        "protocol_in_words": PROTOCOLS[request.protocol],
        "seed": context.params["seed"],
        "best_epoch": trained.best_epoch,
        "epochs": trained.epochs,
        "stopped_early": trained.stopped_early,
        "monitor": context.params["monitor"],
        "metrics": trained.metrics,
        "validation_metrics": trained.validation_metrics,
        "seconds": outputs.seconds_summary(context.history, time.monotonic() - context.started, trained.stages),
        "peak_memory_bytes": max([int(row["peak_memory_bytes"]) for row in context.history.rows] or [0]),
        "overridden": context.experiment.overridden,
        "cut": f"at most {request.max_batches} batches per epoch" if request.max_batches else "",
        "backend": trained.backend,
        "device": str(context.device),
        "threads": torch.get_num_threads(),
        "data": trained.data,
        "identity": run_identity(context, trained),
        "command": command_line(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **environment(),
    }
    folder.write_result(result)
    if request.summary:
        _append_summary(context, trained)
    logging.info("Best epoch %d of %d; results are in %s", trained.best_epoch, trained.epochs, folder.path.resolve())


def _append_summary(context: Context, trained: outputs.Trained) -> None:
    """Append reczoo's summary line to ``<config>.csv`` in the working directory, as its script does."""
    path = Path(f"{Path(context.request.config_dir).resolve().name}.csv")
    try:
        # A folder's name need not be UTF-8, and the command may hold it.
        with writing(path), open(path, "a", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(outputs.summary_line(context, trained, command_line()))
    except UserError as error:  # the run itself is complete: a line beside it is not worth its result
        logging.warning("No summary line: %s", error)


def _say_how_to_resume(folder: RunFolder) -> None:
    threads = os.environ.get("OMP_NUM_THREADS", "")  # the numbers depend on it, and another shell has another
    start = f"OMP_NUM_THREADS={shlex.quote(threads)} " if threads else ""
    if folder.checkpoint.is_file():
        command = command_line() + (" --resume" if _takes_resume(sys.argv) else "")
        logging.info("Stopped. Go on with: %s%s", start, command)
    else:
        logging.info("Stopped before the first checkpoint; the same command begins again")


def _takes_resume(argv: Sequence[str]) -> bool:
    """Whether the command is told to go on; ``mml quickstart``, for one, does so by itself."""
    return Path(argv[0]).name == "run_expid.py" or "train" in argv[1:2]


def command_line(argv: Sequence[str] | None = None) -> str:
    """The command that started this process, without ``--resume`` and ``--overwrite``, ready to paste."""
    words = list(sys.argv if argv is None else argv)
    program = Path(words[0]).name
    start = ["mml"] if program in {"mml", "__main__.py"} else ["python", words[0]]
    return shlex.join(start + [w for w in words[1:] if w not in {"--resume", "--overwrite"}])
