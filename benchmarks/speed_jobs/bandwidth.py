"""How near an epoch on a GPU is to moving its bytes at the device's own copy speed."""

from __future__ import annotations

import time
from typing import Any


def bandwidth_floor(trainer: Any, epoch_seconds: float) -> dict[str, Any]:
    """How near the epoch's time is to moving its bytes at the speed of a copy."""
    speed = _copy_speed(trainer.device)
    floor = _bytes_per_step(trainer) * trainer.batches.per_epoch / speed
    return {
        "copy_gb_per_second": speed / 1e9,
        "floor_seconds": floor,
        "floor_share": floor / epoch_seconds,
        "captured": getattr(trainer._run, "captured", False),
    }


def _bytes_per_step(trainer: Any) -> int:
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
    index = trainer.batches.sampler.backend.index_dtype.itemsize
    return dense + 2 * batch * width * (index + 2 * users.element_size()) + (items + 3 * batch) * row


def _copy_speed(device: Any, size: int = 1 << 29, repeats: int = 20) -> float:
    """Bytes read and written per second by a copy within the device's memory; the best of a few."""
    import torch

    source, target = (torch.zeros(size // 4, device=device) for _ in range(2))
    best = 0.0
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize(device)
        best = max(best, 2 * size / (time.perf_counter() - began))
    return best
