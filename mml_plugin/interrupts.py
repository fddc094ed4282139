"""A Ctrl-C that is not lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yields a check to be called now and then: it raises KeyboardInterrupt when an earlier Ctrl-C came to nothing.

    Python runs a signal's handler wherever it happens to be, also in callbacks whose exceptions it prints and drops:
    when a data loader forks, or in a destructor. There the training would go on as if nobody had pressed anything. Does
    nothing outside the main thread or where somebody else handles (or ignores) the signal.
    """
    pressed = False

    def remember(number: int, frame: Any) -> None:
        nonlocal pressed
        pressed = True
        raise KeyboardInterrupt

    def check() -> None:
        if pressed:
            raise KeyboardInterrupt

    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield check
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield check
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
