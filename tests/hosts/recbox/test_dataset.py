"""recbox's h5 cache: built once, rebuilt when anything changed, clear about bad files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import pytest

from mml_plugin.errors import UserError
from mml_plugin.hosts.recbox import allowed, dataset

TINY = Path(__file__).resolve().parents[2] / "data" / "golden" / "tiny"


@pytest.fixture
def params(golden_params, tmp_path):
    folder = tmp_path / "csv"
    shutil.copytree(TINY, folder)
    made = golden_params("MF_ccl")
    made.update({k: str(folder / Path(made[k]).name) for k in ("train_data", "valid_data", "item_corpus")})
    return made


def edit(params, key, change):
    path = Path(params[key])
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize("name", ["MF_ccl", "SimpleX_mean_g1_mml", "SimpleX_uatt_mml"])
def test_feature_maps_equal_the_originals(name, golden_params, tmp_path):
    params = golden_params(name)
    prepared = dataset.prepare(params, tmp_path)
    wanted = json.loads((TINY / f"feature_map.{params['dataset_id']}.json").read_text())
    assert json.loads((prepared.folder / "feature_map.json").read_text()) == wanted
    assert not (prepared.folder / "feature_encoder.pkl").exists()
    made = prepared.folder.stat().st_ino
    assert dataset.prepare(params, tmp_path).folder.stat().st_ino == made


def test_the_cache_follows_configuration_and_content(params, tmp_path):
    first = dataset.prepare(params, tmp_path / "c").folder
    assert dataset.prepare(params, tmp_path / "c").folder == first
    assert dataset.prepare({**params, "min_categr_count": 2}, tmp_path / "c").folder != first
    edit(params, "train_data", lambda text: text.rsplit("\n", 2)[0] + "\n")
    assert dataset.prepare(params, tmp_path / "c").folder != first


def test_a_damaged_h5_file_is_rebuilt(params, tmp_path):
    folder = dataset.prepare(params, tmp_path / "c").folder
    good = (folder / "train.h5").read_bytes()
    (folder / "train.h5").write_bytes(good[: len(good) // 2])
    assert dataset.prepare(params, tmp_path / "c").folder == folder
    with h5py.File(folder / "train.h5") as stored:
        assert len(stored["user_id"]) == stored.attrs["num_samples"]


@pytest.mark.parametrize("content", ["[]", "{}", "7", '{"feature_specs": []}', '{"feature_specs": {"user_id": 1}}'])
def test_a_feature_map_of_another_form_is_rebuilt(params, tmp_path, content):
    folder = dataset.prepare(params, tmp_path / "c").folder
    good = (folder / "feature_map.json").read_text()
    (folder / "feature_map.json").write_text(content)
    assert dataset.prepare(params, tmp_path / "c").feature_map.feature_specs
    assert (folder / "feature_map.json").read_text() == good


@pytest.mark.parametrize("spoil", [lambda known: [], lambda known: None, lambda known: dict.fromkeys(known, 3)])
def test_remembered_digests_of_another_form_are_made_anew(params, tmp_path, spoil):
    folder = dataset.prepare(params, tmp_path / "c").folder
    memory = tmp_path / "c" / "digests.json"
    good = json.loads(memory.read_text())
    memory.write_text(json.dumps(spoil(good)))
    assert dataset.prepare(params, tmp_path / "c").folder == folder
    assert json.loads(memory.read_text()) == good


def line(number, text):
    def change(content):
        lines = content.splitlines()
        lines[number - 1] = text
        return "\n".join(lines) + "\n"

    return change


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("train_data", line(3, "0,999,1,0,"), r"train.csv, line 3: item 999 is outside the item corpus"),
        ("valid_data", line(2, "0,-1,1,0,"), r"test.csv, line 2: item -1 is outside"),
        ("train_data", line(5, "0,x7,1,0,"), r"train.csv, line 5: corpus_index must be a number, got 'x7'"),
        ("train_data", line(4, "0,3"), r"train.csv, line 4: 2 cells where the header has 5"),
        ("train_data", line(1, "query_index,corpus_index,label,user"), r"line 1: column 'user_id' is missing"),
        ("item_corpus", line(1, "item"), r"item_corpus.csv, line 1: column 'item_id' is missing"),
        ("train_data", lambda text: "", r"line 1: column 'query_index' is missing; found nothing"),
    ],
)
def test_bad_files_name_file_and_line_and_leave_nothing(params, tmp_path, key, change, says):
    edit(params, key, change)
    with pytest.raises(UserError, match=says):
        dataset.prepare(params, tmp_path / "c")
    assert not [p for p in (tmp_path / "c").glob("*") if p.is_dir()]


def test_a_missing_file(params, tmp_path):
    Path(params["valid_data"]).unlink()
    with pytest.raises(UserError, match="valid_data: there is no file"):
        dataset.prepare(params, tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": ["__import__('os').getcwd()"]},
        {"metrics": ["Recall(k=20) or 1"]},
        {"embedding_initializer": "lambda w: __import__('os').system('true')"},
        {"embedding_initializer": "lambda w: nn.init.normal_(w, std=__import__('os').getpid())"},
        {"label_col": {"name": "label", "dtype": "print('x')"}},
        {"feature_cols": [{"name": "a", "active": True, "dtype": "exit()", "type": "index"}]},
        {
            "feature_cols": [
                {"name": "a", "active": True, "dtype": "str", "type": "sequence", "embedding_callback": "x()"}
            ]
        },
        {"optimizer": "__class__"},
    ],
)
def test_code_never_reaches_recbox(params, tmp_path, change):
    with pytest.raises(UserError, match=r"not allowed|is not a metric|is unknown"):
        dataset.prepare({**params, **change}, tmp_path)


def test_code_in_a_cached_feature_map_is_refused(params, tmp_path):
    folder = dataset.prepare(params, tmp_path).folder
    content = json.loads((folder / "feature_map.json").read_text())
    content["feature_specs"]["user_id"]["embedding_callback"] = "print('x')"
    (folder / "feature_map.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"embedding_callback .* is not allowed"):
        dataset.prepare(params, tmp_path)


@pytest.mark.parametrize("text", [allowed.DEFAULT_INITIALIZER, "lambda w: nn.init.xavier_uniform_(w)",
                                  "lambda w: nn.init.uniform_(w, a=-0.1, b=1e-2)"])  # fmt: skip
def test_plain_initializers_are_allowed(text):
    assert allowed.check_initializer(text) == text


def test_too_little_space_is_said_before_anything_is_written(params, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)._replace(free=20_000)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: free)
        with pytest.raises(UserError, match="there is no space left"):
            dataset.prepare(params, tmp_path / "full")
    assert not [p for p in (tmp_path / "full").iterdir() if p.is_dir()]
    dataset.prepare(params, tmp_path / "full")


def test_a_folder_that_cannot_be_written(params, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write .*file"):
        dataset.prepare(params, tmp_path / "file" / "cache")
