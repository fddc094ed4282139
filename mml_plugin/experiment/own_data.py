"""Losses side by side on a user's own two CSV files: the data set, the experiments, the tuning cells."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from filelock import FileLock

from mml_plugin.data.importing import import_csv
from mml_plugin.data.interactions import load, read_corpus
from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment.dataset import carve
from mml_plugin.experiment.suite import SHORT, Suite, make_suite, show
from mml_plugin.experiment.yaml_blocks import read_document
from mml_plugin.files import atomic_write, checksum, make_folder, writing
from mml_plugin.registry import available_losses, get_spec

DATASET = "own"
MARK = "files.json"  # which files the data set was made from
BEGUN = {"begun": True}  # its content until they are imported
CONFIG = "config"
METRICS = ["Recall(k=20)", "Recall(k=50)", "NDCG(k=20)", "NDCG(k=50)", "HitRate(k=20)", "HitRate(k=50)"]
BASE: dict[str, Any] = {
    "num_workers": 1,
    "verbose": 0,
    "save_best_only": True,
    "eval_interval_epochs": 1,
    "reduce_lr_on_plateau": False,
    "metrics": METRICS,
    "monitor": "Recall(k=20)",
    "monitor_mode": "max",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "embedding_dim": 64,
    "similarity_score": "cosine",
    "batch_size": 512,
    "shuffle": True,
    "sampling_num_process": 1,
    "fix_sampling_seeds": True,
    "ignore_pos_items": False,
    "num_negs": 100,
    "epochs": 100,
    "patience": 10,
    "seed": 2019,
}
MODEL_KEYS: dict[str, dict[str, Any]] = {
    "MF": {"embedding_dropout": 0.1, "regularizer": 1e-9},
    "SimpleX": {
        "aggregator": "mean",
        "gamma": 0.5,
        "user_id_field": "user_id",
        "item_id_field": "item_id",
        "user_history_field": "user_history",
        "embedding_regularizer": 1e-9,
        "net_regularizer": 0,
        "net_dropout": 0.1,
        "attention_dropout": 0,
        "enable_bias": False,
    },
}
# Those of CCL, MML and BSL are the published ones for Yelp2018. InfoNCE has BSL's temperature and the pairwise hinge
# CCL's margin, which suit cosines better than their defaults of 1.
LOSS_KEYS: dict[str, dict[str, Any]] = {
    "CosineContrastiveLoss": {"margin": 0.9, "negative_weight": 150},
    "MultiMarginLoss": {
        "margins": [0.6, 0.7, 0.8, 0.9], "margin_weights": [0.05, 0.15, 0.2, 0.6], "pos_weight": 1, "neg_weight": 400,
    },
    "BilateralSoftmaxLoss": {"temperature": 0.11, "temperature2": 1.10, "mode": "multi"},
    "InfoNCELoss": {"temperature": 0.11},
    "PairwiseMarginLoss": {"margin": 0.9},
    "ContrastiveLoss": {"margin": 1.0},
    "TripletLoss": {"margin": 0.2},
}  # fmt: skip
LOSS_SPACES: dict[str, dict[str, list[Any]]] = {
    "CosineContrastiveLoss": {"margin": [0.9, 0.5, 0.6, 0.7, 0.8], "negative_weight": [150, 25, 50, 100, 400]},
    "MultiMarginLoss": {
        "margin_spec": [
            {0.6: 0.05, 0.7: 0.15, 0.8: 0.2, 0.9: 0.6},
            {0.8: 0.2, 0.9: 0.8},
            {0.7: 0.1, 0.8: 0.15, 0.9: 0.75},
            {0.6: 0.25, 0.7: 0.25, 0.8: 0.25, 0.9: 0.25},
            {0.5: 0.05, 0.6: 0.05, 0.7: 0.1, 0.8: 0.2, 0.9: 0.6},
        ],
        "neg_weight": [400, 100, 200, 300, 700],
    },
    "BilateralSoftmaxLoss": {
        "temperature": [0.11, 0.06, 0.08, 0.15, 0.2],
        "temperature2": [1.1, 1.0, 1.05, 1.15, 1.22],
    },
    "InfoNCELoss": {"temperature": [0.11, 0.06, 0.08, 0.15, 0.2, 1.0]},
    "PairwiseMarginLoss": {"margin": [0.9, 0.3, 0.5, 0.7, 1.0]},
    "ContrastiveLoss": {"margin": [1.0, 0.5, 0.75, 1.25]},
    "TripletLoss": {"margin": [0.2, 0.1, 0.5, 1.0]},
}
# The same choice for every loss, the default first; the number of dimensions is nobody's merit and stays.
LEARNING_RATES = [1e-3, 5e-4, 2e-3, 3e-4, 3e-3, 1e-4, 5e-3, 2e-4, 7e-4, 1.5e-3, 7e-3, 1e-2]
FEW_TEST_USERS = 100
FEW_VALIDATION = 200  # interactions; with fewer, the best epoch and cell are chosen by luck


@dataclass(frozen=True)
class OwnData:
    """A comparison on own files, ready to run.

    Attributes:
        suite: the first seed of every tuning cell.
        config_dir: where its experiments are.
        notes: sentences for the report.
    """

    suite: Suite
    config_dir: Path
    notes: tuple[str, ...]


def prepare(
    train: Path,
    test: Path,
    losses: Sequence[str],
    out: Path,
    *,
    model: str = "MF",
    negatives: int = 100,
    epochs: int = 100,
    patience: int = 10,
    cells: int = 1,
    seed: int = 2019,
    overrides: Sequence[str] = (),
    **keys: Any,
) -> OwnData:
    """Import the files, write one experiment per loss, choose the tuning cells.

    Args:
        train, test: CSV files with the columns ``user`` and ``item``, any text.
        losses: names or aliases.
        out: the comparison's folder; ``data`` and ``config`` are made in it.
        model: ``MF`` or ``SimpleX``.
        negatives, epochs, patience: of every run.
        cells: tuning cells per loss, the default setting first; 1 tunes nothing.
        seed: of the first runs and of the choice of cells.
        overrides: ``key=value`` that every run gets besides; the report names them.
        **keys: further keys of the suite, such as ``protocol``.

    Raises:
        UserError: for unreadable files, unknown losses, more cells than a loss has, and an ``out`` that holds data or
            a configuration of somebody else's where the comparison's go.
    """
    model = _model_name(model)
    suite_keys = {"protocol": "held-out", "valid_share": 0.1, **keys}
    names = _loss_names(losses)
    spaces = {name: tuning_cells(name, cells, seed) for name in names}
    with _prepared_by_one(out):
        sums = _sums_of_files(train, test, out)
        _claim(out)
        folder, notes = import_files(train, test, out)
        if suite_keys["protocol"] == "held-out":
            notes += _validation_notes(folder, suite_keys["valid_share"])
        config_dir = write_config(out, folder)
        # Last: files that are refused, or that a stop keeps from being prepared, may be mended under the same names.
        with atomic_write(out / "data" / MARK) as stream:
            json.dump(sums, stream)
    own = {"num_negs": negatives, "epochs": epochs, "patience": patience}
    lines = [
        {
            "expid": _expid(model, name),
            "label": _label(name, choice),
            "family": SHORT.get(name, name) if cells > 1 else "",
            "set": {**own, **choice},
        }
        for name in names
        for choice in spaces[name]
    ]
    title = f"{', '.join(SHORT.get(name, name) for name in names)} on {train.name}"
    suite = make_suite({"title": title, "experiments": lines, "seeds": [seed], **suite_keys}, "mml compare")
    chosen_on = "validation" if suite_keys["protocol"] == "held-out" else "test"
    given = f" Overridden for every loss: {', '.join(overrides)}." if overrides else ""
    tuned = (
        f"Every loss had {cells} tuning cells, the same number; the best on {chosen_on} with seed {seed} stands for it."
        if cells > 1
        else "Every loss runs with its defaults, not tuned here (1 cell per loss); --cells K gives each loss K cells."
    ) + given
    return OwnData(suite, config_dir, (tuned, *notes))


@contextmanager
def _prepared_by_one(out: Path) -> Iterator[None]:
    """Hold ``out`` for this process; what is refused leaves nothing that was not there, parents included."""
    fresh, lock = [folder for folder in (out, *out.parents) if not folder.exists()], out / ".prepare.lock"
    make_folder(out)
    with writing(out), FileLock(str(lock)):
        data = out / "data"
        ours = (data / DATASET, data / MARK, data, out / CONFIG)
        made = [path for path in ours if not os.path.lexists(path)]
        try:
            yield
        except UserError:
            _take_back(made, [lock, *fresh] if fresh else [])
            raise


def _take_back(made: Sequence[Path], fresh: Sequence[Path]) -> None:
    """Remove what is made and, as far as they are empty then, a lock and its folders; a failure is nobody's matter."""
    for path in made:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            path.unlink(missing_ok=True)
    with suppress(OSError):
        for path in fresh:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _claim(out: Path) -> None:
    """Mark ``out/data/own`` and ``out/config`` as a comparison's; refused where others stand there (``--out .``)."""
    mark = out / "data" / MARK
    if mark.is_file():
        return
    for path in (out / "data" / DATASET, out / CONFIG):
        if os.path.lexists(path) and not _is_our_config(out / CONFIG):
            raise UserError(
                f"--out {out}: {path} is there and no comparison made it; one on own files would write over it: give "
                "another folder"
            )
    with atomic_write(mark) as stream:
        json.dump(BEGUN, stream)


