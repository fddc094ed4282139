"""The strings of a configuration that recbox evaluates as code, and the only ones that may reach it.

recbox 0.0.4 calls ``eval`` on dtypes, metrics, the embedding initialiser and, read back from a cached
``feature_map.json``, on embedding callbacks; optimizers are looked up by attribute. Nothing here imports recbox.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mml_plugin.errors import UserError, nearest

METRICS = ("Recall", "nRecall", "Precision", "F1", "DCG", "NDCG", "MRR", "HitRate", "MAP")
DTYPES = ("int", "float", "str")
# Small letters to torch's class; recbox itself spells only the first three, whatever their letters.
OPTIMIZERS = {
    "adam": "Adam",
    "rmsprop": "RMSprop",
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "adadelta": "Adadelta",
    "adamax": "Adamax",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "asgd": "ASGD",
}
_SPELLED_BY_RECBOX = ("adam", "rmsprop", "sgd")
CALLBACKS = ("layers.MaskedAveragePooling()", "layers.MaskedSumPooling()")
NO_CALLBACK = (None, "null", "None", "none")
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_METRIC = re.compile(r"(\w+)\(k=([1-9][0-9]*)\)")
_INITIALIZER = re.compile(
    r"lambda (\w+): ?nn\.init\.(?:"
    rf"(?:normal_|trunc_normal_)\(\1(?:, ?(?:mean|std)={_NUMBER})*\)"
    rf"|uniform_\(\1(?:, ?[ab]={_NUMBER})*\)"
    rf"|constant_\(\1, ?(?:val=)?{_NUMBER}\)"
    rf"|xavier_(?:normal|uniform)_\(\1(?:, ?gain={_NUMBER})?\)"
    r"|kaiming_(?:normal|uniform)_\(\1\)|zeros_\(\1\)|ones_\(\1\)"
    r")"
)
DEFAULT_INITIALIZER = "lambda w: nn.init.normal_(w, std=1e-4)"


def parse_metric(text: str, known: Sequence[str] = METRICS) -> tuple[str, int]:
    """``"Recall(k=20)"`` as ``("Recall", 20)``.

    Args:
        text: as recbox wants it, without blanks.
        known: the names that are allowed; recbox's by default.

    Raises:
        UserError: for anything else.
    """
    match = _METRIC.fullmatch(text) if isinstance(text, str) else None
    if match is None or match[1] not in known:
        name = re.split(r"[^\w]", str(text))[0]
        hint = f"write {name}(k=20), without blanks" if name in known else nearest(name, known)
        raise UserError(f"metrics: {text!r} is not a metric; {hint}")
    return match[1], int(match[2])


def check_initializer(text: object) -> str:
    """The embedding initialiser, if it is a lambda on one of torch's plain ``nn.init`` functions."""
    if not isinstance(text, str) or _INITIALIZER.fullmatch(text.strip()) is None:
        raise UserError(
            f"embedding_initializer: {text!r} is not allowed; write it as in {DEFAULT_INITIALIZER!r}, with one of "
            "normal_, trunc_normal_, uniform_, constant_, xavier_normal_, xavier_uniform_, kaiming_normal_, "
            "kaiming_uniform_, zeros_, ones_ and plain numbers"
        )
    return text


def check_dtype(where: str, value: object) -> str:
    """A column's dtype, if it is one of the three that the pipeline knows."""
    if value not in DTYPES:
        raise UserError(f"{where}: dtype {value!r} is not allowed; known: {', '.join(DTYPES)}")
    return str(value)


def check_callback(where: str, value: object) -> None:
    """An embedding callback, if it is null or one of recbox's two poolings."""
    if value not in NO_CALLBACK and value not in CALLBACKS:
        raise UserError(f"{where}: embedding_callback {value!r} is not allowed; known: null, {', '.join(CALLBACKS)}")


def check_optimizer(name: object) -> str:
    """An optimizer that recbox can build from a learning rate alone."""
    if not isinstance(name, str) or name.lower() not in OPTIMIZERS:
        raise UserError(f"optimizer: {name!r} is unknown; {nearest(str(name), OPTIMIZERS)}")
    return name


def spelled_optimizer(name: str) -> str:
    """A checked optimizer's name as recbox finds it: torch's spelling, but for the three that recbox spells itself."""
    return name if name.lower() in _SPELLED_BY_RECBOX else OPTIMIZERS[name.lower()]


def check_strings(params: Mapping[str, Any]) -> None:
    """Check every string of a flat configuration that recbox would evaluate.

    Raises:
        UserError: naming the key and the value of the first that is not allowed.
    """
    for metric in params.get("metrics", []):
        parse_metric(metric)
    if "embedding_initializer" in params:
        check_initializer(params["embedding_initializer"])
    for column in params.get("feature_cols", []):
        where = f"feature_cols, column {column.get('name')!r}"
        check_dtype(where, column.get("dtype"))
        check_callback(where, column.get("embedding_callback"))
        if column.get("preprocess"):
            raise UserError(f"{where}: preprocess {column['preprocess']!r} is not supported")
    if "label_col" in params:
        check_dtype("label_col", params["label_col"].get("dtype"))
    if "optimizer" in params:
        check_optimizer(params["optimizer"])


def check_feature_map(content: Mapping[str, Any], path: str) -> None:
    """Check the strings of a cached ``feature_map.json`` before recbox evaluates them."""
    for name, spec in content["feature_specs"].items():
        check_callback(f"{path}, feature {name!r}", spec.get("embedding_callback"))
