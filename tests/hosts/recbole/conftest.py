"""These tests need RecBole, which cannot share an environment with fuxictr: `make test-hosts` runs them in one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mml_plugin.data.interactions import load

DATA = Path(__file__).resolve().parents[2] / "data"

# `make test` collects this folder too; there is nothing to run without RecBole.
collect_ignore_glob = [] if importlib.util.find_spec("recbole") else ["test_*.py"]


@pytest.fixture(scope="session")
def reference():
    """Five seeds of our engines (benchmarks/recbole_reference.py)."""
    return json.loads((DATA / "recbole" / "reference.json").read_text())


@pytest.fixture(scope="session")
def tiny():
    """The golden data set."""
    return load(DATA / "golden" / "tiny")


@pytest.fixture
def config(tiny, tmp_path, monkeypatch):
    """RecBole's configuration for it, in a folder of its own; RecBole writes logs where it is started."""
    from mml_plugin.hosts.recbole.atomic_files import write_atomic_files

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["pytest"])
    write_atomic_files(tiny, tmp_path / "data" / "tiny")
    return {
        "data_path": str(tmp_path / "data"),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "USER_ID_FIELD": "user_id",
        "ITEM_ID_FIELD": "item_id",
        "checkpoint_dir": str(tmp_path / "saved"),
        "epochs": 2,
        "stopping_step": 200,
        "train_batch_size": 64,
        "learning_rate": 0.01,
        "num_negs": 20,
        "embedding_size": 16,
        "dropout_prob": 0.1,
        "regularizer": 1e-6,
        "metrics": ["Recall", "NDCG", "MRR", "MAP"],
        "topk": [5, 20],
        "valid_metric": "Recall@20",
        "metric_decimal_place": 6,
        "show_progress": False,
        "state": "WARNING",
        "seed": 2019,
        "loss": "MultiMarginLoss",
        "margins": [0.2, 0.4, 0.6],
        "margin_weights": [0.1, 0.3, 0.6],
        "neg_weight": 40,
    }
