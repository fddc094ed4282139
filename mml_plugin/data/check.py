"""Is a data set what it should be? Counts, overlaps, and Table 1 for the known ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mml_plugin.data.catalog import KNOWN
from mml_plugin.data.interactions import Interactions, find_text, load, load_csv, load_text
from mml_plugin.errors import UserError


@dataclass(frozen=True)
class Check:
    """One line of the report: what was counted, and what was expected (None: anything)."""

    what: str
    found: float
    expected: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the count is the expected one."""
        return self.expected is None or self.found == self.expected


def in_both(data: Interactions) -> int:
    """How many test interactions, each as often as it is there, are training interactions of their user."""
    known = np.sort(data.train_users * data.num_items + data.train_items)
    pairs = data.test_users * data.num_items + data.test_items
    if not len(known):
        return 0
    return int((known[np.searchsorted(known, pairs).clip(max=len(known) - 1)] == pairs).sum())


def repeated(data: Interactions) -> tuple[int, int]:
    """How many interactions of train and of test have stood there before."""
    train, test = _distinct(data)
    return len(data.train_items) - len(train), len(data.test_items) - len(test)


def _distinct(data: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """The distinct interactions of train and of test, as ``user * num_items + item``, ascending."""
    return (
        np.unique(data.train_users * data.num_items + data.train_items),
        np.unique(data.test_users * data.num_items + data.test_items),
    )


def statistics(data: Interactions) -> dict[str, float]:
    """Counts of Table 1 and of everything that could disturb a comparison."""
    train, test = _distinct(data)
    total = len(data.train_items) + len(data.test_items)
    per_user = np.diff(data.train_indptr)
    trained, tested = np.unique(data.train_items), np.unique(data.test_items)
    only_tested = len(np.setdiff1d(tested, trained, assume_unique=True))
    return {
        "users": data.num_users,
        "items": data.num_items,
        "interactions": total,
        "train": len(data.train_items),
        "test": len(data.test_items),
        "density": round(total / (data.num_users * data.num_items), 5),
        "fewest training items of a user": int(per_user.min()),
        "most training items of a user": int(per_user.max()),
        "duplicates in train": len(data.train_items) - len(train),
        "duplicates in test": len(data.test_items) - len(test),
        "in train and test": len(np.intersect1d(train, test, assume_unique=True)),
        "users in test only": int(((per_user == 0) & (np.diff(data.test_indptr) > 0)).sum()),
        "items in test only": only_tested,
        "items in neither": data.num_items - len(trained) - only_tested,
    }


def find_folder(name_or_folder: str, root: Path) -> Path:
    """The folder of a data set, by name below ``root`` or by path; a :class:`UserError` when there is none."""
    for folder in (Path(root) / name_or_folder, Path(name_or_folder)):
        if folder.is_dir():
            return folder
    raise UserError(f"there is no data set {name_or_folder!r} in {root} and no such folder")


def differing_files(folder: Path) -> int:
    """How many interactions stand in the text files alone or in the CSV files alone; 0 where one kind is missing.

    The fast engine reads the text files, recbox the CSV files.

    Raises:
        UserError: when a file is malformed.
    """
    if not find_text(folder, "train").is_file() or not (folder / "train.csv").is_file():
        return 0
    sides = load_text(folder), load_csv(folder)
    if sides[0].fingerprint == sides[1].fingerprint:
        return 0
    users, items = (np.unique(np.concatenate(ids)) for ids in zip(*((side.user_ids, side.item_ids) for side in sides)))
    differ = 0
    for split in ("train", "test"):
        first, second = (
            np.searchsorted(users, side.user_ids)[getattr(side, f"{split}_users")] * len(items)
            + np.searchsorted(items, side.item_ids)[getattr(side, f"{split}_items")]
            for side in sides
        )
        codes, place = np.unique(np.concatenate([first, second]), return_inverse=True)
        counts = np.bincount(place[: len(first)], minlength=len(codes))
        differ += int(np.abs(counts - np.bincount(place[len(first) :], minlength=len(codes))).sum())
    return differ


def check(name_or_folder: str, root: Path) -> list[Check]:
    """Count a data set, by name below ``root`` or by folder; known sets are held against Table 1.

    Raises:
        UserError: when there is no such data set or its files are malformed.
    """
    folder = find_folder(name_or_folder, root)
    counted = statistics(load(folder))
    known = KNOWN.get(folder.name)
    expected: dict[str, float] = {}
    if known:
        total = known.counts["train"] + known.counts["test"]
        density = round(total / (known.counts["users"] * known.counts["items"]), 5)
        expected = {**known.counts, "interactions": total, "density": density}
    return [Check(what, found, expected.get(what)) for what, found in counted.items()]
