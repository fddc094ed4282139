"""What a result must say about where it came from: versions, machine, commit."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from mml_plugin import __version__

PACKAGES = (
    "torch",
    "numpy",
    "pandas",
    "recbox",
    "fuxictr",
    "numba",
    "triton",
    "faiss-cpu",
    "h5py",
)


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number, absent ones left out."""
    import torch

    # Not by its metadata, which an editable installation keeps from when it was made.
    found = {"python": platform.python_version(), "mml_plugin": __version__}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    # The build's label (+cpu, +cu126) is not in every wheel's metadata.
    return {**found, "torch": str(torch.__version__)}


def processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's marketing name where the system tells it.

    Virtual machines often say no more than ``AMD EPYC``, whichever generation that is: a name without a digit is
    followed by the family and model numbers.
    """
    try:
        pairs = [line.split(":", 1) for line in told.read_text(encoding="utf-8").splitlines() if ":" in line]
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, value in reversed(pairs)}
    name = facts.get("model name") or platform.machine()
    if any(c.isdigit() for c in name) or not {"cpu family", "model"} <= facts.keys():
        return name
    return f"{name} (family {facts['cpu family']}, model {facts['model']})"


def machine() -> dict[str, Any]:
    """Operating system, processor, cores this process may use, memory and devices."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    if torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


@functools.lru_cache(maxsize=1)
def commit() -> str:
    """The commit this package runs from (``-dirty`` when its files differ from it), or ``"unknown"``."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return "unknown"
    try:
        head = _git(folder, "rev-parse", "HEAD")
        changed = _git(
            folder, "status", "--porcelain", "--untracked-files=no", "--", "mml_plugin", "model_zoo", "config"
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("-dirty" if changed else "")


def _git(folder: Path, *words: str) -> str:
    result = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=20, check=True)
    return result.stdout.strip()


def environment() -> dict[str, Any]:
    """Everything above in one mapping, as ``result.json`` and ``mml env`` show it."""
    return {"versions": versions(), "machine": machine(), "commit": commit()}
