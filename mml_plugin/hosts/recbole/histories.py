"""Training histories by RecBole's ids: the last so many items of a user, in training without the row's own target."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


class TrainingHistories(nn.Module):
    """Every user's last ``length + 1`` training items, oldest first, padded on the left with 0.

    One more than ``length``, because a training row's history is what remains when its target is removed.

    Args:
        users, items: ids of all training interactions, in order.
        num_users: rows to make; id 0 is padding.
        length: items per history; default the longest that a training row can have.
    """

    window: Tensor
    first: Tensor

    def __init__(self, users: Tensor, items: Tensor, num_users: int, length: int | None = None) -> None:
        super().__init__()
        user, item = users.cpu().numpy(), items.cpu().numpy()
        counts = np.bincount(user, minlength=num_users)
        self.length = length if length is not None else max(int(counts.max()) - 1, 1)
        width = self.length + 1
        order = np.argsort(user, kind="stable")
        user, item = user[order], item[order]
        # From the end: the last interaction of a user goes into the last column.
        place = width - (np.cumsum(counts)[user] - np.arange(len(user)))
        window = np.zeros((num_users, width), np.int64)
        kept = place >= 0
        window[user[kept], place[kept]] = item[kept]
        first = np.zeros((num_users, width), bool)
        earliest = np.zeros(len(user), bool)
        pairs = user.astype(np.int64) * (int(item.max(initial=0)) + 1) + item
        earliest[np.unique(pairs, return_index=True)[1]] = True
        first[user[kept], place[kept]] = earliest[kept]
        self.register_buffer("window", torch.from_numpy(window), persistent=False)
        self.register_buffer("first", torch.from_numpy(first), persistent=False)

    def of(self, users: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Items ``[B, length + 1]`` and which of them count, as 0.0 and 1.0 of the same shape.

        Args:
            users: ``[B]`` ids.
            targets: ``[B]`` positives of training rows; the first occurrence of each is left out, be it before the
                last ``length + 1`` items. None in evaluation.
        """
        items = self.window[users]
        real = items != 0
        oldest = torch.zeros_like(real)
        oldest[:, 0] = True
        left_out = oldest
        if targets is not None:
            found = (items == targets[:, None]) & self.first[users]
            left_out = torch.where(found.any(dim=1, keepdim=True), found, oldest)
        return items, (real & ~left_out).float()