def _is_our_config(folder: Path) -> bool:
    """Whether a folder holds what :func:`write_config` writes, and nothing else."""
    names = ("model_config.yaml", "dataset_config.yaml")
    try:
        if {path.name for path in folder.iterdir()} != set(names):
            return False
        keys = [key for name in names for key in read_document(folder / name)]
    except (UserError, OSError, TypeError):
        return False
    return all(str(key).startswith((f"{DATASET}_", *(f"{model}_{DATASET}_" for model in MODEL_KEYS))) for key in keys)


def _model_name(word: str) -> str:
    known = {name.lower(): name for name in MODEL_KEYS}
    if word.lower() not in known:
        raise UserError(f"--model: there is no model {word!r}; {nearest(word, MODEL_KEYS)}")
    return known[word.lower()]


def _validation_notes(folder: Path, share: float) -> list[str]:
    """How much validation there is to choose by; refused now, not in every cell, when there is none."""
    data = load(folder)
    carved = carve(data, share)
    count, users = len(carved.items), int((np.diff(carved.indptr) > 0).sum())
    said = f"Validation: {count:,} training interactions of {users:,} of {data.num_users:,} users"
    if users < data.num_users:
        said += " (the others have too few to spare one)"
    if count < FEW_VALIDATION:
        said += "; by so few, the best epoch is chosen by luck: take a larger --valid-share (up to 0.5) or more data"
    return [f"{said}."]


