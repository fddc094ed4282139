"""recbox's vocabulary, computed from arrays: which table row each user, item and history item has.

Order: by (-count, token), ids from 1, out-of-vocabulary 0, padding last. Items count by training interactions; a table
shared with the history counts by occurrences in the training rows' histories. The source is recbox 0.0.4's
``FeatureEncoder`` and ``Tokenizer``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mml_plugin.data.convert import SPLITTER
from mml_plugin.data.interactions import Interactions
from mml_plugin.errors import UserError

# A 64-bit integer holds every number of so many digits.
MOST_DIGITS = 18
KNOWN = frozenset(
    {"name", "active", "dtype", "type", "source", "min_categr_count", "share_embedding", "splitter", "max_len",
     "padding", "embedding_callback", "na_value", "preprocess"}
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """The rows of one embedding table.

    Attributes:
        ids: ``[n]`` table row of each user row or corpus row; 0 is out of vocabulary.
        size: rows of the table, with out-of-vocabulary and padding.
        padded: whether the last row is padding.
    """

    ids: np.ndarray
    size: int
    padded: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The tables of a model.

    Attributes:
        users, items: of the user and the item column.
        history: of the history column (rows by corpus row), or None.
        max_len: L, how many history items a row keeps.
        padding: ``"pre"`` keeps the last L, ``"post"`` the first.
        specs: column -> what recbox's feature map says of it.
    """

    users: Table
    items: Table
    history: Table | None
    max_len: int
    padding: str
    specs: dict[str, dict[str, Any]]


