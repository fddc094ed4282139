"""A section of a report: metrics by number of negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mml_plugin.report import figures
from mml_plugin.report.comparison import Group, Line, metrics_of
from mml_plugin.report.document import Document, Heading, Image, Table, Text
from mml_plugin.report.families import cells_with_result
from mml_plugin.report.rows import Rows
from mml_plugin.report.words import rounded, short, slug


def _by_model(groups: Sequence[Group]) -> dict[tuple[str, str], list[Line]]:
    """(model, data set) -> its lines, where they differ in the number of negatives."""
    found: dict[tuple[str, str], list[Line]] = {}
    for group in groups:
        for line in group.lines:
            found.setdefault((line.first["model"], line.first["dataset"]), []).append(line)
    return {key: lines for key, lines in found.items() if len({line.first["num_negs"] for line in lines}) > 1}


def _of_finished_families(rows: Rows, groups: Sequence[Group]) -> list[Group]:
    """The groups without the lines whose tuning is unfinished: their values are no points of a curve yet."""
    kept = []
    for group in groups:
        counts = cells_with_result(rows, group.name)
        lines = [line for line in group.lines if len(set(counts.get(line.name, (0, 0)))) == 1]
        kept += [Group(group.name, lines)] if lines else []
    return kept


def _curve_names(lines: Sequence[Line]) -> list[str] | None:
    """To which curve each line's point belongs; None where two would fall on one point of a curve."""
    counts = [line.first["num_negs"] for line in lines]
    plain, losses = [line.name for line in lines], [line.first["loss"] for line in lines]
    both = [f"{name}, {loss}" for name, loss in zip(plain, losses)]
    # A comparison's lines are named by experiment: one point each makes no curve, so they join by loss.
    ways = [losses, plain, both] if len(set(plain)) == len(plain) else [plain, both]
    return next((names for names in ways if len(set(zip(names, counts))) == len(lines)), None)


def _words_of_seeds(seeds: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], str]:
    """Of how many seeds each point is the mean; nothing where all are alike, as the tables before say it."""
    if len(set(seeds.values())) < 2:
        return {}
    return {point: f" ({number} seed{'s' if number > 1 else ''})" for point, number in seeds.items()}


def add_by_negatives(document: Document, rows: Rows, groups: Sequence[Group]) -> None:
    """A table and a plot per model, data set and metric, where lines differ in the number of negatives."""
    groups = _of_finished_families(rows, groups)
    places = {name: place for place, name in enumerate(dict.fromkeys(x.name for g in groups for x in g.lines))}
    for (model, dataset), lines in _by_model(groups).items():
        lines = sorted(lines, key=lambda line: places[line.name])
        if (names := _curve_names(lines)) is None:
            said = "several runs of one name stand at one number of negatives"
            document.blocks.append(Text(f"No curve by number of negatives, {model} on {dataset}: {said}."))
            continue
        for metric in metrics_of(row for line in lines for row in line.runs.values()):
            curves: dict[str, dict[int, float]] = {}
            seeds: dict[tuple[str, int], int] = {}
            for name, line in zip(names, lines):
                value, count = line.mean(metric), int(line.first["num_negs"])
                if value is not None:
                    curves.setdefault(name, {})[count] = value
                    seeds[name, count] = len(line.values(metric))
            title = f"{short(metric)} by number of negatives, {model} on {dataset}"
            counts = sorted({count for points in curves.values() for count in points})
            means_of = _words_of_seeds(seeds)
            table = [
                [name, *(rounded(points.get(count)) + means_of.get((name, count), "") for count in counts)]
                for name, points in curves.items()
            ]
            document.blocks += [
                Heading(title),
                Table([short(metric), *(str(count) for count in counts)], table),
                Image(f"{slug(f'negatives {model} {dataset} {short(metric)}')}.png",
                      figures.by_negatives(curves, short(metric), title), title),
            ]  # fmt: skip
