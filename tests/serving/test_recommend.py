"""Recommendations against a brute-force ranking."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from mml_plugin.cli import main
from mml_plugin.errors import UserError
from mml_plugin.serving import recommend as serving
from mml_plugin.serving.saved_run import load_run
from tests.serving.conftest import COLD, ITEMS, USERS


def test_one_user_gets_the_best_unseen_items_in_original_ids(written):
    run = load_run(written.path)
    for user in (0, 3, 59):
        found = serving.recommend(run, written.user_ids[user], k=9)
        wanted = written.ranked(user)[:9]
        assert [item for item, _ in found] == written.item_ids[wanted].tolist()
        assert [score for _, score in found] == pytest.approx((written.items[wanted] @ written.users[user]).tolist())


def test_more_than_there_is_gives_all_unseen_items(written):
    found = serving.recommend(load_run(written.path), written.user_ids[0], k=10_000)
    assert len(found) == ITEMS - len(written.seen[0])


def test_equal_scores_come_in_corpus_order(written):
    from safetensors.numpy import load_file, save_file

    path = written.path / "embeddings.safetensors"
    vectors = load_file(path)
    vectors["items"][:] = np.eye(vectors["items"].shape[1], dtype=np.float32)[0]  # products without rounding
    save_file(vectors, path)
    found = serving.recommend(load_run(written.path), written.user_ids[3], k=5)
    unseen = [i for i in range(ITEMS) if i not in written.seen[3]]
    assert [item for item, _ in found] == written.item_ids[unseen[:5]].tolist()


def test_all_users_stream_into_one_parquet_file(written, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(serving, "USERS_PER_PART", 7)
    output = tmp_path / "all.parquet"
    assert main(["recommend", str(written.path), "--all", "--output", str(output), "--k", "4"]) == 0
    assert "4 items for each of 59 users; 1 cold users" in capsys.readouterr().out
    file = pq.ParquetFile(output)
    assert file.num_row_groups == int(np.ceil((USERS - 1) / 7))
    rows = file.read().to_pylist()
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["user"], []).append(row["item"])
        assert row["rank"] == len(found[row["user"]])
    assert found == {
        str(written.user_ids[u]): written.item_ids[written.ranked(u)[:4]].tolist() for u in range(USERS) if u != COLD
    }


def test_many_items_per_user_come_in_smaller_parts(written, monkeypatch, tmp_path):
    """k beyond the catalogue is the catalogue; 50 items of 6 numbers for 59 users do not fit 900 numbers at once."""
    monkeypatch.setattr(serving, "FLOATS_PER_PART", 900)
    written_users, _ = serving.recommend_all(load_run(written.path), tmp_path / "all.parquet", k=10_000)
    file = pq.ParquetFile(tmp_path / "all.parquet")
    assert file.num_row_groups == np.ceil(written_users / 3)
    assert file.metadata.num_rows == sum(ITEMS - len(written.seen[u]) for u in range(USERS) if u != COLD)


def test_a_failed_batch_leaves_no_file(written, monkeypatch, tmp_path):
    monkeypatch.setattr(serving, "_best", lambda *a: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        serving.recommend_all(load_run(written.path), tmp_path / "all.parquet")
    assert not [p for p in tmp_path.iterdir() if p.name != "runs"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--user", "u0ZZ"], "there is no user 'u0ZZ' in"),
        (["--user", "nothing like it"], "its 60 ids look like 'u"),
        ([], "give --user ID"),
        (["--user", "u001", "--user", "u0ZZ"], "there is no user 'u0ZZ' in"),
        (["--all"], "add --output FILE.parquet"),
        (["--user", "u001", "--output", "x"], "--output belongs to --all"),
        (["--all", "--output", "all.csv"], "--output is a Parquet file, not .csv: name it all.parquet"),
    ],
)
def test_mistakes_are_one_sentence(written, capsys, words, says):
    assert main(["recommend", str(written.path), *words]) == 2
    printed, error = capsys.readouterr()
    assert says in error
    assert not printed
    assert error.count("\n") == 1


def test_a_cold_user_is_told_so(written, capsys):
    assert main(["recommend", str(written.path), "--user", str(written.user_ids[COLD])]) == 2
    assert "is cold: it has no training interaction" in capsys.readouterr().err


def test_the_command_prints_rank_item_and_score(written, capsys):
    assert main(["recommend", str(written.path), "--user", str(written.user_ids[5]), "--k", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"user {written.user_ids[5]}"
    assert lines[1].startswith("   1  " + written.item_ids[written.ranked(5)[0]])
    assert len(lines) == 3


def test_k_below_one_is_refused(written):
    with pytest.raises(UserError, match="k must be at least 1, got 0"):
        serving.recommend(load_run(written.path), written.user_ids[0], k=0)
