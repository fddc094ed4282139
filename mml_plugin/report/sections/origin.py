"""A section of a report: where its numbers come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mml_plugin.report.document import Document, Heading, Items
from mml_plugin.report.rows import Row


def add_origin(document: Document, done: Sequence[Row], machines: Mapping[str, str]) -> None:
    """Where the rows come from: machines, versions, commits, days."""

    def distinct(*columns: str) -> list[str]:
        found = {" ".join(row[c] for c in columns if row.get(c)): None for row in done}
        return [text for text in found if text]

    versions = [
        ", ".join(f"{n} {row[n]}" for n in ("python", "torch", "numpy", "numba", "triton", "recbox") if row.get(n))
        for row in done
    ]
    days = sorted({row["date"][:10] for row in done})
    commits = [f"{text[:12]}{'-dirty' if text.endswith('-dirty') else ''}" for text in distinct("commit")]
    data = list(dict.fromkeys(text.partition("/")[0] for text in distinct("dataset", "data_fingerprint")))
    document.blocks += [
        Heading("Where these numbers come from"),
        Items(
            [
                f"{len(done)} runs, {days[0]} to {days[-1]}",
                *(f"machine {number}: {machine}" for machine, number in machines.items()),
                *(f"versions: {v}" for v in dict.fromkeys(versions)),
                f"commits: {', '.join(commits)}",
                f"data fingerprints: {', '.join(data)}",
                f"first command: {done[0]['command']}",
            ]
        ),
    ]
