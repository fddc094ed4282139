"""Cells run once each, fail alone, go on after a stop, and are the run that was asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
from filelock import FileLock

from mml_plugin.data import synthetic
from mml_plugin.engine.trainer import Trainer
from mml_plugin.experiment import cells as cells_module
from mml_plugin.experiment.cells import DONE, ELSEWHERE, FAILED, Matcher, Runner, last_words, train_words
from mml_plugin.experiment.collect import Collector, slim
from mml_plugin.experiment.run import RunRequest, run_folder_of
from mml_plugin.experiment.suite import make_cells, make_suite

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
SMALL = {"epochs": 3, "verbose": 0, "embedding_dim": 8, "num_negs": 10, "batch_size": 64}


@pytest.fixture
def home(tmp_path, monkeypatch):
    synthetic.generate(tmp_path / "data" / "synth", users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def cells_of(*lines, runs="runs", **keys):
    suite = make_suite({"title": "T", "experiments": list(lines), "set": SMALL, **keys}, "x")
    return make_cells(suite, CONFIG, Path(runs))


def runner(cells, **keys):
    collector = Collector(Path("results/suite_x"), cells)
    said = []
    return Runner(
        Path("logs"), isolated=False, say=said.append, on_outcome=lambda o: collector.update([o]), **keys
    ), collector  # fmt: skip


def test_one_failing_cell_is_recorded_and_the_others_go_on(home):
    bad = {"expid": "MF_tiny_ccl", "label": "bad", "set": {"learning_rate": 1e30}}
    cells = cells_of("MF_tiny_mml", bad, "MF_tiny_bsl")
    run, collector = runner(cells)
    outcomes = run.run(cells)
    assert [outcome.state for outcome in outcomes] == [DONE, FAILED, DONE]
    rows = {row["label"]: row for row in collector.update([]).cells}
    assert rows["bad"]["state"] == FAILED
    assert "training stopped in epoch" in rows["bad"]["error"]
    assert float(rows["MF_tiny_mml"]["Recall(k=20)"]) > 0


def test_finished_cells_are_not_run_again(home, monkeypatch):
    cells = cells_of("MF_tiny_mml", "MF_tiny_ccl")
    runner(cells)[0].run(cells)
    monkeypatch.setattr(cells_module, "run", lambda request: pytest.fail("ran again"))
    assert [outcome.state for outcome in runner(cells)[0].run(cells)] == [DONE, DONE]


def test_what_another_process_began_anew_meanwhile_is_not_begun_again(home, monkeypatch):
    cells = cells_of("MF_tiny_mml", "MF_tiny_ccl")
    runner(cells)[0].run(cells)
    real, ran = cells_module.run, []
    monkeypatch.setattr(cells_module, "run", lambda request: ran.append(request.expid) or real(request))
    anew, _ = runner(cells, overwrite=True)
    # While the first cell runs here, another process begins the second one anew, and ends.
    anew.on_outcome = lambda outcome: runner(cells[1:], overwrite=True)[0].run(cells[1:]) if len(ran) == 1 else None
    assert [outcome.state for outcome in anew.run(cells)] == [DONE, DONE]
    assert ran == ["MF_tiny_mml", "MF_tiny_ccl"]


def test_a_damaged_result_fails_its_cell_and_no_other(home):
    cells = cells_of("MF_tiny_mml", "MF_tiny_ccl")
    cells[0].folder.path.mkdir(parents=True)
    cells[0].folder.result.write_text("{}")
    outcomes = runner(cells)[0].run(cells)
    assert [outcome.state for outcome in outcomes] == [FAILED, DONE]
    assert "result.json cannot be read: it has no backend" in outcomes[0].error


def test_a_full_gpu_fails_the_finished_cell_that_asks_for_its_backend_and_no_other(home, monkeypatch):
    cells = cells_of("MF_tiny_mml", "MF_tiny_ccl")
    runner(cells)[0].run(cells)
    asked = []

    def select(*_):
        asked.append(1)
        if len(asked) == 1:
            raise RuntimeError("Triton Error [CUDA]: out of memory")
        return real(*_)

    real = cells_module.backends.select
    monkeypatch.setattr(cells_module.backends, "select", select)
    outcomes = runner(cells)[0].run(cells)
    assert [outcome.state for outcome in outcomes] == [FAILED, DONE]
    assert outcomes[0].error == "not enough memory: Triton Error [CUDA]: out of memory"
    # Where any machine's run will do, nothing is asked.
    asked.clear()
    assert [outcome.state for outcome in runner(cells, matcher=Matcher(any_machine=True))[0].run(cells)] == [DONE, DONE]
    assert not asked


def test_a_finished_run_on_other_data_or_conditions_is_not_taken_for_the_cells(home, monkeypatch):
    cells = cells_of("MF_tiny_mml")
    runner(cells)[0].run(cells)
    monkeypatch.setattr(Matcher, "conditions", lambda self, request: cells_module.Conditions("torch", "cuda", 1))
    (outcome,) = runner(cells)[0].run(cells)
    assert outcome.state == FAILED
    assert "other conditions (backend numba, here torch; device cpu, here cuda)" in outcome.error
    (outcome,) = runner(cells, matcher=Matcher(any_machine=True))[0].run(cells)
    assert outcome.state == DONE
    synthetic.generate(home / "data" / "synth", users=80, items=120, seed=4, overwrite=True)
    (outcome,) = runner(cells, matcher=Matcher(any_machine=True))[0].run(cells)
    assert outcome.state == FAILED
    assert "another configuration or other data" in outcome.error


def test_a_run_of_a_configuration_that_was_edited_meanwhile_is_not_the_cells(home, monkeypatch):
    cells = cells_of("MF_tiny_mml")
    real = cells_module.run

    def edited(request):
        real(dataclasses.replace(request, thresholds=(0.25,), seed=8))
        made = next(Path("runs/MF_tiny_mml").glob("*s8*"))
        made.rename(cells[0].folder.path)

    with monkeypatch.context() as patch:
        patch.setattr(cells_module, "run", edited)
        (outcome,) = runner(cells)[0].run(cells)
    assert outcome.state == FAILED
    assert "they were changed meanwhile; --overwrite begins it anew" in outcome.error


def test_a_cut_cell_resumes_to_the_undisturbed_end(home, monkeypatch):
    whole = cells_of("MF_tiny_mml", runs="whole")
    runner(whole)[0].run(whole)
    real = Trainer.train_epoch

    def interrupted(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        return real(trainer)

    cells = cells_of("MF_tiny_mml", "MF_tiny_ccl")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        run, _ = runner(cells)
        with pytest.raises(KeyboardInterrupt):
            run.run(cells)
    assert [outcome.state for outcome in runner(cells)[0].run(cells)] == [DONE, DONE]
    columns = ["epoch", "train_loss", "Recall(k=20)"]
    first, second = (pd.read_csv(made[0].folder.history)[columns] for made in (whole, cells))
    assert first.equals(second)


TWO = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from mml_plugin.experiment import cells
from tests.experiment.test_cells import cells_of, runner
real = cells.run
def slow(request):
    with open("ran.txt", "a") as stream:
        stream.write(request.expid + "\\n")
    time.sleep(0.3)
    return real(request)
cells.run = slow
made = cells_of("MF_tiny_ccl", "MF_tiny_mml", "MF_tiny_bsl", "MF_tiny_mse", "MF_tiny_bpr")
Path(sys.argv[1]).touch()
while not (Path("a").exists() and Path("b").exists()):
    time.sleep(0.01)
outcomes = runner(made)[0].run(made)
print([o.state for o in outcomes], [o.error for o in outcomes])
"""


