"""The text format of LightGCN's splits: one user per line, ``user item item ...``."""

from __future__ import annotations

import codecs
import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mml_plugin.errors import UserError

_DIGITS, _BLANK, _TAB, _RETURN, _LINE = np.frombuffer(b"09", np.uint8), 32, 9, 13, 10
_MAX_DIGITS = 18


@dataclass(frozen=True)
class Lines:
    """Users in file order with their items in file order.

    Attributes:
        users: ``[U]`` integer user ids.
        indptr: ``[U + 1]``; user ``u`` has ``items[indptr[u]:indptr[u + 1]]``.
        items: ``[N]`` integer item ids.
    """

    users: np.ndarray
    indptr: np.ndarray
    items: np.ndarray


def read_lines(path: Path) -> Lines:
    """Read a split, plain or gzipped.

    Lines without items (LightGCN's test files have such) are users without interactions and are left out.

    Raises:
        UserError: for a missing, truncated or empty file, anything but whole numbers >= 0, and a user with two lines;
            file and line are named.
    """
    content = _read_bytes(path).removeprefix(codecs.BOM_UTF8)
    text = np.frombuffer(content, np.uint8)
    blank = (text == _BLANK) | (text == _TAB) | (text == _RETURN) | (text == _LINE)
    wrong = np.flatnonzero(~blank & ((text < _DIGITS[0]) | (text > _DIGITS[1])))
    if len(wrong):
        raise UserError(_at(path, content, int(wrong[0]), "only whole numbers >= 0 are allowed"))
    start = np.flatnonzero(~blank & np.concatenate([[True], blank[:-1]]))
    if not len(start):
        raise UserError(f"{path} is empty")
    end = np.flatnonzero(~blank & np.concatenate([blank[1:], [True]])) + 1
    long = np.flatnonzero(end - start > _MAX_DIGITS)
    if len(long):
        raise UserError(_at(path, content, int(start[long[0]]), "the number is too large"))
    # Of content.split() a million small objects would stay behind in the heap.
    numbers = np.fromstring(content.decode("ascii"), dtype=np.int64, sep=" ")
    # Each of \n, \r\n and \r ends a line; the empty one within \r\n is none of a user.
    line_ends = np.flatnonzero((text == _LINE) | (text == _RETURN))
    first = np.unique(np.searchsorted(start, np.concatenate([[0], line_ends])))
    first = first[first < len(numbers)]
    sizes = np.diff(np.append(first, len(numbers))) - 1
    keep = sizes > 0
    if not keep.any():
        raise UserError(f"{path} holds users but no item")
    users = numbers[first]
    order = np.argsort(users, kind="stable")
    twice = np.flatnonzero(users[order][1:] == users[order][:-1])
    if len(twice):
        where = int(start[first[order[twice[0] + 1]]])
        raise UserError(_at(path, content, where, f"user {users[order[twice[0]]]} already has a line"))
    is_item = np.ones(len(numbers), bool)
    is_item[first] = False
    return Lines(users[keep], np.concatenate([[0], np.cumsum(sizes[keep])]), numbers[is_item])


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a complete gzip file: {error}") from None


def _at(path: Path, content: bytes, position: int, problem: str) -> str:
    before = content[:position]
    line = before.count(b"\n") + before.count(b"\r") - before.count(b"\r\n") + 1
    begin = max(before.rfind(b"\n"), before.rfind(b"\r")) + 1
    word = content[position : position + 24].split(maxsplit=1)[0].decode("utf-8", "replace")
    column = len(content[begin:position].split()) + 1
    return f"{path}, line {line}, word {column}: {problem}, found {word!r}"


def write_lines(lines: Lines, stream) -> None:
    """Write users and items as text to an open text stream."""
    texts = lines.items.astype(str)
    for row, user in enumerate(lines.users):
        stream.write(f"{user} {' '.join(texts[lines.indptr[row] : lines.indptr[row + 1]])}\n")
