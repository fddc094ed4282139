"""Folders that are either complete or not there, and that replace an earlier one without a moment to lose it in."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from mml_plugin.errors import UserError
from mml_plugin.files import make_folder, writing


def check_place(folder: Path, overwrite: bool, marks: Sequence[str], what: str, own: Sequence[str] = ()) -> None:
    """Refuse a folder that must not be replaced; what a killed process left of an earlier one is put in order first.

    Args:
        folder: the folder, or a link to it.
        overwrite: whether the user asked to replace it.
        marks: files of which ``what`` has any; an empty folder may be replaced too.
        what: what may be replaced, in words.
        own: all files that ``what`` may hold, where anything else, hidden files apart, is somebody's and must stay.

    Raises:
        UserError: without ``overwrite``, for a folder that is not ``what`` or holds more than that, and for the one
            that the command runs in.
    """
    target = _real(folder)
    _tidy(target)
    if not target.exists():
        return
    if _is_where_we_are(target):
        raise UserError(
            f"{folder} is the folder that this command runs in, or holds it: it is not replaced from inside; change to "
            "another folder, or name another one"
        )
    empty = target.is_dir() and not any(target.iterdir())
    if not empty and not any((target / name).is_file() for name in marks):
        held = " or ".join(marks)
        raise UserError(
            f"{folder} is already there and is not {what} (it does not hold {held}): nothing replaces it; "
            "move it away, or take another name"
        )
    more = sorted(path.name for path in target.iterdir() if not path.name.startswith(".")) if own and not empty else []
    foreign = [name for name in more if name not in own]
    if foreign:
        raise UserError(
            f"{folder} holds {foreign[0]!r}, which is no part of {what} and would be lost: move it away first"
        )
    if not overwrite:
        raise UserError(f"{folder} is already there; --overwrite replaces it")


def build_folder(folder: Path, fill: Callable[[Path], None], check: Callable[[], None] | None = None) -> None:
    """Fill a folder beside ``folder`` and give it that name; where anything fails, what was there before still is.

    Args:
        folder: the folder to make, or a link to it.
        fill: writes the files into the folder it is given.
        check: called when all is written: raises where what stands at ``folder`` by then must stay.

    Raises:
        UserError: where the disk refuses, and where somebody else made ``folder`` in the last moment.
    """
    target = _real(folder)
    make_folder(target.parent)
    _tidy(target)
    with writing(folder), _names_beside(target) as names:
        names.new.mkdir(mode=0o700)
        fill(names.new)
        names.new.chmod(0o755)
        # Asked before check(), so that nothing is replaced that check() has not seen.
        there = target.exists()
        if check is not None:
            check()
        _swap(folder, target, names, there)


def _real(folder: Path) -> Path:
    """Where a folder really stands: a link is not to be replaced by a folder, and ``.`` cannot be renamed."""
    try:
        return Path(folder).resolve()
    except (OSError, RuntimeError):  # RuntimeError until Python 3.12
        raise UserError(f"cannot write {folder}: its symbolic links lead in a circle") from None


def _is_where_we_are(target: Path) -> bool:
    try:
        here = Path.cwd()
    except FileNotFoundError:
        return False
    return target == here or target in here.parents


@dataclass(frozen=True)
class _Names:
    """What one process has beside a folder.

    Attributes:
        lock: held while the process lives.
        new: what may be removed at any time: the new folder until it is complete, the old one when it is replaced.
        old: the old folder, for the moment between the two renames.
    """

    lock: Path
    new: Path
    old: Path


def _names(target: Path, token: str) -> _Names:
    return _Names(*(target.with_name(f".{target.name}.{token}.{kind}") for kind in ("lock", "new", "old")))


@contextmanager
def _names_beside(target: Path) -> Iterator[_Names]:
    """Free names beside a folder, under a lock that keeps other processes' hands off them; all are gone afterwards."""
    names = _names(target, secrets.token_hex(4))
    with FileLock(names.lock):
        try:
            yield names
        finally:
            _settle(target, names)


def _swap(folder: Path, target: Path, names: _Names, there: bool) -> None:
    """Rename the new folder to its place, which an old one leaves first; :func:`_settle` sees to that one."""
    if there:
        with suppress(FileNotFoundError):  # somebody else has moved it aside since
            os.rename(target, names.old)
    try:
        os.rename(names.new, target)
    except OSError as error:
        if not os.path.lexists(target):
            raise
        left = f"; what it was to replace is in {names.old}" if there else ""
        raise UserError(f"{folder} was made by somebody else meanwhile and is left as it is{left}") from error


def _settle(target: Path, names: _Names) -> None:
    """Put the old folder back where its place is empty, or remove it where the new one has taken that place."""
    with suppress(OSError):
        if names.old.exists() and not os.path.lexists(target):
            os.rename(names.old, target)
        elif names.old.exists() and not names.new.exists():
            # Renamed before it is removed: what a stop leaves of it is nothing to put back.
            os.rename(names.old, names.new)
    shutil.rmtree(names.new, ignore_errors=True)
    # A lock's file is what the next process finds: it stays where there is something left to settle.
    if not names.new.exists() and (os.path.lexists(target) or not names.old.exists()):
        names.lock.unlink(missing_ok=True)


def _tidy(target: Path) -> None:
    """:func:`_settle` for processes that were killed: nobody holds their locks."""
    token = re.compile(rf"\.{re.escape(target.name)}\.([0-9a-f]{{8}})\.lock")
    with suppress(OSError):  # a parent folder that is not there or cannot be read
        found = (token.fullmatch(name) for name in sorted(os.listdir(target.parent)))
        for names in [_names(target, match[1]) for match in found if match]:
            with suppress(Timeout, OSError), FileLock(names.lock, timeout=0):
                _settle(target, names)
