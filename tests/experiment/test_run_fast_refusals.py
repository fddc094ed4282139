"""What the fast engine refuses, in a sentence and before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mml_plugin.data.importing import import_csv
from mml_plugin.errors import UserError
from mml_plugin.experiment import run_fast
from mml_plugin.experiment.config import load_experiment
from mml_plugin.experiment.run import RunRequest, run
from tests.experiment.small_runs import CONFIG, ROOT, go

pytestmark = pytest.mark.usefixtures("in_home")


@pytest.mark.parametrize(
    ("more", "keys", "says"),
    [
        (("eval_interval_epochs=2",), {}, "eval_interval_epochs 2.0: the fast engine evaluates after every epoch"),
        (("nrows=5",), {}, "nrows: the fast engine reads whole files"),
        ((), {"backend": "nmba"}, "--backend 'nmba' is unknown; did you mean 'numba'"),
        ((), {"backend": "triton"}, "--backend triton cannot be used on cpu: it runs on cuda, not on cpu"),
        (("learning_rate=1.e+30",), {}, "training stopped in epoch"),
    ],
)
def test_refusals(more, keys, says):
    with pytest.raises(UserError, match=says):
        go(runs="refusals", more=more, overwrite=True, **keys)


def test_a_user_with_every_item_is_named_as_in_the_file(home):
    (home / "all.csv").write_text(
        "user,item\n" + "".join(f"{u},{i}\n" for u in ("ben", "anna") for i in "xyz"[: len(u)])
    )
    (home / "one.csv").write_text("user,item\nben,x\n")
    import_csv("full", home / "all.csv", home / "one.csv", home / "data", overwrite=True)
    names = {"train_data": "train.csv", "valid_data": "test.csv", "item_corpus": "item_corpus.csv"}
    where = [f"{key}=data/full/{name}" for key, name in names.items()]
    with pytest.raises(UserError, match=r"data/full: user ben has every item among its training items \(3\)"):
        go(more=(*where, "ignore_pos_items=True"))


def test_two_seeds_are_one_too_many():
    with pytest.raises(UserError, match="--seed 5 and --set seed=7 are two; give one"):
        go(more=("seed=7",), seed=5)


BATCH_SCOPE = "regularizer_scope=batch"


@pytest.mark.parametrize(
    ("expid", "more", "says"),
    [
        ("SimpleX_yelp_mml", (), "regularizer_scope batch: it is defined for MF's two tables; SimpleX has more"),
        (
            "MF_tiny_mml",
            ("regularizer=l1(1.e-4)",),
            r"regularizer l1\(1.e-4\): regularizer_scope batch takes a plain number",
        ),
        ("MF_tiny_mml", ("regularizer='l1_l2(1.e-4,1.e-3)'",), "regularizer_scope batch takes a plain number"),
    ],
)
def test_a_batch_scope_that_cannot_be_served_is_refused_before_anything_is_written(expid, more, says):
    with pytest.raises(UserError, match=says):
        go(expid, runs="scope", more=(BATCH_SCOPE, *more))
    assert not Path("scope").exists()


def test_recbox_refuses_what_is_the_fast_engines():
    with pytest.raises(UserError, match="--backend numba is the fast engine's"):
        run(RunRequest("MF_tiny_mml", CONFIG, backend="numba"))
    with pytest.raises(UserError, match="popularity_alpha, which stock recbox does not have; --engine fast does"):
        run(RunRequest("MF_tiny_mml", CONFIG, overrides=("popularity_alpha=0.5",)))


def test_a_backend_that_cannot_run_is_refused_before_anything_is_written(tmp_path):
    request = RunRequest("MF_tiny_ccl", ROOT / "config", engine="fast", backend="triton", runs_dir=tmp_path / "runs")
    with pytest.raises(UserError, match="--backend triton cannot be used on cpu"):
        run_fast.check(load_experiment(request.config_dir, request.expid), request)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"na_value": "x"}, "cannot read column 'user_id' (its na_value)"),
        ({"embedding_dim": 8}, "cannot read column 'item_id' (its embedding_dim)"),
        ({"share_embedding": "user_history"}, "'item_id' can share the item's table only"),
    ],
)
def test_columns_that_it_cannot_read_are_refused_before_anything_is_written(change, says, tmp_path):
    request = RunRequest("MF_tiny_ccl", ROOT / "config", engine="fast", runs_dir=tmp_path / "runs")
    experiment = load_experiment(request.config_dir, request.expid)
    for column in experiment.params["feature_cols"]:
        if column["name"] == says.split("'")[1]:
            column.update(change)
    with pytest.raises(UserError, match=re.escape(says)):
        run_fast.check(experiment, request)
