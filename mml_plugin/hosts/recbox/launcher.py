"""Somebody else's reczoo script, run as ``python run_expid.py ...`` would, with our losses and shims in place.

Nothing in its checkout is edited, and nothing is left there but what the script itself writes: no ``__pycache__``.
"""

from __future__ import annotations

import ast
import os
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mml_plugin.errors import UserError
from mml_plugin.hosts.recbox import shims
from mml_plugin.hosts.recbox.plugging import registered

SCRIPT = "run_expid.py"
_ASSERTED = re.compile(r"recbox\.__version__\s*==\s*[\"']([^\"']+)[\"']")


def run_script(script: str | os.PathLike[str], arguments: Sequence[str] = ()) -> None:
    """Run a reczoo-style matching script in this process.

    Args:
        script: ``run_expid.py``, or the folder that holds it.
        arguments: the script's own, as they would follow its name on the command line. reczoo's script changes into
            its own folder first, so relative paths among them are relative to that folder.

    Raises:
        UserError: when it is no such script, or asks for a recbox that we do not know.
        SystemExit: when the script exits by itself; its own errors pass through as they are.
    """
    path = find_script(script)
    check_script(path)
    with registered(), _started_as(path, str(script), arguments):
        runpy.run_path(str(path), run_name="__main__")


def find_script(script: str | os.PathLike[str]) -> Path:
    """The absolute path of the script; a :class:`UserError` when there is none."""
    path = Path(script)
    if path.is_dir():
        path = path / SCRIPT
    if not path.is_file():
        raise UserError(f"there is no script {path}; name the {SCRIPT} of a reczoo-style folder, or the folder")
    return path.absolute()


def check_script(path: Path) -> None:
    """Raise a :class:`UserError` unless ``path`` looks like a reczoo matching script for the recbox that we know."""
    imported = _imports(path)
    if "recbox" not in imported:
        theirs = "fuxictr's (docs/fuxictr.md)" if "fuxictr" in imported else "not reczoo-like"
        raise UserError(f"{path} is {theirs}: it does not import recbox, so there is nothing to plug into")
    folder = path.resolve().parent
    if "src" in imported and not any((folder / name).is_file() for name in ("src/__init__.py", "src.py")):
        raise UserError(f"{path} imports src, and {folder} has no src/__init__.py: the checkout is incomplete")
    wanted = _asserted_version(folder / "recbox_version.py")
    if wanted not in (None, shims.SUPPORTED):
        raise UserError(f"{folder / 'recbox_version.py'} asks for recbox {wanted}; we work with {shims.SUPPORTED} only")
    shims.check_version()


def _imports(path: Path) -> set[str]:
    """The top-level names of everything that a file imports."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is not a Python script: {error}") from None
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _asserted_version(path: Path) -> str | None:
    try:
        found = _ASSERTED.search(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None
    return found[1] if found else None


@contextmanager
def _started_as(path: Path, name: str, arguments: Sequence[str]) -> Iterator[None]:
    """The interpreter's state as ``python <name> <arguments>`` has it, but without writing byte code."""
    before = sys.argv, list(sys.path), sys.dont_write_bytecode, os.environ.get("PYTHONDONTWRITEBYTECODE"), os.getcwd()
    sys.argv = [name if Path(name).is_file() else str(Path(name) / SCRIPT), *arguments]
    # Python puts its own script's folder (or the working directory) first; the script must find its own there.
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]
    sys.path.insert(0, str(path.resolve().parent))
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    try:
        yield
    finally:
        sys.argv, sys.path[:], sys.dont_write_bytecode, variable, folder = before
        if variable is None:
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        else:
            os.environ["PYTHONDONTWRITEBYTECODE"] = variable
        os.chdir(folder)
