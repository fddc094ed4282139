"""The in-memory vocabulary and histories against recbox's own encoder, on odd data."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from mml_plugin.data import convert, vocabulary
from mml_plugin.data.histories import Histories
from mml_plugin.data.interactions import Interactions, load
from mml_plugin.errors import UserError
from mml_plugin.hosts.recbox import dataset

TINY = Path(__file__).resolve().parents[1] / "data" / "golden" / "tiny"


def odd():
    """One-item users, a test-only user and item, repeated items, ids whose text order is not their number order."""
    lists = [[0, 1, 2, 3, 4], [2], [1, 1, 3], [], [4, 0], [3, 2, 1, 0, 3, 5]]
    test = [[5], [0], [6], [1], [2], [4]]

    def parts(rows):
        return np.cumsum([0, *map(len, rows)]), np.array([i for row in rows for i in row], np.int64)

    users = np.array(["2", "10", "9", "11", "1", "100"])
    items = np.array(["30", "4", "200", "5", "11", "6", "7"])
    return Interactions(users, items, *parts(lists), *parts(test))


def write(data, folder, params):
    folder.mkdir()
    convert.write_train(data, folder / "train.csv")
    convert.write_evaluation(data, data.test_indptr, data.test_items, folder / "test.csv")
    convert.write_corpus(data, folder / "item_corpus.csv")
    names = {"train_data": "train.csv", "valid_data": "test.csv", "item_corpus": "item_corpus.csv"}
    return {**params, **{key: str(folder / name) for key, name in names.items()}}


def variants(params):
    """Column settings that change the vocabulary."""
    columns = params["feature_cols"]
    yield columns
    yield [{**c, "max_len": 2} if c["type"] == "sequence" else c for c in columns]
    yield [{**c, "max_len": 2, "padding": "post"} if c["type"] == "sequence" else c for c in columns]
    if not any(c.get("share_embedding") for c in columns):
        for dtype in ("int", "float"):
            yield [{**c, "dtype": dtype} if c["type"] == "categorical" else c for c in columns]
    yield [{**c, "min_categr_count": 2} if c["type"] in ("sequence", "categorical") else c for c in columns]
    if any(c["type"] == "sequence" for c in columns):
        free = [{k: v for k, v in c.items() if k != "share_embedding"} for c in columns]
        history = next(c for c in free if c["type"] == "sequence")
        rest = [c for c in free if c is not history]
        yield [*rest, {**history, "share_embedding": "item_id", "max_len": 4}]


@pytest.mark.parametrize("which", ["golden", "odd"])
@pytest.mark.parametrize("name", ["MF_ccl", "SimpleX_mean_g1_mml", "SimpleX_uatt_mml"])
def test_equals_recboxs_encoder(name, which, golden_params, tmp_path):
    data = load(TINY) if which == "golden" else odd()
    base = golden_params(name) if which == "golden" else write(data, tmp_path / "csv", golden_params(name))
    for columns in variants(base):
        params = {**base, "feature_cols": columns}
        prepared = dataset.prepare(params, tmp_path / "cache")
        made = vocabulary.build(data, params)
        theirs = json.loads((prepared.folder / "feature_map.json").read_text())["feature_specs"]
        assert made.specs == theirs
        with h5py.File(prepared.folder / "train.h5") as train, h5py.File(prepared.folder / "item_corpus.h5") as corpus:
            assert np.array_equal(corpus["item_id"][:], made.items.ids)
            assert np.array_equal(train["user_id"][:], made.users.ids[data.train_users])
            if made.history is None:
                continue
            rows = torch.arange(len(data.train_items))
            history = Histories(data, made, torch.device("cpu"))
            ragged = history.of_rows(rows, torch.from_numpy(data.train_users))
            compare(ragged, train["user_history"][:], made.history.size - 1)
            compare_filled(history, rows, torch.from_numpy(data.train_users), ragged)
        with h5py.File(prepared.folder / "valid.h5") as valid:
            ragged = history.of_users(torch.from_numpy(data.test_users))
            compare(ragged, valid["user_history"][:], made.history.size - 1)


def compare(ragged, padded, pad):
    assert ragged.lengths.tolist() == (padded != pad).sum(1).tolist()
    for row, wanted in enumerate(padded):
        assert ragged.ids[ragged.row == row].tolist() == wanted[wanted != pad].tolist()
        assert ragged.slot[ragged.row == row].tolist() == list(range(int(ragged.lengths[row])))


def compare_filled(history, rows, users, ragged):
    for spare in (0, 1, 57):
        filled = history.of_rows(rows, users, room=len(ragged.ids) + spare)
        assert filled.real.tolist() == [True] * len(ragged.ids) + [False] * spare
        assert torch.equal(filled.lengths, ragged.lengths)
        for field in ("ids", "row", "slot"):
            assert torch.equal(getattr(filled, field)[filled.real], getattr(ragged, field)), field
    # Batches that end with users of short and of no histories: what fills up stays within all arrays.
    for batch in rows.split(3):
        one = history.of_rows(batch, users[batch], room=200)
        wanted = history.of_rows(batch, users[batch])
        assert int(one.real.sum()) == len(wanted.ids)
        assert torch.equal(one.ids[one.real], wanted.ids)
        assert int(one.row.max()) < len(batch)


def test_foreign_columns_are_refused_by_name(golden_params):
    params = golden_params("SimpleX_uatt_mml")
    extra = {"name": "age", "active": True, "dtype": "int", "type": "numeric", "source": "user"}
    with pytest.raises(UserError, match="cannot read column 'age'"):
        vocabulary.build(odd(), {**params, "feature_cols": [*params["feature_cols"], extra]})
    pooled = [{**c, "embedding_callback": "layers.MaskedAveragePooling()"} if c["type"] == "sequence" else c
              for c in params["feature_cols"]]  # fmt: skip
    with pytest.raises(UserError, match="cannot read column 'user_history'"):
        vocabulary.build(odd(), {**params, "feature_cols": pooled})


@pytest.mark.parametrize("change", [{"splitter": ","}, {"splitter": None}])
def test_a_splitter_that_splits_nothing_is_refused(change, golden_params):
    params = golden_params("SimpleX_uatt_mml")
    params["feature_cols"] = [{**c, **change} if c["type"] == "sequence" else c for c in params["feature_cols"]]
    with pytest.raises(UserError, match=f"column 'user_history' has splitter {change['splitter']!r}, by which recbox"):
        vocabulary.build(odd(), params)


@pytest.mark.parametrize("wrong", ["anna", "1" * 30, "1.5"])
def test_ids_that_the_dtype_cannot_hold_are_one_sentence(wrong, golden_params):
    params = golden_params("MF_ccl")
    params["feature_cols"] = [{**c, "dtype": "int"} for c in params["feature_cols"]]
    data = odd()
    users = np.array([*data.user_ids[:-1], wrong])
    with pytest.raises(UserError, match=rf"column 'user_id' has dtype int, and the id '{wrong}' is no such number"):
        vocabulary.build(dataclasses.replace(data, user_ids=users), params)


@pytest.mark.parametrize(("dtype", "users"), [("int", ["07", "7"]), ("float", ["1e2", "100"]), ("float", ["7", "7.0"])])
def test_ids_that_the_dtype_makes_one_are_refused(dtype, users, golden_params):
    # recbox would count them, and train them, as one.
    params = golden_params("MF_ccl")
    params["feature_cols"] = [{**c, "dtype": dtype} for c in params["feature_cols"]]
    data = dataclasses.replace(odd(), user_ids=np.array([*users, "9", "11", "1", "1000"]))
    with pytest.raises(UserError, match=f"dtype {dtype}, in which the ids {users[0]} and {users[1]} are one"):
        vocabulary.build(data, params)
