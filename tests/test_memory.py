"""The peak of a process tree: children count, pages that they share with their parent count once."""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import pytest

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
