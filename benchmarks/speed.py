"""Seconds and memory of a training epoch: stock recbox and each backend of the fast engine, in the same run.

Usage, from a folder that holds ``data/yelp18`` and ``data/gowalla``::

    python benchmarks/speed.py                    # every case on the CPU, rows to benchmarks/results/speed.csv
    python benchmarks/speed.py --device cuda      # the fast engine's cases on GPU 0
    python benchmarks/speed.py --case yelp-ccl-100 --rounds 5
    python benchmarks/speed.py --sweep            # how cost grows with catalogue and interactions
    python benchmarks/speed.py --sampler          # what popularity and exclusion add to a draw
    python benchmarks/speed.py --table            # rewrite docs/speed.md from the rows

Every measurement is a process of its own; recbox and the backends take turns (A B A B), and a row is the median of
its rounds; a first one, from an empty cache, lets numba compile and gives ``compile_seconds`` and
``cold_peak_memory_gb`` alone. recbox draws an epoch's negatives before the first batch, so
its rows are timed on a share of the training rows (drawn evenly, at least one of each user, histories whole) and
scaled: ``rows`` says how many were trained, ``full_memory_gb`` what the whole epoch's draw would need. A fast row
with less than a whole epoch's steps is scaled likewise. The samplers take turns within one process, on the same
training rows, and are compared round by round.

On a GPU ``floor_seconds`` is what an epoch would take if every byte that it cannot avoid moved at the device's own copy
speed (``copy_gb_per_second``, measured in the same process), and ``floor_share`` that over the epoch's seconds. A share
above 1 means that the caches held the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "speed.csv"
SWEEP = ROOT / "benchmarks" / "results" / "speed_sweep.csv"
SAMPLER = ROOT / "benchmarks" / "results" / "speed_sampler.csv"
DOCS = ROOT / "docs" / "speed.md"
README = ROOT / "README.md"


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        expid: the experiment.
        negatives: negatives per positive.
        rows: training rows that recbox gets; None leaves recbox out.
        backends: of the fast engine, with the steps that each is timed on (None: the whole epoch).
    """

    expid: str
    negatives: int
    rows: int | None
    backends: dict[str, int | None]


QUICK = {"numba": None, "torch": 100}
CASES = {
    "yelp-ccl-10": Case("MF_yelp_ccl", 10, 120_000, QUICK),
    "yelp-ccl-100": Case("MF_yelp_ccl", 100, 120_000, {**QUICK, "reference": 20}),
    "yelp-ccl-800": Case("MF_yelp_ccl", 800, 40_000, {"numba": None, "torch": 30}),
    "yelp-mml-100": Case("MF_yelp_mml", 100, 60_000, {"numba": None}),
    "yelp-mml-800": Case("MF_yelp_mml", 800, 40_000, {"numba": None}),
    "yelp-bsl-100": Case("MF_yelp_bsl", 100, 60_000, {"numba": None}),
    "yelp-bsl-800": Case("MF_yelp_bsl", 800, 40_000, {"numba": 600}),
    "gowalla-simplex-attention-100": Case("SimpleX_gowalla_mml", 100, 32_000, {"numba": 800}),
}


def subset(expid: str, rows: int) -> dict[str, str]:
    """Overrides that give recbox a share of the training rows, at least one of each user; the file is written once."""
    import numpy as np

    from mml_plugin.experiment.config import load_experiment

    source = Path(load_experiment(ROOT / "config", expid).params["train_data"])
    folder = Path("data/.speed") / f"{source.parent.name}-each-{rows}"
    if not (folder / "train.csv").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        order = np.random.default_rng(0).permutation(len(lines) - 1) + 1
        users = np.array([int(lines[i].split(",", 1)[0]) for i in order])
        first = np.unique(users, return_index=True)[1]
        rest = np.setdiff1d(np.arange(len(order)), first)
        chosen = np.sort(order[np.concatenate([first, rest[: max(0, rows - len(first))]])])
        (folder / "train.csv.part").write_text("".join([lines[0], *(lines[i] for i in chosen)]), encoding="utf-8")
        for name in ("test.csv", "item_corpus.csv"):
            (folder / name).write_bytes((source.parent / name).read_bytes())
        (folder / "train.csv.part").rename(folder / "train.csv")
    return {
        "train_data": str(folder / "train.csv"),
        "valid_data": str(folder / "test.csv"),
        "item_corpus": str(folder / "item_corpus.csv"),
    }


