"""Reading, importing, converting, checking, splitting and making data sets."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas._libs.parsers import STR_NA_VALUES

from mml_plugin.cli import main
from mml_plugin.data import catalog, convert, ids, split, synthetic
from mml_plugin.data.check import check, differing_files, statistics
from mml_plugin.data.importing import import_csv, import_dataset
from mml_plugin.data.interactions import Interactions, from_lines, load
from mml_plugin.data.lightgcn import read_lines
from mml_plugin.errors import UserError

TINY = Path(__file__).resolve().parents[1] / "data" / "golden" / "tiny"


def text(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder / name


def same(a: Interactions, b: Interactions) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in Interactions.__dataclass_fields__)


@given(st.dictionaries(st.integers(0, 60), st.lists(st.integers(0, 10**12), min_size=1, max_size=6), min_size=1))
@settings(max_examples=50)
def test_reading_equals_a_loop_over_lines(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("t") / "train.txt"
    path.write_text("".join(f"{u} {' '.join(map(str, items))} \r\n\n" for u, items in lines.items()))
    found = read_lines(path)
    assert found.users.tolist() == list(lines)
    assert [found.items[a:b].tolist() for a, b in zip(found.indptr, found.indptr[1:])] == list(lines.values())
    packed = path.with_suffix(".txt.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert np.array_equal(read_lines(packed).items, found.items)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("0 1 2\n1 3 x4\n", r"train.txt, line 2, word 3: only whole numbers >= 0 are allowed, found 'x4'"),
        ("0 1 2\n1 3 -4\n", r"line 2, word 3: only whole numbers"),
        ("0 1\n1 2\n0 3\n", r"line 3, word 1: user 0 already has a line"),
        ("", "is empty"),
        ("0\n1\n", "holds users but no item"),
        ("0 1234567890123456789012\n", r"line 1, word 2: the number is too large"),
    ],
)
def test_malformed_text_names_file_and_line(tmp_path, content, says):
    with pytest.raises(UserError, match=says):
        read_lines(text(tmp_path, "train.txt", content))


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_any_line_end_ends_a_line(tmp_path, end):
    (tmp_path / "train.txt").write_bytes(f"0 1 2{end}1 3{end}{end}2 4 x{end}".encode())
    with pytest.raises(UserError, match="line 4, word 3: only whole numbers"):
        read_lines(tmp_path / "train.txt")
    (tmp_path / "train.txt").write_bytes(f"0 1 2{end}1 3{end}{end}2 4{end}".encode())
    found = read_lines(tmp_path / "train.txt")
    assert (found.users.tolist(), found.indptr.tolist()) == ([0, 1, 2], [0, 2, 3, 4])


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    mark = "\ufeff"
    for name, content in (("train.txt", "0 0 1\n1 1\n"), ("test.txt", "0 1\n"), ("users.txt", "ann\nbob\n"),
                          ("items.txt", "tea\nmilk\n")):  # fmt: skip
        (tmp_path / name).write_text(mark + content, encoding="utf-8")
    data = load(tmp_path)
    assert (data.user_ids.tolist(), data.item_ids.tolist()) == (["ann", "bob"], ["tea", "milk"])
    train = pairs_csv(tmp_path / "a.csv", [("ann", "tea")])
    train.write_text(mark + train.read_text())
    assert load(import_csv("mine", train, train, tmp_path / "d")).user_ids.tolist() == ["ann"]


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("users.txt", "bob", "b" * 256, "users.txt, line 2: the id is 256 characters long, 255 are allowed"),
        ("train.csv", "ann", '"ann\nx"', r"mine: the user_id 'ann.nx'... holds a line break; is a quote left open\?"),
        ("item_corpus.csv", "tea", "t" * 256, "item_corpus.csv: the item_id 't*'... is 256 characters long"),
    ],
)
def test_an_id_as_long_as_a_file_is_refused_before_it_is_an_array(tmp_path, name, old, new, says):
    train = pairs_csv(tmp_path / "a.csv", [("ann", "tea"), ("bob", "milk")])
    folder = import_csv("mine", train, train, tmp_path)
    if name != "users.txt":
        for path in folder.glob("*.txt"):
            path.unlink()
    (folder / name).write_text((folder / name).read_text().replace(old, new))
    with pytest.raises(UserError, match=says):
        load(folder)


def test_a_truncated_gzip_file_is_one_sentence(tmp_path):
    whole = gzip.compress(b"0 1 2\n" * 1000)
    (tmp_path / "train.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a complete gzip file"):
        read_lines(tmp_path / "train.txt.gz")
    with pytest.raises(UserError, match="there is no file"):
        read_lines(tmp_path / "none.txt")


@pytest.mark.parametrize("name", ["train.csv", "test.csv", "item_corpus.csv"])
def test_csv_files_equal_reczoos_converter_byte_for_byte(tmp_path, name):
    folder = import_dataset("tiny", TINY, tmp_path)
    assert (folder / name).read_bytes() == (TINY / name).read_bytes()


def test_text_and_csv_give_the_same_interactions(tmp_path):
    folder = import_dataset("tiny", TINY, tmp_path)
    whole = load(folder)
    for name in ("train.txt", "test.txt"):
        (folder / name).unlink()
    assert same(load(folder), whole)
    assert json.loads((folder / "dataset.json").read_text())["fingerprint"] == whole.fingerprint


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (
            "train.csv",
            "\n0,2,1,0,",
            "\n0,x,1,0,",
            r"train.csv, line 3: corpus_index must be a whole number >= 0, got 'x'",
        ),
        ("train.csv", "\n0,2,1,0,", "\n0,-1,1,0,", r"line 3: corpus_index must be a whole number >= 0, got '-1'"),
        ("train.csv", "\n0,2,1,0,", "\n0,2.5,1,0,", r"line 3: corpus_index must be a whole number >= 0, got '2.5'"),
        ("train.csv", "\n0,2,1,0,", "\n0,7,1,0,", r"line 3: item 7 is outside the item corpus, whose rows are 0 to 4"),
        ("test.csv", "\n0,3,1,0,", "\n0,7,1,0,", r"test.csv, line 2: item 7 is outside the item corpus"),
        ("train.csv", "\n0,2,1,0,", "\n0,2,0,0,", r"train.csv, line 3: label must be 1, got '0'"),
        ("test.csv", "\n0,3,1,0,", "\n0,3,0.5,0,", r"test.csv, line 2: label must be 1, got '0.5'"),
        ("train.csv", "\n0,2,1,0,1", "\n0,2", r"line 3: 2 cells where the header has 5"),
        ("train.csv", "\n1,4,1,1,0\n", "\n1,4,1", r"line 5: 3 cells where the header has 5"),
        ("train.csv", "corpus_index", "item", r"line 1: column 'corpus_index' is missing; found query_index, item"),
        ("train.csv", None, "", "train.csv, line 1: column 'query_index' is missing; found nothing"),
        ("train.csv", None, "query_index,corpus_index,label,user_id,user_history\n", "train.csv holds no row"),
        ("item_corpus.csv", "item_id", "id", "item_corpus.csv, line 1: column 'item_id' is missing"),
    ],
)
def test_malformed_csv_without_text_names_file_and_line(tmp_path, name, old, new, says):
    text(tmp_path, "train.txt", "0 1 2\n1 0 4\n")
    text(tmp_path, "test.txt", "0 3\n1 2\n")
    folder = import_dataset("mine", tmp_path, tmp_path / "data")
    for file in folder.glob("*.txt"):
        file.unlink()
    assert load(folder).train_items.tolist() == [1, 2, 0, 4]
    content = (folder / name).read_text()
    changed = new if old is None else content.replace(old, new, 1)
    assert changed != content
    (folder / name).write_text(changed)
    with pytest.raises(UserError, match=says):
        load(folder)


@pytest.mark.parametrize("one", ["1.0", "true", "True", " 1", "1e0"])
def test_a_label_of_1_may_be_written_in_any_way(tmp_path, one):
    text(tmp_path, "train.txt", "0 1 2\n1 0 4\n")
    text(tmp_path, "test.txt", "0 3\n1 2\n")
    folder = import_dataset("mine", tmp_path, tmp_path / "data")
    for file in folder.glob("*.txt"):
        file.unlink()
    for name in ("train.csv", "test.csv"):
        lines = [line.split(",") for line in (folder / name).read_text().splitlines()]
        (folder / name).write_text(
            "".join(",".join([*w[:2], one if n else w[2], *w[3:]]) + "\n" for n, w in enumerate(lines))
        )
    assert load(folder).train_items.tolist() == [1, 2, 0, 4]


def test_gaps_in_item_ids_shift_nothing(tmp_path):
    source = text(tmp_path / "s", "train.txt", "7 100 5\n3 5 40 100\n").parent
    text(source, "test.txt", "3 7\n")
    folder = import_dataset("gaps", source, tmp_path)
    items = (folder / "item_corpus.csv").read_text().split()[1:]
    assert items == ["5", "7", "40", "100"]
    rows = [line.split(",") for line in (folder / "train.csv").read_text().splitlines()[1:]]
    for user, row, _, _, history in rows:
        original = {"7": ["100", "5"], "3": ["5", "40", "100"]}[user]
        expected = [i for i in original if i != items[int(row)]]
        assert history == "^".join(expected)


def test_histories_lose_the_first_occurrence_of_the_target(tmp_path):
    source = text(tmp_path / "s", "train.txt", "0 1 2 1\n1 9\n").parent
    text(source, "test.txt", "0 9\n")
    rows = (import_dataset("dup", source, tmp_path) / "train.csv").read_text().splitlines()[1:]
    assert [r.split(",")[-1] for r in rows] == ["2^1", "1^1", "2^1", ""]


def test_users_without_history_are_refused_or_dropped(tmp_path):
    source = text(tmp_path / "s", "train.txt", "0 1 2\n").parent
    text(source, "test.txt", "0 3\n8 1\n9 2\n")
    with pytest.raises(UserError, match=r"user 8 \(and 1 more\) has test items but no training history"):
        import_dataset("cold", source, tmp_path)
    assert not (tmp_path / "cold").exists()
    folder = import_dataset("cold", source, tmp_path, drop_cold_users=True)
    notes = json.loads((folder / "dataset.json").read_text())["notes"]
    assert notes == [
        "2 test users without training history were left out",
        "1 items occur in test only: they share one embedding (OOV), as recbox has it",
    ]
    assert load(folder).num_users == 1


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


def test_a_bad_line_of_a_packed_csv_file_is_named(tmp_path):
    good = text(tmp_path, "good.csv", "user,item\na,b\n")
    packed = tmp_path / "bad.csv.gz"
    packed.write_bytes(gzip.compress(b"user,item\na,b\n\nc,\n"))
    with pytest.raises(UserError, match=r"bad\.csv\.gz, line 4: the item is empty"):
        import_csv("bad", packed, good, tmp_path / "d")


def test_ids_of_text_files_that_an_array_would_cut_are_refused(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    text(folder, "train.txt", "0 0\n1 0\n")
    text(folder, "test.txt", "0 1\n1 1\n")
    text(folder, "users.txt", "a\na\0\n")
    text(folder, "items.txt", "x\ny\n")
    with pytest.raises(UserError, match=r"users\.txt, line 2: the id holds a NUL character"):
        import_dataset("bad", folder, tmp_path / "d")


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


def pairs_csv(path, pairs):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("user", "item"), *pairs])
    return path


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


def test_a_synthetic_set_that_is_there_already_is_left_as_it_is(tmp_path, capsys):
    words = ["data", "synth", "--users", "20", "--items", "64", "--root", str(tmp_path)]
    assert main(words) == 0
    before = (tmp_path / "synth" / "train.txt").stat().st_mtime_ns
    assert main(words) == 0
    assert "already there, made with the same sizes and seed" in capsys.readouterr().out
    assert (tmp_path / "synth" / "train.txt").stat().st_mtime_ns == before
    assert main([*words, "--seed", "7"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    (tmp_path / "synth" / "train.csv").unlink()
    assert main(words) == 2
    assert main([*words, "--overwrite"]) == 0
    (tmp_path / "synth" / "dataset.json").write_text("[")
    assert main(words) == 2


def test_overwrite_replaces_a_data_set_and_nothing_else(tmp_path, capsys):
    words = ["data", "synth", "--users", "20", "--items", "64", "--root", str(tmp_path), "--overwrite", "--name"]
    (tmp_path / "empty").mkdir()
    text(tmp_path / "docs", "letter.txt", "dear all")
    text(tmp_path / "raw", "train.txt", "0 1\n")
    for name in ("empty", "raw", "raw"):
        assert main([*words, name]) == 0
    for name in ("docs", "docs/letter.txt"):
        folder = tmp_path / name
        with pytest.raises(UserError, match="is not a data set"):
            synthetic.generate(folder, 20, 64, overwrite=True)
    assert main([*words, "docs"]) == 2
    assert "is not a data set" in capsys.readouterr().err
    assert (tmp_path / "docs" / "letter.txt").read_text() == "dear all"


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


def test_the_catalogue_is_table_1():
    for name, users, items, interactions in (("yelp18", 31668, 38048, 1561406), ("gowalla", 29858, 40981, 1027370)):
        counts = catalog.KNOWN[name].counts
        assert (counts["users"], counts["items"], counts["train"] + counts["test"]) == (users, items, interactions)


lists = st.lists(st.lists(st.integers(0, 15), min_size=1, max_size=12), min_size=1, max_size=8)


@given(lists, st.floats(0.05, 0.5), st.integers(0, 5))
@settings(max_examples=80)
def test_the_held_out_split_never_leaks(rows, share, seed):
    items = np.concatenate([np.array(r) for r in rows])
    indptr = np.concatenate([[0], np.cumsum([len(r) for r in rows])])
    # Test rows that would crash any reader: nothing may look at them.
    data = Interactions(
        np.arange(len(rows)).astype(str), np.arange(16).astype(str), indptr, items, np.array([0]), np.array([10**9])
    )
    carved = split.held_out(data, share, seed)
    left = carved.training
    train = [left.train_items[a:b].tolist() for a, b in zip(left.train_indptr, left.train_indptr[1:])]
    valid = [carved.items[a:b].tolist() for a, b in zip(carved.indptr, carved.indptr[1:])]
    for before, kept, out in zip(rows, train, valid):
        assert sorted(kept + out) == sorted(before)
        assert kept
        assert not set(kept) & set(out)
    assert set(left.train_items) == set(items)
    again = split.held_out(data, share, seed)
    assert np.array_equal(again.items, carved.items)


def test_the_held_out_share_is_about_what_was_asked():
    data = synthetic.sample(users=200, items=300, seed=1)
    carved = split.held_out(data, 0.2, 1)
    assert len(carved.items) / len(data.train_items) == pytest.approx(0.2, abs=0.02)
    assert not np.array_equal(split.held_out(data, 0.2, 2).items, carved.items)
    with pytest.raises(UserError, match="must be in"):
        split.held_out(data, 0.9, 1)


def test_held_out_files_hold_no_test_row(tmp_path):
    data = load(TINY)
    carved = split.held_out(data, 0.2, 1)
    split.write_held_out(carved, tmp_path / "h")
    assert sorted(p.name for p in (tmp_path / "h").iterdir()) == ["item_corpus.csv", "train.csv", "valid.csv"]
    split.write_final_test(carved, tmp_path / "h")
    history = (tmp_path / "h" / "test.csv").read_text().splitlines()[1].split(",")[-1].split("^")
    left = carved.training
    assert history == left.item_ids[left.train_items[: left.train_indptr[1]]].tolist()


def test_synthetic_data_is_the_same_everywhere():
    data = synthetic.sample(users=60, items=90, seed=5)
    assert same(data, synthetic.sample(users=60, items=90, seed=5))
    # A known answer: any change of generator or arithmetic shows here.
    assert data.fingerprint == "d0b8b09106ec9d62d03fb1a0896bcee77eff48aebe1e6ffc7af5e1b8b11da85a"
    assert np.diff(data.train_indptr).min() >= 1
    counts = np.sort(np.bincount(data.train_items, minlength=data.num_items))[::-1]
    assert counts[: len(counts) // 10].sum() > 2 * len(data.train_items) / 10


def test_a_synthetic_set_beyond_memory_is_refused(tmp_path, capsys):
    words = ["data", "synth", "--users", "100000", "--items", "100000", "--root", str(tmp_path / "d")]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "--users 100000 --items 100000: a value is drawn for each of 10,000,000,000 pairs" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "d").exists()


def test_query_index_is_the_id_where_ids_are_numbers():
    data = load(TINY)
    assert convert.query_index(data).tolist() == data.user_ids.astype(int).tolist()


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


def test_ids_that_are_not_utf8_are_told(tmp_path):
    folder = text(tmp_path / "d", "train.txt", "0 0\n").parent
    text(folder, "test.txt", "0 1\n")
    (folder / "users.txt").write_bytes(b"\xe9\n")
    text(folder, "items.txt", "tea\nmilk\n")
    with pytest.raises(UserError, match=r"users\.txt: it is not UTF-8"):
        load(folder)


@pytest.mark.parametrize(
    ("users", "items", "says"),
    [
        ("anna\nNA\n", "tea\nmilk\nbread\n", r"d/users.txt: user id 'NA' cannot be used: pandas reads it as a missing"),
        ("anna\nbob\n", "tea\n\nbread\n", r"d/items.txt: item id '' cannot be used: ids must not be blank"),
        ("anna\nb^b\n", "tea\nmilk\nbread\n", r"d/users.txt: user id 'b\^b' cannot be used"),
    ],
)
def test_text_files_hold_no_ids_that_recboxs_csv_files_could_not(tmp_path, users, items, says):
    folder = text(tmp_path / "d", "train.txt", "0 0 1\n1 2\n").parent
    text(folder, "test.txt", "0 2\n")
    (folder / "users.txt").write_bytes(users.encode())
    (folder / "items.txt").write_bytes(items.encode())
    with pytest.raises(UserError, match=says):
        load(folder)


def test_every_word_for_a_missing_cell_is_known():
    assert STR_NA_VALUES - {""} == ids.MISSING
