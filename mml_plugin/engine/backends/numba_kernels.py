"""The CPU kernels, compiled by numba and cached on disk. Arrays in, arrays filled; numba_cpu.py is what calls them.

Every kernel gives the same bits for any number of threads: a sum is either inside one row, or over fixed parts, or an
item belongs to exactly one worker, which meets the batch in row order.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from mml_plugin.engine.backends.base import NORM_FLOOR
from mml_plugin.engine.backends.numba_prefetch import prefetch_row

# Reassociated sums let the compiler use vector registers; NaN and infinity keep their meaning. Only for the sums
# below: numba optimises once more what it stores on disk, and where the compiler is free to choose between roundings,
# the process that compiles gets other bits than those that load.
FAST = {"reassoc", "contract", "nsz", "arcp"}
PARTS = 64  # of a sum over a whole table or batch
RUN = 8  # rows that are moved as one, so that a loop's own cost is paid once for them; they stay in the first cache
GROUP = 64  # scores that are held against the worst of the best at once; most groups have none above it
AHEAD = 8  # rows that are asked for before they are read; processors hold about so many requests at once


@njit(fastmath=FAST)
def dot(one, other):
    """<one, other>."""
    total = one.dtype.type(0)
    for d in range(one.shape[0]):
        total += one[d] * other[d]
    return total


@njit(fastmath=FAST)
def four_dots(one, a, b, c, d):
    """<one, a>, <one, b>, <one, c>, <one, d>: four rows are on their way from memory at once."""
    in_a = in_b = in_c = in_d = one.dtype.type(0)
    for k in range(one.shape[0]):
        x = one[k]
        in_a += x * a[k]
        in_b += x * b[k]
        in_c += x * c[k]
        in_d += x * d[k]
    return in_a, in_b, in_c, in_d


@njit(fastmath=FAST)
def square_and_dot(one, other):
    """<one, one>, <one, other>."""
    square = along = one.dtype.type(0)
    for d in range(one.shape[0]):
        square += one[d] * one[d]
        along += one[d] * other[d]
    return square, along


@njit(fastmath=FAST)
def total(row):
    """The sum of a row."""
    found = row.dtype.type(0)
    for d in range(row.shape[0]):
        found += row[d]
    return found


@njit(parallel=True, cache=True)
def scores(user, table, index, inverse, out):
    """out[b, j] = <user[b], table[index[b, j]]> * inverse[index[b, j]]; no ``inverse``: 1."""
    scaled = inverse.shape[0] > 0
    width = index.shape[1]
    by_four = width - width % 4
    for b in prange(index.shape[0]):
        u, items, o = user[b], index[b], out[b]
        for j in range(min(AHEAD, width)):
            prefetch_row(table, items[j])
        for j in range(0, by_four, 4):
            for ahead in range(j + AHEAD, min(j + AHEAD + 4, width)):
                prefetch_row(table, items[ahead])
            o[j], o[j + 1], o[j + 2], o[j + 3] = four_dots(
                u, table[items[j]], table[items[j + 1]], table[items[j + 2]], table[items[j + 3]]
            )
        for j in range(by_four, width):
            o[j] = dot(u, table[items[j]])
        if scaled:
            for j in range(width):
                o[j] *= inverse[items[j]]


@njit(parallel=True, cache=True)
def user_gradient(grad, table, index, inverse, out, active, slots):
    """out[b] = sum of grad[b, j] * item vector over non-zero grads; active[b] of them, at slots[b, :active[b]]."""
    dim, width = table.shape[1], index.shape[1]
    scaled = inverse.shape[0] > 0
    for b in prange(index.shape[0]):
        o, items, factors, found = out[b], np.empty(width, np.int32), np.empty(width, table.dtype), slots[b]
        count = np.uint64(0)
        for j in range(np.uint64(width)):
            # No branch: what is found is overwritten unless it is kept.
            found[count] = j
            count += np.uint64(grad[b, j] != 0)
        active[b] = count
        seen = active[b]
        if seen == width:  # of a dense loss: entries need not be looked up by their slots
            for k in range(width):
                items[k] = index[b, k]
                factors[k] = grad[b, k] * inverse[index[b, k]] if scaled else grad[b, k]
        else:
            for k in range(seen):
                i = index[b, found[k]]
                items[k] = i
                factors[k] = grad[b, found[k]] * inverse[i] if scaled else grad[b, found[k]]
        o[:] = 0
        for k in range(min(AHEAD, seen)):
            prefetch_row(table, items[k])
        by_four = seen - seen % 4
        for k in range(0, by_four, 4):
            for ahead in range(k + AHEAD, min(k + AHEAD + 4, seen)):
                prefetch_row(table, items[ahead])
            f0, f1, f2, f3 = factors[k], factors[k + 1], factors[k + 2], factors[k + 3]
            v0, v1, v2, v3 = table[items[k]], table[items[k + 1]], table[items[k + 2]], table[items[k + 3]]
            for d in range(dim):
                o[d] += f0 * v0[d] + f1 * v1[d] + f2 * v2[d] + f3 * v3[d]
        for k in range(by_four, seen):
            f, v = factors[k], table[items[k]]
            for d in range(dim):
                o[d] += f * v[d]


@njit(parallel=True, cache=True)
def sparse_item_gradient(active, slots, grad, y, index, user, table, inverse, ceiling, workers, out, touched):
    """out[i] += d(y)/d(table[i]) weighed by the non-zero grads, for few of them: a worker owns each workers-th item."""
    dim = table.shape[1]
    scaled = inverse.shape[0] > 0
    entries = active.sum()
    for w in prange(workers):
        rows, columns = np.empty(entries, np.int32), np.empty(entries, np.int32)
        count = 0
        for b in range(index.shape[0]):
            for k in range(active[b]):
                if index[b, slots[b, k]] % workers == w:
                    rows[count], columns[count] = b, slots[b, k]
                    count += 1
        for k in range(-AHEAD, count):
            if k + AHEAD < count:
                ahead = index[rows[k + AHEAD], columns[k + AHEAD]]
                prefetch_row(table, ahead)
                prefetch_row(out, ahead)
            if k < 0:
                continue
            b, j = rows[k], columns[k]
            i = index[b, j]
            touched[i] = 1
            n = inverse[i] if scaled else table.dtype.type(1)
            g = grad[b, j] * n
            # Below F.normalize's floor the norm is a constant, so nothing is projected out.
            c = g * y[b, j] * n if scaled and n < ceiling else table.dtype.type(0)
            u, v, o = user[b], table[i], out[i]
            for d in range(dim):
                o[d] += g * u[d] - c * v[d]


@njit(parallel=True, cache=True)
def user_vectors(table, ids, mask, normalized, dropout_first, out, inverse):
    """out[b] = the user's row, normalised and times ``mask`` (if any); inverse[b] = 1 / the norm divided by."""
    dim = table.shape[1]
    masked = mask.shape[0] > 0
    for b in prange(ids.shape[0]):
        row, o = table[ids[b]], out[b]
        for d in range(dim):
            o[d] = row[d] * mask[b, d] if masked and dropout_first else row[d]
        if normalized:
            norm = np.sqrt(dot(o, o))
            inverse[b] = 1 / norm if norm > NORM_FLOOR else table.dtype.type(1 / NORM_FLOOR)
            for d in range(dim):
                o[d] *= inverse[b]
        if masked and not dropout_first:
            for d in range(dim):
                o[d] *= mask[b, d]


