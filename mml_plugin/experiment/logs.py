"""Log lines in recbox's format, to the run's own file and to standard error."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mml_plugin.files import make_folder, writing

FORMAT = "%(asctime)s P%(process)d %(levelname)s %(message)s"


@contextmanager
def log_to(path: Path, append: bool = False) -> Iterator[None]:
    """Send the root logger's lines to ``path`` and standard error; put the old handlers back afterwards."""
    make_folder(path.parent)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    with writing(path):
        file_handler = logging.FileHandler(path, mode="a" if append else "w", encoding="utf-8")
    handlers: list[logging.Handler] = [file_handler, logging.StreamHandler()]
    for handler in handlers:
        handler.setFormatter(logging.Formatter(FORMAT))
    root.handlers[:] = handlers
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        file_handler.close()


@contextmanager
def warnings_logged() -> Iterator[None]:
    """Send what the block warns about to the log, which a run keeps, in place of standard error alone."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            yield
        finally:
            for warning in caught:
                logging.warning("%s", warning.message)


def show_duration(seconds: float) -> str:
    """``2 h 5 min``, ``3 min 20 s`` or ``12 s``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"
