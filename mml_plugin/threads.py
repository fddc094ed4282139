"""How long OpenMP's threads spin before they sleep; decided before torch starts them."""

from __future__ import annotations

import os

ANY_OF = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
SHORT = "1000"


def spin_less_when_busy() -> bool:
    """On a machine that others keep busy, let threads that wait sleep almost at once; returns whether it did.

    Between a step's kernels, threads wait for tens of microseconds, and on an idle machine spinning is the faster way
    to wait. Where other programs want the same cores, a spinning thread takes the core from the very thread it waits
    for, and a training becomes many times slower. Does nothing where the user has decided (``ANY_OF``), and nothing
    after torch has been imported: the runtime reads its environment once.
    """
    if any(name in os.environ for name in ANY_OF) or not hasattr(os, "getloadavg"):
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if os.getloadavg()[0] < cores / 2:
        return False
    os.environ["GOMP_SPINCOUNT"] = SHORT
    return True
