"""Which backend is taken where numba is not there, or does not import."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch

from mml_plugin.engine import backends
from mml_plugin.engine.scores import sampled_scores
from mml_plugin.errors import UserError

CPU = torch.device("cpu")
BROKEN = {
    "ImportError": ("raise ImportError('needs NumPy 2.3 or less.\\nAsk somebody.')", "needs NumPy 2.3 or less."),
    "SystemError": ("raise SystemError", "no reason given"),
}


@pytest.fixture
def absent(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "numba" else real(name, *more))


@pytest.fixture(params=BROKEN)
def broken(request, monkeypatch, tmp_path):
    """The reason why numba does not import; later tests get back the one that does."""
    source, reason = BROKEN[request.param]
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "numba", raising=False)
    return f"the package numba does not import: {request.param}: {reason}"


def test_without_numba_auto_takes_torch_and_says_why(absent, caplog):
    with caplog.at_level("INFO"):
        assert backends.select("auto", CPU).name == "torch"
    assert caplog.messages == [
        "Backend numba is passed over: the package numba is not installed (pip install numba)",
        "Backend torch on cpu (picked by auto)",
    ]
    with pytest.raises(UserError, match="--backend numba cannot be used on cpu: the package numba is not installed"):
        backends.check("numba", CPU)


def test_a_numba_that_does_not_import_is_passed_over_like_one_that_is_not_there(broken, caplog):
    with caplog.at_level("INFO"):
        assert backends.select("auto", CPU).name == "torch"
    assert caplog.messages == [f"Backend numba is passed over: {broken}", "Backend torch on cpu (picked by auto)"]
    for ask in (backends.check, backends.select):
        with pytest.raises(UserError) as refused:
            ask("numba", CPU)
        assert str(refused.value) == f"--backend numba cannot be used on cpu: {broken}"


def test_sampled_scores_do_without_it_too(broken, monkeypatch):
    from mml_plugin.engine import scores

    monkeypatch.setattr(scores, "_selected", scores._Selected())
    user, table = torch.ones(1, 2), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert sampled_scores(user, table, torch.tensor([[1, 0]]), backend="auto").tolist() == [[7.0, 3.0]]
