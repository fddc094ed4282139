"""The held-out split."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.data import split, synthetic
from mml_plugin.data.interactions import Interactions, load
from mml_plugin.errors import UserError
from tests.data_room.files import TINY

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
    for share in (0, -0.1, 0.51):
        with pytest.raises(UserError, match="must be in"):
            split.held_out(data, share, 1)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5])
def test_each_users_number_is_rounded_and_one_item_stays(share):
    """Users of 1 to 20 items; forty more have all of them, so that no item is about to vanish."""
    sizes = [*range(1, 21), *[20] * 40]
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    items = np.concatenate([np.arange(size) for size in sizes])
    ids = np.arange(len(sizes)).astype(str), np.arange(20).astype(str)
    data = Interactions(*ids, indptr, items, np.zeros(len(indptr), np.int64), np.array([], np.int64))
    carved = split.held_out(data, share, 0)
    assert np.diff(carved.indptr).tolist() == [min(round(share * size), size - 1) for size in sizes]


def test_held_out_files_hold_no_test_row(tmp_path):
    data = load(TINY)
    carved = split.held_out(data, 0.2, 1)
    split.write_held_out(carved, tmp_path / "h")
    assert sorted(p.name for p in (tmp_path / "h").iterdir()) == ["item_corpus.csv", "train.csv", "valid.csv"]
    split.write_final_test(carved, tmp_path / "h")
    history = (tmp_path / "h" / "test.csv").read_text().splitlines()[1].split(",")[-1].split("^")
    left = carved.training
    assert history == left.item_ids[left.train_items[: left.train_indptr[1]]].tolist()
