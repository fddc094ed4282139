"""A data set as arrays: who interacted with what, in train and in test."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mml_plugin.data.ids import check_ids, first_overlong
from mml_plugin.data.lightgcn import Lines, read_lines
from mml_plugin.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


# The column of reczoo's CSV files that says whether an interaction is a positive one.
LABEL = "label"


@dataclass(frozen=True)
class Interactions:
    """Train and test interactions by user row, in file order.

    Attributes:
        user_ids: ``[U]`` original user ids as text; the index is the user row.
        item_ids: ``[I]`` original item ids as text; the index is the item row, recbox's ``corpus_index``.
        train_indptr, train_items: user ``u`` trained on ``train_items[train_indptr[u]:train_indptr[u + 1]]``.
        test_indptr, test_items: likewise for test.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    train_indptr: np.ndarray
    train_items: np.ndarray
    test_indptr: np.ndarray
    test_items: np.ndarray

    @property
    def num_users(self) -> int:
        """Users in train or test."""
        return len(self.user_ids)

    @property
    def num_test_users(self) -> int:
        """Users with something in test: those that a metric is a mean over."""
        return int(np.count_nonzero(np.diff(self.test_indptr)))

    @property
    def num_items(self) -> int:
        """Items in train or test."""
        return len(self.item_ids)

    @cached_property
    def train_users(self) -> np.ndarray:
        """The user row of every training interaction, ``[N]``."""
        return np.repeat(np.arange(self.num_users), np.diff(self.train_indptr))

    @cached_property
    def test_users(self) -> np.ndarray:
        """The user row of every test interaction."""
        return np.repeat(np.arange(self.num_users), np.diff(self.test_indptr))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the interactions by original id that does not depend on any order."""
        digest = hashlib.sha256()
        user_order, item_order = np.argsort(self.user_ids), np.argsort(self.item_ids)
        for ids, order in ((self.user_ids, user_order), (self.item_ids, item_order)):
            digest.update("\n".join(ids[order]).encode() + b"\0")
        user_rank, item_rank = np.argsort(user_order), np.argsort(item_order)
        for users, items in ((self.train_users, self.train_items), (self.test_users, self.test_items)):
            code = user_rank[users].astype(np.int64) * self.num_items + item_rank[items]
            digest.update(np.sort(code).astype("<i8").tobytes() + b"\0")
        return digest.hexdigest()

    def with_train(self, keep: np.ndarray) -> Interactions:
        """The same users and items with only the marked training interactions (``keep[N]`` booleans)."""
        counts = np.bincount(self.train_users[keep], minlength=self.num_users)
        return replace(self, train_indptr=_indptr(counts), train_items=self.train_items[keep])


def _indptr(counts: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def from_lines(
    train: Lines, test: Lines, users: np.ndarray | None = None, items: np.ndarray | None = None
) -> Interactions:
    """Combine two splits.

    Users come in the order of train's lines, users that only test has after them; items are ordered by number, so a
    gap in the numbers shifts nothing.

    Args:
        train, test: the splits.
        users, items: original ids where the numbers in the files are row numbers.
    """
    numbers = np.unique(np.concatenate([train.items, test.items]))
    only_test = test.users[~np.isin(test.users, train.users)]
    user_numbers = np.concatenate([train.users, only_test])
    if users is not None and items is not None:
        numbers, user_numbers = np.arange(len(items)), np.arange(len(users))
    parts = [_split(lines, user_numbers, numbers) for lines in (train, test)]
    user_ids = users if users is not None else user_numbers.astype(str)
    item_ids = items if items is not None else numbers.astype(str)
    return Interactions(user_ids, item_ids, *parts[0], *parts[1])


def _split(lines: Lines, user_numbers: np.ndarray, item_numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index pointer and item rows of one split, its lines brought into the order of ``user_numbers``."""
    order = np.argsort(user_numbers)
    rows = order[np.searchsorted(user_numbers, lines.users, sorter=order)]
    sizes = np.diff(lines.indptr)
    counts = np.zeros(len(user_numbers), np.int64)
    counts[rows] = sizes
    items = np.searchsorted(item_numbers, lines.items)
    arranged = np.argsort(np.repeat(rows, sizes), kind="stable")
    return _indptr(counts), items[arranged].astype(np.int64)


