"""The trainer of an experiment, without a run folder, and its clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from speed_jobs.rows import ROOT


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
        run_fast.settings(context, model, loss), backends.select(job["backend"], device),
    )  # fmt: skip


def synchronise(job: dict[str, Any]) -> None:
    """Wait for the GPU, so that a clock says something."""
    import torch

    if job["device"] == "cuda":
        torch.cuda.synchronize()


@contextmanager
def epochs_of(trainer: Any, steps: int) -> Iterator[None]:
    """Within the block an epoch ends after so many steps."""
    whole = trainer.batches.max_batches
    trainer.batches.max_batches = steps
    try:
        yield
    finally:
        trainer.batches.max_batches = whole


def seconds_of_epoch(trainer: Any, epoch: int, job: dict[str, Any]) -> float:
    """Train an epoch, to the end of what it queues on the device."""
    synchronise(job)
    began = time.perf_counter()
    for _ in trainer.steps(epoch):
        pass
    synchronise(job)
    return time.perf_counter() - began
