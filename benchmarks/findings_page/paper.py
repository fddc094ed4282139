"""What the paper prints, as benchmarks/paper holds it, and its names for the data sets."""

from __future__ import annotations

from pathlib import Path

from mml_plugin.report.rows import Row, read_csv

DATASETS = {"yelp": "Yelp2018", "gowalla": "Gowalla"}
FOLDERS = {"yelp": "yelp18", "gowalla": "gowalla"}
COLUMNS = ("recall_at_20", "ndcg_at_20")  # in the order of METRICS
Comparison = tuple[str, str, str, list[float]]
_PAPER = Path(__file__).resolve().parents[1] / "paper"


def printed(table: str) -> list[Row]:
    """The rows of one of the paper's tables.

    Args:
        table: a file's name in benchmarks/paper, without its ending.
    """
    return read_csv(_PAPER / f"{table}.csv")


def printed_gain(before: Row, after: Row, column: str) -> float:
    """How much more ``after`` has than ``before``, in percent."""
    return 100 * (float(after[column]) / float(before[column]) - 1)


def gains_at_10() -> list[Comparison]:
    """Name, CCL's and MML's experiment, the paper's gains in percent at 10 negatives."""
    return [
        (f"MF, {DATASETS[d]}", f"MF_{d}_ccl_n10", f"MF_{d}_mml_n10",
         [float(r["recall_gain_percent"]), float(r["ndcg_gain_percent"])])
        for d, folder in FOLDERS.items() for r in printed("figure3_gains")
        if (r["dataset"], r["num_negs"]) == (folder, "10")
    ]  # fmt: skip


def gains_over_mse() -> list[Comparison]:
    """As :func:`gains_at_10`, of MML over MSE at 100 negatives."""
    found = []
    for data, folder in FOLDERS.items():
        rows = {r["loss"]: r for r in printed("table4_losses") if r["dataset"] == folder}
        gains = [printed_gain(rows["MSE"], rows["MML"], column) for column in COLUMNS]
        found.append((f"MF, {DATASETS[data]}", f"MF_{data}_mse", f"MF_{data}_mml", gains))
    return found


def gains_at_100() -> list[Comparison]:
    """As :func:`gains_at_10`, of both models at 100 negatives without early stopping."""
    found = []
    for model in ("MF", "SimpleX"):
        for data, folder in FOLDERS.items():
            rows = {
                r["loss"]: r
                for r in printed("table2_models")
                if (r["model"], r["dataset"], r["early_stop"]) == (model, folder, "no")
            }
            expids = (f"{model}_{data}_ccl", f"{model}_{data}_mml")
            gains = [printed_gain(rows["CCL"], rows["MML"], column) for column in COLUMNS]
            found.append((f"{model}, {DATASETS[data]}", *expids, gains))
    return found
