"""Metrics of a finished run on its own test split, another data set's, or a file of interactions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mml_plugin.data.importing import read_pairs_csv
from mml_plugin.data.interactions import Interactions, find_text, load, load_text
from mml_plugin.data.lightgcn import read_lines
from mml_plugin.engine import backends
from mml_plugin.engine.metrics import METRICS
from mml_plugin.engine.ranking import per_user_metrics, top_items
from mml_plugin.errors import UserError, nearest
from mml_plugin.serving.saved_run import SavedRun, item_lists

DEFAULT_METRICS = ("Recall", "NDCG")
ID_FILES = ("users.txt", "items.txt")
CSV = (".csv", ".csv.gz")
Pairs = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        metrics: name (``"Recall(k=20)"``) -> mean over the users.
        users: original ids of the evaluated users.
        per_user: the same names -> one value per user.
        notes: what was left out, in words.
    """

    metrics: dict[str, float]
    users: np.ndarray
    per_user: dict[str, np.ndarray]
    notes: tuple[str, ...]


def evaluate(
    run: SavedRun,
    pairs: Pairs,
    k: Sequence[int] = (20,),
    metrics: Sequence[str] = DEFAULT_METRICS,
    skip_unknown: bool = False,
) -> Evaluation:
    """Rank the whole catalogue for every user of ``pairs``, training items masked, and look for the pairs' items.

    Cold users (known, without training interactions) are left out and counted, and so are repeated interactions, which
    can be found only once, and those that the run was trained on: they are masked and could never be found. A user
    whose interactions are all of that kind is not counted at all.

    Args:
        run: the run.
        pairs: original user ids and item ids, equally long.
        k: cut-offs.
        metrics: names from ``engine.metrics.METRICS``.
        skip_unknown: leave out pairs with an id that the run does not know, instead of refusing them.

    Raises:
        UserError: for unknown ids and metrics, a cut-off below 1, and when nothing is left to evaluate.
    """
    names = _names(k, metrics)
    users, items, notes = _known_rows(run, pairs, skip_unknown)
    first = np.unique(users * len(run.item_ids) + items, return_index=True)[1]
    if len(first) < len(users):
        notes.append(f"{len(users) - len(first)} repeated interactions were left out")
    users, items = users[np.sort(first)], items[np.sort(first)]
    warm = run.warm.numpy()[users]
    if not warm.all():
        notes.append(f"{len(np.unique(users[~warm]))} cold users without training interactions were left out")
    users, items = users[warm], items[warm]
    codes = users * len(run.item_ids) + items
    trained = np.isin(codes, run.seen.codes(len(run.item_ids)).numpy())
    if trained.any():
        notes.append(f"{trained.sum()} interactions that the run was trained on were left out")
    users, items = users[~trained], items[~trained]
    if not len(users):
        raise UserError("nothing is left to evaluate: " + "; ".join(notes or ["there are no interactions"]))
    rows = torch.from_numpy(np.unique(users))
    relevant = item_lists(users, items, len(run.user_ids))
    backend = backends.select("auto", torch.device("cpu"))
    depth = min(max(k), len(run.item_ids))
    top = top_items(run.user_vectors[rows], run.item_vectors, depth, backend, rows, (run.seen,))
    if depth < max(k):
        top = torch.nn.functional.pad(top, (0, max(k) - depth), value=-1)
    per_user = per_user_metrics(top, rows, relevant, len(run.item_ids), names)
    means = {name: float(values.mean()) for name, values in per_user.items()}
    return Evaluation(means, run.user_ids[rows.numpy()], per_user, tuple(notes))


def _names(k: Sequence[int], metrics: Sequence[str]) -> dict[str, tuple[str, int]]:
    for metric in metrics:
        if metric not in METRICS:
            raise UserError(f"there is no metric {metric!r}; {nearest(metric, METRICS)}")
    if not k or min(k) < 1:
        raise UserError(f"k must be at least 1, got {list(k)}")
    return {f"{metric}(k={cut})": (metric, cut) for cut in sorted(set(k)) for metric in metrics}


