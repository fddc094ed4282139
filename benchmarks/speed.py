"""Seconds and memory of a training epoch: stock recbox and each backend of the fast engine, in the same run.

Usage, from a folder that holds ``data/yelp18`` and ``data/gowalla``::

    python benchmarks/speed.py                    # every case on the CPU, rows to benchmarks/results/speed.csv
    python benchmarks/speed.py --device cuda      # the fast engine's cases on GPU 0
    python benchmarks/speed.py --case yelp-ccl-100 --rounds 5
    python benchmarks/speed.py --sweep            # how cost grows with catalogue and interactions
    python benchmarks/speed.py --sampler          # what popularity and exclusion add to a draw
    python benchmarks/speed.py --table            # rewrite docs/speed.md from the rows

Every measurement is a process of its own; recbox and the backends take turns (A B A B), and a row is the median of
its rounds; a first one, from an empty cache, lets numba compile and gives ``compile_seconds`` and
``cold_peak_memory_gb`` alone. recbox draws an epoch's negatives before the first batch, so
its rows are timed on a share of the training rows (drawn evenly, at least one of each user, histories whole) and
scaled: ``rows`` says how many were trained, ``full_memory_gb`` what the whole epoch's draw would need. A fast row
with less than a whole epoch's steps is scaled likewise. Epochs are whole ones after some 50 steps of
warming up (on a GPU, after an epoch); ``fifth_epoch_seconds``, of the last round, is what one takes once the model has
learnt and more negatives are above a margin. The samplers take turns within one process, on the same tables and
training rows, and are compared round by round.

On a GPU ``floor_seconds`` is what an epoch would take if every byte that it cannot avoid moved at the device's own copy
speed (``copy_gb_per_second``, measured in the same process), and ``floor_share`` that over the epoch's seconds. A share
above 1 means that the caches held the tables.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marks import fill
from speed_jobs import tables
from speed_jobs.fast_epoch import fast_epoch
from speed_jobs.growth import SIZES, growth
from speed_jobs.recbox_epoch import recbox_epoch
from speed_jobs.rows import COLUMNS, MACHINE, ROOT, SAMPLER_COLUMNS, SWEEP_COLUMNS, median, provenance, read, write
from speed_jobs.samplers import samplers

from mml_plugin.errors import UserError

RESULTS = ROOT / "benchmarks" / "results" / "speed.csv"
SWEEP = ROOT / "benchmarks" / "results" / "speed_sweep.csv"
SAMPLER = ROOT / "benchmarks" / "results" / "speed_sampler.csv"
DOCS = ROOT / "docs" / "speed.md"
README = ROOT / "README.md"
# A job imports what it needs itself: the seconds of that are a column.
JOBS = {"recbox": recbox_epoch, "fast": fast_epoch, "growth": growth, "samplers": samplers}


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        expid: the experiment.
        negatives: negatives per positive.
        rows: training rows that recbox gets; None leaves recbox out.
        backends: of the fast engine, with the steps that each is timed on (None: the whole epoch).
    """

    expid: str
    negatives: int
    rows: int | None
    backends: dict[str, int | None]


QUICK = {"numba": None, "torch": 100, "reference": 20}
CASES = {
    "yelp-ccl-10": Case("MF_yelp_ccl", 10, 120_000, QUICK),
    "yelp-ccl-100": Case("MF_yelp_ccl", 100, 120_000, QUICK),
    "yelp-ccl-800": Case("MF_yelp_ccl", 800, 40_000, {"numba": None, "torch": 30, "reference": 10}),
    "yelp-mml-100": Case("MF_yelp_mml", 100, 60_000, {"numba": None}),
    "yelp-mml-800": Case("MF_yelp_mml", 800, 40_000, {"numba": None}),
    "yelp-bsl-100": Case("MF_yelp_bsl", 100, 60_000, {"numba": None}),
    "yelp-bsl-800": Case("MF_yelp_bsl", 800, 40_000, {"numba": 600}),
    "gowalla-simplex-attention-100": Case("SimpleX_gowalla_mml", 100, 32_000, {"numba": 800}),
}
SAMPLER_CASES = (("MF_yelp_ccl", 100), ("MF_yelp_ccl", 800), ("MF_gowalla_ccl", 100))


