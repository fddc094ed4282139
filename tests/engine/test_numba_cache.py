"""Where numba keeps compiled kernels when the checkout and the user's cache are read-only."""

from __future__ import annotations

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
    yield tmp_path
    numba_cache._temporary_folder.cache_clear()


def test_a_folder_of_the_process_takes_the_cache_s_place(read_only, caplog):
    with caplog.at_level("INFO"):
        assert backends.select("auto", CPU).name == "numba"
    assert [folder.name.startswith("mml-numba-") for folder in read_only.iterdir()] == [True]
    warning, pick = caplog.messages
    assert "every process compiles them anew; set NUMBA_CACHE_DIR" in warning
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
