import os
import subprocess
import sys

import pytest

from mml_plugin import threads


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    for name in threads.ANY_OF:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, "gone")  # so that whatever is set meanwhile is undone
        monkeypatch.delenv(name)


@pytest.mark.skipif(not hasattr(os, "getloadavg"), reason="no load average on this system")
@pytest.mark.parametrize(("load", "shortened"), [(0.1, False), (1000.0, True)])
def test_only_a_busy_machine_shortens_the_wait(load, shortened, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert threads.spin_less_when_busy() is shortened
    assert ("GOMP_SPINCOUNT" in os.environ) is shortened


@pytest.mark.parametrize("name", threads.ANY_OF)
def test_the_users_choice_stands(name, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0), raising=False)
    monkeypatch.setenv(name, "ACTIVE")
    assert not threads.spin_less_when_busy()
    assert os.environ[name] == "ACTIVE"


def test_the_command_line_decides_before_torch_is_there():
    code = "import sys, mml_plugin.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
