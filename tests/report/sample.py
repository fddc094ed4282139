"""Rows of a made-up suite, from closed formulas: what the report tests are fed with."""

from __future__ import annotations

from pathlib import Path

from mml_plugin.report.rows import Row, Rows

ROOT = Path(__file__).resolve().parents[2]
THRESHOLDS = "0.7 0.9"
LEVEL = {"CCL": 0.06, "MML": 0.063, "BSL": 0.0606}
PAPER = [
    {"model": "MF", "loss": "CCL", "dataset": "yelp18", "recall_at_20": "0.0600", "ndcg_at_20": "0.0480"},
    {"model": "MF", "loss": "MML", "dataset": "gowalla", "recall_at_20": "0.9", "ndcg_at_20": "0.9"},
]


def value(label: str, seed: int, epoch: int, epochs: int = 8) -> float:
    """A curve that rises to its level at epoch 6 and falls after it; seeds differ in the fourth digit."""
    shape = 1 - abs(epoch - 6) / 10
    return round(LEVEL[label] * shape + 1e-4 * ((seed * seed * ord(label[0]) + seed) % 11), 8)


def cell(label: str, seed: int, protocol: str = "paper", negatives: int = 100, **more: str) -> Row:
    """One finished run's row."""
    best = value(label, seed, 6)
    row = {
        "cell": f"MF_yelp_{label.lower()}_n{negatives}/fast-{protocol}-s{seed}", "state": "done", "error": "",
        "group": f"MF on yelp18, {negatives} negatives", "label": label, "family": "",
        "expid": f"MF_yelp_{label.lower()}", "settings": "", "model": "MF", "dataset": "yelp18", "loss": label,
        "loss_params": "{}", "num_negs": str(negatives), "engine": "fast", "backend": "numba", "protocol": protocol,
        "seed": str(seed), "best_epoch": "6", "epochs": "8", "monitor": "Recall(k=20)", "margins": "0.9",
        "plateau": "no",
        "suite_thresholds": THRESHOLDS, "thresholds": THRESHOLDS, "Recall(k=20)": f"{best:.8f}",
        "NDCG(k=20)": f"{best * 0.8:.8f}", "train_seconds_per_epoch": "7.5", "eval_seconds_per_epoch": "1.5",
        "train_seconds": "60", "eval_seconds": "12", "peak_memory_bytes": "900000000", "cut": "", "device": "cpu",
        "threads": "2", "processor": "A processor", "cores": "2", "memory_gib": "16", "gpu": "", "python": "3.11",
        "torch": "2.13.0", "numpy": "2.4", "numba": "0.68", "triton": "", "recbox": "0.0.4", "users": "300",
        "data_fingerprint": "feed", "identity": f"{label}{seed}{negatives}{protocol}" + "0" * 12,
        "commit": "c0ffee" * 4,
        "date": "2026-11-01T12:00:00+00:00", "command": f"mml train --expid MF_yelp_{label.lower()}",
    }  # fmt: skip
    return {**row, **more}


def history(row: Row) -> list[Row]:
    """Its epochs."""
    label, seed = row["label"], int(row["seed"])
    rows = []
    for epoch in range(1, 9):
        recall = value(label, seed, epoch)
        shares = {"band_0": "0.98", "band_1": "0.015", "band_2": "0.005"}
        slopes = {"gradient_0": "0", "gradient_1": "0.4", "gradient_2": "0.6"}
        metrics = {"Recall(k=20)": f"{recall:.9g}", "NDCG(k=20)": f"{0.8 * recall:.9g}"}
        seconds = {"learning_rate": "0.0001", "train_seconds": "7.5", "eval_seconds": "1.5"}
        rows.append(
            {"cell": row["cell"], "epoch": str(epoch), "train_loss": "0.5", **metrics, **seconds, **shares, **slopes}
        )
    return rows


def sample(
    labels: tuple[str, ...] = ("CCL", "MML", "BSL"), seeds: tuple[int, ...] = (1, 2, 3, 4, 5), **more: str
) -> Rows:
    """A suite's rows."""
    cells = [cell(label, seed, **more) for label in labels for seed in seeds]
    return Rows(cells, [line for row in cells for line in history(row)])


def suite_of(folder: Path, name: str, *rows: Row) -> Rows:
    """A suite file of these rows, with their histories."""
    made = Rows(
        list(rows), [{**line, "cell": row["cell"]} for row in rows for line in history({**row, "label": row["loss"]})]
    )
    made.save(folder / f"suite_{name}")
    return made
