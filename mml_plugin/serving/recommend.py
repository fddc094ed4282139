"""The best items of one user or of all, in original ids, without what they have seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mml_plugin.engine import backends
from mml_plugin.engine.ranking import top_items
from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write
from mml_plugin.serving.saved_run import SavedRun

USERS_PER_PART = 4096
# The recommended items' vectors of one part, gathered for their scores: 128 MB.
FLOATS_PER_PART = 1 << 25


def recommend(run: SavedRun, user: str, k: int = 20) -> list[tuple[str, float]]:
    """The ``k`` best items that a user has not seen in training, best first, with their scores.

    Equal scores come in the order of the item corpus. Fewer than ``k`` come back where there are no more.

    Raises:
        UserError: for an unknown or cold user, or ``k`` below 1.
    """
    rows = torch.tensor([run.user_row(user)])
    # One row is ranked before another backend has started.
    top, scores = _best(run, rows, _checked(k), "torch")
    return [(str(run.item_ids[i]), s) for i, s in zip(top[0].tolist(), scores[0].tolist()) if i >= 0]


def recommend_all(run: SavedRun, path: Path, k: int = 20, progress: bool = False) -> tuple[int, int]:
    """Write every user's recommendations to a Parquet file, one part of the users at a time.

    The columns are ``user`` and ``item`` (original ids), ``rank`` (from 1) and ``score``; a user's rows are together.

    Args:
        run: the run.
        path: the file, which appears when it is complete.
        k: items per user.
        progress: show a bar on standard error.

    Returns:
        how many users were written, and how many cold users were left out.

    Raises:
        UserError: for a k below 1.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())])
    k = min(_checked(k), len(run.item_ids))
    warm = run.warm.nonzero().flatten()
    with atomic_write(path, "wb") as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
        for rows in _parts(warm, k * run.item_vectors.shape[1], progress):
            top, scores = (t.numpy() for t in _best(run, rows, k))
            row, rank = np.nonzero(top >= 0)
            columns = [run.user_ids[rows.numpy()[row]], rank + 1, run.item_ids[top[row, rank]], scores[row, rank]]
            arrays = [pa.array(column, type=field.type) for column, field in zip(columns, schema)]
            writer.write_table(pa.table(arrays, schema=schema))
    return len(warm), len(run.user_ids) - len(warm)


def _checked(k: int) -> int:
    if k < 1:
        raise UserError(f"k must be at least 1, got {k}")
    return k


def _parts(rows: Tensor, floats_per_user: int, progress: bool) -> Iterator[Tensor]:
    from tqdm import tqdm

    size = max(1, min(USERS_PER_PART, FLOATS_PER_PART // floats_per_user))
    with tqdm(total=len(rows), unit=" users", disable=not progress) as bar:
        for part in rows.split(size):
            yield part
            bar.update(len(part))


def _best(run: SavedRun, rows: Tensor, k: int, backend_name: str = "auto") -> tuple[Tensor, Tensor]:
    """Item rows ``[U, k]`` (-1 where there is none) and their scores."""
    backend = backends.select(backend_name, torch.device("cpu"))
    vectors = run.user_vectors[rows]
    top = top_items(vectors, run.item_vectors, min(k, len(run.item_ids)), backend, rows, (run.seen,))
    scores = torch.einsum("ud,ukd->uk", vectors, run.item_vectors[top.clamp_min(0)])
    return top, scores
