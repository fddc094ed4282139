"""What every loss shares: the shape check, and computing in float32 at least."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mml_plugin.losses.score_range import ScoreRange


def at_least_float32(scores: Tensor) -> Tensor:
    """The scores, as float32 when they came as float16 or bfloat16."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _moved(buffer: Tensor, fn: Callable[[Tensor], Tensor]) -> Tensor:
    """The buffer where ``fn`` puts it, in the type that it has."""
    there = fn(buffer.float())
    if there.is_mps:  # Apple's GPUs have no float64.
        return there
    whole = fn(buffer)
    return whole if whole.dtype == buffer.dtype else buffer.to(whole.device)


class SampledLoss(nn.Module):
    """A loss on the scores of one positive and N sampled negatives per row.

    A subclass writes :meth:`compute`. Hyper-parameters that are tensors are buffers outside the ``state_dict``
    (``persistent=False``): they follow the module to a device, keep their type, and leave a host's checkpoints as they
    were. Parameters, other buffers and modules in it are treated as in any module.

    Attributes:
        needs_users: whether ``forward`` must be given ``users``.
        needs_cosine: whether its hyper-parameters assume scores in [-1, 1]; ones beyond 3 in size get one warning.
    """

    needs_users: bool = False
    needs_cosine: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._range = ScoreRange(type(self).__name__)

    def forward(self, y_pred: Tensor, y_true: Tensor | None = None, users: Tensor | None = None) -> Tensor:
        """The batch's loss.

        Args:
            y_pred: scores ``[B, 1+N]`` of any floating type, column 0 the positive.
            y_true: labels ``[B, 1+N]``; only the cross entropy on labels reads them.
            users: user ids ``[B]``; only a loss with ``needs_users`` reads them.

        Returns:
            A scalar, float32 or wider.

        Raises:
            ValueError: for any other shape or type, and for missing users.
        """
        scores = self.checked(y_pred, y_true)
        if self.needs_cosine:
            self._range.look(scores)
        # Split, not sliced: the gradients of two slices are each written over the whole batch and then added up.
        positive, negatives = scores.split([1, scores.size(1) - 1], dim=1)
        if self.needs_users:
            return self.compute(positive.squeeze(1), negatives, self.checked_users(users, scores))
        return self.compute(positive.squeeze(1), negatives)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SampledLoss:
        # model.bfloat16() reaches the losses in it, and a margin of 0.9 would become 0.8984.
        exact = {
            name: buffer
            for name, buffer in self._buffers.items()
            if buffer is not None and buffer.is_floating_point() and name in self._non_persistent_buffers_set
        }
        try:
            self._buffers.update(dict.fromkeys(exact))
            super()._apply(fn, recurse)
        finally:
            self._buffers.update(exact)
        self._buffers.update({name: _moved(buffer, fn) for name, buffer in exact.items()})
        return self

    def checked(self, y_pred: Tensor, y_true: Tensor | None) -> Tensor:
        """The scores as float32 or wider; a ValueError for a wrong shape or type."""
        if not isinstance(y_pred, Tensor):
            raise ValueError(f"y_pred must be a tensor, got {type(y_pred).__name__}")
        if y_pred.dim() != 2 or y_pred.size(1) < 2 or y_pred.size(0) < 1:
            raise ValueError(f"y_pred must be [B, 1+N] with N >= 1, got {list(y_pred.shape)}")
        if not y_pred.is_floating_point():
            raise ValueError(f"y_pred must hold floating-point scores, got {y_pred.dtype}")
        if y_true is not None and y_true.shape != y_pred.shape:
            raise ValueError(f"y_true must have y_pred's shape {list(y_pred.shape)}, got {list(y_true.shape)}")
        return at_least_float32(y_pred)

    def checked_users(self, users: Tensor | None, scores: Tensor) -> Tensor:
        """``users`` as ``[B]`` on the scores' device; a ValueError when they are missing or misshapen."""
        if users is None:
            raise ValueError(f"{type(self).__name__} needs users[B], the user id of each row, and got none")
        users = torch.as_tensor(users)
        if users.numel() != scores.size(0):
            raise ValueError(f"users must hold {scores.size(0)} ids, got shape {list(users.shape)}")
        return users.reshape(-1).to(scores.device)

    def extra_repr(self) -> str:
        """The hyper-parameters, as ``print(module)`` shows them."""
        other = ("training", "needs_users", "needs_cosine")
        public = {k: v for k, v in vars(self).items() if not k.startswith("_") and k not in other}
        return ", ".join(f"{name}={value}" for name, value in public.items())

    def compute(self, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of ``positive[B]``, ``negatives[B, N]`` and, with ``needs_users``, ``users[B]``.

        Both are views of one split of the scores, which autograd does not let anybody change in place.
        """
        raise TypeError(f"{type(self).__name__} must define compute(positive, negatives)")
