"""Which run is this? A hash over everything that can change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from mml_plugin.experiment.config import Experiment
    from mml_plugin.experiment.outputs import Trained
    from mml_plugin.experiment.run import Context, RunRequest


def canonical_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content as canonical JSON (sorted keys, no blanks)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def is_json(content: Any) -> bool:
    """Whether JSON can hold it: YAML knows more, dates for one, which no key takes."""
    try:
        json.dumps(content)
    except (TypeError, ValueError):
        return False
    return True


def run_identity(context: Context, trained: Trained) -> str:
    """Hash of configuration, data, engine, backend, dtype, device, threads, protocol, its share, batch limit and seed.

    Suites match runs on it: two runs with the same identity are the same run.
    """
    facts = Conditions(trained.backend, context.device.type, torch.get_num_threads(), trained.dtype)
    return identity_of(context.experiment, context.request, context.params["seed"], trained.data, facts)


@dataclass(frozen=True)
class Conditions:
    """Where a run computes: what can change its last digits, though nothing that was asked for."""

    backend: str
    device: str
    threads: int
    dtype: str = "float32"


def identity_of(
    experiment: Experiment, request: RunRequest, seed: int, data: Mapping[str, Any], conditions: Conditions
) -> str:
    """The identity that a run of the request has, or would have.

    Args:
        experiment, request, seed: what is run.
        data: ``fingerprint`` and ``order`` of the data, as ``result.json`` has them.
        conditions: where it is run.
    """
    return canonical_hash(
        {
            "config": experiment.identity(),
            "data": [data["fingerprint"], data["order"]],
            "engine": request.engine,
            "backend": conditions.backend,
            "dtype": conditions.dtype,
            "device": conditions.device,
            "threads": conditions.threads,
            "protocol": request.protocol,
            "valid_share": request.valid_share if request.protocol == "held-out" else None,
            "max_batches": request.max_batches,
            "seed": seed,
        }
    )
