"""A folder in which numba can keep compiled kernels: without one it refuses to import them."""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from functools import cache

import numba

from mml_plugin.engine.backends.base import CannotStart


def ensure() -> None:
    """Give numba a folder of this process's where it finds none of its own that can be written.

    Raises:
        CannotStart: when there is no place for such a folder either.
    """
    if _has_place():
        return
    numba.config.CACHE_DIR = _temporary_folder()  # type: ignore[attr-defined]
    if not _has_place():
        raise CannotStart(_nowhere())


def _has_place() -> bool:
    def kernel() -> None:
        """Stands beside the kernels, so numba looks in the same places; it is never compiled."""

    try:
        numba.njit(cache=True)(kernel)
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return False
    return True


@cache
def _temporary_folder() -> str:
    try:
        folder = tempfile.mkdtemp(prefix="mml-numba-")
    except OSError:
        raise CannotStart(_nowhere()) from None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logging.warning(
        "numba finds no folder that it can write compiled kernels to, so every process compiles them anew; set "
        "NUMBA_CACHE_DIR to one that can be written"
    )
    return folder


def _nowhere() -> str:
    return (
        "numba finds no folder that it can write compiled kernels to, and no temporary one can be made; set "
        "NUMBA_CACHE_DIR to one that can be written"
    )
