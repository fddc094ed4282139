"""A suite's report out of its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean

from mml_plugin.report import figures
from mml_plugin.report.comparison import (
    Group,
    Line,
    Test,
    at_best,
    common_seeds,
    compare,
    groups_of,
    machine_of,
    machines_of,
    mean_curve,
    metrics_of,
    monitor,
    paper_row,
    percent,
    ranked,
    shared_seeds,
    watched,
)
from mml_plugin.report.document import Document, Heading, Image, Items, Table, Text
from mml_plugin.report.early_stopping import read_stop
from mml_plugin.report.protocols import SAYS, only_protocol
from mml_plugin.report.rows import Row, Rows, is_to_run, state_of_cell
from mml_plugin.report.statistics import MIN_SEEDS, PairedTest

PAPER_COLUMNS = {"Recall(k=20)": "recall_at_20", "NDCG(k=20)": "ndcg_at_20"}
GAIN_COLUMNS = {"Recall(k=20)": "recall_gain_percent", "NDCG(k=20)": "ndcg_gain_percent"}
FEW = 12
_KEPT = {"done": "failed; an earlier result is shown", "outdated": "failed; an earlier result is left out"}


@dataclass(frozen=True)
class Spec:
    """What a report needs beside rows.

    Attributes:
        title, about: its head.
        kind: ``metrics``, ``time`` or ``data``.
        paper: the paper's table to stand beside ours.
        stop_epochs: where the paper's early-stopped runs ended.
        early_stop: a patience to read off the histories.
        notes: sentences for the head, such as "defaults, not tuned here".
        rebuild: the command that makes the report anew.
    """

    title: str
    about: str = ""
    kind: str = "metrics"
    paper: Sequence[Row] = ()
    stop_epochs: Sequence[Row] = ()
    early_stop: int | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    rebuild: str = ""


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
        _data(document, spec, rows)
        return document
    current = [row for row in rows.cells if row["state"] != "outdated"]
    if current:
        add(Text(SAYS[only_protocol(current)]))
    done = rows.done()
    _holes(document, rows)
    if not done:
        failed = any(row["state"] == "failed" for row in current)
        what = "has a result yet" if failed else "has been run yet"
        add(Text(f"Nothing {what}." if len(current) == len(rows.cells) else f"Nothing else {what}."))
        return document
    groups, epochs = _in_order(groups_of(done)), rows.whole_epochs()
    if spec.kind == "time":
        _time_table(document, spec, groups)
    else:
        _metric_tables(document, spec, rows, groups)
        _tests(document, compare(rows, [group for group in groups if not unfinished(rows, group.name)]))
        if spec.early_stop:
            _early_stopping(document, spec, groups, epochs)
        _negatives(document, rows, groups)
        _tuning(document, rows)
        _curves(document, groups, epochs)
        _bands(document, groups, epochs)
    # Beside its report a file of numbers may travel alone.
    document.numbers = [{"protocol": only_protocol(current), **number} for number in document.numbers]
    machines = {machine: str(number) for number, machine in enumerate(dict.fromkeys(map(machine_of, done)), 1)}
    _cost(document, groups, epochs, machines)
    _origin(document, done, machines)
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


def short(metric: str) -> str:
    """``Recall(k=20)`` as ``Recall@20``."""
    return metric.replace("(k=", "@").rstrip(")")


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None, unit: str = " %") -> str:
    return "–" if value is None else f"{round(value, 2) + 0.0:+.2f}{unit}"


def _with_sd(line: Line, column: str, digits: int = 4) -> str:
    sd = line.sd(column)
    return _number(line.mean(column), digits) + (f" ± {sd:.{digits}f}" if sd is not None else "")


def _slug(text: str) -> str:
    kept = "".join(c if c.isalnum() else "-" for c in text.lower())
    return "-".join(part for part in kept.split("-") if part)


def _data(document: Document, spec: Spec, rows: Rows) -> None:
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


def _holes(document: Document, rows: Rows) -> None:
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
        document.blocks.append(Text(f"Running in another process: {_few(list(dict.fromkeys(running)))}."))
    document.blocks += [*_waiting(rows), *_screened(rows)]
    if outdated:
        said = sorted({f"{row['label']} ({row['group']})" for row in outdated})
        document.blocks.append(
            Text(f"Left out, measured with settings or data that are no longer the suite's: {_few(said)}.")
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


def labels_of(rows: Rows, group: str, family: str) -> set[str]:
    """The tuning cells of a family, screened out or not; one of several seeds counts once."""
    asked = filter(state_of_cell, rows.cells)
    return {row["label"] for row in asked if (row["group"], row.get("family")) == (group, family)}


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
                words.append(f"{label} ({len(cells[group, label])} of {_cells_of(rows, group, label)} tuning cells)")
            elif (group, label) in begun:
                words.append(f"{label} (seed{'s' if len(seeds) > 1 else ''} {' '.join(seeds)})")
            else:
                words.append(label)
        found.append(f"{group}: {_few(words)}")
    return found if len(found) <= FEW else [*found[:FEW], f"and {len(found) - FEW} more groups"]


def _cells_of(rows: Rows, group: str, family: str) -> int:
    """How many tuning cells of a family are to be run."""
    members = (row for row in filter(is_to_run, rows.cells) if (row["group"], row.get("family")) == (group, family))
    return len({row["label"] for row in members})


def _few(words: Sequence[str]) -> str:
    return ", ".join(words[:FEW]) + (f" and {len(words) - FEW} more" if len(words) > FEW else "")


def _metric_tables(document: Document, spec: Spec, rows: Rows, groups: Sequence[Group]) -> None:
    firsts: dict[str, str] = {}
    for row in filter(state_of_cell, rows.cells):
        firsts.setdefault(row["group"], row.get("family") or row["label"])
    for group in groups:
        metrics = metrics_of(row for line in group.lines for row in line.runs.values())
        chosen = any(line.cells > 1 for line in group.lines)
        header = ["run", "seeds"]
        for metric in metrics:
            header += [short(metric), f"to {group.first.name}"]
        header += ["best epoch"] + (["cells", "chosen"] if chosen else [])
        open_families = unfinished(rows, group.name)
        with_paper = _has(spec.paper, group, PAPER_COLUMNS)
        with_gain = _has(spec.paper, group, GAIN_COLUMNS) and not open_families
        for metric in metrics if with_paper else ():
            header += [f"paper {short(metric)}", "ours to paper"]
        for metric in metrics if with_gain else ():
            header += [f"paper's gain {short(metric)}", "ours minus paper's"]
        lines = []
        for line in group.lines:
            cells = [line.name, str(len(line.runs))]
            number: Row = {"group": group.name, "run": line.name, "seeds": " ".join(line.runs)}
            for metric in metrics:
                gain = None if line is group.first or open_families else percent(group.first, line, metric)
                cells += [_with_sd(line, metric), _signed(gain)]
                number |= {
                    short(metric): _number(line.mean(metric), 6),
                    f"{short(metric)} sd": _number(line.sd(metric), 6),
                }
                number[f"{short(metric)} percent to first"] = "" if gain is None else f"{gain:.3f}"
            cells.append("/".join(row["best_epoch"] for row in line.runs.values()))
            if chosen:
                cells += [str(line.cells), line.first["label"] if line.cells > 1 else ""]
            if with_paper:
                cells += _paper_cells(spec.paper, line, metrics, number)
            if with_gain:
                cells += _gain_cells(spec.paper, group, line, metrics, number)
            lines.append(cells)
            document.numbers.append(number)
        document.blocks += [Heading(group.name), Table(header, lines)]
        if open_families:
            document.blocks.append(
                Text(
                    f"Unfinished tuning ({_with_a_result(open_families)} have a result): the choice may still change, "
                    "so nothing is compared here yet."
                )
            )
        absent = firsts.get(group.name, group.first.name)
        if absent not in {line.name for line in group.lines}:
            document.blocks.append(
                Text(f"{absent}, which the others are held against, has no result yet: {group.first.name} stands in.")
            )
        cut = sorted({row["cut"] for line in group.lines for row in line.runs.values() if row.get("cut")})
        if cut:
            document.blocks.append(Text(f"Cut short: {'; '.join(cut)}. These are no results."))
    document.blocks.append(
        Text(
            "± is the standard deviation over seeds; 'to' is the difference of the means in percent of the first line, "
            "over the seeds that both have."
        )
    )


def _has(paper: Sequence[Row], group: Group, columns: Mapping[str, str]) -> bool:
    return any(
        (row := paper_row(paper, line.first, **_paper_keys(paper))) is not None
        and any(c in row for c in columns.values())
        for line in group.lines
    )


def _paper_keys(paper: Sequence[Row]) -> dict[str, str]:
    """Of a table with and without early stopping, a full run stands beside "without"."""
    return {"early_stop": "no"} if paper and "early_stop" in paper[0] else {}


def _paper_cells(paper: Sequence[Row], line: Line, metrics: Sequence[str], number: Row) -> list[str]:
    row = paper_row(paper, line.first, **_paper_keys(paper)) or {}
    cells = []
    for metric in metrics:
        printed, ours = row.get(PAPER_COLUMNS.get(metric, ""), ""), line.mean(metric)
        share = 100 * (ours / float(printed) - 1) if printed and ours is not None else None
        cells += [printed or "–", _signed(share)]
        number |= {f"paper {short(metric)}": printed, f"{short(metric)} percent to paper": _plain(share)}
    return cells


def _gain_cells(paper: Sequence[Row], group: Group, line: Line, metrics: Sequence[str], number: Row) -> list[str]:
    words = f"{line.first['loss']} over {group.first.first['loss']}"
    row = next(
        (r for r in paper if r["comparison"] == words and r["dataset"] == line.first["dataset"]
         and r["num_negs"] == line.first["num_negs"]), {},
    )  # fmt: skip
    cells = []
    for metric in metrics:
        printed, ours = row.get(GAIN_COLUMNS.get(metric, ""), ""), percent(group.first, line, metric)
        difference = ours - float(printed) if printed and ours is not None else None
        cells += [f"+{printed} %" if printed else "–", _signed(difference, " points")]
        number |= {f"paper's gain {short(metric)}": printed}
    return cells


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _tests(document: Document, tests: Sequence[Test]) -> None:
    """Both paired tests of every line against its group's first."""
    if not tests:
        return
    lines = []
    for test in tests:
        users = "not made" if test.users is None else _test_words(test.users, test.base)
        lines.append(
            [test.group, f"{test.second} to {test.first}", short(test.metric), _signed(test.percent),
             _test_words(test.seeds, test.base), users]
        )  # fmt: skip
        document.numbers.append(
            {"group": test.group, "run": f"{test.second} to {test.first}", "metric": short(test.metric),
             "difference": f"{test.seeds.difference:.6f}", **_test_numbers("t", test.seeds),
             **(_test_numbers("bootstrap", test.users) if test.users else {})}
        )  # fmt: skip
    document.blocks += [
        Heading("Is the difference real?"),
        Table(["group", "comparison", "metric", "difference", "paired t over seeds", "bootstrap over users"], lines, 3),
        Text(
            "Paired t: over seeds, 95 % confidence interval of the mean difference; it says whether another seed would "
            "show the same. Bootstrap: users resampled in pairs, each user's metric averaged over the shared seeds, "
            "95 % percentile interval; it says whether other users would, for these very trainings, and nothing about "
            f"other seeds. Intervals are in percent of the first's mean, and are not corrected. {_family(tests)}"
        ),
    ]


