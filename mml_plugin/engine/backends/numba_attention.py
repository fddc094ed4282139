"""Attention over ragged histories on a CPU: everything between the keys and the pooled vector in one pass each way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from mml_plugin.engine.backends.numba_kernels import dot, total


@njit(parallel=True, cache=True)
def attend(items, key, asked, begin, mask, absent, share, out):
    """out[b] = sum_j share[j] mask[j] items[j] over row b's entries, with share = e^s / (sum e^s + absent).

    s = <key, asked>; an entry whose vector sums to exactly 0 is padding and has s = 0.
    """
    dim = items.shape[1]
    masked = mask.shape[0] > 0
    for b in prange(asked.shape[0]):
        whole = absent[b]
        for j in range(begin[b], begin[b + 1]):
            padding = total(items[j]) == 0
            share[j] = items.dtype.type(1) if padding else np.exp(dot(key[j], asked[b]))
            whole += share[j]
        o = out[b]
        for d in range(dim):
            o[d] = 0
        for j in range(begin[b], begin[b + 1]):
            share[j] /= whole
            weight = share[j] * mask[j] if masked else share[j]
            for d in range(dim):
                o[d] += weight * items[j, d]


@njit(parallel=True, cache=True)
def attend_backward(grad, items, key, asked, begin, mask, share, by_items, by_key, by_asked):
    """Gradients of :func:`attend` in its vectors, keys and what they are asked."""
    dim = items.shape[1]
    masked = mask.shape[0] > 0
    for b in prange(asked.shape[0]):
        g, q = grad[b], by_asked[b]
        for d in range(dim):
            q[d] = 0
        mean = items.dtype.type(0)
        for j in range(begin[b], begin[b + 1]):
            along = dot(g, items[j])
            factor = mask[j] if masked else items.dtype.type(1)
            mean += share[j] * factor * along
            # Kept where the second loop finds it.
            by_key[j, 0] = factor * along
        for j in range(begin[b], begin[b + 1]):
            pull = share[j] * (by_key[j, 0] - mean)
            if total(items[j]) == 0:
                pull = items.dtype.type(0)
            weight = share[j] * mask[j] if masked else share[j]
            for d in range(dim):
                by_items[j, d] = weight * g[d]
                by_key[j, d] = pull * asked[b, d]
                q[d] += pull * key[j, d]


class Attention(torch.autograd.Function):
    """``(items[n, d], key[n, d], asked[B, d]) -> pooled[B, d]``; entries of a row stand together."""

    @staticmethod
    def forward(ctx: Any, items, key, asked, lengths, mask, absent):
        begin = np.zeros(len(lengths) + 1, np.int64)
        np.cumsum(lengths.numpy(), out=begin[1:])
        kept = [tensor.detach().contiguous().numpy() for tensor in (items, key, asked)]
        factors = np.empty(0, kept[0].dtype) if mask is None else mask.contiguous().numpy()
        share = np.empty(len(items), kept[0].dtype)
        out = torch.empty(asked.shape, dtype=items.dtype)
        vectors, keys, questions = kept
        attend(vectors, keys, questions, begin, factors, absent.numpy(), share, out.numpy())
        ctx.kept = (*kept, begin, factors, share)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError("the fast engine's attention can be differentiated once: leave create_graph out")
        items, key, asked, begin, factors, share = ctx.kept
        by_items, by_key, by_asked = (torch.empty(a.shape, dtype=grad.dtype) for a in (items, key, asked))
        attend_backward(
            grad.contiguous().numpy(), items, key, asked, begin, factors, share,
            by_items.numpy(), by_key.numpy(), by_asked.numpy(),
        )  # fmt: skip
        return by_items, by_key, by_asked, None, None, None
