"""benchmarks/speed.py: the samplers' rows and table, with counts far too small to say anything about speed."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import sys
import time
from itertools import groupby
from pathlib import Path

import pytest

from mml_plugin.data import synthetic
from mml_plugin.experiment.config import load_experiment

ROOT = Path(__file__).resolve().parents[2]
CASES = (("MF_tiny_mml", 3), ("MF_tiny_mml", 5))


@pytest.fixture
def speed(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("speed", ROOT / "benchmarks" / "speed.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "speed", module)
    spec.loader.exec_module(module)
    synthetic.generate(tmp_path / "data" / "synth", users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    for name, file in {"RESULTS": "speed.csv", "SWEEP": "sweep.csv", "SAMPLER": "sampler.csv"}.items():
        monkeypatch.setattr(module, name, tmp_path / file)
    docs = tmp_path / "speed.md"
    docs.write_text((ROOT / "docs" / "speed.md").read_text())
    monkeypatch.setattr(module, "DOCS", docs)
    monkeypatch.setattr(module, "README", tmp_path / "none.md")
    # A process of its own would compile and import for seconds; its answer goes through JSON likewise.
    monkeypatch.setattr(module, "measure", lambda job: json.loads(json.dumps(module.WORKERS[job["engine"]](job))))
    return module


def rows_of(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_the_samplers_take_turns_and_leave_rows_and_a_table(speed, tmp_path):
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
    assert turns == [(name, epoch) for _ in range(2 * len(CASES)) for epoch in range(3) for name in names]
    batch = load_experiment(ROOT / "config", "MF_tiny_mml").params["batch_size"]
    rows = rows_of(tmp_path / "sampler.csv")
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
    speed.table()
    text = (tmp_path / "speed.md").read_text()
    made = text[text.index("<!-- sampler:begin -->") : text.index("<!-- sampler:end -->")]
    for row in rows:
        wanted = rf"\| tiny +\| {row['negatives']} +\| {row['kind']} .*\| +{float(row['times_uniform']):.2f}x \|.*x \|"
        assert re.search(wanted, made), made
    committed = (ROOT / "docs" / "speed.md").read_text()
    assert text[: text.index("<!-- sampler:begin -->")] == committed[: committed.index("<!-- sampler:begin -->")]


def test_the_seconds_of_compilation_count_each_moment_once_and_nothing_that_is_compiled_already(speed):
    numba = pytest.importorskip("numba")

    @numba.njit
    def inner(x):
        return x + 1

    @numba.njit
    def outer(x):
        return inner(x) * 2

    began = time.time()
    with speed.compiling() as compiled:
        assert outer(1) == 4
    assert len(compiled) == 1
    assert 0 < compiled[0] <= time.time() - began
    with speed.compiling() as compiled:
        outer(1)
    assert compiled == []


def test_a_case_says_what_its_first_round_compiled_and_how_much_memory_that_took(speed, tmp_path, monkeypatch):
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


def test_the_readme_shows_each_cases_newest_pair_and_no_pair_of_different_runs(speed):
    def pair(case, date, seconds, commit):
        shared = {"case": case, "expid": case, "negatives": "10", "device": "cpu", "processor": "P" + commit, "gpu": "",
                  "commit": commit, "date": date, "evaluation_seconds": "1", "full_memory_gb": "4"}  # fmt: skip
        stock = {**shared, "engine": "recbox", "backend": "", "epoch_seconds": "100", "times_faster": ""}
        fast = {**shared, "engine": "fast", "backend": "numba", "epoch_seconds": seconds, "times_faster": "9",
                "peak_memory_gb": "0.5"}  # fmt: skip
        return [stock, fast]

    old, new = pair("a", "2026-11-02", "8", "x"), pair("a", "2026-11-10", "7", "y")
    alone = pair("b", "2026-11-01", "5", "z")
    # Of two rows of one day the file's later one is the newer.
    assert speed.short([*pair("a", "2026-11-10", "6", "v"), *new])[1][0][3] == "100.0 s, 7.0 s"
    assert speed.short([*new, *pair("a", "2026-11-10", "6", "v")])[1][0][3] == "100.0 s, 6.0 s"
    without = [row for row in pair("a", "2026-11-20", "1", "w") if row["engine"] == "fast"]
    for rows in ([*old, *new, *alone, *without], [*without, *alone, *new, *old]):
        cells = speed.short(rows)[1]
        assert [cell[6] for cell in cells] == ["9x", "–"]
        assert [(cell[0], cell[3]) for cell in cells] == [("a", "100.0 s, 7.0 s"), ("b", "100.0 s, 5.0 s")]


def test_what_cannot_run_here_is_left_out_with_the_reason(speed, monkeypatch, capsys):
    from mml_plugin.engine import backends

    def obstacle(info, device):
        return "there is none today" if info.name == "numba" else "not of this device, and not asked about"

    monkeypatch.setattr(backends.BackendInfo, "obstacle", obstacle)
    assert speed.usable("cpu", {"recbox", "numba", "triton"}) == {"recbox", "triton"}
    assert capsys.readouterr().out == "  numba is left out: there is none today\n"


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(speed, monkeypatch, capsys):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["speed.py", "--device", "cuda"])
    with pytest.raises(SystemExit, match="2"):
        speed.main()
    assert "--gpu 0 is not there" in capsys.readouterr().err