def _family(tests: Sequence[Test]) -> str:
    """How many p-values there are and what was done to them."""
    seeds = sum(test.seeds.p_value is not None for test in tests)
    users = sum(test.users is not None and test.users.p_value is not None for test in tests)
    few = f"With fewer than {MIN_SEEDS} seeds there is no p-value, of either kind."
    some = "" if all(test.seeds.count >= MIN_SEEDS for test in tests) else f" {few}"
    if not seeds and not users:
        return some.strip()
    return (
        f"p-values are two-sided and Holm-corrected over all comparisons of their kind in this report: {seeds} over "
        f"seeds, {users} over users.{some}"
    )


def _test_words(test: PairedTest, base: float) -> str:
    if test.reason:
        return test.reason
    scale, unit, digits = (100 / base, " %", 2) if base else (1.0, "", 5)
    interval = f"{scale * test.low:+.{digits}f} to {scale * test.high:+.{digits}f}{unit}"
    if test.p_value is None:
        return interval
    return f"{interval}, {'p < 0.0001' if test.p_value < 0.0001 else f'p = {test.p_value:.4f}'}"


def _test_numbers(name: str, test: PairedTest) -> Row:
    if test.reason:
        return {f"{name} p (Holm)": test.reason}
    return {
        f"{name} low": f"{test.low:.6f}",
        f"{name} high": f"{test.high:.6f}",
        f"{name} p (Holm)": "" if test.p_value is None else f"{test.p_value:.6g}",
    }


