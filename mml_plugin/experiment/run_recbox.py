"""The recbox engine: an experiment on stock recbox's own pipeline, epoch by epoch."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from mml_plugin.data import convert, split
from mml_plugin.data.interactions import read_corpus
from mml_plugin.errors import UserError
from mml_plugin.experiment.config import Experiment
from mml_plugin.experiment.dataset import RunData, data_folder, prepare_data, say_what_is_odd, write_users
from mml_plugin.experiment.logs import warnings_logged
from mml_plugin.experiment.outputs import Trained, metrics_line
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.files import make_folder
from mml_plugin.hosts.recbox import allowed
from mml_plugin.registry import build_loss

if TYPE_CHECKING:
    from mml_plugin.experiment.run import Context, RunRequest

# Native BSL's step (docs/experiments.md); nothing in recbox reads these.
NOT_RECBOX = ("regularizer_scope", "dropout_position", "initializer", "popularity_alpha")


def check(experiment: Experiment, request: RunRequest) -> None:
    """Refuse what stock recbox cannot run, by name, before anything is written.

    Raises:
        UserError: for keys that no part of recbox reads, and for missing data files.
    """
    if request.backend != "auto":
        raise UserError(f"--backend {request.backend} is the fast engine's; add --engine fast or leave it out")
    extra = [key for key in NOT_RECBOX if experiment.params.get(key) is not None]
    if extra:
        raise UserError(
            f"experiment {experiment.expid} sets {extra[0]}, which stock recbox does not have; --engine fast does"
        )
    for metric in experiment.params["metrics"]:
        if metric.partition("(")[0] not in allowed.METRICS:
            raise UserError(f"metrics: stock recbox does not have {metric}; --engine fast does")
    data_folder(experiment.params)


class CutGenerator:
    """A train generator that ends each epoch after so many batches; negatives are drawn for the whole epoch."""

    def __init__(self, generator: Any, batches: int) -> None:
        self._generator = generator
        self._batches = min(batches, len(generator))

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Any]:
        return islice(iter(self._generator), self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def train(context: Context) -> Trained:
    """Train one experiment the way reczoo's script does, and evaluate its best epoch."""
    from mml_plugin import model_zoo  # type: ignore[attr-defined]  # the folder model_zoo/, mapped into the package
    from mml_plugin.hosts import recbox
    from mml_plugin.hosts.recbox import trainer
    from mml_plugin.hosts.recbox.training import prepare_training

    started = time.monotonic()
    data = prepare_data(context.params, context.request.protocol, context.request.valid_share)
    _check_rows(context.params, data)
    say_what_is_odd(data)
    params = {**context.params, **data.paths, "model_root": str(context.folder.recbox)}
    params.pop("test_data", None)
    with warnings_logged():
        # For its words alone: recbox trains a class of its own under some names, which warns of nothing.
        build_loss(context.experiment.loss, **context.experiment.loss_params)
    with recbox.registered(), trainer.killed_workers_named(), _scratch(context.folder) as work:
        write_users(data.training, work / "users.csv")
        params["test_data"] = str(work / "users.csv")
        model, train_gen, valid_gen, params = prepare_training(
            params, getattr(model_zoo, params["model"]), make_folder(data.work / "recbox")
        )
        _check_same_data(params, data)
        _check_negatives(params, data, train_gen)
        logging.info(_parameters(params))
        stages = {"data": time.monotonic() - started, "sampling": 0.0}
        _time_sampling(train_gen, stages)
        if context.request.max_batches:
            train_gen = CutGenerator(train_gen, context.request.max_batches)
        fit = trainer.fit(
            model,
            train_gen,
            valid_gen,
            epochs=params["epochs"],
            verbose=params["verbose"],
            max_gradient_norm=params.get("max_gradient_norm", 10.0),
            thresholds=context.thresholds,
            on_epoch=context.on_epoch,
            state_path=context.folder.checkpoint,
            resume=context.resume,
            on_resume=context.history.load,
            data_id=data.word,
        )
        return _finish(context, data, params, (model, train_gen, valid_gen), fit, stages)


def _check_rows(params: dict[str, Any], data: RunData) -> None:
    """recbox cuts every file to ``nrows``, the item corpus too, and then meets items that are not in it."""
    items = data.interactions.num_items
    if params.get("nrows") is not None and params["nrows"] < items:
        raise UserError(
            f"nrows: {params['nrows']} would cut the item corpus, which has {items} rows; give at least {items}"
        )


