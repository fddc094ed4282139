"""A section of a report: all tuning cells, and what the second family buys over the first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mml_plugin.report.comparison import (
    Group,
    Line,
    common_seeds,
    groups_of,
    metrics_of,
    monitor,
    percent,
    ranked,
    shared_seeds,
)
from mml_plugin.report.document import Document, Heading, Table, Text
from mml_plugin.report.families import cells_with_result, labels_of, unfinished, with_a_result
from mml_plugin.report.rows import Rows
from mml_plugin.report.words import monitor_words, rounded, selected_on, short, signed


def add_tuning(document: Document, rows: Rows) -> None:
    """All tuning cells, by validation; test is not shown here, so that nobody picks by it."""
    groups: dict[str, dict[str, Line]] = {}
    for row in rows.done():
        if row.get("family"):
            line = groups.setdefault(row["group"], {}).setdefault(row["label"], Line(row["label"], {}))
            line.runs[row["seed"]] = row
    for group, lines in groups.items():
        families: dict[str, list[Line]] = {}
        for line in lines.values():
            families.setdefault(line.first["family"], []).append(line)
        # The seeds that chose: the chosen cell's further ones say nothing about the others.
        seeds = {name: common_seeds(members) for name, members in families.items()}
        ordered = [line for name, members in families.items() for line in ranked(members, seeds[name] or None)]
        alike = len({(line.first["monitor"], line.first.get("monitor_mode")) for line in ordered}) == 1
        if alike and len({tuple(own) for own in seeds.values()}) == 1:
            ordered = ranked(ordered, next(iter(seeds.values())) or None)
        counts = cells_with_result(rows, group)
        name = monitor_words(ordered[0].first)
        said = selected_on(ordered[0].first)
        table = [
            [line.first["family"], line.name, rounded(monitor(line, seeds[line.first["family"]] or None), 5)]
            for line in ordered
        ]
        document.blocks += [
            Heading(f"Tuning cells, {group}"),
            Text(f"Cells with a result: {with_a_result(counts)}.{_more_seeds(families, seeds)}"),
            Table(["family", "cell", f"{name} on {said}"], table, 2),
        ]
        chosen = groups_of(row for line in lines.values() for row in line.runs.values())
        sentence = _bought(group, chosen, {name: len(labels_of(rows, group, name)) for name in families})
        if sentence and not unfinished(rows, group):
            document.blocks.append(Text(sentence))


def _more_seeds(families: Mapping[str, Sequence[Line]], seeds: Mapping[str, Sequence[str]]) -> str:
    """On which seeds cells are compared, where some have more."""
    more = any(len(line.runs) > len(seeds[name]) for name, members in families.items() for line in members)
    if not more or not any(seeds.values()):
        return ""
    flatters = (
        " A chosen cell's runs with the seed that chose it are among those that its means and tests are over: they are "
        "a little too high by that, as the best of several draws is."
    )
    if len({tuple(own) for own in seeds.values()}) == 1:
        return f" Compared on seed {' '.join(next(iter(seeds.values())))}, which all of them have.{flatters}"
    said = "; ".join(f"{name} {' '.join(own)}" for name, own in seeds.items() if own)
    return f" Compared within their family, on the seeds that all its cells have: {said}.{flatters}"


def _cells(line: Line, tried: Mapping[str, int]) -> str:
    """``3 cells``, or ``3 whole runs out of 25 cells`` where the others were screened out."""
    whole, cells = line.cells, tried.get(line.name, line.cells)
    if cells > whole:
        return f"{whole} whole run{'s' * (whole > 1)} out of {cells} cells"
    return f"{whole} cell{'s' * (whole > 1)}"


def _bought(group: str, chosen: Sequence[Group], tried: Mapping[str, int]) -> str:
    """What the second family buys over the first, in one sentence.

    Args:
        tried: family -> its tuning cells, those that were screened out among them.
    """
    lines = chosen[0].lines
    if len(lines) != 2:
        return ""
    first, second = lines
    seeds = shared_seeds(first, second)
    gains = [f"{signed(percent(first, second, m))} {short(m)}" for m in metrics_of([first.first])]
    return (
        f"{group}: the best of {_cells(second, tried)} with {second.name} ({second.first['label']}) is "
        f"{' and '.join(gains)} against the best of {_cells(first, tried)} with {first.name} "
        f"({first.first['label']}), on test, "
        f"both chosen on {selected_on(first.first)}, {len(seeds)} seed{'s' if len(seeds) != 1 else ''}."
    )
