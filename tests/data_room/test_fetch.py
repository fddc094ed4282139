"""`mml data fetch` against a real HTTP server on this machine that speaks the Hub's few words."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mml_plugin.cli import main

TINY = Path(__file__).resolve().parents[1] / "data" / "golden" / "tiny"
COMMIT = "0" * 39 + "1"

FETCH = """
import sys
from pathlib import Path
from mml_plugin.data import catalog, fetch
from mml_plugin.errors import UserError
md5 = dict(pair.split("=") for pair in sys.argv[2:])
catalog.KNOWN["yelp18"] = catalog.KnownDataset("yelp18", "reczoo/Yelp18_m1", md5, "", {})
try:
    print("wrote", fetch.fetch("yelp18", Path(sys.argv[1])).name)
except UserError as error:
    print(error)
    sys.exit(2)
"""


class Hub(BaseHTTPRequestHandler):
    """HEAD and GET of ``/datasets/<repo>/resolve/main/<file>``, with ranges; may cut the first GET short."""

    cut_first_get = False

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        file = TINY / Path(self.path.split("?")[0]).name
        if "/resolve/" not in self.path or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = file.read_bytes()
        start = 0
        asked = self.headers.get("Range")
        if body and asked:
            start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if asked and body else 200)
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if asked and body:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        if type(self).cut_first_get:
            type(self).cut_first_get = False
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            self.connection.close()
            return
        self.wfile.write(content[start:])


@pytest.fixture
def hub():
    Hub.cut_first_get = False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def fetch(root, endpoint, before="", **md5):
    sums = {name: hashlib.md5((TINY / name).read_bytes()).hexdigest() for name in ("train.txt", "test.txt")}
    sums.update({key.replace("_", "."): value for key, value in md5.items()})
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(root / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1",
           "HF_HUB_DOWNLOAD_TIMEOUT": "5", "HF_HUB_ETAG_TIMEOUT": "5", "no_proxy": "127.0.0.1"}  # fmt: skip
    words = [sys.executable, "-c", before + FETCH, str(root / "data"), *(f"{k}={v}" for k, v in sums.items())]
    return subprocess.run(words, env=env, capture_output=True, text=True, timeout=110, check=False)


def test_fetch_checks_and_imports(hub, tmp_path):
    done = fetch(tmp_path, hub)
    assert done.stdout.strip() == "wrote yelp18", done.stdout + done.stderr
    assert (tmp_path / "data/yelp18/train.csv").read_bytes() == (TINY / "train.csv").read_bytes()


def test_a_cut_download_ends_whole(hub, tmp_path):
    Hub.cut_first_get = True
    done = fetch(tmp_path, hub)
    if done.returncode:
        done = fetch(tmp_path, hub)
    assert done.stdout.strip().endswith("wrote yelp18"), done.stdout + done.stderr
    assert (tmp_path / "data/yelp18/train.csv").read_bytes() == (TINY / "train.csv").read_bytes()


def test_a_wrong_checksum_leaves_nothing(hub, tmp_path):
    done = fetch(tmp_path, hub, train_txt="0" * 32)
    assert done.returncode == 2
    assert "is published; it was removed, fetch it again" in done.stdout
    assert not (tmp_path / "data" / "yelp18").exists()
    assert not (tmp_path / "data/.download/yelp18/train.txt").exists()


def test_an_unreachable_hub_is_one_sentence(tmp_path):
    no_waits = "import time; time.sleep = lambda seconds: None\n"  # huggingface_hub tries six times, over 23 s
    done = fetch(tmp_path, "http://127.0.0.1:9", before=no_waits)
    assert done.returncode == 2
    assert "cannot reach http://127.0.0.1:9" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "endpoint", ["foo", "", "http://", "localhost:8080", "ftp://host/x", "http://h:99999", "http://[::1"]
)
def test_an_endpoint_that_is_no_url_is_one_sentence(tmp_path, monkeypatch, capsys, endpoint):
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    assert main(["data", "fetch", "gowalla", "--root", str(tmp_path / "data")]) == 2
    assert f"HF_ENDPOINT must be a URL such as https://huggingface.co, got {endpoint!r}" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_host_that_cannot_be_one_is_one_sentence(tmp_path):
    done = fetch(tmp_path, "http://.")
    assert done.returncode == 2
    assert "cannot reach http://. for" in done.stdout


def test_a_folder_that_is_no_data_set_is_refused_before_anything_is_fetched(tmp_path, capsys):
    (tmp_path / "gowalla").mkdir()
    (tmp_path / "gowalla" / "letter").write_text("dear all")
    assert main(["data", "fetch", "gowalla", "--root", str(tmp_path), "--overwrite"]) == 2
    assert "gowalla is already there and is not a data set" in capsys.readouterr().err
    assert not (tmp_path / ".download").exists()
