"""States on disk: whole or not at all, whatever the operating system refuses."""

import subprocess
import sys

import pytest
import torch

from mml_plugin.errors import UserError
from mml_plugin.states import damage_named, read_state, write_state

CPU = torch.device("cpu")


def test_a_state_comes_back(tmp_path):
    state = {"version": 1, "model": {"w": torch.randn(3, 5)}, "kept": [0.5, 2, None]}
    write_state(tmp_path / "state.pt", state)
    found = read_state(tmp_path / "state.pt", CPU, 1)
    assert torch.equal(found.pop("model")["w"], state.pop("model")["w"])
    assert found == state


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX's")
def test_a_refused_write_keeps_the_last_state(tmp_path):
    """The limit stands in for a full disk; it is met in the middle of a tensor."""
    path = tmp_path / "state.pt"
    write_state(path, {"version": 1, "w": torch.ones(4)})
    code = f"""
import resource, torch
from pathlib import Path
from mml_plugin.errors import UserError
from mml_plugin.states import write_state
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    write_state(Path({str(path)!r}), {{"version": 1, "a": torch.zeros(1000), "w": torch.zeros(200_000)}})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == f"cannot write {path}: the file would be larger than the limit set for this process\n"
    assert read_state(path, CPU, 1)["w"].tolist() == [1, 1, 1, 1]
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]


def test_what_is_no_error_of_the_system_is_raised_as_it_is(tmp_path):
    with pytest.raises(Exception, match=r"pickle|local object"):
        write_state(tmp_path / "state.pt", {"version": 1, "f": lambda: 0})
    assert not list(tmp_path.iterdir())


def test_another_version_is_refused(tmp_path):
    write_state(tmp_path / "state.pt", {"version": 1})
    with pytest.raises(UserError, match="not one of this version"):
        read_state(tmp_path / "state.pt", CPU, 2)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_too_little_memory_is_no_damage(error, tmp_path, monkeypatch):
    """The advice for a damaged checkpoint would cost a good one."""
    with pytest.raises(type(error)), damage_named(tmp_path):
        raise error
    write_state(tmp_path / "state.pt", {"version": 1})

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(type(error)):
        read_state(tmp_path / "state.pt", torch.device("cpu"), 1)


def test_a_users_mistake_within_is_told_as_it_is(tmp_path):
    with pytest.raises(UserError, match=r"^mine$"), damage_named(tmp_path):
        raise UserError("mine")
