"""What the bar of a training shows, and what the log says is not computed."""

from __future__ import annotations

import io
import re
import sys

import pytest
import torch

from mml_plugin.data.histories import Histories
from mml_plugin.engine.progress import Progress

from .fed import make_trainer
from .test_corners import LISTS, VALID, Tables, data_of, trainer_of


class Terminal(io.StringIO):
    def isatty(self):
        return True


def at_a_terminal(monkeypatch):
    """Called in the test itself, as pytest puts its own stderr in place after the fixtures."""
    monkeypatch.setattr(Progress, "INTERVAL", 0)
    monkeypatch.setattr(sys, "stderr", Terminal())
    return sys.stderr


def bars(trainer):
    """What the bar says after each batch of an epoch, and what the batches said."""
    progress, shown, results = trainer._progress(), [], []
    with progress.bar:
        for result in trainer.steps(trainer.epoch):
            progress.advance(result)
            shown.append(str(progress.bar))
            results.append((float(result.loss), float((result.gradient[:, 1:] != 0).double().mean())))
    return shown, results


def test_the_bar_has_batches_time_left_loss_active_share_and_best(monkeypatch):
    at_a_terminal(monkeypatch)
    trainer = trainer_of(Tables(4, 7, 3), data_of(LISTS, 7, VALID), progress=True, batch_size=3)
    trainer.tally.clear()
    shown, results = bars(trainer)
    assert len(shown) == trainer.batches.per_epoch == 4
    for number, (text, (_, active)) in enumerate(zip(shown, results), start=1):
        assert text.startswith("epoch 1/2:")
        assert f"| {number}/4 [" in text
        assert re.search(r"\[\d\d:\d\d<(\d\d:\d\d|\?)", text)
        mean = sum(loss for loss, _ in results[:number]) / number
        assert float(re.search(r"loss=([\d.]+)", text)[1]) == pytest.approx(mean, abs=1e-4)
        assert float(re.search(r"active=([\d.]+) %", text)[1]) == pytest.approx(100 * active, abs=0.01)
        assert "best" not in text
    trainer._decide({"Recall(k=2)": 0.12345})
    assert all("best=0.1235" in text or "best=0.1234" in text for text in bars(trainer)[0])


def test_there_is_no_bar_where_nobody_looks_or_none_is_wanted(monkeypatch):
    terminal = at_a_terminal(monkeypatch)
    quiet = trainer_of(Tables(4, 7, 3), data_of(LISTS, 7, VALID), progress=False)
    quiet.train_epoch()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    trainer_of(Tables(4, 7, 3), data_of(LISTS, 7, VALID), progress=True).train_epoch()
    assert terminal.getvalue() == sys.stderr.getvalue() == ""


def test_with_gamma_1_no_history_is_computed_and_the_log_says_so(golden_params, monkeypatch, caplog):
    def computed(*_):
        raise AssertionError("a history was asked for")

    monkeypatch.setattr(Histories, "of_rows", computed)
    monkeypatch.setattr(Histories, "of_users", computed)
    with caplog.at_level("INFO"):
        trainer = make_trainer(golden_params("SimpleX_mean_g1_mml"), dtype=torch.float32)
    assert "gamma is 1: histories cannot matter and are not computed" in caplog.messages
    trainer.train_epoch()
    trainer.evaluator.metrics(trainer.data.valid)
    caplog.clear()
    with caplog.at_level("INFO"):
        other = make_trainer(golden_params("SimpleX_uatt_mml"), dtype=torch.float32)
    assert not [message for message in caplog.messages if "gamma" in message]
    with pytest.raises(AssertionError, match="a history was asked for"):
        other.train_epoch()
