"""Run experiments on the real data through the recbox engine and keep one row each.

Usage: ``python benchmarks/real_data.py`` from a folder that holds ``data/yelp18`` and ``data/gowalla``. Each run is
``run_expid.py`` in a process of its own; rows go to ``benchmarks/results/recbox_real.csv`` (by experiment and what was
cut), the histories and configurations beside it.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

from marks import fill

from mml_plugin.report.table import markdown_table

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ROWS = RESULTS / "recbox_real.csv"
# experiment, epochs, batches per epoch (None: all)
RUNS = (
    ("MF_yelp_ccl", 2, None),
    ("MF_yelp_mml", 2, None),
    ("MF_gowalla_mml", 2, None),
    ("SimpleX_gowalla_mml", 1, 200),
    ("SimpleX_yelp_mml", 1, 200),
    ("SimpleX_yelp_mml", 1, None),
)


def run(expid: str, epochs: int, batches: int | None) -> dict[str, str]:
    """Run one experiment, unless ``runs/real`` has its result, and return its row."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "run_expid.py"), "--expid", expid, "--set", f"epochs={epochs}"]
    command += ["--set", "verbose=0", "--runs", "runs/real"]
    command += ["--max-batches", str(batches)] if batches else []
    name = f"{expid}-{epochs}epochs" + (f"-{batches}batches" if batches else "")
    command[command.index("runs/real")] = f"runs/real/{name}"
    pattern = f"{expid}/recbox-paper-*/result.json"
    if not list(Path("runs/real", name).glob(pattern)):
        subprocess.run([*command, "--overwrite"], check=True)
    folder = next(Path("runs/real", name).glob(pattern)).parent
    result = json.loads((folder / "result.json").read_text())
    for file in ("history.csv", "config.yaml"):
        shutil.copy(folder / file, RESULTS / f"recbox_real-{name}.{file}")
    seconds = result["seconds"]
    return {
        "experiment": expid,
        "epochs": str(epochs),
        "cut": result["cut"],
        "train_seconds_per_epoch": f"{seconds['train_per_epoch']:.1f}",
        "sampling_seconds_per_epoch": f"{seconds['sampling'] / epochs:.1f}",
        "evaluation_seconds": f"{seconds['evaluation_per_epoch']:.1f}",
        "data_seconds": f"{seconds['data']:.1f}",
        "peak_memory_gb": f"{result['peak_memory_bytes'] / 1e9:.2f}",
        "best_epoch": str(result["best_epoch"]),
        "recall_at_20": f"{result['metrics']['Recall(k=20)']:.6f}",
        "ndcg_at_20": f"{result['metrics']['NDCG(k=20)']:.6f}",
        "seed": str(result["seed"]),
        "protocol": result["protocol"],
        "torch": result["versions"]["torch"],
        "threads": str(result["threads"]),
        "processor": result["machine"]["processor"],
        "cores": str(result["machine"]["cores"]),
        "commit": result["commit"],
        "date": result["date"],
        "command": result["command"].replace(str(ROOT) + "/", ""),
    }


def write(row: dict[str, str]) -> None:
    """Put one row into the CSV in place of the same experiment's."""
    old = list(csv.DictReader(ROWS.read_text(encoding="utf-8").splitlines())) if ROWS.exists() else []
    key = ("experiment", "epochs", "cut")
    kept = [r for r in old if any(r[k] != row[k] for k in key)]
    with open(ROWS, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, row])


def table() -> str:
    """The table of docs/engines.md, from the rows."""
    rows = list(csv.DictReader(ROWS.read_text(encoding="utf-8").splitlines()))
    header = [
        "experiment",
        "epochs",
        "training",
        "sampling in it",
        "evaluation",
        "peak memory",
        "Recall@20 (selected on test)",
        "NDCG@20 (selected on test)",
    ]
    cells = [
        [
            r["experiment"],
            r["epochs"] + (f" (cut: {r['cut']})" if r["cut"] else ""),
            f"{r['train_seconds_per_epoch']} s",
            f"{r['sampling_seconds_per_epoch']} s",
            f"{r['evaluation_seconds']} s",
            f"{r['peak_memory_gb']} GB",
            r["recall_at_20"],
            r["ndcg_at_20"],
        ]
        for r in rows
    ]
    return markdown_table(header, cells, left=2)


def fill_table() -> None:
    """Rewrite the table of docs/engines.md."""
    fill(ROOT / "docs" / "engines.md", {"real": table()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="an experiment of the list")
    parser.add_argument("--table", action="store_true", help="only rewrite the table of docs/engines.md from the rows")
    options = parser.parse_args()
    if options.table:
        fill_table()
        return
    only = options.only
    chosen = [r for r in RUNS if not only or r[0] in only]
    for position, (expid, epochs, batches) in enumerate(chosen, 1):
        print(f"[{position}/{len(chosen)}] {expid}, {epochs} epochs, {batches or 'all'} batches", flush=True)
        write(run(expid, epochs, batches))
    fill_table()


if __name__ == "__main__":
    main()
