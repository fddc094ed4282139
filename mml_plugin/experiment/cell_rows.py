"""What is known of a suite's cell, and what its run folder says, as rows."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mml_plugin.experiment.cells import DONE
from mml_plugin.experiment.dataset import data_word
from mml_plugin.experiment.run import RunRequest
from mml_plugin.experiment.run_folder import band_column, exactly, history_thresholds
from mml_plugin.experiment.suite import SHORT, Cell, dataset_of, show
from mml_plugin.registry import margins_of
from mml_plugin.report.rows import Row

OUTDATED, SCREENED_OUT, WAITING = "outdated", "screened out", "waiting"


def measured(row: Row) -> bool:
    """Whether a row holds a finished run's values, shown by a report or not."""
    return row["state"] in (DONE, OUTDATED) or bool(row.get("identity"))


def trained(row: Row) -> tuple[str, ...]:
    """What was trained, on any machine, and on which thresholds its negatives were counted."""
    keys = ("engine", "protocol", "valid_share", "max_batches", "seed", "config_hash", "data_fingerprint")
    return tuple(row.get(key, "") for key in (*keys, "suite_thresholds"))


def settings_of(row: Row) -> tuple[str, ...]:
    """What two seeds of one line have in common."""
    keys = ("group", "label", "engine", "protocol", "valid_share", "max_batches", "dataset", "config_hash")
    return tuple(row.get(key, "") for key in keys)


def description(cell: Cell) -> Row:
    """What is known of a cell before it runs."""
    params = cell.experiment.params
    overridden = cell.experiment.overridden
    return {
        "cell": cell.name,
        "group": cell.group,
        "label": cell.label,
        "family": cell.family,
        "expid": cell.request.expid,
        "settings": " ".join(f"{key}={_setting(key, value, params)}" for key, value in overridden.items()),
        "model": params["model"],
        "dataset": dataset_of(cell.experiment),
        "loss": SHORT.get(cell.experiment.loss, cell.experiment.loss),
        "loss_params": json.dumps(cell.experiment.loss_params, sort_keys=True),
        "suite_thresholds": " ".join(exactly(t) for t in cell.request.thresholds or ()),
        "margins": " ".join(exactly(m) for m in margins_of(params["loss"], params)),
        "num_negs": str(params["num_negs"]),
        "plateau": "yes" if params.get("reduce_lr_on_plateau", True) else "no",
        "patience": str(params.get("patience", "")),
        "max_epochs": str(params["epochs"]),
        **({"monitor_mode": "min"} if params["monitor_mode"] == "min" else {}),  # an empty one is max
        "engine": cell.request.engine,
        "protocol": cell.request.protocol,
        **_unusual(cell.request),
        "seed": str(cell.seed),
        "config_hash": cell.experiment.identity()[:16],
    }


def _unusual(request: RunRequest) -> Row:
    """What sets runs apart beside their configuration; the usual is not written."""
    found = {}
    if request.protocol == "held-out" and request.valid_share != RunRequest.valid_share:
        found["valid_share"] = exactly(request.valid_share)
    if request.max_batches:
        found["max_batches"] = str(request.max_batches)
    return found


def _setting(key: str, value: Any, params: Mapping[str, Any]) -> str:
    """An overridden value in words; ``margin_spec`` stands for two lists."""
    if key == "margin_spec":
        return show(dict(zip(params["margins"], params["margin_weights"])))
    return show(value)


def result_row(result: Mapping[str, Any], cell: Cell) -> Row:
    """What a finished run says, flat."""
    seconds, machine, versions = result["seconds"], result["machine"], result["versions"]
    monitor = result["monitor"] if isinstance(result["monitor"], str) else json.dumps(result["monitor"])
    row: dict[str, Any] = {
        "state": DONE,
        "error": "",
        "best_epoch": result["best_epoch"],
        "epochs": result["epochs"],
        "stopped_early": "yes" if result["stopped_early"] else "no",
        "monitor": monitor,
        **{name: f"{value:.8f}" for name, value in result["metrics"].items()},
        **{f"validation {name}": f"{value:.8f}" for name, value in result["validation_metrics"].items()},
        "train_seconds_per_epoch": f"{seconds['train_per_epoch']:.3f}",
        "eval_seconds_per_epoch": f"{seconds['evaluation_per_epoch']:.3f}",
        "train_seconds": f"{seconds['train']:.1f}",
        "eval_seconds": f"{seconds['evaluation']:.1f}",
        "peak_memory_bytes": result["peak_memory_bytes"],
        "thresholds": " ".join(exactly(t) for t in history_thresholds(cell.folder.history) or ()),
        "cut": result["cut"],
        "backend": result["backend"],
        "device": result["device"].split(":")[0],
        "threads": result["threads"],
        "processor": machine["processor"],
        "cores": machine["cores"],
        "memory_gib": machine["memory_gib"],
        "gpu": " ".join(machine.get("gpus", [])) if result["device"] != "cpu" else "",
        **{name: versions.get(name, "") for name in ("python", "torch", "numpy", "numba", "triton", "recbox")},
        "users": result["data"]["users"],
        "test_users": result["data"].get("test_users", ""),
        "data_fingerprint": data_word(result["data"]),
        "identity": result["identity"],
        "commit": result["commit"],
        "date": result["date"],
        "command": result["command"],
    }
    return {key: str(value) for key, value in row.items()}


def history_rows(cell: Cell) -> list[Row]:
    """A run's epochs, compact: metrics, seconds, and its bands rebinned to the suite's thresholds where it can be.

    A run that was counted on other thresholds keeps empty bands: reports say so.
    """
    wanted = cell.request.thresholds or ()
    if not cell.folder.history.is_file():  # a damaged one may be deleted
        return []
    with open(cell.folder.history, newline="", encoding="utf-8") as stream:
        lines = list(csv.DictReader(stream))
    counted = history_thresholds(cell.folder.history) or ()
    rows = []
    for line in lines:
        row = {"cell": cell.name, "epoch": line["epoch"], "train_loss": _short(line["train_loss"])}
        row |= {name: _short(value, 9) for name, value in line.items() if "(k=" in name}
        row |= {"learning_rate": _short(line["learning_rate"])}
        row |= {name: _short(line[name], 5) for name in ("train_seconds", "eval_seconds")}
        for what in ("band", "gradient"):
            for band, share in enumerate(rebinned(line, counted, wanted, what)):
                row[f"{what}_{band}"] = _short(share)
        rows.append(row)
    return rows


def rebinned(
    line: Mapping[str, str], counted: Sequence[float], wanted: Sequence[float], what: str = "band"
) -> list[float]:
    """One epoch's shares between the ``wanted`` thresholds; empty when they cannot be had from what was counted.

    Args:
        line: a row of ``history.csv``.
        counted: its thresholds.
        wanted: the thresholds asked for; every one of them must be among ``counted``.
        what: ``"band"`` (share of negatives) or ``"gradient"`` (share of their gradient).
    """
    columns = [band_column(band, counted, what) for band in range(len(counted) + 1)]
    if not wanted or not set(wanted) <= set(counted) or any(not line.get(column) for column in columns):
        return []
    shares = [0.0] * (len(wanted) + 1)
    for band, column in enumerate(columns):
        low = counted[band - 1] if band else -np.inf
        shares[sum(t <= low for t in wanted)] += float(line[column])
    return shares


def _short(value: str | float, digits: int = 6) -> str:
    return f"{float(value):.{digits}g}" if value != "" else ""
