"""The CPU kernels of everything random: negatives, shuffling, dropout; the same words as philox.py defines.

A row's words are computed block beside block, so that the compiler uses vector registers. Every kernel gives the same
bits for any number of threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from mml_plugin.engine import philox
from mml_plugin.engine.backends.numba_prefetch import CACHE_LINE, prefetch_row

A, B = np.uint64(philox.MULTIPLIER_A), np.uint64(philox.MULTIPLIER_B)
WA, WB = np.uint64(philox.WEYL_A), np.uint64(philox.WEYL_B)
MASK, HALF, ONE, TWO, THREE = (np.uint64(n) for n in (philox.MASK, 32, 1, 2, 3))
# A word's lower digits, which the guide to rows by popularity leaves to a search. The guide should fit a second cache.
GUIDED = np.uint64(15)
# So many places for a user's items that one draw in 32 is looked for in its list, and hardly any in vain.
PLACES_PER_ITEM = 32
BITS, SEVEN, LINE_BITS = np.uint64(3), np.uint64(7), np.uint64(6)
SCATTER, SCATTERED = np.uint64(0x9E3779B1), np.uint64(13)
AHEAD, MOST_LINES = 4, 8  # users whose marks are asked for before they are read, and how much of them


@njit(inline="always")
def _philox(c0, c1, c2, c3, k0, k1):
    for _ in range(philox.ROUNDS):
        a, b = c0 * A, c2 * B
        c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ k0, b & MASK, (a >> HALF) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + WA) & MASK, (k1 + WB) & MASK
    return c0, c1, c2, c3


@njit(inline="always")
def _row_words(row, epoch, seed, stream, words):
    """words[i, k] = word i of the counter (row, k, epoch, 0)."""
    for block in range(words.shape[1]):
        w = _philox(row, np.uint64(block), epoch, np.uint64(0), seed, stream)
        words[0, block], words[1, block], words[2, block], words[3, block] = w[0], w[1], w[2], w[3]


@njit(parallel=True, cache=True)
def uniform_items(workers, rows, epoch, seed, stream, bound, item_ids, out):
    """out[b, 1:] = ids of uniformly drawn corpus rows."""
    slots, batch = out.shape[1] - 1, rows.shape[0]
    for worker in prange(workers):
        words = np.empty((4, (slots + 3) // 4), np.uint32)
        for b in range(worker * batch // workers, (worker + 1) * batch // workers):
            _row_words(np.uint64(rows[b]), epoch, seed, stream, words)
            o, whole = out[b], slots // 4
            for block in range(whole):
                for i in range(4):
                    o[1 + 4 * block + i] = item_ids[np.int64((np.uint64(words[i, block]) * bound) >> HALF)]
            for i in range(slots - 4 * whole):
                o[1 + 4 * whole + i] = item_ids[np.int64((np.uint64(words[i, whole]) * bound) >> HALF)]


@njit(inline="always")
def _to_item(word, bound, lasts, guide):
    """A word as a corpus row: uniform, or the first whose last word is not below it.

    ``guide[w >> GUIDED]`` is where the search for the word w begins, and the entry after it where it ends.
    """
    if not lasts.shape[0]:
        return (word * bound) >> HALF
    part = np.int64(word >> GUIDED)
    low, high = np.int64(guide[part]), np.int64(guide[part + 1])
    # Mostly no row ends among these words, or one: a step without a branch, which would often be guessed wrong.
    # It never goes past ``high``, whose last word is not below.
    low += np.int64(lasts[low] < word)
    while low < high:
        middle = (low + high) >> 1
        if lasts[middle] >= word:
            high = middle
        else:
            low = middle + 1
    return np.uint64(low)


@njit(inline="always")
def _is_held(item, begin, end, items):
    """Whether the sorted ``items[begin:end]`` hold the item."""
    low, high, wanted = begin, end, np.int64(item)
    while low < high:
        middle = (low + high) >> 1
        if items[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    return low < end and items[low] == wanted


@njit(inline="always")
def _scattered(item):
    """A second place of an item, so that few items have both in common."""
    return (item * SCATTER) >> SCATTERED


@njit(inline="always")
def _bit(marks, base, place):
    return (np.uint64(marks[base + (place >> BITS)]) >> (place & SEVEN)) & ONE


@njit(cache=True)
def mark_items(indptr, items, places, marks):
    """Set the two bits of each user's items; ``places[u]`` = (first line of ``marks``, the places' mask)."""
    flat = marks.reshape(-1)
    for u in range(places.shape[0]):
        base, mask = np.uint64(places[u, 0]) << LINE_BITS, np.uint64(places[u, 1])
        for k in range(indptr[u], indptr[u + 1]):
            item = np.uint64(items[k])
            for place in (item & mask, _scattered(item) & mask):
                flat[base + (place >> BITS)] |= np.uint8(ONE << (place & SEVEN))


def marked(indptr: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits by which most draws are seen not to be a user's items without a look at its list.

    Args:
        indptr, items: each user's sorted items.

    Returns:
        ``places[U, 2]`` int64 (first line, mask of a place) and ``marks[lines, 64]`` uint8.
    """
    counts = np.diff(indptr)
    bits = 1 << np.ceil(np.log2(np.maximum(counts * PLACES_PER_ITEM, 8 * CACHE_LINE))).astype(np.int64)
    lines = np.concatenate([[0], np.cumsum(bits // (8 * CACHE_LINE))])
    places, marks = np.stack([lines[:-1], bits - 1], axis=1), np.zeros((lines[-1], CACHE_LINE), np.uint8)
    mark_items(indptr, items, places, marks)
    return places, marks


@njit(parallel=True, cache=True)
def general_items(
    workers, rows, users, epoch, seed, stream, bound, lasts, guide, indptr, items, places, marks, item_ids, out
):  # fmt: skip
    """As :func:`uniform_items`, by popularity where ``lasts`` is not empty, without a user's ``items`` if any.

    ``places`` and ``marks`` are those of :func:`marked`: only a draw whose bits are set is looked for in the list.
    """
    slots, batch, excluding, flat = out.shape[1] - 1, rows.shape[0], indptr.shape[0] > 0, marks.reshape(-1)
    for worker in prange(workers):
        words, suspects = np.empty((4, (slots + 3) // 4), np.uint32), np.empty(slots + 1, np.uint32)
        drawn, last = np.empty(slots, np.uint32), (worker + 1) * batch // workers
        for b in range(worker * batch // workers, last):
            if excluding and b + AHEAD < last:
                later = users[b + AHEAD]
                for line in range(min(MOST_LINES, (places[later, 1] + 1) // (8 * CACHE_LINE))):
                    prefetch_row(marks, places[later, 0] + line)
            row, o = np.uint64(rows[b]), out[b]
            _row_words(row, epoch, seed, stream, words)
            for s in range(np.uint64(slots)):
                item = _to_item(np.uint64(words[s & THREE, s >> TWO]), bound, lasts, guide)
                drawn[s] = item
                o[ONE + s] = item_ids[item]
            if not excluding:
                continue
            begin, end = indptr[users[b]], indptr[users[b] + 1]
            base, mask = np.uint64(places[users[b], 0]) << LINE_BITS, np.uint64(places[users[b], 1])
            count = np.uint64(0)
            for s in range(np.uint64(slots)):
                # No branch: half of them would be guessed wrong.
                suspects[count] = s
                count += _bit(flat, base, np.uint64(drawn[s]) & mask)
            for k in range(count):
                slot, attempt = np.uint64(suspects[k]), np.uint64(0)
                item = np.uint64(drawn[slot])
                while _bit(flat, base, _scattered(item) & mask) and _is_held(item, begin, end, items):
                    attempt = attempt + ONE
                    w = _philox(row, slot >> TWO, epoch, attempt, seed, stream)
                    item = _to_item(w[slot & THREE], bound, lasts, guide)
                o[ONE + slot] = item_ids[item]


@njit(parallel=True, cache=True)
def row_words(epoch, seed, stream, out):
    """out[r] = word r mod 4 of the counter (r div 4, 0, epoch, 0)."""
    for block in prange((out.shape[0] + 3) // 4):
        w = _philox(np.uint64(block), np.uint64(0), epoch, np.uint64(0), seed, stream)
        for i in range(min(4, out.shape[0] - 4 * block)):
            out[4 * block + i] = w[i]


@njit(parallel=True, cache=True)
def dropout_mask(workers, rows, epoch, seed, stream, threshold, scale, out):
    """out[b, d] = 0 where the word is below the threshold, else ``scale``."""
    width, batch = out.shape[1], rows.shape[0]
    for worker in prange(workers):
        words = np.empty((4, (width + 3) // 4), np.uint32)
        for b in range(worker * batch // workers, (worker + 1) * batch // workers):
            _row_words(np.uint64(rows[b]), epoch, seed, stream, words)
            for d in range(width):
                out[b, d] = scale if words[d & 3, d >> 2] >= threshold else 0
