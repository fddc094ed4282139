"""Importing a user's own files and folders of data: ids, repeats, what is refused, what is replaced."""

from __future__ import annotations

import csv
import gzip
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

from mml_plugin.cli import main
from mml_plugin.data import catalog, convert, synthetic
from mml_plugin.data.importing import import_csv, import_dataset
from mml_plugin.data.interactions import from_lines, load
from mml_plugin.data.lightgcn import read_lines
from mml_plugin.errors import UserError
from tests.data_room.files import TINY, pairs_csv, text


def test_csv_import_keeps_text_ids(tmp_path):
    train = text(tmp_path, "a.csv", "user,item\nanna,tea\nbob,milk\nanna,rye bread\n")
    test = text(tmp_path, "b.csv", "user,item\nbob,tea\n")
    data = load(import_csv("mine", train, test, tmp_path / "d"))
    pairs = {(data.user_ids[u], data.item_ids[i]) for u, i in zip(data.train_users, data.train_items)}
    assert pairs == {("anna", "tea"), ("bob", "milk"), ("anna", "rye bread")}
    assert (tmp_path / "d/mine/train.csv").read_text().splitlines()[1] == "0,2,1,anna,rye bread"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("user,thing\na,b\n", "line 1: column 'item' is missing"),
        ("user,item\na,\n", "line 2: the item is empty"),
        ("user,item\n", "holds no row"),
        ("user,item\n\n\na,b\n\n,c\n", "line 6: the user is empty"),
        ('user,item\n"a\nb",c\nd,\n', "line 4: the item is empty"),
        ("user,item\na,b\na\0,c\n", "line 3: it holds a NUL character$"),
        ("User, item\na,b\n", r"line 1: column 'user' is missing; found 'User', ' item'; the header must be user,item"),
        ('user,item\na,"b^c"\n', r"line 2: item id 'b\^c' cannot be used"),
        ("user,item\na,b,5\nc,d,4\n", "rows have more values than the header"),
        ("user,item\na,  \n", "line 2: item id '  ' cannot be used: ids must not be blank"),
        ("user,item\na,NA\n", "line 2: item id 'NA' cannot be used: pandas reads it as a missing cell"),
        ("user,item\na,b\nnull,b\n", "line 3: user id 'null' cannot be used: pandas reads it as a missing cell"),
        ("", "is empty; its first line must be a header"),
        ('user,item\na,b\nc,"d\ne,f\ng"h\n', r"line 3: the item holds a line break; is a quote left open\?"),
        (f"user,item\na,b\n{'c' * 256},d\n", "line 3: the user is 256 characters long, 255 are allowed"),
        # More than a cell of the csv module takes, and less than a test should.
        pytest.param(
            'user,item\na,b\n"' + "c,d\n" * 40_000 + '",e\n', "line 3: the user is 160,000 characters long", id="huge"
        ),
        (
            "user,item\na,b\n\ufeffc,d\n",
            "line 3: user id '\\\\ufeffc' cannot be used: it begins with a byte order mark",
        ),
    ],
)
def test_bad_csv_imports(tmp_path, content, says):
    good = text(tmp_path, "good.csv", "user,item\na,b\n")
    with pytest.raises(UserError, match=says):
        import_csv("bad", text(tmp_path, "bad.csv", content), good, tmp_path / "d")
    assert not (tmp_path / "d" / "bad").exists()


