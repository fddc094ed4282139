"""Exports read back by the libraries that they are for."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from mml_plugin.cli import main
from tests.serving.conftest import COLD, USERS

WARM = [u for u in range(USERS) if u != COLD]


def export(written, *words):
    return main(["export", str(written.path), *words])


def lines(path):
    return path.read_text().splitlines()


def test_safetensors(written, tmp_path):
    from safetensors.numpy import load_file

    out = tmp_path / "out"
    assert export(written, "--format", "safetensors", "--output", str(out)) == 0
    vectors = load_file(out / "embeddings.safetensors")
    np.testing.assert_array_equal(vectors["users"], written.users[WARM])
    np.testing.assert_array_equal(vectors["items"], written.items)
    assert lines(out / "user_ids.txt") == written.user_ids[WARM].tolist()
    assert lines(out / "item_ids.txt") == written.item_ids.tolist()
    about = json.loads((out / "export.json").read_text())
    assert (about["users"], about["users_left_out"], about["similarity"]) == (59, 1, "cosine")


def test_npz_needs_no_pickle(written):
    assert export(written, "--format", "npz") == 0
    with np.load(written.path / "export-npz" / "embeddings.npz", allow_pickle=False) as file:
        assert file["user_ids"].tolist() == written.user_ids[WARM].tolist()
        assert file["item_ids"].tolist() == written.item_ids.tolist()
        np.testing.assert_array_equal(file["items"], written.items)


def test_csv_reads_back_exactly(written):
    assert export(written, "--format", "csv") == 0
    with open(written.path / "export-csv" / "items.csv", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    assert header == ["id", *(f"v{c}" for c in range(6))]
    assert [row[0] for row in rows] == written.item_ids.tolist()
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], np.float32), written.items)


def test_a_faiss_index_finds_what_the_vectors_say(written):
    import faiss

    assert export(written, "--format", "faiss") == 0
    folder = written.path / "export-faiss"
    index = faiss.read_index(str(folder / "items.faiss"))
    users = np.load(folder / "users.npy")
    _, found = index.search(users, 3)
    np.testing.assert_array_equal(found, np.argsort(-(written.users[WARM] @ written.items.T), axis=1)[:, :3])


def test_cosine_makes_unit_vectors(written):
    from safetensors.numpy import load_file, save_file

    save_file({"users": written.users * 3, "items": written.items * 5}, written.path / "embeddings.safetensors")
    assert export(written, "--format", "safetensors", "--cosine") == 0
    vectors = load_file(written.path / "export-safetensors" / "embeddings.safetensors")
    np.testing.assert_allclose(vectors["items"], written.items, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors["users"], axis=1), 1, rtol=1e-6)


def test_mistakes_are_one_sentence(written, capsys):
    assert export(written, "--format", "pickle") == 2
    assert "--format 'pickle' is unknown" in capsys.readouterr().err
    assert export(written, "--format", "npz") == 0
    assert export(written, "--format", "npz") == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert export(written, "--format", "npz", "--overwrite") == 0
    (written.path / "mine").mkdir()
    (written.path / "mine" / "letter.txt").write_text("dear all")
    assert export(written, "--format", "npz", "--overwrite", "--output", str(written.path / "mine")) == 2
    assert "is not an earlier export" in capsys.readouterr().err
    assert (written.path / "mine" / "letter.txt").read_text() == "dear all"
    (written.path / "export-npz" / "letter.txt").write_text("dear all")
    assert export(written, "--format", "npz", "--overwrite") == 2
    assert "holds 'letter.txt', which is no part of an earlier export" in capsys.readouterr().err
    assert (written.path / "export-npz" / "letter.txt").read_text() == "dear all"
    config = {"MF_x": {"train_data": "./train.csv", "similarity_score": "cosine", "enable_bias": True}}
    (written.path / "config.yaml").write_text(yaml.safe_dump(config))
    assert export(written, "--format", "csv", "--cosine") == 2
    assert "the vectors' last column is an item bias" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["safetensors", "npz", "csv", "faiss"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(written, capsys, file_limit, format):
    """The limit lets faiss's index through and not the matrix beside it."""
    before = sorted(written.path.iterdir())
    with file_limit(1400):
        code = export(written, "--format", format)
    assert code == 2
    folder = written.path / f"export-{format}"
    says = f"error: cannot write {folder}: the file would be larger than the limit set for this process\n"
    assert capsys.readouterr().err == says
    assert sorted(written.path.iterdir()) == before


def test_an_export_is_not_replaced_from_inside_and_through_a_link_it_is(written, tmp_path, monkeypatch, capsys):
    assert export(written, "--format", "npz") == 0
    monkeypatch.chdir(written.path / "export-npz")
    before = sorted(os.listdir())
    assert export(written, "--format", "npz", "--overwrite", "--output", ".") == 2
    assert ". is the folder that this command runs in" in capsys.readouterr().err
    assert sorted(os.listdir()) == before
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to(written.path / "export-npz")
    assert export(written, "--format", "csv", "--overwrite", "--output", "link") == 0
    assert (written.path / "export-npz" / "items.csv").is_file()
    assert Path("link").is_symlink()


def test_an_interrupted_export_leaves_what_was_there(written, monkeypatch):
    """Ctrl-C when the vectors are written and the description is not."""
    assert export(written, "--format", "npz") == 0
    before = {p: p.read_bytes() for p in written.path.rglob("*") if p.is_file()}

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", stop)
    assert export(written, "--format", "npz", "--overwrite") == 130
    assert export(written, "--format", "csv") == 130
    assert {p: p.read_bytes() for p in written.path.rglob("*") if p.is_file()} == before
