"""Data sets from files that the user has: LightGCN text, or CSV with a user and an item column."""

from __future__ import annotations

import csv
import gzip
import lzma
import tarfile
import warnings
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from mml_plugin.data.catalog import KNOWN
from mml_plugin.data.check import in_both, repeated
from mml_plugin.data.ids import are_whole_numbers, first_overlong, wrong_id
from mml_plugin.data.interactions import Interactions, find_text, load_text
from mml_plugin.data.store import folder_of, store
from mml_plugin.errors import UserError
from mml_plugin.files import checksum

# What reading a packed file that was cut off or damaged may raise, beside the errors of its content.
BROKEN = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError)


def import_dataset(name: str, source: Path, root: Path, drop_cold_users: bool = False, overwrite: bool = False) -> Path:
    """Import ``train.txt`` and ``test.txt`` (plain or ``.gz``) as data set ``name``.

    Where ``users.txt`` and ``items.txt`` stand beside them, the numbers are those files' lines, as :func:`import_csv`
    writes them.

    A known data set must be the published one: its md5, or the same interactions in another order (noted, because
    runs on another order are not seed-equal).

    Args:
        name: ``yelp18``, ``gowalla``, or a name of your own.
        source: the folder with the two files.
        root: where data sets live; the result is ``root/name``.
        drop_cold_users: leave out test users without a training line instead of refusing them.
        overwrite: replace ``root/name``.

    Raises:
        UserError: for missing or malformed files, wrong contents, test users without history, and where leaving those
            out leaves nothing to test.
    """
    folder, source = folder_of(root, name), Path(source)
    if not source.is_dir():
        raise UserError(f"--from {source}: there is no such folder")
    train, test = (find_text(source, split) for split in ("train", "test"))
    data = load_text(source)
    notes = [*_identity_notes(name, data, {"train.txt": train, "test.txt": test})]
    data, dropped = without_cold_users(data, drop_cold_users, str(test))
    _check_test(data, test, dropped)
    notes += dropped + _repeated_notes(data) + _test_only_notes(data)
    return store(data, folder, f"text files of {source.resolve().name}", tuple(notes), overwrite)


def import_csv(
    name: str,
    train: Path,
    test: Path,
    root: Path,
    drop_cold_users: bool = False,
    overwrite: bool = False,
    distinct: bool = False,
) -> Path:
    """Import two CSV files with a ``user`` and an ``item`` column (any text) as data set ``name``.

    Args:
        name, train, test, root, drop_cold_users, overwrite: as for :func:`import_dataset`.
        distinct: keep each interaction once, and of test only what train does not hold; noted with the numbers.

    Raises:
        UserError: as :func:`import_dataset`, and for a missing column or an empty cell (line named).
    """
    folder = folder_of(root, name)
    frames = [read_pairs_csv(Path(path)) for path in (train, test)]
    for path, pairs in zip((train, test), frames):
        check_pairs(Path(path), pairs)
    frames, left_out = _distinct(*frames) if distinct else (frames, [])
    users = _order_of_appearance([f[0] for f in frames])
    items = np.unique(np.concatenate([f[1] for f in frames]))
    row_of = np.arange(len(items))
    if are_whole_numbers(users) and are_whole_numbers(items):
        # As LightGCN's and reczoo's files have them, and as the numbers in train.txt are read back: 2 before 10.
        row_of = np.argsort(np.argsort(items.astype(np.int64)))
    parts: list[np.ndarray] = []
    order = np.argsort(users)
    for user, item in frames:
        rows = order[np.searchsorted(users, user, sorter=order)]
        arranged = np.argsort(rows, kind="stable")
        counts = np.bincount(rows, minlength=len(users))
        parts += [np.concatenate([[0], np.cumsum(counts)]), row_of[np.searchsorted(items, item)][arranged]]
    data = Interactions(users, items[np.argsort(row_of)], *parts)
    data, dropped = without_cold_users(data, drop_cold_users, str(test))
    left_out += dropped
    _check_test(data, test, left_out)
    notes = left_out + _repeated_notes(data) + _test_only_notes(data)
    return store(data, folder, f"{Path(train).name} and {Path(test).name}", tuple(notes), overwrite)


