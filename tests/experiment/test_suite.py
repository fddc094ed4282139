"""Suite files: what is checked before anything runs, and which cells come of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mml_plugin.errors import UserError
from mml_plugin.experiment.config import load_experiment
from mml_plugin.experiment.suite import comparison, make_cells, make_suite, read_suite

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
SUITES = ROOT / "benchmarks" / "suites"


def cells_of(tmp_path, **content):
    suite = make_suite({"title": "T", **content}, "x.yaml")
    return make_cells(suite, CONFIG, tmp_path, where="x.yaml")


@pytest.mark.parametrize("name", sorted(path.stem for path in SUITES.glob("*.yaml")))
def test_every_committed_suite_is_valid(name, tmp_path):
    suite = read_suite(SUITES / f"{name}.yaml")
    cells = make_cells(suite, CONFIG, tmp_path)
    assert (len(cells) > 0) == (suite.kind != "data")
    assert len({cell.request.thresholds for cell in cells}) <= 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"experiments": ["MF_tiny_mlm"]}, "there is no experiment 'MF_tiny_mlm'; did you mean 'MF_tiny_mml'"),
        ({"experimentz": []}, r"x.yaml: unknown key 'experimentz'; did you mean 'experiments'"),
        ({"experiments": [{"expid": "MF_tiny_mml", "lable": "x"}]}, "'experiments.0.lable'; did you mean 'label'"),
        ({"experiments": ["MF_tiny_mml"], "protocol": "heldout"}, "'heldout' is unknown; did you mean 'held-out'"),
        (
            {"experiments": ["MF_tiny_mml"], "engine": "recbox", "backend": "numba"},
            "backend 'numba' is of the fast engine, and every run has engine: recbox",
        ),
        ({"experiments": ["MF_tiny_mml"], "engine": "fst"}, r"engine 'fst' is unknown; did you mean 'fast'"),
        ({"experiments": []}, r"x.yaml: lists nothing to run"),
        ({"experiments": 5}, r"x.yaml: experiments must be a list of names or of mappings, got 5"),
        ({"experiments": "MF_tiny_mml"}, r"experiments must be a list of names or of mappings, got 'MF_tiny_mml'"),
        (
            {"kind": "data", "datasets": ["tiny"], "screen": {"suite": "y", "keep": 1}},
            r"x.yaml: screen means nothing in a suite with kind: data; allowed: title, about, kind, paper, datasets",
        ),
        (
            {"experiments": ["MF_tiny_mml"], "datasets": ["tiny"]},
            r"x.yaml: datasets means nothing in a suite with kind: metrics; data sets are named by kind: data",
        ),
        ({"experiments": ["MF_tiny_mml"], "seeds": [-1]}, r"x.yaml: seeds.0: "),
        ({"experiments": [{"expid": "MF_tiny_mml", "set": {"epochz": 3}}]}, r"unknown key 'epochz'"),
        (
            {"experiments": [{"expid": "MF_tiny_mml", "label": "a"}, {"expid": "MF_tiny_ccl", "label": "a"}]},
            r"two different lines are labelled 'a'",
        ),
        (
            {"experiments": [{"expid": "MF_tiny_mml", "label": "a"}, {"expid": "MF_tiny_mml", "label": "b"}]},
            "'a' and 'b' are the same run; list it once",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence_before_anything_runs(content, says, tmp_path):
    with pytest.raises(UserError, match=says):
        cells_of(tmp_path, **content)
    assert not list(tmp_path.iterdir())


def test_seeds_of_the_command_line_are_checked_too(tmp_path):
    suite = make_suite({"title": "T", "experiments": ["MF_tiny_mml"]}, "x.yaml")
    with pytest.raises(UserError, match="a seed must be between 0 and 4294967295, got -1"):
        make_cells(suite, CONFIG, tmp_path, seeds=[1, -1])


def test_a_missing_suite_names_the_nearest():
    with pytest.raises(UserError, match=r"there is no suite 'table5' in .*; did you mean 'table"):
        read_suite(SUITES / "table5.yaml")


def test_where_seconds_are_the_point_every_second_seed_goes_backwards(tmp_path):
    cells = cells_of(tmp_path, experiments=["MF_tiny_ccl", "MF_tiny_mml"], seeds=[1, 2, 3], kind="time")
    assert [(cell.request.expid, cell.seed) for cell in cells] == [
        ("MF_tiny_ccl", 1), ("MF_tiny_mml", 1), ("MF_tiny_mml", 2), ("MF_tiny_ccl", 2),
        ("MF_tiny_ccl", 3), ("MF_tiny_mml", 3),
    ]  # fmt: skip


def test_seeds_are_the_outer_loop_and_cells_are_named_by_their_folder(tmp_path):
    cells = cells_of(tmp_path, experiments=["MF_tiny_ccl", "MF_tiny_mml"], seeds=[1, 2])
    assert [cell.name for cell in cells] == [
        f"MF_tiny_{loss}/fast-paper-s{s}" for s in (1, 2) for loss in ("ccl", "mml")
    ]


def test_every_run_is_counted_on_the_union_of_all_margins(tmp_path):
    cells = cells_of(tmp_path, experiments=["MF_tiny_ccl", "MF_tiny_mml", "MF_tiny_bsl"])
    assert {cell.request.thresholds for cell in cells} == {(0.6, 0.7, 0.8, 0.9)}


def test_an_override_that_changes_nothing_is_the_same_run(tmp_path):
    lines = [
        {"expid": "MF_tiny_ccl", "set": {"margin": 0.9, "verbose": 1}},
        {"expid": "MF_tiny_ccl", "label": "b", "set": {"margin": 0.5}},
    ]
    same, other = cells_of(tmp_path, experiments=lines)
    assert same.name == "MF_tiny_ccl/fast-paper-s2019"
    assert other.name.startswith("MF_tiny_ccl/fast-paper-s2019-")


@pytest.mark.parametrize(
    ("key", "value"),
    [("dataset_id", "yelp_mf"), ("train_data", "../data/yelp18/train.csv"), ("verbose", 0)],
)
def test_an_override_outside_the_identity_is_kept(key, value, tmp_path):
    """Its run has a folder of its own: the experiment's own run is on other data."""
    lines = [{"expid": "MF_tiny_ccl"}, {"expid": "MF_tiny_ccl", "label": "b", "set": {key: value}}]
    plain, other = cells_of(tmp_path, experiments=lines)
    assert other.experiment.params[key] == value
    assert other.request.overrides == (f"{key}={value}",)
    assert other.folder.path != plain.folder.path
    assert other.experiment.identity() == plain.experiment.identity()


