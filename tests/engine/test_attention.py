"""Attention over ragged histories: numba's two passes against torch's own operations, differentiated by autograd."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin.data.histories import Ragged
from mml_plugin.engine import backends
from mml_plugin.engine.backends import numba_attention
from mml_plugin.engine.declaration import Declaration, HistoryTower
from mml_plugin.engine.user_tower import UserTower

CPU = torch.device("cpu")
LENGTHS = {"usual": [3, 1, 7, 2], "empty rows": [0, 4, 0, 0, 2, 0], "all empty": [0, 0], "one": [1]}


@pytest.mark.parametrize("aggregator", ["user_attention", "self_attention"])
@pytest.mark.parametrize("dropped", [False, True])
@pytest.mark.parametrize("case", LENGTHS)
@pytest.mark.parametrize("dim", [5, 16])
def test_numba_pools_as_torch_does(aggregator, dropped, case, dim):
    torch.manual_seed(1)
    double = {"dtype": torch.float64}
    lengths = torch.tensor(LENGTHS[case])
    entries, rows = int(lengths.sum()), len(lengths)
    table = torch.nn.Parameter(torch.randn(9, dim, **double))
    table.data[4] = 0  # counts as padding wherever it stands
    table.data[5, :3] = torch.tensor([1.5, -1.0, -0.5])  # so does what sums to exactly 0
    table.data[5, 3:] = 0
    key = torch.nn.Sequential(torch.nn.Linear(dim, dim, **double), torch.nn.Tanh())
    value = torch.nn.Linear(dim, dim, **double)
    query = torch.nn.Parameter(torch.randn(dim, 1, **double)) if aggregator == "self_attention" else None
    tower = HistoryTower(table, value, 0.4, aggregator, key, query, 0.2)
    users = torch.nn.Parameter(torch.randn(rows, dim, **double))
    model = Declaration(users, torch.nn.Parameter(torch.randn(3, dim, **double)), "cosine", history=tower)
    row = torch.repeat_interleave(torch.arange(rows), lengths)
    slot = torch.arange(entries) - (lengths.cumsum(0) - lengths)[row]
    history = Ragged(torch.arange(entries) % 9, row, slot, lengths)
    mask = (torch.rand(entries, **double) > 0.3) / 0.7 if dropped else None
    weight = torch.randn(rows, dim, **double)

    found = []
    for backend in (None, backends.select("numba", CPU)):
        made = UserTower(model, 12, backend=backend)(torch.arange(rows), history, None, mask, training=True)
        (made.vectors * weight).sum().backward()
        trained = [*key.parameters(), *value.parameters(), *([] if query is None else [query])]
        found.append([made.vectors.detach(), *map(_gradient, made.leaves), *(p.grad for p in trained)])
        for parameter in trained:
            parameter.grad = None
    for wanted, own in zip(*found):
        torch.testing.assert_close(own, wanted, rtol=1e-12, atol=1e-13)


def _gradient(leaf):
    """Of the whole table: the one backend has a leaf for each entry, the other for each distinct item."""
    table, rows, vectors = leaf
    return torch.zeros_like(table).index_add(0, rows, vectors.grad)


@settings(max_examples=50)
@given(st.lists(st.integers(0, 6), max_size=40))
def test_entries_are_found_by_their_item(ids):
    number, begin, entries = (
        np.empty(len(ids), np.int32),
        np.empty(len(ids) + 1, np.int32),
        np.empty(len(ids), np.int32),
    )
    distinct = np.empty(len(ids), np.int64)
    rows = np.array(ids, np.int64)
    found = numba_attention.group(rows, 7, number, begin, entries, distinct)
    wanted, inverse = np.unique(rows, return_inverse=True)
    np.testing.assert_array_equal(distinct[:found], wanted)
    np.testing.assert_array_equal(number, inverse)
    np.testing.assert_array_equal(entries, np.argsort(rows, kind="stable"))
    np.testing.assert_array_equal(np.diff(begin[: found + 1]), np.bincount(inverse, minlength=found))


@pytest.mark.parametrize("backend", ["reference", "torch", "numba"])
@pytest.mark.parametrize("wrong", [-1, 9, 2_000_000_000])
def test_an_item_outside_the_history_table_is_refused(backend, wrong):
    _, model = attended(rows=1)
    history = Ragged(torch.tensor([2, wrong]), torch.tensor([0, 0]), None, torch.tensor([2]))
    with pytest.raises(IndexError):
        UserTower(model, 5, backend=backends.select(backend, CPU))(torch.arange(1), history)


def test_threads_change_no_bit():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("numba has one thread here")
    backend = backends.select("numba", CPU)
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(0, 40, (50,), generator=draw)
    row = torch.repeat_interleave(torch.arange(50), lengths)
    history = Ragged(torch.randint(0, 9, (len(row),), generator=draw), row, None, lengths)
    mask, weight = torch.rand(len(row), generator=draw), torch.randn(50, 16, generator=draw)
    found = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        tower, model = attended(rows=50, dim=16)
        made = UserTower(model, 40, backend=backend)(torch.arange(50), history, None, mask, training=True)
        (made.vectors * weight).sum().backward()
        found.append([made.vectors.detach(), *(leaf[2].grad for leaf in made.leaves), tower.key.weight.grad])
    numba.set_num_threads(torch.get_num_threads())
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_what_fills_up_counts_for_nothing_whatever_its_score():
    lengths, ids, row = torch.tensor([2, 0, 1]), [2, 5, 2], [0, 0, 2]
    found = []
    for more in (0, 4):
        tower, model = attended(rows=3, key=Doubled)
        # With this user a score of the item 8, which no history holds, is beyond what exp is finite of.
        tower.table.data[8], model.user_table.data[0] = 100.0, 10.0
        real = torch.tensor([True] * 3 + [False] * more) if more else None
        history = Ragged(torch.tensor(ids + [8] * more), torch.tensor(row + [0, 1, 2, 0][:more]), None, lengths, real)
        made = UserTower(model, 5)(torch.arange(3), history, training=True)
        made.vectors[:, 0].sum().backward()
        found.append([made.vectors.detach(), *map(_gradient, made.leaves)])
    for filled, wanted in zip(found[1], found[0]):
        torch.testing.assert_close(filled, wanted)
        assert filled.isfinite().all()


class Doubled(torch.nn.Module):
    """A key without a layer."""

    def __init__(self, *_):
        super().__init__()

    def forward(self, items):
        return 2 * items


def attended(rows, dim=4, key=torch.nn.Linear):
    """A tower with user attention over 9 items, and the model that it is of."""
    torch.manual_seed(1)
    table = torch.nn.Parameter(torch.randn(9, dim))
    tower = HistoryTower(table, torch.nn.Identity(), 0.5, "user_attention", key(dim, dim))
    return tower, Declaration(torch.nn.Parameter(torch.randn(rows, dim)), table, "cosine", history=tower)


def test_an_item_of_many_histories_has_one_key_per_batch():
    seen = []

    class Key(torch.nn.Linear):
        def forward(self, items):
            seen.append(len(items))
            return super().forward(items)

    model = attended(rows=3, key=Key)[1]
    history = Ragged(torch.tensor([2, 5, 2, 5, 2]), torch.tensor([0, 0, 1, 1, 2]), None, torch.tensor([2, 2, 1]))
    UserTower(model, 5, backend=backends.select("numba", CPU))(torch.arange(3), history)
    assert seen == [2]
