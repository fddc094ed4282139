"""What a data set is said to hold: statistics, the catalogue, files that differ."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mml_plugin.cli import main
from mml_plugin.data import catalog, synthetic
from mml_plugin.data.check import check, differing_files, statistics
from mml_plugin.data.importing import import_dataset
from mml_plugin.data.interactions import Interactions, load
from mml_plugin.errors import UserError
from tests.data_room.files import text


def test_statistics_by_hand(tmp_path):
    source = text(tmp_path / "s", "train.txt", "0 1 2 2\n1 3\n").parent
    text(source, "test.txt", "0 1 5\n2 3\n")
    counted = statistics(load(source))
    assert counted == {
        "users": 3, "items": 4, "interactions": 7, "train": 4, "test": 3, "density": round(7 / 12, 5),
        "fewest training items of a user": 0, "most training items of a user": 3, "duplicates in train": 1,
        "duplicates in test": 0, "in train and test": 1, "users in test only": 1, "items in test only": 1,
        "items in neither": 0,
    }  # fmt: skip
    with pytest.raises(UserError, match="there is no data set 'none'"):
        check("none", tmp_path)


USERS = st.lists(
    st.tuples(*[st.lists(st.integers(0, 2), max_size=4)] * 2), min_size=1, max_size=8
).filter(lambda users: any(train for train, _ in users))  # fmt: skip


@given(USERS)
def test_statistics_equal_counting_one_by_one(users):
    """More users than items, so that no two interactions may be taken for one."""
    parts = ([train for train, _ in users], [test for _, test in users])
    indptrs = (np.concatenate([[0], np.cumsum([len(one) for one in part])]) for part in parts)
    flat = (np.array([item for one in part for item in one], np.int64) for part in parts)
    ids = np.arange(len(users)).astype(str), np.arange(3).astype(str)
    counted = statistics(Interactions(*ids, *(array for pair in zip(indptrs, flat) for array in pair)))
    train, test = ([(user, item) for user, one in enumerate(part) for item in one] for part in parts)
    assert counted["duplicates in train"] == len(train) - len(set(train))
    assert counted["duplicates in test"] == len(test) - len(set(test))
    assert counted["in train and test"] == len(set(train) & set(test))
    assert counted["users in test only"] == len({u for u, _ in test} - {u for u, _ in train})
    assert counted["items in test only"] == len({i for _, i in test} - {i for _, i in train})
    assert counted["items in neither"] == 3 - len({i for _, i in train + test})


def test_the_catalogue_is_table_1():
    for name, users, items, interactions in (("yelp18", 31668, 38048, 1561406), ("gowalla", 29858, 40981, 1027370)):
        counts = catalog.KNOWN[name].counts
        assert (counts["users"], counts["items"], counts["train"] + counts["test"]) == (users, items, interactions)


def test_items_in_neither_split_are_told_apart(tmp_path):
    source = text(tmp_path / "s", "train.txt", "0 0 1\n1 1\n").parent
    text(source, "test.txt", "0 2\n2 3\n")
    text(source, "users.txt", "anna\nbob\ncold\n")
    text(source, "items.txt", "tea\nmilk\nbread\nrice\nsalt\n")
    folder = import_dataset("mine", source, tmp_path, drop_cold_users=True)
    assert json.loads((folder / "dataset.json").read_text())["notes"] == [
        "1 test users without training history were left out",
        "1 items that only such users have were left out",
        "1 items occur in test only: they share one embedding (OOV), as recbox has it",
        "1 items of items.txt occur in neither split: they share one embedding (OOV), as recbox has it",
    ]
    assert load(folder).item_ids.tolist() == ["tea", "milk", "bread", "salt"]
    assert {line.what: line.found for line in check("mine", tmp_path)}["items in neither"] == 1


def test_text_and_csv_files_that_differ_are_counted_and_told(tmp_path, capsys):
    folder = synthetic.generate(tmp_path / "mine", users=40, items=70, seed=1)
    data = load(folder)
    assert differing_files(folder) == 0
    assert main(["data", "check", "mine", "--root", str(tmp_path)]) == 0
    rows = (folder / "train.csv").read_text().splitlines(keepends=True)
    assert "".join(sorted(rows[1:])) != "".join(rows[1:])
    (folder / "train.csv").write_text(rows[0] + "".join(sorted(rows[1:])))
    assert differing_files(folder) == 0  # the order is another matter
    # One interaction is another one, one is there twice, one is gone from test: 2 + 1 + 1.
    user = int(rows[1].split(",")[0])
    mine = data.train_items[data.train_indptr[user] : data.train_indptr[user + 1]]
    other = next(i for i in range(data.num_items) if i not in mine)
    header = rows[0].strip().split(",")
    cells = dict(zip(header, rows[1].strip().split(",")))
    cells |= {"corpus_index": str(other)}
    moved = ",".join(cells[name] for name in header) + "\n"
    (folder / "train.csv").write_text("".join([rows[0], moved, *rows[2:], rows[-1]]))
    test = (folder / "test.csv").read_text().splitlines(keepends=True)
    (folder / "test.csv").write_text("".join(test[:-1]))
    assert differing_files(folder) == 4
    capsys.readouterr()
    assert main(["data", "check", "mine", "--root", str(tmp_path)]) == 2
    assert "mine: 4 interactions stand in the text files or in the CSV files alone" in capsys.readouterr().err
    (folder / "train.csv").unlink()
    assert differing_files(folder) == 0
