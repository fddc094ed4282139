"""What a report is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mml_plugin.report.rows import Row


@dataclass(frozen=True)
class Spec:
    """What a report needs beside rows.

    Attributes:
        title, about: its head.
        kind: ``metrics``, ``time`` or ``data``.
        paper: the paper's table to stand beside ours.
        source: whose figures these are, in a table's header: ``paper``, or ``published`` of somebody else's.
        stop_epochs: where the paper's early-stopped runs ended.
        early_stop: a patience to read off the histories.
        notes: sentences for the head, such as "defaults, not tuned here".
        rebuild: the command that makes the report anew.
    """

    title: str
    about: str = ""
    kind: str = "metrics"
    paper: Sequence[Row] = ()
    source: str = "paper"
    stop_epochs: Sequence[Row] = ()
    early_stop: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    rebuild: str = ""
