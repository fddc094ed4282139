"""The Triton backend where there is no GPU: interpreted on CPU tensors, and compiled for one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mml_plugin.engine import backends
from mml_plugin.engine.backends.base import AdamConstants, Positives, TableState
from mml_plugin.errors import UserError

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")


def missing():
    """Why Triton's interpreter and compiler cannot be tested here; "" when they can."""
    if sys.platform != "linux" or importlib.util.find_spec("triton") is None:
        return "Triton is not installed (it is for Linux; torch's CUDA builds bring it along)"
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < (3, 7):
        return f"Triton {version} has another interpreter and another compile(); these tests are for 3.7 and newer"
    return ""


installed = pytest.mark.skipif(bool(missing()), reason=missing() or "it is there")


@installed
def test_interpreted():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider",
         str(HERE / "interpreted_triton.py")],
        capture_output=True, text=True, cwd=HERE.parents[1],
        env={**{k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


TYPES = {
    torch.float32: "*fp32", torch.float64: "*fp64", torch.int32: "*i32", torch.int64: "*i64", torch.uint8: "*u8",
}  # fmt: skip


def launches(monkeypatch, dtype, dim):
    """(kernel, arguments, constants) of every launch that a training can make."""
    from mml_plugin.engine.backends import triton_gpu

    seen = []
    monkeypatch.setattr(triton_gpu, "launch", lambda kernel, grid, *a, **k: seen.append((kernel, a, k)))
    engine = triton_gpu.Engine()
    negatives = min(dim, 5)
    rows, index = torch.arange(8), torch.zeros(8, 1 + negatives, dtype=torch.int32)
    user, grad = torch.ones(8, dim, dtype=dtype), torch.zeros(8, 1 + negatives, dtype=dtype)
    state = TableState.of(nn.Parameter(torch.ones(9, dim, dtype=dtype)), 0.1)
    positives = Positives(torch.tensor([0, 3]), torch.tensor([1, 2, 3]))
    for cumulative in (None, torch.full((9,), 2**32)):
        for excluded in (None, positives):
            engine.draw_items(
                rows, rows, negatives, seed=3, epoch=1, num_items=9, item_ids=torch.arange(9).int(),
                cumulative=cumulative, positives=excluded, out=index,
            )  # fmt: skip
    engine.shuffled(5, 1, 1, CPU)
    engine.dropout(rows, dim, 0.1, seed=1, stream=3, epoch=2, dtype=dtype)
    for inverse in (None, state.squared_norms):
        engine.scores(user, state.weight, index, inverse)
        engine.user_gradient(grad, state.weight, index, inverse)
        engine.item_gradient(grad, grad, user, state.weight, index, inverse, state.grad, state.touched)
    for mask, normalized, first in ((None, True, False), (None, False, False), (user, True, True), (user, True, False)):
        engine.plain_users(state.weight, rows, mask, normalized, first).backward(user, state)
    engine.add_rows(rows, user, state)
    engine.squared_gradient_norm([state], [1.0])
    engine.clip_factor(torch.ones((), dtype=torch.float64), 10.0)
    engine.adam([state], AdamConstants.at(1, 0.1), 1.0)
    engine.adam_constants(*torch.ones(2, dtype=torch.float64))
    engine.inverse_norms(state)
    engine.bands(grad, grad, *(torch.zeros(n, dtype=t) for n, t in ((3, dtype), (4, torch.int64), (4, torch.float64))))
    return seen


@installed
@pytest.mark.parametrize(
    ("capability", "dtype", "dim"),
    [
        (75, torch.float32, 64),
        pytest.param(75, torch.float32, 1, marks=pytest.mark.slow),
        pytest.param(75, torch.float64, 41, marks=pytest.mark.slow),
        pytest.param(90, torch.float32, 64, marks=pytest.mark.slow),
        pytest.param(90, torch.float64, 41, marks=pytest.mark.slow),
    ],
)
def test_every_kernel_compiles_without_a_gpu(capability, dtype, dim, monkeypatch, tmp_path):
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    compiled = set()
    for kernel, arguments, constants in launches(monkeypatch, dtype, dim):
        types = [TYPES[a.dtype] if isinstance(a, torch.Tensor) else ("i64" if a >= 2**31 else "i32") for a in arguments]
        # Triton makes an integer of 1 a constant of the kernel.
        ones = {name: 1 for name, a in zip(kernel.arg_names, arguments) if not isinstance(a, torch.Tensor) and a == 1}
        constants = {**constants, **ones}
        signature = {**dict(zip(kernel.arg_names, types)), **dict.fromkeys(constants, "constexpr")}
        key = (kernel.__name__, *signature.items(), *constants.items())
        if key not in compiled:
            compiled.add(key)
            made = compile(ASTSource(kernel, signature, dict(constants)), target=GPUTarget("cuda", capability, 32))
            assert made.asm["cubin"]
    from mml_plugin.engine.backends import triton_kernels

    public = {name for name, value in vars(triton_kernels).items() if hasattr(value, "arg_names") and name[0] != "_"}
    assert {key[0] for key in compiled} == public


def test_a_cpu_is_refused_outside_the_interpreter(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(UserError, match="triton cannot be used on cpu: it runs on cuda, not on cpu"):
        backends.select("triton", CPU)


@pytest.fixture
def old_gpu(monkeypatch):
    def of(capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: object())
        return torch.device("cuda", 0)

    return of


@pytest.mark.parametrize("capability", [(6, 0), (7, 0)])
def test_below_7_5_the_torch_backend_takes_over_and_says_so_once(capability, old_gpu, caplog):
    with caplog.at_level("INFO"):
        assert backends.select("auto", old_gpu(capability)).name == "torch"
    have = ".".join(map(str, capability))
    assert [record.getMessage() for record in caplog.records] == [
        f"Backend triton is passed over: it needs compute capability 7.5 and this GPU has {have}",
        "Backend torch on cuda:0 (picked by auto)",
    ]
    with pytest.raises(UserError, match=f"triton cannot be used on cuda:0: it needs .* 7.5 and this GPU has {have}"):
        backends.select("triton", old_gpu(capability))


def test_without_a_compiler_the_torch_backend_takes_over(old_gpu, monkeypatch, caplog):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with caplog.at_level("INFO"):
        assert backends.select("auto", old_gpu((9, 0))).name == "torch"
    assert "neither gcc nor clang is on the PATH" in caplog.messages[0]


@installed
def test_where_no_kernel_can_be_launched_the_torch_backend_takes_over(old_gpu, monkeypatch, caplog):
    from mml_plugin.engine.backends import triton_gpu

    def shuffled(*_):
        raise AssertionError("libcuda.so cannot found!\nPossible files are located at ...")

    monkeypatch.setattr(backends, "_cannot_build", lambda: "")
    monkeypatch.setattr(triton_gpu.Engine, "shuffled", shuffled)
    with caplog.at_level("INFO"):
        assert backends.select("auto", old_gpu((9, 0))).name == "torch"
    assert caplog.messages == [
        "Backend triton is passed over: triton cannot compile or launch a kernel here (libcuda.so cannot found!)",
        "Backend torch on cuda:0 (picked by auto)",
    ]


@installed
@pytest.mark.parametrize(
    "full",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
)
def test_a_full_gpu_is_not_taken_for_one_that_triton_cannot_use(full, old_gpu, monkeypatch):
    from mml_plugin.engine.backends import triton_gpu

    def shuffled(*_):
        raise full

    monkeypatch.setattr(backends, "_cannot_build", lambda: "")
    monkeypatch.setattr(triton_gpu.Engine, "shuffled", shuffled)
    with pytest.raises(RuntimeError, match="out of memory"):
        backends.select("auto", old_gpu((9, 0)))


@installed
def test_from_7_5_on_triton_is_taken(old_gpu, monkeypatch, caplog):
    from mml_plugin.engine.backends import triton_gpu

    monkeypatch.setattr(backends, "_cannot_build", lambda: "")
    monkeypatch.setattr(triton_gpu.Engine, "try_out", lambda self, device: None)
    with caplog.at_level("INFO"):
        assert backends.select("auto", old_gpu((7, 5))).name == "triton"
    assert [record.getMessage() for record in caplog.records] == ["Backend triton on cuda:0 (picked by auto)"]
