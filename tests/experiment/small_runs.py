"""Runs of the fast engine that take a second each, and a look at their trainers."""

from __future__ import annotations

from pathlib import Path

from mml_plugin.engine.trainer import Trainer
from mml_plugin.experiment import run_fast
from mml_plugin.experiment.run import RunRequest, run

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
SMALL = ("epochs=3", "verbose=0", "embedding_dim=8", "num_negs=10", "batch_size=64")


def go(expid="MF_tiny_mml", runs="runs", more=(), **keys):
    return run(RunRequest(expid, CONFIG, engine="fast", overrides=(*SMALL, *more), runs_dir=Path(runs), **keys))


def watched(monkeypatch):
    """Every trainer that runs build from now on."""
    made = []

    class Watched(Trainer):
        def __init__(self, *args, **keys):
            super().__init__(*args, **keys)
            made.append(self)

    monkeypatch.setattr(run_fast, "Trainer", Watched)
    return made
