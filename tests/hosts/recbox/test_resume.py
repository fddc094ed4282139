"""A resumed training ends where an undisturbed one ends, bit by bit."""

from __future__ import annotations

import pytest
import torch

from mml_plugin import model_zoo
from mml_plugin.errors import UserError
from mml_plugin.hosts import recbox
from mml_plugin.hosts.recbox import trainer
from mml_plugin.hosts.recbox.training import prepare_training
from mml_plugin.states import write_state


class Stop(Exception):
    """Stands for a killed process."""


@pytest.fixture
def train(golden_params, tmp_path):
    def run(name, folder, stop_after=None, resume=False, data_id="", **changes):
        params = {**golden_params(name), "model_root": str(tmp_path / folder), **changes}
        records = []

        def on_epoch(record):
            # The state is written after this call: stopping at epoch k + 1 leaves the state of epoch k.
            if stop_after is not None and record.epoch > stop_after:
                raise Stop
            records.append(record)

        with recbox.registered():
            model, train_gen, valid_gen, _ = prepare_training(
                params, getattr(model_zoo, params["model"]), tmp_path / "cache"
            )
            result = trainer.fit(
                model, train_gen, valid_gen, epochs=params["epochs"], verbose=0, on_epoch=on_epoch,
                state_path=tmp_path / folder / "state.pt", resume=resume, thresholds=(0.2,), data_id=data_id,
            )  # fmt: skip
        return model, records, result

    return run


def essence(records):
    return [(r.epoch, r.train_loss, r.metrics, r.learning_rate, r.band_counts) for r in records]


@pytest.mark.parametrize(("name", "stops"), [("MF_ccl_plateau", (1, 3)), ("SimpleX_uatt_mml", (2,))])
def test_resumed_equals_undisturbed(name, stops, train):
    model, records, result = train(name, "whole")
    for stop in stops:
        with pytest.raises(Stop):
            train(name, f"cut{stop}", stop_after=stop)
        again, rest, ended = train(name, f"cut{stop}", resume=True)
        assert essence(rest) == essence(records[stop:])
        assert ended == result
        for key, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[key]), key


def test_the_plateau_case_reloads_and_cuts_the_rate(train):
    _, records, _ = train("MF_ccl_plateau", "plateau")
    rates, best, wanted = [record.learning_rate for record in records], -1.0, [records[0].learning_rate]
    for record in records[:-1]:
        reached = record.metrics["Recall(k=20)"]
        wanted.append(wanted[-1] if reached >= best + 1e-6 else max(wanted[-1] * 0.1, 1e-6))
        best = max(best, reached)
    assert rates == pytest.approx(wanted)
    assert rates[-1] < rates[0]


def test_another_number_of_threads_is_refused(train, monkeypatch):
    with pytest.raises(Stop):
        train("MF_mse", "threads", stop_after=1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    with pytest.raises(UserError, match="written with threads 1 and this process has 7"):
        train("MF_mse", "threads", resume=True)


def test_another_device_is_refused(train, tmp_path):
    with pytest.raises(Stop):
        train("MF_mse", "device", stop_after=1)
    path = tmp_path / "device" / "state.pt"
    write_state(path, {**torch.load(path, weights_only=True), "device": "cuda:0"})
    with pytest.raises(UserError, match="written with device cuda:0 and this process has cpu"):
        train("MF_mse", "device", resume=True)


def test_other_data_are_refused(train):
    with pytest.raises(Stop):
        train("MF_ccl", "state", stop_after=1, data_id="a" * 64)
    with pytest.raises(
        UserError, match=r"trained on other data \(fingerprint a{12}\) than are there now \(fingerprint b{12}"
    ):
        train("MF_ccl", "state", resume=True, data_id="b" * 64)


@pytest.mark.parametrize("plateau", [False, True])
def test_the_reported_epoch_is_that_of_the_weights(train, plateau):
    """Without save_best_only recbox keeps the last weights; on a plateau it reloads, and so keeps, those before it."""
    changes = {"learning_rate": 0.3, "epochs": 4, "patience": 50, "reduce_lr_on_plateau": plateau}
    model, records, result = train("MF_ccl", "last", save_best_only=False, **changes)
    monitor = [next(iter(record.metrics.values())) for record in records]
    assert plateau or monitor.index(max(monitor)) < 3  # the case has something to get wrong
    assert plateau or result.best_epoch == 4
    shorter = {**changes, "epochs": result.best_epoch}
    reported, *_ = train("MF_ccl", "shorter", save_best_only=False, **shorter)
    for name, value in reported.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    if plateau:
        assert result.best_epoch == 1 + monitor.index(max(monitor)) < 4


def test_a_damaged_or_missing_state_is_one_sentence(train, tmp_path):
    with pytest.raises(UserError, match="there is no checkpoint"):
        train("MF_mse", "none", resume=True)
    state = tmp_path / "bad" / "state.pt"
    state.parent.mkdir()
    state.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UserError, match="is damaged"):
        train("MF_mse", "bad", resume=True)
    torch.save({"version": 99}, state)
    with pytest.raises(UserError, match="not one of this version"):
        train("MF_mse", "bad", resume=True)


def test_a_full_disk_keeps_the_weights_that_were_there(train, file_limit, tmp_path):
    with pytest.raises(Stop):
        train("MF_mse", "full", stop_after=1)
    weights = next((tmp_path / "full").rglob("*.model"))
    before = weights.read_bytes()
    with file_limit(len(before) // 2), pytest.raises(UserError, match=r"cannot write .*: the file would be larger"):
        train("MF_mse", "full", resume=True)
    assert weights.read_bytes() == before


def test_a_loss_that_is_no_number_stops_the_run(train):
    with pytest.raises(UserError, match=r"training stopped in epoch \d+: the (loss|monitor) is (nan|inf)"):
        train("MF_mse", "nan", learning_rate=1e20, similarity_score="dot")


def test_an_interval_other_than_one_is_warned_about(train):
    with pytest.warns(UserWarning, match="does not thin out recbox's evaluations"):
        train("MF_mse", "interval", eval_interval_epochs=2, epochs=1)


def test_a_state_that_lacks_something_is_damaged(train, tmp_path):
    with pytest.raises(Stop):
        train("MF_mse", "lacking", stop_after=1)
    path = next((tmp_path / "lacking").rglob("state.pt"))
    state = torch.load(path, weights_only=True)
    for broken, says in (
        ({key: value for key, value in state.items() if key != "random"}, "KeyError: 'random'"),
        ({**state, "model": {name: torch.zeros(2) for name in state["model"]}}, r"RuntimeError: Error\(s\) in loading"),
    ):
        torch.save(broken, path)
        with pytest.raises(UserError, match=rf"is damaged \({says}.*begin anew with --overwrite"):
            train("MF_mse", "lacking", resume=True)
