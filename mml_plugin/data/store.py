"""A data set's folder: ``train.txt``, ``test.txt``, reczoo's CSV files and ``dataset.json``, complete or not there."""

from __future__ import annotations

import json
import logging
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mml_plugin.data import convert
from mml_plugin.data.ids import are_whole_numbers, check_ids
from mml_plugin.data.interactions import Interactions
from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write, checksum
from mml_plugin.folders import build_folder, check_place

# What a data set's folder holds.
FILES = ("train.txt", "test.txt", "train.csv", "test.csv", "item_corpus.csv", "dataset.json")
# A folder with this one is a data set of ours: others may hold the only copy of somebody's files.
MARKS = ("dataset.json",)
OWN = (*FILES, "users.txt", "items.txt")


def store(data: Interactions, folder: Path, source: str, notes: tuple[str, ...] = (), overwrite: bool = False) -> Path:
    """Write a data set's folder; it appears under its name only when it is complete.

    Args:
        data: the interactions.
        folder: the folder to make.
        source: where they come from, in words.
        notes: what a user should know, kept in ``dataset.json``.
        overwrite: replace an existing data set.

    Raises:
        UserError: when the folder exists (unless ``overwrite``, and always where it is no data set) or cannot be
            written.
    """
    folder = Path(folder)
    check = partial(check_place, folder, overwrite, MARKS, "a data set", OWN)
    check()
    check_ids([("user", data.user_ids), ("item", data.item_ids)])

    def fill(work: Path) -> None:
        write_text(data, work)
        convert.write_corpus(data, work / "item_corpus.csv")
        convert.write_train(data, work / "train.csv")
        convert.write_evaluation(data, data.test_indptr, data.test_items, work / "test.csv")
        describe(data, work, source, notes)

    build_folder(folder, fill, check)
    return folder


def folder_of(root: Path, name: str) -> Path:
    """``root/name``; a :class:`UserError` for a name that is no plain folder name, whose ``--overwrite`` could reach
    beyond the data set (``..`` or ``.`` would take the whole root with it).
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise UserError(
            f"{name!r} cannot name a data set: letters, digits, '_', '-' and '.', the first a letter, digit or '_'"
        )
    return Path(root) / name


def write_text(data: Interactions, folder: Path) -> None:
    """Write ``train.txt`` and ``test.txt``, and the original ids beside them where numbers alone would not bring back
    every id in its place.
    """
    numeric = _come_back_from_numbers(data)
    users = data.user_ids if numeric else np.arange(data.num_users).astype(str)
    items = (data.item_ids if numeric else np.arange(data.num_items).astype(str)).astype(object)
    for name, indptr, rows in (
        ("train.txt", data.train_indptr, data.train_items),
        ("test.txt", data.test_indptr, data.test_items),
    ):
        with atomic_write(folder / name) as stream:
            for user in np.flatnonzero(np.diff(indptr)).tolist():
                stream.write(f"{users[user]} {' '.join(items[rows[indptr[user] : indptr[user + 1]]].tolist())}\n")
    if not numeric:
        for name, ids in (("users.txt", data.user_ids), ("items.txt", data.item_ids)):
            with atomic_write(folder / name) as stream:
                stream.write("\n".join(ids.tolist()) + "\n")


def _come_back_from_numbers(data: Interactions) -> bool:
    """Whether :func:`~mml_plugin.data.interactions.from_lines` finds all ids in their order in the lines alone: users
    in the order of train, those of test only behind them, items by number.
    """
    if not (are_whole_numbers(data.user_ids) and are_whole_numbers(data.item_ids)):
        return False
    used = np.zeros(data.num_items, bool)
    used[data.train_items] = used[data.test_items] = True
    trained, tested = np.diff(data.train_indptr) > 0, np.diff(data.test_indptr) > 0
    in_order = np.all(np.diff(data.item_ids.astype(np.int64)) > 0) and np.all(trained[:-1] >= trained[1:])
    return bool(in_order and used.all() and (trained | tested).all())


def describe(data: Interactions, folder: Path, source: str, notes: tuple[str, ...]) -> None:
    """Write ``dataset.json``: counts, fingerprint, checksums, source and notes."""
    for note in notes:
        logging.warning("%s", note)
    content: dict[str, Any] = {
        "users": data.num_users,
        "items": data.num_items,
        "train": len(data.train_items),
        "test": len(data.test_items),
        "fingerprint": data.fingerprint,
        "md5": {name: checksum(folder / name) for name in ("train.txt", "test.txt")},
        "source": source,
        "notes": list(notes),
    }
    with atomic_write(folder / "dataset.json") as stream:
        json.dump(content, stream, indent=2)
        stream.write("\n")
