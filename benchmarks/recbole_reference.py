"""What our engines reach on the tests' small data set, for the RecBole host to be held against.

Usage: ``python benchmarks/recbole_reference.py``. Five seeds of each experiment on both engines; epoch losses and the
best epoch's Recall@20 go to ``tests/data/recbole/reference.json``, with the RecBole configuration that means the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import tempfile
from pathlib import Path

import torch
from real_checkout import GOLDEN, ROOT, write_config

from mml_plugin.experiment.run import RunRequest, run

TARGET = ROOT / "tests" / "data" / "recbole" / "reference.json"
SEEDS = (2019, 2020, 2021, 2022, 2023)
EPOCHS = 8
SAME = ("reduce_lr_on_plateau=False", "patience=200", f"epochs={EPOCHS}")
CCL = {"loss": "CosineContrastiveLoss", "margin": 0.4, "negative_weight": 20}
MML = {"loss": "MultiMarginLoss", "margins": [0.2, 0.4, 0.6], "margin_weights": [0.1, 0.3, 0.6], "neg_weight": 40}
# our experiment -> RecBole's model and the keys that differ between experiments
EXPERIMENTS = {
    "MF_ccl": ("SampledMF", CCL),
    "MF_mml": ("SampledMF", MML),
    "SimpleX_ccl": ("SampledSimpleX", {**CCL, "gamma": 0.5, "aggregator": "mean", "history_len": 20}),
    "SimpleX_mml": (
        "SampledSimpleX",
        {**MML, "gamma": 0.8, "aggregator": "user_attention", "history_len": 20, "share_embedding": False},
    ),
}


def rows(engine: str, expid: str, work: Path) -> dict[str, list]:
    """Epoch losses and the best Recall@20 of every seed."""
    losses, recalls = [], []
    for seed in SEEDS:
        request = RunRequest(expid, work / "config", engine=engine, seed=seed, overrides=SAME, runs_dir=work / "runs")
        with open(run(request).history, newline="") as stream:
            history = list(csv.DictReader(stream))
        losses.append([round(float(row["train_loss"]), 6) for row in history])
        recalls.append(max(round(float(row["Recall(k=20)"]), 6) for row in history))
    return {"losses": losses, "recall_at_20": recalls}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    content: dict = {
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "data": str(GOLDEN.relative_to(ROOT) / "tiny"),
        "experiments": {},
    }
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        write_config(work)
        os.chdir(work)
        for expid, (model, keys) in EXPERIMENTS.items():
            found = {engine: rows(engine, expid, work) for engine in ("recbox", "fast")}
            content["experiments"][expid] = {"model": model, "keys": keys, **found}
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
