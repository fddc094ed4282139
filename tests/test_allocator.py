import os
import platform
import subprocess
import sys

import pytest

from mml_plugin import allocator

# Freed once, a block of 30 MB makes glibc keep later blocks of up to that size in its own heap, where a small block
# above them pins them.
PINNED = """
import ctypes, os, psutil
import mml_plugin.allocator as allocator
if {ask}:
    assert allocator.give_back_large_blocks() is {given}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.free(libc.malloc(30 << 20))
blocks = [libc.malloc(20 << 20) for _ in range(10)]
pins = [libc.malloc(1000) for _ in range(1000)]
for block in blocks:
    ctypes.memset(block, 1, 20 << 20)
before = psutil.Process().memory_info().rss
for block in blocks:
    libc.free(block)
print((before - psutil.Process().memory_info().rss) >> 20)
"""


def freed(ask, given=True, **environment):
    code = PINNED.format(ask=ask, given=given)
    clean = {name: value for name, value in os.environ.items() if name not in allocator.ANY_OF}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **environment})
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_large_blocks_go_back_when_they_are_freed():
    assert freed(ask=True) >= 190
    assert freed(ask=False) < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_the_users_choice_stands():
    assert freed(ask=True, given=False, MALLOC_MMAP_THRESHOLD_=str(64 << 20)) < 100


def test_another_c_library_is_left_alone(monkeypatch):
    for name in allocator.ANY_OF:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    assert allocator.give_back_large_blocks() is False


@pytest.mark.parametrize(("engine", "asked"), [("fast", 1), ("recbox", 0)])
def test_training_on_the_fast_engine_asks_for_it_and_recbox_stays_as_it_is(engine, asked, monkeypatch):
    from mml_plugin.cli import main
    from mml_plugin.experiment import run as runs

    calls = []
    monkeypatch.setattr(allocator, "give_back_large_blocks", lambda: calls.append(1))
    monkeypatch.setattr(runs, "run", lambda request: None)
    assert main(["train", "--expid", "MF_tiny_mml", "--engine", engine]) == 0
    assert len(calls) == asked
