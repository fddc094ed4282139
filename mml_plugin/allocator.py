"""How the C library's allocator treats large blocks: given back to the system when they are freed."""

from __future__ import annotations

import ctypes
import os
import platform

# mallopt's parameter in glibc's malloc.h.
M_MMAP_THRESHOLD = -3
# Larger than what a step at 800 negatives allocates, which would otherwise cost page faults in every step.
LARGE = 4 << 20
ANY_OF = ("MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def give_back_large_blocks() -> bool:
    """Let blocks of 4 MiB and more go back to the system when they are freed; returns whether it did.

    glibc does so at first, but each freed block raises the size from which it does, up to 32 MiB. What loading a data
    set leaves behind then stays with the process for its whole life, some 50 MB on Yelp2018. Does nothing on other C
    libraries or where the user has decided (``ANY_OF``).
    """
    if any(name in os.environ for name in ANY_OF) or platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE))