def load(folder: Path) -> Interactions:
    """Read a data set's folder: ``train.txt`` and ``test.txt``, or reczoo's CSV files where there is no text.

    Raises:
        UserError: when neither is there, or a file is malformed.
    """
    folder = Path(folder)
    if (folder / "train.txt").is_file() or (folder / "train.txt.gz").is_file():
        return load_text(folder)
    if (folder / "train.csv").is_file():
        return load_csv(folder)
    raise UserError(f"{folder} holds no data set: neither train.txt nor train.csv is there")


def load_text(folder: Path) -> Interactions:
    """Read ``train.txt`` and ``test.txt`` (plain or ``.gz``), with the ids of ``users.txt`` and ``items.txt`` if there.

    Raises:
        UserError: when a file is missing or malformed, and for ids that no data set may have.
    """
    train, test = (read_lines(find_text(folder, name)) for name in ("train", "test"))
    users, items = (_read_ids(folder / name) for name in ("users.txt", "items.txt"))
    _check_ids_cover(folder, {"train": train, "test": test}, users, items)
    return from_lines(train, test, users, items)


def _check_ids_cover(
    folder: Path, splits: dict[str, Lines], users: np.ndarray | None, items: np.ndarray | None
) -> None:
    """Refuse numbers that the files of original ids have no line for."""
    if users is None and items is None:
        return
    if users is None or items is None:
        missing, other = ("users", "items") if users is None else ("items", "users")
        raise UserError(f"{folder / f'{other}.txt'} needs {missing}.txt beside it: both hold original ids, or neither")
    check_ids([("user", users), ("item", items)], str(folder))
    for ids, kind in ((users, "user"), (items, "item")):
        values, counts = np.unique(ids, return_counts=True)
        if len(values) < len(ids):
            raise UserError(f"{folder / f'{kind}s.txt'}: the id {values[counts.argmax()]!s} stands there twice")
    for name, lines in splits.items():
        for numbers, ids, kind in ((lines.users, users, "user"), (lines.items, items, "item")):
            if numbers.max() >= len(ids):
                raise UserError(
                    f"{find_text(folder, name)}: {kind} {numbers.max()} has no line in {folder / f'{kind}s.txt'}, "
                    f"whose {len(ids)} ids are numbered 0 to {len(ids) - 1}"
                )


def find_text(folder: Path, name: str) -> Path:
    """``<name>.txt`` or ``<name>.txt.gz`` in a folder."""
    plain, packed = folder / f"{name}.txt", folder / f"{name}.txt.gz"
    return packed if packed.is_file() and not plain.is_file() else plain


def _read_ids(path: Path) -> np.ndarray | None:
    if not path.is_file():
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not UTF-8 ({error.reason} at byte {error.start})") from None
    # Not splitlines(): an id may hold U+2028 and the like, which it takes for line ends.
    ids = text.removesuffix("\n").split("\n")
    row, why = first_overlong(ids)
    if why:
        raise UserError(f"{path}, line {row + 1}: the id {why}")
    return np.array(ids)


def load_csv(folder: Path) -> Interactions:
    """Read reczoo's ``train.csv``, ``test.csv`` and ``item_corpus.csv``.

    Raises:
        UserError: when a file is missing or malformed.
    """
    import pandas as pd

    items = read_corpus(folder)
    splits = [_read_rows(folder / name, len(items)) for name in ("train.csv", "test.csv")]
    codes, queries = pd.factorize(pd.concat([s["query_index"] for s in splits]))
    ids = _as_array(pd.concat(splits).drop_duplicates("query_index")["user_id"], folder)
    cut = len(splits[0])
    parts: list[np.ndarray] = []
    for users, split in ((codes[:cut], splits[0]), (codes[cut:], splits[1])):
        order = np.argsort(users, kind="stable")
        parts += [_indptr(np.bincount(users, minlength=len(queries))), split["corpus_index"].to_numpy()[order]]
    return Interactions(ids, items, *parts)


