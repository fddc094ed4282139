"""How the reported epoch is chosen, in words. Reports never mix two protocols."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from mml_plugin.errors import UserError

PROTOCOLS = {
    "paper": "best epoch on the test split, as the paper and SimpleX select",
    "held-out": "best epoch on a validation split carved from train; the test split is ranked once, at the end",
}
SAYS = {
    "paper": "Selected on test (protocol paper): the reported epoch is the best one on the test split itself, as the "
    "paper and SimpleX choose it. That flatters every loss a little and is kept only to compare with the paper.",
    "held-out": "Selected on validation (protocol held-out): the reported epoch is the best one on a validation split "
    "carved from each user's training items (users with few give none); the test split was ranked once, at the end of "
    "each run.",
}


def only_protocol(rows: Iterable[Mapping[str, str]]) -> str:
    """The protocol of all rows.

    Raises:
        UserError: when there are two of them.
    """
    found = sorted({row["protocol"] for row in rows})
    if len(found) > 1:
        raise UserError(f"rows of the protocols {' and '.join(found)} cannot stand in one report")
    return found[0] if found else "paper"