def _check_same_data(params: dict[str, Any], data: RunData) -> None:
    """recbox read the CSV files; ids, masks, fingerprint and seen items come from the text files where there are some.

    Raises:
        UserError: when the item corpus has another order, or the training or evaluated pairs are not the same.
    """
    folder = Path(data.paths["item_corpus"]).parent
    if not np.array_equal(read_corpus(folder), data.interactions.item_ids):
        raise UserError(
            f"{folder / 'item_corpus.csv'} does not have the items of {data.folder} in their order; {_remedy(data)}"
        )
    if params.get("nrows") is not None:
        return
    training = data.training
    evaluated = data.interactions.test_users, data.interactions.test_items
    if data.held_out is not None:
        counts = np.diff(data.held_out.indptr)
        evaluated = np.repeat(np.arange(len(counts)), counts), data.held_out.items
    for key, pairs in (("train_data", (training.train_users, training.train_items)), ("valid_data", evaluated)):
        with h5py.File(params[key]) as stored:
            found = stored[params["query_index"]][:], stored[params["corpus_index"]][:]
            label = params["label_col"]["name"]
            odd = np.flatnonzero(stored[label][:] != 1).tolist() if label in stored else []
        if odd:
            raise UserError(
                f"{data.paths[key]}: row {odd[0] + 1} has a {label} that is not 1: a data set holds positive "
                "interactions, negatives are drawn; leave other rows out, and import the data set again"
            )
        if not _same_pairs(found, (convert.query_index(data.interactions)[pairs[0]], pairs[1])):
            path = Path(data.paths[key])
            split = "train.txt" if key == "train_data" else "test.txt"
            raise UserError(
                f"{data.folder}: {path.name} and {split if data.held_out is None else 'the held-out split'} hold "
                f"different interactions ({len(found[0]):,} and {len(pairs[0]):,}); {_remedy(data)}"
            )


def _check_negatives(params: dict[str, Any], data: RunData, train_gen: Any) -> None:
    """With ``ignore_pos_items`` recbox divides by the number of items that a user has not.

    Raises:
        UserError: for a user who has them all.
    """
    if not params.get("ignore_pos_items"):
        return
    items = data.interactions.num_items
    for query, known in train_gen.user2items_dict.items():
        if len(known) >= items and len(set(known)) == items:
            row = int(np.flatnonzero(convert.query_index(data.interactions) == query)[0])
            raise UserError(
                f"{data.folder}: user {data.interactions.user_ids[row]} has every item among its training items "
                f"({items}), so excluding positives leaves no negative; set ignore_pos_items False"
            )


def _remedy(data: RunData) -> str:
    if data.held_out is None:
        return "import the data set again, or remove the one that is wrong"
    return f"delete {Path(data.paths['train_data']).parent}, which is made anew"


Pairs = tuple[np.ndarray, np.ndarray]


def _same_pairs(one: Pairs, other: Pairs) -> bool:
    """Whether two lists of (user number, item row) hold the same pairs, each as often, in whatever order."""
    if len(one[0]) != len(other[0]):
        return False
    if all(np.array_equal(a, b) for a, b in zip(one, other)):
        return True
    # User numbers may be large; their ranks and the item make one number that sorts ten times faster than pairs do.
    known, width = np.unique(other[0]), int(max(one[1].max(initial=0), other[1].max(initial=0))) + 1
    ranks = [np.searchsorted(known, users).clip(max=len(known) - 1) for users, _ in (one, other)]
    if not np.array_equal(known[ranks[0]], one[0]):
        return False
    first, second = (np.sort(rank * width + items) for rank, (_, items) in zip(ranks, (one, other)))
    return np.array_equal(first, second)


def _what_was_read(
    params: dict[str, Any], data: RunData, train_gen: Any, valid_gen: Any, reported: Any
) -> dict[str, Any]:
    """The summary of the data for ``result.json``: with ``nrows``, counts of the rows that recbox read."""
    summary = data.summary()
    if params.get("nrows") is None:
        return summary
    train, valid, test = (
        sum(len(items) for items in generator.user2items_dict.values())
        for generator in (train_gen, valid_gen, reported)
    )
    return summary | {
        "nrows": params["nrows"],
        "users": sum(map(bool, train_gen.user2items_dict.values())),
        "train": train + (valid if data.held_out is not None else 0),
        "test": test,
        "trained_on": train,
    }


