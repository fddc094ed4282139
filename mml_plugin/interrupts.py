"""A Ctrl-C that is not lost."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

IMPORTER = "<frozen importlib._bootstrap>"
LOOK_EVERY = 0.02  # seconds


class _Remember:
    """A handler of SIGINT that raises KeyboardInterrupt, as Python's own does, and remembers that it did.

    An import is let finish first: a library that is torn out of its import fails with an error of another kind, goes
    on without what it wanted, or aborts the process. A second press does not wait.
    """

    def __init__(self) -> None:
        self.pressed = self.waiting = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        if importing(frame) and not self.waiting:
            self.waiting = True
            threading.Thread(target=self.press_after_import, daemon=True).start()
            return
        self.waiting = False
        raise KeyboardInterrupt

    def press_after_import(self) -> None:
        """Press again once the main thread imports nothing any more."""
        main = threading.main_thread().ident
        while self.waiting and importing(sys._current_frames().get(main or 0)):
            time.sleep(LOOK_EVERY)
        if self.waiting:
            os.kill(os.getpid(), signal.SIGINT)

    def check(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed; one that waits for an import is then no longer to come."""
        if self.pressed:
            self.waiting = False
            raise KeyboardInterrupt


def importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in a frame or a caller of it."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTER:
            return True
        frame = frame.f_back
    return False


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yields a check to be called now and then: it raises KeyboardInterrupt when an earlier Ctrl-C came to nothing.

    Python runs a signal's handler wherever it happens to be, also where the exception is printed and dropped (when a
    data loader forks, in a destructor) or taken for something else (by a library that catches everything). There the
    training would go on as if nobody had pressed anything. An error that ends the block after a Ctrl-C is the Ctrl-C:
    an import that it breaks, or C++ that it comes out of, ends as any error. So who catches the KeyboardInterrupt ends
    the block too. A block inside another shares its memory. Does nothing outside the main thread or where somebody else
    handles (or ignores) the signal.
    """
    with _remembered() as remember:
        try:
            yield remember.check
        except Exception:
            remember.check()
            raise


@contextmanager
def _remembered() -> Iterator[_Remember]:
    """The handler, for as long as the block lasts; one that never hears of a Ctrl-C where there is nothing to do."""
    handler: Any = signal.getsignal(signal.SIGINT)
    own = threading.current_thread() is threading.main_thread()
    if own and isinstance(handler, _Remember):
        yield handler
        return
    remember = _Remember()
    if not own or handler is not signal.default_int_handler:
        yield remember
        return
    signal.signal(signal.SIGINT, remember)
    try:
        yield remember
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt: who waits for processes of its own stops them first, as after Ctrl-C.

    Does nothing outside the main thread or where somebody else handles (or ignores) the signal.
    """
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def children_heed_ctrl_c() -> Iterator[None]:
    """What is started meanwhile heeds SIGINT, also where this process ignores it, as a script's ``command &`` does.

    An ignored signal stays ignored in a process that is started; one with a handler does not.
    """
    own = threading.current_thread() is threading.main_thread()
    if not own or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
