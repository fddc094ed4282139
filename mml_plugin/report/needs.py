"""What a report needs to be installed; asked before hours of training, not after."""

from __future__ import annotations

import importlib.util

from mml_plugin.errors import UserError

PACKAGES = ("matplotlib", "scipy", "statsmodels")


def check_installed() -> None:
    """A :class:`UserError` that says what to install when a package for plots or tests is missing."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"reports need {' and '.join(missing)}: pip install {' '.join(missing)}")
