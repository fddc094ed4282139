"""A section of a report: what is not there, and why."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.document import Document, Heading, Items, Table, Text
from mml_plugin.report.families import cells_of, labels_of
from mml_plugin.report.rows import Row, Rows, is_to_run, state_of_cell
from mml_plugin.report.words import FEW, few

_KEPT = {"done": "failed; an earlier result is shown", "outdated": "failed; an earlier result is left out"}


def add_holes(document: Document, rows: Rows) -> None:
    """What is not there, and why: failed cells with their error, missing ones by name."""
    quiet = ("done", "missing", "outdated", "screened out", "waiting", "running elsewhere")
    failed = [row for row in rows.cells if row["state"] not in quiet or (row["state"] in _KEPT and row["error"])]
    missing = [row for row in rows.cells if state_of_cell(row) == "missing"]
    running = [f"{row['label']} ({row['group']})" for row in rows.cells if row["state"] == "running elsewhere"]
    outdated = [row for row in rows.cells if row["state"] == "outdated"]
    if missing:
        total = sum(map(is_to_run, rows.cells))
        document.blocks += [Text(f"Not run yet: {len(missing)} of {total} cells."), Items(_missing(rows, missing))]
    if running:
        document.blocks.append(Text(f"Running in another process: {few(list(dict.fromkeys(running)))}."))
    document.blocks += [*_waiting(rows), *_screened(rows)]
    if outdated:
        said = sorted({f"{row['label']} ({row['group']})" for row in outdated})
        document.blocks.append(
            Text(f"Left out, measured with settings or data that are no longer the suite's: {few(said)}.")
        )
    if failed:
        document.blocks.append(Heading("Cells that failed"))
        cells = [[row["cell"], f"{row['label']} ({row['group']})", _state(row), row["error"]] for row in failed]
        document.blocks.append(Table(["cell", "what", "state", "error"], cells, left=4))


def _state(row: Row) -> str:
    """A failed cell's state, and what became of a result that it had before."""
    return _KEPT.get(row["state"], row["state"])


def _waiting(rows: Rows) -> list[Text | Items]:
    """The families whose short runs do not say yet which of their cells get a whole run."""
    found: dict[tuple[str, str], str] = {}
    for row in rows.cells:
        if state_of_cell(row) == "waiting":
            why = row["error"] if row["state"] == "waiting" else ""
            found[row["group"], row["family"]] = why or found.get((row["group"], row["family"]), "")
    if not found:
        return []
    said = Text("Not run yet, because short runs are to say first which cells are worth a whole run:")
    return [said, Items([f"{group}: {family}{', ' * bool(why)}{why}" for (group, family), why in found.items()])]


def _screened(rows: Rows) -> list[Text | Items]:
    """How many tuning cells of which family got no whole run, and why."""
    labels: dict[str, dict[str, set[str]]] = {}
    out = [row for row in rows.cells if state_of_cell(row) == "screened out"]
    for row in out:
        labels.setdefault(row["group"], {}).setdefault(row["family"], set()).add(row["label"])
    if not out:
        return []
    why = " or ".join(dict.fromkeys(row["error"] for row in out if row["state"] == "screened out")) or "by short runs"
    lines = []
    for group, families in labels.items():
        counts = (f"{len(found)} of {len(labels_of(rows, group, name))} {name}" for name, found in families.items())
        lines.append(f"{group}: {', '.join(counts)}")
    return [Text(f"Screened out, {why}:"), Items(lines)]


def _missing(rows: Rows, missing: Sequence[Row]) -> list[str]:
    """One line per group: the labels that have no result yet; tuning cells and further seeds by number."""
    begun = {(row["group"], row["label"]) for row in rows.done()}
    lines: dict[str, dict[str, list[str]]] = {}
    cells: dict[tuple[str, str], set[str]] = {}
    for row in missing:
        group, label, family = row["group"], row["label"], row.get("family", "")
        if family and (group, label) not in begun:
            cells.setdefault((group, family), set()).add(label)
            label = family
        lines.setdefault(group, {}).setdefault(label, []).append(row["seed"])
    found = []
    for group, labels in lines.items():
        words = []
        for label, seeds in labels.items():
            if (group, label) in cells:
                words.append(f"{label} ({len(cells[group, label])} of {cells_of(rows, group, label)} tuning cells)")
            elif (group, label) in begun:
                words.append(f"{label} (seed{'s' if len(seeds) > 1 else ''} {' '.join(seeds)})")
            else:
                words.append(label)
        found.append(f"{group}: {few(words)}")
    return found if len(found) <= FEW else [*found[:FEW], f"and {len(found) - FEW} more groups"]
