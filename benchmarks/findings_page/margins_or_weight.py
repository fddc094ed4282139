"""The ablation: what several margins buy over the best re-tuned single one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from findings_page.words import ANYTHING, both_metrics, value_of
from mml_plugin.report.comparison import METRICS, Group, Line, groups_of, monitor, ranked
from mml_plugin.report.families import cells_with_result, labels_of
from mml_plugin.report.gain import Gain
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Rows
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_RUN, rounded, short

RETUNED = ("CCL published", "CCL re-tuned", "MML published", "MML re-tuned")
AGAINST = (("CCL published", "CCL re-tuned"), ("CCL re-tuned", "MML published"), ("CCL re-tuned", "MML re-tuned"))


def ablation(pool: Pool) -> str:
    """What several margins buy over the best re-tuned single one, in a sentence per number of negatives."""
    rows = pool.suites.get("ablation")
    sentences, stood = [], []
    for group in groups_of(rows.done()) if rows else []:
        counts = cells_with_result(rows, group.name) if rows else {}
        if any(found < asked for found, asked in counts.values()):
            done = " and ".join(f"{found} of {asked} cells of {family}" for family, (found, asked) in counts.items())
            sentences.append(f"{group.name}: unfinished, only {done} have a result, so nothing is concluded yet.")
            continue
        if (families := _families(group)) is None:
            continue
        one, several = families
        gains = [f"{pool.gain_of(one, several, metric).words()} in {short(metric)}" for metric in METRICS]
        sentences.append(
            f"{group.name}: several margins buy {' and '.join(gains)} over the best re-tuned single margin; "
            f"{_tried(rows, group.name, one)} against {_tried(rows, group.name, several)}, both chosen on validation, "
            "measured on test."
        )
        ranks = [f"{line.name} {rank}" for line in families if (rank := _rank(pool, group.name, line))]
        stood += [f"{group.name}, {', '.join(ranks)}"] if ranks else []
    sentences += _near_the_cut(stood)
    sentences += _first_round(pool.suites.get("ablation15"))
    return "\n\n".join(sentences) or NOT_RUN.capitalize() + "."


def _families(group: Group) -> tuple[Line, Line] | None:
    """The line of the best single margin and that of the best several ones; None where one is missing."""
    lines = {line.name: line for line in group.lines}
    names = ("single margin", "several margins")
    return (lines[names[0]], lines[names[1]]) if set(lines) == set(names) else None


def _near_the_cut(stood: Sequence[str]) -> list[str]:
    """How the chosen cells stood after the short runs that decided what got a whole one."""
    if not stood:
        return []
    return [
        f"Where the chosen cells stood when the others were left out: {'; '.join(stood)}. A family whose chosen cell "
        "was the last that got a whole run may have lost a better one so, and the other may buy less over it than this."
    ]


def _rank(pool: Pool, group: str, line: Line) -> str:
    """``3 of 25 after 15 epochs``: where the chosen cell stood when the others were screened out."""
    rows = pool.suites.get("ablation15")
    cells = [row for row in rows.done() if (row["group"], row["family"]) == (group, line.name)] if rows else []
    lines: dict[str, Line] = {}
    for row in cells:
        lines.setdefault(row["label"], Line(row["label"], {})).runs[row["seed"]] = row
    if line.first["label"] not in lines:
        return ""
    labels = [cell.name for cell in ranked(list(lines.values()))]
    return f"{labels.index(line.first['label']) + 1} of {len(labels)} after {cells[0]['max_epochs']} epochs"


def retuned(pool: Pool) -> str:
    """What was published and what tuning chose, on one split, and MML against the re-tuned CCL."""
    lines = []
    for name, found in _retuned_groups(pool).items():
        for metric in METRICS:
            values = [value_of(found.get(label), metric) for label in RETUNED]
            gains = [_gain(pool, found, pair, metric).words() for pair in AGAINST]
            lines.append([name, short(metric), *values, *gains])
    header = ["held-out", "metric", *RETUNED, *(f"{second} to {first}" for first, second in AGAINST)]
    return markdown_table(header, lines, left=2) if lines else NOT_RUN.capitalize() + "."


def against_retuned(pool: Pool) -> list[str]:
    """Whether the published MML is above the re-tuned CCL: a verdict per number of negatives and metric."""
    groups = _retuned_groups(pool).values()
    return [_gain(pool, found, AGAINST[1], metric).verdict(ANYTHING) for found in groups for metric in METRICS]


def _retuned_groups(pool: Pool) -> dict[str, dict[str, Line]]:
    rows = pool.suites.get("retuned")
    return {group.name: {line.name: line for line in group.lines} for group in groups_of(rows.done() if rows else [])}


def _gain(pool: Pool, lines: Mapping[str, Line], pair: tuple[str, str], metric: str) -> Gain:
    first, second = (lines.get(label) for label in pair)
    return Gain(None) if first is None or second is None else pool.gain_of(first, second, metric)


def _first_round(rows: Rows | None) -> list[str]:
    """The best of each family after the short runs, by validation: what goes on, and no result."""
    found = []
    for group in groups_of(rows.done()) if rows else []:
        counts = cells_with_result(rows, group.name) if rows else {}
        words = []
        for line in group.lines:
            value, (done, asked) = monitor(line), counts[line.name]
            words.append(f"{line.name} {rounded(value)} ({line.first['label']}; {done} of {asked} cells)")
        said = short(group.first.first["monitor"])
        found.append(
            f"{group.name}, first round of {group.first.first['max_epochs']} epochs, best {said} on validation: "
            f"{', '.join(words)}. It says what gets a whole run, not where it ends."
        )
    return found


def _tried(rows: Rows | None, group: str, line: Line) -> str:
    """How many tuning cells a line was chosen from, and which it is."""
    every = len(labels_of(rows, group, line.name)) if rows else line.cells
    many = f"{line.cells} whole runs of {every} cells" if every > line.cells else f"{line.cells} cells"
    return f"{many} ({line.first['label']})"


def readme_ablation(pool: Pool) -> str:
    """The README's table of it, of what is finished; empty where nothing is."""
    lines = [
        [name, *(both_metrics(found.get(label)) for label in RETUNED),
         *(_gain(pool, found, pair, METRICS[0]).words() for pair in AGAINST[1:])]
        for name, found in _retuned_groups(pool).items()
    ]  # fmt: skip
    header = ["held-out, Recall@20 / NDCG@20", *RETUNED]
    header += [f"{second} to {first}, Recall@20" for first, second in AGAINST[1:]]
    return markdown_table(header, lines) if lines else ""
