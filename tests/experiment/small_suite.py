"""A suite of runs that take a second each: what the tests of rows are fed with."""

from __future__ import annotations

from pathlib import Path

from mml_plugin.experiment.cells import Runner
from mml_plugin.experiment.collect import Collector
from mml_plugin.experiment.suite import make_cells, make_suite

CONFIG = Path(__file__).resolve().parents[2] / "config"
SMALL = {"epochs": 2, "verbose": 0, "embedding_dim": 8, "num_negs": 10, "batch_size": 64}
WORDS = tuple(f"{key}={value}" for key, value in SMALL.items())


def cells_of(*lines, **keys):
    suite = make_suite({"title": "T", "experiments": list(lines), "set": SMALL, "seeds": [1, 2], **keys}, "x")
    return make_cells(suite, CONFIG, Path("runs"))


def collected(cells, name):
    collector = Collector(Path("results") / name, cells)
    Runner(Path("logs"), isolated=False, say=lambda t: None, on_outcome=lambda o: collector.update([o])).run(cells)
    return collector
