"""The folder in which numba keeps compiled kernels: there is one, and it holds none that a change has outdated."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import logging
import shutil
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numba

from mml_plugin.engine import philox
from mml_plugin.engine.backends.base import CannotStart
from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write

# The files of the kernels and of the constants in them.
KERNELS = ("numba_kernels", "numba_attention", "numba_draws", "numba_items", "numba_late", "numba_prefetch", "base")
STAMP = "mml_kernels.sha256"


def ensure() -> None:
    """Give numba a folder of this process's where it finds none of its own that can be written; see also
    :func:`drop_outdated`.

    Raises:
        CannotStart: when there is no place for such a folder either, and where numba is told to compile nothing.
    """
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]
        raise CannotStart("NUMBA_DISABLE_JIT is set, and its kernels run only as compiled")
    place = _place()
    if place is None:
        numba.config.CACHE_DIR = _temporary_folder()  # type: ignore[attr-defined]
        place = _place()
    if place is None:
        raise CannotStart(_nowhere())
    if f"{__package__}.{KERNELS[0]}" not in sys.modules:  # else what this process compiles is of the files as they were
        drop_outdated(place, [Path(__file__).parent / f"{name}.py" for name in KERNELS] + [Path(philox.__file__)])
    if not any(place.glob("numba_*.nbi")):
        _say_that_it_compiles()


def drop_outdated(place: Path, sources: Sequence[Path]) -> None:
    """Remove the kernels compiled in ``place`` if one of the files that they are made of has changed since.

    numba itself asks only whether the file that a kernel stands in has changed, and would go on with the old code and
    constants of what the kernel takes from another.
    """
    # Whoever may not tidy up here is left with numba's own rule.
    with contextlib.suppress(OSError, UserError):
        now = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest().encode()
        stamp = place / STAMP
        if stamp.is_file() and stamp.read_bytes() == now:
            return
        for compiled in (*place.glob("numba_*.nbi"), *place.glob("numba_*.nbc")):
            compiled.unlink(missing_ok=True)
        with atomic_write(stamp, "wb") as out:
            out.write(now)


def _place() -> Path | None:
    """Where numba keeps what it compiles of this folder's files."""

    def kernel() -> None:
        """Stands beside the kernels, so numba looks in the same places; it is never compiled."""

    try:
        return Path(str(numba.njit(cache=True)(kernel).stats.cache_path))
    except RuntimeError as error:
        if "no locator available" not in str(error):
            raise
        return None


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


@cache
def _say_that_it_compiles() -> None:
    """Once in a process: the kernels are there only after their first use."""
    logging.info(
        "numba compiles each of its kernels at its first use on this machine: up to a minute in the first epoch"
    )


def _nowhere() -> str:
    return (
        "numba finds no folder that it can write compiled kernels to, and no temporary one can be made; set "
        "NUMBA_CACHE_DIR to one that can be written"
    )
