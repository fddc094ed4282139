"""Data sets as recbox's CSV files: written as reczoo writes them, read back as the text files are."""

from __future__ import annotations

import json

import pytest
from pandas._libs.parsers import STR_NA_VALUES

from mml_plugin.data import convert, ids
from mml_plugin.data.importing import import_dataset
from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from tests.data_room.files import TINY, same, text


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


def test_query_index_is_the_id_where_ids_are_numbers():
    data = load(TINY)
    assert convert.query_index(data).tolist() == data.user_ids.astype(int).tolist()


def test_every_word_for_a_missing_cell_is_known():
    assert STR_NA_VALUES - {""} == ids.MISSING
