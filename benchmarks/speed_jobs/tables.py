"""The tables of docs/speed.md and of the README, from the rows."""

from __future__ import annotations

from collections.abc import Sequence

from mml_plugin.report.table import markdown_table
from speed_jobs.rows import MACHINE, Row

STAGES = {
    "sampling_seconds": "sampling",
    "forward_backward_seconds": "forward, backward",
    "optimiser_seconds": "optimiser",
    "fifth_epoch_seconds": "fifth epoch",
    "evaluation_seconds": "evaluation",
    "import_seconds": "import",
    "compile_seconds": "compilation, once",
}


def every_case(rows: Sequence[Row], order: Sequence[str]) -> str:
    """Every row of every machine, stage by stage.

    Args:
        rows: of speed.csv.
        order: the cases' names, as they are to stand.
    """
    cells = []
    for r in sorted(rows, key=lambda r: (order.index(r["case"]), machine(r))):
        scaled = r["scaled"] == "True"
        whole = f" (whole: {float(r['full_memory_gb']):.1f} GB)" if r["engine"] == "recbox" and scaled else ""
        cells.append([
            r["case"], machine(r), r["engine"] + (f" ({r['backend']}, {r['device']})" if r["backend"] else ""),
            f"{float(r['epoch_seconds']):.1f} s" + (" (scaled)" if scaled else ""),
            f"{float(r['times_faster']):.1f}x" if r["times_faster"] else "",
            *(f"{float(r[stage]):.1f} s" if r.get(stage) else "" for stage in STAGES),
            # A share of the rows is encoded, the rest of recbox's seconds are what they are: no figure for the whole.
            f"{float(r['data_seconds']):.1f} s" if r["engine"] == "fast" else "",
            f"{float(r['peak_memory_gb']):.2f} GB{whole}",
            f"{float(r['floor_share']):.0%}" if r.get("floor_share") else "", r["rows"],
        ])  # fmt: skip
    header = ["case", "machine", "engine", "epoch", "times faster", *STAGES.values(), "data", "peak memory",
              "bandwidth floor", "trained rows"]  # fmt: skip
    return markdown_table(header, cells, left=3)


def growth_table(rows: Sequence[Row]) -> str:
    """By size of the catalogue and number of interactions."""
    header = ["items", "interactions", "users", "device", "step", "epoch", "ranking per user", "peak memory", "machine"]
    cells = [
        [r["items"], r["interactions"], r["users"], f"{r['backend']}, {r['device']}", f"{r['step_ms']} ms",
         f"{r['epoch_seconds']} s", f"{r['ranking_ms_per_user']} ms", f"{r['peak_memory_gb']} GB", machine(r)]
        for r in sorted(rows, key=lambda r: (int(r["items"]), int(r["interactions"])))
    ]  # fmt: skip
    return markdown_table(header, cells, left=0)


def sampler_table(rows: Sequence[Row]) -> str:
    """What each kind of sampler adds to a draw and to a step."""
    header = ["data", "negatives", "draws", "device", "threads", "per draw", "times uniform", "step", "times uniform",
              "machine"]  # fmt: skip
    cells = [
        [r["expid"].split("_")[1], r["negatives"], r["kind"], f"{r['backend']}, {r['device']}", r["threads"],
         f"{float(r['ns_per_draw']):.1f} ns", f"{float(r['times_uniform']):.2f}x", f"{float(r['step_ms']):.2f} ms",
         f"{float(r['times_uniform_step']):.2f}x", machine(r)]
        for r in rows
    ]  # fmt: skip
    return markdown_table(header, cells, left=4)


def readme_table(rows: Sequence[Row]) -> str:
    """recbox beside the fast engine's own pick on a CPU, each case's newest.

    Args:
        rows: of speed.csv in the file's order, in which a day's later rows stand behind its earlier ones.
    """
    header = ["experiment", "negatives", "machine", "epoch: recbox, fast", "evaluation", "faster", "on every machine",
              "peak memory"]  # fmt: skip
    return markdown_table(header, newest(rows), left=3)


def newest(rows: Sequence[Row]) -> list[list[str]]:
    """The cells of :func:`readme_table`."""
    pairs = _pairs(rows)
    # A machine's earlier rows are of earlier commits.
    on_machine = {(fast["case"], *(fast[k] for k in MACHINE)): float(fast["times_faster"]) for _, fast in pairs}
    cells = []
    for case, (stock, fast) in {fast["case"]: (stock, fast) for stock, fast in pairs}.items():
        factors = sorted(factor for key, factor in on_machine.items() if key[0] == case)
        every = " to ".join(dict.fromkeys(f"{factor:.0f}x" for factor in (factors[0], factors[-1])))
        cells.append([
            stock["expid"], stock["negatives"], machine(fast),
            *(f"{float(stock[k]):.1f} s, {float(fast[k]):.1f} s" for k in ("epoch_seconds", "evaluation_seconds")),
            f"{float(fast['times_faster']):.0f}x", every if len(factors) > 1 else "–",
            f"{float(stock['full_memory_gb']):.1f} GB, {float(fast['peak_memory_gb']):.2f} GB",
        ])  # fmt: skip
    return sorted(cells, key=lambda cell: (cell[0], int(cell[1])))


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """recbox's and numba's rows that were measured in the same run, the oldest first; numba's alone have no factor."""
    found = [
        (stock, fast) for stock in rows for fast in rows
        if all(fast[k] == stock[k] for k in ("case", "commit", *MACHINE))
        and (fast["backend"], stock["engine"]) == ("numba", "recbox") and fast["times_faster"]
    ]  # fmt: skip
    return sorted(found, key=lambda pair: pair[1]["date"])


def machine(row: Row) -> str:
    """What a row was measured on, and when."""
    return f"{row['gpu'] or row['processor']}, {row['date']}"
