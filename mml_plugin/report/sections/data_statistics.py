"""A section of a report: what a data set holds, beside the paper's figures."""

from __future__ import annotations

from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.rows import Rows
from mml_plugin.report.spec import Spec


def add_data_statistics(document: Document, spec: Spec, rows: Rows) -> None:
    """Each data set's counts, and how far they are from the paper's."""
    found: dict[str, dict[str, str]] = {}
    for row in rows.cells:
        found.setdefault(row["dataset"], {})[row["what"]] = row["value"]
    for dataset, values in found.items():
        paper = next((line for line in spec.paper if line["dataset"] == dataset), {})
        document.blocks.append(Heading(dataset))
        lines = []
        for what, value in values.items():
            printed = paper.get(what, "")
            difference = f"{float(value) - float(printed):+g}" if printed else ""
            lines.append([what, _thousands(printed), _thousands(value), difference])
            document.numbers.append({"dataset": dataset, "what": what, "paper": printed, "ours": value})
        document.blocks.append(Table(["", "paper", "ours", "difference"], lines))
    document.blocks.append(Text(f"Commit: {', '.join(sorted({row['commit'][:12] for row in rows.cells}))}"))


def _thousands(text: str) -> str:
    return f"{int(text):,}" if text.isdecimal() else text
