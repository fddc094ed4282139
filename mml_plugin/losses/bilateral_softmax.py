"""The Bilateral Softmax Loss (BSL), Eq. 5, as its authors' code computes it."""

from __future__ import annotations

import torch
from torch import Tensor

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import choice, number

MODES = ("multi", "single", "reweight", "author_port")


def log_mean_exp_by_group(values: Tensor, groups: Tensor) -> Tensor:
    """Each entry's log of the mean of ``exp(values)`` over the entries of the same group, ``[B]``."""
    order = torch.argsort(groups)
    first = torch.ones_like(order)
    first[1:] = (groups[order][1:] != groups[order][:-1]).long()
    group = torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)
    peak = torch.full_like(values, -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    total = torch.zeros_like(values).index_add(0, group, (values - peak[group]).exp())
    size = torch.zeros_like(values).index_add(0, group, torch.ones_like(values))
    return peak[group] + (total[group] / size[group]).log()


class BilateralSoftmaxLoss(SampledLoss):
    r"""Softmax on both sides (Wu et al. 2024), Eq. 5: tolerant of noisy positives, adversarial on negatives.

    .. math:: -\log \operatorname{E}_{p \sim u} e^{s_p/\tau_1} + \tau_2 \log \frac1N \sum_j e^{s_j/\tau_1}

    Eq. 5 as printed puts tau_1 before the first logarithm and divides the exponential by tau; its authors'
    code does what stands above, and so do we. Modes (all but ``author_port`` are the authors'):

    - ``multi``: the expectation runs over the batch's rows of the same user; needs ``users``.
    - ``single``: ``-s_p/tau_1 + log mean_j e^{s_j/tau_1}``; tau_2 is not used.
    - ``reweight``: ``-s_p/tau_1 + tau_2 log sum_j e^{s_j/tau_1}``.
    - ``author_port``: what MML's author ported to recbox under the name multi, without grouping:
      ``-s_p/tau_1 + tau_2 log mean_j e^{s_j/tau_1}``.

    Args:
        temperature: tau_1 > 0.
        temperature2: tau_2 > 0; 1 by default.
        mode: one of the above; ``multi`` by default.

    Raises:
        UserError: for a value out of its range and for another mode.
    """

    def __init__(self, temperature: float, temperature2: float = 1.0, mode: str = "multi") -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0.0)
        self.temperature2 = number("temperature2", temperature2, above=0.0)
        self.mode = choice("mode", mode, MODES)
        self.needs_users = mode == "multi"

    def compute(self, positive: Tensor, negatives: Tensor, users: Tensor | None = None) -> Tensor:
        pulled, pushed = positive / self.temperature, torch.logsumexp(negatives / self.temperature, dim=1)
        if self.mode != "reweight":
            pushed = pushed - pushed.new_full((), negatives.size(1)).log()
        if users is not None:
            pulled = log_mean_exp_by_group(pulled, users)
        tau2 = 1.0 if self.mode == "single" else self.temperature2
        return (tau2 * pushed - pulled).mean()
