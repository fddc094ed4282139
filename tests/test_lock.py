"""requirements.lock: one file for every Python, and for torch with and without CUDA."""

from __future__ import annotations

import re
from pathlib import Path

LINES = (Path(__file__).resolve().parents[1] / "requirements.lock").read_text().splitlines()


def test_torch_is_locked_without_a_build_and_without_what_a_build_brings():
    (torch,) = (line for line in LINES if re.match(r"torch\b", line))
    assert re.fullmatch(r"torch==[\d.]+", torch.split(" ;")[0])
    assert not [line for line in LINES if line.startswith(("nvidia-", "cuda-"))]


def test_every_line_is_one_version_perhaps_for_some_pythons():
    for line in filter(None, LINES):
        assert re.match(r"[a-z0-9.-]+==[\w.]+( ; .+)?$", line), line
    names = [line.split("==")[0] for line in LINES if line]
    for name in {name for name in names if names.count(name) > 1}:
        assert all("python" in line for line in LINES if line.startswith(f"{name}==")), name