def build(data: Interactions, params: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary that recbox's encoder builds from the same training interactions.

    Args:
        data: training interactions; nothing of test is looked at.
        params: flat configuration with ``feature_cols``.

    Raises:
        UserError: for columns beyond one user id, one item id and one history, and ids that a dtype cannot hold.
    """
    columns = _read_columns(params)
    user, item, history = _roles(columns)
    least = params.get("min_categr_count", 1)
    sizes = np.diff(data.train_indptr)
    frequency = np.bincount(data.train_items, minlength=data.num_items)
    # Each of a user's n rows lists the user's items but for one occurrence of its own target.
    in_histories = np.bincount(
        data.train_items, weights=np.repeat(sizes - 1, sizes).astype(float), minlength=data.num_items
    ).astype(np.int64)
    tables = {"user": _table(data.user_ids, sizes, user, least)}
    names = {"user": user["name"], "item": item["name"], "history": history["name"] if history else ""}
    for role, column in _in_order(columns, item, history):
        other = "item" if role == "history" else "history"
        if column.get("share_embedding"):
            tables[role] = tables[other]
        else:
            counts = in_histories if role == "history" else frequency
            padded = role == "history" or bool(history and history.get("share_embedding") == item["name"])
            tables[role] = _table(data.item_ids, counts, column, least, padded)
    longest = max(int(sizes.max(initial=1)) - 1, 1)
    max_len = (history.get("max_len") or longest) if history else 0
    specs = _specs(params["feature_cols"], tables, names, least, max_len)
    padding = (history.get("padding") or "post") if history else "pre"
    return Vocabulary(tables["user"], tables["item"], tables.get("history"), max_len, padding, specs)


def check_columns(params: Mapping[str, Any]) -> None:
    """Refuse what :func:`build` would refuse whatever the data are.

    Raises:
        UserError: for columns beyond one user id, one item id and one history, and for tables shared otherwise.
    """
    columns = _read_columns(params)
    _, item, history = _roles(columns)
    _in_order(columns, item, history)


def _read_columns(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [column for column in params["feature_cols"] if column["active"] and column["type"] != "index"]


def _roles(columns: list[dict[str, Any]]) -> tuple[dict, dict, dict | None]:
    found: dict[str, dict[str, Any]] = {}
    for column in columns:
        unknown = [key for key, value in column.items() if key not in KNOWN and value is not None]
        unknown += [key for key in ("na_value", "preprocess") if column.get(key)]
        role = _role(column)
        if unknown or role is None or role in found or isinstance(column["name"], list):
            what = f"its {unknown[0]}" if unknown else "it"
            raise UserError(
                f"feature_cols: the fast engine cannot read column {column['name']!r} ({what}); it takes one user id, "
                "one item id and one user history; --engine recbox takes any"
            )
        splitter = column.get("splitter", " ")  # recbox's default
        if role == "history" and splitter != SPLITTER:
            raise UserError(
                f"feature_cols: column {column['name']!r} has splitter {splitter!r}, by which recbox would find one "
                f"item in a whole history; our files are written with {SPLITTER!r}"
            )
        found[role] = column
    for role in ("user", "item"):
        if role not in found:
            raise UserError(f"feature_cols: there is no categorical column with source {role}")
    return found["user"], found["item"], found.get("history")


def _role(column: Mapping[str, Any]) -> str | None:
    kind, source = column["type"], column.get("source")
    if kind == "categorical" and source in ("user", "item"):
        return source
    callback = column.get("embedding_callback", "pooled") in (None, "null", "None", "none")
    return "history" if kind == "sequence" and source == "user" and callback else None


def _in_order(columns: list[dict], item: dict, history: dict | None) -> list[tuple[str, dict]]:
    roles = [("item" if column is item else "history", column) for column in columns if column in (item, history)]
    for role, column in roles:
        shared = column.get("share_embedding")
        partner = history if role == "item" else item
        if shared and (partner is None or shared != partner["name"]):
            raise UserError(f"feature_cols: {column['name']!r} can share the item's table only, not {shared!r}")
        if shared and role == "history" and not column.get("max_len"):
            raise UserError(f"feature_cols: {column['name']!r} shares {shared!r} and so needs a max_len, as in recbox")
    return roles


def _table(ids: np.ndarray, counts: np.ndarray, column: Mapping, least: int, padded: bool = False) -> Table:
    tokens = ids if column["dtype"] == "str" else _numbers(ids, column)
    known = np.flatnonzero(counts >= max(column.get("min_categr_count") or least, 1))
    order = known[np.lexsort((tokens[known], -counts[known]))]
    rows = np.zeros(len(ids), np.int64)
    rows[order] = np.arange(1, len(order) + 1)
    return Table(rows, len(order) + 1 + padded, padded)


def _numbers(ids: np.ndarray, column: Mapping) -> np.ndarray:
    """The ids as recbox reads them into the column's dtype: in the order of numbers, and equal where numbers are."""
    dtype = column["dtype"]
    try:
        numbers = ids.astype(np.int64 if dtype == "int" else np.float64)
    except (ValueError, OverflowError):
        wrong = next((text for text in ids.tolist() if not _holds(dtype, text)), "")
        raise UserError(
            f"feature_cols: column {column['name']!r} has dtype {dtype}, and the id {wrong!r} is no such number; "
            "write dtype str"
        ) from None
    _, first, of = np.unique(numbers, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[of] != np.arange(len(ids)))
    if len(again):
        raise UserError(
            f"feature_cols: column {column['name']!r} has dtype {dtype}, in which the ids {ids[first[of[again[0]]]]!s} "
            f"and {ids[again[0]]!s} are one; write dtype str"
        )
    return numbers


def _holds(dtype: str, text: str) -> bool:
    if dtype == "int":
        return text.isdecimal() and len(text) <= MOST_DIGITS
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False


def _specs(columns, tables: Mapping[str, Table], names: Mapping[str, str], least: int, max_len: int) -> dict:
    role_of = {name: role for role, name in names.items() if name}
    specs: dict[str, dict[str, Any]] = {}
    for column in columns:
        if not column["active"]:
            continue
        name = column["name"]
        spec: dict[str, Any] = {"source": column.get("source", ""), "type": column["type"]}
        if name in role_of and column["type"] != "index":
            table = tables[role_of[name]]
            spec["min_categr_count"] = column.get("min_categr_count", least)
            if column.get("share_embedding"):
                spec["share_embedding"] = column["share_embedding"]
            if role_of[name] == "history" or (table.padded and not column.get("share_embedding")):
                spec["padding_idx"] = table.size - 1
            spec["vocab_size"] = table.size
            if role_of[name] == "history":
                spec["max_len"] = max_len
        specs[name] = spec
    return specs
