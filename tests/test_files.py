"""Files are complete or not there; a refusal to write is one sentence."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
import sys

import pytest

from mml_plugin.errors import UserError, nearest
from mml_plugin.files import atomic_write, checksum, make_folder


def test_nothing_is_left_when_the_block_fails(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("before")

    def fail_half_way():
        with atomic_write(target) as stream:
            stream.write("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_complete_file_replaces_the_old_one_with_the_usual_permissions(tmp_path):
    target = tmp_path / "deep" / "out.bin"
    with atomic_write(target, "wb") as stream:
        stream.write(b"\x00\r\n")
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert target.read_bytes() == b"\x00\r\n"
    assert target.stat().st_mode == plain.stat().st_mode


def test_a_path_below_a_file_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a part of the path is a file, not a folder"):
        make_folder(tmp_path / "file" / "sub")
    with pytest.raises(UserError, match="it is a file, not a folder"):
        make_folder(tmp_path / "file")


def test_a_folder_that_cannot_be_made_is_one_sentence():
    with pytest.raises(UserError, match="cannot write /proc/none: the folder is not there and cannot be made"):
        make_folder("/proc/none")
    with pytest.raises(UserError, match="the name is too long"):
        make_folder("/tmp/" + 300 * "x")


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    link = tmp_path / "runs"
    link.symlink_to(tmp_path / "gone")
    for folder in (link, link / "x"):
        with pytest.raises(
            UserError, match=f"cannot write to {folder}: {link} is a link to .*gone, which is not there"
        ):
            make_folder(folder)


FULL = """
import resource, signal, sys
from mml_plugin.errors import UserError
from mml_plugin.files import atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, resource.RLIM_INFINITY))
try:
    with atomic_write(sys.argv[1], "wb") as stream:
        stream.write(b"x" * (1 << 20))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs RLIMIT_FSIZE")
def test_no_space_keeps_the_old_file_and_says_so(tmp_path):
    target = tmp_path / "out.bin"
    target.write_bytes(b"before")
    done = subprocess.run([sys.executable, "-c", FULL, str(target)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"cannot write {target}: ")
    assert target.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_checksum_equals_hashlib_over_several_chunks(tmp_path):
    content = bytes(range(256)) * 9000
    (tmp_path / "f").write_bytes(content)
    assert checksum(tmp_path / "f") == hashlib.md5(content).hexdigest()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("marginz", "did you mean 'margins'"),
        ("MARGINS", "did you mean 'margins'"),
        ("qqq", "known: loss, margins"),
    ],
)
def test_nearest_names(name, says):
    assert nearest(name, ["margins", "loss"]).startswith(says)


def test_a_link_stays_one_and_the_file_behind_it_is_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "out.txt"
    link.symlink_to(tmp_path / "disk" / "real.txt")
    for text in ("first", "second"):
        with atomic_write(link) as stream:
            stream.write(text)
    assert link.is_symlink()
    assert (tmp_path / "disk" / "real.txt").read_text() == "second"
    assert os.listdir(tmp_path / "disk") == ["real.txt"]
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).symlink_to(tmp_path / other)
    with pytest.raises(UserError, match="its symbolic links lead in a circle"), atomic_write(tmp_path / "a"):
        pass


def test_a_pipe_or_device_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="it is a device or a pipe, not a file"), atomic_write(tmp_path / "pipe", "wb"):
        pass
    with pytest.raises(UserError, match="cannot write /dev/null: it is a device"), atomic_write("/dev/null"):
        pass
    assert os.listdir(tmp_path) == ["pipe"]
    reading, out = os.pipe()
    with (
        pytest.raises(UserError, match=f"cannot write /dev/fd/{out}: it is a device or a pipe"),
        atomic_write(f"/dev/fd/{out}"),
    ):
        pass
    os.close(reading)
    os.close(out)


def test_a_name_that_is_too_long_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="the name is too long"), atomic_write(tmp_path / ("x" * 300)):
        pass


def test_words_that_are_no_utf8_cost_no_file(tmp_path):
    with atomic_write(tmp_path / "out.txt") as stream:
        stream.write(os.fsdecode(b"donn\xe9es.csv"))
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "donn\\udce9es.csv"