def recbox_worker(job: dict[str, Any]) -> dict[str, Any]:
    """One epoch of stock recbox on its share of the rows."""
    began = time.perf_counter()
    from mml_plugin.experiment.run import RunRequest, run
    from mml_plugin.hosts import recbox

    recbox.load()
    imported = time.perf_counter() - began
    changes = {**subset(job["expid"], job["rows"]), "epochs": 1, "verbose": 0, "num_negs": job["negatives"]}
    overrides = tuple(f"{key}={value}" for key, value in changes.items())
    folder = run(
        RunRequest(job["expid"], ROOT / "config", overrides=overrides, overwrite=True, runs_dir=Path("runs/speed"))
    )
    result = folder.read_result()
    total = whole_rows(job["expid"])
    scale = total / job["rows"]
    width = (1 + job["negatives"]) * 8
    return {
        "import_seconds": imported,
        "data_seconds": result["seconds"]["data"],  # most of it does not depend on the rows: the test file, the corpus
        "epoch_seconds": result["seconds"]["train"] * scale,
        "sampling_seconds": result["seconds"]["sampling"] * scale,
        "evaluation_seconds": result["seconds"]["evaluation"],
        "peak_memory_gb": result["peak_memory_bytes"] / 1e9,
        # recbox holds the old draw, the new negatives and their joint copy at once.
        "full_memory_gb": result["peak_memory_bytes"] / 1e9 + 3 * width * (total - job["rows"]) / 1e9,
        "scaled": job["rows"] < total,
        "rows": job["rows"],
        "backend": "",
    }


def whole_rows(expid: str) -> int:
    """Training rows of the experiment's data."""
    from mml_plugin.data.interactions import load
    from mml_plugin.experiment.config import load_experiment

    return len(load(Path(load_experiment(ROOT / "config", expid).params["train_data"]).parent).train_items)


def fast_worker(job: dict[str, Any]) -> dict[str, Any]:
    """A steady-state epoch of the fast engine, stage by stage, and one evaluation."""
    began = time.perf_counter()
    import torch

    from mml_plugin.hosts import recbox
    from mml_plugin.memory import PeakMemory

    recbox.load()
    if job["backend"] == "numba":
        import numba  # noqa: F401  # the backend would, and its seconds would be the data's
    imported = time.perf_counter() - began
    gpu = 0 if job["device"] == "cuda" else None
    watched = compiling() if job["backend"] == "numba" else contextlib.nullcontext()
    with watched as compiled, PeakMemory(interval=0.2, cuda_device=gpu) as memory:
        began = time.perf_counter()
        trainer = build(job)
        data = time.perf_counter() - began
        began = time.perf_counter()
        # A GPU's step is timed before it is captured; a CPU's as an epoch trains it.
        warming = trainer.steps(0) if gpu is None else (trainer.step(batch) for batch in trainer.batches(0))
        next(warming)
        synchronise(torch, job)
        first = time.perf_counter() - began
        for _ in range(min(50, trainer.batches_per_epoch - 2)):
            next(warming)
        warming.close()
        synchronise(torch, job)
        if gpu is not None:
            warm_gpu(trainer, torch)
        steps = min(job["steps"] or trainer.batches_per_epoch, trainer.batches_per_epoch)
        stages = timed_steps(trainer, steps, job, torch)
        began = time.perf_counter()
        trainer.evaluate(trainer.data.valid)
        synchronise(torch, job)
        evaluation = time.perf_counter() - began
    scale = trainer.batches_per_epoch / steps
    peak = memory.peak  # before the copies that measure the bandwidth
    floor = {} if gpu is None else bandwidth_floor(trainer, stages["epoch_seconds"] * scale, torch)
    return {
        **floor,
        "import_seconds": imported,
        **({} if compiled is None else {"compile_seconds": sum(compiled, 0.0)}),
        "data_seconds": data,
        "first_step_seconds": first,
        **{name: seconds * scale for name, seconds in stages.items()},
        "evaluation_seconds": evaluation,
        "peak_memory_gb": peak / 1e9,
        "full_memory_gb": peak / 1e9,
        "scaled": scale > 1,
        "rows": min(steps * trainer.settings.batch_size, len(trainer.data.users)),
        "backend": trainer.backend.name,
        "threads": torch.get_num_threads(),
    }


