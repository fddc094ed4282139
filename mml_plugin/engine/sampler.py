"""Which negatives a training row meets in an epoch: a function of (seed, epoch, row, slot) and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mml_plugin.engine import philox
from mml_plugin.engine.backends.base import Backend, Positives
from mml_plugin.errors import UserError

# Where a negative is rarer than this among a user's draws, redrawing until there is one takes too long.
RAREST = 1 << 16


@dataclass(frozen=True)
class NegativeSampler:
    """Draws negatives with replacement, over all corpus rows or over those that are no training item of the user.

    Attributes:
        seed: of the run.
        item_ids: ``[I]`` corpus row -> row of the item table.
        cumulative: ``[I]`` int64 upper bounds in [0, 2^32] of each corpus row's share of words; None is uniform.
        positives: training items to leave out; None leaves none out.
        backend: what computes it; all backends draw the same.
    """

    seed: int
    item_ids: Tensor
    cumulative: Tensor | None
    positives: Positives | None
    backend: Backend

    @classmethod
    def create(
        cls,
        seed: int,
        item_ids: Tensor,
        backend: Backend,
        *,
        popularity: Tensor | None = None,
        alpha: float = 0.0,
        positives: Positives | None = None,
        name_of: Callable[[int], str] = "user row {}".format,
    ) -> NegativeSampler:
        """Prepare a sampler.

        Args:
            seed: of the run.
            item_ids: ``[I]`` corpus row -> row of the item table.
            backend: what computes it.
            popularity: ``[I]`` training interactions of each corpus row; needed for ``alpha`` > 0.
            alpha: negatives are drawn with probability proportional to ``popularity ** alpha``; 0 is uniform.
            positives: training items to leave out.
            name_of: what messages call a user row.

        Raises:
            UserError: when some user has no item left to draw, or hardly one.
            ValueError: for ``alpha`` without ``popularity``.
        """
        cumulative = None
        if alpha:
            if popularity is None:
                raise ValueError("alpha needs popularity")
            # On the host: bounds must be the same everywhere, and a GPU's powers and sums end in other digits.
            counts = popularity.double().cpu().clamp_min(0)
            cumulative = cumulative_words(_powers(counts, alpha) * (counts > 0)).to(item_ids.device)
        if positives is not None:
            _check_something_is_left(positives, len(item_ids), cumulative, name_of)
        kept = item_ids.to(backend.index_dtype)
        return cls(seed, kept, cumulative, positives, backend)

    def index(self, epoch: int | Tensor, rows: Tensor, users: Tensor, positive_ids: Tensor, count: int) -> Tensor:
        """Table rows of each row's positive and its ``count`` negatives.

        Args:
            epoch: 0-based.
            rows: ``[B]`` int64 training-row ids.
            users: ``[B]`` int64 user rows, for exclusion.
            positive_ids: ``[B]`` table rows of the positives.
            count: N.

        Returns:
            ``[B, 1+N]`` of the backend's index type.
        """
        out = torch.empty(len(rows), 1 + count, dtype=self.backend.index_dtype, device=rows.device)
        out[:, 0] = positive_ids
        self.backend.draw_items(
            rows,
            users,
            count,
            seed=self.seed,
            epoch=epoch,
            num_items=len(self.item_ids),
            item_ids=self.item_ids,
            cumulative=self.cumulative,
            positives=self.positives,
            out=out,
        )
        return out


def _powers(counts: Tensor, alpha: float) -> Tensor:
    """``counts ** alpha``, up to a factor where that is too large for a number."""
    powers = counts**alpha
    return powers if powers.sum().isfinite() else (counts / counts.max()) ** alpha


def cumulative_words(weights: Tensor) -> Tensor:
    """Upper bounds in units of 2^-32 such that a word below bound i and not below bound i-1 means corpus row i.

    Args:
        weights: ``[I]`` >= 0, not all 0. A row of weight 0 is never drawn.
    """
    total = weights.double().cumsum(0)
    bounds = (total / total[-1] * 2.0**32).round().to(torch.int64)
    # The last row with a weight takes what rounding left.
    bounds[total >= total[-1]] = 2**32
    return bounds


def _check_something_is_left(
    positives: Positives, num_items: int, cumulative: Tensor | None, name_of: Callable[[int], str]
) -> None:
    """Refuse users for whom no draw, or hardly one, is a negative: drawing until one is would not end."""
    counts = positives.indptr.diff()
    users = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    # How many of the words (uniform: of the items) mean each item.
    shares = counts.new_ones(num_items)
    if cumulative is not None:
        shares = cumulative.diff(prepend=cumulative.new_zeros(1))
    whole = int(shares.sum())
    taken = torch.zeros(len(counts), dtype=torch.int64, device=counts.device)
    taken.index_add_(0, users, shares[positives.items.long()])
    full = (taken >= whole).nonzero().flatten()
    if len(full):
        available = int((shares > 0).sum())
        raise UserError(
            f"{name_of(int(full[0]))} has every item among its training items ({available}), so excluding positives "
            "leaves no negative; set ignore_pos_items False"
        )
    nearly = ((whole - taken) * RAREST < whole).nonzero().flatten()
    if len(nearly):
        row = int(nearly[0])
        raise UserError(
            f"{name_of(row)} has nearly every item among its training items: excluding them leaves 1 draw in "
            f"{whole // (whole - int(taken[row])):,} and 1 in {RAREST:,} is the least; set ignore_pos_items False"
        )


def shuffled(count: int, seed: int, epoch: int, device: torch.device) -> Tensor:
    """The epoch's order of training rows ``[count]``: ascending by a random word, ties by row."""
    blocks = torch.arange((count + philox.WORDS - 1) // philox.WORDS, device=device)
    parts = [
        philox.words(part, philox.WORDS, seed=seed, stream=philox.SHUFFLE, epoch=epoch).flatten()
        for part in blocks.split(1 << 14)
    ]
    return torch.cat(parts)[:count].argsort(stable=True)
