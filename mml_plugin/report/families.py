"""Families of tuning cells: how many there are, and how many have a result."""

from __future__ import annotations

from collections.abc import Mapping

from mml_plugin.report.rows import Rows, is_to_run, state_of_cell


def labels_of(rows: Rows, group: str, family: str) -> set[str]:
    """The tuning cells of a family, screened out or not; one of several seeds counts once."""
    asked = filter(state_of_cell, rows.cells)
    return {row["label"] for row in asked if (row["group"], row.get("family")) == (group, family)}


def cells_of(rows: Rows, group: str, family: str) -> int:
    """How many tuning cells of a family are to be run."""
    members = (row for row in filter(is_to_run, rows.cells) if (row["group"], row.get("family")) == (group, family))
    return len({row["label"] for row in members})


def cells_with_result(rows: Rows, group: str) -> dict[str, tuple[int, int]]:
    """Family -> how many of its tuning cells have a result, and how many are to have one.

    Cells that no seed has in common cannot be compared: those of the seed with most of them count.
    """
    every: dict[str, set[str]] = {}
    done: dict[str, dict[str, set[str]]] = {}
    for row in filter(state_of_cell, rows.cells):
        family = row.get("family", "")
        if row["group"] == group and family and state_of_cell(row) != "screened out":
            every.setdefault(family, set()).add(row["label"])
            if row["state"] == "done":
                done.setdefault(family, {}).setdefault(row["seed"], set()).add(row["label"])
    return {f: (max(map(len, done.get(f, {}).values()), default=0), len(labels)) for f, labels in every.items()}


def unfinished(rows: Rows, group: str) -> dict[str, tuple[int, int]]:
    """Of :func:`cells_with_result`, every family of the group while any of them lacks a result; otherwise none.

    A cell that failed lacks one too: with fewer cells a family had fewer tries than the others.
    """
    counts = cells_with_result(rows, group)
    return counts if any(found < asked for found, asked in counts.values()) else {}


def with_a_result(counts: Mapping[str, tuple[int, int]]) -> str:
    """``single margin 3 of 25, several margins 25 of 25``, from :func:`cells_with_result`."""
    return ", ".join(f"{family} {found} of {asked}" for family, (found, asked) in counts.items())
