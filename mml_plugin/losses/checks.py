"""Checks of hyper-parameters, each failing with one sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from mml_plugin.errors import UserError


def number(name: str, value: float, minimum: float | None = None, above: float | None = None) -> float:
    """``value`` as a finite float within its range (``minimum`` included, ``above`` excluded).

    Raises:
        UserError: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not _is_finite(value):
        raise UserError(f"{name} must be a finite number, got {value!r}")
    if minimum is not None and value < minimum:
        raise UserError(f"{name} must be at least {minimum:g}, got {value!r}")
    if above is not None and value <= above:
        raise UserError(f"{name} must be greater than {above:g}, got {value!r}")
    return float(value)


def _is_finite(value: Real) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def as_list(values: Any) -> list[Any]:
    """A sequence, or an array or tensor of one dimension, as a list.

    Raises:
        ValueError: for anything else, such as a set, which has no order.
    """
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes)):
        return list(values)
    if getattr(values, "ndim", None) == 1 and hasattr(values, "tolist"):
        return values.tolist()
    raise ValueError(f"neither a list nor an array of one dimension: {values!r}")


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """``value`` when it is one of ``allowed``; a :class:`UserError` otherwise."""
    if value not in allowed:
        raise UserError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


def _numbers(name: str, values: Any) -> list[Any]:
    try:
        found = as_list(values)
    except ValueError:
        found = []
    if not found:
        raise UserError(f"{name} must be a list of at least one number, got {values!r}")
    return found


def checked_margins(margins: Sequence[float], weights: Sequence[float]) -> tuple[list[float], list[float]]:
    """Equally long lists of finite margins and of weights >= 0 that are not all 0; a :class:`UserError` otherwise."""
    margins, weights = _numbers("margins", margins), _numbers("margin_weights", weights)
    if len(margins) != len(weights):
        raise UserError(
            f"margins and margin_weights must be equally long, got {len(margins)} margins and {len(weights)} weights"
        )
    levels = [number(f"margins[{k}]", m) for k, m in enumerate(margins)]
    shares = [number(f"margin_weights[{k}]", w, minimum=0.0) for k, w in enumerate(weights)]
    if not any(shares):
        raise UserError(f"margin_weights must not all be 0, got {list(weights)!r}")
    return levels, shares
