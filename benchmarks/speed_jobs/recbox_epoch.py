"""Seconds and memory of an epoch of stock recbox, on a share of the training rows."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from speed_jobs.rows import ROOT


def _subset(expid: str, rows: int) -> dict[str, str]:
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


def recbox_epoch(job: dict[str, Any]) -> dict[str, Any]:
    """One epoch of stock recbox on its share of the rows."""
    began = time.perf_counter()
    from mml_plugin.experiment.run import RunRequest, run
    from mml_plugin.hosts import recbox

    recbox.load()
    imported = time.perf_counter() - began
    changes = {**_subset(job["expid"], job["rows"]), "epochs": 1, "verbose": 0, "num_negs": job["negatives"]}
    overrides = tuple(f"{key}={value}" for key, value in changes.items())
    request = RunRequest(
        job["expid"], ROOT / "config", overrides=overrides, overwrite=True, runs_dir=Path("runs/speed")
    )
    with _optimiser_timed() as optimiser:
        result = run(request).read_result()
    seconds = result["seconds"]
    total = _whole_rows(job["expid"])
    scale = total / job["rows"]
    width = (1 + job["negatives"]) * 8
    return {
        "import_seconds": imported,
        "data_seconds": seconds["data"],  # most of it does not depend on the rows: the test file, the corpus
        "epoch_seconds": seconds["train"] * scale,
        "sampling_seconds": seconds["sampling"] * scale,
        "optimiser_seconds": sum(optimiser) * scale,
        # What is left: its loading of batches is in it.
        "forward_backward_seconds": (seconds["train"] - seconds["sampling"] - sum(optimiser)) * scale,
        "evaluation_seconds": seconds["evaluation"],
        "peak_memory_gb": result["peak_memory_bytes"] / 1e9,
        # recbox holds the old draw, the new negatives and their joint copy at once.
        "full_memory_gb": result["peak_memory_bytes"] / 1e9 + 3 * width * (total - job["rows"]) / 1e9,
        "scaled": job["rows"] < total,
        "rows": job["rows"],
        "backend": "",
        "threads": result["threads"],
    }


@contextmanager
def _optimiser_timed() -> Iterator[list[float]]:
    """The seconds of every clipping and every step of Adam within the block."""
    import torch

    spent: list[float] = []

    def timing(function: Any) -> Any:
        @functools.wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            result = function(*arguments, **named)
            spent.append(time.perf_counter() - began)
            return result

        return timed

    # recbox calls both by these names; an optimizer that is made later wraps the step once more.
    owners = ((torch.optim.Adam, "step"), (torch.nn.utils, "clip_grad_norm_"))
    originals = [getattr(owner, name) for owner, name in owners]
    for (owner, name), original in zip(owners, originals):
        setattr(owner, name, timing(original))
    try:
        yield spent
    finally:
        for (owner, name), original in zip(owners, originals):
            setattr(owner, name, original)


def _whole_rows(expid: str) -> int:
    """Training rows of the experiment's data."""
    from mml_plugin.data.interactions import load
    from mml_plugin.experiment.config import load_experiment

    return len(load(Path(load_experiment(ROOT / "config", expid).params["train_data"]).parent).train_items)
