"""The files that recbox reads in one run, under either protocol, and the interactions behind them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mml_plugin.data import convert, split
from mml_plugin.data.check import in_both
from mml_plugin.data.interactions import Interactions, load
from mml_plugin.errors import UserError
from mml_plugin.experiment.identity import canonical_hash
from mml_plugin.files import make_folder, writing

HELD_OUT_SEED = 2019
TEXTS = ("train.txt", "train.txt.gz")
FILES = {"train_data": "train.csv", "valid_data": "test.csv", "item_corpus": "item_corpus.csv"}
HELD_OUT_FILES = {"train_data": "train.csv", "valid_data": "valid.csv", "item_corpus": "item_corpus.csv"}
HINTS = {"yelp18": "mml data fetch yelp18", "gowalla": "mml data fetch gowalla", "synth": "mml data synth"}


@dataclass(frozen=True)
class RunData:
    """What a run trains on.

    Attributes:
        folder: the data set's folder.
        interactions: the whole data set.
        training: what the model may learn from: all of train, or its part under ``held-out``.
        held_out: the split, under ``held-out``.
        paths: ``train_data``, ``valid_data`` and ``item_corpus`` for recbox.
        work: where derived files go.
    """

    folder: Path
    interactions: Interactions
    training: Interactions
    held_out: split.HeldOut | None
    paths: dict[str, str]
    work: Path

    @property
    def word(self) -> str:
        """The interactions and their order, as a state remembers what it was trained on."""
        return canonical_hash(data_identity(self.interactions))

    def summary(self) -> dict[str, Any]:
        """What ``result.json`` says about the data."""
        return {
            "folder": self.folder.name,
            **data_identity(self.interactions),
            "users": self.interactions.num_users,
            "test_users": self.interactions.num_test_users,
            "items": self.interactions.num_items,
            "train": len(self.interactions.train_items),
            "test": len(self.interactions.test_items),
            "trained_on": len(self.training.train_items),
        }


def data_identity(interactions: Interactions) -> dict[str, str]:
    """What a run's identity says about its data: the interactions, and the order in which train has them."""
    order = hashlib.sha256(interactions.train_items.astype("<i8").tobytes()).hexdigest()[:16]
    return {"fingerprint": interactions.fingerprint, "order": order}


def data_word(data: Mapping[str, Any]) -> str:
    """The data in a row: the interactions, and the order in which train has them, by which users are numbered.

    Args:
        data: ``fingerprint`` and ``order``, as ``result.json`` has them.
    """
    return f"{data['fingerprint'][:16]}/{data.get('order', '')[:8]}"


def data_folder(params: Mapping[str, Any]) -> Path:
    """The folder of the configured CSV files.

    Raises:
        UserError: when a file is missing (the sentence says how to get the data), and for another layout than ours.
    """
    folder = Path(params["train_data"]).parent
    for key in FILES:
        path = Path(params[key])
        if not path.is_file():
            hint = HINTS.get(folder.name, f"mml data import {folder.name} --from DIR")
            raise UserError(f"{key}: there is no file {path.resolve()}; get the data with: {hint}")
    _check_layout(params)
    return folder


def _check_layout(params: Mapping[str, Any]) -> None:
    """One folder holds all of a data set, under fixed names; any other file would be left unread without a word."""
    folder = Path(params["train_data"]).parent
    for key, name in FILES.items():
        if Path(params[key]) != folder / name:
            raise UserError(
                f"{key}: a data set is one folder with train.csv, test.csv and item_corpus.csv, so this must be "
                f"{folder / name}, got {params[key]}"
            )
    if params.get("test_data") is not None and Path(params["test_data"]) != folder / FILES["valid_data"]:
        raise UserError(
            f"test_data: {params['test_data']} would not be read: under --protocol paper valid_data is the test split; "
            "--protocol held-out selects on a validation split of its own"
        )


