"""A warning for cosine losses on scores that are no cosines."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

# Dropout after normalisation scales a cosine by up to 1/(1-p): 2 at p = 0.5. Dot products have no bound.
LIMIT = 3.0


class ScoreRange:
    """Warns once when scores leave [-1, 1] by far: when one is beyond 3 (:data:`LIMIT`) in size.

    Reading a maximum makes a GPU wait, so it looks at the first batch and then ever more rarely (1, 2, 4, 8, ...):
    scores of freshly initialised vectors are small and grow. It does not look while torch compiles or transforms.

    Args:
        name: the loss, for the warning.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches = 0
        self.warned = False

    def look(self, scores: Tensor) -> None:
        """Count one batch and, when it is its turn, check its scores."""
        if self.warned or torch.compiler.is_compiling() or scores.is_meta:
            return
        if torch._C._functorch.is_functorch_wrapped_tensor(scores):
            return
        if scores.is_cuda and (torch.cuda.is_current_stream_capturing() or torch.cuda.get_sync_debug_mode()):
            # A CUDA graph records kernels, and reading a value would end that; and whoever looks for what waits in
            # every step is not after this.
            return
        self.batches += 1
        if self.batches & (self.batches - 1):
            return
        # A negative is masked by a score of -inf, which is no similarity.
        largest = scores.detach().masked_fill(scores.detach() == -torch.inf, 0.0).abs().amax().item()
        if largest > LIMIT:
            self.warned = True
            warnings.warn(
                f"{self.name} is made for cosine similarities in [-1, 1] and met a score of size {largest:.3g}: its "
                "margins assume that range, so unbounded dot products are either all active or all inactive; "
                "normalise the vectors (similarity_score: cosine)",
                stacklevel=3,
            )
