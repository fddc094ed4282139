"""Attention over ragged histories on a CPU: everything between the keys and the pooled vector in one pass each way.

An item that stands in several histories of the batch has its vector and its key once. Every sum is in a fixed order, so
that the bits are the same for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from mml_plugin.engine.backends.base import HistoryItems
from mml_plugin.engine.backends.numba_kernels import AHEAD, PARTS, dot, total
from mml_plugin.engine.backends.numba_prefetch import prefetch_row


@njit(cache=True)
def group(ids, rows, number, begin, entries, distinct):
    """Entries by their item; returns how many distinct ones there are, or -1 for an id outside [0, ``rows``).

    Entry j is distinct[number[j]], and those of distinct[i] are entries[begin[i]:begin[i+1]], ascending.
    """
    place = np.zeros(rows, np.int32)
    for j in range(ids.shape[0]):
        if not 0 <= ids[j] < rows:
            return -1
        place[ids[j]] += 1
    found = at = 0
    for r in range(rows):
        here = place[r]
        if here:
            distinct[found], begin[found], place[r] = r, at, found
            found += 1
            at += here
    begin[found] = at
    cursor = begin[:found].copy()
    for j in range(ids.shape[0]):
        i = place[ids[j]]
        number[j] = i
        entries[cursor[i]] = j
        cursor[i] += 1
    return found


@njit
def ask_for(items, key, number, j, last):
    """Have entry j's vector and key fetched before they are read, unless the row ends at ``last`` before it."""
    if j < last:
        prefetch_row(items, number[j])
        prefetch_row(key, number[j])


@njit(parallel=True, cache=True)
def attend(items, key, number, asked, begin, mask, absent, share, out):
    """out[b] = sum_j share[j] mask[j] items[number[j]] over row b's entries; share = e^s / (sum e^s + absent).

    s = <key, asked>; an entry whose vector sums to exactly 0 is padding and has s = 0.
    """
    dim = items.shape[1]
    masked = mask.shape[0] > 0
    for b in prange(asked.shape[0]):
        whole, first, last = absent[b], begin[b], begin[b + 1]
        for j in range(first, first + AHEAD):
            ask_for(items, key, number, j, last)
        for j in range(first, last):
            ask_for(items, key, number, j + AHEAD, last)
            i = number[j]
            padding = total(items[i]) == 0
            share[j] = items.dtype.type(1) if padding else np.exp(dot(key[i], asked[b]))
            whole += share[j]
        o = out[b]
        for d in range(dim):
            o[d] = 0
        for j in range(first, last):
            share[j] /= whole
            weight = share[j] * mask[j] if masked else share[j]
            vector = items[number[j]]
            for d in range(dim):
                o[d] += weight * vector[d]


@njit(parallel=True, cache=True)
def attend_backward(grad, items, key, number, asked, begin, mask, share, weight, pull, row, by_asked):
    """The gradient in what is asked; leaves each entry's row, its weight and the gradient in its s (``pull``)."""
    dim = items.shape[1]
    masked = mask.shape[0] > 0
    for b in prange(asked.shape[0]):
        g, q, first, last = grad[b], by_asked[b], begin[b], begin[b + 1]
        for d in range(dim):
            q[d] = 0
        mean = items.dtype.type(0)
        for j in range(first, first + AHEAD):
            ask_for(items, key, number, j, last)
        for j in range(first, last):
            ask_for(items, key, number, j + AHEAD, last)
            factor = mask[j] if masked else items.dtype.type(1)
            along = factor * dot(g, items[number[j]])
            mean += share[j] * along
            pull[j], weight[j], row[j] = along, share[j] * factor, b
        for j in range(first, last):
            i = number[j]
            pull[j] = items.dtype.type(0) if total(items[i]) == 0 else share[j] * (pull[j] - mean)
            vector = key[i]
            for d in range(dim):
                q[d] += pull[j] * vector[d]


@njit(parallel=True, cache=True)
def collect(grad, asked, weight, pull, row, begin, entries, by_items, by_key):
    """The gradients in the items' vectors and keys: each item's entries, wherever they stand, added up in order."""
    items, dim = by_items.shape
    for p in prange(PARTS):
        # The low numbers are the popular items, with the most entries: every part gets its share of them.
        for i in range(p, items, PARTS):
            v, k = by_items[i], by_key[i]
            for d in range(dim):
                v[d] = 0
                k[d] = 0
            for e in range(begin[i], begin[i + 1]):
                j = entries[e]
                w, s, g, a = weight[j], pull[j], grad[row[j]], asked[row[j]]
                for d in range(dim):
                    v[d] += w * g[d]
                    k[d] += s * a[d]


def history_items(ids: Tensor, rows: int) -> HistoryItems:
    """The distinct items of entries ``[n]``, of a table of so many rows."""
    count = len(ids)
    distinct, number, entries = np.empty(count, np.int64), np.empty(count, np.int32), np.empty(count, np.int32)
    begin = np.empty(count + 1, np.int32)
    found = group(ids.numpy(), rows, number, begin, entries, distinct)
    if found < 0:
        raise IndexError(f"history items must be in [0, {rows}), the rows of their table")

    def attention(
        items: Tensor, key: Tensor, asked: Tensor, lengths: Tensor, mask: Tensor | None, absent: Tensor
    ) -> Tensor:
        return _Attention.apply(items, key, asked, lengths, mask, absent, number, begin, entries)

    return HistoryItems(torch.from_numpy(distinct[:found]), attention)


class _Attention(torch.autograd.Function):
    """``(items[k, d], key[k, d], asked[B, d]) -> pooled[B, d]``; entries of a row stand together."""

    @staticmethod
    def forward(ctx: Any, items, key, asked, lengths, mask, absent, number, begin_item, entries):
        begin = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths.numpy(), out=begin[1:])
        vectors, keys, questions = (tensor.detach().contiguous().numpy() for tensor in (items, key, asked))
        factors = np.empty(0, vectors.dtype) if mask is None else mask.contiguous().numpy()
        share = np.empty(len(number), vectors.dtype)
        out = torch.empty(asked.shape, dtype=items.dtype)
        attend(vectors, keys, number, questions, begin, factors, absent.numpy(), share, out.numpy())
        ctx.kept = (vectors, keys, number, questions, begin, factors, share)
        ctx.by_item = begin_item, entries
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError("the fast engine's attention can be differentiated once: leave create_graph out")
        vectors, keys, number, questions, begin, factors, share = ctx.kept
        by_items, by_key, by_asked = (torch.empty(a.shape, dtype=grad.dtype) for a in (vectors, keys, questions))
        weight, pull, row = np.empty_like(share), np.empty_like(share), np.empty(len(share), np.int32)
        g, (begin_item, entries) = grad.contiguous().numpy(), ctx.by_item
        attend_backward(g, vectors, keys, number, questions, begin, factors, share, weight, pull, row, by_asked.numpy())
        collect(g, questions, weight, pull, row, begin_item, entries, by_items.numpy(), by_key.numpy())
        return by_items, by_key, by_asked, *[None] * 6