def test_a_path_that_cannot_be_read_is_one_sentence(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(UserError, match=r"there is no file .*folder\.csv"):
        import_csv("mine", tmp_path / "folder.csv", tmp_path / "folder.csv", tmp_path)
    packed = text(tmp_path, "a.csv.gz", "user,item\nanna,tea\n")
    with pytest.raises(UserError, match=r"cannot read .*a\.csv\.gz: Not a gzipped file"):
        import_csv("mine", packed, packed, tmp_path)


def test_a_bad_line_of_a_packed_csv_file_is_named(tmp_path):
    good = text(tmp_path, "good.csv", "user,item\na,b\n")
    packed = tmp_path / "bad.csv.gz"
    packed.write_bytes(gzip.compress(b"user,item\na,b\n\nc,\n"))
    with pytest.raises(UserError, match=r"bad\.csv\.gz, line 4: the item is empty"):
        import_csv("bad", packed, good, tmp_path / "d")


def test_repeated_and_known_interactions_are_counted(tmp_path):
    train = pairs_csv(tmp_path / "a.csv", [("a", "x"), ("a", "x"), ("a", "y"), ("b", "y"), ("a", "x")])
    test = pairs_csv(tmp_path / "b.csv", [("a", "x"), ("b", "y"), ("b", "y"), ("b", "x")])
    wanted = [
        "2 training interactions are repeated, and so train more than once",
        "1 test interactions are repeated",
        "3 test interactions are also in train: ranking masks what is in train, so these are hardly ever hit",
    ]
    folder = import_csv("csv", train, test, tmp_path / "d")
    assert json.loads((folder / "dataset.json").read_text())["notes"] == wanted
    again = import_dataset("text", folder, tmp_path / "d")
    assert json.loads((again / "dataset.json").read_text())["notes"] == wanted


def test_nobody_left_to_test_is_refused(tmp_path):
    source = text(tmp_path / "s", "train.txt", "0 1 2\n").parent
    text(source, "test.txt", "8 1\n9 2\n")
    train, test = pairs_csv(tmp_path / "a.csv", [(0, 1)]), pairs_csv(tmp_path / "b.csv", [(8, 1), (9, 1)])
    says = "no test interaction is left to measure with: 2 test users without training history were left out"
    with pytest.raises(UserError, match=f"test.txt: {says}"):
        import_dataset("cold", source, tmp_path / "d", drop_cold_users=True)
    with pytest.raises(UserError, match=f"b.csv: {says}"):
        import_csv("cold", train, test, tmp_path / "d", drop_cold_users=True)
    assert not (tmp_path / "d").exists()


def test_repeated_and_known_interactions_are_left_out_and_counted(tmp_path):
    train = text(tmp_path, "a.csv", "user,item\na,x\na,x\na,y\nb,y\n")
    test = text(tmp_path, "b.csv", "user,item\na,z\na,z\nb,y\nb,x\nnew,x\n")
    folder = import_csv("mine", train, test, tmp_path / "d", drop_cold_users=True, distinct=True)
    data = load(folder)
    named = [
        {(data.user_ids[u], data.item_ids[i]) for u, i in zip(*pairs)}
        for pairs in ((data.train_users, data.train_items), (data.test_users, data.test_items))
    ]
    assert named == [{("a", "x"), ("a", "y"), ("b", "y")}, {("a", "z"), ("b", "x")}]
    assert (len(data.train_items), len(data.test_items)) == (3, 2)
    assert json.loads((folder / "dataset.json").read_text())["notes"][:4] == [
        "1 repeated training interactions were left out",
        "1 repeated test interactions were left out",
        "1 test interactions that are in train were left out",
        "1 test users without training history were left out",
    ]
    with pytest.raises(
        UserError, match=r"no test interaction is left to measure with: .*3 test interactions that are in train"
    ):
        import_csv("same", train, train, tmp_path / "d", distinct=True)


def rows_of_csv(path, column="item_id"):
    """A column of a file that this project wrote, by the standard library."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [row[column] for row in csv.DictReader(stream)]


def test_whole_number_ids_are_rows_by_number_in_every_file(tmp_path):
    train = pairs_csv(tmp_path / "a.csv", [(u, i) for u in range(12) for i in (u, (u + 1) % 12)])
    test = pairs_csv(tmp_path / "b.csv", [(u, (u + 5) % 13) for u in range(12)])
    folder = import_csv("mine", train, test, tmp_path / "d")
    assert load(folder).item_ids.tolist() == [str(i) for i in range(13)] == rows_of_csv(folder / "item_corpus.csv")
    assert not (folder / "items.txt").exists()
    written = list(zip(rows_of_csv(folder / "train.csv", "user_id"), rows_of_csv(folder / "train.csv", "corpus_index")))
    assert sorted(written) == sorted((str(u), str(i)) for u in range(12) for i in (u, (u + 1) % 12))


def test_items_of_dropped_users_leave_no_gap(tmp_path):
    """They are in no line of train.txt or test.txt, so the item corpus must not hold them either."""
    train = pairs_csv(tmp_path / "a.csv", [(0, 1), (0, 3), (1, 4)])
    test = pairs_csv(tmp_path / "b.csv", [(1, 3), (9, 2)])
    folder = import_csv("mine", train, test, tmp_path / "d", drop_cold_users=True)
    assert load(folder).item_ids.tolist() == ["1", "3", "4"] == rows_of_csv(folder / "item_corpus.csv")
    assert "1 items that only such users have were left out" in (folder / "dataset.json").read_text()


def test_ids_that_a_number_would_change_are_kept(tmp_path):
    train = pairs_csv(tmp_path / "a.csv", [("01", "007"), ("1", "7"), ("\u0663", "10")])
    test = pairs_csv(tmp_path / "b.csv", [("01", "7"), ("3", "007")])
    with pytest.raises(UserError, match="user 3 has test items but no training history"):
        import_csv("mine", train, test, tmp_path / "d")
    folder = import_csv("mine", train, test, tmp_path / "d", drop_cold_users=True)
    data = load(folder)
    assert data.user_ids.tolist() == ["01", "1", "\u0663"]
    assert len(set(convert.query_index(data).tolist())) == 3
    assert data.item_ids[data.train_items].tolist() == ["007", "7", "10"]


IDS = st.one_of(
    st.integers(0, 30).map(str),
    st.text("0123\u0663", min_size=1, max_size=20),
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters=',"^'), min_size=1, max_size=5),
).filter(
    lambda text: (
        text.strip(" ") and all(c >= " " for c in text) and text not in STR_NA_VALUES and not text.startswith("\ufeff")
    )
)


@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_any_ids_come_back_as_they_were(tmp_path_factory, train, random):
    home = tmp_path_factory.mktemp("ids")
    test = [(random.choice(train)[0], random.choice(train)[1]) for _ in range(3)]
    files = [pairs_csv(home / f"{name}.csv", pairs) for name, pairs in (("a", train), ("b", test))]
    folder = import_csv("mine", *files, home / "d")
    data = load(folder)
    splits = ((data.train_users, data.train_items), (data.test_users, data.test_items))
    found = [sorted(zip(data.user_ids[u].tolist(), data.item_ids[i].tolist())) for u, i in splits]
    assert found == [sorted(train), sorted(test)]
    assert rows_of_csv(folder / "item_corpus.csv") == data.item_ids.tolist()
    for name in ("train.txt", "test.txt", "users.txt", "items.txt"):
        (folder / name).unlink(missing_ok=True)
    from_csv = load(folder)
    assert from_csv.fingerprint == data.fingerprint
    assert from_csv.item_ids.tolist() == data.item_ids.tolist()


def test_a_known_name_must_hold_the_known_data(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="does not hold yelp18: neither the published md5 sums nor its interactions"):
        import_dataset("yelp18", TINY, tmp_path)
    source = tmp_path / "shuffled"
    shutil.copytree(TINY, source)
    lines = (source / "train.txt").read_text().splitlines()
    (source / "train.txt").write_text("\n".join(reversed(lines)) + "\n")
    data = from_lines(read_lines(TINY / "train.txt"), read_lines(TINY / "test.txt"))
    known = catalog.KnownDataset("yelp18", "", {"train.txt": "0", "test.txt": "0"}, data.fingerprint, {})
    monkeypatch.setitem(catalog.KNOWN, "yelp18", known)
    folder = import_dataset("yelp18", source, tmp_path)
    assert "another order" in json.loads((folder / "dataset.json").read_text())["notes"][0]
    with pytest.raises(UserError, match="already there; --overwrite replaces it"):
        import_dataset("yelp18", source, tmp_path)


def test_overwrite_replaces_a_data_set_and_nothing_else(tmp_path, capsys):
    words = ["data", "synth", "--users", "20", "--items", "64", "--root", str(tmp_path), "--overwrite", "--name"]
    (tmp_path / "empty").mkdir()
    text(tmp_path / "docs", "letter.txt", "dear all")
    text(tmp_path / "raw", "train.txt", "0 1\n")  # as downloaded, the only copy for all we know
    for name in ("empty", "empty"):
        assert main([*words, name]) == 0
    for name in ("docs", "docs/letter.txt", "raw"):
        folder = tmp_path / name
        with pytest.raises(UserError, match="is not a data set"):
            synthetic.generate(folder, 20, 64, overwrite=True)
    assert main([*words, "docs"]) == 2
    assert "is not a data set" in capsys.readouterr().err
    assert (tmp_path / "docs" / "letter.txt").read_text() == "dear all"
    assert (tmp_path / "raw" / "train.txt").read_text() == "0 1\n"
    text(tmp_path / "empty", "notes.txt", "mine")
    text(tmp_path / "empty", ".hidden", "nobody's")
    assert main([*words, "empty"]) == 2
    assert "holds 'notes.txt', which is no part of a data set and would be lost" in capsys.readouterr().err
    assert (tmp_path / "empty" / "notes.txt").read_text() == "mine"
    (tmp_path / "empty" / "notes.txt").unlink()
    assert main([*words, "empty"]) == 0


@pytest.mark.parametrize("name", ["..", ".", "", "../other", "a/b", ".hidden", "-x"])
def test_a_name_never_reaches_beyond_its_folder(tmp_path, name, capsys):
    text(tmp_path, "train.txt", "0 1 2\n")
    text(tmp_path, "test.txt", "0 3\n")
    root = tmp_path / "root"
    import_dataset("mine", tmp_path, root)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="cannot name a data set"):
        import_dataset(name, tmp_path, root, overwrite=True)
    with pytest.raises(UserError, match="cannot name a data set"):
        import_csv(name, tmp_path / "a.csv", tmp_path / "b.csv", root, overwrite=True)
    assert main(["data", "synth", f"--name={name}", "--root", str(root), "--overwrite"]) == 2
    assert "cannot name a data set" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_ids_that_are_not_utf8_are_told(tmp_path):
    folder = text(tmp_path / "d", "train.txt", "0 0\n").parent
    text(folder, "test.txt", "0 1\n")
    (folder / "users.txt").write_bytes(b"\xe9\n")
    text(folder, "items.txt", "tea\nmilk\n")
    with pytest.raises(UserError, match=r"users\.txt: it is not UTF-8"):
        load(folder)


@pytest.mark.parametrize("ending", ["gz", "xz", "zip", "bz2", "tar.gz"])
def test_a_packed_file_that_was_cut_off_is_one_sentence(tmp_path, ending, capsys):
    rows = pd.DataFrame({"user": np.arange(3000) % 50, "item": np.arange(3000) * 7919 % 1000})
    whole, cut = tmp_path / f"whole.csv.{ending}", tmp_path / f"cut.csv.{ending}"
    rows.to_csv(whole, index=False)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    words = ["data", "import", "mine", "--train", str(cut), "--test", str(whole), "--root", str(tmp_path / "root")]
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot read {cut}: ")