def test_two_processes_on_one_suite_never_run_a_cell_twice(home):
    words = [sys.executable, "-c", TWO.format(root=str(ROOT))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen([*words, name], env=environment, stdout=subprocess.PIPE, text=True) for name in "ab"]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    ran = (home / "ran.txt").read_text().split()
    assert sorted(ran) == sorted(set(ran))
    assert len(ran) == 5
    assert FAILED not in " ".join(said)
    assert ELSEWHERE in " ".join(said)
    done = pd.read_csv(home / "results" / "suite_x.csv")
    assert (done["state"] == DONE).sum() == 5


def test_a_run_that_somebody_else_holds_is_left_alone(home):
    cells = cells_of("MF_tiny_mml", "MF_tiny_ccl")
    with cells[0].folder.lock():
        outcomes = runner(cells)[0].run(cells)
    assert [outcome.state for outcome in outcomes] == [ELSEWHERE, DONE]
    assert not cells[0].folder.history.exists()


def test_a_finished_cell_that_somebody_looks_at_is_waited_for(home, monkeypatch):
    cells = cells_of("MF_tiny_mml")
    runner(cells)[0].run(cells)
    claim = FileLock(f"{cells[0].folder.path}.cell.lock", thread_local=False)
    claim.acquire()
    looking = threading.Timer(0.3, claim.release, kwargs={"force": True})
    looking.start()
    (outcome,) = runner(cells)[0].run(cells)
    looking.join()
    assert outcome.state == DONE
    # Somebody who does not let go has it for longer than a look.
    monkeypatch.setattr(cells_module, "LOOK_SECONDS", 0.05)
    with FileLock(f"{cells[0].folder.path}.cell.lock"):
        (outcome,) = runner(cells)[0].run(cells)
    assert outcome.state == ELSEWHERE


