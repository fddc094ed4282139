"""benchmarks/speed.py: the samplers' rows and table, with counts far too small to say anything about speed."""

from __future__ import annotations

import csv
import json
import re
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest
import speed
import torch
from speed_jobs.fast_epoch import compiling
from speed_jobs.samplers import in_turn
from speed_jobs.tables import newest

from mml_plugin.data import synthetic
from mml_plugin.experiment.config import load_experiment

ROOT = Path(__file__).resolve().parents[2]
CASES = (("MF_tiny_mml", 3), ("MF_tiny_mml", 5))


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with data, to which the script writes instead of to the repository."""
    synthetic.generate(tmp_path / "data" / "synth", users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    for name, file in {"RESULTS": "speed.csv", "SWEEP": "sweep.csv", "SAMPLER": "sampler.csv"}.items():
        monkeypatch.setattr(speed, name, tmp_path / file)
    docs = tmp_path / "speed.md"
    docs.write_text((ROOT / "docs" / "speed.md").read_text())
    monkeypatch.setattr(speed, "DOCS", docs)
    monkeypatch.setattr(speed, "README", tmp_path / "none.md")
    # A process of its own would compile and import for seconds; its answer goes through JSON likewise.
    monkeypatch.setattr(speed, "measure", lambda job: json.loads(json.dumps(speed.JOBS[job["engine"]](job))))
    return tmp_path


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_samplers_take_turns_and_leave_rows_and_a_table(here):
    order = []
    from mml_plugin.engine.sampler import NegativeSampler

    kinds = {(False, False): "uniform", (True, False): "popularity", (False, True): "excluding"}
    drawn = NegativeSampler.index

    def index(made, *arguments):
        order.append((kinds[made.cumulative is not None, made.positives is not None], arguments[0]))
        return drawn(made, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NegativeSampler, "index", index)
        for _ in range(2):  # the second time in place of the first
            speed.sampler("cpu", rounds=2, cases=CASES, batches=1)
    names = ["uniform", "popularity", "excluding"]
    turns = [next(calls) for _, calls in groupby(order)]
    assert turns == [
        (name, epoch) for _ in range(2 * len(CASES)) for epoch in range(3) for name in in_turn(names, epoch)
    ]
    batch = load_experiment(ROOT / "config", "MF_tiny_mml").params["batch_size"]
    rows = rows_of(here / "sampler.csv")
    assert [(r["kind"], r["negatives"]) for r in rows] == [(name, n) for n in ("3", "5") for name in names]
    for row in rows:
        uniform = next(r for r in rows if r["kind"] == "uniform" and r["negatives"] == row["negatives"])
        for values, times in (("ns_per_draw_all", "times_uniform"), ("step_ms_all", "times_uniform_step")):
            pairs = zip(row[values].split(), uniform[values].split())
            ratios = [float(own) / float(other) for own, other in pairs]
            assert len(ratios) == 2
            assert float(row[times]) == pytest.approx(sum(ratios) / 2, rel=0.02)
        assert int(row["draws"]) == batch * int(row["negatives"])
        assert all(row[key] for key in ("backend", "threads", "processor", "cores", "torch", "commit", "date"))
    speed.fill_tables()
    text = (here / "speed.md").read_text()
    made = text[text.index("<!-- sampler:begin -->") : text.index("<!-- sampler:end -->")]
    for row in rows:
        wanted = rf"\| tiny +\| {row['negatives']} +\| {row['kind']} .*\| +{float(row['times_uniform']):.2f}x \|.*x \|"
        assert re.search(wanted, made), made
    committed = (ROOT / "docs" / "speed.md").read_text()
    assert text[: text.index("<!-- sampler:begin -->")] == committed[: committed.index("<!-- sampler:begin -->")]


def test_how_cost_grows_leaves_a_row_per_size(here):
    for _ in range(2):  # the second time in place of the first
        speed.sweep("cpu", sizes=[(300, 12_000), (400, 13_000)])
    rows = rows_of(here / "sweep.csv")
    assert [(row["items"], row["interactions"], row["users"]) for row in rows] == [
        ("300", "12000", "1000"),
        ("400", "13000", "1000"),
    ]
    for row in rows:
        batches = -(-int(row["interactions"]) // 512)
        assert float(row["epoch_seconds"]) == pytest.approx(batches * float(row["step_ms"]) / 1e3, rel=1e-3)
        assert float(row["ranking_ms_per_user"]) > 0


def test_a_case_is_timed_through_recbox_and_the_fast_engine(here, monkeypatch):
    """A whole case, with processes left out: the rows that ``times_faster`` and the scaling rest on."""
    measured, timed = [], speed.measure
    monkeypatch.setattr(speed, "measure", lambda job: measured.append(timed(job)) or measured[-1])
    case = speed.Case("MF_tiny_ccl", 3, 200, {"reference": 2, "torch": None})
    stock, fast, whole = speed.run_case("yelp-ccl-10", case, "cpu", 2, {"recbox", "reference", "torch"})
    assert [result["backend"] for result in measured] == ["", "reference", "torch"] * 2
    ratios = [measured[i]["epoch_seconds"] / measured[i + 1]["epoch_seconds"] for i in (0, 3)]
    assert fast["times_faster"] == pytest.approx(sum(ratios) / 2)
    assert (stock["scaled"], stock["rows"], fast["scaled"]) == (True, 200, True)
    assert fast["rows"] == 2 * load_experiment(ROOT / "config", "MF_tiny_ccl").params["batch_size"]
    # The median of two is their mean, so the stages of the medians still add up.
    for row in (fast, stock):
        spent = [row[f"{stage}_seconds"] for stage in ("sampling", "optimiser", "forward_backward")]
        assert sum(spent) == pytest.approx(row["epoch_seconds"])
        assert min(spent[1:]) > 0  # a draw of so few is rounded to no time
        assert row["threads"] == torch.get_num_threads()
    assert stock["full_memory_gb"] > stock["peak_memory_gb"]
    # A whole epoch has a later one beside it, in the last round alone.
    assert [("fifth_epoch_seconds" in result) for result in measured] == [False] * 5 + [True]
    assert whole["fifth_epoch_seconds"] == measured[5]["fifth_epoch_seconds"] > 0


def test_the_seconds_of_compilation_count_each_moment_once_and_nothing_that_is_compiled_already():
    numba = pytest.importorskip("numba")

    @numba.njit
    def inner(x):
        return x + 1

    @numba.njit
    def outer(x):
        return inner(x) * 2

    began = time.time()
    with compiling() as compiled:
        assert outer(1) == 4
    assert len(compiled) == 1
    assert 0 < compiled[0] <= time.time() - began
    with compiling() as compiled:
        outer(1)
    assert compiled == []


def test_a_case_says_what_its_first_round_compiled_and_how_much_memory_that_took(here, monkeypatch):
    caches = []

    def measured(job):
        caches.append(job.get("cache"))
        return {"epoch_seconds": 2.0, "compile_seconds": 0.0 if len(caches) > 1 else 31.0,
                "peak_memory_gb": 0.5 if len(caches) > 1 else 0.8, "backend": job.get("backend", "")}  # fmt: skip

    monkeypatch.setattr(speed, "measure", measured)
    case = speed.Case("MF_tiny_mml", 3, None, {"numba": None, "torch": 1})
    rows = speed.run_case("yelp-ccl-10", case, "cpu", 2, {"numba", "torch"})
    assert caches[0] is not None
    assert caches == [caches[0], caches[0], None, caches[0], None]
    found = {row["backend"]: row for row in rows}
    assert (found["numba"]["compile_seconds"], found["numba"]["cold_peak_memory_gb"]) == (31.0, 0.8)
    assert found["numba"]["peak_memory_gb"] == 0.5
    assert "cold_peak_memory_gb" not in found["torch"]


def test_the_readme_shows_each_cases_newest_pair_and_no_pair_of_different_runs():
    def pair(case, date, seconds, commit):
        shared = {"case": case, "expid": case, "negatives": "10", "device": "cpu", "processor": "P" + commit, "gpu": "",
                  "commit": commit, "date": date, "evaluation_seconds": "1", "full_memory_gb": "4"}  # fmt: skip
        stock = {**shared, "engine": "recbox", "backend": "", "epoch_seconds": "100", "times_faster": ""}
        fast = {**shared, "engine": "fast", "backend": "numba", "epoch_seconds": seconds, "times_faster": "9",
                "peak_memory_gb": "0.5"}  # fmt: skip
        return [stock, fast]

    old, new = pair("a", "2026-11-02", "8", "x"), pair("a", "2026-11-10", "7", "y")
    alone = pair("b", "2026-11-01", "5", "z")
    again = {**new[1], "times_faster": ""}  # numba timed alone, later on the same commit
    assert newest([*new, again]) == newest(new)
    # Of two rows of one day the file's later one is the newer.
    assert newest([*pair("a", "2026-11-10", "6", "v"), *new])[0][3] == "100.0 s, 7.0 s"
    assert newest([*new, *pair("a", "2026-11-10", "6", "v")])[0][3] == "100.0 s, 6.0 s"
    without = [row for row in pair("a", "2026-11-20", "1", "w") if row["engine"] == "fast"]
    for rows in ([*old, *new, *alone, *without], [*without, *alone, *new, *old]):
        cells = newest(rows)
        assert [cell[6] for cell in cells] == ["9x", "–"]
        assert [(cell[0], cell[3]) for cell in cells] == [("a", "100.0 s, 7.0 s"), ("b", "100.0 s, 5.0 s")]


def test_each_sampler_takes_each_place_of_a_round_equally_often():
    kinds = ("uniform", "popularity", "excluding")
    rounds = [in_turn(kinds, number) for number in range(6)]
    assert all(sorted(order) == sorted(kinds) for order in rounds)
    for place in range(3):
        assert sorted(order[place] for order in rounds) == sorted(kinds * 2)


def test_on_a_gpu_its_own_backends_are_measured_and_recbox_is_not():
    every = {"recbox", "numba", "torch", "reference", "triton"}
    for case in speed.CASES.values():
        jobs = speed._jobs(case, "cuda", every)
        assert {name: job["steps"] for name, job in jobs.items()} == {"triton": None, "torch": None}
        assert all(job["device"] == "cuda" and job["engine"] == "fast" for job in jobs.values())


def test_what_cannot_run_here_is_left_out_with_the_reason(here, monkeypatch, capsys):
    from mml_plugin.engine import backends

    def obstacle(info, device):
        return "there is none today" if info.name == "numba" else "not of this device, and not asked about"

    monkeypatch.setattr(backends.BackendInfo, "obstacle", obstacle)
    assert speed.usable("cpu", {"recbox", "numba", "triton"}) == {"recbox", "triton"}
    assert capsys.readouterr().out == "  numba is left out: there is none today\n"


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(here, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert "--gpu 0 is not there" in capsys.readouterr().err
