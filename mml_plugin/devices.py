"""The device a run may use: it is there, and this torch has code for it, or one sentence says why not."""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch

from mml_plugin.errors import UserError

ADVICE = (
    "install a torch build with CUDA 12.6 for it (Pascal and Volta cards such as P100 and V100 need one), "
    "or run on the CPU with --gpu -1"
)


def covers(arch_list: Iterable[str], capability: tuple[int, int]) -> bool:
    """Whether one of torch's compiled architectures runs on a device of ``capability``.

    Binary code (``sm_80``) runs on the same major version from its minor version up; PTX
    (``compute_70``) is compiled on the spot for anything newer.
    """
    for arch in arch_list:
        match = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", arch)
        if match is None:
            continue
        kind, found = match[1], (int(match[2]), int(match[3]))
        if kind == "compute" and found <= capability:
            return True
        if kind == "sm" and found[0] == capability[0] and found[1] <= capability[1]:
            return True
    return False


def resolve_device(gpu: int) -> torch.device:
    """Turn reczoo's GPU index into a device that works.

    Args:
        gpu: -1 for the CPU, otherwise a CUDA index from 0.

    Raises:
        UserError: when that GPU is not there, or this torch build has no code for it. Stock recbox
            falls back to the CPU without a word in the first case and crashes in the second.
    """
    if gpu < -1:
        raise UserError(f"--gpu {gpu} means nothing; give -1 for the CPU or a GPU index from 0")
    if gpu == -1:
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpu >= count:
        there = f"GPUs 0 to {count - 1}" if count > 1 else ("only GPU 0" if count else "no GPU")
        raise UserError(f"--gpu {gpu} is not there: torch {torch.__version__} sees {there}; --gpu -1 runs on the CPU")
    capability = torch.cuda.get_device_capability(gpu)
    # AMD's architectures (gfx90a) say no compute capability, and a build for them is one for them.
    if torch.version.hip is None and not covers(torch.cuda.get_arch_list(), capability):
        name = torch.cuda.get_device_name(gpu)
        raise UserError(
            f"torch {torch.__version__} has no code for GPU {gpu} ({name}, compute capability "
            f"{capability[0]}.{capability[1]}): {ADVICE}"
        )
    return torch.device("cuda", gpu)