def test_ctrl_c_stops_the_cell_and_the_same_command_goes_on(home):
    suite = home / "long.yaml"
    suite.write_text("title: T\nset: {epochs: 100000, patience: 100000, verbose: 0}\nexperiments: [MF_tiny_mml]\n")
    words = [sys.executable, str(ROOT / "benchmarks" / "run_suite.py"), str(suite), "--results", "results",
             "--reports", "reports"]  # fmt: skip
    epochs = [0]
    # The cell's process has a session of its own: it must not live on. A script's `command &` ignores Ctrl-C.
    for sent, ignored in ((signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)):
        process = subprocess.Popen(
            words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
            preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while finished(home) < epochs[-1] + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        below = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sent)
        left = psutil.wait_procs(below, timeout=60)[1]
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        assert not left
        text, _ = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "stopped in cell 1 of 1; the same command goes on from here" in text
        epochs.append(finished(home))
        assert not cells_module.is_locked(next((home / "runs" / "MF_tiny_mml").glob("*[!l].lock")))
    assert epochs == sorted(set(epochs))
    assert "Resumed after epoch" in (home / "runs/MF_tiny_mml").glob("*/log.txt").__next__().read_text()


def finished(home):
    path = next((home / "runs" / "MF_tiny_mml").glob("*/history.csv"), None)
    return len(path.read_text().splitlines()) - 1 if path else 0


def test_a_cells_process_gets_the_whole_request(home):
    (cell,) = cells_of({"expid": "MF_tiny_mml", "set": {"margins": [0.5, 0.9], "margin_weights": [1, 2]}})
    words = train_words(cell.request)
    assert words[words.index("--thresholds") + 1] == "0.5,0.9"
    outcome = Runner(Path("logs"), isolated=True, say=lambda text: None).run([cell])[0]
    assert outcome.error == ""
    result = cell.folder.read_result()
    assert result["command"].startswith("mml train --config ")
    assert Matcher().why_not(cell) == ""


def test_a_failing_process_leaves_its_sentence(home):
    (home / "log").write_text("error: first\nepoch\nerror: there is no file x\nbye\n")
    assert last_words(home / "log") == "there is no file x"
    (home / "log").write_text("a\nValueError: deep\n\n")
    assert last_words(home / "log") == "ValueError: deep"


def test_a_killed_process_is_said_so_and_runs_again(home, monkeypatch):
    cells = cells_of("MF_tiny_mml")
    real = subprocess.Popen

    def killed(words, **keys):
        return real([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], **keys)

    with monkeypatch.context() as patch:
        patch.setattr(cells_module.subprocess, "Popen", killed)
        (outcome,) = Runner(Path("logs"), isolated=True, say=lambda text: None).run(cells)
    assert outcome.state == FAILED
    assert outcome.error.startswith("killed by signal 9 (out of memory?); see ")
    assert [outcome.state for outcome in runner(cells)[0].run(cells)] == [DONE]


def test_a_cell_that_another_process_just_saw_fail_is_not_tried_again(home, monkeypatch):
    cells = cells_of("MF_tiny_mml")
    real, started = subprocess.Popen, []

    def failing(words, **keys):
        started.append(words)
        return real([sys.executable, "-c", "print('error: no luck'); raise SystemExit(2)"], **keys)

    monkeypatch.setattr(cells_module.subprocess, "Popen", failing)
    first, second = (Runner(Path("logs"), isolated=True, say=lambda text: None) for _ in range(2))
    (outcome,) = first.run(cells)
    assert outcome.error.startswith("no luck (exit 2, see ")
    second._began = first._began
    outcome, ran = second._claim_and_run(cells[0], "")
    assert (outcome.state, ran, len(started)) == (FAILED, False, 1)
    assert outcome.error.startswith("no luck (tried by another process")
    os.utime(first._log(cells[0]), (1, 1))
    second.run(cells)
    assert len(started) == 2


def test_a_slim_run_still_makes_rows(home):
    cells = cells_of("MF_tiny_mml")
    run, collector = runner(cells)
    run.run(cells)
    before = collector.update([]).cells
    weights = cells[0].folder.recbox / "tiny" / "MF_tiny_mml.model"
    weights.parent.mkdir(parents=True)
    weights.touch()
    slim(cells[0].folder)
    assert not cells[0].folder.checkpoint.exists()
    assert not cells[0].folder.recbox.exists()
    assert [outcome.state for outcome in runner(cells)[0].run(cells)] == [DONE]
    assert collector.update([]).cells == before


@pytest.mark.parametrize("share", [0.1, 0.1 + 1e-12, 0.2])
def test_a_cells_command_writes_the_folder_that_is_looked_for(share):
    (cell,) = cells_of("MF_tiny_mml", seeds=[1], protocol="held-out", valid_share=share)
    words = train_words(cell.request)
    given = float(words[words.index("--valid-share") + 1]) if "--valid-share" in words else RunRequest.valid_share
    asked = dataclasses.replace(cell.request, valid_share=given)
    assert run_folder_of(cell.experiment, asked).path == cell.folder.path