def check_data(params: Mapping[str, Any]) -> Path:
    """The folder of the configured data, as text or as CSV files.

    Raises:
        UserError: when neither is there (the sentence says how to get the data), and for another layout than ours.
    """
    folder = Path(params["train_data"]).parent
    if not any((folder / name).is_file() for name in TEXTS):
        return data_folder(params)
    _check_layout(params)
    return folder


def load_data(params: Mapping[str, Any], protocol: str, share: float) -> RunData:
    """Read a run's data and, under ``held-out``, carve its split; writes nothing, so ``paths`` is empty.

    Raises:
        UserError: for malformed files, test users without training items and a split without a validation item.
    """
    folder = check_data(params)
    logging.info("Data: %s", folder.resolve())
    interactions = load(folder)
    _check_users(interactions, folder)
    work = folder.parent / ".cache"
    if protocol == "paper":
        return RunData(folder, interactions, interactions, None, {}, work)
    carved = carve(interactions, share)
    return RunData(folder, interactions, carved.training, carved, {}, work)


def carve(data: Interactions, share: float) -> split.HeldOut:
    """The held-out split of every run on this data.

    Raises:
        UserError: when it leaves nothing to validate on.
    """
    carved = split.held_out(data, share, HELD_OUT_SEED)
    if not len(carved.items):
        larger = "a larger share (up to 0.5), " if share < 0.5 else ""
        raise UserError(
            f"--valid-share {share:g} leaves no validation item: no user has training items to spare (the most is "
            f"{np.diff(data.train_indptr).max(initial=0)}, and every item keeps one user); take {larger}more data, or "
            "--protocol paper"
        )
    return carved


def _check_users(data: Interactions, folder: Path) -> None:
    cold = np.flatnonzero((np.diff(data.train_indptr) == 0) & (np.diff(data.test_indptr) > 0))
    if len(cold):
        more = f" (and {len(cold) - 1} more)" if len(cold) > 1 else ""
        raise UserError(
            f"{folder}: user {data.user_ids[cold[0]]}{more} has test items but no training history; "
            "mml data import --drop-cold-users leaves such users out"
        )


def prepare_data(params: Mapping[str, Any], protocol: str, share: float) -> RunData:
    """As :func:`load_data`, with the CSV files that recbox reads; a split is written once per share and data."""
    data_folder(params)
    data = load_data(params, protocol, share)
    make_folder(data.work)
    if data.held_out is None:
        return replace(data, paths={key: str(params[key]) for key in ("train_data", "valid_data", "item_corpus")})
    # The split depends on the order of train as well, which the fingerprint does not see.
    place = data.work / f"{data.folder.name}-held-out-{share:g}-{data.word[:12]}"
    paths = {key: place / name for key, name in HELD_OUT_FILES.items()}
    # Of runs that start together one writes it; the others read what it wrote.
    with writing(place), FileLock(f"{place}.lock"):
        if not all(path.is_file() for path in paths.values()):
            if place.exists():
                logging.warning("%s is damaged and is built anew", place)
            split.write_held_out(data.held_out, place)
    return replace(data, paths={key: str(path) for key, path in paths.items()})


def say_what_is_odd(data: RunData) -> None:
    """Log how many items and users are not trained on, and how many test interactions train has too."""
    whole, training = data.interactions, data.training
    items = whole.num_items - int(np.count_nonzero(np.bincount(training.train_items, minlength=whole.num_items)))
    users = whole.num_users - int(np.count_nonzero(np.diff(training.train_indptr)))
    if items or users:
        logging.info(
            "%d items and %d users have no training interaction; they share the out-of-vocabulary row, as in recbox",
            items, users,
        )  # fmt: skip
    known = in_both(whole)
    if known:
        logging.info("%d test interactions are also in train, whose items are masked when test is ranked", known)


def write_users(data: Interactions, path: Path) -> None:
    """Write one row per training user with the whole training history: recbox's way to every user's vector."""
    users = np.flatnonzero(np.diff(data.train_indptr))
    counts = np.zeros(data.num_users, np.int64)
    counts[users] = 1
    indptr = np.concatenate([[0], np.cumsum(counts)])
    convert.write_evaluation(data, indptr, data.train_items[data.train_indptr[users]], path)
