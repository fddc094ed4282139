"""Which run is this? A hash over everything that can change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mml_plugin.experiment.outputs import Trained
    from mml_plugin.experiment.run import Context


def canonical_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as canonical JSON (sorted keys, no blanks)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def run_identity(context: Context, trained: Trained) -> str:
    """Hash of configuration, data, engine, backend, dtype, device, threads, protocol and seed.

    Suites match runs on it: two runs with the same identity are the same run.
    """
    return canonical_hash(
        {
            "config": context.experiment.identity(),
            "data": [trained.data["fingerprint"], trained.data["order"]],
            "engine": context.request.engine,
            "backend": trained.backend,
            "dtype": trained.dtype,
            "device": context.device.type,
            "threads": torch.get_num_threads(),
            "protocol": context.request.protocol,
            "valid_share": context.request.valid_share if context.request.protocol == "held-out" else None,
            "max_batches": context.request.max_batches,
            "seed": context.params["seed"],
        }
    )
