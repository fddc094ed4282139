"""Philox-4x32-10 (Salmon et al. 2011), the counter-based generator behind every draw of the fast engine.

A draw is a pure function of its counter, so it does not depend on batch size, order, device or backend. This file is
the definition: 64-bit integer tensors carry the 32-bit words, and products wrap, which keeps every bit that is used.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

MULTIPLIER_A, MULTIPLIER_B = 0xD2511F53, 0xCD9E8D57
WEYL_A, WEYL_B = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
WORDS = 4
MASK = 0xFFFFFFFF

# The second key word keeps the streams of one seed apart.
NEGATIVES, SHUFFLE, USER_DROPOUT, ATTENTION_DROPOUT = 1, 2, 3, 4


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four random 32-bit words per counter.

    Args:
        counter: four broadcastable int64 tensors that hold words in [0, 2^32).
        key: two words.

    Returns:
        Four int64 tensors of words, of the counters' common shape.
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(ROUNDS):
        a, b = c0 * MULTIPLIER_A, c2 * MULTIPLIER_B
        high_a, high_b = (a >> 32) & MASK, (b >> 32) & MASK
        c0, c1, c2, c3 = high_b ^ c1 ^ k0, b & MASK, high_a ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + WEYL_A) & MASK, (k1 + WEYL_B) & MASK
    return c0, c1, c2, c3


def words(rows: Tensor, count: int, *, seed: int, stream: int, epoch: int | Tensor, attempt: int = 0) -> Tensor:
    """``count`` random words for each row: slot s is word s mod 4 of the counter (row, s div 4, epoch, attempt).

    Args:
        rows: training-row ids ``[B]``, int64.
        count: words per row.
        seed: first key word.
        stream: second key word, one of this module's streams.
        epoch: a number, or a tensor of one element that a captured CUDA graph may change.
        attempt: of a redraw.

    Returns:
        ``[B, count]`` int64, each in [0, 2^32).
    """
    blocks = torch.arange((count + WORDS - 1) // WORDS, device=rows.device)
    third = torch.as_tensor(epoch, dtype=torch.int64, device=rows.device)
    last = torch.full_like(third, attempt)
    drawn = philox((rows.to(torch.int64)[:, None], blocks[None, :], third, last), (seed & MASK, stream))
    return torch.stack(drawn, dim=-1).flatten(1)[:, :count]


def below(drawn: Tensor, bound: int) -> Tensor:
    """Words as integers in [0, bound) by multiply-high; no probability is off by more than 2^-32."""
    return (drawn * bound) >> 32


def keep_mask(drawn: Tensor, rate: float, dtype: torch.dtype) -> Tensor:
    """Words as dropout factors: 0 with probability ``rate`` (to 2^-32), else :func:`kept_factor`."""
    return (drawn >= drop_threshold(rate)).to(dtype) * kept_factor(rate, dtype)


@lru_cache
def kept_factor(rate: float, dtype: torch.dtype) -> float:
    """What dropout makes of a 1 that it keeps: 1 / (1 - rate), divided in the tensor's own type as torch's dropout."""
    return float(torch.ones((), dtype=dtype) / torch.tensor(1 - rate, dtype=dtype))


def drop_threshold(rate: float) -> int:
    """The word below which a value is dropped."""
    return round(rate * 2**32)
