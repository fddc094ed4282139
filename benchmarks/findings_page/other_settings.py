"""Beside the paper's protocol: held-out, others' settings, the strongest number, both engines."""

from __future__ import annotations

from findings_page.paper import DATASETS, FOLDERS, printed
from findings_page.words import value_of
from mml_plugin.report.comparison import METRICS, Line, paper_row, shared_seeds
from mml_plugin.report.pool import Pool
from mml_plugin.report.rows import Row
from mml_plugin.report.table import markdown_table
from mml_plugin.report.words import NOT_RUN, short, with_sd


def held_out(pool: Pool) -> str:
    """CCL, BSL and MML with the epoch chosen on validation."""
    lines = []
    for data, dataset in DATASETS.items():
        for loss in ("CCL", "BSL", "MML"):
            line = pool.line(f"MF_{data}_{loss.lower()}", "held-out")
            lines.append([f"{dataset}, {loss}", *_held_out_cells(pool, data, loss, line)])
    header = ["MF, 100 negatives", "Recall@20", "to CCL", "NDCG@20", "to CCL"]
    return markdown_table(header, lines)


def _held_out_cells(pool: Pool, data: str, loss: str, line: Line | None) -> list[str]:
    if line is None:
        return [NOT_RUN, ""] * len(METRICS)
    cells = []
    for metric in METRICS:
        cells.append(with_sd(line, metric) + (" (1 seed)" if len(line.runs) == 1 else ""))
        gain = pool.gain(f"MF_{data}_ccl", f"MF_{data}_{loss.lower()}", metric, "held-out")
        cells.append("" if loss == "CCL" else gain.words())
    return cells


def plateau(pool: Pool) -> str:
    """CCL and MML at a constant learning rate and with the plateau schedule."""
    lines = []
    for model in ("MF", "SimpleX"):
        for data, dataset in DATASETS.items():
            ccl, mml = (f"{model}_{data}_{loss}" for loss in ("ccl", "mml"))
            names = (ccl, f"{ccl}_plateau", mml, f"{mml}_plateau")
            for metric in METRICS:
                values = [value_of(pool.line(name), metric) for name in names]
                gain = pool.gain(f"{ccl}_plateau", f"{mml}_plateau", metric).words()
                lines.append([f"{model}, {dataset}", short(metric), *values, gain])
    header = ["100 negatives", "metric", "CCL", "CCL, plateau", "MML", "MML, plateau", "MML to CCL, both plateau"]
    return markdown_table(header, lines, left=2)


def anchors(pool: Pool) -> str:
    """What others publish, with their settings, and what the same settings reach here."""
    lines = []
    for anchor in printed("anchors"):
        match = next((line for line in _whole_runs(pool) if _is_of(anchor, line)), None)
        recall, ndcg = (value_of(match, metric) for metric in METRICS)
        name = f"{anchor['model']} + {anchor['loss']}, {anchor['dataset']}"
        values = [anchor["recall_at_20"], recall, anchor["ndcg_at_20"], ndcg]
        lines.append([name, *values, anchor["setting"], anchor["source"]])
    header = ["published", "Recall@20", "here", "NDCG@20", "here", "setting", "source"]
    return markdown_table(header, lines)


def _is_of(anchor: Row, line: Line) -> bool:
    """Whether the line is trained in the anchor's setting."""
    of_setting = {"BSL": "bslnative", "CCL": "reczoo"}.get(anchor["loss"], "")
    return of_setting in line.first["expid"] and bool(paper_row([anchor], line.first))


def _whole_runs(pool: Pool) -> list[Line]:
    """Lines of the fast engine selected on test, with nothing overridden."""
    return [
        line
        for (_, protocol, engine, settings), line in pool.lines.items()
        if (protocol, engine, settings) == ("paper", "fast", "")
    ]


def strongest(pool: Pool) -> str:
    """The best finished run of each loss on MF, whatever its setting."""
    lines = []
    for data, folder in FOLDERS.items():
        for loss in ("CCL", "MML", "BSL"):
            name = f"{DATASETS[data]}, {loss}"
            runs = [
                line
                for line in _whole_runs(pool)
                if not line.first.get("cut")
                and (line.first["model"], line.first["dataset"], line.first["loss"]) == ("MF", folder, loss)
            ]
            if not runs:
                lines.append([name, NOT_RUN, "", "", ""])
                continue
            best = max(runs, key=lambda line: line.mean(METRICS[0]) or 0.0)
            lines.append([name, best.name, best.first["num_negs"], *(value_of(best, metric) for metric in METRICS)])
    return markdown_table(["MF", "experiment", "negatives", "Recall@20", "NDCG@20"], lines, left=2)


def crosscheck(pool: Pool) -> str:
    """Both engines on the same experiments, a few epochs."""
    lines = []
    for data, dataset in DATASETS.items():
        for loss in ("ccl", "mml"):
            stock, fast = (
                pool.lines.get((f"MF_{data}_{loss}", "paper", engine, "epochs=2")) for engine in ("recbox", "fast")
            )
            cells = [f"MF_{data}_{loss} ({dataset})"]
            for metric in METRICS:
                both = stock is not None and fast is not None and shared_seeds(stock, fast)
                gain = pool.gain_of(stock, fast, metric).words() if both else ""
                cells += [value_of(stock, metric), value_of(fast, metric), gain]
            lines.append(cells)
    header = ["after 2 epochs", "Recall@20, recbox", "fast", "fast to recbox"]
    return markdown_table([*header, "NDCG@20, recbox", *header[2:]], lines)
