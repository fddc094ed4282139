"""The held-out protocol on the fast engine: validation is unseen, test is looked at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from mml_plugin.data import split
from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from mml_plugin.experiment import run_fast
from mml_plugin.experiment.run import RunRequest, run
from tests.experiment.small_runs import CONFIG, SMALL, go, watched

pytestmark = pytest.mark.usefixtures("in_home")


def test_held_out_masks_validation_and_looks_at_test_once(home, monkeypatch):
    calls = []
    monkeypatch.setattr(run_fast, "final_test", lambda *a, real=run_fast.final_test: calls.append(1) or real(*a))
    folder = go(runs="held", protocol="held-out")
    assert calls == [1]
    data = load(home / "data" / "synth")
    held = split.held_out(data, 0.1, 2019)
    vectors = load_file(folder.embeddings)
    scores = vectors["users"] @ vectors["items"].T
    scores[data.train_users, data.train_items] = -np.inf  # all of train: its training and its validation part
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    wanted = [set(data.test_items[data.test_indptr[u] : data.test_indptr[u + 1]].tolist()) for u in range(80)]
    recalls = [len(w & set(t.tolist())) / len(w) for w, t in zip(wanted, top) if w]
    result = folder.read_result()
    assert np.mean(recalls) == pytest.approx(result["metrics"]["Recall(k=20)"], abs=1e-9)
    assert result["data"]["trained_on"] == len(held.training.train_items)
    assert result["validation_metrics"] != result["metrics"]


def rows_by_count(counts, ids):
    """Whether a table's rows are numbered by falling count, as recbox numbers them."""
    return bool((np.diff(counts[np.argsort(ids.numpy(), kind="stable")]) <= 0).all())


def test_held_out_training_sees_nothing_of_validation(home, monkeypatch):
    """Batches, masks, positives, vocabulary and histories are those of a data set that never had the carved items."""
    made = watched(monkeypatch)
    folder = go("SimpleX_tiny_mml", runs="unseen", protocol="held-out", more=("gamma=0.5",))
    seen, whole = made[0].data, load(home / "data" / "synth")
    held = split.held_out(whole, 0.1, 2019)
    left = held.training
    users = range(left.num_users)
    kept = [left.train_items[left.train_indptr[u] : left.train_indptr[u + 1]].tolist() for u in users]
    carved = [held.items[held.indptr[u] : held.indptr[u + 1]].tolist() for u in users]
    assert sum(map(len, carved)) > 20

    def lists(of):
        return [of.items[of.indptr[u] : of.indptr[u + 1]].tolist() for u in users]

    assert sorted(zip(seen.users.tolist(), seen.items.tolist())) == sorted((u, i) for u in users for i in kept[u])
    assert lists(seen.train) == kept
    assert lists(seen.positives()) == [sorted(items) for items in kept]
    assert lists(seen.valid) == carved
    for data, ordered in ((left, True), (whole, False)):
        sizes = np.diff(data.train_indptr)
        assert rows_by_count(sizes, seen.user_ids) == ordered
        # The items share the histories' table, whose order is by count in the histories of all training rows.
        in_histories = np.bincount(data.train_items, weights=np.repeat(sizes - 1, sizes), minlength=data.num_items)
        assert rows_by_count(in_histories, seen.item_ids) == ordered
    item_of = {row: item for item, row in enumerate(seen.item_ids.tolist())}
    history = seen.history.of_users(torch.arange(left.num_users))
    for user in users:
        read = [item_of[row] for row in history.ids[history.row == user].tolist()]
        assert read == kept[user][-seen.history.max_len :]

    vectors = load_file(folder.embeddings)
    scores = vectors["users"] @ vectors["items"].T
    scores[left.train_users, left.train_items] = -np.inf
    top = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    recalls = [len(set(items) & set(top[u].tolist())) / len(items) for u, items in enumerate(carved) if items]
    assert np.mean(recalls) == pytest.approx(folder.read_result()["validation_metrics"]["Recall(k=20)"], abs=1e-9)


@pytest.mark.parametrize("engine", ["fast", "recbox"])
def test_a_share_too_small_for_a_validation_item_is_one_sentence(engine):
    request = RunRequest(
        "MF_tiny_mml", CONFIG, engine=engine, overrides=SMALL, protocol="held-out", valid_share=0.001,
        runs_dir=Path("empty"),
    )  # fmt: skip
    with pytest.raises(UserError, match=r"--valid-share 0.001 leaves no validation item: .*\(the most is \d+,"):
        run(request)
    assert not Path("empty").exists()
