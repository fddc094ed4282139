"""What an engine hands back, and the files that are written from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write
from mml_plugin.records import EpochRecord

if TYPE_CHECKING:
    from mml_plugin.experiment.run import Context
    from mml_plugin.experiment.run_folder import History, RunFolder


@dataclass(frozen=True)
class Trained:
    """The end of a training, ready to be written.

    Attributes:
        best_epoch: the reported epoch, 1-based.
        epochs: how many were trained.
        stopped_early: whether patience ended it.
        metrics: at the reported epoch, on the split that the protocol reports.
        validation_metrics: of the same epoch on the held-out split; empty under ``paper``.
        user_ids, item_ids: original ids by row (strings); item rows are corpus rows.
        user_vectors: ``[U, d]`` float32, ready for an inner product, rows as ``user_ids``.
        item_vectors: ``[I, d]`` float32, bias column included where the model has one.
        per_user: column name -> ``[U']`` arrays; ``user_row`` says which user each line is.
        seen: ``(user_row, item_row)`` of every training interaction.
        data: fingerprint and counts of the data.
        backend, dtype: how the scores were computed.
        stages: named seconds outside epochs, such as ``data``.
    """

    best_epoch: int
    epochs: int
    stopped_early: bool
    metrics: Mapping[str, float]
    validation_metrics: Mapping[str, float]
    user_ids: np.ndarray
    item_ids: np.ndarray
    user_vectors: np.ndarray
    item_vectors: np.ndarray
    per_user: Mapping[str, np.ndarray]
    seen: tuple[np.ndarray, np.ndarray]
    data: Mapping[str, Any]
    backend: str = ""
    dtype: str = "float32"
    stages: Mapping[str, float] = field(default_factory=dict)


def write_vectors(folder: RunFolder, trained: Trained) -> None:
    """Write embeddings, ids, seen items and per-user metrics, each complete or not at all."""
    from safetensors.numpy import save

    vectors = {
        "users": np.ascontiguousarray(trained.user_vectors, dtype=np.float32),
        "items": np.ascontiguousarray(trained.item_vectors, dtype=np.float32),
    }
    with atomic_write(folder.embeddings, "wb") as stream:
        stream.write(save(vectors, metadata={"similarity": "inner product", "rows": "as in ids.parquet"}))
    sides = np.repeat(["user", "item"], [len(trained.user_ids), len(trained.item_ids)])
    rows = np.concatenate([np.arange(len(trained.user_ids)), np.arange(len(trained.item_ids))])
    ids = np.concatenate([trained.user_ids.astype(str), trained.item_ids.astype(str)])
    write_parquet(folder.ids, {"side": sides, "row": rows, "id": ids})
    write_parquet(folder.seen, {"user_row": trained.seen[0], "item_row": trained.seen[1]})
    write_parquet(folder.per_user, trained.per_user)


def write_parquet(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write equally long columns as one Parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({name: pa.array(np.asarray(values)) for name, values in columns.items()})
    with atomic_write(path, "wb") as stream:
        pq.write_table(table, stream, compression="zstd")


def metrics_line(metrics: Mapping[str, float]) -> str:
    """Metrics as recbox prints them: ``Recall(k=20): 0.028308 - NDCG(k=20): 0.022493``."""
    return " - ".join(f"{name}: {value:.6f}" for name, value in metrics.items())


def summary_line(context: Context, trained: Trained, command: str) -> str:
    """The line that reczoo's script appends to ``<config>.csv``."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    held = bool(trained.validation_metrics)
    valid = metrics_line(trained.validation_metrics if held else trained.metrics)
    test = metrics_line(trained.metrics) if held else ""
    return (
        f" {stamp},[command] {command},[exp_id] {context.request.expid},[dataset_id] {context.params['dataset_id']},"
        f"[train] N.A.,[val] {valid},[test] {test}\n"
    )


def seconds_summary(history: History, total: float, stages: Mapping[str, float]) -> dict[str, float]:
    """Seconds by what they were spent on; ``total`` is this process's, epochs are all of the run's."""
    train = [float(row["train_seconds"]) for row in history.rows]
    evaluation = [float(row["eval_seconds"]) for row in history.rows]
    return {
        "train": round(sum(train), 3),
        "evaluation": round(sum(evaluation), 3),
        "train_per_epoch": round(float(np.median(train)), 3) if train else 0.0,
        "evaluation_per_epoch": round(float(np.median(evaluation)), 3) if evaluation else 0.0,
        "this_process": round(total, 3),
        **{name: round(value, 3) for name, value in stages.items()},
    }


def tensorboard_listener(path: Path, own_margins: bool = True, resume: bool = False) -> Callable[[EpochRecord], None]:
    """A listener that writes TensorBoard events into ``path``; needs the extra ``tensorboard``.

    Args:
        path: the folder of the events.
        own_margins: whether negatives are counted on the loss's margins, below the lowest of which they are inactive.
        resume: the first epoch told takes the place of those events of a stopped run that are not before it.

    Raises:
        UserError: without the extra.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs the package tensorboard: pip install tensorboard") from None
    writer: Any = None

    def listen(record: EpochRecord) -> None:
        nonlocal writer
        if writer is None:
            writer = SummaryWriter(str(path), purge_step=record.epoch if resume else None)
        writer.add_scalar("train/loss", record.train_loss, record.epoch)
        writer.add_scalar("train/seconds", record.train_seconds, record.epoch)
        for name, value in record.metrics.items():
            writer.add_scalar(f"evaluation/{name}", value, record.epoch)
        total = sum(record.band_counts)
        if total:
            name = "active_share" if own_margins else "share_above_the_lowest_threshold"
            writer.add_scalar(f"train/{name}", 1 - record.band_counts[0] / total, record.epoch)
        writer.flush()

    return listen
