import importlib
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from mml_plugin.cli import main
from mml_plugin.interrupts import LOOK_EVERY, interruptible


class PressedWhileDying:
    """Python prints and drops what a destructor raises."""

    def __del__(self):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_press_that_was_dropped_is_remembered():
    with interruptible() as check:
        check()
        PressedWhileDying()
        with pytest.raises(KeyboardInterrupt):
            check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_press_elsewhere_interrupts_at_once():
    with interruptible(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_somebody_elses_handler_stays():
    seen = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interruptible() as check:
            signal.raise_signal(signal.SIGINT)
            check()
    finally:
        signal.signal(signal.SIGINT, previous)
    assert seen == [signal.SIGINT]


def test_an_error_after_a_press_is_the_press_and_one_without_stays():
    def write(pressed):
        try:
            if pressed:
                signal.raise_signal(signal.SIGINT)
        finally:
            raise RuntimeError("writing the file failed")

    with pytest.raises(KeyboardInterrupt), interruptible():
        write(pressed=True)
    with pytest.raises(RuntimeError, match="writing the file failed"), interruptible():
        write(pressed=False)


def test_a_press_taken_for_another_error_stops_the_command(monkeypatch, capsys):
    """Libraries catch whatever an import raises and go on, half imported."""

    def losses():
        try:
            signal.raise_signal(signal.SIGINT)
        except BaseException:
            raise ImportError("numpy has no attribute 'nonzero'") from None

    monkeypatch.setattr("mml_plugin.cli.losses.losses.callback", lambda name: losses())
    assert main(["losses"]) == 130
    assert capsys.readouterr().err.strip() == "stopped"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_block_inside_another_remembers_the_same_press():
    with interruptible() as outer, interruptible() as inner:
        PressedWhileDying()
        for check in (inner, outer):
            with pytest.raises(KeyboardInterrupt):
                check()
    with interruptible() as check:
        check()


def test_an_import_is_let_finish_first(tmp_path, monkeypatch):
    """Pressed while a module loads: the module is whole, and then the press counts."""
    (tmp_path / "slow_module.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.1)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(tmp_path)

    def begin():
        importlib.import_module("slow_module")
        time.sleep(10)

    with interruptible(), pytest.raises(KeyboardInterrupt):
        begin()
    assert sys.modules.pop("slow_module").whole


def test_a_press_during_an_import_that_fails_comes_once(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text(
        "import signal\nsignal.raise_signal(signal.SIGINT)\nraise ImportError('broken')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(KeyboardInterrupt), interruptible():
        importlib.import_module("broken_module")
    time.sleep(10 * LOOK_EVERY)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_another_threads_error_is_not_the_press():
    def fail():
        with interruptible():
            raise ValueError("this thread's own")

    with interruptible(), ThreadPoolExecutor(1) as pool:
        PressedWhileDying()
        assert isinstance(pool.submit(fail).exception(), ValueError)


def test_a_second_press_does_not_wait_for_the_import(tmp_path, monkeypatch):
    (tmp_path / "slower_module.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(10)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        importlib.import_module("slower_module")
    assert "slower_module" not in sys.modules
