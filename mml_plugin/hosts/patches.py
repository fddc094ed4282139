"""Attributes replaced on a host's objects at run time, and the way back to the very same objects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Patches:
    """What one host has replaced. Each change is ``(owner, attribute, new value)``."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any]] = []

    @property
    def active(self) -> bool:
        """Whether anything is replaced."""
        return bool(self._undo)

    def apply(self, changes: Iterable[tuple[Any, str, Any]]) -> None:
        """Replace attributes that stand on the owners themselves, remembering the old objects."""
        for owner, name, value in changes:
            self._undo.append((owner, name, owner.__dict__[name]))
            setattr(owner, name, value)

    def undo(self) -> None:
        """Put every old object back, the last one first; nothing to do is fine."""
        while self._undo:
            owner, name, value = self._undo.pop()
            setattr(owner, name, value)

    @contextmanager
    def during(self, register: Callable[[], None]) -> Iterator[None]:
        """``register`` for the length of a block; what was in force before it stays in force."""
        before = self.active
        register()
        try:
            yield
        finally:
            if not before:
                self.undo()


class ModuleProxy:
    """A module with a few names of its own, to stand in for it inside one module of a host."""

    def __init__(self, module: ModuleType, **names: Any) -> None:
        self.__dict__.update(names)
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)