@contextlib.contextmanager
def compiling() -> Iterator[list[float]]:
    """The seconds of every compilation by numba, without those that are part of another."""
    from numba.core import event

    spent: list[float] = []
    with event.install_recorder("numba:compile") as recorder:
        yield spent
    depth, began = 0, 0.0
    for when, what in recorder.buffer:
        if what.is_start:
            began = when if depth == 0 else began
            depth += 1
        else:
            depth -= 1
            spent.extend([when - began] if depth == 0 else [])


def warm_gpu(trainer: Any, torch: Any) -> None:
    """Let a GPU's trainer capture its step and see a first evaluation, as any epoch but the first finds it."""
    for _ in trainer.steps(0):  # to the last batch: kernels are compiled for its size as well
        pass
    trainer.evaluate(trainer.data.valid)
    torch.cuda.synchronize()


def bandwidth_floor(trainer: Any, epoch_seconds: float, torch: Any) -> dict[str, Any]:
    """How near the epoch's time is to moving its bytes at the speed of a copy."""
    speed = copy_speed(torch, trainer.device)
    floor = bytes_per_step(trainer) * trainer.batches_per_epoch / speed
    return {
        "copy_gb_per_second": speed / 1e9,
        "floor_seconds": floor,
        "floor_share": floor / epoch_seconds,
        "captured": getattr(trainer._run, "captured", False),
    }


def bytes_per_step(trainer: Any) -> int:
    """What a step cannot avoid moving.

    Weights and both moments are read and written; index, scores and their gradient are written and read; the vectors of
    the batch's users and of its distinct items (at most all) are read, and the users' gradient is written and read.
    """
    batch, width = trainer.settings.batch_size, 1 + trainer.settings.num_negs
    states = trainer.step.states.values()
    dense = sum(6 * state.weight.numel() * state.weight.element_size() for state in states)
    users = trainer.model.user_table
    row = users.shape[1] * users.element_size()
    items = min(batch * width, len(trainer.data.item_ids))
    index = trainer.sampler.backend.index_dtype.itemsize
    return dense + 2 * batch * width * (index + 2 * users.element_size()) + (items + 3 * batch) * row


