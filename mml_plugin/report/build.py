"""A suite's report out of its rows."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.comparison import Group, compare, groups_of, machine_of
from mml_plugin.report.document import Document, Heading, Text
from mml_plugin.report.families import unfinished
from mml_plugin.report.protocols import SAYS, only_protocol
from mml_plugin.report.rows import Rows
from mml_plugin.report.sections.bands import add_bands
from mml_plugin.report.sections.by_negatives import add_by_negatives
from mml_plugin.report.sections.curves import add_curves
from mml_plugin.report.sections.data_statistics import add_data_statistics
from mml_plugin.report.sections.holes import add_holes
from mml_plugin.report.sections.metric_tables import add_metric_tables
from mml_plugin.report.sections.origin import add_origin
from mml_plugin.report.sections.seconds import add_seconds
from mml_plugin.report.sections.significance import add_significance
from mml_plugin.report.sections.stopped_early import add_stopped_early
from mml_plugin.report.sections.time_and_memory import add_time_and_memory
from mml_plugin.report.sections.tuning import add_tuning
from mml_plugin.report.spec import Spec


def build(spec: Spec, rows: Rows) -> Document:
    """The report; a pure function of its arguments."""
    document = Document()
    add = document.blocks.append
    add(Heading(spec.title, 1))
    if spec.rebuild:
        add(Text(f"Written by `{spec.rebuild}` from rows; do not edit by hand."))
    for text in (spec.about, *spec.notes):
        if text:
            add(Text(text.strip()))
    if spec.kind == "data":
        add_data_statistics(document, spec, rows)
        return document
    current = [row for row in rows.cells if row["state"] != "outdated"]
    if current:
        add(Text(SAYS[only_protocol(current)]))
    done = rows.done()
    add_holes(document, rows)
    if not done:
        failed = any(row["state"] == "failed" for row in current)
        what = "has a result yet" if failed else "has been run yet"
        add(Text(f"Nothing {what}." if len(current) == len(rows.cells) else f"Nothing else {what}."))
        return document
    groups, epochs = _in_order(groups_of(done)), rows.whole_epochs()
    if spec.kind == "time":
        add_seconds(document, spec, groups)
    else:
        add_metric_tables(document, spec, rows, groups)
        add_significance(document, compare(rows, [group for group in groups if not unfinished(rows, group.name)]))
        if spec.early_stop:
            add_stopped_early(document, spec, groups, epochs)
        add_by_negatives(document, rows, groups)
        add_tuning(document, rows)
        add_curves(document, groups, epochs)
        add_bands(document, groups, epochs)
    # Beside its report a file of numbers may travel alone.
    document.numbers = [{"protocol": only_protocol(current), **number} for number in document.numbers]
    machines = {machine: str(number) for number, machine in enumerate(dict.fromkeys(map(machine_of, done)), 1)}
    add_time_and_memory(document, groups, epochs, machines)
    add_origin(document, done, machines)
    return document


def _in_order(groups: Sequence[Group]) -> list[Group]:
    """Models and data sets as they come, numbers of negatives rising: suites run in another order."""
    places: dict[tuple[str, str], int] = {}
    for group in groups:
        places.setdefault((group.first.first["model"], group.first.first["dataset"]), len(places))

    def place(group: Group) -> tuple[int, int]:
        row = group.first.first
        return places[row["model"], row["dataset"]], int(row["num_negs"])

    return sorted(groups, key=place)
