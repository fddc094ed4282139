"""The models: subclasses of recbox's ``MatchingModel``, importable as ``mml_plugin.model_zoo``.

A class loads when it is asked for, because it needs recbox: ``from mml_plugin.model_zoo import MF``.
"""

from __future__ import annotations

import importlib
from typing import Any

MODELS = ("MF", "SimpleX")


def __getattr__(name: str) -> Any:
    if name not in MODELS:
        raise AttributeError(f"model_zoo has no model {name!r}; known: {', '.join(MODELS)}")
    model = getattr(importlib.import_module(f"{__name__}.{name}"), name)
    # Importing the module of the same name has bound it here; the class is what the name means.
    globals()[name] = model
    return model


def __dir__() -> list[str]:
    return [*globals(), *MODELS]
