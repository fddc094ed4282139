"""`mml run`: a script that knows nothing of us, against the golden numbers and against our own engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mml_plugin.cli import main
from mml_plugin.errors import UserError
from mml_plugin.hosts.recbox.launcher import run_script

TESTS = Path(__file__).resolve().parents[2]
GOLDEN_OF = {"MF_ccl": "MF_ccl", "MF_mml": "MF_mml", "MF_mml_author": "MF_mml"}


def tree(folder):
    """Every file of a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def checkout(tmp_path):
    """The reczoo-like folder, far from this repository, with the golden data in it."""
    folder = tmp_path / "elsewhere" / "checkout"
    shutil.copytree(TESTS / "data" / "reczoo_like", folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(TESTS / "data" / "golden" / "tiny", folder / "data" / "tiny")
    return folder


def python(*words, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=180, check=False
    )


def launch(checkout, expid, start):
    """What the launched script printed; it starts in a folder with a `src` of its own, which must not win."""
    start.mkdir()
    (start / "src.py").write_text("raise RuntimeError('the wrong src')\n")
    before = tree(checkout)
    done = python("-m", "mml_plugin", "run", str(checkout / "run_expid.py"), "--expid", expid, "--gpu", "-1", cwd=start)
    assert done.returncode == 0, done.stderr
    after = tree(checkout)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if "__pycache__" in name or name.endswith(".pyc")]
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"checkpoints", "config.csv", "data"}
    assert sorted(p.name for p in start.iterdir()) == ["src.py"]
    return done.stdout + done.stderr


def epoch_losses(text):
    return [float(x) for x in re.findall(r"Train loss: ([\d.]+)", text)]


@pytest.mark.parametrize("expid", GOLDEN_OF)
def test_an_unmodified_script_trains_to_the_golden_numbers_and_to_our_own_weights(
    checkout, golden_pipeline, golden_masks, monkeypatch, tmp_path, expid
):
    printed = launch(checkout, expid, tmp_path / "start")
    golden = golden_pipeline[GOLDEN_OF[expid]]
    if golden_masks:
        assert epoch_losses(printed) == pytest.approx(golden["epoch_loss"], rel=1e-5, abs=1e-6)
        recalls = [float(x) for x in re.findall(r"\[Metrics\] Recall\(k=20\): ([\d.]+)", printed)]
        assert recalls[: len(golden["epoch_metrics"])] == pytest.approx(
            [m["Recall(k=20)"] for m in golden["epoch_metrics"]], abs=1e-3
        )

    monkeypatch.chdir(checkout)
    assert main(["train", "--config", "config", "--expid", expid, "--runs", "runs"]) == 0
    folder = checkout / "runs" / expid / "recbox-paper-s2019"
    ours = pd.read_csv(folder / "history.csv")["train_loss"].tolist()
    assert epoch_losses(printed) == [float(f"{loss:.6f}") for loss in ours]
    theirs = torch.load(checkout / "checkpoints" / "tiny_mf" / f"{expid}.model", weights_only=True)
    state = torch.load(next((folder / "recbox").rglob(f"{expid}.model")), weights_only=True)
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[name], state[name]) for name in theirs)


@pytest.mark.slow
def test_one_line_in_src_is_enough_for_plain_python(checkout, tmp_path):
    first = checkout / "src" / "__init__.py"
    first.write_text("import mml_plugin.hosts.recbox.auto\n" + first.read_text())
    # recbox's network thread would keep an interpreter without network alive; a proxy that refuses ends it at once.
    guard = "import socket, runpy, sys\ndef no(*a, **k): raise OSError\nsocket.socket.connect = no\n"
    code = f"{guard}sys.argv[1:] = ['--expid', 'MF_mml']\nsys.path.insert(0, {str(checkout)!r})\n"
    done = python("-c", f"{code}runpy.run_path({str(checkout / 'run_expid.py')!r}, run_name='__main__')", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(epoch_losses(done.stdout + done.stderr)) == 6


def test_the_interpreter_is_left_as_it_was(checkout, capsys):
    before = list(sys.argv), list(sys.path), sys.dont_write_bytecode, os.getcwd()
    with pytest.raises(SystemExit) as stopped:
        run_script(checkout, ["--help"])
    assert stopped.value.code == 0
    assert "--expid" in capsys.readouterr().out
    assert (list(sys.argv), list(sys.path), sys.dont_write_bytecode, os.getcwd()) == before


def write(folder, text, name="run_expid.py"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("import torch\n", "is not reczoo-like: it does not import recbox"),
        ("from fuxictr.utils import load_config\n", "is fuxictr's"),
        ("import recbox, src\n", "the checkout is incomplete"),
        ("import recbox as\n", "is not a Python script"),
    ],
)
def test_what_is_not_reczoo_like_is_refused(tmp_path, capsys, text, says):
    assert main(["run", str(write(tmp_path / "x", text)), "--expid", "a"]) == 2
    assert says in capsys.readouterr().err


def test_what_the_script_itself_cannot_open_is_shown_as_python_shows_it(tmp_path):
    script = write(tmp_path / "x", "import recbox\nopen('my_features.csv')\n")
    with pytest.raises(FileNotFoundError) as raised:
        main(["run", str(script), "--expid", "a"])
    assert any(entry.path == script for entry in raised.traceback)


def test_a_missing_script_is_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no script .*run_expid\.py"):
        run_script(tmp_path)


def test_a_checkout_for_another_recbox_names_the_one_that_works(tmp_path):
    script = write(tmp_path / "x", "import recbox\n")
    write(tmp_path / "x", "import recbox\nassert recbox.__version__ == '0.1.0'\n", "recbox_version.py")
    with pytest.raises(UserError, match=r"asks for recbox 0\.1\.0; we work with 0\.0\.4 only"):
        run_script(script)
