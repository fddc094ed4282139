"""What a user did wrong, said in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave us: a name, a value, a file.

    The message is one sentence: what was wrong, where (file, key, line, value), what is allowed.
    The command line prints it without a traceback and exits with 2; in a script it is a ``ValueError``.
    """


def lacking_memory(error: BaseException) -> str:
    """What could not be allocated; "" for another error.

    NumPy raises a ``MemoryError``, torch a ``RuntimeError`` on a CPU and an ``OutOfMemoryError`` on a GPU.
    """
    said = str(error).partition("\n")[0]
    if isinstance(error, MemoryError):
        return said or "an allocation failed"
    lacks = "allocate memory" in said or "out of memory" in said
    return said if lacks and isinstance(error, RuntimeError) else ""


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """A clause that offers the known names closest to ``name``, or all of them when none is close.

    Args:
        name: what the user wrote.
        known: every allowed name.
        count: how many names to offer at most.

    Returns:
        ``"did you mean 'a' or 'b'?"`` or ``"known: a, b, c"``.
    """
    names = sorted(known)
    lowered = {n.lower(): n for n in names}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(lowered[c]) for c in close) + "?"
    return "known: " + ", ".join(names)
