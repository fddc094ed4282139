"""recbox's h5 files, built by recbox's own encoder, in a cache that knows what they were built from.

recbox reuses an existing ``feature_map.json`` whatever changed in the configuration or the CSV files, and writes it
before the h5 files, so that an interrupted build poisons the cache. Here the folder's name is a hash of everything
that went in, it is built elsewhere and renamed, and a lock keeps parallel runs from building it twice.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from filelock import FileLock

from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write, checksum, make_folder, writing
from mml_plugin.hosts.recbox import allowed, shims

CSV_KEYS = ("train_data", "valid_data", "test_data", "item_corpus")
BUILD_KEYS = ("feature_cols", "label_col", "min_categr_count", "query_index", "corpus_index", "nrows", "sep")


@dataclass(frozen=True)
class Prepared:
    """A data set as recbox reads it.

    Attributes:
        feature_map: recbox's ``FeatureMap``, loaded.
        folder: where ``train.h5``, ``valid.h5``, ``test.h5`` (if asked for) and ``item_corpus.h5`` are.
        has_test: whether ``test.h5`` is there.
    """

    feature_map: Any
    folder: Path
    has_test: bool

    def h5_paths(self) -> dict[str, str | None]:
        """The configuration keys that reczoo's script overwrites with h5 paths."""
        names = {"train_data": "train", "valid_data": "valid", "item_corpus": "item_corpus"}
        paths: dict[str, str | None] = {key: str(self.folder / f"{name}.h5") for key, name in names.items()}
        paths["test_data"] = str(self.folder / "test.h5") if self.has_test else None
        return paths


def prepare(params: Mapping[str, Any], cache_root: str | os.PathLike[str]) -> Prepared:
    """Build recbox's h5 files and feature map, or take them from the cache.

    Args:
        params: flat reczoo configuration; ``train_data``, ``valid_data``, ``test_data`` (optional) and ``item_corpus``
            name CSV files.
        cache_root: the cache lies in ``<cache_root>/<dataset_id>-<hash12>``.

    Raises:
        UserError: for strings that recbox would evaluate, missing, malformed or inconsistent CSV files (file and
            line named), and where the cache cannot be written.
    """
    allowed.check_strings(params)
    files = {key: Path(params[key]) for key in CSV_KEYS if params.get(key)}
    for key, path in files.items():
        _check_header(key, path, params)
    root = make_folder(cache_root)
    folder = root / f"{params['dataset_id']}-{_build_hash(params, files, root)[:12]}"
    with FileLock(str(folder) + ".lock"):
        if folder.is_dir() and not _is_sound(folder, files):
            logging.warning("%s is damaged and is built anew", folder)
            shutil.rmtree(folder)
        if not folder.is_dir():
            _build(params, files, folder)
    return Prepared(_load_feature_map(params, folder), folder, "test_data" in files)