def measure(job: dict[str, Any]) -> dict[str, Any]:
    """Run one job in a process of its own."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(job)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    if "cache" in job:
        environment["NUMBA_CACHE_DIR"] = job["cache"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{job} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(name: str, case: Case, device: str, rounds: int, only: set[str]) -> list[dict[str, Any]]:
    """The rows of a case: medians over rounds in which the engines took turns."""
    jobs = _jobs(case, device, only)
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in jobs}
    cold: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as cache:
        if "numba" in jobs:
            jobs["numba"]["cache"] = cache
            cold["numba"] = _cold(name, jobs["numba"])
        for turn in range(rounds):
            for key, job in jobs.items():
                whole = key != "recbox" and job["steps"] is None
                found[key].append(measure({**job, "later": whole and turn + 1 == rounds}))
                seconds = found[key][-1]["epoch_seconds"]
                print(f"  {name} {turn + 1}/{rounds} {key}: {seconds:.1f} s per epoch", flush=True)
    rows = []
    for key, results in found.items():
        asked = {column: jobs[key][column] for column in ("engine", "expid", "negatives", "device")}
        row = {"case": name, **asked, **median(results), **cold.get(key, {}), "rounds": rounds}
        row["epoch_seconds_all"] = " ".join(f"{r['epoch_seconds']:.2f}" for r in results)
        if "recbox" in found and key != "recbox":
            pairs = zip(found["recbox"], results)
            row["times_faster"] = statistics.median(a["epoch_seconds"] / b["epoch_seconds"] for a, b in pairs)
        rows.append({**row, **provenance()})
    return rows


def _jobs(case: Case, device: str, only: set[str]) -> dict[str, dict[str, Any]]:
    """What a round measures, in turn; recbox is timed on the CPU alone."""
    jobs: dict[str, dict[str, Any]] = {}
    base = {"expid": case.expid, "negatives": case.negatives, "device": device}
    if case.rows and device == "cpu" and "recbox" in only:
        jobs["recbox"] = {**base, "engine": "recbox", "rows": case.rows}
    backends = case.backends if device == "cpu" else {"triton": None, "torch": None}
    for backend, steps in backends.items():
        if backend in only:
            jobs[backend] = {**base, "engine": "fast", "backend": backend, "steps": steps}
    return jobs


def _cold(name: str, job: dict[str, Any]) -> dict[str, Any]:
    """What a first round compiles; a whole one, as some kernels are met only once most negatives are easy."""
    first = measure(job)
    print(f"  {name} numba: compiled in {first['compile_seconds']:.1f} s", flush=True)
    return {"compile_seconds": first["compile_seconds"], "cold_peak_memory_gb": first["peak_memory_gb"]}


def usable(device: str, asked: set[str]) -> set[str]:
    """Those of the engines asked for that can run on the device; says why others of its own cannot.

    Raises:
        UserError: when the device is not there.
    """
    from mml_plugin.devices import resolve_device
    from mml_plugin.engine import backends

    there = resolve_device(0 if device == "cuda" else -1)
    for info in backends.KNOWN:
        obstacle = info.obstacle(there) if device in info.devices and info.name in asked else ""
        if obstacle:
            print(f"  {info.name} is left out: {obstacle}", flush=True)
            asked = asked - {info.name}
    return asked


def sweep(device: str, sizes: Sequence[tuple[int, int]] = SIZES) -> None:
    """All sizes."""
    for items, interactions in sizes:
        job = {"engine": "growth", "items": items, "interactions": interactions, "device": device, "negatives": 100,
               "backend": "auto"}  # fmt: skip
        row = {**job, **measure(job), **provenance()}
        print(f"  {items} items, {interactions} interactions: {row['step_ms']:.2f} ms per step", flush=True)
        write(SWEEP, [row], SWEEP_COLUMNS, ("items", "interactions", "backend", *MACHINE))


def sampler(device: str, rounds: int, cases: Sequence[tuple[str, int]] = SAMPLER_CASES, batches: int = 200) -> None:
    """All samplers on all cases."""
    for expid, negatives in cases:
        job = {"engine": "samplers", "expid": expid, "negatives": negatives, "device": device, "backend": "auto",
               "rounds": rounds, "batches": batches}  # fmt: skip
        measured = measure(job)
        rows = [{**job, **measured, **row, **provenance()} for row in measured["rows"]]
        for row in rows:
            print(
                f"  {expid} {negatives} {row['kind']}: {row['ns_per_draw']:.2f} ns per draw, "
                f"{row['times_uniform']:.2f}x uniform; {row['step_ms']:.2f} ms per step, "
                f"{row['times_uniform_step']:.2f}x uniform", flush=True,
            )  # fmt: skip
        write(SAMPLER, rows, SAMPLER_COLUMNS, ("expid", "negatives", "kind", "backend", *MACHINE))


def fill_tables() -> None:
    """Rewrite the tables of docs/speed.md and the README from the rows there are."""
    cases, grown, drawn = (read(path) for path in (RESULTS, SWEEP, SAMPLER))
    parts = {}
    if cases:
        parts["cases"] = tables.every_case(cases, list(CASES))
    if grown:
        parts["sweep"] = tables.growth_table(grown)
    if drawn:
        parts["sampler"] = tables.sampler_table(drawn)
    fill(DOCS, parts)
    if cases:
        fill(README, {"speed": tables.readme_table(cases)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="all by default")
    parser.add_argument("--engine", action="append", help="recbox, numba, torch, reference or triton; all by default")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--rounds", type=int, default=3, help="of which a row is the median; 3 by default")
    parser.add_argument("--sweep", action="store_true", help="how cost grows with items and interactions")
    parser.add_argument("--sampler", action="store_true", help="what popularity and exclusion add")
    parser.add_argument(
        "--table", action="store_true", help="measure nothing; write the tables of docs and README from the rows"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        job = json.loads(options.worker)
        print(json.dumps(JOBS[job["engine"]](job)))
        return
    try:
        engines = set(options.engine or ["recbox", "numba", "torch", "reference", "triton"])
        only = engines if options.table else usable(options.device, engines)
    except UserError as error:
        parser.error(str(error))
    if options.sweep:
        sweep(options.device)
    elif options.sampler:
        sampler(options.device, options.rounds)
    elif not options.table:
        for name in options.case or CASES:
            rows = run_case(name, CASES[name], options.device, options.rounds, only)
            write(RESULTS, rows, COLUMNS, ("case", "engine", "backend", *MACHINE))
    if DOCS.exists():
        fill_tables()


if __name__ == "__main__":
    main()
