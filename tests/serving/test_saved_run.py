"""Run folders that are not what they should be: one sentence each."""

from __future__ import annotations

import errno
import os
import shutil

import numpy as np
import pytest
import torch
from filelock import FileLock
from safetensors.numpy import save_file

from mml_plugin.errors import UserError
from mml_plugin.experiment.outputs import write_parquet
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.serving.saved_run import load_run


def test_ids_vectors_and_seen_items_come_back(written):
    run = load_run(written.path)
    assert run.user_ids.tolist() == written.user_ids.tolist()
    assert run.item_ids.tolist() == written.item_ids.tolist()
    np.testing.assert_array_equal(run.user_vectors.numpy(), written.users)
    for user, items in enumerate(written.seen):
        low, high = run.seen.indptr[user], run.seen.indptr[user + 1]
        assert set(run.seen.items[low:high].tolist()) == items
    assert run.cosine


@pytest.mark.parametrize("name", ["embeddings.safetensors", "ids.parquet", "seen.parquet", "config.yaml"])
@pytest.mark.parametrize("damage", ["missing", "garbage", "empty"])
def test_a_missing_or_damaged_file_is_named(written, name, damage):
    path = written.path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"\xff\xfe garbage" if damage == "garbage" else b"")
    with pytest.raises(UserError, match=name) as caught:
        load_run(written.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("result.json", "[]", r"result\.json cannot be read: it holds no JSON object"),
        ("result.json", '{"run_format": 9, "versions": 3}', "written by mml_plugin of another version in run format 9"),
        ("config.yaml", "MF_x: {}", "it does not hold one experiment with its train_data"),
        ("config.yaml", "- MF_x", "it does not hold one experiment"),
        ("config.yaml", "MF_x: {train_data: 3}", "it does not hold one experiment with its train_data"),
    ],
)
def test_well_formed_files_of_another_content_are_refused(written, name, text, says):
    (written.path / name).write_text(text)
    with pytest.raises(UserError, match=says):
        load_run(written.path)


@pytest.mark.parametrize("values", [["a", "b"], [0.5, 1.0], [None, 1]])
def test_seen_rows_that_are_no_whole_numbers_are_damage(written, values):
    write_parquet(written.path / "seen.parquet", {"user_row": [0, 1], "item_row": np.array(values)})
    with pytest.raises(UserError, match=r"seen\.parquet is damaged: its item_row must hold whole numbers, not "):
        load_run(written.path)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="there is no run folder"):
        load_run(tmp_path / "nowhere")


def test_an_unfinished_run(written):
    (written.path / "result.json").unlink()
    with pytest.raises(UserError, match="the run has not finished"):
        load_run(written.path)


def test_a_run_that_a_killed_overwrite_had_set_aside_comes_back(written):
    wanted = load_run(written.path)
    folder = RunFolder(written.path)
    folder.set_aside()
    folder.config.write_text("MF_x: {}\n")  # the new run's, which has no epoch
    with folder.lock(), pytest.raises(UserError, match="is being trained anew and has no epoch yet; the earlier run"):
        load_run(written.path)
    found = load_run(written.path)
    assert found.result == wanted.result
    assert torch.equal(found.item_vectors, wanted.item_vectors)
    assert not folder.holds_earlier


def test_a_run_that_cannot_be_put_back_is_not_said_to_be_trained(written, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    RunFolder(written.path).set_aside()
    for owner, name, said in ((RunFolder, "put_back", "be tidied up after .*"), (FileLock, "acquire", r"write to \S+")):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, refused)
            with pytest.raises(UserError, match=f"cannot {said}: Permission denied"):
                load_run(written.path)
    assert load_run(written.path)


def test_a_run_whose_place_is_taken_is_not_served_for_the_new_one(written):
    folder = RunFolder(written.path)
    folder.set_aside()
    folder.checkpoint.write_bytes(b"the new run's first epoch")
    folder.history.write_text("epoch\n")
    with pytest.raises(UserError, match="the run has not finished"):
        load_run(written.path)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(UserError, match="it is not a run folder"):
        load_run(tmp_path)


def test_a_folder_of_runs_lists_them(written):
    shutil.copytree(written.path, written.path.parent / "fast-paper-s2")
    with pytest.raises(UserError, match=r"holds 2; name one of: .*fast-paper-s1, .*fast-paper-s2"):
        load_run(written.path.parent)


def test_another_format_names_the_version_that_wrote_it(written, change_result):
    change_result(run_format=2, versions={"mml_plugin": "9.0.0"})
    with pytest.raises(
        UserError, match=r"written by mml_plugin 9\.0\.0 in run format 2, and this version reads format 1"
    ):
        load_run(written.path)


def test_vectors_and_ids_must_fit_together(written):
    save_file({"users": written.users[:-1], "items": written.items}, written.path / "embeddings.safetensors")
    with pytest.raises(UserError, match="does not fit together: 60 and 50 ids"):
        load_run(written.path)


def test_seen_rows_must_exist(written):
    write_parquet(written.path / "seen.parquet", {"user_row": np.array([0]), "item_row": np.array([50])})
    with pytest.raises(UserError, match="a row is outside 0 to 49"):
        load_run(written.path)
