"""What popularity and exclusion add to a draw and to a step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import permutations
from statistics import median
from typing import Any

from speed_jobs.trainer import build, epochs_of, seconds_of_epoch, synchronise

SAMPLERS = {"uniform": [], "popularity": ["popularity_alpha=0.75"], "excluding": ["ignore_pos_items=True"]}
Turns = list[tuple[float, float]]


def samplers(job: dict[str, Any]) -> dict[str, Any]:
    """Nanoseconds per draw and milliseconds per step of each kind of sampler, which take turns on the same rows.

    On a CPU one trainer is given each sampler in turn: tables of their own would differ in what memory they were given,
    by more than samplers do. A GPU's step is captured with its draws, so there each has its trainer.
    """
    import torch

    own = {kind: build({**job, "set": changes}) for kind, changes in SAMPLERS.items()}
    first, drawn_by = own["uniform"], {kind: trainer.batches.sampler for kind, trainer in own.items()}
    trainers = own if job["device"] == "cuda" else dict.fromkeys(own, first)
    batches = min(job["batches"], first.batches.per_epoch)
    draws = min(first.settings.batch_size * batches, len(first.data.users)) * job["negatives"]
    found: dict[str, Turns] = {kind: [] for kind in trainers}
    for epoch in range(1 + job["rounds"]):
        order = first.backend.shuffled(len(first.data.users), 1, epoch, first.device)
        order = order.split(first.settings.batch_size)[:batches]
        for kind in in_turn(tuple(trainers), epoch):
            trainer = trainers[kind]
            trainer.batches.sampler = drawn_by[kind]
            per_draw = _drawing(trainer, order, epoch, job) / draws * 1e9
            with epochs_of(trainer, batches):
                found[kind].append((per_draw, seconds_of_epoch(trainer, epoch, job) / batches * 1e3))
    # The first round compiles and warms up.
    rows = [_row(kind, turns[1:], found["uniform"][1:]) for kind, turns in found.items()]
    return {"draws": draws, "threads": torch.get_num_threads(), "backend": first.backend.name, "rows": rows}


def in_turn(kinds: Sequence[str], number: int) -> Sequence[str]:
    """The kinds in a round's order: all orders in turn, since a place, or what went before, may be favoured."""
    orders = list(permutations(kinds))
    return orders[number % len(orders)]


def _drawing(trainer: Any, order: Any, epoch: int, job: dict[str, Any]) -> float:
    """Seconds of drawing an epoch's negatives."""
    synchronise(job)
    began = time.perf_counter()
    for rows in order:
        positive = trainer.data.item_ids[trainer.data.items[rows]]
        trainer.batches.sampler.index(epoch, rows, trainer.data.users[rows], positive, job["negatives"])
    synchronise(job)
    return time.perf_counter() - began


def _row(kind: str, own: Turns, uniform: Turns) -> dict[str, Any]:
    """Medians over the rounds, and of the ratios to the uniform sampler round by round."""
    (draw, step), (usual_draw, usual_step) = (list(zip(*turns)) for turns in (own, uniform))
    return {
        "kind": kind,
        "ns_per_draw": median(draw),
        "step_ms": median(step),
        "times_uniform": median(a / b for a, b in zip(draw, usual_draw)),
        "times_uniform_step": median(a / b for a, b in zip(step, usual_step)),
        "ns_per_draw_all": " ".join(f"{value:.3f}" for value in draw),
        "step_ms_all": " ".join(f"{value:.3f}" for value in step),
    }
