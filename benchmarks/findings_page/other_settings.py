"""Beside the paper's protocol: held-out, the plateau schedule, the strongest number, both engines."""

from __future__ import annotations

from findings_page.paper import DATASETS, FOLDERS
from findings_page.words import ANYTHING, value_of
from mml_plugin.report.comparison import METRICS, Line, shared_seeds
from mml_plugin.report.pool import Pool
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


def plateau_pairs() -> dict[str, tuple[str, str]]:
    """Model and data set -> CCL's and MML's experiment with the plateau schedule."""
    return {
        f"{model}, {dataset}": (f"{model}_{data}_ccl_plateau", f"{model}_{data}_mml_plateau")
        for model in ("MF", "SimpleX")
        for data, dataset in DATASETS.items()
    }


def plateau(pool: Pool) -> str:
    """CCL and MML at a constant learning rate and with the plateau schedule."""
    lines = []
    for what, pair in plateau_pairs().items():
        names = [name for scheduled in pair for name in (scheduled.removesuffix("_plateau"), scheduled)]
        for metric in METRICS:
            values = [value_of(pool.line(name), metric) for name in names]
            gain = pool.gain(*pair, metric)
            lines.append([what, short(metric), *values, gain.words(), gain.verdict(ANYTHING)])
    header = ["100 negatives", "metric", "CCL", "CCL, plateau", "MML", "MML, plateau", "MML to CCL, both plateau"]
    return markdown_table([*header, "MML ahead"], lines, left=2)


def strongest(pool: Pool) -> str:
    """The best finished run of each loss on MF, whatever its setting."""
    lines = []
    for data, folder in FOLDERS.items():
        for loss in ("CCL", "MML", "BSL"):
            name = f"{DATASETS[data]}, {loss}"
            runs = [
                line
                for line in pool.selected_on_test()
                if not line.first.get("cut")
                and (line.first["model"], line.first["dataset"], line.first["loss"]) == ("MF", folder, loss)
            ]
            if not runs:
                lines.append([name, NOT_RUN, "", "", ""])
                continue
            best = max(runs, key=lambda line: line.mean(METRICS[0]) or 0.0)
            lines.append([name, best.name, best.first["num_negs"], *(value_of(best, metric) for metric in METRICS)])
    table = markdown_table(["MF", "experiment", "negatives", "Recall@20", "NDCG@20"], lines, left=2)
    return f"{table}\n\n{_not_among_them(pool)}".strip()


def _not_among_them(pool: Pool) -> str:
    """Which experiments of these losses on MF the suites ask for and have not run, selected on test and never cut."""
    open_ones = {
        row["expid"]
        for rows in pool.suites.values()
        for row in rows.cells
        if row["state"] != "done" and (row["model"], row["protocol"]) == ("MF", "paper") and not row["settings"]
        and row["loss"] in ("CCL", "MML", "BSL") and pool.line(row["expid"]) is None
    }  # fmt: skip
    return f"Not among them, since not run yet: {', '.join(sorted(open_ones))}." if open_ones else ""


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
