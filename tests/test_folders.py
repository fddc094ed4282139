"""Folders that are complete or not there: what replaces what, and what a failure or a kill leaves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mml_plugin.errors import UserError
from mml_plugin.folders import build_folder, check_place


def write(text):
    return lambda folder: (folder / "mark").write_text(text)


def write_file(path, text):
    path.write_text(text)


def build(folder, text, overwrite=True):
    check = partial(check_place, folder, overwrite, ("mark",), "a mark")
    check()
    build_folder(folder, write(text), check)


def contents(home):
    found = [Path(folder, name) for folder, _, names in os.walk(home) for name in names]
    return {str(path.relative_to(home)): path.read_text() for path in found if path.is_file()}


@pytest.fixture
def home(tmp_path):
    build(tmp_path / "x", "old")
    return tmp_path


def failing(function, *which, error):
    """A function that fails on the given calls, counted from 0."""
    calls = iter(range(100))
    return lambda *a, **k: throw(error) if next(calls) in which else function(*a, **k)


def throw(error):
    raise error


@pytest.mark.parametrize("error", [OSError(5, "the disk is gone"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", [0, 1])
def test_a_rename_that_fails_leaves_the_old_folder(home, monkeypatch, step, error):
    monkeypatch.setattr(os, "rename", failing(os.rename, step, error=error))
    with pytest.raises((UserError, KeyboardInterrupt)):
        build(home / "x", "new")
    assert contents(home) == {"x/mark": "old"}


def test_an_old_folder_that_does_not_come_back_at_once_comes_back_with_the_next(home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing(os.rename, 1, 2, error=OSError(5, "the disk is gone")))
        with pytest.raises(UserError, match="the device reports an error"):
            build(home / "x", "new")
    with pytest.raises(UserError, match="already there"):
        build(home / "x", "newer", overwrite=False)
    assert contents(home) == {"x/mark": "old"}


def test_old_files_that_cannot_be_removed_cost_nothing(home, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", failing(shutil.rmtree, *range(9), error=KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            build(home / "x", "new")
    assert contents(home)["x/mark"] == "new"
    build(home / "y", "other")
    assert len(contents(home)) > 2  # another folder's leavings are none of y's business
    build(home / "x", "newer")
    assert contents(home) == {"x/mark": "newer", "y/mark": "other"}


@pytest.mark.parametrize("overwrite", [True, False])
def test_what_appears_meanwhile_is_not_replaced(tmp_path, overwrite):
    def fill(folder):
        (folder / "mark").write_text("mine")
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "letter").write_text("dear all")

    check = partial(check_place, tmp_path / "x", overwrite, ("mark",), "a mark")
    with pytest.raises(UserError, match="already there and is not a mark"):
        build_folder(tmp_path / "x", fill, check)
    assert contents(tmp_path) == {"x/letter": "dear all"}


def test_what_appears_in_the_last_moment_is_not_replaced(tmp_path):
    with pytest.raises(UserError, match=r"x was made by somebody else meanwhile and is left as it is$"):
        build_folder(tmp_path / "x", write("mine"), lambda: write_file(tmp_path / "x", "a file"))
    assert contents(tmp_path) == {"x": "a file"}


def test_an_old_folder_whose_place_was_taken_is_kept(home, monkeypatch):
    rename = os.rename

    def aside(source, target):
        rename(source, target)
        write_file(home / "x", "a file")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", aside)
        with pytest.raises(UserError, match="left as it is; what it was to replace is in ") as refused:
            build(home / "x", "new")
    kept = str(refused.value).rpartition(" ")[2]
    (home / "x").unlink()
    build(home / "x", "newer")
    assert (Path(kept) / "mark").read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from mml_plugin import folders
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
def fill(folder):
    (folder / "mark").write_text("new")
    if sys.argv[2] == "filling":
        die()
rename, calls = os.rename, []
def renaming(*args):
    if len(calls) == int(sys.argv[2]):
        die()
    calls.append(args)
    rename(*args)
if sys.argv[2] != "filling":
    os.rename = renaming
folders.build_folder(Path(sys.argv[1]), fill)
"""


@pytest.mark.parametrize(("when", "kept"), [("filling", "old"), ("0", "old"), ("1", "old"), ("2", "new")])
def test_what_a_kill_leaves_is_put_in_order_by_the_next(home, when, kept):
    killed = subprocess.run([sys.executable, "-c", KILLED, str(home / "x"), when], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert len(contents(home)) > 1
    with pytest.raises(UserError, match="already there"):
        build(home / "x", "newer", overwrite=False)
    assert contents(home) == {"x/mark": kept}


def test_a_living_process_keeps_its_files(home):
    def fill(folder):
        build(home / "x", "faster")
        assert folder.is_dir()
        (folder / "mark").write_text("slower")

    build_folder(home / "x", fill)
    assert contents(home) == {"x/mark": "slower"}


def test_a_link_is_followed(home):
    (home / "in").mkdir()
    for name, target in (("link", "../x"), ("nowhere", "../y"), ("round", "round")):
        (home / "in" / name).symlink_to(target)
    for name in ("link", "nowhere"):
        build(home / "in" / name, "new")
        assert (home / "in" / name).is_symlink()
    assert contents(home) == {"x/mark": "new", "y/mark": "new"}
    with pytest.raises(UserError, match="its symbolic links lead in a circle"):
        build(home / "in" / "round", "new")


@pytest.mark.parametrize("name", [".", "../x", ".."])
def test_the_folder_that_one_is_in_is_refused(home, monkeypatch, name):
    monkeypatch.chdir(home / "x")
    with pytest.raises(UserError, match="is the folder that this command runs in, or holds it"):
        build(Path(name), "new")
    assert contents(home) == {"x/mark": "old"}