def test_two_data_sets_are_two_runs_and_their_groups_say_which(tmp_path):
    lines = [{"expid": "MF_tiny_ccl", "label": d, "set": {"dataset_id": f"{d}_mf"}} for d in ("yelp", "gowalla")]
    one, two = cells_of(tmp_path, experiments=lines)
    assert one.name != two.name
    assert [one.group, two.group] == [f"MF on {d}, 50 negatives" for d in ("yelp18", "gowalla")]
    for line in lines:
        line |= {"label": "same", "group": "same"}
    with pytest.raises(UserError, match="two different lines are labelled 'same'"):
        cells_of(tmp_path, experiments=lines)


@pytest.mark.parametrize(
    ("key", "says"),
    [("seed", "x.yaml: set seed: .* use --seeds"), ("gpu", "--set gpu: .* --gpu names the GPU"),
     ("model_root", "--runs says where run folders go")],
)  # fmt: skip
def test_keys_that_nothing_would_read_are_refused_wherever_they_are_set(key, says, tmp_path):
    one = {"expid": "MF_tiny_ccl", "set": {key: 7}}
    grid = {"expid": "MF_tiny_ccl", "family": "f", "space": {key: [7]}}
    for content in ({"experiments": [one]}, {"experiments": ["MF_tiny_ccl"], "set": {key: 7}}, {"grids": [grid]}):
        with pytest.raises(UserError, match=says):
            cells_of(tmp_path, **content)
    suite = make_suite({"title": "T", "experiments": ["MF_tiny_ccl"]}, "x.yaml")
    with pytest.raises(UserError, match=says):
        make_cells(suite, CONFIG, tmp_path, overrides=[f"{key}=7"], where="x.yaml")


