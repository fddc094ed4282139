"""Our data sets in RecBole's format: ``<name>.<part>.inter`` files with user and item columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mml_plugin.data.interactions import Interactions
from mml_plugin.files import atomic_write


def write_atomic_files(data: Interactions, folder: Path, held_out: Interactions | None = None) -> Path:
    """Write train, valid and test parts for RecBole's ``benchmark_filename: [train, valid, test]``.

    Args:
        data: the data set.
        folder: ``<data_path>/<name>``; the files take its last part as their name.
        held_out: a data set whose test interactions become the valid part; by default the valid part is test, which is
            the paper's protocol (best epoch on test).

    Returns:
        the folder.
    """
    valid = held_out if held_out is not None else data
    parts = {
        "train": (data.train_users, data.train_items),
        "valid": (valid.test_users, valid.test_items),
        "test": (data.test_users, data.test_items),
    }
    for part, (users, items) in parts.items():
        with atomic_write(folder / f"{folder.name}.{part}.inter") as stream:
            stream.write("user_id:token\titem_id:token\n")
            for user, item in zip(np.asarray(data.user_ids)[users].tolist(), np.asarray(data.item_ids)[items].tolist()):
                stream.write(f"{user}\t{item}\n")
    return folder
