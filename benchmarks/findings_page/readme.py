"""The README's short tables."""

from __future__ import annotations

from findings_page.margins_or_weight import readme_ablation
from findings_page.paper import COLUMNS, DATASETS, FOLDERS, gains_at_10, gains_at_100, printed
from findings_page.public_anchors import in_setting, name_of
from findings_page.words import both_metrics
from mml_plugin.report.comparison import METRICS
from mml_plugin.report.pool import Pool
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import rounded, signed

# The paper's BSL figures come from its authors' own code, so their setting is what stands beside them.
SHOWN = (
    ("MF", "CCL", "ccl"),
    ("MF", "BSL", "bslnative"),
    ("MF", "MML", "mml"),
    ("SimpleX", "CCL", "ccl"),
    ("SimpleX", "MML", "mml"),
)
SAME_PIPELINE = ("MF", "BSL, in the others' pipeline", "bsl")


def readme_table(pool: Pool) -> str:
    """The short tables of the README: paper and here, value by value, then MML against CCL."""
    parts = [_values(pool), _gains(pool), readme_ablation(pool), _anchors(pool)]
    parts.append(
        "The fast engine, selected on test as the paper selects, where it does not say held-out (selected on "
        "validation, measured on test); in brackets the 95 % interval over users, how many seeds, the standard "
        "deviation of the difference over them (sd) and its paired t interval (t). A mean is over all seeds of its "
        "loss, a gain over those of both. [All findings](benchmarks/reports/README.md)"
    )
    return "\n\n".join(part for part in parts if part)


def _values(pool: Pool) -> str:
    table2 = [row for row in printed("table2_models") if row["early_stop"] == "no"]
    of_paper = {(r["model"], r["dataset"], r["loss"]): r for r in [*printed("table4_losses"), *table2]}
    lines = []
    for model, loss, run in (*SHOWN[:2], SAME_PIPELINE, *SHOWN[2:]):
        cells = [f"{model} + {loss}" + (", in its authors' setting" if run == "bslnative" else "")]
        for data, folder in FOLDERS.items():
            row = of_paper.get((model, folder, loss))
            cells.append(" / ".join(row[column] for column in COLUMNS) if row else "–")
            cells.append(both_metrics(pool.line(f"{model}_{data}_{run}")))
        lines.append(cells)
    header = ["Recall@20 / NDCG@20", *(cell for name in DATASETS.values() for cell in (f"{name}: paper", "here"))]
    return markdown_table(header, lines)


def _gains(pool: Pool) -> str:
    """MML over CCL at 100 and at 10 negatives, of what has been run."""
    lines = []
    for at, comparisons in ((100, gains_at_100()), (10, gains_at_10())):
        for name, first, second, claims in comparisons:
            gains = [pool.gain(first, second, metric) for metric in METRICS]
            if gains[0].percent is not None:
                cells = (cell for gain, claimed in zip(gains, claims) for cell in (signed(claimed), gain.words()))
                lines.append([f"{name}, {at} negatives", *cells])
    header = ["MML over CCL", "Recall@20, paper", "here", "NDCG@20, paper", "here"]
    return markdown_table(header, lines) if lines else ""


def _anchors(pool: Pool) -> str:
    """What others publish in logs and what the same settings reach here, of those that were run."""
    lines = []
    for anchor in printed("anchors"):
        line = in_setting(pool, anchor)
        if line is not None:
            published = " / ".join(rounded(float(anchor[column])) for column in COLUMNS)
            lines.append([f"{name_of(anchor)}, {anchor['num_negs']} negatives", published, both_metrics(line)])
    header = ["public logs, in their own settings", "Recall@20 / NDCG@20, published", "here"]
    return markdown_table(header, lines) if lines else ""
