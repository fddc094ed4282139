"""Where numba keeps compiled kernels, and when it compiles them anew."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import pytest
import torch
from numba.core import caching

from mml_plugin.engine import backends
from mml_plugin.engine.backends import numba_cache
from mml_plugin.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture
def read_only(monkeypatch, tmp_path):
    """Nothing but ``tmp_path`` can be written, and the kernels are imported anew; later tests get back the old ones."""
    backends.select("numba", CPU)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in [n for n in sys.modules if n.startswith(f"{backends.__name__}.numba_") and not n.endswith("_cache")]:
        monkeypatch.delattr(backends, name.rpartition(".")[2])
        monkeypatch.delitem(sys.modules, name)

    def ensure_cache_path(locator):
        if tmp_path not in Path(locator.get_cache_path()).parents:
            raise PermissionError

    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", ensure_cache_path)
    numba_cache._temporary_folder.cache_clear()
    numba_cache._say_that_it_compiles.cache_clear()
    yield tmp_path
    numba_cache._temporary_folder.cache_clear()


def test_a_folder_of_the_process_takes_the_cache_s_place(read_only, caplog):
    with caplog.at_level("INFO"):
        assert backends.select("auto", CPU).name == "numba"
    assert [folder.name.startswith("mml-numba-") for folder in read_only.iterdir()] == [True]
    assert len(list(read_only.rglob(numba_cache.STAMP))) == 1
    warning, compiles, pick = caplog.messages
    assert "every process compiles them anew; set NUMBA_CACHE_DIR" in warning
    assert compiles.startswith("numba compiles each of its kernels at its first use")
    assert pick == "Backend numba on cpu (picked by auto)"


def test_where_there_is_no_such_folder_auto_passes_numba_over(read_only, monkeypatch, caplog):
    def mkdtemp(**_):
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", mkdtemp)
    with caplog.at_level("INFO"):
        assert backends.select("auto", CPU).name == "torch"
    assert caplog.messages[0].startswith("Backend numba is passed over: numba finds no folder that it can write")
    with pytest.raises(UserError, match=r"--backend numba cannot be used on cpu: .* set NUMBA_CACHE_DIR to one"):
        backends.select("numba", CPU)


def test_where_numba_compiles_nothing_auto_passes_it_over():
    code = (
        "import logging, sys, torch; from mml_plugin.engine import backends; from mml_plugin.errors import UserError\n"
        "logging.basicConfig(level='INFO', stream=sys.stdout, format='%(message)s')\n"
        "backends.select('auto', torch.device('cpu'))\n"
        "try:\n    backends.select('numba', torch.device('cpu'))\nexcept UserError as error:\n    print(error)"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    why = "NUMBA_DISABLE_JIT is set, and its kernels run only as compiled"
    assert done.stdout.splitlines() == [
        f"Backend numba is passed over: {why}",
        "Backend torch on cpu (picked by auto)",
        f"--backend numba cannot be used on cpu: {why}",
    ]


def test_a_change_in_a_file_of_kernels_outdates_those_that_call_it_from_another(tmp_path):
    called, caller = tmp_path / "numba_called.py", tmp_path / "numba_caller.py"
    imports = "from numba import njit\nfrom numba_called import inner\n\n\n"
    caller.write_text(imports + "@njit(cache=True)\ndef outer():\n    return inner()\n")

    def run(value: int) -> tuple[int, ...]:
        called.write_text(f"from numba import njit\n\n\n@njit\ndef inner():\n    return {value}\n")
        numba_cache.drop_outdated(tmp_path / "__pycache__", [called, caller])
        code = "import numba_caller; print(numba_caller.outer(), sum(numba_caller.outer.stats.cache_hits.values()))"
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": ""}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return tuple(int(word) for word in done.stdout.split())

    assert run(10) == (10, 0)
    assert run(10) == (10, 1)
    assert run(22) == (22, 0)
    assert sorted(path.suffix for path in (tmp_path / "__pycache__").glob("numba_*")) == [".nbc", ".nbi"]


def test_what_is_compiled_stays_where_nobody_may_tidy_up(tmp_path, monkeypatch):
    source = tmp_path / "numba_kernels.py"
    source.write_text("")
    compiled = tmp_path / "numba_kernels.dot-1.py312.nbi"
    compiled.write_text("")

    def unlink(path, missing_ok=False):
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", unlink)
    numba_cache.drop_outdated(tmp_path, [source])
    numba_cache.drop_outdated(tmp_path, [tmp_path / "gone.py"])
    assert compiled.exists()
    assert not (tmp_path / numba_cache.STAMP).exists()


def test_a_process_that_has_the_kernels_already_drops_nothing(monkeypatch):
    """What it compiles from now on is of the files as it imported them, whatever they say now."""
    backends.select("numba", CPU)
    monkeypatch.setattr(numba_cache, "drop_outdated", lambda *_: pytest.fail("it does"))
    numba_cache.ensure()


def test_every_file_that_the_kernels_take_something_from_is_looked_at():
    folder = Path(numba_cache.__file__).parent
    compiling = {
        path.stem for path in folder.glob("numba_*.py") if "njit" in path.read_text() or "intrinsic" in path.read_text()
    }
    assert compiling - {"numba_cache"} <= set(numba_cache.KERNELS)
    taken = re.findall(
        r"from mml_plugin\.engine(?:\.backends)?\.?(\w*) import (\w+)",
        "".join((folder / f"{n}.py").read_text() for n in numba_cache.KERNELS if n != "base"),
    )
    assert {module or name for module, name in taken} <= {*numba_cache.KERNELS, "philox"}
