"""What RecBole 1.2 needs on a current numpy, and our models under their names; all of it can be taken back.

- ``Config`` assigns ``np.float_`` and other names that numpy 2 does not have, so that no configuration can be made; the
  modules on our path that read such names get an ``np`` of their own instead.
- ``get_model`` looks inside RecBole alone: it is told about ``SampledMF`` and ``SampledSimpleX``, in the modules that
  hold it by name; every other name reaches RecBole.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy

from mml_plugin.errors import UserError
from mml_plugin.hosts.patches import ModuleProxy, Patches

SUPPORTED = ("1.2.0", "1.2.1")
MODELS = ("SampledMF", "SampledSimpleX")
_OLD_NAMES = {"float": float, "int": int, "bool": bool, "object": object}
_patches = Patches()


def check_version() -> None:
    """Raise a :class:`UserError` unless a RecBole that we know is installed."""
    try:
        found = importlib.metadata.version("recbole")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(
            f"RecBole is not installed: pip install recbole=={SUPPORTED[-1]}, in an environment without fuxictr "
            "(docs/recbole.md)"
        ) from None
    if found not in SUPPORTED:
        raise UserError(f"RecBole {found} is not supported; these work: {', '.join(SUPPORTED)}")


def _knowing_ours(original: Callable[[str], type]) -> Callable[[str], type]:
    @functools.wraps(original)
    def get_model(model_name: str) -> type:
        if model_name not in MODELS:
            return original(model_name)
        return getattr(importlib.import_module("mml_plugin.hosts.recbole.models"), model_name)

    return get_model


def register() -> None:
    """Put the shims in place and let RecBole find our models by name. Idempotent.

    Raises:
        UserError: when RecBole is missing or of another version.
    """
    if _patches.active:
        return
    check_version()
    configurator = importlib.import_module("recbole.config.configurator")
    utils, inner = importlib.import_module("recbole.utils"), importlib.import_module("recbole.utils.utils")
    changes: list[tuple[Any, str, Any]] = [
        (module, "get_model", _knowing_ours(inner.get_model)) for module in (configurator, utils, inner)
    ]
    if not hasattr(numpy, "float_"):
        changes.append((configurator.Config, "compatibility_settings", lambda self: None))
        metrics = importlib.import_module("recbole.evaluator.metrics")
        changes.append((metrics, "np", ModuleProxy(numpy, **_OLD_NAMES)))
    _patches.apply(changes)


def unregister() -> None:
    """Put back the very objects that :func:`register` replaced. Idempotent."""
    _patches.undo()


def is_registered() -> bool:
    """Whether :func:`register` is in force."""
    return _patches.active


def registered() -> AbstractContextManager[None]:
    """:func:`register` for the length of a block; a registration from outside the block stays."""
    return _patches.during(register)
