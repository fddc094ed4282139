"""Draw the small pictures of docs/losses.md: what one positive and one negative cost, over their similarity.

Usage: ``python benchmarks/plot_losses.py``. One SVG per loss in ``docs/images/losses/``; no data set is needed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt
import torch

from mml_plugin import available_losses, build_loss

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "images" / "losses"
# The paper's settings on Yelp2018 where it has them.
PARAMETERS = {
    "MultiMarginLoss": {"margins": [0.6, 0.7, 0.8, 0.9], "margin_weights": [0.05, 0.15, 0.2, 0.6], "neg_weight": 400},
    "CosineContrastiveLoss": {"margin": 0.9, "negative_weight": 150},
    "InfoNCELoss": {"temperature": 0.11},
    "BilateralSoftmaxLoss": {"temperature": 0.11, "temperature2": 1.1, "mode": "single"},
    "GeneralizedContrastiveLoss": {"f": "triplet", "margin": 0.2},
}
POSITIVE, NEGATIVE = 0.8, 0.0


def curve(name: str, vary: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities from -1 to 1, and the loss there above its least value; the other score stays fixed."""
    loss = build_loss(name, **PARAMETERS.get(name, {}))
    similarity = torch.linspace(-1, 1, 401)
    values = []
    for s in similarity.tolist():
        row = [s, NEGATIVE] if vary == "positive" else [POSITIVE, s]
        values.append(loss(torch.tensor([row]), torch.tensor([[1.0, 0.0]])).item())
    column = torch.tensor(values)
    return similarity, column - column.min()


def draw(name: str) -> Path:
    """One picture: the negative's curve and the positive's."""
    figure, axes = plt.subplots(1, 2, figsize=(6, 1.9), layout="constrained")
    for axis, vary, fixed, color in (
        (axes[0], "negative", f"positive at {POSITIVE}", "C3"),
        (axes[1], "positive", f"negative at {NEGATIVE:g}", "C0"),
    ):
        axis.plot(*curve(name, vary), color=color)
        axis.set(title=f"{vary} ({fixed})", xlabel="similarity", ylabel="penalty", xlim=(-1, 1))
        axis.grid(alpha=0.3)
    path = FOLDER / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    plt.rcParams.update({"svg.hashsalt": "mml_plugin", "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 8})
    FOLDER.mkdir(parents=True, exist_ok=True)
    for spec in available_losses():
        print(draw(spec.name).relative_to(FOLDER.parents[2]))


if __name__ == "__main__":
    main()
