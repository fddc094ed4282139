"""Files of data sets for the tests, and what makes two sets the same."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from mml_plugin.data.interactions import Interactions

TINY = Path(__file__).resolve().parents[1] / "data" / "golden" / "tiny"


def text(folder, name, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder / name


def pairs_csv(path, pairs):
    with open(path, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("user", "item"), *pairs])
    return path


def same(a: Interactions, b: Interactions) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in Interactions.__dataclass_fields__)
