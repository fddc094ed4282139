"""From flat parameters to a recbox model and its generators, in the order of reczoo's script."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mml_plugin.files import make_folder
from mml_plugin.hosts.recbox import dataset, shims


def prepare_training(params: Mapping[str, Any], model_class: type, cache_root: Path) -> tuple[Any, Any, Any, dict]:
    """Seed, read the data, build the model: every random draw in reczoo's order.

    Args:
        params: flat reczoo configuration with paths to CSV files.
        model_class: a ``MatchingModel`` subclass.
        cache_root: of recbox's h5 files.

    Returns:
        the model, its train and validation generators, and the parameters with h5 paths in place of CSV paths.
    """
    shims.import_recbox()
    from recbox.matching.pytorch.dataloaders import h5_generator
    from recbox.utils.torch_utils import seed_everything

    seed_everything(seed=params["seed"])
    prepared = dataset.prepare(params, cache_root)
    resolved = {**params, **prepared.h5_paths()}
    make_folder(Path(params["model_root"]) / params["dataset_id"])
    model = model_class(prepared.feature_map, **resolved)
    model.count_parameters()
    train_gen, valid_gen = h5_generator(prepared.feature_map, stage="train", **resolved)
    return model, train_gen, valid_gen, resolved
