"""Negatives: identical on all backends, of the right distribution, replayable, never a positive when excluded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mml_plugin.engine import backends, philox
from mml_plugin.engine.backends import numba_draws
from mml_plugin.engine.backends.base import Positives
from mml_plugin.engine.sampler import NegativeSampler, cumulative_words, shuffled
from mml_plugin.errors import UserError

CPU = torch.device("cpu")
NAMES = ["reference", "torch", "numba"]
ITEMS = 200


def lists_of(lists):
    counts = torch.tensor([len(items) for items in lists])
    flat = torch.tensor([item for items in lists for item in sorted(set(items))], dtype=torch.int64)
    return Positives(torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)]), flat)


def sampler(name, **keys):
    ids = torch.arange(1, ITEMS + 1).flip(0)
    return NegativeSampler.create(2019, ids, backends.select(name, CPU), **keys)


def draw(made, rows, users, count, epoch=0):
    return made.index(epoch, rows, users, torch.zeros(len(rows), dtype=torch.int64), count).long()


SETTINGS = {
    "uniform": {},
    "popularity": {"popularity": torch.arange(ITEMS), "alpha": 0.75},
    "excluding": {"positives": lists_of([range(u, u + 50) for u in range(60)])},
    "both": {
        "popularity": torch.arange(ITEMS) % 7,
        "alpha": 1.0,
        "positives": lists_of([range(2 * u, 2 * u + 30) for u in range(60)]),
    },
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_backends_draw_the_same(kind):
    rows, users = torch.randperm(1000)[:300], torch.arange(300) % 60
    drawn = [draw(sampler(name, **SETTINGS[kind]), rows, users, 13, epoch=4) for name in NAMES]
    assert all(torch.equal(drawn[0], other) for other in drawn[1:])
    assert drawn[0][:, 1:].min() >= 1
    assert (drawn[0][:, 0] == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_a_row_draws_the_same_in_any_batch(name):
    made = sampler(name, **SETTINGS["both"])
    rows, users = torch.arange(100), torch.arange(100) % 60
    whole = draw(made, rows, users, 9)
    order = torch.randperm(100)
    for part in order.split(17):
        assert torch.equal(draw(made, rows[part], users[part], 9), whole[part])
    assert not torch.equal(draw(made, rows, users, 9, epoch=1), whole)


def test_longer_lists_than_numba_has_places_for_and_any_number_of_threads():
    import numba

    many = 150_000
    positives = lists_of([range(0, many, 2), [], range(5)])
    rows, users = torch.arange(300), torch.arange(300) % 3
    drawn = []
    for name, threads in (("reference", 1), ("numba", 1), ("numba", min(2, numba.config.NUMBA_NUM_THREADS))):
        backend = backends.select(name, CPU)
        numba.set_num_threads(threads)
        made = NegativeSampler.create(7, torch.arange(many), backend, positives=positives)
        drawn.append(draw(made, rows, users, 11))
    numba.set_num_threads(torch.get_num_threads())
    assert (drawn[0][::3, 1:] % 2 == 1).all()
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


@settings(max_examples=30)
@given(st.lists(st.integers(0, 1000), min_size=1, max_size=60).filter(any), st.sampled_from([0.3, 1.0, 2.0]))
def test_popularity_draws_what_a_search_over_all_bounds_finds(counts, alpha):
    popularity = torch.tensor(counts)
    ids = torch.arange(len(counts))
    made = NegativeSampler.create(5, ids, backends.select("numba", CPU), popularity=popularity, alpha=alpha)
    drawn = draw(made, torch.arange(40), torch.zeros(40, dtype=torch.int64), 9)[:, 1:]
    words = philox.words(torch.arange(40), 9, seed=5, stream=philox.NEGATIVES, epoch=0).numpy()
    wanted = [[int(np.flatnonzero(made.cumulative.numpy() > word)[0]) for word in row] for row in words]
    assert drawn.tolist() == wanted
    assert (popularity[drawn] > 0).all()


@pytest.mark.parametrize("rows", [1, 2, 7, 300_000])
@pytest.mark.parametrize("shares", ["even", "heavy tail", "gaps", "one among zeros"])
def test_popularity_at_the_edges_of_rows(rows, shares):
    weights = torch.ones(rows, dtype=torch.float64)
    if shares == "heavy tail":
        weights /= torch.arange(1, rows + 1) ** 2
    elif shares == "gaps":
        weights *= torch.arange(rows) % 3 == (0 if rows == 1 else 1)
    elif shares == "one among zeros":
        weights *= torch.arange(rows) == rows // 2
    cumulative = cumulative_words(weights)
    bounds = cumulative.numpy()
    words = np.unique(np.concatenate([[0, 2**32 - 1], bounds - 1, bounds]).clip(0, 2**32 - 1))[:: rows // 5000 | 1]
    lasts, guide = backends.select("numba", CPU)._guided(cumulative)
    found = [numba_draws._to_item(np.uint64(word), np.uint64(rows), lasts, guide) for word in words]
    assert found == np.searchsorted(bounds, words, side="right").tolist()


def test_uniform_by_chi_square():
    drawn = draw(sampler("numba"), torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64), 10)[:, 1:]
    counts = np.bincount(drawn.flatten().numpy(), minlength=ITEMS + 1)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_power_beyond_all_numbers_draws_the_most_popular():
    ids = torch.arange(4, dtype=torch.int32)
    popularity = torch.tensor([3, 50, 7, 100])
    made = NegativeSampler.create(5, ids, backends.select("numba", CPU), popularity=popularity, alpha=200.0)
    drawn = made.index(0, torch.arange(8), torch.zeros(8, dtype=torch.int64), torch.zeros(8, dtype=torch.int32), 50)
    assert set(drawn[:, 1:].flatten().tolist()) == {3}


def test_popularity_by_chi_square():
    popularity = torch.arange(ITEMS)
    made = sampler("numba", popularity=popularity, alpha=0.75)
    drawn = draw(made, torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64), 10)[:, 1:]
    counts = np.bincount((ITEMS - drawn).flatten().numpy(), minlength=ITEMS)
    weights = popularity.numpy() ** 0.75
    assert counts[0] == 0
    expected = weights / weights.sum() * counts.sum()
    assert stats.chisquare(counts[1:], expected[1:]).pvalue > 1e-3


def test_excluding_is_uniform_over_the_rest():
    positives = lists_of([range(50)])
    made = sampler("numba", positives=positives)
    drawn = ITEMS - draw(made, torch.arange(20_000), torch.zeros(20_000, dtype=torch.int64), 10)[:, 1:]
    counts = np.bincount(drawn.flatten().numpy(), minlength=ITEMS)
    assert counts[:50].sum() == 0
    assert stats.chisquare(counts[50:]).pvalue > 1e-3


@settings(max_examples=30)
@given(st.lists(st.sets(st.integers(0, 11), max_size=11), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_a_positive_is_never_drawn(lists, seed):
    for name in NAMES:
        made = NegativeSampler.create(
            seed, torch.arange(12), backends.select(name, CPU), positives=lists_of([sorted(s) for s in lists])
        )
        users = torch.arange(len(lists)).repeat(5)
        drawn = draw(made, torch.arange(len(users)), users, 20)[:, 1:]
        assert not any(int(item) in lists[int(u)] for u, row in zip(users, drawn) for item in row)


def test_a_user_without_any_negative_is_refused():
    with pytest.raises(UserError, match="user row 1 has every item among its training items"):
        sampler("reference", positives=lists_of([[0], range(ITEMS)]))
    popular = torch.zeros(ITEMS, dtype=torch.int64)
    popular[:3] = 5
    with pytest.raises(UserError, match="user row 0 has every item"):
        sampler("reference", popularity=popular, alpha=1.0, positives=lists_of([[0, 1, 2]]))


def test_cumulative_words_cover_every_word_once():
    bounds = cumulative_words(torch.tensor([0.0, 3.0, 0.0, 1.0, 0.0]))
    assert bounds.tolist() == [0, 3 * 2**30, 3 * 2**30, 2**32, 2**32]


@pytest.mark.parametrize("count", [1, 4, 37, 1000])
def test_shuffling_is_a_permutation_and_the_same_everywhere(count):
    order = shuffled(count, 7, 3, CPU)
    assert torch.equal(order.sort().values, torch.arange(count))
    for name in NAMES:
        assert torch.equal(backends.select(name, CPU).shuffled(count, 7, 3, CPU), order)
    assert count < 5 or not torch.equal(shuffled(count, 7, 4, CPU), order)


def word(row, slot, *, seed, stream, epoch, attempt=0):
    """A word of Philox-4x32-10 in whole numbers of Python, from its authors' description alone."""
    c, k = [row, slot // 4, epoch, attempt], [seed, stream]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c[slot % 4]


# What committed results were drawn with. A change of these changes every training that was ever made.
ROWS, USERS = [5, 0, 4_000_000_000], [0, 3, 59]
KNOWN = {
    "uniform": [[145, 110, 39, 19, 196, 150], [156, 6, 148, 128, 149, 35], [81, 5, 49, 99, 114, 95]],
    "popularity": [[104, 73, 24, 11, 178, 109], [115, 3, 107, 89, 108, 21], [51, 3, 30, 65, 76, 62]],
    "excluding": [[145, 110, 39, 19, 71, 150], [99, 6, 26, 128, 200, 35], [81, 5, 49, 168, 54, 185]],
}
KNOWN_ORDER = [0, 3, 5, 2, 6, 4, 1, 7]
KNOWN_MASK = [0, 0, 1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("kind", KNOWN)
def test_known_answers(kind):
    drawn = draw(sampler("reference", **SETTINGS[kind]), torch.tensor(ROWS), torch.tensor(USERS), 6, epoch=2)
    assert drawn[:, 1:].tolist() == KNOWN[kind]


def test_uniform_and_excluding_draws_are_the_generators_words_by_multiply_high():
    ids = list(range(ITEMS, 0, -1))

    def item(row, slot, attempt=0):
        return word(row, slot, seed=2019, stream=1, epoch=2, attempt=attempt) * ITEMS >> 32

    assert [[ids[item(row, slot)] for slot in range(6)] for row in ROWS] == KNOWN["uniform"]
    for row, user, known in zip(ROWS, USERS, KNOWN["excluding"]):
        positives = set(range(user, user + 50))
        tries = [next(i for i in (item(row, slot, a) for a in range(99)) if i not in positives) for slot in range(6)]
        assert [ids[i] for i in tries] == known


def test_the_order_and_the_masks_are_of_streams_of_their_own():
    order = sorted(range(8), key=lambda row: word(row // 4, row % 4, seed=7, stream=2, epoch=3))
    assert shuffled(8, 7, 3, CPU).tolist() == order == KNOWN_ORDER
    mask = backends.select("reference", CPU).dropout(
        torch.tensor([5, 900]), 4, 0.5, seed=1, stream=philox.USER_DROPOUT, epoch=2, dtype=torch.float32
    )
    words = [word(row, slot, seed=1, stream=3, epoch=2) for row in (5, 900) for slot in range(4)]
    assert (mask.flatten() > 0).int().tolist() == [int(w >= 2**31) for w in words] == KNOWN_MASK


@pytest.mark.parametrize("name", NAMES)
def test_dropout_masks_are_the_same_everywhere(name):
    rows = torch.tensor([5, 900, 3])
    wanted = backends.select("reference", CPU).dropout(rows, 7, 0.2, seed=1, stream=3, epoch=2, dtype=torch.float32)
    made = backends.select(name, CPU).dropout(rows, 7, 0.2, seed=1, stream=3, epoch=2, dtype=torch.float32)
    assert torch.equal(made, wanted)


RATES = [0.02, 0.055, 0.1, 0.2, 0.3, 0.335, 0.47, 0.5, 0.655, 0.7, 0.905, 0.99]


def torchs_factor(rate, dtype):
    """What torch's own dropout makes of a 1."""
    return torch.nn.functional.dropout(torch.ones(8192, dtype=dtype), rate).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dropout_factors_are_torchs_own_to_the_bit(name, dtype):
    backend, rows = backends.select(name, CPU), torch.arange(500)
    for rate in RATES:
        made = backend.dropout(rows, 7, rate, seed=1, stream=3, epoch=0, dtype=dtype)
        assert made.unique().tolist() == [0.0, torchs_factor(rate, dtype).item()], rate


def test_the_rates_include_some_where_a_double_s_quotient_rounds_otherwise():
    assert any(np.float32(1 / (1 - rate)) != torchs_factor(rate, torch.float32).item() for rate in RATES)