def copy_speed(torch: Any, device: Any, size: int = 1 << 29, repeats: int = 20) -> float:
    """Bytes read and written per second by a copy within the device's memory; the best of a few."""
    source, target = (torch.zeros(size // 4, device=device) for _ in range(2))
    best = 0.0
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = max(best, 2 * size / (time.perf_counter() - began))
    return best


def synchronise(torch: Any, job: dict[str, Any]) -> None:
    """Wait for the GPU, so that a clock says something."""
    if job["device"] == "cuda":
        torch.cuda.synchronize()


def build(job: dict[str, Any]) -> Any:
    """The trainer of an experiment, as the run makes it, without a run folder."""
    from types import SimpleNamespace

    from mml_plugin.data import vocabulary
    from mml_plugin.devices import resolve_device
    from mml_plugin.engine import backends
    from mml_plugin.engine.trainer import Trainer
    from mml_plugin.experiment import run_fast
    from mml_plugin.experiment.config import load_experiment
    from mml_plugin.experiment.dataset import load_data
    from mml_plugin.registry import build_loss, margins_of

    experiment = load_experiment(
        ROOT / "config", job["expid"], [f"num_negs={job['negatives']}", "verbose=0", *job.get("set", [])]
    )
    params = experiment.params
    device = resolve_device(0 if job["device"] == "cuda" else -1)
    data = load_data(params, "paper", 0.1)
    words = vocabulary.build(data.training, params)
    model = run_fast.build_model(params, words, data.interactions.num_items, device)
    context: Any = SimpleNamespace(
        params=params,
        request=SimpleNamespace(max_batches=None),
        thresholds=margins_of(params["loss"], params),
    )
    loss = build_loss(experiment.loss, **experiment.loss_params).to(device)
    return Trainer(
        model.declare(), model, loss, run_fast.training_data(data, words, device),
        run_fast.settings(context, model), backends.select(job["backend"], device),
    )  # fmt: skip


def timed_steps(trainer: Any, steps: int, job: dict[str, Any], torch: Any) -> dict[str, float]:
    """Seconds of ``steps`` steps; on a CPU also of sampling and of the optimiser."""
    spent = {"sampling_seconds": 0.0, "optimiser_seconds": 0.0}

    def timing(name: str, function: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments)
            spent[name] += time.perf_counter() - began
            return result

        return timed

    if job["device"] == "cpu":
        trainer.batch = timing("sampling_seconds", trainer.batch)
        # Rows that step late do so when they are read, or when all are settled.
        for name in ("step", "read", "settle"):
            if hasattr(trainer.optimiser, name):
                setattr(trainer.optimiser, name, timing("optimiser_seconds", getattr(trainer.optimiser, name)))
    began = time.perf_counter()
    trainer.settings.__dict__["max_batches"] = steps
    for _ in trainer.steps(1):
        pass
    synchronise(torch, job)
    total = time.perf_counter() - began
    trainer.settings.__dict__["max_batches"] = None
    if job["device"] != "cpu":
        return {"epoch_seconds": total}
    rest = total - sum(spent.values())
    return {"epoch_seconds": total, **spent, "forward_backward_seconds": rest}


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(job)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if "cache" in job:
        environment["NUMBA_CACHE_DIR"] = job["cache"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(name: str, case: Case, device: str, rounds: int, only: set[str]) -> list[dict[str, Any]]:
    """The rows of a case: medians over rounds in which the engines took turns."""
    jobs: dict[str, dict[str, Any]] = {}
    base = {"expid": case.expid, "negatives": case.negatives, "device": device}
    if case.rows and device == "cpu" and "recbox" in only:
        jobs["recbox"] = {**base, "engine": "recbox", "rows": case.rows}
    backends = case.backends if device == "cpu" else {"triton": None, "torch": None}
    for backend, steps in backends.items():
        if backend in only:
            jobs[backend] = {**base, "engine": "fast", "backend": backend, "steps": steps}
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in jobs}
    cold: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as cache:
        if "numba" in jobs:
            jobs["numba"]["cache"] = cache
            # A whole round: some kernels are met only once most negatives are easy.
            first = measure(jobs["numba"])
            cold["numba"] = {
                "compile_seconds": first["compile_seconds"],
                "cold_peak_memory_gb": first["peak_memory_gb"],
            }
            print(f"  {name} numba: compiled in {first['compile_seconds']:.1f} s", flush=True)
        for turn in range(rounds):
            for key, job in jobs.items():
                found[key].append(measure(job))
                seconds = found[key][-1]["epoch_seconds"]
                print(f"  {name} {turn + 1}/{rounds} {key}: {seconds:.1f} s per epoch", flush=True)
    rows = []
    for key, results in found.items():
        row = {"case": name, "engine": jobs[key]["engine"], **base, **median(results), **cold.get(key, {})}
        row["rounds"] = rounds
        row["epoch_seconds_all"] = " ".join(f"{r['epoch_seconds']:.2f}" for r in results)
        if "recbox" in found and key != "recbox":
            pairs = zip(found["recbox"], results)
            row["times_faster"] = statistics.median(a["epoch_seconds"] / b["epoch_seconds"] for a, b in pairs)
        rows.append({**row, **provenance()})
    return rows


def usable(device: str, asked: set[str]) -> set[str]:
    """Those of the engines asked for that can run on the device; says why others of its own cannot.

    Raises:
        UserError: when the device is not there.
    """
    from mml_plugin.devices import resolve_device
    from mml_plugin.engine import backends

    there = resolve_device(0 if device == "cuda" else -1)
    for info in backends.KNOWN:
        obstacle = info.obstacle(there) if device in info.devices and info.name in asked else ""
        if obstacle:
            print(f"  {info.name} is left out: {obstacle}", flush=True)
            asked = asked - {info.name}
    return asked


def median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of numbers, the last of everything else."""
    merged = dict(results[-1])
    for key, value in merged.items():
        if isinstance(value, float):
            merged[key] = statistics.median(result[key] for result in results)
    return merged


def provenance() -> dict[str, Any]:
    """Where a row comes from."""
    from mml_plugin.experiment.environment import environment

    facts = environment()
    return {
        "processor": facts["machine"]["processor"],
        "cores": facts["machine"]["cores"],
        "gpu": " ".join(facts["machine"].get("gpus", [])),
        "torch": facts["versions"]["torch"],
        "numba": facts["versions"].get("numba", ""),
        "commit": facts["commit"][:12],
        "date": datetime.date.today().isoformat(),
    }


COLUMNS = [
    "case", "engine", "backend", "expid", "negatives", "device", "epoch_seconds", "times_faster", "sampling_seconds",
    "forward_backward_seconds", "optimiser_seconds", "evaluation_seconds", "peak_memory_gb", "full_memory_gb",
    "floor_share", "floor_seconds", "copy_gb_per_second", "captured",
    "scaled", "rows", "import_seconds", "compile_seconds", "cold_peak_memory_gb", "data_seconds", "first_step_seconds",
    "threads", "rounds", "epoch_seconds_all",
    "processor", "cores", "gpu", "torch", "numba", "commit", "date",
]  # fmt: skip


# A row stands for one machine: another one's stays beside it.
MACHINE = ("device", "processor", "gpu")


def write(path: Path, rows: list[dict[str, Any]], columns: list[str], key: tuple[str, ...]) -> None:
    """Put rows into a CSV in place of those with the same key."""
    shown = [{k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in rows]
    old = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    kept = [r for r in old if not any(all(r[k] == n.get(k, "") for k in key) for n in shown)]
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*kept, *shown])
    part.rename(path)


SIZES = [(10_000, 100_000), (10_000, 1_000_000), (100_000, 1_000_000), (100_000, 10_000_000), (1_000_000, 10_000_000)]
SWEEP_COLUMNS = [
    "items", "interactions", "users", "backend", "device", "negatives", "step_ms", "epoch_seconds",
    "ranking_ms_per_user", "peak_memory_gb", "processor", "cores", "gpu", "torch", "numba", "commit", "date",
]  # fmt: skip


def sweep_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step and of ranking a user on a synthetic set of a given size."""
    import numpy as np
    import torch
    from torch import nn

    from mml_plugin import build_loss
    from mml_plugin.devices import resolve_device
    from mml_plugin.engine import backends
    from mml_plugin.engine.declaration import Declaration
    from mml_plugin.engine.ranking import ItemLists
    from mml_plugin.engine.trainer import Settings, Trainer, TrainingData
    from mml_plugin.memory import PeakMemory

    items, interactions = job["items"], job["interactions"]
    users = max(interactions // 40, 1000)
    rng = np.random.default_rng(0)
    popularity = 1 / (np.arange(items) + 10.0)
    chosen = rng.choice(items, interactions, p=popularity / popularity.sum())
    owner = np.sort(rng.integers(0, users, interactions))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=users))])
    device = resolve_device(0 if job["device"] == "cuda" else -1)

    class Tables(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users = nn.Parameter(torch.randn(users, 64, device=device) * 0.1)
            self.items = nn.Parameter(torch.randn(items, 64, device=device) * 0.1)

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)

    with PeakMemory(interval=0.2, cuda_device=0 if job["device"] == "cuda" else None) as memory:
        tables = Tables()
        train = ItemLists.of(indptr, chosen, device)
        first = np.minimum(np.arange(users + 1), 1000)
        valid = ItemLists.of(first, chosen[:1000], device)
        data = TrainingData(
            tensor(owner), tensor(chosen), tensor(np.arange(users)), tensor(np.arange(items)), train, valid
        )
        settings = Settings(
            1, 512, job["negatives"], 1e-4, 1, {"Recall(k=20)": ("Recall", 20)}, {"Recall(k=20)": 1.0}, progress=False
        )  # fmt: skip
        loss = build_loss("CCL", margin=0.9, negative_weight=150.0)
        model = Declaration(tables.users, tables.items, "cosine", 0.1)
        trainer = Trainer(model, tables, loss, data, settings, backends.select(job["backend"], device))
        steps = min(200, trainer.batches_per_epoch - 21)
        trainer.settings.__dict__["max_batches"] = 20
        for _ in trainer.steps(0):
            pass
        synchronise(torch, job)
        trainer.settings.__dict__["max_batches"] = steps
        began = time.perf_counter()
        for _ in trainer.steps(1):
            pass
        synchronise(torch, job)
        step = (time.perf_counter() - began) / steps
        trainer.settings.__dict__["max_batches"] = None
        began = time.perf_counter()
        trainer.evaluate(valid)
        ranking = time.perf_counter() - began
    return {
        "users": users,
        "step_ms": step * 1e3,
        "epoch_seconds": step * trainer.batches_per_epoch,
        "ranking_ms_per_user": ranking,  # 1000 users
        "peak_memory_gb": memory.peak / 1e9,
        "backend": trainer.backend.name,
    }


