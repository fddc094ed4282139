"""Which tables' rows take their optimiser steps late: those of which a batch reads few."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from mml_plugin.engine.declaration import Declaration
from mml_plugin.engine.settings import Settings
from mml_plugin.engine.step import Batch

# A table of so many times a batch's rows is read seldom enough for late steps to save time.
SELDOM = 16


def seldom_read(
    model: Declaration, parameters: Mapping[str, nn.Parameter], settings: Settings, reads_history: bool
) -> dict[str, Callable[[Batch], Tensor]]:
    """The names of such tables -> the rows that a batch reads; none where something else may read any row.

    Args:
        model: the declaration.
        parameters: name -> every trained parameter.
        settings: batch size and negatives.
        reads_history: whether user vectors are made of items, too.
    """
    if model.item_tower is not None or reads_history:
        return {}
    size = settings.batch_size
    tables = [
        (model.user_table, size, lambda batch: batch.users),
        (model.item_table, size * (1 + settings.num_negs), lambda batch: batch.index.flatten()),
    ]
    biases = (model.user_bias, model.item_bias, model.global_bias)
    found = {}
    for name, parameter in parameters.items():
        mine = [(read, rows_of) for table, read, rows_of in tables if table is parameter]
        alone = len(mine) == 1 and not any(bias is parameter for bias in biases)
        if alone and len(parameter) >= SELDOM * mine[0][0]:
            found[name] = mine[0][1]
    return found
