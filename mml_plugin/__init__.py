"""The Multi-Margin Loss and its rivals for collaborative filtering, plugged into reczoo from outside.

Using a loss needs torch and pydantic alone: recbox and fuxictr load when their host is used. torch itself loads with
the first loss, so that the command line can set up its threads before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mml_plugin.errors import UserError

if TYPE_CHECKING:
    from mml_plugin.registry import available_losses, build_loss, get_spec

__version__ = "0.2.0.dev0"
__all__ = [
    "UserError",
    "__version__",
    "available_losses",
    "build_loss",
    "get_spec",
    "register",
    "registered",
    "unregister",
]


def __getattr__(name: str) -> Any:
    if name not in ("available_losses", "build_loss", "get_spec"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mml_plugin import registry

    return getattr(registry, name)


def register() -> None:
    """Let stock recbox models accept our losses by name (see :mod:`mml_plugin.hosts.recbox`)."""
    from mml_plugin.hosts import recbox

    recbox.register()


def unregister() -> None:
    """Put back the very objects that :func:`register` replaced."""
    from mml_plugin.hosts import recbox

    recbox.unregister()


def registered() -> Any:
    """A context manager: :func:`register` on entry, :func:`unregister` on exit."""
    from mml_plugin.hosts import recbox

    return recbox.registered()
