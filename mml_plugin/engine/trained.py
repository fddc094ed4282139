"""What a training trains and keeps: the model's parameters, and those of a loss that has some, by recbox's names."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from mml_plugin.engine.declaration import Declaration
from mml_plugin.errors import UserError


def trained_parameters(module: nn.Module, loss: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that a step moves.

    A loss of one's own may have parameters, a learnt temperature say. recbox trains them with the model's, as
    ``loss_fn.temperature``, clipped and regularised with them.

    Args:
        module: owns the model's parameters.
        loss: the loss; one that is a part of ``module`` adds nothing.
    """
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not _is_part(loss, module):
        found |= {f"{_prefix(loss)}{name}": p for name, p in loss.named_parameters() if p.requires_grad}
    return found


def weights_of(module: nn.Module, loss: nn.Module) -> dict[str, Tensor]:
    """Name -> tensor of what a checkpoint keeps of both; recbox's ``state_dict`` of the same model and loss."""
    found = dict(module.state_dict())
    if not _is_part(loss, module):
        found |= {f"{_prefix(loss)}{name}": tensor for name, tensor in loss.state_dict().items()}
    return found


def check_declared(model: Declaration, parameters: Mapping[str, nn.Parameter]) -> None:
    """Refuse a declared table that is not trained.

    Raises:
        UserError: for one that is frozen, and for a view or copy of a parameter.
    """
    tables = {
        "user_table": model.user_table,
        "item_table": model.item_table,
        "history table": None if model.history is None else model.history.table,
    }
    for name, table in tables.items():
        if table is not None and not any(table is parameter for parameter in parameters.values()):
            frozen = isinstance(table, nn.Parameter) and not table.requires_grad
            why = "it is frozen" if frozen else "it must be the parameter itself, not a view or a copy of one"
            towers = (
                "; items that are not to be trained can be declared as an item_tower" if name == "item_table" else ""
            )
            raise UserError(f"the declared {name} is none of the model's trained parameters: {why}{towers}")


def _is_part(loss: nn.Module, module: nn.Module) -> bool:
    return any(part is loss for part in module.modules())


def _prefix(loss: nn.Module) -> str:
    """Where recbox's model has the loss: behind what brings it the batch's users, where it needs them."""
    return "loss_fn.loss." if getattr(loss, "needs_users", False) else "loss_fn."