def _early_stopping(
    document: Document, spec: Spec, groups: Sequence[Group], epochs: Mapping[str, Sequence[Row]]
) -> None:
    """The same runs cut short by patience, beside the paper's early-stopped ones."""
    lines = []
    metrics = metrics_of(row for g in groups for line in g.lines for row in line.runs.values())
    for group in groups:
        for line in group.lines:
            found = {seed: _stopped(row, epochs, spec.early_stop or 1) for seed, row in line.runs.items()}
            seeds, stopped = [seed for seed, stop in found.items() if stop], [stop for stop in found.values() if stop]
            if not stopped:
                continue
            cells = [group.name, line.name, "/".join(end for end, _ in stopped)]
            number: Row = {"group": group.name, "run": f"{line.name}, early stopping", "stop epoch": cells[-1]}
            printed_stop = next((r["stop_epoch"] for r in spec.stop_epochs if _same(r, line.first)), "–")
            cells.append(printed_stop)
            paper = paper_row(spec.paper, line.first, early_stop="yes") or {}
            for metric in metrics:
                values = [float(row[metric]) for _, row in stopped if row.get(metric)]
                if not values:
                    cells += ["–"] * 4
                    continue
                ours = fmean(values)
                full = line.mean(metric, seeds) or 0.0
                printed = paper.get(PAPER_COLUMNS.get(metric, ""), "")
                share = _signed(100 * (ours / float(printed) - 1)) if printed else "–"
                cells += [_number(ours), _signed(100 * (ours / full - 1) if full else None), printed or "–", share]
                number |= {short(metric): f"{ours:.6f}", f"paper {short(metric)}": printed}
            lines.append(cells)
            document.numbers.append(number)
    if not lines:
        return
    header = ["group", "run", "stop epoch", "paper's stop epoch"]
    for metric in metrics:
        header += [short(metric), "to the full run", f"paper {short(metric)}", "ours to paper"]
    document.blocks += [
        Heading(f"With early stopping (patience {spec.early_stop}), read off the same histories"),
        Table(header, lines, 2),
        Text("A stop epoch with a + was not reached: the history ended first."),
    ]


