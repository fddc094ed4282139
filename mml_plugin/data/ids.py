"""Which original ids may stand as numbers in a file and come back as they were, and which none of our files carries."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from mml_plugin.errors import UserError

# ASCII, no leading zero, within int64. '٣' and '01' are numbers too, but would come back as 3 and 1.
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")

# What pandas, by which recbox reads a CSV file, takes for a missing cell.
MISSING = frozenset(
    "#N/A|#N/A N/A|#NA|-1.#IND|-1.#QNAN|-NaN|-nan|1.#IND|1.#QNAN|<NA>|N/A|NA|NULL|NaN|None|n/a|nan|null".split("|")
)


# Ids are kept in arrays whose cells are as wide as the longest one, and there is a cell per interaction.
LONGEST = 255


def are_whole_numbers(ids: np.ndarray) -> bool:
    """Whether every id is a whole number written the one way in which a number is written back."""
    return all(_WHOLE_NUMBER.fullmatch(text) for text in ids.tolist())


def check_ids(sides: Iterable[tuple[str, np.ndarray]], where: str = "") -> None:
    """Refuse ids that the CSV layout cannot carry.

    Args:
        sides: what the ids are of (``user``, ``item``), and the ids.
        where: the folder whose ``users.txt`` and ``items.txt`` they are from, for the message.

    Raises:
        UserError: for an empty or blank id (pandas skips a blank line), one with a comma, a quote, ``^`` or a
            control character, one that begins with a byte order mark (readers drop it), and for a word such as ``NA``:
            recbox would train it as out of vocabulary.
    """
    for kind, ids in sides:
        place = f"{where}/{kind}s.txt: " if where else ""
        for text in ids.tolist():
            why = wrong_id(text)
            if why:
                raise UserError(f"{place}{kind} id {text!r} cannot be used: {why}")


def first_overlong(ids: Iterable[str], cells: bool = False) -> tuple[int, str]:
    """Where the first id stands that is too long, goes over lines or holds a NUL, and why; -1 for none.

    To be asked before the ids become an array. Of a CSV file's ``cells`` a stray quote is asked for.
    """
    hint = "; is a quote left open?" if cells else ""
    for row, text in enumerate(ids):
        if len(text) > LONGEST:
            return row, f"is {len(text):,} characters long, {LONGEST} are allowed{hint}"
        if "\n" in text or "\r" in text:
            return row, f"holds a line break{hint}"
        if "\0" in text:
            return row, "holds a NUL character"  # an array of text drops those at its end: two ids would be one
    return -1, ""


def wrong_id(text: str) -> str:
    """Why an id cannot be carried; "" where it can."""
    if not text.strip(" ") or any(c in ',"^' or c < " " for c in text):
        return 'ids must not be blank nor hold , " ^ or controls'
    if text.startswith("\ufeff"):
        return "it begins with a byte order mark, which is invisible and gets lost; remove it"
    return "pandas reads it as a missing cell; rename it" if text in MISSING else ""