@pytest.mark.parametrize("space", [{"monitor": ["Recall(k=20)", "NDCG(k=20)"]}, {"monitor_mode": ["max", "min"]}])
def test_a_family_has_one_monitor(space, tmp_path):
    with pytest.raises(UserError, match=r"the tuning cells of 'f' in .* have different monitors"):
        cells_of(tmp_path, grids=[{"expid": "MF_tiny_ccl", "family": "f", "space": space}])


def test_grids_make_one_cell_per_combination(tmp_path):
    grid = {
        "expid": "MF_tiny_mml",
        "family": "several",
        "space": {"margin_spec": [{0.8: 0.2, 0.9: 0.8}, {0.9: 1.0}], "neg_weight": [1, 2, 3]},
    }
    cells = cells_of(tmp_path, grids=[grid])
    assert len({cell.name for cell in cells}) == 6
    assert cells[0].experiment.params["margins"] == [0.8, 0.9]
    assert {cell.family for cell in cells} == {"several"}


def test_compare_groups_by_data_set(tmp_path):
    suite = comparison(["MF_yelp_ccl", "MF_yelp_mml_n10", "MF_gowalla_ccl", "MF_gowalla_mml"], CONFIG)
    groups = [cell.group for cell in make_cells(suite, CONFIG, tmp_path)]
    assert groups == ["on yelp18", "on yelp18", "on gowalla", "on gowalla"]
    with pytest.raises(UserError, match="MF_gowalla_ccl is on gowalla and nothing else is"):
        comparison(["MF_yelp_ccl", "MF_yelp_mml_n10", "MF_gowalla_ccl"], CONFIG)
    with pytest.raises(UserError, match="at least two different experiments"):
        comparison(["MF_yelp_ccl", "MF_yelp_ccl"], CONFIG)
    with pytest.raises(UserError, match="there is no experiment 'MF_yelp_clc'"):
        comparison(["MF_yelp_clc", "MF_yelp_ccl"], CONFIG)


def on(folder, name, tmp_path):
    """Experiment ``name`` on a data set in ``folder``, in a configuration of its own beside the repository's."""
    keys = load_experiment(CONFIG, "MF_tiny_ccl").params
    data = ("feature_cols", "label_col", "query_index", "corpus_index", "data_format", "min_categr_count")
    block = {key: keys[key] for key in data} | {"data_root": "./data/"}
    block |= {"train_data": f"{folder}/train.csv", "valid_data": f"{folder}/test.csv"}
    block |= {"item_corpus": f"{folder}/item_corpus.csv"}
    Path(folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "dataset_config").mkdir(exist_ok=True)
    (tmp_path / "dataset_config" / f"{name}.yaml").write_text(yaml.safe_dump({f"{name}_mf": block}))
    (tmp_path / "model_config").mkdir(exist_ok=True)
    base = (CONFIG / "model_config" / "MF.yaml").read_text().split("\nMF_")[0]
    text = (
        base
        + f"""
MF_{name}:
    model: MF
    dataset_id: {name}_mf
    loss: CosineContrastiveLoss
    margin: 0.9
    negative_weight: 150
    batch_size: 512
"""
    )
    (tmp_path / "model_config" / f"{name}.yaml").write_text(text)
    return f"MF_{name}"


def test_two_data_sets_are_never_compared_though_their_folders_have_one_name(tmp_path):
    books, games = (on(f"{tmp_path}/{name}/clean", name, tmp_path) for name in ("books", "games"))
    with pytest.raises(UserError, match="MF_books is on books/clean and nothing else is"):
        comparison([books, games], tmp_path)
    suite = make_suite({"title": "T", "experiments": [books, games]}, "x.yaml")
    with pytest.raises(UserError, match=r"'MF on clean, .*' would compare runs on .*books/clean with runs on"):
        make_cells(suite, tmp_path, tmp_path / "runs", where="x.yaml")
    (tmp_path / "link").symlink_to(tmp_path / "books")
    linked = on(f"{tmp_path}/link/clean", "linked", tmp_path)
    found = comparison([books, linked], tmp_path)
    assert [entry.group for entry in found.experiments] == ["on clean", "on clean"]
    assert len(make_cells(found, tmp_path, tmp_path / "runs")) == 2
    lines = [{"expid": name, "group": name} for name in (books, games)]
    assert len(make_cells(make_suite({"title": "T", "experiments": lines}, "x.yaml"), tmp_path, tmp_path)) == 2
