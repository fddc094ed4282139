"""Our losses inside stock recbox models: one wrapper around ``MatchingModel.compile``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from torch import Tensor, nn

from mml_plugin.hosts.batch_users import TeachableLoss, tell_users
from mml_plugin.hosts.patches import Patches
from mml_plugin.hosts.recbox import shims
from mml_plugin.registry import get_spec, is_known, params_from_config

# These names keep meaning recbox's own classes inside recbox.
OWN = frozenset(
    {
        "CosineContrastiveLoss",
        "MSELoss",
        "PairwiseLogisticLoss",
        "PairwiseMarginLoss",
        "SigmoidCrossEntropyLoss",
        "SoftmaxCrossEntropyLoss",
    }
)

_patches = Patches()


class WithUsers(TeachableLoss):
    """A loss with ``needs_users`` behind recbox's two-argument call; ``tell_users`` sets ``users``."""

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss
        self.users = None

    def forward(self, y_pred: Tensor, y_true: Tensor) -> Tensor:
        return self.loss(y_pred, y_true, users=self.users)


def is_ours(loss: object) -> bool:
    """Whether a configured loss name is one that we bring to recbox."""
    return loss not in OWN and is_known(loss)


def attach_loss(model: Any, loss: nn.Module) -> None:
    """Put ``loss`` on a compiled model: on its device, its parameters trained, its users supplied."""
    loss = loss.to(model.device)
    parameters = list(loss.parameters())
    if parameters:
        model.optimizer.add_param_group({"params": parameters})
    if not getattr(loss, "needs_users", False):
        model.loss_fn = loss
        return
    model.loss_fn = WithUsers(loss)
    field = user_field(model)
    tell_users(model, lambda inputs: inputs[0][field])


def user_field(model: Any) -> str:
    """The column that tells users apart: the model's ``user_id_field``, else the first user category."""
    named = getattr(model, "user_id_field", None)
    if named:
        return named
    specs = model.feature_map.feature_specs
    return next(n for n, s in specs.items() if s["source"] == "user" and s["type"] == "categorical")


def wrap_compile(original: Callable[..., None]) -> Callable[..., None]:
    """``compile`` that knows our losses and leaves every other name to recbox.

    recbox builds its optimizer and initialises weights around the loss, so ours is put in afterwards, in
    place of a loss that has no parameters and draws no random number.
    """

    @functools.wraps(original)
    def compile(self: Any, lr: float = 1e-3, optimizer: Any = None, loss: Any = None, **kwargs: Any) -> None:
        if not is_ours(loss):
            original(self, lr=lr, optimizer=optimizer, loss=loss, **kwargs)
            return
        ours = get_spec(loss).cls(**params_from_config(loss, kwargs))
        original(self, lr=lr, optimizer=optimizer, loss="MSELoss", **kwargs)
        attach_loss(self, ours)

    return compile


class NoOptimizer:
    """In an optimizer's place on a model that is trained from outside recbox."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        """Nothing is kept."""

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Nothing is trained."""


@contextmanager
def without_optimizer() -> Iterator[None]:
    """recbox models that are made in this block get no optimizer.

    The first of torch's in a process imports torch's compiler: seconds and 150 MB.
    """
    shims.import_recbox()
    from recbox.matching.pytorch.models import match_model

    patches = Patches()
    patches.apply([(match_model, "set_optimizer", lambda name: NoOptimizer)])
    try:
        yield
    finally:
        patches.undo()


def register() -> None:
    """Let every stock recbox model accept our losses by name, and put the shims in place. Idempotent.

    Raises:
        UserError: when recbox is missing or of another version.
    """
    if _patches.active:
        return
    shims.check_version()
    shims.import_recbox()
    from recbox.matching.pytorch.models import MatchingModel

    wrapped = (MatchingModel, "compile", wrap_compile(MatchingModel.compile))
    _patches.apply([*shims.replacements(), wrapped])


def unregister() -> None:
    """Put back the very objects that :func:`register` replaced. Idempotent."""
    _patches.undo()


def is_registered() -> bool:
    """Whether :func:`register` is in force."""
    return _patches.active


def registered() -> AbstractContextManager[None]:
    """:func:`register` for the length of a block; a registration from outside the block stays."""
    return _patches.during(register)
