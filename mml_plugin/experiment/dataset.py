"""The data of one run: which files an engine reads under which protocol, and whose rows are whose."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mml_plugin.data import split
from mml_plugin.data.interactions import Interactions, load
from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write, make_folder

if TYPE_CHECKING:
    from mml_plugin.experiment.run import Context

HELD_OUT_SEED = 2019


@dataclass(frozen=True)
class RunData:
    """Files for the recbox engine, and the interactions behind them.

    Attributes:
        interactions: the whole data set (train and test).
        training: what the model may learn from: all of train, or its part under ``held-out``.
        paths: the config keys ``train_data``, ``valid_data``, ``test_data``, ``item_corpus``.
        cache_root: where recbox's h5 files go.
        folder: the data set's folder.
    """

    interactions: Interactions
    training: Interactions
    paths: dict[str, str]
    cache_root: Path
    folder: Path

    def summary(self) -> dict[str, Any]:
        """What ``result.json`` says about the data."""
        return {
            "folder": self.folder.name,
            "fingerprint": self.interactions.fingerprint,
            "users": self.interactions.num_users,
            "items": self.interactions.num_items,
            "train": len(self.interactions.train_items),
            "test": len(self.interactions.test_items),
        }
