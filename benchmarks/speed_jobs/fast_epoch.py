"""Seconds and memory of an epoch of the fast engine, stage by stage."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from speed_jobs.bandwidth import bandwidth_floor
from speed_jobs.trainer import build, epochs_of, seconds_of_epoch, synchronise

LATER = 5  # the epoch that tells what a step costs once the model knows something, and more negatives are hard


def fast_epoch(job: dict[str, Any]) -> dict[str, Any]:
    """A steady-state epoch of the fast engine, stage by stage, and one evaluation; with ``later`` a fifth epoch too."""
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
        warming = trainer.steps(0) if gpu is None else (trainer.step(batch) for batch in trainer.batches.of_epoch(0))
        next(warming)
        synchronise(job)
        first = time.perf_counter() - began
        for _ in range(min(50, trainer.batches.per_epoch - 2)):
            next(warming)
        warming.close()
        synchronise(job)
        if gpu is not None:
            _warm_gpu(trainer)
        steps = min(job["steps"] or trainer.batches.per_epoch, trainer.batches.per_epoch)
        stages = _timed_steps(trainer, steps, job)
        began = time.perf_counter()
        trainer.evaluator.metrics(trainer.data.valid)
        synchronise(job)
        evaluation = time.perf_counter() - began
    scale = trainer.batches.per_epoch / steps
    peak = memory.peak  # before the copies that measure the bandwidth, and without the epochs that not every row has
    later = _later_epoch(trainer, job) if job.get("later") else {}
    floor = {} if gpu is None else bandwidth_floor(trainer, stages["epoch_seconds"] * scale)
    return {
        **floor,
        "import_seconds": imported,
        **({} if compiled is None else {"compile_seconds": sum(compiled, 0.0)}),
        "data_seconds": data,
        "first_step_seconds": first,
        **{name: seconds * scale for name, seconds in stages.items()},
        **later,
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


def _later_epoch(trainer: Any, job: dict[str, Any]) -> dict[str, float]:
    """Seconds of the whole epoch ``LATER``; one is trained, on a GPU two, since one warmed it up."""
    trained = 1 if job["device"] == "cpu" else 2
    seconds = [seconds_of_epoch(trainer, epoch, job) for epoch in range(2, 2 + LATER - trained)]
    return {"fifth_epoch_seconds": seconds[-1]}


def _warm_gpu(trainer: Any) -> None:
    """Let a GPU's trainer capture its step and see a first evaluation, as any epoch but the first finds it."""
    import torch

    for _ in trainer.steps(0):  # to the last batch: kernels are compiled for its size as well
        pass
    trainer.evaluator.metrics(trainer.data.valid)
    torch.cuda.synchronize()


def _timed_steps(trainer: Any, steps: int, job: dict[str, Any]) -> dict[str, float]:
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
        trainer.batches.of_rows = timing("sampling_seconds", trainer.batches.of_rows)
        # Rows that step late do so when they are read, or when all are settled.
        for name in ("step", "read", "settle"):
            if hasattr(trainer.optimiser, name):
                setattr(trainer.optimiser, name, timing("optimiser_seconds", getattr(trainer.optimiser, name)))
    with epochs_of(trainer, steps):
        total = seconds_of_epoch(trainer, 1, job)
    if job["device"] != "cpu":
        return {"epoch_seconds": total}
    return {"epoch_seconds": total, **spent, "forward_backward_seconds": total - sum(spent.values())}
