"""A run's vectors in the formats that other systems read, each with its original ids."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy
from torch.nn.functional import normalize

from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment.run_folder import EXPORT
from mml_plugin.folders import build_folder, check_place
from mml_plugin.serving.saved_run import SavedRun

# What exports of any format hold.
FILES = (
    EXPORT, "embeddings.safetensors", "embeddings.npz", "users.csv", "items.csv", "items.faiss", "users.npy",
    "user_ids.txt", "item_ids.txt",
)  # fmt: skip


@dataclass(frozen=True)
class Vectors:
    """What is exported: users with a vector, and all items; rows of ids and vectors belong together."""

    user_ids: np.ndarray
    users: np.ndarray
    item_ids: np.ndarray
    items: np.ndarray


def export(run: SavedRun, format: str, output: Path, cosine: bool = False, overwrite: bool = False) -> Path:
    """Write a folder with a run's vectors and ids, and ``export.json`` that describes it.

    The inner product of a user's and an item's vector is the model's score, but for what is the same for all items. Of
    a model trained on cosine similarity without an item bias both have length 1 already. Users without training
    interactions have no vector and are left out (and counted).

    Args:
        run: the run.
        format: one of ``FORMATS``.
        output: the folder to make; it appears when it is complete.
        cosine: scale every vector to length 1, so that the inner product is the cosine.
        overwrite: replace ``output`` where it is an earlier export.

    Raises:
        UserError: for an unknown format, an existing folder (and always for one that is no export), and ``cosine`` for
            vectors that hold an item bias.
    """
    if format not in FORMATS:
        raise UserError(f"--format {format!r} is unknown; {nearest(format, FORMATS)}")
    check = partial(check_place, output, overwrite, (EXPORT,), "an earlier export", FILES)
    check()
    if cosine and run.has_bias:
        raise UserError("--cosine would change the ranking: the vectors' last column is an item bias")
    users, items = run.user_vectors[run.warm], run.item_vectors
    if cosine:
        users, items = normalize(users), normalize(items)
    vectors = Vectors(run.user_ids[run.warm.numpy()], _rows(users), run.item_ids, _rows(items))
    about = {
        "format": format,
        "similarity": "cosine" if cosine or run.cosine else "inner product",
        "last_column_is_item_bias": run.has_bias,
        "users": len(vectors.user_ids),
        "users_left_out": len(run.user_ids) - len(vectors.user_ids),
        "items": len(vectors.item_ids),
        "dimension": int(vectors.items.shape[1]),
        "expid": run.result.get("expid"),
        "identity": run.result.get("identity"),
    }

    def fill(folder: Path) -> None:
        FORMATS[format](vectors, folder)
        (folder / EXPORT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")

    build_folder(output, fill, check)
    return output


def _rows(vectors: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(vectors.numpy(), np.float32)


def _write_ids(vectors: Vectors, folder: Path) -> None:
    for name, ids in (("user_ids.txt", vectors.user_ids), ("item_ids.txt", vectors.item_ids)):
        (folder / name).write_text("\n".join(ids.tolist()) + "\n", encoding="utf-8")


def _safetensors(vectors: Vectors, folder: Path) -> None:
    from safetensors.numpy import save

    metadata = {"rows": "as the lines of user_ids.txt and item_ids.txt"}
    # save_file() tells of a full disk by an error of its own.
    content = save({"users": vectors.users, "items": vectors.items}, metadata=metadata)
    (folder / "embeddings.safetensors").write_bytes(content)
    _write_ids(vectors, folder)


def _npz(vectors: Vectors, folder: Path) -> None:
    np.savez(
        folder / "embeddings.npz",
        users=vectors.users,
        items=vectors.items,
        user_ids=vectors.user_ids.astype(str),
        item_ids=vectors.item_ids.astype(str),
    )


def _csv(vectors: Vectors, folder: Path) -> None:
    for name, ids, rows in (("users", vectors.user_ids, vectors.users), ("items", vectors.item_ids, vectors.items)):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["id", *(f"v{c}" for c in range(rows.shape[1]))])
            # str() of a float32 is the shortest text that reads back as the same float32.
            writer.writerows([name, *(str(v) for v in row)] for name, row in zip(ids.tolist(), rows))


def _faiss(vectors: Vectors, folder: Path) -> None:
    try:
        import faiss
    except ImportError:
        raise UserError("--format faiss needs the package faiss: pip install faiss-cpu") from None

    index = faiss.IndexFlatIP(vectors.items.shape[1])
    index.add(vectors.items)
    # write_index() and np.save() tell of a full disk by errors of their own.
    (folder / "items.faiss").write_bytes(faiss.serialize_index(index).data)
    with open(folder / "users.npy", "wb") as stream:
        npy.write_array_header_1_0(stream, npy.header_data_from_array_1_0(vectors.users))
        stream.write(vectors.users.data)
    _write_ids(vectors, folder)


FORMATS: dict[str, Callable[[Vectors, Path], None]] = {
    "safetensors": _safetensors,
    "npz": _npz,
    "csv": _csv,
    "faiss": _faiss,
}
