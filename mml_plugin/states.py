"""States of tensors and plain values on disk: written whole or not at all, read without executing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import torch

from mml_plugin.errors import UserError, lacking_memory
from mml_plugin.files import atomic_write


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state of tensors and plain values, complete or not at all."""
    with atomic_write(path, "wb") as stream:
        _save(state, stream)


class _Refusals:
    """A stream for ``torch.save``, which puts an error of its own in place of the operating system's."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return self._stream.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._stream.flush()


def _save(state: dict[str, Any], stream: IO[bytes]) -> None:
    """Tensor by tensor, so that no second copy of the state is in memory."""
    watched = _Refusals(stream)
    try:
        torch.save(state, cast(IO[bytes], watched))
    except RuntimeError:
        if watched.error is None:
            raise
        raise watched.error from None


def read_state(path: Path, device: torch.device, version: int) -> dict[str, Any]:
    """Read a state without executing anything in it.

    Raises:
        UserError: when it is missing, damaged or of another version.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise UserError(f"there is no checkpoint {path} to resume from") from None
    except Exception as error:  # torch raises whatever its unpickler and the zip reader raise
        if lacking_memory(error):
            raise
        raise UserError(f"checkpoint {path} is damaged ({type(error).__name__}); begin anew with --overwrite") from None
    if not isinstance(state, dict) or state.get("version") != version:
        raise UserError(f"checkpoint {path} is not one of this version; begin anew with --overwrite")
    return state


@contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """What a state of the right version lacks, or has in another shape or type, is one sentence."""
    try:
        yield
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        if lacking_memory(error):  # the checkpoint is good, and must not be thrown away
            raise
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.120}"
        raise UserError(f"checkpoint {path} is damaged ({what}); begin anew with --overwrite") from None


def check_same(path: Path, state: dict[str, Any], **now: Any) -> None:
    """Refuse to go on under other conditions than those a state was written under.

    Raises:
        UserError: naming the first difference.
    """
    for key, value in now.items():
        if state.get(key) != value:
            how = f"set OMP_NUM_THREADS={state.get(key)}" if key == "threads" else f"use {key} {state.get(key)}"
            raise UserError(
                f"{path} was written with {key} {state.get(key)} and this process has {value}: the numbers would "
                f"differ; {how} or begin anew"
            )


def check_same_data(path: Path, state: dict[str, Any], now: str) -> None:
    """Refuse to go on with other data than a state was trained on; ``now`` names the present ones.

    Raises:
        UserError: with both names.
    """
    if state.get("data") != now:
        raise UserError(
            f"{path} was trained on other data (fingerprint {state.get('data')!s:.12}) than are there now "
            f"(fingerprint {now:.12}): put the old ones back, or begin anew with --overwrite"
        )