def _build_hash(params: Mapping[str, Any], files: Mapping[str, Path], root: Path) -> str:
    content = {
        "recbox": shims.SUPPORTED,
        "build": {key: params.get(key) for key in BUILD_KEYS},
        "files": {key: _digest(path, root) for key, path in files.items()},
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(path: Path, root: Path) -> str:
    """SHA-1 of the file, remembered by path, size and modification time."""
    memory = root / "digests.json"
    stat = path.stat()
    key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    known = known if isinstance(known, dict) else {}
    if not isinstance(known.get(key), str):
        known = {k: v for k, v in known.items() if not k.startswith(f"{path.resolve()}|")}
        known[key] = checksum(path, "sha1")
        with atomic_write(memory) as stream:
            json.dump(known, stream, indent=1)
    return known[key]


def _check_header(key: str, path: Path, params: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise UserError(f"{key}: there is no file {path}")
    with open(path, newline="", encoding="utf-8", errors="replace") as stream:
        header = next(csv.reader(stream, delimiter=params.get("sep", ",")), [])
    items = [c for c in params["feature_cols"] if c.get("source") == "item"]
    others = [c for c in params["feature_cols"] if c.get("source") != "item"] + [params["label_col"]]
    for column in items if key == "item_corpus" else others:
        for name in column["name"] if isinstance(column["name"], list) else [column["name"]]:
            if name not in header:
                raise UserError(f"{path}, line 1: column {name!r} is missing; found {', '.join(header) or 'nothing'}")


def _build(params: Mapping[str, Any], files: Mapping[str, Path], folder: Path) -> None:
    shims.import_recbox()
    from recbox import datasets
    from recbox.matching.features import FeatureEncoder

    for left in folder.parent.glob(f".{folder.name}.*"):  # by a process that was killed; the lock is ours now
        shutil.rmtree(left, ignore_errors=True)
    _check_space(params, files, folder.parent)
    with writing(folder):
        work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        inputs = {**params, **{key: str(path) for key, path in files.items()}, "data_root": str(work)}
        inputs.setdefault("test_data", None)
        try:
            with writing(folder):
                datasets.build_dataset(FeatureEncoder(**inputs), **inputs)
                _check_rows(work / params["dataset_id"], files, params)
        except UserError:
            raise
        except Exception as error:
            # recbox wraps nothing: a bad cell surfaces as whatever pandas or numpy raised.
            raise UserError(_culprit(files, params) or _refused(error)) from error
        (work / params["dataset_id"] / "feature_encoder.pkl").unlink(missing_ok=True)
        with writing(folder):
            os.replace(work / params["dataset_id"], folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _refused(error: Exception) -> str:
    if "No space left" in str(error) or "errno = 28" in str(error):
        return "cannot write recbox's h5 files: there is no space left on the disk"
    return f"recbox cannot build its h5 files: {type(error).__name__}: {error}"


def _check_rows(folder: Path, files: Mapping[str, Path], params: Mapping[str, Any]) -> None:
    """Every corpus_index must be a row of the item corpus; recbox lets -1 wrap around and crashes beyond the end."""
    with h5py.File(folder / "item_corpus.h5") as corpus:
        items = int(corpus.attrs["num_samples"])
    for key, name in (("train_data", "train"), ("valid_data", "valid"), ("test_data", "test")):
        if key not in files:
            continue
        with h5py.File(folder / f"{name}.h5") as stored:
            index = stored[params["corpus_index"]][:]
        wrong = np.flatnonzero((index < 0) | (index >= items))
        if len(wrong):
            raise UserError(_outside(files[key], int(wrong[0]) + 2, int(index[wrong[0]]), items, files))
        if not len(index):
            raise UserError(f"{files[key]} holds no row")


def _culprit(files: Mapping[str, Path], params: Mapping[str, Any]) -> str:
    """The first cell that is not what its column says, as a sentence; "" when there is none."""
    numbers = {params["query_index"]: int, params["corpus_index"]: int, params["label_col"]["name"]: float}
    items = _rows(files["item_corpus"])
    for key, path in files.items():
        if key == "item_corpus":
            continue
        with open(path, newline="", encoding="utf-8", errors="replace") as stream:
            reader = csv.reader(stream, delimiter=params.get("sep", ","))
            header = next(reader)
            for row in reader:
                if len(row) != len(header):
                    return f"{path}, line {reader.line_num}: {len(row)} cells where the header has {len(header)}"
                for name, kind in numbers.items():
                    try:
                        kind(row[header.index(name)])
                    except ValueError:
                        cell = row[header.index(name)]
                        return f"{path}, line {reader.line_num}: {name} must be a number, got {cell!r}"
                item = int(row[header.index(params["corpus_index"])])
                if not 0 <= item < items:
                    return _outside(path, reader.line_num, item, items, files)
    return ""


def _outside(path: Path, line: int, item: int, items: int, files: Mapping[str, Path]) -> str:
    return (
        f"{path}, line {line}: item {item} is outside the item corpus, whose rows are 0 to {items - 1} "
        f"({files['item_corpus']})"
    )


def _rows(path: Path) -> int:
    """Lines of a file without its header."""
    with open(path, "rb") as stream:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: stream.read(1 << 22), b"")) - 1


def _check_space(params: Mapping[str, Any], files: Mapping[str, Path], root: Path) -> None:
    """Refuse to begin where the h5 files cannot fit: the HDF5 library may crash on a full disk.

    Raises:
        UserError: when less is free than the arrays need.
    """
    wide = 0
    for column in params["feature_cols"]:
        if column["type"] == "sequence":
            wide += 4 * (column.get("max_len") or _longest(files["train_data"], column.get("splitter", " ")))
        else:
            wide += 8
    needed = sum(_rows(path) * (wide if key != "item_corpus" else 8) for key, path in files.items())
    free = shutil.disk_usage(root).free
    if free < needed:
        raise UserError(
            f"cannot write recbox's h5 files to {root}: they need {needed / 1e9:.1f} GB and there is no space left "
            f"for them ({free / 1e9:.1f} GB free)"
        )


def _longest(path: Path, splitter: str) -> int:
    with open(path, "rb") as stream:
        return max((line.count(splitter.encode()) + 1 for line in stream), default=1)


def _is_sound(folder: Path, files: Mapping[str, Path]) -> bool:
    wanted = ["train", "valid", "item_corpus"] + (["test"] if "test_data" in files else [])
    try:
        if not _has_features(json.loads((folder / "feature_map.json").read_text(encoding="utf-8"))):
            return False
        for name in wanted:
            with h5py.File(folder / f"{name}.h5") as stored:
                rows = int(stored.attrs["num_samples"])
                if any(stored[column].shape[0] != rows for column in stored):
                    return False
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ):  # the last three: valid JSON or HDF5 of other form
        return False
    return True


def _has_features(content: Any) -> bool:
    """Whether a feature map has what recbox's ``load`` and its models take for granted."""
    kinds = {"dataset_id": str, "num_fields": int, "feature_specs": dict}
    if not isinstance(content, dict) or not all(isinstance(content.get(key), kind) for key, kind in kinds.items()):
        return False
    specs = content["feature_specs"].values()
    return bool(specs) and all(isinstance(spec, dict) and {"source", "type"} <= spec.keys() for spec in specs)


def _load_feature_map(params: Mapping[str, Any], folder: Path) -> Any:
    shims.import_recbox()
    from recbox.matching.features import FeatureMap

    path = folder / "feature_map.json"
    allowed.check_feature_map(json.loads(path.read_text(encoding="utf-8")), str(path))
    feature_map = FeatureMap(
        params["dataset_id"], str(folder), params["query_index"], params["corpus_index"], params["label_col"]["name"]
    )
    feature_map.load(str(path))
    return feature_map