@njit(parallel=True, cache=True)
def add_user_gradient(workers, grad, table, ids, mask, normalized, dropout_first, inverse, out, touched):
    """out[ids[b]] += the gradient of the user's row, from ``grad`` of what :func:`user_vectors` made.

    A worker owns each workers-th user, so that a user who stands in the batch twice is added up in order.
    """
    dim = table.shape[1]
    masked = mask.shape[0] > 0
    ceiling = table.dtype.type(1 / NORM_FLOOR)
    for w in prange(workers):
        g, unit = np.empty(dim, table.dtype), np.empty(dim, table.dtype)
        for b in range(ids.shape[0]):
            ahead = min(b + AHEAD, ids.shape[0] - 1)
            if ids[ahead] % workers == w:
                prefetch_row(table, ids[ahead])
                prefetch_row(out, ids[ahead])
            if ids[b] % workers != w:
                continue
            row, o = table[ids[b]], out[ids[b]]
            touched[ids[b]] = 1
            for d in range(dim):
                g[d] = grad[b, d] * mask[b, d] if masked and not dropout_first else grad[b, d]
            if normalized:
                n = inverse[b]
                for d in range(dim):
                    unit[d] = row[d] * n
                    if masked and dropout_first:
                        unit[d] *= mask[b, d]
                along = dot(g, unit) if n < ceiling else table.dtype.type(0)
                for d in range(dim):
                    g[d] = (g[d] - along * unit[d]) * n
            if masked and dropout_first:
                for d in range(dim):
                    g[d] *= mask[b, d]
            for d in range(dim):
                o[d] += g[d]


