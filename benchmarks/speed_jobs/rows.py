"""The rows of benchmarks/results/speed*.csv: columns, where they come from, reading and writing."""

from __future__ import annotations

import csv
import datetime
import statistics
from pathlib import Path
from typing import Any

from mml_plugin.files import atomic_write

Row = dict[str, str]
ROOT = Path(__file__).resolve().parents[2]
COLUMNS = [
    "case", "engine", "backend", "expid", "negatives", "device", "epoch_seconds", "times_faster", "sampling_seconds",
    "forward_backward_seconds", "optimiser_seconds", "fifth_epoch_seconds", "evaluation_seconds", "peak_memory_gb",
    "full_memory_gb", "floor_share", "floor_seconds", "copy_gb_per_second", "captured",
    "scaled", "rows", "import_seconds", "compile_seconds", "cold_peak_memory_gb", "data_seconds", "first_step_seconds",
    "threads", "rounds", "epoch_seconds_all",
    "processor", "cores", "gpu", "torch", "numba", "commit", "date",
]  # fmt: skip
SWEEP_COLUMNS = [
    "items", "interactions", "users", "backend", "device", "negatives", "step_ms", "epoch_seconds",
    "ranking_ms_per_user", "peak_memory_gb", "processor", "cores", "gpu", "torch", "numba", "commit", "date",
]  # fmt: skip
SAMPLER_COLUMNS = [
    "expid", "negatives", "kind", "backend", "device", "ns_per_draw", "times_uniform", "step_ms", "times_uniform_step",
    "draws", "rounds", "ns_per_draw_all", "step_ms_all", "threads",
    "processor", "cores", "gpu", "torch", "numba", "commit", "date",
]  # fmt: skip
# A row stands for one machine: another one's stays beside it.
MACHINE = ("device", "processor", "gpu")


def read(path: Path) -> list[Row]:
    """The rows of a CSV file; none where there is no file."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def write(path: Path, rows: list[dict[str, Any]], columns: list[str], key: tuple[str, ...]) -> None:
    """Put rows into a CSV in place of those with the same key."""
    shown = [{k: f"{v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()} for row in rows]
    kept = [r for r in read(path) if not any(all(r[k] == n.get(k, "") for k in key) for n in shown)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as stream:
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows([*kept, *shown])


def median(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of numbers, over the results that have one, and the last of everything else."""
    merged = dict(results[-1])
    for key, value in merged.items():
        if isinstance(value, float):
            merged[key] = statistics.median(result[key] for result in results if key in result)
    return merged


def provenance() -> dict[str, Any]:
    """Where a row comes from."""
    from mml_plugin.experiment.environment import environment

    facts = environment()
    return {
        "processor": facts["machine"]["processor"],
        "cores": facts["machine"]["cores"],
        "gpu": " ".join(facts["machine"].get("gpus", [])),
        "torch": facts["versions"]["torch"],
        "numba": facts["versions"].get("numba", ""),
        "commit": facts["commit"][:12],
        "date": datetime.date.today().isoformat(),
    }
