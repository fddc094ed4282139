"""Tell a host model's loss who the users of each batch are."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class TeachableLoss(nn.Module):
    """A host's wrapper around a loss, with the ``users`` of the batch that :func:`tell_users` told last.

    A pickled model comes back without the method that tells, so the users stay behind: such a loss is an error for want
    of users, where those of an old batch would give wrong numbers.
    """

    users: Tensor | None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "users": None}


def tell_users(model: nn.Module, users_of: Callable[[Any], Tensor]) -> None:
    """Before each ``model.forward(batch)``, set ``model.loss_fn.users`` to ``users_of(batch)`` on the model's device.

    The method itself is replaced, on this one model: both hosts train by ``model.forward(batch)``, which no forward
    hook sees. A copy of the model tells its own loss.
    """

    def forward(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if hasattr(self.loss_fn, "users"):
            self.loss_fn.users = users_of(inputs).to(self.device)
        return type(self).forward(self, inputs, *args, **kwargs)

    model.forward = types.MethodType(forward, model)  # type: ignore[method-assign]