Pairs = tuple[np.ndarray, np.ndarray]


def _distinct(train: Pairs, test: Pairs) -> tuple[list[Pairs], list[str]]:
    """Each interaction once, and of test only what train does not hold, with notes of what was left out.

    An item that a user has in train is masked when test is ranked: there it could never be hit.
    """
    import pandas as pd

    frames = [pd.DataFrame({"user": user, "item": item}) for user, item in (train, test)]
    once = [frame.drop_duplicates() for frame in frames]
    known = pd.MultiIndex.from_frame(once[1]).isin(pd.MultiIndex.from_frame(once[0]))
    counts = {
        "repeated training interactions were": len(frames[0]) - len(once[0]),
        "repeated test interactions were": len(frames[1]) - len(once[1]),
        "test interactions that are in train were": int(known.sum()),
    }
    once[1] = once[1][~known]
    kept = [(frame["user"].to_numpy(str), frame["item"].to_numpy(str)) for frame in once]
    return kept, [f"{count} {what} left out" for what, count in counts.items() if count]


def read_pairs_csv(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The columns ``user`` and ``item`` of a CSV file, as text.

    Raises:
        UserError: for a missing file or column, an empty cell (line named) and a file without rows.
    """
    import pandas as pd

    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            # Rows longer than the header: pandas would take their first value for a row name and the item for a user.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False)
    except pd.errors.ParserWarning:
        raise UserError(f"{path}: rows have more values than the header on line 1 has columns") from None
    except pd.errors.EmptyDataError:
        raise UserError(f"{path} is empty; its first line must be a header with user,item") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except (ValueError, OSError, ImportError, *BROKEN) as error:
        raise UserError(f"cannot read {path}: {' '.join(str(error).split()) or type(error).__name__}") from None
    _refuse_nul(path)
    for column in ("user", "item"):
        if column not in frame:
            found = ", ".join(map(repr, frame.columns))
            raise UserError(
                f"{path}, line 1: column {column!r} is missing; found {found}; the header must be user,item in these "
                "very letters, with commas between and no blanks"
            )
        empty = np.flatnonzero(frame[column].to_numpy() == "")
        if len(empty):
            raise UserError(f"{path}, {_line_of(path, empty[0])}: the {column} is empty")
    if not len(frame):
        raise UserError(f"{path} holds no row")
    for column in ("user", "item"):
        row, why = first_overlong(frame[column], cells=True)
        if why:
            raise UserError(f"{path}, {_line_of(path, row)}: the {column} {why}")
    return frame["user"].to_numpy(str), frame["item"].to_numpy(str)


def _refuse_nul(path: Path) -> None:
    """Before pandas 3 a cell ends at its first NUL, and two ids may become one without a trace."""
    from pandas.io.common import infer_compression

    packed = infer_compression(path, "infer")
    if packed not in (None, "gzip"):
        return  # in a way that pandas alone undoes
    with gzip.open(path, "rb") if packed else open(path, "rb") as stream:
        for number, line in enumerate(stream, start=1):
            if b"\0" in line:
                raise UserError(f"{path}, line {number}: it holds a NUL character")


def _line_of(path: Path, row: int) -> str:
    """Where a row of a CSV file begins: pandas skips blank lines, and a quoted cell may go over several."""
    begins, rows = 1, -1  # the header is no row
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    # What pandas unpacks and nobody here does is counted by rows.
    with opened(path, "rt", newline="", encoding="utf-8-sig") as stream, suppress(csv.Error, UnicodeDecodeError):
        reader = csv.reader(stream)
        for cells in reader:
            rows += len(cells) > 1 or bool("".join(cells).strip())
            if rows > row:
                break
            begins = reader.line_num + 1
    # Its own cells may be more than the csv module takes; then the rows before it have been counted.
    return f"line {begins}" if rows >= row else f"row {row + 1}"


def check_pairs(path: Path, pairs: Pairs) -> None:
    """Refuse ids that no data set may have, naming the line.

    Raises:
        UserError: as :func:`check_ids`.
    """
    for column, ids in zip(("user", "item"), pairs):
        distinct, first = np.unique(ids, return_index=True)
        for text, row in zip(distinct.tolist(), first.tolist()):
            why = wrong_id(text)
            if why:
                raise UserError(f"{path}, {_line_of(path, row)}: {column} id {text!r} cannot be used: {why}")


def _order_of_appearance(columns: list[np.ndarray]) -> np.ndarray:
    values = np.concatenate(columns)
    _, first = np.unique(values, return_index=True)
    return values[np.sort(first)]


def without_cold_users(data: Interactions, drop: bool, where: str) -> tuple[Interactions, list[str]]:
    """Refuse or drop users that have test interactions but no training interaction, and the items only they have."""
    cold = np.flatnonzero((np.diff(data.train_indptr) == 0) & (np.diff(data.test_indptr) > 0))
    if not len(cold):
        return data, []
    if not drop:
        more = f" (and {len(cold) - 1} more)" if len(cold) > 1 else ""
        raise UserError(
            f"{where}: user {data.user_ids[cold[0]]}{more} has test items but no training history; "
            "--drop-cold-users leaves such users out"
        )
    keep = ~np.isin(data.test_users, cold)
    counts = np.bincount(data.test_users[keep], minlength=data.num_users)
    users = np.setdiff1d(np.arange(data.num_users), cold)
    tested = data.test_items[keep]
    items = np.setdiff1d(np.arange(data.num_items), np.setdiff1d(data.test_items, np.union1d(data.train_items, tested)))
    kept = Interactions(
        data.user_ids[users],
        data.item_ids[items],
        np.concatenate([[0], np.cumsum(np.diff(data.train_indptr)[users])]),
        np.searchsorted(items, data.train_items),
        np.concatenate([[0], np.cumsum(counts[users])]),
        np.searchsorted(items, tested),
    )
    notes = [f"{len(cold)} test users without training history were left out"]
    lost = data.num_items - len(items)
    return kept, notes + ([f"{lost} items that only such users have were left out"] if lost else [])


def _check_test(data: Interactions, test: Path, left_out: list[str]) -> None:
    if not len(data.test_items):
        said = "; ".join(left_out) or "it holds none"
        raise UserError(f"{test}: no test interaction is left to measure with: {said}")


def _repeated_notes(data: Interactions) -> list[str]:
    """What may be a mistake and is kept: an evaluation split apart from train has none of it."""
    train, test = repeated(data)
    counts = {
        "training interactions are repeated, and so train more than once": train,
        "test interactions are repeated": test,
        "test interactions are also in train: ranking masks what is in train, so these are hardly ever hit": in_both(
            data
        ),
    }
    return [f"{count} {what}" for what, count in counts.items() if count]


def _test_only_notes(data: Interactions) -> list[str]:
    trained = np.unique(data.train_items)
    only = len(np.setdiff1d(data.test_items, trained))
    neither = data.num_items - len(trained) - only
    what = "they share one embedding (OOV), as recbox has it"
    notes = [f"{only} items occur in test only: {what}"] if only else []
    return [*notes, f"{neither} items of items.txt occur in neither split: {what}"] if neither else notes


def _identity_notes(name: str, data: Interactions, files: dict[str, Path]) -> list[str]:
    known = KNOWN.get(name)
    if known is None:
        return []
    # Ids beside the files can say that the numbers mean something else.
    own_ids = any((path.parent / "users.txt").is_file() for path in files.values())
    if not own_ids and all(path.suffix != ".gz" and checksum(path) == known.md5[file] for file, path in files.items()):
        return []
    if data.fingerprint != known.fingerprint:
        found = {
            "users": data.num_users,
            "items": data.num_items,
            "train": len(data.train_items),
            "test": len(data.test_items),
        }
        raise UserError(
            f"{files['train.txt'].parent} does not hold {name}: neither the published md5 sums nor its interactions "
            f"({found} where {known.counts} are expected); import it under another name"
        )
    different = [f for f, path in files.items() if _content_md5(path) != known.md5[f]]
    if not different:
        return []
    what = " and ".join(different)
    return [f"{what}: the published interactions in another order; runs are not seed-equal to the published order"]


def _content_md5(path: Path) -> str:
    import gzip
    import hashlib

    if path.suffix != ".gz":
        return checksum(path)
    with gzip.open(path) as stream:
        return hashlib.md5(stream.read(), usedforsecurity=False).hexdigest()