@njit(parallel=True, cache=True)
def add_rows(workers, rows, values, out, touched):
    """out[rows[k]] += values[k], in order; a worker owns each workers-th row."""
    for w in prange(workers):
        for k in range(rows.shape[0]):
            r = rows[k]
            if r % workers == w:
                touched[r] = 1
                o = out[r]
                for d in range(values.shape[1]):
                    o[d] += values[k, d]


@njit(parallel=True, cache=True)
def add_pulls(rows, pulls, table, out, touched):
    """out[r] += pulls[r] * table[r] for the distinct ``rows``."""
    for k in prange(rows.shape[0]):
        r = rows[k]
        touched[r] = 1
        w, o, pull = table[r], out[r], pulls[r]
        for d in range(w.shape[0]):
            o[d] += pull * w[d]


@njit(parallel=True, cache=True)
def gradient_norms(tables, grads, touched, decays, parts):
    """parts[t, p] = sum over touched rows of |g|^2 + 2 decay g.w, which with decay^2 |W|^2 is |g + decay W|^2."""
    count = len(tables)
    for q in prange(PARTS * count):
        t, p = q % count, q // count
        table, grad, flags, decay = tables[t], grads[t], touched[t], decays[t]
        rows = table.shape[0]
        first, last = p * rows // PARTS, (p + 1) * rows // PARTS
        found, seen = np.empty(last - first, np.int64), 0
        for r in range(first, last):
            if flags[r]:
                found[seen] = r
                seen += 1
        # Most of a table's rows lie close enough together for the processor to ask for them by itself.
        ahead = AHEAD if 2 * seen < last - first else 0
        here = 0.0
        for k in range(-ahead, seen):
            if ahead and k + ahead < seen:
                prefetch_row(grad, found[k + ahead])
                prefetch_row(table, found[k + ahead])
            if k >= 0:
                square, along = square_and_dot(grad[found[k]], table[found[k]])
                here += square + 2 * decay * along
        parts[t, p] = here


@njit(error_model="numpy")
def move(w, m, v, pull, rate, epsilon, beta1, beta2):
    """Adam on ``pull * w``, number by number; a division by zero is no error here, as it is none to torch."""
    one = w.dtype.type(1)
    for e in range(w.shape[0]):
        step = pull * w[e]
        m_e = beta1 * m[e] + (one - beta1) * step
        v_e = beta2 * v[e] + (one - beta2) * step * step
        m[e], v[e] = m_e, v_e
        w[e] -= rate * m_e / (np.sqrt(v_e) + epsilon)


@njit(error_model="numpy")
def move_touched(w, m, v, g, clip, decay, rate, epsilon, beta1, beta2):
    """Adam on ``clip * (g + decay * w)``, number by number; clears ``g``."""
    one = w.dtype.type(1)
    for e in range(w.shape[0]):
        step = clip * (g[e] + decay * w[e])
        g[e] = 0
        m_e = beta1 * m[e] + (one - beta1) * step
        v_e = beta2 * v[e] + (one - beta2) * step * step
        m[e], v[e] = m_e, v_e
        w[e] -= rate * m_e / (np.sqrt(v_e) + epsilon)


@njit(parallel=True, cache=True)
def adam(tables, grads, firsts, seconds, touched, decays, clip, rate, epsilon, beta1, beta2, norms):
    """One dense Adam step on clip * (g + decay W) per table; clears what was touched and leaves each row's |w|^2."""
    count = len(tables)
    for q in prange(PARTS * count):
        # Neighbours in q are parts of different tables, so that every worker gets its share of each.
        t, p = q % count, q // count
        table, grad, first, second, flags, squared_norms = (
            tables[t], grads[t], firsts[t], seconds[t], touched[t], norms[t]
        )  # fmt: skip
        decay = decays[t]
        rows, dim = table.shape
        flat_w, flat_m, flat_v, flat_g = table.reshape(-1), first.reshape(-1), second.reshape(-1), grad.reshape(-1)
        begin, last = p * rows // PARTS, (p + 1) * rows // PARTS
        while begin < last:
            flag, end = flags[begin], begin + 1
            while end < min(begin + RUN, last) and flags[end] == flag:
                end += 1
            run = slice(begin * dim, end * dim)
            if flag:
                flags[begin:end] = 0
                move_touched(
                    flat_w[run], flat_m[run], flat_v[run], flat_g[run], clip, decay, rate, epsilon, beta1, beta2
                )
            else:
                move(flat_w[run], flat_m[run], flat_v[run], clip * decay, rate, epsilon, beta1, beta2)
            for r in range(begin, end):
                squared_norms[r] = dot(table[r], table[r])
            begin = end


