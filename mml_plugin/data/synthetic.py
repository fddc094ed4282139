"""A small data set from a seed: power-law popularity, latent factors, nothing tuned to please a loss."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mml_plugin.data.interactions import Interactions
from mml_plugin.data.store import FILES, store
from mml_plugin.errors import UserError

# Users times items: what is drawn for each pair takes some 30 bytes, all at once.
MOST_PAIRS = 50_000_000


def sample(
    users: int = 1500,
    items: int = 2000,
    seed: int = 2019,
    factors: int = 8,
    taste: float = 1.5,
    test_share: float = 0.2,
) -> Interactions:
    """Draw interactions: each user takes items without replacement, by popularity and taste.

    The logit of item i for user u is ``-0.8 log(rank_i) + taste * <a_u, b_i> / sqrt(factors)``, with a and b standard
    normal; a user's number of items is log-normal, at least 8.

    Args:
        users, items: how many.
        seed: of everything.
        factors: latent dimensions.
        taste: how much the factors matter beside popularity.
        test_share: share of each user's items that goes to test, at least 1.

    Raises:
        UserError: for more pairs of users and items than are drawn in memory.
    """
    if users * items > MOST_PAIRS:
        raise UserError(
            f"--users {users} --items {items}: a value is drawn for each of {users * items:,} pairs of them, and at "
            f"most {MOST_PAIRS:,} are allowed; take fewer users or items"
        )
    # Philox and its uniform doubles are fixed by their definition; normals are made from them here, because numpy
    # does not promise the same normals in every release.
    uniform = np.random.Generator(np.random.Philox(seed)).random
    a, b = _normal(uniform, (users, factors)), _normal(uniform, (items, factors))
    popularity = -0.8 * np.log(1 + np.argsort(uniform(items)))
    activity = np.exp(3.0 + 0.6 * _normal(uniform, (users,)))
    counts = np.clip(np.rint(activity), 8, items // 4).astype(np.int64)
    logits = popularity + taste * (a @ b.T) / np.sqrt(factors)
    ranked = np.argsort(-(logits - np.log(-np.log(uniform((users, items))))), axis=1, kind="stable")
    train: list[np.ndarray] = []
    test: list[np.ndarray] = []
    for user, count in enumerate(counts):
        chosen = ranked[user, :count][np.argsort(uniform(count), kind="stable")]
        cut = max(1, round(test_share * count))
        test.append(chosen[:cut])
        train.append(chosen[cut:])
    return _pack(train, test, items)


def _normal(uniform, shape: tuple[int, ...]) -> np.ndarray:
    radius = np.sqrt(-2 * np.log1p(-uniform(shape)))
    return radius * np.cos(2 * np.pi * uniform(shape))


def _pack(train: list[np.ndarray], test: list[np.ndarray], items: int) -> Interactions:
    """Number users and the items that occur from 0 without gaps."""
    used = np.unique(np.concatenate(train + test))
    row = np.full(items, -1)
    row[used] = np.arange(len(used))
    parts: list[np.ndarray] = []
    for split in (train, test):
        sizes = [len(s) for s in split]
        parts += [np.concatenate([[0], np.cumsum(sizes)]), row[np.concatenate(split)]]
    return Interactions(np.arange(len(train)).astype(str), np.arange(len(used)).astype(str), *parts)


def generate(folder: Path, users: int = 1500, items: int = 2000, seed: int = 2019, overwrite: bool = False) -> Path:
    """Draw a data set and write its folder."""
    return store(sample(users, items, seed), folder, _source(users, items, seed), overwrite=overwrite)


def is_there(folder: Path, users: int, items: int, seed: int) -> bool:
    """Whether the folder has all files and says that it is the data set which :func:`generate` would write."""
    if not all((folder / name).is_file() for name in FILES):
        return False
    try:
        content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("source") == _source(users, items, seed)


def _source(users: int, items: int, seed: int) -> str:
    return f"synthetic: users={users} items={items} seed={seed}"