def _parameters(params: dict[str, Any]) -> str:
    """The parameters as reczoo's script logs them."""
    from recbox.utils import print_to_json

    return print_to_json(params)


@contextmanager
def _scratch(folder: RunFolder) -> Iterator[Path]:
    """A folder for files that recbox's encoder reads once, in the run's own: what a killed process leaves there goes
    when the run goes on.
    """
    work = folder.path / "scratch"
    shutil.rmtree(work, ignore_errors=True)
    try:
        yield make_folder(work)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _time_sampling(train_gen: Any, stages: dict[str, float]) -> None:
    draw = train_gen.negative_sampling

    def timed() -> None:
        begin = time.monotonic()
        draw()
        stages["sampling"] += time.monotonic() - begin

    train_gen.negative_sampling = timed


def _finish(
    context: Context,
    data: RunData,
    params: dict[str, Any],
    parts: tuple[Any, Any, Any],
    fit: Any,
    stages: dict[str, float],
) -> Trained:
    from recbox.matching.pytorch.dataloaders import h5_generator

    from mml_plugin.hosts.recbox import evaluation

    model, train_gen, valid_gen = parts
    _check_cache(params)
    users_gen = h5_generator(model.feature_map, stage="test", **params)
    queries, user_vectors, item_vectors = evaluation.vectors(model, users_gen)
    row_of = {query: row for row, query in enumerate(convert.query_index(data.interactions).tolist())}
    vectors = np.full((data.interactions.num_users, user_vectors.shape[1]), np.nan, np.float32)
    # With nrows the loader has users of whom no row was read; recbox's look-ups give them an empty list.
    trained = [position for position, q in enumerate(queries.tolist()) if train_gen.user2items_dict.get(q)]
    vectors[[row_of[q] for q in queries[trained].tolist()]] = user_vectors[trained]
    validation: dict[str, float] = {}
    reported, masked = valid_gen, train_gen
    if data.held_out is not None:
        validation = evaluation.means(evaluation.per_user_metrics(model, train_gen, valid_gen))
        logging.info("Best epoch on the validation split: %s", metrics_line(validation))
        reported = _final_test(context, data.held_out, data, params)
        masked = evaluation.with_mask(train_gen, valid_gen)
    per_user = evaluation.per_user_metrics(model, masked, reported)
    metrics = evaluation.means(per_user)
    logging.info("******** %s ********", "Test evaluation" if data.held_out else "Best epoch, selected on test")
    logging.info("[Metrics] %s", metrics_line(metrics))
    rows = np.array([row_of[q] for q in np.asarray(reported.query_indexes).tolist()])
    return Trained(
        best_epoch=fit.best_epoch,
        epochs=fit.epochs_done,
        stopped_early=fit.stopped_early,
        metrics=metrics,
        validation_metrics=validation,
        user_ids=data.interactions.user_ids,
        item_ids=data.interactions.item_ids,
        user_vectors=vectors,
        item_vectors=item_vectors,
        per_user={"user_row": rows, **per_user},
        seen=(data.interactions.train_users, data.interactions.train_items),
        data=_what_was_read(params, data, train_gen, valid_gen, reported),
        backend="recbox",
        stages=stages,
    )


def _check_cache(params: dict[str, Any]) -> None:
    """recbox reads these of its h5 files only now, after the last epoch."""
    for key in ("test_data", "item_corpus"):
        if not Path(params[key]).is_file():
            gone = f"{params[key]} was deleted while the run went on"
            raise UserError(f"{gone}; --resume builds it anew and finishes")


def _final_test(context: Context, held_out: split.HeldOut, data: RunData, params: dict[str, Any]) -> Any:
    """The held-out protocol's one look at test: written, encoded with the training vocabulary, read."""
    from recbox.matching.pytorch.dataloaders import h5_generator

    from mml_plugin.hosts.recbox import dataset

    work = context.folder.path / "scratch"
    split.write_final_test(held_out, work)
    csv_paths = {**data.paths, "test_data": str(work / "test.csv")}
    prepared = dataset.prepare({**params, **csv_paths}, data.work / "recbox")
    return h5_generator(prepared.feature_map, stage="test", **{**params, **prepared.h5_paths()})