def _known_rows(run: SavedRun, pairs: Pairs, skip_unknown: bool) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rows, notes = [], []
    for kind, ids, known in (("user", pairs[0], run.user_rows), ("item", pairs[1], run.item_rows)):
        found = np.array([known.get(name, -1) for name in ids.tolist()], np.int64)
        unknown = np.unique(ids[found < 0])
        if len(unknown) and not skip_unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise UserError(
                f"{kind} {str(unknown[0])!r}{more} is unknown to {run.folder.path}; --skip-unknown leaves such "
                "interactions out"
            )
        if len(unknown):
            notes.append(f"{len(unknown)} unknown {kind}s were left out with their interactions")
        rows.append(found)
    keep = (rows[0] >= 0) & (rows[1] >= 0)
    return rows[0][keep], rows[1][keep], notes


def read_pairs(path: Path) -> Pairs:
    """Interactions from a CSV file with the columns ``user,item``, or from text lines ``user item item ...``.

    A file is CSV by its name (``.csv``, ``.csv.gz``) or by a comma in its first line.
    In a data set's folder the numbers in text lines are rows of the ``users.txt`` and ``items.txt`` there, if any.

    Raises:
        UserError: for a missing or malformed file, and for rows that ``users.txt`` or ``items.txt`` does not have.
    """
    if path.name.lower().endswith(CSV) or _has_a_comma(path):
        return read_pairs_csv(path)
    lines = read_lines(path)
    users, items = np.repeat(lines.users, np.diff(lines.indptr)), lines.items
    data_set = find_text(path.parent, "train").is_file() or (path.parent / "dataset.json").is_file()
    if data_set and any((path.parent / name).is_file() for name in ID_FILES):
        return _ids_of_rows(path, users, items)
    return users.astype(str), items.astype(str)


def _has_a_comma(path: Path) -> bool:
    """Whether there is one in the first line of a text file."""
    if not path.is_file() or path.suffix.lower() == ".gz":
        return False
    with open(path, "rb") as stream:
        return b"," in stream.readline(1 << 16)


def _ids_of_rows(path: Path, users: np.ndarray, items: np.ndarray) -> Pairs:
    try:
        data = load_text(path.parent)
    except UserError as error:
        names = " and ".join(ID_FILES)
        raise UserError(
            f"{path} holds rows of the {names} beside it, and that data set cannot be read: {error}"
        ) from None
    for name, rows, ids in zip(ID_FILES, (users, items), (data.user_ids, data.item_ids)):
        if rows.max() >= len(ids):
            raise UserError(
                f"{path}: {rows.max()} has no line in {path.parent / name}, whose {len(ids)} ids are numbered 0 to "
                f"{len(ids) - 1}"
            )
    return data.user_ids[users], data.item_ids[items]


def split_pairs(folder: Path) -> Pairs:
    """The test interactions of a data set's folder."""
    return _test_pairs(load(folder))


def own_pairs(run: SavedRun) -> tuple[Path, Pairs]:
    """The folder of the data that a run was trained on, and their test interactions.

    Raises:
        UserError: when it is not there, and when it holds other interactions by now.
    """
    folder = Path(run.params["train_data"]).parent
    if not folder.is_dir():
        raise UserError(f"the run's data set {folder.resolve()} is not there; give --data DIR or --file FILE")
    trained_on = run.folder.read_result({"data.fingerprint": str})["data"]["fingerprint"]
    data = load(folder)
    if data.fingerprint != trained_on:
        raise UserError(
            f"{run.folder.path} was trained on other data (fingerprint {trained_on:.12}) than are in {folder} now "
            f"(fingerprint {data.fingerprint:.12}): put the old ones back, or name what to measure on with --file FILE "
            "or --data DIR"
        )
    return folder, _test_pairs(data)


def _test_pairs(data: Interactions) -> Pairs:
    return data.user_ids[data.test_users], data.item_ids[data.test_items]
