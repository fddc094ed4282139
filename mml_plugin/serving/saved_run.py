"""A finished run read back: its vectors, the original ids, and what each user has seen."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from mml_plugin.engine.ranking import ItemLists
from mml_plugin.errors import UserError
from mml_plugin.experiment.run_folder import FolderInUse, RunFolder

# Looking for similar ids is worth it where people type them; in a million ids it would take minutes.
MAX_IDS_TO_COMPARE = 100_000


@dataclass(frozen=True)
class SavedRun:
    """A run's results.

    Attributes:
        folder: where they are.
        user_ids, item_ids: original ids by row.
        user_vectors: ``[U, d]`` float32, ready for an inner product; NaN rows for users without training interactions.
        item_vectors: ``[I, d]`` float32.
        seen: every user's training items.
        result: the content of ``result.json``.
        params: the run's resolved configuration.
    """

    folder: RunFolder
    user_ids: np.ndarray
    item_ids: np.ndarray
    user_vectors: Tensor
    item_vectors: Tensor
    seen: ItemLists
    result: dict[str, Any]
    params: dict[str, Any]

    @cached_property
    def warm(self) -> Tensor:
        """``[U]`` booleans: which users have a vector."""
        return ~self.user_vectors.isnan().any(1)

    @cached_property
    def user_rows(self) -> dict[str, int]:
        """Original id -> row."""
        return {name: row for row, name in enumerate(self.user_ids.tolist())}

    @cached_property
    def item_rows(self) -> dict[str, int]:
        """Original id -> row."""
        return {name: row for row, name in enumerate(self.item_ids.tolist())}

    @property
    def has_bias(self) -> bool:
        """Whether the vectors' last column is an item bias."""
        return bool(self.params.get("enable_bias"))

    @property
    def cosine(self) -> bool:
        """Whether the inner product of two vectors is their cosine."""
        return self.params.get("similarity_score") == "cosine" and not self.has_bias

    def user_row(self, user: str) -> int:
        """The row of a user that has a vector.

        Raises:
            UserError: for an unknown id, with the nearest ones, and for a user without training interactions.
        """
        row = self.user_rows.get(user)
        if row is None:
            raise UserError(f"there is no user {user!r} in {self.folder.path}; {_near(user, self.user_ids)}")
        if not self.warm[row]:
            raise UserError(
                f"user {user!r} is cold: it has no training interaction in {self.folder.path}, so there is no vector "
                "to recommend from"
            )
        return row


def _near(name: str, ids: np.ndarray) -> str:
    close: Sequence[str] = ()
    if len(ids) <= MAX_IDS_TO_COMPARE:
        close = difflib.get_close_matches(name, ids.tolist(), n=3, cutoff=0.6)
    shown = ", ".join(repr(i) for i in (close or ids[:3].tolist()))
    return f"did you mean one of {shown}?" if close else f"its {len(ids)} ids look like {shown}"


def load_run(path: Path) -> SavedRun:
    """Read a finished run's folder.

    Raises:
        UserError: for a folder that is no run, an unfinished or damaged one, and one laid out by another version.
    """
    path = Path(path)
    folder = RunFolder(path)
    _check_folder(folder)
    result = folder.read_result({"expid": str, "identity": str})
    users, items = _vectors(folder)
    user_ids, item_ids = _ids(folder)
    if len(user_ids) != len(users) or len(item_ids) != len(items) or users.shape[1] != items.shape[1]:
        raise UserError(
            f"{path} does not fit together: {len(user_ids)} and {len(item_ids)} ids, vectors {list(users.shape)} and "
            f"{list(items.shape)}; train it again with --overwrite"
        )
    seen = _seen(folder, len(user_ids), len(item_ids))
    return SavedRun(folder, user_ids, item_ids, users, items, seen, result, _params(folder))


def _bring_back(folder: RunFolder) -> None:
    """The run that a killed ``--overwrite`` had set aside."""
    try:
        folder.recover()
    except FolderInUse:
        raise UserError(
            f"{folder.path} is being trained anew and has no epoch yet; the earlier run is kept until then and comes "
            "back when the training is stopped before"
        ) from None


def _check_folder(folder: RunFolder) -> None:
    path = folder.path
    if not path.is_dir():
        raise UserError(f"there is no run folder {path}; runs are in runs/<expid>/<engine>-<protocol>-s<seed>/")
    if not folder.finished and folder.holds_earlier:
        _bring_back(folder)
    if not folder.finished:
        inner = sorted(p.parent for p in path.glob("**/result.json") if p.parent.name != ".earlier")
        if inner:
            shown = ", ".join(str(p) for p in inner[:5]) + (", ..." if len(inner) > 5 else "")
            raise UserError(f"{path} is not a run folder but holds {len(inner)}; name one of: {shown}")
        state = "the run has not finished" if folder.history.is_file() else "it is not a run folder"
        raise UserError(f"{path} holds no result.json: {state}")
    for file in (folder.embeddings, folder.ids, folder.seen, folder.config):
        if not file.is_file():
            raise UserError(f"{path} is incomplete: {file.name} is missing; train it again with --overwrite")


def _vectors(folder: RunFolder) -> tuple[Tensor, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(folder.embeddings)
        users, items = tensors["users"], tensors["items"]
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"{folder.embeddings} cannot be read: {error}") from None
    if users.dim() != 2 or items.dim() != 2:
        raise UserError(f"{folder.embeddings} must hold matrices, found {list(users.shape)} and {list(items.shape)}")
    return users.float(), items.float()


def _columns(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(names))
        return [table.column(name).to_numpy() for name in names]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _ids(folder: RunFolder) -> tuple[np.ndarray, np.ndarray]:
    side, row, name = _columns(folder.ids, ("side", "row", "id"))
    parts = []
    for which in ("user", "item"):
        chosen = side == which
        if not np.array_equal(row[chosen], np.arange(chosen.sum())):
            raise UserError(f"{folder.ids} is damaged: its {which} rows are not 0, 1, 2, ...")
        parts.append(name[chosen].astype(str))
    return parts[0], parts[1]


def _seen(folder: RunFolder, num_users: int, num_items: int) -> ItemLists:
    users, items = _columns(folder.seen, ("user_row", "item_row"))
    for name, rows, count in (("user_row", users, num_users), ("item_row", items, num_items)):
        if rows.dtype.kind not in "iu":
            raise UserError(f"{folder.seen} is damaged: its {name} must hold whole numbers, not {rows.dtype}")
        if len(rows) and not 0 <= rows.min() <= rows.max() < count:
            raise UserError(f"{folder.seen} is damaged: a row is outside 0 to {count - 1}")
    return item_lists(users, items, num_users)


def item_lists(users: np.ndarray, items: np.ndarray, num_users: int) -> ItemLists:
    """Pairs of rows, in any order, as one list per user."""
    order = np.argsort(users, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users.astype(np.int64), minlength=num_users))])
    return ItemLists.of(indptr, items[order], torch.device("cpu"))


def _params(folder: RunFolder) -> dict[str, Any]:
    try:
        content = yaml.safe_load(folder.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise UserError(f"{folder.config} cannot be read: {str(error).splitlines()[0]}") from None
    blocks = list(content.values()) if isinstance(content, dict) else []
    if len(blocks) != 1 or not isinstance(blocks[0], dict) or not isinstance(blocks[0].get("train_data"), str):
        raise UserError(f"{folder.config} cannot be read: it does not hold one experiment with its train_data")
    return blocks[0]
