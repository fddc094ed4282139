"""Data sets as text files: what is read, and which line is wrong."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.data.importing import import_csv, import_dataset
from mml_plugin.data.interactions import load
from mml_plugin.data.lightgcn import read_lines
from mml_plugin.errors import UserError
from tests.data_room.files import pairs_csv, text


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


def test_ids_of_text_files_that_an_array_would_cut_are_refused(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    text(folder, "train.txt", "0 0\n1 0\n")
    text(folder, "test.txt", "0 1\n1 1\n")
    text(folder, "users.txt", "a\na\0\n")
    text(folder, "items.txt", "x\ny\n")
    with pytest.raises(UserError, match=r"users\.txt, line 2: the id holds a NUL character"):
        import_dataset("bad", folder, tmp_path / "d")


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
