"""The ablation: what several margins buy over the best re-tuned single one."""

from __future__ import annotations

from findings_page.words import both_metrics
from mml_plugin.report.comparison import METRICS, Group, Line, groups_of, monitor, percent
from mml_plugin.report.families import cells_with_result, labels_of
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Rows
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_RUN, rounded, short, signed


def ablation(pool: Pool) -> str:
    """What several margins buy over the best re-tuned single one, in a sentence per number of negatives."""
    rows = pool.suites.get("ablation")
    sentences = []
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
        sentences += _as_published(rows, group.name, one)
    sentences += _first_round(pool.suites.get("ablation15"))
    return "\n\n".join(sentences) or NOT_RUN.capitalize() + "."


def _families(group: Group) -> tuple[Line, Line] | None:
    """The line of the best single margin and that of the best several ones; None where one is missing."""
    lines = {line.name: line for line in group.lines}
    names = ("single margin", "several margins")
    return (lines[names[0]], lines[names[1]]) if set(lines) == set(names) else None


def _as_published(rows: Rows | None, group: str, tuned: Line) -> list[str]:
    """What the cells without an override reach on the same split, screened out or not, and what tuning gained."""
    lines: dict[str, Line] = {}
    for row in rows.cells if rows else []:
        if row["state"] == "outdated" or row["group"] != group or row["settings"]:
            continue
        if all(row[metric] for metric in METRICS):
            lines.setdefault(row["loss"], Line(row["loss"], {})).runs[row["seed"]] = row
    if not lines:
        return []
    reached = ", ".join(f"{loss} {both_metrics(line)}" for loss, line in lines.items())
    names = " / ".join(short(metric) for metric in METRICS)
    said = f"{group}, whole runs of the published settings on the same split: {reached} ({names}, test)."
    before = lines.get(tuned.first["loss"])
    gains = [percent(before, tuned, metric) for metric in METRICS] if before else []
    if gains and all(gain is not None for gain in gains):
        said += f" Re-tuning alone gives {tuned.first['loss']} {' / '.join(map(signed, gains))}."
    return [said]


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
    rows, lines = pool.suites.get("ablation"), []
    for group in groups_of(rows.done()) if rows else []:
        families, counts = _families(group), cells_with_result(rows, group.name) if rows else {}
        if families and all(found == asked for found, asked in counts.values()):
            one, several = families
            gains = [pool.gain_of(one, several, metric).words() for metric in METRICS]
            lines.append([group.name, both_metrics(one), both_metrics(several), *gains])
    asked = "margins or weight? Both tuned, held-out"
    header = [asked, "best single margin", "several margins", *(short(metric) for metric in METRICS)]
    return markdown_table(header, lines) if lines else ""
