"""Runs of the fast engine that are interrupted, killed or set aside, and go on."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from mml_plugin.data import synthetic
from mml_plugin.engine.trainer import Trainer
from mml_plugin.errors import UserError
from mml_plugin.experiment import run as run_module
from mml_plugin.experiment.run import RunRequest, run
from mml_plugin.hosts.recbox import trainer as recbox_trainer
from mml_plugin.states import write_state
from tests.experiment.small_runs import CONFIG, ROOT, SMALL, go

pytestmark = pytest.mark.usefixtures("in_home")

CASES = {
    "plateau": ("MF_tiny_mml", ("epochs=6", "reduce_lr_on_plateau=True", "learning_rate=0.3", "patience=50")),
    "attention": ("SimpleX_gowalla_mml", ("epochs=4", "attention_dropout=0.2", "learning_rate=0.01")),
    "general": ("MF_tiny_ccl", ("epochs=4", "optimizer=rmsprop", "learning_rate=0.01")),
}


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("case", CASES)
def test_an_interrupted_run_resumes_to_the_same_end(case, backend, monkeypatch):
    expid, more = CASES[case]
    whole = go(expid, runs=f"{case}-{backend}-whole", more=more, backend=backend)
    cut = f"{case}-{backend}-cut"
    real = Trainer.train_epoch

    def interrupted(trainer):
        if trainer.epoch == 2:
            raise KeyboardInterrupt
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(expid, runs=cut, more=more, backend=backend)
    resumed = go(expid, runs=cut, more=more, backend=backend, resume=True)
    columns = ["epoch", "train_loss", "Recall(k=20)", "learning_rate"]
    first, second = (pd.read_csv(folder.history)[columns] for folder in (whole, resumed))
    assert first.equals(second)
    for name, tensor in torch.load(whole.checkpoint, weights_only=True)["model"].items():
        assert torch.equal(tensor, torch.load(resumed.checkpoint, weights_only=True)["model"][name]), name
    assert load_file(whole.embeddings)["users"].tobytes() == load_file(resumed.embeddings)["users"].tobytes()
    if case == "plateau":
        assert first["learning_rate"].nunique() > 1


def test_resume_refuses_other_conditions():
    real = Trainer.train_epoch

    def interrupted(trainer):
        if trainer.epoch:
            raise KeyboardInterrupt
        return real(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            go(runs="refused")
    with pytest.raises(UserError, match="was written with backend numba and this process has torch"):
        go(runs="refused", resume=True, backend="torch")
    path = next(Path("refused").glob("*/*/checkpoint.pt"))
    state = torch.load(path, weights_only=True)
    for key, other, how in (("threads", 64, "set OMP_NUM_THREADS=64"), ("device", "cuda:0", "use device cuda:0")):
        write_state(path, {**state, key: other})
        with pytest.raises(UserError, match=f"was written with {key} {other} and this process has .*{how}"):
            go(runs="refused", resume=True)
    for broken in ({k: v for k, v in state.items() if k != "schedule"}, {**state, "model": {"none": torch.zeros(1)}}):
        write_state(path, broken)
        with pytest.raises(UserError, match=r"checkpoint .* is damaged \(KeyError: .*begin anew with --overwrite"):
            go(runs="refused", resume=True)
    moments = {name: {"first": torch.zeros(3, 3), "second": torch.zeros(3, 3)} for name in state["model"]}
    write_state(path, {**state, "optimiser": {**state["optimiser"], "moments": moments}})
    with pytest.raises(UserError, match=r"is damaged \(RuntimeError: The size of tensor"):
        go(runs="refused", resume=True)
    write_state(path, state)
    assert go(runs="refused", resume=True).finished


def test_a_refused_overwrite_leaves_the_old_run_and_one_that_goes_on_does_not(home, monkeypatch):
    tensorboard = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = go(runs="again", tensorboard=True)

    def contents():
        return {path.name: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}

    def events():
        found = tensorboard.EventAccumulator(str(folder.events))
        found.Reload()
        return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}

    def steps():
        return [step for step, _ in events()["train/loss"]]

    before = contents()
    test = home / "data" / "synth" / "train.txt"
    text = test.read_text()
    try:
        test.write_text(text + "x y\n")
        with pytest.raises(UserError, match="only whole numbers"):
            go(runs="again", overwrite=True)
    finally:
        test.write_text(text)
    assert contents() == before
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", lambda trainer: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            go(runs="again", overwrite=True)
    assert contents() == before
    real = Trainer.train_epoch

    def stopped(trainer):
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        return real(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            go(runs="again", overwrite=True, tensorboard=True)
    assert not folder.finished
    assert steps() == [1]
    go(runs="again", resume=True, tensorboard=True)
    assert steps() == [1, 2, 3]
    history, metrics = pd.read_csv(folder.history), folder.read_result()["metrics"]
    columns = {"train/loss": "train_loss", "train/seconds": "train_seconds"}
    columns |= {f"evaluation/{name}": name for name in metrics}
    told = events()
    assert set(told) == {*columns, "train/active_share"}
    for tag, column in columns.items():
        assert [value for _, value in told[tag]] == pytest.approx(list(history[column]), rel=1e-3), tag
    active = 1 - history["band_0(-inf,0.6]"]
    assert [value for _, value in told["train/active_share"]] == pytest.approx(list(active), rel=1e-3)
    assert not [path.name for path in folder.path.iterdir() if path.name.startswith(".")]


# tests/hosts/recbox/test_resume.py tests its loop; these are whole runs.
SLOW_RECBOX = pytest.param("recbox", marks=pytest.mark.slow)


@pytest.mark.parametrize("engine", ["fast", SLOW_RECBOX])
def test_resume_refuses_data_that_changed(engine, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "synth"
    synthetic.generate(folder, users=80, items=120, seed=3)
    monkeypatch.chdir(tmp_path)
    module = Trainer if engine == "fast" else recbox_trainer._Loop
    real = module._one_epoch

    def interrupted(loop, memory):
        if loop.epoch:
            raise KeyboardInterrupt
        return real(loop, memory)

    request = RunRequest("MF_tiny_mml", CONFIG, engine=engine, overrides=SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_one_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(request)
    shutil.rmtree(folder)
    synthetic.generate(folder, users=80, items=120, seed=4)
    resumed = dataclasses.replace(request, resume=True)
    with pytest.raises(
        UserError, match=r"checkpoint.pt was trained on other data \(fingerprint \w{12}\) than are there now"
    ):
        run(resumed)
    shutil.rmtree(folder)
    synthetic.generate(folder, users=80, items=120, seed=3)
    assert run(resumed).read_result()["epochs"] == 3


def test_ctrl_c_and_kill_leave_a_run_that_goes_on(home):
    """Ctrl-C, then kill -9, then Ctrl-C: each time the run goes on after the last finished epoch."""
    words = [sys.executable, str(ROOT / "run_expid.py"), "--config", str(CONFIG), "--expid", "MF_tiny_mml"]
    words += ["--engine", "fast", "--runs", "killed", "--set", "epochs=5000", "--set", "verbose=0"]
    epochs = [0]
    for ending in (signal.SIGINT, signal.SIGKILL, signal.SIGINT):
        more = ["--resume"] if epochs[-1] else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(words + more, stderr=subprocess.PIPE, text=True, env=environment)
        deadline = time.monotonic() + 90
        while finished_epochs() < epochs[-1] + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(ending)
        _, text = process.communicate(timeout=60)
        if ending == signal.SIGINT:
            assert process.returncode == 130
            assert re.search(r"Stopped\. Go on with: (OMP_NUM_THREADS=\d+ )?python", text)
        epochs.append(finished_epochs())
    assert epochs == sorted(set(epochs))
    history = pd.read_csv(next(Path("killed/MF_tiny_mml").glob("*/history.csv")))
    # The row is written first: stopped before the checkpoint, the next run drops it.
    assert len(history) - epochs[-1] in (0, 1)
    assert history["epoch"].tolist() == list(range(1, len(history) + 1))


def test_a_ctrl_c_that_ends_as_another_error_says_how_to_go_on_too(home, monkeypatch):
    """As when it comes while torch writes a checkpoint: its C++ makes a RuntimeError of it."""
    real = Trainer._one_epoch

    def pressed(loop, memory):
        if loop.epoch:
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                raise RuntimeError("unexpected pos 64 vs 0") from None
        return real(loop, memory)

    request = RunRequest("MF_tiny_mml", CONFIG, engine="fast", overrides=SMALL, runs_dir=Path("torn"))
    said = []
    monkeypatch.setattr(run_module, "_say_how_to_resume", said.append)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_one_epoch", pressed)
        with pytest.raises(KeyboardInterrupt):
            run(request)
        assert [folder.checkpoint.is_file() for folder in said] == [True]
        # An error that is one stays one.
        patch.setattr(Trainer, "_one_epoch", lambda loop, memory: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(dataclasses.replace(request, resume=True))
    assert run(dataclasses.replace(request, resume=True)).read_result()["epochs"] == 3
    assert len(said) == 1


def finished_epochs():
    path = next(Path("killed/MF_tiny_mml").glob("*/checkpoint.pt"), None)
    return torch.load(path, weights_only=True)["epoch"] if path else 0
