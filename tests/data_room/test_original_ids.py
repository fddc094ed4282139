"""Original ids beside the rows' numbers."""

from __future__ import annotations

import hashlib

import pytest

from mml_plugin.data import catalog
from mml_plugin.data.importing import import_csv, import_dataset
from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from tests.data_room.files import pairs_csv, same, text


@pytest.mark.parametrize(
    ("train", "test", "says"),
    [
        (
            "0 0 1\n1 2\n",
            "0 2\n7 1\n",
            r"test.txt: user 7 has no line in \S*users.txt, whose 2 ids are numbered 0 to 1",
        ),
        ("0 0 1\n1 3\n", "0 2\n", r"train.txt: item 3 has no line in \S*items.txt, whose 3 ids are numbered 0 to 2"),
        ("0 0 1\n1 2\n", "0 3\n", r"test.txt: item 3 has no line"),
    ],
)
def test_numbers_without_an_original_id_are_refused(tmp_path, train, test, says):
    folder = text(tmp_path / "d", "train.txt", train).parent
    text(folder, "test.txt", test)
    text(folder, "users.txt", "anna\nbob\n")
    text(folder, "items.txt", "tea\nmilk\nbread\n")
    with pytest.raises(UserError, match=says):
        load(folder)


def test_original_ids_stand_once_and_for_both_sides(tmp_path):
    folder = text(tmp_path / "d", "train.txt", "0 0 1\n1 2\n").parent
    text(folder, "test.txt", "0 2\n")
    text(folder, "users.txt", "anna\nbob\n")
    with pytest.raises(UserError, match=r"users.txt needs items.txt beside it"):
        load(folder)
    text(folder, "items.txt", "tea\nmilk\ntea\n")
    with pytest.raises(UserError, match=r"items.txt: the id tea stands there twice"):
        load(folder)
    text(folder, "items.txt", "tea\nmilk\nbread\n")
    data = load(folder)
    pairs = {(data.user_ids[u], data.item_ids[i]) for u, i in zip(data.test_users, data.test_items)}
    assert pairs == {("anna", "bread")}


def test_importing_a_folder_brings_its_original_ids(tmp_path):
    pairs = [("anna", "tea"), ("anna", "warm milk"), ("bob", "bread"), ("01", "tea")]
    train = pairs_csv(tmp_path / "a.csv", pairs)
    test = pairs_csv(tmp_path / "b.csv", [("anna", "bread"), ("01", "bread")])
    first = import_csv("first", train, test, tmp_path)
    again = import_dataset("again", first, tmp_path)
    assert same(load(again), load(first))
    for name in ("train.txt", "test.txt", "users.txt", "items.txt", "train.csv", "item_corpus.csv"):
        assert (again / name).read_bytes() == (first / name).read_bytes()


def test_a_known_sets_numbers_with_other_ids_are_not_that_set(tmp_path, monkeypatch):
    source = text(tmp_path / "s", "train.txt", "0 0 1\n1 1\n").parent
    text(source, "test.txt", "0 2\n")
    sums = {name: hashlib.md5((source / name).read_bytes()).hexdigest() for name in ("train.txt", "test.txt")}
    known = catalog.KnownDataset("yelp18", "", sums, load(source).fingerprint, {})
    monkeypatch.setitem(catalog.KNOWN, "yelp18", known)
    import_dataset("yelp18", source, tmp_path / "a")
    text(source, "users.txt", "0\n1\n")
    text(source, "items.txt", "0\n1\n2\n3\n")
    with pytest.raises(UserError, match="does not hold yelp18"):
        import_dataset("yelp18", source, tmp_path / "b")