@njit(parallel=True, cache=True)
def inverse_norms(squared_norms, floor, out):
    """out[r] = 1 / max(|w_r|, 1e-12)."""
    for r in prange(squared_norms.shape[0]):
        n = np.sqrt(squared_norms[r])
        out[r] = 1 / n if n > floor else 1 / floor


@njit(fastmath=FAST)
def easiest_band(y, grad, edge):
    """How many negatives of a row are not above ``edge``, and their summed |grad|; column 0 is no negative."""
    count, total_grad = 0, 0.0
    for j in range(1, y.shape[0]):
        inside = not (y[j] > edge)
        count += inside
        total_grad += abs(grad[j]) if inside else 0.0
    return count, total_grad


@njit(fastmath=FAST)
def band(y, grad, low, high):
    """How many negatives of a row are above ``low`` and not above ``high``, and their summed |grad|."""
    count, total_grad = 0, 0.0
    for j in range(1, y.shape[0]):
        inside = (y[j] > low) & (not (y[j] > high))
        count += inside
        total_grad += abs(grad[j]) if inside else 0.0
    return count, total_grad


@njit(parallel=True, cache=True)
def bands(y, grad, thresholds, counts, sums):
    """counts[p, k] negatives in band k and sums[p, k] their |grad|, of part p of the batch; column 0 is no negative.

    A row is read once per band, up to the highest that it reaches: half of all negatives may be above the lowest
    threshold once a model is trained, and a branch on each score would be guessed wrong as often as right.
    """
    parts, edges = counts.shape[0], thresholds.shape[0]
    highest = y.dtype.type(np.inf)
    for p in prange(parts):
        # Counted in memory of the worker's own: neighbours in one cache line would wait for each other.
        count, total_grad = np.zeros(edges + 1, np.int64), np.zeros(edges + 1, np.float64)
        for b in range(p * y.shape[0] // parts, (p + 1) * y.shape[0] // parts):
            found, pushed = easiest_band(y[b], grad[b], thresholds[0] if edges else highest)
            count[0] += found
            total_grad[0] += pushed
            left = y.shape[1] - 1 - found
            for k in range(1, edges + 1):
                if left == 0:
                    break
                found, pushed = band(y[b], grad[b], thresholds[k - 1], thresholds[k] if k < edges else highest)
                count[k] += found
                total_grad[k] += pushed
                left -= found
        counts[p] = count
        sums[p] = total_grad


@njit(parallel=True, cache=True)
def hide(scores, begin, rows, indptr, items, at):
    """Minus infinity where a column, counted from ``begin``, is in the row's ascending list, from ``at[r]`` on."""
    end = begin + scores.shape[1]
    for r in prange(scores.shape[0]):
        place, last = at[r], indptr[rows[r] + 1]
        while place < last and items[place] < end:
            scores[r, items[place] - begin] = -np.inf
            place += 1
        at[r] = place


@njit(inline="always")
def any_above(row, least):
    """Whether any number of the row is above ``least``; NaN is not."""
    found = False
    for c in range(row.shape[0]):
        found |= row[c] > least
    return found


@njit(parallel=True, cache=True)
def top(scores, begin, seen, values, columns):
    """Merge columns, counted from ``begin``, into each row's best, largest first, equal ones by lowest column.

    The first ``seen`` of them are in it already.
    """
    k, width = values.shape[1], scores.shape[1]
    for r in prange(scores.shape[0]):
        best, places, row = values[r], columns[r], scores[r]
        for first in range(seen, width, GROUP):
            last = min(first + GROUP, width)
            if not any_above(row[first:last], best[k - 1]):
                continue
            for c in range(first, last):
                s = row[c]
                # NaN and minus infinity are above nothing, and a later equal score does not enter.
                if s > best[k - 1]:
                    p = k - 1
                    while p > 0 and best[p - 1] < s:
                        best[p] = best[p - 1]
                        places[p] = places[p - 1]
                        p -= 1
                    best[p] = s
                    places[p] = begin + c
