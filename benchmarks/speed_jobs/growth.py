"""How a step and a ranking grow with the catalogue and the interactions, on made-up sets."""

from __future__ import annotations

import time
from typing import Any

from speed_jobs.trainer import epochs_of, seconds_of_epoch, synchronise

SIZES = [(10_000, 100_000), (10_000, 1_000_000), (100_000, 1_000_000), (100_000, 10_000_000), (1_000_000, 10_000_000)]
RANKED = 1000  # users


def growth(job: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of a step and of ranking a user on a made-up set of a given size."""
    from mml_plugin.devices import resolve_device
    from mml_plugin.memory import PeakMemory

    device = resolve_device(0 if job["device"] == "cuda" else -1)
    made_up = _interactions(job)  # what that takes is no part of a training's memory
    with PeakMemory(interval=0.2, cuda_device=0 if job["device"] == "cuda" else None) as memory:
        trainer = _trainer(job, made_up, device)
        steps = min(200, trainer.batches.per_epoch - 21)
        with epochs_of(trainer, 20):  # compiles and warms up
            seconds_of_epoch(trainer, 0, job)
        with epochs_of(trainer, steps):
            step = seconds_of_epoch(trainer, 1, job) / steps
        began = time.perf_counter()
        trainer.evaluator.metrics(trainer.data.valid)
        synchronise(job)
        ranking = time.perf_counter() - began
    return {
        "users": _users(job),
        "step_ms": step * 1e3,
        "epoch_seconds": step * trainer.batches.per_epoch,
        "ranking_ms_per_user": ranking * 1e3 / RANKED,
        "peak_memory_gb": memory.peak / 1e9,
        "backend": trainer.backend.name,
    }


def _users(job: dict[str, Any]) -> int:
    return max(job["interactions"] // 40, RANKED)


def _trainer(job: dict[str, Any], made_up: tuple[Any, Any], device: Any) -> Any:
    """MF with CCL on a set of the job's size."""
    import torch

    from mml_plugin import build_loss
    from mml_plugin.engine import backends
    from mml_plugin.engine.declaration import Declaration
    from mml_plugin.engine.settings import Settings
    from mml_plugin.engine.trainer import Trainer

    tables = torch.nn.ParameterList(
        torch.nn.Parameter(torch.randn(rows, 64, device=device) * 0.1) for rows in (_users(job), job["items"])
    )
    settings = Settings(
        1, 512, job["negatives"], 1e-4, 1, {"Recall(k=20)": ("Recall", 20)}, {"Recall(k=20)": 1.0}, progress=False
    )  # fmt: skip
    loss = build_loss("CCL", margin=0.9, negative_weight=150.0)
    model = Declaration(tables[0], tables[1], "cosine", 0.1)
    return Trainer(model, tables, loss, _data(job, *made_up, device), settings, backends.select(job["backend"], device))


def _interactions(job: dict[str, Any]) -> tuple[Any, Any]:
    """Users, ascending, and items as skewed as real ones."""
    import numpy as np

    items, interactions = job["items"], job["interactions"]
    rng = np.random.default_rng(0)
    popularity = 1 / (np.arange(items) + 10.0)
    chosen = rng.choice(items, interactions, p=popularity / popularity.sum())
    return np.sort(rng.integers(0, _users(job), interactions)), chosen


def _data(job: dict[str, Any], owner: Any, chosen: Any, device: Any) -> Any:
    """The interactions on the device; each of the first users has one item to be ranked."""
    import numpy as np
    import torch

    from mml_plugin.engine.ranking import ItemLists
    from mml_plugin.engine.training_data import TrainingData

    def tensor(array: Any) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array, np.int64)).to(device)

    items, users = job["items"], _users(job)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=users))])
    train = ItemLists.of(indptr, chosen, device)
    valid = ItemLists.of(np.minimum(np.arange(users + 1), RANKED), chosen[:RANKED], device)
    return TrainingData(tensor(owner), tensor(chosen), tensor(np.arange(users)), tensor(np.arange(items)), train, valid)
