"""Exact ranking against brute force and recbox's own metrics, with ties, NaN and too few candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.engine import backends, metrics, ranking
from mml_plugin.engine.ranking import ItemLists, per_user_metrics, top_items
from mml_plugin.hosts.recbox import allowed, shims

CPU = torch.device("cpu")
NAMES = ["reference", "numba"]


def item_lists(lists):
    counts = [len(items) for items in lists]
    flat = [item for items in lists for item in items]
    return ItemLists.of(np.concatenate([[0], np.cumsum(counts)]), np.array(flat, np.int64), CPU)


def brute_force(scores, masked, k):
    rows = []
    for user, row in enumerate(scores.tolist()):
        candidates = [(-s, i) for i, s in enumerate(row) if s == s and s > -np.inf and i not in masked[user]]
        best = [i for _, i in sorted(candidates)[:k]]
        rows.append(best + [-1] * (k - len(best)))
    return rows


@settings(max_examples=60)
@given(st.data())
def test_top_items_by_brute_force(data):
    users, items, k = (data.draw(st.integers(1, n)) for n in (6, 30, 12))
    # Whole numbers make many ties.
    value = st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0, float("nan")])
    scores = torch.tensor(
        data.draw(st.lists(st.lists(value, min_size=items, max_size=items), min_size=users, max_size=users))
    )
    masked = [data.draw(st.sets(st.integers(0, items - 1))) for _ in range(users)]
    for name in NAMES:
        top = top_items(torch.eye(users), torch.nan_to_num(scores.T, nan=0.0), k, backends.select(name, CPU))
        assert top.tolist() == brute_force(torch.nan_to_num(scores, nan=0.0), [set()] * users, k)
        backend = backends.select(name, CPU)
        hidden = scores.clone()
        for user, gone in enumerate(masked):
            hidden[user, list(gone)] = -torch.inf
        best = backend.top(hidden, min(k, items))
        assert best.tolist() == brute_force(scores, masked, min(k, items))


@pytest.mark.parametrize("name", [*NAMES, "torch"])
def test_vectors_with_nan_rank_nothing(name):
    users, items = torch.ones(3, 2), torch.arange(12.0).reshape(6, 2)
    users[1] = torch.nan
    items[5] = torch.nan
    top = top_items(users, items, 6, backends.select(name, CPU))
    assert top.tolist() == [[4, 3, 2, 1, 0, -1], [-1] * 6, [4, 3, 2, 1, 0, -1]]


@pytest.mark.parametrize("name", NAMES)
def test_masking_and_blocks(name, monkeypatch):
    monkeypatch.setattr("mml_plugin.engine.ranking.BLOCK_FLOATS", 100)
    monkeypatch.setattr("mml_plugin.engine.backends.numba_cpu.TILE_USERS", 7)
    monkeypatch.setattr("mml_plugin.engine.backends.numba_cpu.TILE_ITEMS", 4)
    generator = torch.Generator().manual_seed(0)
    user, item = torch.randn(40, 5, generator=generator), torch.randn(30, 5, generator=generator)
    rows = torch.randperm(40, generator=generator)[:25]
    first = [[(7 * u + j) % 30 for j in range(u % 9)] for u in range(40)]
    second = [[(3 * u + 1) % 30] for u in range(40)]
    top = top_items(user[rows], item, 8, backends.select(name, CPU), rows, (item_lists(first), item_lists(second)))
    masked = [set(first[u]) | set(second[u]) for u in rows.tolist()]
    assert top.tolist() == brute_force(user[rows] @ item.T, masked, 8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("items", [64, 511, 512, 513, 1027])
def test_equal_items_come_in_the_order_of_their_rows(name, items):
    """A product with few columns may have other last bits than one with many, even where the columns are the same."""
    generator = torch.Generator().manual_seed(items)
    user, item = torch.randn(90, 64, generator=generator), torch.randn(1, 64, generator=generator).repeat(items, 1)
    top = top_items(user, item, 3, backends.select(name, CPU), None, (item_lists([[0]] * 90),))
    assert top.tolist() == [[1, 2, 3]] * 90


def test_corners_of_the_tiles():
    backend = backends.select("numba", CPU)
    user, item = torch.randn(5, 4), torch.randn(600, 4)
    assert top_items(user, item, 0, backend).shape == (5, 0)
    assert top_items(user[:0], item, 3, backend).shape == (0, 3)
    assert top_items(user, item[:0], 3, backend).tolist() == [[-1] * 3] * 5
    with pytest.raises(IndexError, match="a user row is outside the lists"):
        top_items(user, item, 3, backend, torch.tensor([0, 1, 2, 3, 5]), (item_lists([[]] * 5),))


LABELS = [f"{kind}(k={k})" for kind in allowed.METRICS for k in (1, 5, 20)]


@pytest.mark.parametrize("at_once", [ranking.METRIC_USERS, 7])
def test_metrics_equal_recboxs(at_once, monkeypatch):
    monkeypatch.setattr(ranking, "METRIC_USERS", at_once)
    shims.import_recbox()
    from recbox.core import metrics as theirs

    rng = np.random.default_rng(1)
    top = torch.tensor(np.stack([rng.permutation(60)[:20] for _ in range(50)]))
    relevant = [rng.integers(0, 60, rng.integers(1, 40)).tolist() for _ in range(50)]  # with repeated items
    names = {label: allowed.parse_metric(label) for label in LABELS}
    found = per_user_metrics(top, torch.arange(50), item_lists(relevant), 60, names)
    for label, (kind, k) in names.items():
        function = getattr(theirs, kind)(k=k)
        wanted = [function(row.tolist(), items) for row, items in zip(top, relevant)]
        assert found[label] == pytest.approx(np.array(wanted, float), abs=1e-12), label


def test_recboxs_metrics_differ_only_where_its_500_candidates_run_out():
    """recbox looks at the 500 best items, masked ones among them, and fills up with those where too few are left."""
    shims.import_recbox()
    from recbox.core import metrics as theirs

    rng = np.random.default_rng(2)
    users, items = rng.standard_normal((30, 8)), rng.standard_normal((700, 8))
    order = np.argsort(-(users @ items.T), axis=1)
    # Users 0 to 4 have trained on so many of their best items that 3, 7, ... 19 of the 500 are left.
    train = [order[u, : 497 - 4 * u].tolist() if u < 5 else order[u, 1:40].tolist() for u in range(30)]
    wanted = [order[u, [498, 502, 510]].tolist() if u < 5 else order[u, [0, 45, 300]].tolist() for u in range(30)]
    index = theirs.FaissIndex(items, dim=8)
    kinds = list(allowed.METRICS)
    functions = [getattr(theirs, kind)(k=10) for kind in kinds]
    recboxs = theirs.evaluate_block(users, index, list(range(30)), train, wanted, functions, 10)
    top = top_items(
        torch.tensor(users), torch.tensor(items), 10, backends.select("numba", CPU), None, (item_lists(train),)
    )  # fmt: skip
    names = {kind: (kind, 10) for kind in kinds}
    found = per_user_metrics(top, torch.arange(30), item_lists(wanted), 700, names)
    ours = np.stack([found[kind] for kind in kinds], axis=1)
    differ = np.flatnonzero(np.abs(ours - np.array(recboxs, float)).max(axis=1) > 1e-12)
    assert differ.tolist() == [0, 1]
    assert all(500 - len(train[u]) < 10 for u in differ)


def test_the_standard_mrr_and_map():
    hits = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 1]], bool)
    relevant = np.array([2, 3, 1])
    assert metrics.METRICS["StandardMRR"](hits, relevant) == pytest.approx([0.5, 0, 1])
    assert metrics.METRICS["StandardMAP"](hits, relevant) == pytest.approx([(1 / 2 + 2 / 3) / 2, 0, (1 + 2 / 3) / 1])


def test_a_user_without_candidates_scores_nothing():
    top = top_items(
        torch.ones(1, 2), torch.ones(3, 2), 5, backends.select("numba", CPU), None, (item_lists([[0, 1, 2]]),)
    )
    assert top.tolist() == [[-1] * 5]
    found = per_user_metrics(top, torch.arange(1), item_lists([[0]]), 3, {"Recall(k=5)": ("Recall", 5)})
    assert found["Recall(k=5)"].tolist() == [0.0]
