"""reczoo's CSV layout, written from arrays: one row per interaction, with the user's other items as its history.

Byte for byte what reczoo's converter writes where item ids have no gaps. Where they have, reczoo's uses the id as the
row number and so shifts every later item; here ``corpus_index`` is the row in ``item_corpus.csv``, always.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
from tqdm import tqdm

from mml_plugin.data.ids import are_whole_numbers
from mml_plugin.data.interactions import Interactions
from mml_plugin.files import atomic_write

HEADER = "query_index,corpus_index,label,user_id,user_history\n"
SPLITTER = "^"


def query_index(data: Interactions) -> np.ndarray:
    """recbox's integer per user: the user id where all are whole numbers, as reczoo has it, else the user row."""
    if are_whole_numbers(data.user_ids):
        return data.user_ids.astype(np.int64)
    return np.arange(data.num_users)


def write_train(data: Interactions, path: Path) -> None:
    """Write ``train.csv``: each training interaction with the history *without* its target's first occurrence."""
    texts = _item_texts(data)
    with atomic_write(path) as stream:
        stream.write(HEADER)
        _write(stream, data, data.train_indptr, "train.csv", lambda user: _train_rows(data, texts, user))


def write_evaluation(data: Interactions, indptr: np.ndarray, items: np.ndarray, path: Path) -> None:
    """Write ``test.csv`` or ``valid.csv``: interactions to predict, with the user's whole training history.

    Args:
        data: users, items and the training interactions that make the histories.
        indptr, items: the interactions to predict, by user row.
        path: the file.
    """
    texts = _item_texts(data)

    def rows(user: int) -> Iterator[tuple[int, str]]:
        history = SPLITTER.join(texts[data.train_items[data.train_indptr[user] : data.train_indptr[user + 1]]].tolist())
        for item in items[indptr[user] : indptr[user + 1]].tolist():
            yield item, history

    with atomic_write(path) as stream:
        stream.write(HEADER)
        _write(stream, data, indptr, path.name, rows)


def write_corpus(data: Interactions, path: Path) -> None:
    """Write ``item_corpus.csv``: the row is the ``corpus_index``."""
    with atomic_write(path) as stream:
        stream.write("item_id\n" + "\n".join(data.item_ids.tolist()) + "\n")


def _item_texts(data: Interactions) -> np.ndarray:
    return data.item_ids.astype(object)


def _train_rows(data: Interactions, texts: np.ndarray, user: int) -> Iterator[tuple[int, str]]:
    """(item row, history) of each training interaction; the joined history is cut, not built again."""
    items = data.train_items[data.train_indptr[user] : data.train_indptr[user + 1]].tolist()
    words = texts[items].tolist()
    joined = SPLITTER.join(words)
    first: dict[int, int] = {}
    position = 0
    for item, word in zip(items, words):
        first.setdefault(item, position)
        position += len(word) + 1
    for item, word in zip(items, words):
        begin = first[item]
        rest = joined[begin + len(word) + 1 :]
        # Without its last word a history must not end in the splitter.
        yield item, joined[:begin] + rest if rest else joined[: max(begin - 1, 0)]


def _write(stream: IO[str], data: Interactions, indptr: np.ndarray, name: str, rows) -> None:
    queries = query_index(data).tolist()
    with tqdm(total=int(indptr[-1]), desc=f"writing {name}", unit=" rows", disable=None) as bar:
        for user in np.flatnonzero(np.diff(indptr)).tolist():
            start, uid = f"{queries[user]},", data.user_ids[user]
            lines = [f"{start}{item},1,{uid},{history}\n" for item, history in rows(user)]
            stream.write("".join(lines))
            bar.update(len(lines))