def _same(printed: Row, row: Row) -> bool:
    return printed["model"] == row["model"] and printed["loss"] == row["loss"]


def _stopped(row: Row, epochs: Mapping[str, Sequence[Row]], patience: int) -> tuple[str, Row] | None:
    """Where the run would have stopped and the epoch it would report; None where its history cannot tell."""
    history = epochs.get(row["cell"], [])
    if not history or row["plateau"] == "yes" or row["protocol"] != "paper" or not history[0].get(row["monitor"]):
        return None  # a history of a monitor of several metrics, too, cannot tell
    if row.get("monitor_mode") == "min":
        return None
    stop = read_stop([float(epoch[row["monitor"]]) for epoch in history], patience)
    return f"{stop.epoch}{'' if stop.reached else '+'}", history[stop.best_epoch - 1]


def _families(groups: Sequence[Group]) -> dict[tuple[str, str], list[Line]]:
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


def _negatives(document: Document, rows: Rows, groups: Sequence[Group]) -> None:
    groups = _of_finished_families(rows, groups)
    places = {name: place for place, name in enumerate(dict.fromkeys(x.name for g in groups for x in g.lines))}
    for (model, dataset), lines in _families(groups).items():
        lines = sorted(lines, key=lambda line: places[line.name])
        if (names := _curve_names(lines)) is None:
            said = "several runs of one name stand at one number of negatives"
            document.blocks.append(Text(f"No curve by number of negatives, {model} on {dataset}: {said}."))
            continue
        for metric in metrics_of(row for line in lines for row in line.runs.values()):
            curves: dict[str, dict[int, float]] = {}
            for name, line in zip(names, lines):
                value = line.mean(metric)
                if value is not None:
                    curves.setdefault(name, {})[int(line.first["num_negs"])] = value
            title = f"{short(metric)} by number of negatives, {model} on {dataset}"
            counts = sorted({count for points in curves.values() for count in points})
            table = [[name, *(_number(points.get(count)) for count in counts)] for name, points in curves.items()]
            document.blocks += [
                Heading(title),
                Table([short(metric), *(str(count) for count in counts)], table),
                Image(f"{_slug(f'negatives {model} {dataset} {short(metric)}')}.png",
                      figures.by_negatives(curves, short(metric), title), title),
            ]  # fmt: skip


