"""Matching pictures and texts with the Multi-Margin Loss: in-batch negatives, then shared ones. A toy with random data.

Every pair has a hidden vector; the "picture" (8 x 8 pixels) and the "text" (20 word counts) are two noisy views of it.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from mml_plugin.losses import multi_margin_loss

MARGINS = {"margins": [0.1, 0.3, 0.5], "margin_weights": [0.2, 0.3, 0.5], "neg_weight": 30}


def pairs(count: int, views: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """``[count, 1, 8, 8]`` pictures and ``[count, 20]`` texts."""
    hidden = torch.randn(count, 6)
    pictures = (hidden @ views[0]).tanh() + 0.1 * torch.randn(count, 64)
    texts = (hidden @ views[1]).relu() + 0.1 * torch.randn(count, 20)
    return pictures.view(-1, 1, 8, 8), texts


def found_first(pictures: Tensor, texts: Tensor) -> float:
    """How often a picture's own text is the most similar one."""
    return (pictures @ texts.T).argmax(1).eq(torch.arange(len(pictures))).float().mean().item()


def train(shared: bool, steps: int = 300) -> tuple[float, float]:
    """Train both encoders; the share of held-out pictures whose text is found, before and after."""
    torch.manual_seed(0)
    views = (torch.randn(6, 64), torch.randn(6, 20))
    picture = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 32))
    text = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32))
    optimizer = torch.optim.Adam([*picture.parameters(), *text.parameters()], lr=3e-3)
    held_out = pairs(200, views)

    def score() -> float:
        with torch.no_grad():
            return found_first(normalize(picture(held_out[0])), normalize(text(held_out[1])))

    before = score()
    for _ in range(steps):
        batch = pairs(64, views)
        p, t = normalize(picture(batch[0])), normalize(text(batch[1]))
        if shared:  # the same 128 other texts for every picture
            positive, negatives = (p * t).sum(1), p @ normalize(text(pairs(128, views)[1])).T
        else:  # the other texts of the batch
            scores = p @ t.T
            positive, negatives = scores.diagonal(), scores[~torch.eye(len(p), dtype=torch.bool)].view(len(p), -1)
        optimizer.zero_grad()
        multi_margin_loss(positive, negatives, **MARGINS).backward()
        optimizer.step()
    return before, score()


if __name__ == "__main__":
    for name, shared in (("in-batch", False), ("shared", True)):
        before, after = train(shared)
        print(
            f"{name} negatives: the right text comes first for {before:.2f} of the pictures, after training {after:.2f}"
        )