def _loss_names(losses: Sequence[str]) -> list[str]:
    names = list(dict.fromkeys(get_spec(word).name for word in losses))
    for name in names:
        missing = _missing_keys(name)
        if missing:
            usable = ", ".join(spec.name for spec in available_losses() if _is_usable(spec.name))
            raise UserError(f"--losses: {name} has no default {missing[0]} to compare with; usable: {usable}")
    if len(names) < 2:
        raise UserError("--losses: give at least two different losses, for example ccl,mml,bsl")
    return names


def _word(name: str) -> str:
    return SHORT.get(name, name).lower()


def _label(name: str, choice: Mapping[str, Any]) -> str:
    words = [SHORT.get(name, name), *(f"{key}={show(value)}" for key, value in choice.items())]
    return " ".join(words)


def tuning_cells(loss: str, count: int, seed: int) -> list[dict[str, Any]]:
    """``count`` different settings of a loss: its defaults first, then a random choice from its space by seed.

    The learning rates are the same for every loss, cell by cell: no loss is luckier with them than another.

    Raises:
        UserError: when the space has fewer.
    """
    if count == 1:
        return [{}]
    space = LOSS_SPACES.get(loss, {})
    default, *others = [dict(zip(space, values)) for values in itertools.product(*space.values())]
    most = (1 + len(others)) * len(LEARNING_RATES)
    if count > most:
        raise UserError(f"--cells {count}: {loss} has {most} cells and every loss gets the same number")
    draw = random.Random(f"{seed} {loss}")
    # Of each rate, the loss's own settings in an order of its own; the default cell is taken already.
    left = {rate: draw.sample([default, *others], 1 + len(others)) for rate in LEARNING_RATES}
    left[LEARNING_RATES[0]].remove(default)
    chosen = [{**left[rate].pop(), "learning_rate": rate} for rate in _rates(count - 1, seed)]
    return [{**default, "learning_rate": LEARNING_RATES[0]}, *chosen]


def _rates(count: int, seed: int) -> list[float]:
    """Learning rates of the cells after the default one: every rate once, in random order, then all of them again."""
    draw = random.Random(seed)
    rates = draw.sample(LEARNING_RATES[1:], len(LEARNING_RATES) - 1)
    while len(rates) < count:
        rates += draw.sample(LEARNING_RATES, len(LEARNING_RATES))
    return rates[:count]


def _sums_of_files(train: Path, test: Path, out: Path) -> dict[str, str]:
    """The files' checksums; refused where they cannot be read, and where ``out`` holds a comparison on other ones."""
    for flag, path in (("train", train), ("test", test)):
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        try:
            with open(path, "rb") as stream:
                stream.read(1)
        except OSError as error:
            raise UserError(f"--{flag} {path} cannot be read: {error.strerror}") from None
    path_of = {"train": train, "test": test}
    sums = {name: checksum(path, "sha256") for name, path in path_of.items()}
    before = _sums_of(out / "data" / MARK) or sums
    if before != sums:
        other = next(name for name in sums if before[name] != sums[name])
        raise UserError(
            f"{out} holds a comparison on other data: --{other} {path_of[other]} is not the file it was made from; "
            "give another folder with --out"
        )
    return sums


