"""YAML files of named blocks, read with the line of every key and without executing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mml_plugin.errors import UserError


@dataclass(frozen=True)
class Value:
    """One value and where it stands.

    Attributes:
        value: as PyYAML's safe loader reads it.
        where: file and line in words.
    """

    value: Any
    where: str


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which also refuses a key that stands twice: it would keep the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # As written: what a merge key (<<) brings in may stand there again.
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            name = (key.tag, key.value)
            if name in lines:
                problem = f"{key.value!r} stands twice (also in line {lines[name]})"
                raise yaml.composer.ComposerError(None, None, problem, key.start_mark)
            lines[name] = key.start_mark.line + 1
        return node


def read_value(text: str) -> Any:
    """One value, as the safe loader reads it.

    Raises:
        UserError: saying what is no YAML in it.
    """
    with _reading(text, None) as loader:
        return loader.get_single_data()


def read_document(path: Path) -> Any:
    """All of a file.

    Raises:
        UserError: for a file that cannot be read or is not YAML, with the line.
    """
    with _reading(_text(path), path) as loader:
        return loader.get_single_data()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None


@contextmanager
def _reading(text: str, path: Path | None) -> Iterator[_Loader]:
    """A loader of the text; whatever is wrong with that is one sentence, which begins with the file and the line."""

    def wrong(what: object, line: int | None = None) -> UserError:
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        return UserError(f"{place}not valid YAML: {what}")

    loader = None
    try:
        loader = _Loader(text)
        yield loader
    except UserError:
        raise
    except yaml.reader.ReaderError as error:
        character = f"it holds the character U+{error.character:04X}"
        raise wrong(character, text.count("\n", 0, error.position) + 1) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise wrong(getattr(error, "problem", None) or error, mark.line + 1 if mark else None) from None
    except ValueError as error:  # a date that the calendar lacks, or a number that is none
        raise wrong(error) from None
    except RecursionError:
        raise wrong("it is nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def read_blocks(path: Path) -> dict[str, dict[str, Value]]:
    """The top-level blocks of a file: name -> key -> value.

    Raises:
        UserError: for a file that is not YAML, a block that is not a mapping, and a key or block that stands twice.
    """
    with _reading(_text(path), path) as loader:
        root = loader.get_single_node()
        if root is None:
            return {}
        blocks = {}
        for name, node, _ in _pairs(loader, root, path, "the file"):
            pairs = _pairs(loader, node, path, f"block {name!r}")
            blocks[name] = {k: Value(_constructed(loader, v, path, at), f"{path}, line {at}") for k, v, at in pairs}
        return blocks


def _constructed(loader: _Loader, node: yaml.Node, path: Path, line: int) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # a date that the calendar lacks, or a number that is none
        raise UserError(f"{path}, line {line}: not valid YAML: {error}") from None


def _pairs(loader: _Loader, node: yaml.Node, path: Path, what: str) -> Iterator[tuple[str, yaml.Node, int]]:
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}, line {node.start_mark.line + 1}: {what} must be a mapping of keys to values")
    loader.flatten_mapping(node)
    for key, value in node.value:
        line = key.start_mark.line + 1
        yield str(_constructed(loader, key, path, line)), value, line
