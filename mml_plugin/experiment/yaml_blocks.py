"""YAML files of named blocks, read with the line of every key and without executing anything."""

from __future__ import annotations

from collections.abc import Iterator
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


def read_blocks(path: Path) -> dict[str, dict[str, Value]]:
    """The top-level blocks of a file: name -> key -> value.

    Raises:
        UserError: for a file that is not YAML, a block that is not a mapping, and a key or block that stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return {}
        blocks = {}
        for name, node, _ in _pairs(loader, root, path, "the file"):
            pairs = _pairs(loader, node, path, f"block {name!r}")
            blocks[name] = {k: Value(_constructed(loader, v, path, at), f"{path}, line {at}") for k, v, at in pairs}
        return blocks
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}" if mark else str(path)
        raise UserError(f"{where}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    finally:
        loader.dispose()


def _constructed(loader: yaml.SafeLoader, node: yaml.Node, path: Path, line: int) -> Any:
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # a date that the calendar lacks, or a number that is none
        raise UserError(f"{path}, line {line}: not valid YAML: {error}") from None


def _pairs(loader: yaml.SafeLoader, node: yaml.Node, path: Path, what: str) -> Iterator[tuple[str, yaml.Node, int]]:
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}, line {node.start_mark.line + 1}: {what} must be a mapping of keys to values")
    written = [k.value for k, _ in node.value if k.tag != "tag:yaml.org,2002:merge"]
    loader.flatten_mapping(node)
    seen: dict[str, int] = {}
    merged = len(node.value) - len(written)
    for position, (key, value) in enumerate(node.value):
        name, line = str(loader.construct_object(key)), key.start_mark.line + 1
        if name in seen and position >= merged + written.index(key.value) + 1:
            raise UserError(f"{path}, line {line}: {name!r} stands twice in {what} (also in line {seen[name]})")
        seen[name] = line
        yield name, value, line
