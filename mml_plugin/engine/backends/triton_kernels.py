"""The GPU kernels, in Triton. Pointers in, memory filled; triton_gpu.py is what launches them.

Rows of a ``[rows, dim]`` matrix are handled in tiles ``[R, D]`` with D the next power of two; what lies beyond is
masked and never read. A row number times ``dim`` is computed in 64 bits. Numbers that are not integers arrive by
pointer: Triton hands a Python float over in single precision, which would spoil float64.

No ``from __future__ import annotations`` here: Triton reads the annotations themselves.
"""

import triton
import triton.language as tl

from mml_plugin.engine import philox

ROUNDS = tl.constexpr(philox.ROUNDS)


@triton.jit
def _words(row, slot, epoch, attempt, key):
    """Word ``slot`` mod 4 of the counter (row, slot div 4, epoch, attempt), as int64; ``key`` is seed + stream * 2^32.

    All operands are blocks of one shape; a lane computes four words and keeps one, which is less than moving them.
    """
    w0, w1, w2, w3 = tl.philox(
        key, row.to(tl.uint32), (slot // 4).to(tl.uint32), epoch.to(tl.uint32), attempt.to(tl.uint32), ROUNDS
    )
    lane = slot % 4
    low = tl.where(lane == 0, w0, w1)
    high = tl.where(lane == 2, w2, w3)
    return tl.where(lane < 2, low, high).to(tl.int64)


@triton.jit
def _to_item(word, cumulative, bound, POPULAR: tl.constexpr, STEPS: tl.constexpr):
    """A word as a corpus row: by multiply-high, or the first cumulative bound above it."""
    if POPULAR:
        low = word * 0
        high = low + (bound - 1)
        for _ in range(STEPS):
            middle = (low + high) // 2
            above = tl.load(cumulative + middle) > word
            high = tl.where(above, middle, high)
            low = tl.where(above, low, middle + 1)
        return low
    else:
        return (word * bound) >> 32


@triton.jit
def _is_held(item, begin, end, items, STEPS: tl.constexpr):
    """Whether ``item`` is in the sorted ``items[begin:end]``."""
    low = begin
    high = end
    for _ in range(STEPS):
        searching = low < high
        middle = (low + high) // 2
        less = tl.load(items + middle, mask=searching, other=0) < item
        low = tl.where(searching & less, middle + 1, low)
        high = tl.where(searching & (less == 0), middle, high)
    inside = low < end
    return inside & (tl.load(items + low, mask=inside, other=-1) == item)


@triton.jit
def draw_items(
    rows, users, item_ids, cumulative, indptr, positives, epoch, out, entries, slots, bound, key,
    POPULAR: tl.constexpr, POPULAR_STEPS: tl.constexpr, EXCLUDING: tl.constexpr, EXCLUDING_STEPS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """out[b, 1 + s] = id of the corpus row that (row b, slot s, epoch) draws; a positive is drawn again."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    b = entry // slots
    slot = entry % slots
    row = tl.load(rows + b, mask=inside, other=0)
    when = tl.load(epoch) + row * 0
    attempt = row * 0
    item = _to_item(_words(row, slot, when, attempt, key), cumulative, bound, POPULAR, POPULAR_STEPS)
    if EXCLUDING:
        user = tl.load(users + b, mask=inside, other=0)
        begin = tl.load(indptr + user, mask=inside, other=0)
        end = tl.load(indptr + user + 1, mask=inside, other=0)
        wrong = inside & _is_held(item, begin, end, positives, EXCLUDING_STEPS)
        while tl.sum(wrong.to(tl.int32), axis=0) > 0:
            attempt += 1
            again = _to_item(_words(row, slot, when, attempt, key), cumulative, bound, POPULAR, POPULAR_STEPS)
            item = tl.where(wrong, again, item)
            wrong = wrong & _is_held(item, begin, end, positives, EXCLUDING_STEPS)
    tl.store(out + b * (slots + 1) + 1 + slot, tl.load(item_ids + item, mask=inside, other=0), mask=inside)


@triton.jit
def row_words(epoch, out, entries, key, BLOCK: tl.constexpr):
    """out[r] = word r mod 4 of the counter (r div 4, 0, epoch, 0)."""
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    when = tl.load(epoch) + row * 0
    tl.store(out + row, _words(row // 4, row % 4, when, row * 0, key), mask=row < entries)


@triton.jit
def dropout_mask(rows, epoch, factor, out, entries, width, threshold, key, BLOCK: tl.constexpr):
    """out[b, c] = 0 where the word is below the threshold, else ``factor``."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    row = tl.load(rows + entry // width, mask=inside, other=0)
    when = tl.load(epoch) + row * 0
    word = _words(row, entry % width, when, row * 0, key)
    kept = tl.load(factor)
    tl.store(out + entry, tl.where(word >= threshold, kept, 0.0), mask=inside)


@triton.jit
def scores(
    user, table, index, inverse, out, width, dim, SCALED: tl.constexpr, J: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """out[b, j] = <user[b], table[index[b, j]]> * inverse[index[b, j]]; one program per J entries of a row."""
    b = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * J + tl.arange(0, J)
    c = tl.arange(0, D)
    inside = j < width
    column = c < dim
    item = tl.load(index + b * width + j, mask=inside, other=0).to(tl.int64)
    u = tl.load(user + b * dim + c, mask=column, other=0.0)
    v = tl.load(table + item[:, None] * dim + c[None, :], mask=inside[:, None] & column[None, :], other=0.0)
    y = tl.sum(v * u[None, :], axis=1)
    if SCALED:
        y *= tl.load(inverse + item, mask=inside, other=0.0)
    tl.store(out + b * width + j, y, mask=inside)


@triton.jit
def user_gradient(
    grad, table, index, inverse, out, width, dim, SCALED: tl.constexpr, J: tl.constexpr, D: tl.constexpr
):  # fmt: skip
    """out[b] = sum of grad[b, j] * item vector; the vectors of zero grads are not read. One program per row."""
    b = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, D)
    column = c < dim
    total = tl.zeros((D,), dtype=out.dtype.element_ty)
    for start in range(0, width, J):
        j = start + tl.arange(0, J)
        g = tl.load(grad + b * width + j, mask=j < width, other=0.0)
        active = g != 0
        if tl.sum(active.to(tl.int32), axis=0) > 0:
            item = tl.load(index + b * width + j, mask=active, other=0).to(tl.int64)
            if SCALED:
                g *= tl.load(inverse + item, mask=active, other=0.0)
            v = tl.load(table + item[:, None] * dim + c[None, :], mask=active[:, None] & column[None, :], other=0.0)
            total += tl.sum(g[:, None] * v, axis=0)
    tl.store(out + b * dim + c, total, mask=column)


@triton.jit
def item_gradient(
    grad, y, user, table, index, inverse, floor, out, touched, width, dim,
    SCALED: tl.constexpr, J: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """out[i] += d(y)/d(table[i]) weighed by the non-zero grads, by atomic adds; ``floor`` is (1e-12, 1e12)."""
    b = tl.program_id(0).to(tl.int64)
    j = tl.program_id(1) * J + tl.arange(0, J)
    g = tl.load(grad + b * width + j, mask=j < width, other=0.0)
    active = g != 0
    if tl.sum(active.to(tl.int32), axis=0) > 0:
        c = tl.arange(0, D)
        there = active[:, None] & (c < dim)[None, :]
        item = tl.load(index + b * width + j, mask=active, other=0).to(tl.int64)
        place = item[:, None] * dim + c[None, :]
        u = tl.load(user + b * dim + c, mask=c < dim, other=0.0)
        if SCALED:
            n = tl.load(inverse + item, mask=active, other=0.0)
            g *= n
            # Below F.normalize's floor the norm is a constant, so nothing is projected out.
            along = tl.load(y + b * width + j, mask=active & (n < tl.load(floor + 1)), other=0.0) * n
            v = tl.load(table + place, mask=there, other=0.0)
            part = g[:, None] * (u[None, :] - along[:, None] * v)
        else:
            part = g[:, None] * u[None, :]
        tl.atomic_add(out + place, part, mask=there, sem="relaxed")
        tl.store(touched + item, (item * 0 + 1).to(tl.uint8), mask=active)


@triton.jit
def user_vectors(
    table, ids, mask, floor, out, inverse, rows, dim, mask_width,
    NORMALIZED: tl.constexpr, MASKED: tl.constexpr, DROPOUT_FIRST: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """out[b] = the user's row, normalised and times ``mask``; inverse[b] = 1 / the norm divided by."""
    b = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, D)
    inside = b < rows
    there = inside[:, None] & (c < dim)[None, :]
    row = tl.load(ids + b, mask=inside, other=0).to(tl.int64)
    v = tl.load(table + row[:, None] * dim + c[None, :], mask=there, other=0.0)
    if MASKED:
        factor = tl.load(mask + b[:, None] * mask_width + c[None, :], mask=there, other=0.0)
        if DROPOUT_FIRST:
            v *= factor
    if NORMALIZED:
        norm = tl.sqrt(tl.sum(v * v, axis=1))
        n = tl.where(norm > tl.load(floor), 1 / norm, tl.load(floor + 1))
        v *= n[:, None]
        tl.store(inverse + b, n, mask=inside)
    if MASKED and not DROPOUT_FIRST:
        v *= factor
    tl.store(out + b[:, None] * dim + c[None, :], v, mask=there)


@triton.jit
def add_user_gradient(
    grad, table, ids, mask, floor, inverse, out, touched, rows, dim, mask_width,
    NORMALIZED: tl.constexpr, MASKED: tl.constexpr, DROPOUT_FIRST: tl.constexpr, R: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """out[ids[b]] += the gradient of the user's row, from ``grad`` of what :func:`user_vectors` made; atomic adds."""
    b = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, D)
    inside = b < rows
    there = inside[:, None] & (c < dim)[None, :]
    row = tl.load(ids + b, mask=inside, other=0).to(tl.int64)
    place = row[:, None] * dim + c[None, :]
    g = tl.load(grad + b[:, None] * dim + c[None, :], mask=there, other=0.0)
    if MASKED:
        factor = tl.load(mask + b[:, None] * mask_width + c[None, :], mask=there, other=0.0)
        if not DROPOUT_FIRST:
            g *= factor
    if NORMALIZED:
        n = tl.load(inverse + b, mask=inside, other=0.0)
        unit = tl.load(table + place, mask=there, other=0.0) * n[:, None]
        if MASKED and DROPOUT_FIRST:
            unit *= factor
        along = tl.sum(g * unit, axis=1)
        along = tl.where(n < tl.load(floor + 1), along, 0.0)
        g = (g - along[:, None] * unit) * n[:, None]
    if MASKED and DROPOUT_FIRST:
        g *= factor
    tl.atomic_add(out + place, g, mask=there, sem="relaxed")
    tl.store(touched + row, (row * 0 + 1).to(tl.uint8), mask=inside)


@triton.jit
def add_rows(ids, values, out, touched, rows, dim, R: tl.constexpr, D: tl.constexpr):
    """out[ids[k]] += values[k], by atomic adds."""
    k = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, D)
    inside = k < rows
    there = inside[:, None] & (c < dim)[None, :]
    row = tl.load(ids + k, mask=inside, other=0).to(tl.int64)
    v = tl.load(values + k[:, None] * dim + c[None, :], mask=there, other=0.0)
    tl.atomic_add(out + row[:, None] * dim + c[None, :], v, mask=there, sem="relaxed")
    tl.store(touched + row, (row * 0 + 1).to(tl.uint8), mask=inside)


@triton.jit
def gradient_norms(table, grad, touched, decay, square, parts, rows, dim, R: tl.constexpr, D: tl.constexpr):
    """parts[p] = sum over the touched of R rows of |g|^2 + 2 decay g.w; the first also gets decay^2 |W|^2."""
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, D)
    hit = tl.load(touched + r, mask=r < rows, other=0) != 0
    there = hit[:, None] & (c < dim)[None, :]
    place = r[:, None] * dim + c[None, :]
    g = tl.load(grad + place, mask=there, other=0.0)
    w = tl.load(table + place, mask=there, other=0.0)
    by_row = tl.sum(g * (g + 2 * tl.load(decay).to(w.dtype) * w), axis=1)
    total = tl.sum(by_row.to(tl.float64), axis=0)
    if tl.program_id(0) == 0:
        total += tl.load(decay) * tl.load(decay) * tl.load(square)
    tl.store(parts + tl.program_id(0), total)


@triton.jit
def clip_factor(squared, numbers, out):
    """out = min(1, limit / (|g| + epsilon)); ``numbers`` are limit, epsilon and 1."""
    square = tl.load(squared)
    # Comparisons rather than minimum and maximum, which would turn NaN into a number.
    factor = tl.load(numbers) / (tl.sqrt(tl.where(square < 0, 0.0, square)) + tl.load(numbers + 1))
    tl.store(out, tl.where(factor > tl.load(numbers + 2), tl.load(numbers + 2), factor))


@triton.jit
def adam(
    table, grad, first, second, touched, squared_norms, parts, numbers, rate, epsilon, clip, rows, dim,
    R: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One dense Adam step on clip * (g + decay W); clears what was touched, leaves each row's |w|^2 and their sum.

    ``numbers`` are decay, beta1, 1 - beta1, beta2, 1 - beta2; ``rate``, ``epsilon`` and ``clip`` change by the step.
    """
    r = tl.program_id(0).to(tl.int64) * R + tl.arange(0, R)
    c = tl.arange(0, D)
    inside = r < rows
    there = inside[:, None] & (c < dim)[None, :]
    place = r[:, None] * dim + c[None, :]
    hit = tl.load(touched + r, mask=inside, other=0) != 0
    gathered = hit[:, None] & (c < dim)[None, :]
    w = tl.load(table + place, mask=there, other=0.0)
    m = tl.load(first + place, mask=there, other=0.0)
    v = tl.load(second + place, mask=there, other=0.0)
    g = tl.load(grad + place, mask=gathered, other=0.0)
    step = (g + tl.load(numbers) * w) * tl.load(clip).to(w.dtype)
    m = tl.load(numbers + 1) * m + tl.load(numbers + 2) * step
    v = tl.load(numbers + 3) * v + tl.load(numbers + 4) * step * step
    w -= tl.load(rate).to(w.dtype) * m / (tl.sqrt(v) + tl.load(epsilon).to(w.dtype))
    tl.store(first + place, m, mask=there)
    tl.store(second + place, v, mask=there)
    tl.store(table + place, w, mask=there)
    tl.store(grad + place, tl.zeros_like(g), mask=gathered)
    tl.store(touched + r, (r * 0).to(tl.uint8), mask=hit)
    norms = tl.sum(w * w, axis=1)
    tl.store(squared_norms + r, norms, mask=inside)
    tl.store(parts + tl.program_id(0), tl.sum(norms.to(tl.float64), axis=0))


@triton.jit
def adam_constants(step, rate, logarithms, out):
    """out = (rate, epsilon), bias corrected, of a ``step``; ``logarithms`` are log2 of both betas, and epsilon."""
    t = tl.load(step)
    root = tl.sqrt(1 - tl.exp2(t * tl.load(logarithms + 1)))
    tl.store(out, tl.load(rate) * root / (1 - tl.exp2(t * tl.load(logarithms))))
    tl.store(out + 1, tl.load(logarithms + 2) * root)


@triton.jit
def inverse_norms(squared_norms, floor, out, rows, BLOCK: tl.constexpr):
    """out[r] = 1 / max(|w_r|, 1e-12)."""
    r = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    norm = tl.sqrt(tl.load(squared_norms + r, mask=r < rows, other=1.0))
    tl.store(out + r, tl.where(norm > tl.load(floor), 1 / norm, tl.load(floor + 1)), mask=r < rows)


@triton.jit
def bands(y, grad, thresholds, counts, sums, entries, slots, margins, BLOCK: tl.constexpr):
    """Adds to counts[k] the negatives in band k and to sums[k] their |grad|; column 0 is no negative."""
    entry = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = entry < entries
    place = entry // slots * (slots + 1) + 1 + entry % slots
    s = tl.load(y + place, mask=inside, other=0.0)
    g = tl.abs(tl.load(grad + place, mask=inside, other=0.0)).to(tl.float64)
    band = entry * 0
    for k in range(margins):
        band += (s > tl.load(thresholds + k)).to(tl.int32)
    for k in range(margins + 1):
        here = inside & (band == k)
        tl.atomic_add(counts + k, tl.sum(here.to(tl.int64), axis=0), sem="relaxed")
        tl.atomic_add(sums + k, tl.sum(tl.where(here, g, 0.0), axis=0), sem="relaxed")
