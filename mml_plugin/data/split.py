"""The held-out split: a validation part carved from train, by seed, with nothing of test in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mml_plugin.data import convert
from mml_plugin.data.interactions import Interactions
from mml_plugin.errors import UserError
from mml_plugin.folders import build_folder


@dataclass(frozen=True)
class HeldOut:
    """A training part and a validation part of one train split.

    Attributes:
        training: users and items of the whole set, training interactions of the training part only.
        indptr, items: the validation interactions by user row.
    """

    training: Interactions
    indptr: np.ndarray
    items: np.ndarray


def held_out(data: Interactions, share: float, seed: int) -> HeldOut:
    """Carve ``share`` of each user's training items away; each user and each item keeps at least one.

    Args:
        data: only its training part is read.
        share: in (0, 0.5]; a user's number is rounded, and 0 for a user with one item.
        seed: of the choice.

    Raises:
        UserError: for a share out of range.
    """
    if not 0 < share <= 0.5:
        raise UserError(f"the validation share must be in (0, 0.5], got {share!r}")
    users, items = data.train_users, data.train_items
    priority = np.random.Generator(np.random.Philox(seed)).random(len(items))
    by_priority = np.lexsort((priority, users))
    rank = np.empty(len(items), np.int64)
    rank[by_priority] = np.arange(len(items)) - data.train_indptr[users[by_priority]]
    sizes = np.diff(data.train_indptr)
    carve = np.minimum(np.rint(share * sizes).astype(np.int64), np.maximum(sizes - 1, 0))
    valid = rank < carve[users]
    valid &= ~_would_vanish(items, valid, priority, data.num_items)
    valid &= ~_also_in_training(users, items, valid, data.num_items)
    counts = np.bincount(users[valid], minlength=data.num_users)
    return HeldOut(data.with_train(~valid), np.concatenate([[0], np.cumsum(counts)]), items[valid])


def _would_vanish(items: np.ndarray, valid: np.ndarray, priority: np.ndarray, num_items: int) -> np.ndarray:
    """Marks one carved interaction of every item that would have no training interaction left."""
    left = np.bincount(items[~valid], minlength=num_items)
    candidates = np.flatnonzero(valid & (left[items] == 0))
    order = candidates[np.lexsort((-priority[candidates], items[candidates]))]
    first = np.ones(len(order), bool)
    first[1:] = items[order][1:] != items[order][:-1]
    mark = np.zeros(len(items), bool)
    mark[order[first]] = True
    return mark


def _also_in_training(users: np.ndarray, items: np.ndarray, valid: np.ndarray, num_items: int) -> np.ndarray:
    """Marks carved interactions whose duplicate stayed in training: they would be known already."""
    pairs = users.astype(np.int64) * num_items + items
    return valid & np.isin(pairs, pairs[~valid])


def write_held_out(split: HeldOut, folder: Path) -> None:
    """Write ``train.csv``, ``valid.csv`` and ``item_corpus.csv`` of a split; test is not read."""

    def fill(work: Path) -> None:
        convert.write_corpus(split.training, work / "item_corpus.csv")
        convert.write_train(split.training, work / "train.csv")
        convert.write_evaluation(split.training, split.indptr, split.items, work / "valid.csv")

    build_folder(folder, fill)


def write_final_test(split: HeldOut, folder: Path) -> None:
    """Write ``test.csv`` with histories of the training part: the one step that ranks test, taken at the end."""
    data = split.training
    convert.write_evaluation(data, data.test_indptr, data.test_items, Path(folder) / "test.csv")