def sweep(device: str) -> None:
    """All sizes."""
    for items, interactions in SIZES:
        job = {"engine": "sweep", "items": items, "interactions": interactions, "device": device, "negatives": 100,
               "backend": "auto"}  # fmt: skip
        row = {**job, **measure(job), **provenance()}
        print(f"  {items} items, {interactions} interactions: {row['step_ms']:.2f} ms per step", flush=True)
        write(SWEEP, [row], SWEEP_COLUMNS, ("items", "interactions", "backend", *MACHINE))


SAMPLER_CASES = (("MF_yelp_ccl", 100), ("MF_yelp_ccl", 800), ("MF_gowalla_ccl", 100))
SAMPLERS = {"uniform": [], "popularity": ["popularity_alpha=0.75"], "excluding": ["ignore_pos_items=True"]}
SAMPLER_COLUMNS = [
    "expid", "negatives", "kind", "backend", "device", "ns_per_draw", "times_uniform", "step_ms", "times_uniform_step",
    "draws", "rounds", "ns_per_draw_all", "step_ms_all", "threads",
    "processor", "cores", "gpu", "torch", "numba", "commit", "date",
]  # fmt: skip


def sampler_worker(job: dict[str, Any]) -> dict[str, Any]:
    """Nanoseconds per draw and milliseconds per step of each kind of sampler, which take turns on the same rows."""
    import torch

    trainers = {kind: build({**job, "set": changes}) for kind, changes in SAMPLERS.items()}
    first = trainers["uniform"]
    batches = min(job["batches"], first.batches_per_epoch)
    draws = min(first.settings.batch_size * batches, len(first.data.users)) * job["negatives"]

    def drawing(trainer: Any, order: Any, epoch: int) -> float:
        synchronise(torch, job)
        began = time.perf_counter()
        for rows in order:
            positive = trainer.data.item_ids[trainer.data.items[rows]]
            trainer.sampler.index(epoch, rows, trainer.data.users[rows], positive, job["negatives"])
        synchronise(torch, job)
        return time.perf_counter() - began

    def training(trainer: Any, epoch: int) -> float:
        trainer.settings.__dict__["max_batches"] = batches
        began = time.perf_counter()
        for _ in trainer.steps(epoch):
            pass
        synchronise(torch, job)
        return time.perf_counter() - began

    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in trainers}
    for epoch in range(1 + job["rounds"]):
        order = first.backend.shuffled(len(first.data.users), 1, epoch, first.device)
        order = order.split(first.settings.batch_size)[:batches]
        for kind, trainer in trainers.items():
            drawn = drawing(trainer, order, epoch) / draws * 1e9
            found[kind].append((drawn, training(trainer, epoch) / batches * 1e3))
    rows = []
    for kind, measured in found.items():
        # The first round compiles and warms up.
        per_draw, per_step = (list(values) for values in zip(*measured[1:]))
        usual = list(zip(*found["uniform"][1:]))
        rows.append({
            "kind": kind, "ns_per_draw": statistics.median(per_draw), "step_ms": statistics.median(per_step),
            "times_uniform": statistics.median(own / other for own, other in zip(per_draw, usual[0])),
            "times_uniform_step": statistics.median(own / other for own, other in zip(per_step, usual[1])),
            "ns_per_draw_all": " ".join(f"{value:.3f}" for value in per_draw),
            "step_ms_all": " ".join(f"{value:.3f}" for value in per_step),
        })  # fmt: skip
    return {"draws": draws, "threads": torch.get_num_threads(), "backend": first.backend.name, "rows": rows}


