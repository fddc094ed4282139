"""The peak of a process tree: children count, pages that they share with their parent count once."""

from __future__ import annotations

import multiprocessing
import sys
import threading

import numpy as np
import pytest
import torch

from mml_plugin.memory import PeakMemory, process_tree_bytes

MEGABYTE = 1 << 20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="proportional set sizes are Linux's")


def _hold(size, ready, done):
    mine = np.ones(size, np.uint8)
    ready.set()
    done.wait(30)
    assert mine.all()


def seen_beside_a_child(size):
    """The tree's bytes while a forked child holds ``size`` bytes of its own."""
    fork = multiprocessing.get_context("fork")
    ready, done = fork.Event(), fork.Event()
    child = fork.Process(target=_hold, args=(size, ready, done))
    child.start()
    assert ready.wait(30)
    found = process_tree_bytes()
    done.set()
    child.join()
    return found


def test_a_childs_memory_counts_and_shared_pages_count_once():
    shared = np.ones(200 * MEGABYTE, np.uint8)
    before = process_tree_bytes()
    after = seen_beside_a_child(100 * MEGABYTE)
    assert 90 * MEGABYTE < after - before < 150 * MEGABYTE
    assert shared.all()


def test_the_peak_stays_after_its_memory_is_gone():
    with PeakMemory(interval=0.01) as memory:
        before = memory.peak
        block = np.ones(100 * MEGABYTE, np.uint8)
        memory.sample()
        del block
    assert memory.peak - before > 90 * MEGABYTE


def test_a_look_that_takes_long_does_not_undo_a_larger_one(monkeypatch):
    memory, looking, go_on = PeakMemory(), threading.Event(), threading.Event()

    def slowly():
        looking.set()
        assert go_on.wait(30)
        return 10

    monkeypatch.setattr("mml_plugin.memory.process_tree_bytes", slowly)
    thread = threading.Thread(target=memory.sample)
    thread.start()
    assert looking.wait(30)
    monkeypatch.setattr("mml_plugin.memory.process_tree_bytes", lambda: 90)
    memory.sample()
    go_on.set()
    thread.join()
    monkeypatch.setattr("mml_plugin.memory.process_tree_bytes", lambda: 0)
    assert memory.peak == 90


def test_on_a_gpu_the_peak_of_an_earlier_training_is_forgotten(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "init", lambda: done.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: done.append(device))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 40 + device)
    with PeakMemory(cuda_device=2) as memory:
        assert done == ["init", 2]
    assert memory.peak == 42