def _tuning(document: Document, rows: Rows) -> None:
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
        name = _monitor_words(ordered[0].first)
        said = _selected(ordered[0].first)
        table = [
            [line.first["family"], line.name, _number(monitor(line, seeds[line.first["family"]] or None), 5)]
            for line in ordered
        ]
        document.blocks += [
            Heading(f"Tuning cells, {group}"),
            Text(f"Cells with a result: {_with_a_result(counts)}.{_more_seeds(families, seeds)}"),
            Table(["family", "cell", f"{name} on {said}"], table, 2),
        ]
        sentence = _bought(group, groups_of(row for line in lines.values() for row in line.runs.values()))
        if sentence and not unfinished(rows, group):
            document.blocks.append(Text(sentence))


def _more_seeds(families: Mapping[str, Sequence[Line]], seeds: Mapping[str, Sequence[str]]) -> str:
    """On which seeds cells are compared, where some have more."""
    more = any(len(line.runs) > len(seeds[name]) for name, members in families.items() for line in members)
    if not more or not any(seeds.values()):
        return ""
    if len({tuple(own) for own in seeds.values()}) == 1:
        return f" Compared on seed {' '.join(next(iter(seeds.values())))}, which all of them have."
    said = "; ".join(f"{name} {' '.join(own)}" for name, own in seeds.items() if own)
    return f" Compared within their family, on the seeds that all its cells have: {said}."


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


