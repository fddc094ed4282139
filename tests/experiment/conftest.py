"""A folder with small data sets under the names of the real ones."""

from __future__ import annotations

import pytest

from mml_plugin.data import synthetic


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    for name in ("synth", "yelp18", "gowalla"):
        synthetic.generate(folder / "data" / name, users=80, items=120, seed=3)
    return folder


@pytest.fixture
def in_home(home, monkeypatch):
    monkeypatch.chdir(home)
