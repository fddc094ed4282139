"""Which GPU a torch build has code for; Pascal and Volta are mocked, as they were not at hand."""

from __future__ import annotations

import pytest
import torch

from mml_plugin.devices import covers, resolve_device
from mml_plugin.errors import UserError

CUDA13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]
CUDA126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.mark.parametrize(
    ("archs", "capability", "runs"),
    [
        (CUDA13, (6, 0), False),  # P100
        (CUDA13, (7, 0), False),  # V100
        (CUDA13, (7, 5), True),  # T4
        (CUDA13, (8, 9), True),  # L4: binary code of the same major version
        (CUDA13, (9, 0), True),  # H100
        (CUDA13, (12, 1), True),
        (CUDA126, (6, 0), True),
        (CUDA126, (6, 1), True),
        (CUDA126, (7, 0), True),
        (CUDA126, (10, 0), False),  # no PTX, no code of that major version
        (["sm_90a"], (9, 0), True),
        (["compute_70"], (6, 0), False),
        ([], (8, 0), False),
    ],
)
def test_covers(archs, capability, runs):
    assert covers(archs, capability) is runs


def mock_gpu(monkeypatch, archs, capability):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: "Tesla P100-PCIE-16GB")


def test_pascal_on_a_cuda13_build_is_advice_not_a_crash(monkeypatch):
    mock_gpu(monkeypatch, CUDA13, (6, 0))
    with pytest.raises(UserError, match=r"P100.*6\.0.*CUDA 12\.6.*--gpu -1"):
        resolve_device(0)


def test_pascal_on_a_cuda126_build_is_taken(monkeypatch):
    mock_gpu(monkeypatch, CUDA126, (6, 0))
    assert resolve_device(0) == torch.device("cuda", 0)


@pytest.mark.parametrize("gpu", [1, 7])
def test_a_gpu_that_is_not_there(monkeypatch, gpu):
    mock_gpu(monkeypatch, CUDA13, (9, 0))
    with pytest.raises(UserError, match=f"--gpu {gpu} is not there.*only GPU 0"):
        resolve_device(gpu)


def test_no_gpu_at_all(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="sees no GPU; --gpu -1 runs on the CPU"):
        resolve_device(0)
    assert resolve_device(-1) == torch.device("cpu")
    with pytest.raises(UserError, match="means nothing"):
        resolve_device(-2)
