"""Two wrappers on FuxiCTR's ``BaseModel``: one remembers the configuration, one puts our loss in."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from mml_plugin.errors import UserError
from mml_plugin.hosts.batch_users import TeachableLoss, tell_users
from mml_plugin.hosts.patches import Patches
from mml_plugin.registry import get_spec, is_known, params_from_config

FUXICTR_NAMES = frozenset({"bce", "binary_crossentropy", "binary_cross_entropy"})
_patches = Patches()


class ListwiseLoss(TeachableLoss):
    """One of our losses behind FuxiCTR's call ``loss_fn(y_pred, y_true, reduction='mean')``."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.users = None

    def forward(self, y_pred: Tensor, y_true: Tensor, reduction: str = "mean") -> Tensor:
        """The loss of scores ``[B, 1+N]``; FuxiCTR's labels ``[B, 1]`` are the positives'.

        Raises:
            UserError: for pointwise scores ``[B, 1]``, labels of another shape, and another reduction.
        """
        name = type(self.loss).__name__
        if y_pred.dim() != 2 or y_pred.size(1) < 2:
            raise UserError(
                f"{name} needs y_pred of shape [B, 1+N] (one positive, N negatives); this model gives "
                f"{list(y_pred.shape)}, a pointwise score"
            )
        if reduction != "mean":
            raise UserError(f"{name} gives the batch mean; reduction={reduction!r} is not available")
        if y_true.numel() != y_pred.size(0):
            raise UserError(
                f"{name} needs labels of shape [B, 1], those of the positives, beside scores {list(y_pred.shape)}; "
                f"they are {list(y_true.shape)}"
            )
        labels = torch.zeros_like(y_pred)
        labels[:, :1] = y_true.view(-1, 1)
        return self.loss(y_pred, labels, users=self.users)


def is_ours(loss: object) -> bool:
    """Whether a configured name is one that we bring to FuxiCTR."""
    theirs = isinstance(loss, str) and (loss in FUXICTR_NAMES or hasattr(torch.nn.functional, loss))
    return not theirs and is_known(loss)


def check_version() -> None:
    """Raise a :class:`UserError` unless a FuxiCTR that we know is installed."""
    try:
        found = importlib.metadata.version("fuxictr")
    except importlib.metadata.PackageNotFoundError:
        raise UserError("fuxictr is not installed: pip install 'fuxictr>=2.3.10,<2.4'") from None
    if not found.startswith("2.3."):
        raise UserError(f"fuxictr {found} is not supported: pip install 'fuxictr>=2.3.10,<2.4'")


def _wrap_init(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def init(self: Any, feature_map: Any, *args: Any, **kwargs: Any) -> None:
        original(self, feature_map, *args, **kwargs)
        self._loss_config = kwargs

    return init


def _wrap_compile(original: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(original)
    def compile(self: Any, optimizer: Any, loss: Any, lr: float) -> None:
        if not is_ours(loss):
            original(self, optimizer, loss, lr)
            return
        ours = get_spec(loss).cls(**params_from_config(loss, self._loss_config))
        original(self, optimizer, "binary_cross_entropy", lr)
        self.loss_fn = ListwiseLoss(ours)
        if ours.needs_users:
            field = user_field(self.feature_map)
            tell_users(self, lambda inputs: inputs[field])

    return compile


def user_field(feature_map: Any) -> str:
    """The feature that tells users apart: the first categorical one whose source is ``user``.

    Raises:
        UserError: when there is none.
    """
    for name, spec in feature_map.features.items():
        if spec.get("source") == "user" and spec.get("type") == "categorical":
            return name
    raise UserError(
        "a loss that needs user ids wants a categorical feature with source 'user'; the feature map has none"
    )


def register() -> None:
    """Let FuxiCTR's models accept our losses by name. Idempotent.

    Raises:
        UserError: when FuxiCTR is missing or of another version.
    """
    if _patches.active:
        return
    check_version()
    from fuxictr.pytorch.models import BaseModel

    wrappers = {"__init__": _wrap_init, "compile": _wrap_compile}
    _patches.apply([(BaseModel, name, wrap(BaseModel.__dict__[name])) for name, wrap in wrappers.items()])


def unregister() -> None:
    """Put back the very objects that :func:`register` replaced. Idempotent."""
    _patches.undo()


def is_registered() -> bool:
    """Whether :func:`register` is in force."""
    return _patches.active


def registered() -> AbstractContextManager[None]:
    """:func:`register` for the length of a block; a registration from outside the block stays."""
    return _patches.during(register)