def import_files(train: Path, test: Path, out: Path) -> tuple[Path, list[str]]:
    """Import the two files into ``out/data/own`` unless it holds a comparison's; returns the notes made then.

    Raises:
        UserError: for files that cannot be imported.
    """
    folder = out / "data" / DATASET
    if folder.is_dir() and not (folder / "dataset.json").is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} is damaged: it has no dataset.json; remove it, and the same command makes it anew")
    if not (_sums_of(out / "data" / MARK) and _is_whole(folder)):
        import_csv(DATASET, train, test, out / "data", drop_cold_users=True, overwrite=True, distinct=True)
    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    counts = ", ".join(f"{content[key]:,} {key}" for key in ("users", "items"))
    said = f"{counts}, {content['train']:,} training and {content['test']:,} test interactions. {_tested(folder)}"
    dropped = [note for note in content["notes"] if "without training history" in note]
    if not dropped:
        content["notes"].append("0 test users without training history were left out")
    return folder, [said, *(f"{note}." for note in content["notes"])]


def _tested(folder: Path) -> str:
    """How many users every metric is a mean over, and whether those are too few to say anything."""
    users = load(folder).num_test_users
    said = f"Every metric is a mean over {users:,} test user{'s' * (users != 1)}"
    return said + ("; over so few, a difference is mostly luck." if users < FEW_TEST_USERS else ".")


def _sums_of(mark: Path) -> dict[str, str]:
    """The checksums of the files that a comparison was made from; empty where it is not made yet."""
    if not mark.is_file():
        return {}
    try:
        content = json.loads(mark.read_text("utf-8"))
    except ValueError:
        content = None
    if content == BEGUN:
        return {}
    if not isinstance(content, dict) or not {"train", "test"} <= content.keys():
        raise UserError(
            f"{mark} is damaged: it must say which files {mark.parents[1]} was made from; give another --out"
        )
    return {name: content[name] for name in ("train", "test")}


def _is_whole(folder: Path) -> bool:
    """Whether an import is there and its text and CSV files number the items alike; earlier versions' may not."""
    try:
        return (folder / "dataset.json").is_file() and np.array_equal(read_corpus(folder), load(folder).item_ids)
    except UserError:
        return False


def write_config(out: Path, folder: Path) -> Path:
    """Write one experiment per model and loss that needs no more keys, all with their defaults; returns the folder.

    It is the same for every comparison in ``out``, what differs is overridden: a second one changes nothing under the
    first.
    """
    config_dir = make_folder(out / CONFIG)
    blocks = {
        _expid(model, spec.name): {
            "model": model,
            "dataset_id": _dataset_id(model),
            **BASE,
            **MODEL_KEYS[model],
            "loss": spec.name,
            **LOSS_KEYS.get(spec.name, {}),
        }
        for model in MODEL_KEYS
        for spec in available_losses()
        if _is_usable(spec.name)
    }
    _write_yaml(config_dir / "model_config.yaml", blocks)
    # Whole paths: the folder may be named from elsewhere next time.
    data = {_dataset_id(model): _dataset(model, folder.resolve()) for model in MODEL_KEYS}
    _write_yaml(config_dir / "dataset_config.yaml", data)
    return config_dir


def _expid(model: str, loss: str) -> str:
    return f"{model}_{DATASET}_{_word(loss)}"


def _dataset_id(model: str) -> str:
    return f"{DATASET}_{model.lower()}"


def _missing_keys(name: str) -> list[str]:
    required = [p.name for p in get_spec(name).parameters if p.required]
    return [key for key in required if key not in LOSS_KEYS.get(name, {})]


def _is_usable(name: str) -> bool:
    """Whether a loss can be compared without more being said about it."""
    return not _missing_keys(name)


def _dataset(model: str, folder: Path) -> dict[str, Any]:
    def column(name: str, kind: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "active": True, "dtype": "int" if kind == "index" else "str", "type": kind, **more}

    columns = [column("query_index", "index"), column("corpus_index", "index")]
    columns.append(column("user_id", "categorical", source="user"))
    shared = {}
    if model == "SimpleX":
        extra = {"source": "user", "splitter": "^", "padding": "pre", "embedding_callback": None}
        columns.append(column("user_history", "sequence", **extra))
        shared = {"share_embedding": "user_history"}
    columns.append(column("item_id", "categorical", source="item", **shared))
    return {
        "data_root": str(folder.parent),
        "data_format": "csv",
        "train_data": str(folder / "train.csv"),
        "valid_data": str(folder / "test.csv"),
        "item_corpus": str(folder / "item_corpus.csv"),
        "min_categr_count": 1,
        "query_index": "query_index",
        "corpus_index": "corpus_index",
        "feature_cols": columns,
        "label_col": {"name": "label", "dtype": "float"},
    }


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    with atomic_write(path) as stream:
        yaml.safe_dump(dict(content), stream, sort_keys=False, allow_unicode=True)