def read_corpus(folder: Path) -> np.ndarray:
    """The item ids of a data set's ``item_corpus.csv``, in its order; a :class:`UserError` for a malformed file."""
    import pandas as pd

    path = folder / "item_corpus.csv"
    try:
        ids = pd.read_csv(path, usecols=["item_id"], dtype=str, keep_default_na=False)["item_id"]
    except (OSError, ValueError) as error:
        raise UserError(_bad_line(path, ["item_id"], []) or f"cannot read {path}: {error}") from None
    return _as_array(ids, path)


def _as_array(ids: pd.Series, path: Path) -> np.ndarray:
    row, why = first_overlong(ids, cells=True)
    if why:
        raise UserError(f"{path}: the {ids.name} {ids.iloc[row][:20]!r}... {why}")
    return ids.to_numpy(str)


def _read_rows(path: Path, items: int) -> pd.DataFrame:
    """``query_index``, ``corpus_index`` and ``user_id`` of a split's CSV file, every row checked."""
    import pandas as pd

    numbers, columns = ["query_index", "corpus_index"], ["query_index", "corpus_index", "user_id"]
    types: dict[str, type] = {"query_index": np.int64, "corpus_index": np.int64, "user_id": str, LABEL: str}
    try:
        # A label may be left out; usecols as a list would ask for it.
        frame = pd.read_csv(path, usecols=lambda name: name in types, dtype=types, keep_default_na=False)
        frame[columns]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(_bad_line(path, columns, numbers) or f"cannot read {path}: {error}") from None
    if not len(frame):
        raise UserError(f"{path} holds no row")
    short = (frame["user_id"].isna() | (frame["user_id"] == "")).any() or not _last_line_is_whole(path)
    if short or (frame[numbers] < 0).any(axis=None):
        raise UserError(_bad_line(path, columns, numbers) or f"{path}: a user_id is empty")
    _check_labels(path, frame)
    outside = np.flatnonzero(frame["corpus_index"].to_numpy() >= items)
    if len(outside):
        raise UserError(
            f"{path}, line {outside[0] + 2}: item {frame['corpus_index'].iloc[outside[0]]} is outside the item corpus, "
            f"whose rows are 0 to {items - 1} ({path.parent / 'item_corpus.csv'})"
        )
    return frame


def _check_labels(path: Path, frame: pd.DataFrame) -> None:
    """Interactions are positives; a label of 0 would be trained as one by an engine that does not read labels."""
    if LABEL not in frame:
        return
    import pandas as pd

    words = frame[LABEL].str.strip().str.lower()
    wrong = np.flatnonzero((pd.to_numeric(words, errors="coerce") != 1) & (words != "true"))
    if len(wrong):
        raise UserError(
            f"{path}, line {wrong[0] + 2}: label must be 1, got {frame[LABEL].iloc[wrong[0]]!r}: a data set holds "
            "positive interactions, negatives are drawn; leave other rows out"
        )


def _last_line_is_whole(path: Path) -> bool:
    """Whether the last line has as many cells as the header: pandas fills up what a truncated one lacks."""
    with open(path, "rb") as stream:
        header = stream.readline()
        stream.seek(max(path.stat().st_size - (1 << 22), 0))
        last = stream.read().rstrip(b"\r\n").rsplit(b"\n", 1)[-1]
    return last.count(b",") >= header.count(b",")


def _bad_line(path: Path, columns: list[str], numbers: list[str]) -> str:
    """The first line of a CSV file that is not as its header says, as a sentence; "" when there is none."""
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as stream:
            reader = csv.reader(stream)
            header = next(reader, [])
            for name in columns:
                if name not in header:
                    found = ", ".join(header)[:80] or "nothing"
                    return f"{path}, line 1: column {name!r} is missing; found {found}"
            for line, row in enumerate(reader, 2):
                if row and len(row) != len(header):
                    return f"{path}, line {line}: {len(row)} cells where the header has {len(header)}"
                for name in numbers if row else ():
                    cell = row[header.index(name)]
                    if not cell.isdecimal():
                        return f"{path}, line {line}: {name} must be a whole number >= 0, got {cell!r}"
    except (OSError, csv.Error):
        pass
    return ""
