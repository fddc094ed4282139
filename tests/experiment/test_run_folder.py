"""Names, history rows and the state of a run folder."""

from __future__ import annotations

import csv
import json
import os
from contextlib import suppress

import pytest

from mml_plugin.errors import UserError
from mml_plugin.experiment.run_folder import History, RunFolder, band_column, exactly, folder_name, history_thresholds
from mml_plugin.records import EpochRecord


def record(epoch, **more):
    return EpochRecord(epoch=epoch, train_loss=1 / 3, metrics={"Recall(k=20)": 0.1 * epoch}, **more)


def read(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_folder_names():
    assert folder_name("recbox", "paper", 2019) == "recbox-paper-s2019"
    assert folder_name("fast", "held-out", 1, "0123456789abcdef") == "fast-held-out-s1-01234567"


def test_band_columns_name_their_interval():
    margins = (0.6, 0.9)
    assert [band_column(b, margins) for b in range(3)] == [
        "band_0(-inf,0.6]",
        "band_1(0.6,0.9]",
        "band_2(0.9,inf)",
    ]


def test_thresholds_are_read_back_as_they_were(tmp_path):
    """A number that lost its last digits is another threshold: nothing could be rebinned to it."""
    thresholds = (1 / 3, 0.1 + 0.2 + 0.2, 0.6, 0.9)
    path = tmp_path / "history.csv"
    History(path, ["Recall(k=20)"], thresholds).add(record(1, band_counts=(5, 2, 1, 1, 1)))
    assert history_thresholds(path) == thresholds
    assert [exactly(t) for t in (0.6, 1, -0.0, 1e-3, 1 / 3)] == ["0.6", "1", "-0", "0.001", "0.3333333333333333"]


def test_history_keeps_full_precision_and_band_shares(tmp_path):
    history = History(tmp_path / "history.csv", ["Recall(k=20)"], (0.6, 0.9))
    history.add(record(1, band_counts=(6, 3, 1)))
    row = read(history.path)[0]
    assert float(row["train_loss"]) == 1 / 3
    assert [float(row[c]) for c in history.bands] == [0.6, 0.3, 0.1]
    assert list(row) == history.columns


def test_history_of_a_loss_without_margins_has_no_band_columns(tmp_path):
    history = History(tmp_path / "history.csv", ["Recall(k=20)"])
    history.add(record(1))
    assert not [c for c in read(history.path)[0] if c.startswith("band")]


def test_resume_drops_rows_after_the_last_complete_state(tmp_path):
    path = tmp_path / "history.csv"
    first = History(path, ["Recall(k=20)"])
    for epoch in (1, 2, 3):
        first.add(record(epoch))
    second = History(path, ["Recall(k=20)"])
    second.load(2)
    second.add(record(3, train_seconds=5.0))
    rows = read(path)
    assert [r["epoch"] for r in rows] == ["1", "2", "3"]
    assert float(rows[2]["train_seconds"]) == 5.0
    assert rows[0] == {**read(path)[0]}


@pytest.mark.parametrize("left", [None, "", "epoch,train_loss\n"])
def test_a_resumed_run_without_its_history_says_so(tmp_path, caplog, left):
    path = tmp_path / "history.csv"
    if left is not None:
        path.write_text(left)
    history = History(path, ["Recall(k=20)"])
    history.load(0)
    assert not caplog.text
    history.load(3)
    assert "history.csv has none of the 3 epochs" in caplog.text
    assert "begin with epoch 4" in caplog.text


WHOLE = "epoch,train_loss,Recall(k=20),learning_rate,train_seconds,eval_seconds,peak_memory_bytes\n1,.5,.1,1,2,3,4\n"


@pytest.mark.parametrize(
    ("left", "says"),
    [
        (WHOLE + "2,.5,.1,1,2,3,4,9\n", "line 3 has another number of cells than the header"),
        (WHOLE + "2,.5\n", "line 3 has another number of cells than the header"),
        ("epoch\n1\n", "it has no column 'train_loss'"),
        (WHOLE.replace(",2,", ",two,"), "line 2: train_seconds is 'two', not a number"),
        (WHOLE.replace("Recall(k=20)", "Recall(k=21)"), "it has a column 'Recall"),
        (WHOLE.encode() + b"\xff\xfe\n", "'utf-8' codec can't decode byte"),
    ],
)
def test_a_damaged_history_is_named_before_anything_is_trained(tmp_path, left, says):
    path = tmp_path / "history.csv"
    path.write_bytes(left if isinstance(left, bytes) else left.encode())
    with pytest.raises(UserError, match=rf"history.csv is damaged \({says}.*delete it"):
        History(path, ["Recall(k=20)"]).load(1)
    path.write_text(WHOLE)
    History(path, ["Recall(k=20)"]).load(1)


@pytest.mark.parametrize("name", ["recbox", "tensorboard"])
def test_an_export_in_a_folder_of_the_run_goes_with_it(name, tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_result({"a": 1})
    (tmp_path / name).mkdir()
    (tmp_path / name / "export.json").write_text("{}")
    folder.set_aside()
    assert not (tmp_path / name).exists()
    folder.tidy()
    assert folder.finished
    assert (tmp_path / name / "export.json").is_file()


def test_an_export_by_the_name_of_the_mark_stays_where_it_is(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_result({"a": 1})
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "export.json").write_text("{}")
    folder.set_aside()
    folder.tidy()
    assert folder.finished
    assert (tmp_path / "whole" / "export.json").is_file()


def test_thresholds_that_are_none_are_damage(tmp_path):
    path = tmp_path / "history.csv"
    path.write_text('epoch,"band_0(-inf,zz]","band_1(zz,inf)"\n')
    with pytest.raises(UserError, match=r"history.csv is damaged .*'zz'"):
        history_thresholds(path)


def test_a_second_process_is_refused(tmp_path):
    folder = RunFolder(tmp_path / "runs" / "x")
    with folder.lock(), pytest.raises(UserError, match="another process is running"):
        folder.lock()
    with folder.lock():
        pass


def test_result_is_what_makes_a_run_finished(tmp_path):
    folder = RunFolder(tmp_path)
    assert not folder.finished
    with pytest.raises(UserError, match="has not finished"):
        folder.read_result()
    folder.write_result({"a": 1})
    assert folder.finished
    assert folder.read_result({"a": int}) == {"a": 1} == json.loads(folder.result.read_text())
    folder.result.write_text("{half")
    with pytest.raises(UserError, match="cannot be read"):
        folder.read_result()


def test_a_run_that_is_set_aside_comes_back_unless_its_successor_got_anywhere(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_result({"a": 1})
    folder.log.write_text("first")
    folder.events.mkdir()
    (folder.events / "events").write_text("1")
    before = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    folder.set_aside()
    assert not folder.finished
    folder.log.write_text("second, which was refused")
    folder.put_back()
    assert {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    folder.set_aside()
    folder.checkpoint.write_text("second")
    folder.put_back()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_exports_of_a_run_go_and_come_with_it(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_result({"a": 1})
    for name in ("export-npz", "mine"):
        (tmp_path / name).mkdir()
    (tmp_path / "export-npz" / "export.json").write_text("{}")
    before = sorted(tmp_path.rglob("*"))
    folder.set_aside()
    assert not (tmp_path / "export-npz").exists()
    folder.put_back()
    assert sorted(tmp_path.rglob("*")) == before
    folder.set_aside()
    folder.drop_earlier()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("moves", range(1, 20))
def test_a_stop_in_the_midst_of_moving_loses_nothing(tmp_path, monkeypatch, moves):
    folder = RunFolder(tmp_path)
    for path in (folder.result, folder.history, folder.checkpoint, folder.embeddings, folder.log, folder.config):
        path.write_text(path.name)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    real, left = os.replace, [moves]

    def stopped(source, target):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with suppress(KeyboardInterrupt):
            folder.set_aside()
            folder.history.write_text("of the run that was to take its place, and got no checkpoint")
            folder.put_back()
    folder.recover()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_what_a_killed_process_left_half_written_is_swept(tmp_path):
    folder = RunFolder(tmp_path)
    folder.checkpoint.write_text("whole")
    (tmp_path / ".checkpoint.pt.qrsv5ba2.tmp").write_text("half")
    folder.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "it has no backend"),
        ({"a": 3}, "its a is 3"),
        ({"a": {}}, "it has no a.b"),
        ({"a": {"b": "x"}, "metrics": {"Recall(k=20)": "high"}}, r"its metrics Recall\(k=20\) is 'high'"),
    ],
)
def test_a_result_without_what_readers_need_is_one_sentence(tmp_path, content, says):
    folder = RunFolder(tmp_path)
    folder.write_result(content)
    needed = {"a": dict, "a.b": str, "metrics": dict} if content else None
    with pytest.raises(UserError, match=says) as caught:
        folder.read_result(needed)
    assert "result.json cannot be read" in str(caught.value)
    assert "--overwrite" in str(caught.value)
