"""What a training trains and keeps: the model's parameters, and those of a loss that has some, by recbox's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from mml_plugin.engine.declaration import Declaration
from mml_plugin.errors import UserError

Loss = nn.Module | Callable[..., Tensor]


def trained_parameters(module: nn.Module, loss: Loss) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that a step moves, each once.

    A loss of one's own may have parameters, a learnt temperature say. recbox trains them with the model's, as
    ``loss_fn.temperature``, clipped and regularised with them.

    Args:
        module: owns the model's parameters.
        loss: the loss; one that is a function, or a part of ``module``, adds nothing.
    """
    found = {name: p for name, p in module.named_parameters() if _is_trained(p)}
    known = {id(parameter) for parameter in found.values()}
    if (apart := _apart(loss, module)) is not None:
        own = {f"{_prefix(loss)}{name}": p for name, p in apart.named_parameters() if _is_trained(p)}
        found |= {name: p for name, p in own.items() if id(p) not in known}
    return found


def weights_of(module: nn.Module, loss: Loss) -> dict[str, Tensor]:
    """Name -> tensor of what a checkpoint keeps of both; recbox's ``state_dict`` of the same model and loss."""
    found = dict(module.state_dict())
    if (apart := _apart(loss, module)) is not None:
        found |= {f"{_prefix(loss)}{name}": tensor for name, tensor in apart.state_dict().items()}
    return {name: tensor for name, tensor in found.items() if isinstance(tensor, Tensor)}


def settle_loss(loss: Loss, like: Tensor) -> None:
    """Bring a loss to a table's device, and the parameters of it that are trained to the table's type.

    A backend's passes take what is trained on one device and of one type.
    """
    if isinstance(loss, nn.Module):
        loss.to(like.device)
        for parameter in filter(_is_trained, loss.parameters()):
            parameter.data = parameter.data.to(like.dtype)


def check_declared(model: Declaration, parameters: Mapping[str, nn.Parameter], loss: Loss) -> None:
    """Refuse a declared table that is not trained, and a loss that has one as its own.

    Raises:
        UserError: for a table that is frozen, for a view or copy of a parameter, and for one that the loss has.
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

    biases = (model.user_bias, model.item_bias, model.global_bias)
    declared = {id(table) for table in (*tables.values(), *biases) if table is not None}
    for name, parameter in loss.named_parameters() if isinstance(loss, nn.Module) else ():
        # Rows that no batch reads wait for their steps, and a loss that reads whole tables would see them late.
        if id(parameter) in declared:
            raise UserError(
                f"the loss's parameter {name} is a table of the model's, which --engine fast cannot train so"
            )


def _is_trained(parameter: nn.Parameter) -> bool:
    return parameter.requires_grad and parameter.numel() > 0


def _apart(loss: Loss, module: nn.Module) -> nn.Module | None:
    """The loss where it has a state that is not the module's."""
    if not isinstance(loss, nn.Module) or any(part is loss for part in module.modules()):
        return None
    return loss


def _prefix(loss: Loss) -> str:
    """Where recbox's model has the loss: behind what brings it the batch's users, where it needs them."""
    return "loss_fn.loss." if getattr(loss, "needs_users", False) else "loss_fn."