def _with_a_result(counts: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{family} {found} of {asked}" for family, (found, asked) in counts.items())


def _bought(group: str, chosen: Sequence[Group]) -> str:
    """What the second family buys over the first, in one sentence."""
    lines = chosen[0].lines
    if len(lines) != 2:
        return ""
    first, second = lines
    seeds = shared_seeds(first, second)
    gains = [f"{_signed(percent(first, second, m))} {short(m)}" for m in metrics_of([first.first])]
    return (
        f"{group}: the best of {second.cells} cell{'s' * (second.cells > 1)} with {second.name} "
        f"({second.first['label']}) is "
        f"{' and '.join(gains)} against the best of {first.cells} with {first.name} ({first.first['label']}), on test, "
        f"both chosen on {_selected(first.first)}, {len(seeds)} seed{'s' if len(seeds) != 1 else ''}."
    )


def _monitor_words(row: Row) -> str:
    """What a run is selected by: ``Recall@20``, or ``0.5 Recall@20 + 1 NDCG@20``; said where less is better."""
    weights = watched(row)
    sums = " + ".join(f"{weight:g} {short(name)}" for name, weight in weights.items())
    words = sums if row["monitor"].startswith("{") else short(row["monitor"])
    return f"{words} (the least is best)" if row.get("monitor_mode") == "min" else words


def _selected(row: Row) -> str:
    """What a run's epoch, and of tuning cells the cell, was chosen on."""
    return "validation" if row["protocol"] == "held-out" else "test"


def _curves(document: Document, groups: Sequence[Group], epochs: Mapping[str, Sequence[Row]]) -> None:
    blocks, lost = [], []
    for group in groups:
        metric = next(iter(watched(group.first.first)))
        curves = {line.name: curve for line in group.lines if (curve := mean_curve(epochs, line, metric))}
        lost += [
            f"{line.name} ({group.name})"
            for line in group.lines
            if not all(row["cell"] in epochs for row in line.runs.values())
        ]
        if curves:
            title = f"{short(metric)} by epoch, {group.name}"
            png = figures.learning_curves(curves, short(metric), title)
            blocks.append(Image(f"{_slug(f'curves {group.name}')}.png", png, f"{title} (mean over seeds)"))
    if blocks or lost:
        said = _selected(groups[0].first.first)
        document.blocks += [Heading("Learning curves"), Text(f"Measured on {said}, mean over seeds."), *blocks]
    if lost:
        document.blocks.append(Text(f"Not shown, because not all epochs of the run are kept: {_few(lost)}."))


def _bands(document: Document, groups: Sequence[Group], epochs: Mapping[str, Sequence[Row]]) -> None:
    """How many negatives fall in each band and what share of the gradient each band has, on the same thresholds."""
    blocks: list = []
    for group in groups:
        thresholds = group.first.first.get("suite_thresholds", "").split()
        if not thresholds:
            continue
        names = [
            f"≤ {thresholds[0]}",
            *(f"{a} to {b}" for a, b in pairwise(thresholds)),
            f"> {thresholds[-1]}",
        ]
        shares, gradients, lines, others, lost = {}, {}, [], [], []
        for line in group.lines:
            if not all(epochs.get(row["cell"]) for row in line.runs.values()):
                lost.append(line.name)
                continue
            counted = [mean_curve(epochs, line, f"band_{band}") for band in range(len(names))]
            slopes = [mean_curve(epochs, line, f"gradient_{band}") for band in range(len(names))]
            if not all(counted) or any(
                row.get("suite_thresholds", "").split() != thresholds for row in line.runs.values()
            ):
                others.append(f"{line.name} (counted on {line.first.get('thresholds') or 'nothing'})")
                continue
            shares[line.name], gradients[line.name] = counted, slopes if all(slopes) else []
            best = [at_best(epochs, line, f"band_{band}") for band in range(len(names))]
            lines.append([line.name, "negatives", *(f"{100 * share:.3f} %" for share in best)])
            if all(slopes):
                best = [at_best(epochs, line, f"gradient_{band}") for band in range(len(names))]
                lines.append([line.name, "gradient", *(f"{100 * share:.1f} %" for share in best)])
        blocks.append(Heading(group.name, 3))
        if shares:
            title = f"Bands by epoch, {group.name}"
            blocks += [
                Table(["run", "share of", *names], lines, 2),
                Image(f"{_slug(f'bands {group.name}')}.png", figures.bands(shares, gradients, names, title), title),
            ]
        if lost:
            blocks.append(Text(f"Not shown, because not all epochs of the run are kept: {', '.join(lost)}."))
        if others:
            blocks.append(
                Text(f"Not binned here, because the run was counted on other margins: {', '.join(others)}. "
                     "Running it anew (--overwrite) counts it on these.")
            )  # fmt: skip
    if blocks:
        document.blocks += [
            Heading("Band occupancy"),
            Text(
                "Every run's training negatives between the same thresholds (similarity, dropout included), whatever "
                "its own margins, and each band's share of the gradient, the sum of |dL/dn|. Tables: at each run's "
                "best epoch."
            ),
            *blocks,
        ]


def _time_table(document: Document, spec: Spec, groups: Sequence[Group]) -> None:
    """Seconds per epoch, ours and the paper's; only the differences within a machine compare."""
    lines = []
    for group in groups:
        paper_first = paper_row(spec.paper, group.first.first) or {}
        for line in group.lines:
            paper = paper_row(spec.paper, line.first) or {}
            printed = paper.get("seconds_per_epoch", "")
            ours, base = _epoch_seconds(line), _epoch_seconds(group.first)
            base_printed = paper_first.get("seconds_per_epoch", "")
            own = "–"
            if len(machines_of(group.first, line)) > 1:
                own = "–, two machines"
            elif line is not group.first and base:
                own = f"{ours - base:+.2f} s ({100 * (ours / base - 1):+.1f} %)"
            theirs = "–"
            if printed and base_printed and line is not group.first:
                a, b = float(base_printed), float(printed)
                theirs = f"{b - a:+.1f} s ({100 * (b / a - 1):+.1f} %)"
            lines.append(
                [group.name, line.name, printed or "–", theirs, _number(line.mean("train_seconds_per_epoch"), 2),
                 _number(line.mean("eval_seconds_per_epoch"), 2), f"{ours:.2f}", own]
            )  # fmt: skip
            document.numbers.append(
                {"group": group.name, "run": line.name, "paper seconds per epoch": printed,
                 "seconds per epoch": f"{ours:.3f}"}
            )  # fmt: skip
    header = [
        "group",
        "run",
        "paper s/epoch",
        "paper to first",
        "training s",
        "evaluation s",
        "ours s/epoch",
        "to first",
    ]
    document.blocks += [
        Heading("Seconds per epoch"),
        Table(header, lines, 2),
        Text("Medians over epochs. The paper's seconds are of stock recbox on a P100; ours are of the machine below."),
    ]


def _epoch_seconds(line: Line) -> float:
    return (line.mean("train_seconds_per_epoch") or 0.0) + (line.mean("eval_seconds_per_epoch") or 0.0)


def _cost(
    document: Document,
    groups: Sequence[Group],
    epochs: Mapping[str, Sequence[Row]],
    machines: Mapping[str, str],
) -> None:
    lines = []
    for group in groups:
        for line in group.lines:
            seconds = (line.mean("train_seconds") or 0.0) + (line.mean("eval_seconds") or 0.0)
            # What was measured of fewer epochs is not the run's time.
            whole = all(row["cell"] in epochs for row in line.runs.values())
            where = "/".join(dict.fromkeys(machines[machine_of(row)] for row in line.runs.values()))
            memory = (line.mean("peak_memory_bytes") or 0.0) / 1e9
            lines.append(
                [group.name, line.name, line.first["engine"], _distinct(line, "backend"), _distinct(line, "device"),
                 where,
                 _number(line.mean("train_seconds_per_epoch"), 2), _number(line.mean("eval_seconds_per_epoch"), 2),
                 "/".join(r["epochs"] for r in line.runs.values()), f"{seconds / 60:.1f}" if whole else "–",
                 f"{memory:.2f}"]
            )  # fmt: skip
    header = ["group", "run", "engine", "backend", "device", "machine", "training s/epoch", "evaluation s/epoch",
              "epochs", "total min", "peak GB"]  # fmt: skip
    document.blocks += [Heading("Time and memory"), Table(header, lines, 6)]
    said = "Seconds are as they passed, whatever else the machine did meanwhile."
    if len(machines) > 1:
        said = f"Runs of several machines stand here, and their seconds do not compare. Within one, too: {said.lower()}"
    document.blocks.append(Text(said))


def _distinct(line: Line, column: str) -> str:
    return "/".join(sorted({row[column] for row in line.runs.values()}))


def _origin(document: Document, done: Sequence[Row], machines: Mapping[str, str]) -> None:
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
    document.blocks += [
        Heading("Where these numbers come from"),
        Items(
            [
                f"{len(done)} runs, {days[0]} to {days[-1]}",
                *(f"machine {number}: {machine}" for machine, number in machines.items()),
                *(f"versions: {v}" for v in dict.fromkeys(versions)),
                f"commits: {', '.join(commits)}",
                f"data fingerprints: {', '.join(distinct('dataset', 'data_fingerprint'))}",
                f"first command: {done[0]['command']}",
            ]
        ),
    ]
