"""The item table's gradient where most entries have one: sorted by item, and taken by the Adam pass as it goes.

A dense loss touches most rows of the item table in every step. Written to memory, that gradient would be read again for
its norm and again by Adam, and with table and moments it is more than many a last cache holds. So the entries are
sorted by item, and where a bound says that the norm need not be known, Adam makes a row's gradient when it comes to it:
the same operations in the same order, so in float32 the bits of memory. Else it is written and measured in one pass.

An entry is a record of :func:`entry_type`, so that putting it in its place writes to one place in memory, not to three.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numba import njit, prange

from mml_plugin.engine.backends.numba_kernels import AHEAD, PARTS, RUN, dot, move, move_touched, square_and_dot
from mml_plugin.engine.backends.numba_prefetch import prefetch_row


@cache
def entry_type(dtype: np.dtype) -> np.dtype:
    """A non-zero entry of the batch's gradient: its ``row``, its gradient (``value``), and that times its score
    (``crossed``), the latter two in the type ``dtype``.
    """
    return np.dtype([("value", dtype), ("crossed", dtype), ("row", np.int32)], align=True)


@njit(parallel=True, cache=True)
def sort_by_item(grad, y, index, counts, begin, entries):
    """Non-zero grads in the order of their items, equal items in batch order."""
    batch, width = index.shape
    workers, items = counts.shape
    for w in prange(workers):
        counts[w, :] = 0
        for b in range(w * batch // workers, (w + 1) * batch // workers):
            for j in range(width):
                if grad[b, j] != 0:
                    counts[w, index[b, j]] += 1
    total = 0
    for i in range(items):
        begin[i] = total
        for w in range(workers):
            here = counts[w, i]
            counts[w, i] = total
            total += here
    begin[items] = total
    for w in prange(workers):
        for b in range(w * batch // workers, (w + 1) * batch // workers):
            for j in range(width):
                g = grad[b, j]
                if g != 0:
                    i = index[b, j]
                    place = counts[w, i]
                    counts[w, i] = place + 1
                    entry = entries[place]
                    entry.row = b
                    entry.value = g
                    entry.crossed = g * y[b, j]


@njit
def add_row(i, begin, entries, user, table, inverse, ceiling, out):
    """out += d(y)/d(table[i]) weighed by the item's entries, one after another."""
    dim = table.shape[1]
    scaled = inverse.shape[0] > 0
    n = inverse[i] if scaled else table.dtype.type(1)
    c = table.dtype.type(0)
    first, last = begin[i], begin[i + 1]
    for k in range(first, last):
        c += entries[k].crossed
    for k in range(first, last):
        f, u = entries[k].value * n, user[entries[k].row]
        for d in range(dim):
            out[d] += f * u[d]
    # Below F.normalize's floor the norm is a constant, so nothing is projected out.
    if scaled and n < ceiling:
        c *= n * n
        v = table[i]
        for d in range(dim):
            out[d] -= c * v[d]


@njit(parallel=True, cache=True)
def item_gradient(begin, entries, user, table, inverse, ceiling, out, touched, decay, parts):
    """out[i] += d(y)/d(table[i]) weighed by the non-zero grads, from what :func:`sort_by_item` made.

    parts[p], if any, becomes what ``numba_kernels.gradient_norms`` would find in ``out``, which must have been zero.
    """
    items = table.shape[0]
    scaled, measured = inverse.shape[0] > 0, parts.shape[0] > 0
    for p in prange(PARTS):
        here = 0.0
        last = (p + 1) * items // PARTS
        for i in range(p * items // PARTS, last):
            ahead = i + AHEAD
            if ahead < last and begin[ahead] != begin[ahead + 1]:
                prefetch_row(out, ahead)
                if scaled or measured:
                    prefetch_row(table, ahead)
            if begin[i] != begin[i + 1]:
                touched[i] = 1
                add_row(i, begin, entries, user, table, inverse, ceiling, out[i])
                if measured:
                    square, along = square_and_dot(out[i], table[i])
                    here += square + 2 * decay * along
        if measured:
            parts[p] = here


@njit(parallel=True, cache=True)
def squared_bound(begin, entries, lengths, inverse, parts):
    """parts[p]: together at least |g|^2 of the gradient, from the users' lengths; projecting only shortens a row.

    Not a number where a score is none.
    """
    items = begin.shape[0] - 1
    scaled = inverse.shape[0] > 0
    for p in prange(PARTS):
        here = 0.0
        for i in range(p * items // PARTS, (p + 1) * items // PARTS):
            length = 0.0
            for k in range(begin[i], begin[i + 1]):
                entry = entries[k]
                length += abs(entry.value) * lengths[entry.row] + 0 * entry.crossed
            if scaled:
                length *= inverse[i]
            here += length * length
        parts[p] = here


@njit(error_model="numpy")
def move_alone(w, m, v, u, g, c, clip, decay, rate, epsilon, beta1, beta2):
    """As ``numba_kernels.move_touched`` with the gradient of an item's only entry, ``0 + g * u - c * w``."""
    one, zero = w.dtype.type(1), w.dtype.type(0)
    for e in range(w.shape[0]):
        step = clip * ((zero + g * u[e] - c * w[e]) + decay * w[e])
        m_e = beta1 * m[e] + (one - beta1) * step
        v_e = beta2 * v[e] + (one - beta2) * step * step
        m[e], v[e] = m_e, v_e
        w[e] -= rate * m_e / (np.sqrt(v_e) + epsilon)


@njit
def add_scaled(factor, row, out):
    """out += factor * row."""
    for d in range(row.shape[0]):
        out[d] += factor * row[d]


@njit(parallel=True, cache=True)
def adam(
    begin, entries, user, table, inverse, ceiling, pulls, first, second, decay, clip, rate, epsilon, beta1, beta2,
    norms,
):  # fmt: skip
    """As ``numba_kernels.adam`` with the gradient that :func:`item_gradient` would write, plus pulls[i] * table[i]."""
    items, dim = table.shape
    scaled, pulled = inverse.shape[0] > 0, pulls.shape[0] > 0
    flat_w, flat_m, flat_v = table.reshape(-1), first.reshape(-1), second.reshape(-1)
    for p in prange(PARTS):
        grad = np.zeros(dim, table.dtype)
        at, last = p * items // PARTS, (p + 1) * items // PARTS
        while at < last:
            end = at + 1
            if begin[at] == begin[end] and not (pulled and pulls[at]):
                while end < min(at + RUN, last) and begin[end] == begin[end + 1] and not (pulled and pulls[end]):
                    end += 1
                run = slice(at * dim, end * dim)
                move(flat_w[run], flat_m[run], flat_v[run], clip * decay, rate, epsilon, beta1, beta2)
            elif begin[end] - begin[at] == 1 and not pulled:
                entry, n = entries[begin[at]], inverse[at] if scaled else table.dtype.type(1)
                c = entry.crossed * (n * n) if scaled and n < ceiling else table.dtype.type(0)
                move_alone(
                    table[at], first[at], second[at], user[entry.row], entry.value * n, c, clip, decay, rate, epsilon,
                    beta1, beta2,
                )  # fmt: skip
            else:
                add_row(at, begin, entries, user, table, inverse, ceiling, grad)
                if pulled:
                    add_scaled(pulls[at], table[at], grad)
                move_touched(table[at], first[at], second[at], grad, clip, decay, rate, epsilon, beta1, beta2)
            for i in range(at, end):
                norms[i] = dot(table[i], table[i])
            at = end
