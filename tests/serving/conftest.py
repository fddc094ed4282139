"""A run folder with random vectors, written as an engine writes it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import yaml

from mml_plugin.experiment.outputs import Trained, write_vectors
from mml_plugin.experiment.run_folder import RunFolder

USERS, ITEMS, DIM = 60, 50, 6
COLD = 7


@dataclass
class Written:
    """The folder and what is in it."""

    path: Path
    users: np.ndarray
    items: np.ndarray
    seen: list[set[int]]
    user_ids: np.ndarray
    item_ids: np.ndarray

    def ranked(self, user: int) -> list[int]:
        """Unseen items by score in float32, best first, by brute force."""
        scores = self.items @ self.users[user]
        return [i for i in np.argsort(-scores, kind="stable").tolist() if i not in self.seen[user]]


@pytest.fixture
def written(tmp_path):
    random = np.random.default_rng(5)
    users, items = (random.normal(size=(n, DIM)).astype(np.float32) for n in (USERS, ITEMS))
    users /= np.linalg.norm(users, axis=1, keepdims=True)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    users[COLD] = np.nan
    pairs = np.unique(random.integers(0, [USERS, ITEMS], size=(400, 2)), axis=0)
    pairs = random.permutation(pairs[pairs[:, 0] != COLD])
    user_ids = np.array([f"u{n:03d}" for n in random.permutation(USERS)])
    item_ids = np.array([f"article {n}" for n in random.permutation(ITEMS)])
    folder = RunFolder(tmp_path / "runs" / "MF_x" / "fast-paper-s1")
    folder.path.mkdir(parents=True)
    trained = Trained(
        best_epoch=1, epochs=1, stopped_early=False, metrics={}, validation_metrics={}, user_ids=user_ids,
        item_ids=item_ids, user_vectors=users, item_vectors=items, per_user={"user_row": np.arange(3)},
        seen=(pairs[:, 0], pairs[:, 1]), data={},
    )  # fmt: skip
    write_vectors(folder, trained)
    folder.config.write_text(
        yaml.safe_dump({"MF_x": {"similarity_score": "cosine", "train_data": "./nowhere/train.csv"}})
    )
    folder.history.write_text("epoch\n")
    folder.write_result({"expid": "MF_x", "identity": "abc", "run_format": 1, "versions": {"mml_plugin": "0.1.0"}})
    seen = [set(pairs[pairs[:, 0] == u, 1].tolist()) for u in range(USERS)]
    return Written(folder.path, users, items, seen, user_ids, item_ids)


@pytest.fixture
def change_result(written):
    """Change keys of result.json."""

    def change(**keys):
        path = written.path / "result.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))

    return change
