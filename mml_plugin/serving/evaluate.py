"""Metrics of a finished run on interactions that it was not evaluated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mml_plugin.data.importing import read_pairs_csv
from mml_plugin.data.interactions import load
from mml_plugin.data.lightgcn import read_lines
from mml_plugin.engine import backends
from mml_plugin.engine.metrics import METRICS
from mml_plugin.engine.ranking import per_user_metrics, top_items
from mml_plugin.errors import UserError, nearest
from mml_plugin.serving.saved_run import SavedRun, item_lists

DEFAULT_METRICS = ("Recall", "NDCG")
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

    Cold users (known, without training interactions) are left out and counted, and so are interactions that the run
    was trained on: they are masked and could never be found. A user whose interactions are all of that kind is not
    counted at all.

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

    Raises:
        UserError: for a missing or malformed file.
    """
    if path.suffix == ".csv":
        return read_pairs_csv(path)
    lines = read_lines(path)
    return np.repeat(lines.users, np.diff(lines.indptr)).astype(str), lines.items.astype(str)


def split_pairs(folder: Path) -> Pairs:
    """The test interactions of a data set's folder."""
    data = load(folder)
    return data.user_ids[data.test_users], data.item_ids[data.test_items]
