"""InfoNCE, Eq. 4."""

from __future__ import annotations

import torch
from torch import Tensor

from mml_plugin.losses.base import SampledLoss
from mml_plugin.losses.checks import number


class InfoNCELoss(SampledLoss):
    r"""Cross entropy of picking the positive, on similarities divided by a temperature (van den Oord et al. 2018).

    .. math:: -\log \frac{e^{s_p/\tau}}{e^{s_p/\tau} + \sum_j e^{s_j/\tau}}

    Eq. 4 prints no temperature; :math:`\tau = 1` is Eq. 4.

    Args:
        temperature: tau > 0; 1 by default.

    Raises:
        UserError: for a value out of its range.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = number("temperature", temperature, above=0.0)

    def compute(self, positive: Tensor, negatives: Tensor) -> Tensor:
        scaled = torch.cat([positive.unsqueeze(1), negatives], dim=1) / self.temperature
        return -torch.log_softmax(scaled, dim=1)[:, 0].mean()