def sampler(device: str, rounds: int, cases: Sequence[tuple[str, int]] = SAMPLER_CASES, batches: int = 200) -> None:
    """All samplers on all cases."""
    for expid, negatives in cases:
        job = {"engine": "sampler", "expid": expid, "negatives": negatives, "device": device, "backend": "auto",
               "rounds": rounds, "batches": batches}  # fmt: skip
        measured = measure(job)
        rows = [{**job, **measured, **row, **provenance()} for row in measured["rows"]]
        for row in rows:
            print(
                f"  {expid} {negatives} {row['kind']}: {row['ns_per_draw']:.2f} ns per draw, "
                f"{row['times_uniform']:.2f}x uniform; {row['step_ms']:.2f} ms per step, "
                f"{row['times_uniform_step']:.2f}x uniform", flush=True,
            )  # fmt: skip
        write(SAMPLER, rows, SAMPLER_COLUMNS, ("expid", "negatives", "kind", "backend", *MACHINE))


WORKERS = {"recbox": recbox_worker, "fast": fast_worker, "sweep": sweep_worker, "sampler": sampler_worker}


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def table() -> None:
    """Rewrite the tables of docs/speed.md and the README from the rows there are."""
    from mml_plugin.report.table import markdown_table

    in_order, parts = read(RESULTS), {}
    rows = sorted(in_order, key=lambda r: (list(CASES).index(r["case"]), machine(r)))
    header = ["case", "machine", "engine", "epoch", "times faster", "sampling", "forward, backward", "optimiser",
              "evaluation", "import", "compilation, once", "data", "peak memory", "bandwidth floor",
              "trained rows"]  # fmt: skip
    cells = []
    for r in rows:
        memory = f"{float(r['peak_memory_gb']):.2f} GB"
        if r["engine"] == "recbox" and r["scaled"] == "True":
            memory += f" (whole: {float(r['full_memory_gb']):.1f} GB)"
        cells.append([
            r["case"], machine(r), r["engine"] + (f" ({r['backend']}, {r['device']})" if r["backend"] else ""),
            f"{float(r['epoch_seconds']):.1f} s" + (" (scaled)" if r["scaled"] == "True" else ""),
            f"{float(r['times_faster']):.1f}x" if r["times_faster"] else "",
            *(f"{float(r[k]):.1f} s" if r.get(k) else "" for k in
              ("sampling_seconds", "forward_backward_seconds", "optimiser_seconds", "evaluation_seconds",
               "import_seconds", "compile_seconds")),
            # A share of the rows is encoded, the rest of recbox's seconds are what they are: no figure for the whole.
            f"{float(r['data_seconds']):.1f} s" if r["engine"] == "fast" else "",
            memory, f"{float(r['floor_share']):.0%}" if r.get("floor_share") else "", r["rows"],
        ])  # fmt: skip
    if rows:
        parts["cases"] = markdown_table(header, cells, left=3)
    if grown := read(SWEEP):
        header = ["items", "interactions", "users", "device", "step", "epoch", "ranking per user", "peak memory",
                  "machine"]  # fmt: skip
        cells = [[r["items"], r["interactions"], r["users"], f"{r['backend']}, {r['device']}", f"{r['step_ms']} ms",
                  f"{r['epoch_seconds']} s", f"{r['ranking_ms_per_user']} ms", f"{r['peak_memory_gb']} GB", machine(r)]
                 for r in sorted(grown, key=lambda r: (int(r["items"]), int(r["interactions"])))]  # fmt: skip
        parts["sweep"] = markdown_table(header, cells, left=0)
    if drawn := read(SAMPLER):
        header = ["data", "negatives", "draws", "device", "threads", "per draw", "times uniform", "step",
                  "times uniform", "machine"]  # fmt: skip
        cells = [[r["expid"].split("_")[1], r["negatives"], r["kind"], f"{r['backend']}, {r['device']}", r["threads"],
                  f"{float(r['ns_per_draw']):.1f} ns", f"{float(r['times_uniform']):.2f}x",
                  f"{float(r['step_ms']):.2f} ms", f"{float(r['times_uniform_step']):.2f}x", machine(r)]
                 for r in drawn]  # fmt: skip
        parts["sampler"] = markdown_table(header, cells, left=4)
    fill(DOCS, parts)
    if rows:
        fill(README, {"speed": markdown_table(*short(in_order), left=3)})


