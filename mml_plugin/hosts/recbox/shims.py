"""What stock recbox 0.0.4 needs to run on a current Python: changes at run time, each taken back by name.

- ``import recbox`` asks PyPI for a DeepCTR version from a thread that has no timeout and is not a daemon,
  so a network that swallows packets keeps the interpreter alive: the module that does it is not imported.
- ``yaml.load(stream)`` without a Loader fails on PyYAML 6: recbox's module gets a ``yaml`` that loads safely.
- ``np.Inf`` is gone from numpy 2: recbox's model module gets an ``np`` that still has it.
- Paths of h5 files are patterns: recbox's loader gets a ``glob`` that takes a file's name as it is.
- Python 3.14 starts workers by forkserver, which would pickle the data set to each: not supported yet.
"""

from __future__ import annotations

import glob
import importlib
import importlib.metadata
import os
import sys
import types
from typing import Any

import numpy
import yaml

from mml_plugin.errors import UserError
from mml_plugin.hosts.patches import ModuleProxy

SUPPORTED = "0.0.4"
_CHECKER = "recbox.third_party.deepctr.utils"


def check_version() -> None:
    """Raise a :class:`UserError` unless the one recbox that we know is installed."""
    try:
        found = importlib.metadata.version("recbox")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"recbox is not installed: pip install recbox=={SUPPORTED} requests faiss-cpu") from None
    if found != SUPPORTED:
        raise UserError(f"recbox {found} is not supported: pip install recbox=={SUPPORTED}")


def import_recbox() -> None:
    """Import recbox without its network thread; nothing is left changed in ``sys.modules`` but recbox."""
    if "recbox" in sys.modules:
        return
    check_version()
    silent = types.ModuleType(_CHECKER)
    silent.check_version = lambda *_: None  # type: ignore[attr-defined]
    sys.modules[_CHECKER] = silent
    try:
        importlib.import_module("recbox")
    except ImportError as error:
        raise UserError(f"recbox cannot be imported: {error}; pip install requests faiss-cpu") from error
    finally:
        sys.modules.pop(_CHECKER, None)


def replacements() -> list[tuple[types.ModuleType, str, Any]]:
    """(module, attribute, new value) of every shim that the installed versions need."""
    match_model = importlib.import_module("recbox.matching.pytorch.models.match_model")
    core_utils = importlib.import_module("recbox.utils.core_utils")
    loader = importlib.import_module("recbox.matching.pytorch.dataloaders.h5_generator")
    wanted: list[tuple[types.ModuleType, str, Any]] = [
        (core_utils, "yaml", ModuleProxy(yaml, load=yaml.safe_load)),
        (loader, "glob", ModuleProxy(glob, glob=_named_or_matching)),
    ]
    if not hasattr(numpy, "Inf"):
        wanted.append((match_model, "np", ModuleProxy(numpy, Inf=numpy.inf)))
    return wanted


def _named_or_matching(pattern: str) -> list[str]:
    return [pattern] if os.path.exists(pattern) else glob.glob(pattern)
