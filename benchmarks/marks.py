"""Pages with parts that a script writes, between ``<!-- name:begin -->`` and ``<!-- name:end -->``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write


def fill(path: Path, parts: Mapping[str, str]) -> None:
    """Put each text between the marks of its name; the rest of the page stays.

    Raises:
        UserError: when the page lacks a mark; it is left as it is.
    """
    page = path.read_text(encoding="utf-8")
    for name, text in parts.items():
        begin, end = _bounds(page, name, path)
        page = f"{page[:begin]}\n{text}\n{page[end:]}"
    with atomic_write(path) as stream:
        stream.write(page)


def written(path: Path, name: str) -> str:
    """What stands between the marks of a name.

    Raises:
        UserError: when the page lacks a mark.
    """
    page = path.read_text(encoding="utf-8")
    begin, end = _bounds(page, name, path)
    return page[begin:end].strip("\n")


def _bounds(page: str, name: str, path: Path) -> tuple[int, int]:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    start = page.find(begin) + len(begin)
    stop = page.find(end, start)
    if begin not in page or stop < 0:
        raise UserError(f"{path} lacks a line {begin} with a line {end} below it; put both where the table is to stand")
    return start, stop