def machine(row: dict[str, str]) -> str:
    """What a row was measured on, and when."""
    return f"{row['gpu'] or row['processor']}, {row['date']}"


def short(rows: list[dict[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the README's table: recbox beside the fast engine's own pick on a CPU, each case's newest.

    Args:
        rows: in the file's order, in which a day's later rows stand behind its earlier ones.
    """
    cells = []
    pairs_of_rows = [
        (stock, fast) for stock in rows for fast in rows
        if all(fast[k] == stock[k] for k in ("case", "commit", *MACHINE))
        and (fast["backend"], stock["engine"]) == ("numba", "recbox")
    ]  # fmt: skip
    pairs_of_rows.sort(key=lambda pair: pair[1]["date"])
    newest = {stock["case"]: (stock, fast) for stock, fast in pairs_of_rows}
    # A machine's earlier rows are of earlier commits.
    on_machine = {(fast["case"], *(fast[k] for k in MACHINE)): float(fast["times_faster"]) for _, fast in pairs_of_rows}
    for case, (stock, fast) in newest.items():
        factors = sorted(factor for key, factor in on_machine.items() if key[0] == case)
        every = " to ".join(dict.fromkeys(f"{factor:.0f}x" for factor in (factors[0], factors[-1])))
        pairs = [(f"{float(stock[k]):.1f}", f"{float(fast[k]):.1f}")
                 for k in ("epoch_seconds", "evaluation_seconds")]  # fmt: skip
        memory = f"{float(stock['full_memory_gb']):.1f} GB, {float(fast['peak_memory_gb']):.2f} GB"
        cells.append([
            stock["expid"], stock["negatives"], machine(fast), *(f"{a} s, {b} s" for a, b in pairs),
            f"{float(fast['times_faster']):.0f}x", every if len(factors) > 1 else "–", memory,
        ])  # fmt: skip
    cells.sort(key=lambda cell: (cell[0], int(cell[1])))
    header = ["experiment", "negatives", "machine", "epoch: recbox, fast", "evaluation", "faster",
              "on every machine", "peak memory"]  # fmt: skip
    return header, cells


def fill(path: Path, parts: dict[str, str]) -> None:
    """Put text between the marks ``<!-- name:begin -->`` and ``<!-- name:end -->`` of a file."""
    text = path.read_text(encoding="utf-8")
    for name, made in parts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        text = text[: text.index(begin) + len(begin)] + "\n" + made + "\n" + text[text.index(end) :]
    path.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES))
    parser.add_argument("--engine", action="append", help="recbox, numba, torch, reference or triton; all by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--sampler", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        print(json.dumps(WORKERS[job["engine"]](job)))
        return
    from mml_plugin.errors import UserError

    try:
        engines = set(options.engine or ["recbox", "numba", "torch", "reference", "triton"])
        only = engines if options.table else usable(options.device, engines)
    except UserError as error:
        parser.error(str(error))
    if options.sweep:
        sweep(options.device)
    elif options.sampler:
        sampler(options.device, options.rounds)
    elif not options.table:
        for name in options.case or CASES:
            rows = run_case(name, CASES[name], options.device, options.rounds, only)
            write(RESULTS, rows, COLUMNS, ("case", "engine", "backend", *MACHINE))
    if DOCS.exists():
        table()


if __name__ == "__main__":
    main()
