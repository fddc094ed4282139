"""Every experiment is read as reczoo reads it, has the paper's parameters and no key that nothing reads."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mml_plugin import model_zoo
from mml_plugin.engine.optimiser import optimizer_class
from mml_plugin.errors import UserError
from mml_plugin.experiment import schema
from mml_plugin.experiment.config import list_experiments, load_experiment
from mml_plugin.experiment.identity import Conditions, identity_of
from mml_plugin.experiment.run import RunRequest
from mml_plugin.experiment.yaml_blocks import read_blocks, read_document
from mml_plugin.hosts import recbox
from mml_plugin.hosts.recbox import allowed
from mml_plugin.registry import all_loss_keys, loss_keys

CONFIG = Path(__file__).resolve().parents[2] / "config"
NAMES = list_experiments(CONFIG)
LOSSES = {"bpr": "PairwiseLogisticLoss", "hinge": "PairwiseMarginLoss", "softmax": "SoftmaxCrossEntropyLoss",
          "mse": "MSELoss", "ccl": "CosineContrastiveLoss", "bsl": "BilateralSoftmaxLoss", "mml": "MultiMarginLoss",
          "bslnative": "BilateralSoftmaxLoss"}  # fmt: skip
# Read by reczoo's script, recbox's encoder and recbox's files, not by a signature (facts on recbox, section 1.3).
SCRIPT = set(
    "model loss dataset_id seed data_root data_format query_index corpus_index label_col feature_cols min_categr_count "
    "train_data valid_data item_corpus model_root metrics verbose learning_rate optimizer sampling_num_process "
    "fix_sampling_seeds ignore_pos_items num_workers".split()
)
FAST = {"regularizer_scope", "dropout_position", "initializer"}
UNUSED = {"debug_mode"}


@pytest.mark.parametrize("expid", NAMES)
def test_reczoo_and_fuxictr_read_the_same(expid):
    experiment = load_experiment(CONFIG, expid)
    recbox.load()
    with recbox.registered():
        from recbox.utils import load_config

        theirs = load_config(str(CONFIG), expid)
    from fuxictr.utils import load_config as fuxictr_load_config

    assert {**fuxictr_load_config(str(CONFIG), expid), "model_id": expid} == theirs
    for key, value in theirs.items():
        if key not in ("feature_cols", "label_col"):
            assert experiment.params[key] == value, key
    for ours, column in zip(experiment.params["feature_cols"], theirs["feature_cols"]):
        assert {k: v for k, v in ours.items() if v is not None or k in column} == column


@pytest.mark.parametrize("expid", NAMES)
def test_no_key_that_nothing_reads(expid):
    params = load_experiment(CONFIG, expid).params
    recbox.load()
    from recbox.matching.pytorch.dataloaders import h5_generator
    from recbox.matching.pytorch.models import MatchingModel

    readers = [getattr(model_zoo, params["model"]).__init__, MatchingModel.__init__, MatchingModel.fit, h5_generator]
    read = set().union(*(inspect.signature(reader).parameters for reader in readers))
    native = FAST if "bslnative" in expid else set()
    assert set(params) <= read | SCRIPT | UNUSED | native | loss_keys(params["loss"])


@pytest.mark.parametrize("name", allowed.OPTIMIZERS)
def test_recbox_finds_every_optimizer_that_is_allowed_in_any_letters(name):
    recbox.load()
    from recbox.utils.torch_utils import set_optimizer

    for written in (name, name.upper(), allowed.OPTIMIZERS[name]):
        params = load_experiment(CONFIG, "MF_tiny_ccl", [f"optimizer={written}"]).params
        assert set_optimizer(params["optimizer"]) is optimizer_class(written)


def test_all_base_blocks_are_identical():
    bases = [yaml.safe_load(p.read_text())["Base"] for p in sorted((CONFIG / "model_config").glob("*.yaml"))]
    assert all(base == bases[0] for base in bases)


def test_the_experiments_that_the_paper_needs_are_there():
    wanted = {f"{m}_{d}_{x}" for m in ("MF", "SimpleX") for d in ("yelp", "gowalla") for x in list(LOSSES)[:7]}
    wanted |= {f"{m}_{d}_{x}_{v}" for m in ("MF", "SimpleX") for d in ("yelp", "gowalla") for x in ("ccl", "mml")
               for v in ("earlystop", "plateau")}  # fmt: skip
    wanted |= {f"MF_{d}_{x}_n{n}" for d in ("yelp", "gowalla") for x in ("ccl", "bsl", "mml")
               for n in (10, 50, 200, 400, 800)}  # fmt: skip
    wanted |= {f"{m}_{d}_ccl_reczoo" for m in ("MF", "SimpleX") for d in ("yelp", "gowalla")}
    wanted |= {
        f"MF_{d}_bslnative{v}" for d in ("yelp", "gowalla") for v in ("", "_n10", "_n50", "_n200", "_n400", "_n800")
    }
    assert wanted <= set(NAMES)


@pytest.mark.parametrize("expid", [n for n in NAMES if "_tiny_" not in n])
def test_parameters_are_the_papers(expid):
    model, data, loss, *variant = expid.split("_")
    p = load_experiment(CONFIG, expid).params
    yelp, native = data == "yelp", loss == "bslnative"
    assert p["model"] == model
    assert p["loss"] == LOSSES[loss]
    assert (p["learning_rate"], p["embedding_dim"], p["epochs"], p["seed"]) == (1e-4, 64, 100, 2019)
    assert (p["optimizer"], p["similarity_score"]) == ("adam", "cosine")
    assert p["batch_size"] == (1024 if native else 512 if yelp else 256)
    original = {"MF": 800, "SimpleX": 1000 if yelp else 2000}[model]
    counts = {v: int(v[1:]) for v in variant if v[0] == "n"}
    assert p["num_negs"] == (original if variant == ["reczoo"] else next(iter(counts.values()), 100))
    assert p["reduce_lr_on_plateau"] is (variant in (["reczoo"], ["plateau"]))
    assert p["patience"] == (3 if variant and variant[0] in ("earlystop", "reczoo", "plateau") else 200)
    assert p["monitor"] == ("NDCG(k=20)" if (model, data) == ("SimpleX", "gowalla") else "Recall(k=20)")
    if model == "MF":
        wanted = (1e-3 if yelp else 1e-9) if native else (1e-9 if yelp else 1e-8)
        assert (p["regularizer"], p["embedding_dropout"]) == (wanted, 0.1)
    else:
        mixed = ("mean", 1.0, 1e-8) if yelp else ("user_attention", 0.8, 1e-7)
        assert (p["aggregator"], p["gamma"], p["embedding_regularizer"]) == mixed
        assert (p["net_dropout"], p["net_regularizer"], p["enable_bias"]) == (0.1, 0.0, False)
        history = next(c for c in p["feature_cols"] if c["name"] == "user_history")
        item = next(c for c in p["feature_cols"] if c["name"] == "item_id")
        assert (history.get("max_len"), item.get("share_embedding")) == (
            (500, "user_history") if yelp else (None, None)
        )
        assert history["padding"] == "pre"
    if loss == "ccl":
        assert (p["margin"], p["negative_weight"]) == (0.9, 250 if (model, data) == ("SimpleX", "gowalla") else 150)
    if loss == "mml":
        lists = ([0.6, 0.7, 0.8, 0.9], [0.05, 0.15, 0.2, 0.6]) if yelp else ([0.7, 0.8, 0.9], [0.10, 0.15, 0.75])
        assert (p["margins"], p["margin_weights"]) == lists
        assert (p["pos_weight"], p["neg_weight"]) == (1, 400 if yelp else 700)
    if loss in ("bsl", "bslnative"):
        assert (p["temperature"], p["temperature2"], p["mode"]) == (*((0.11, 1.10) if yelp else (0.08, 1.22)), "multi")
    if loss == "hinge":
        assert p["margin"] == 0.9
    theirs = {"regularizer_scope": "batch", "dropout_position": "before_normalize", "initializer": "xavier_uniform",
              "max_gradient_norm": float("inf")}  # fmt: skip
    assert {key: p[key] for key in theirs if p.get(key) is not None} == (theirs if native else {})


BAD = [
    ("MF_yelp_mm", (), "there is no experiment 'MF_yelp_mm'.*did you mean 'MF_yelp_mml'"),
    ("MF_yelp_mml", ("marins=[1]",), "unknown key 'marins'; did you mean 'margins'"),
    ("MF_yelp_mml", ("margins=[.1]",), "1 margins and 4 weights"),
    ("MF_yelp_mml", ("margins=[.nan,.1,.2,.3]",), r"margins\[0\] must be a finite number, got nan"),
    ("MF_yelp_mml", ("margins=[a,.1,.2,.3]",), r"margins\[0\] must be a finite number, got 'a'"),
    ("MF_yelp_mml", ("margin_weights=[0,0,0,0]",), "must not all be 0"),
    ("MF_yelp_mml", ("margin_weights=[-1,0,0,1]",), r"margin_weights\[0\] must be a number >= 0"),
    ("MF_yelp_mml", ("neg_weight=0",), "neg_weight must be a number > 0"),
    ("MF_yelp_mml", ("margin_spec=3",), "margin_spec must map margins to weights"),
    ("MF_yelp_mml", ("loss=MultiMarginLos",), "did you mean 'MultiMarginLoss'"),
    ("MF_yelp_mml", ("model=SimplX",), "there is no model 'SimplX'; did you mean 'SimpleX'"),
    ("MF_yelp_mml", ('metrics=["Recal(k=20)"]',), "'Recal.k=20.' is not a metric; did you mean 'Recall'"),
    ("MF_yelp_mml", ('metrics=["Recall(k = 20)"]',), r"write Recall\(k=20\), without blanks"),
    ("MF_yelp_mml", ("optimizer=adm",), "optimizer: 'adm' is unknown; did you mean 'adam'"),
    ("SimpleX_yelp_mml", ("aggregator=men",), "aggregator.*'mean'.*got 'men'"),
    ("SimpleX_yelp_mml", ("similarity_score=sigmoid",), "SimpleX knows the similarities dot and cosine"),
    ("MF_yelp_mml", ("gamma=0.5",), "MF does not read 'gamma'"),
    ("SimpleX_yelp_mml", ("regularizer=0.1",), "does not read 'regularizer'; its key is embedding_regularizer"),
    ("MF_yelp_mml", ("regularizer=foo",), r"regularizer must be a number >= 0, l2\(x\)"),
    ("MF_yelp_mml", ("regularizer=-1",), "regularizer must be a number >= 0"),
    ("MF_yelp_mml", ("regularizer=l2(.)",), r"regularizer must be a number >= 0, l2\(x\)"),
    ("MF_yelp_mml", ("regularizer=l1_l2(1e-5,..)",), r"regularizer must be a number >= 0, l2\(x\)"),
    ("MF_yelp_mml", ("regularizer=l2(1e999)",), r"regularizer must be a number >= 0, l2\(x\)"),
    ("MF_yelp_mml", ("monitor={}",), "monitor .*a mapping needs a metric whose weight is not 0"),
    ("MF_yelp_mml", ("monitor={'NDCG(k=20)': 0}",), "monitor .*a mapping needs a metric whose weight is not 0"),
    ("MF_yelp_mml", ("batch_size=0",), "batch_size input should be greater than or equal to 1, got 0"),
    ("MF_yelp_mml", ("num_negs=yes",), "a boolean is no number"),
    ("MF_yelp_mml", ("learning_rate=fast",), "learning_rate .*unable to parse string as a number, got 'fast'"),
    ("MF_yelp_mml", ("embedding_initializer=__import__('os')",), "embedding_initializer.*is not allowed"),
    ("MF_yelp_mml", ("dataset_id=yelp",), "there is no data set 'yelp'.*did you mean 'yelp_mf'"),
    ("MF_yelp_mml", ("monitor=NDCG(k=5)",), "is not among the metrics; did you mean 'NDCG"),
    ("MF_yelp_mml", ("sampling_num_process=2", "fix_sampling_seeds=false"), "the same negatives in every process"),
    ("MF_yelp_mml", ("compress_duplicate_items=true",), "does not work in recbox"),
    ("MF_yelp_mml", ("data_block_size=5",), "does not work in recbox"),
    ("MF_yelp_mml", ("nonsense",), "write key=value"),
    ("MF_yelp_mml", ("epochs=[1",), "is not valid YAML"),
    ("MF_yelp_mml", ("learning_rate=.inf",), "learning_rate input should be a finite number, got inf"),
    ("MF_yelp_mml", ("monitor={'Recall(k=20)': .nan}",), "monitor input should be .*nan"),
    ("MF_yelp_mml", ("query_index=corpus_index",), "are both 'corpus_index': users and items need one each"),
    ("SimpleX_yelp_mml", ("item_id_field=user_id",), "'user_id', .* an active categorical column with source item"),
    ("SimpleX_yelp_mml", ("user_id_field=user_history",), "an active categorical column with source user"),
    ("SimpleX_yelp_mml", ("user_history_field=item_id",), "an active sequence column with source user"),
    ("MF_yelp_mml", ("learning_rate=2001-99-99",), "is not valid YAML"),
    ("MF_yelp_mml", ("margin_spec={0.5: 1, 0.5: 2}",), "is not valid YAML: '0.5' stands twice"),
    ("MF_yelp_mml", (f"margins={'[' * 3000}",), "is not valid YAML: it is nested too deeply"),
]


@pytest.mark.parametrize("dtype", ["int", "float"])
def test_a_shared_table_has_tokens_of_one_type(dtype):
    columns = load_experiment(CONFIG, "SimpleX_yelp_mml").params["feature_cols"]
    columns = [{**c, "dtype": dtype} if c["name"] == "item_id" else c for c in columns]
    with pytest.raises(UserError, match="'item_id' shares 'user_history', so its dtype must be str too, got"):
        load_experiment(CONFIG, "SimpleX_yelp_mml", [f"feature_cols={columns}".replace("None", "null")])


@pytest.mark.parametrize(("expid", "overrides", "says"), BAD)
def test_bad_input_gets_one_sentence(expid, overrides, says):
    with pytest.raises(UserError, match=says) as caught:
        load_experiment(CONFIG, expid, overrides)
    assert "\n" not in str(caught.value)


def write(folder, model, dataset=None):
    folder.mkdir(exist_ok=True)
    (folder / "model_config.yaml").write_text(model)
    blocks = dataset or (CONFIG / "dataset_config" / "yelp.yaml").read_text()
    (folder / "dataset_config.yaml").write_text(blocks)
    return folder


EXPERIMENT = (CONFIG / "model_config" / "MF.yaml").read_text().split("\nMF_yelp_hinge:")[0] + "\n"


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (
            "    learnin_rate: 1\n",
            r"model_config.yaml, line \d+: unknown key 'learnin_rate'; did you mean 'learning_rate'",
        ),
        ("    loss: MSELoss\n", r"line \d+: not valid YAML: 'loss' stands twice \(also in line \d+\)"),
        ("    a: [1\n", r"line \d+: not valid YAML"),
        ("MF_yelp_bpr: {}\n", "'MF_yelp_bpr' stands twice"),
        ("x: 3\n", "block 'x' must be a mapping"),
        ("    model_id: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("    model_id: a\ab\n", r"line \d+: not valid YAML: it holds the character U\+0007"),
        ("    2024-02-30: 1\n", r"line \d+: not valid YAML: day is out of range for month"),
        ("    model_id: 2001-99-99\n", r"line \d+: not valid YAML: month must be in 1..12"),
    ],
)
def test_files_name_the_line(tmp_path, extra, says):
    with pytest.raises(UserError, match=says):
        load_experiment(write(tmp_path / "c", EXPERIMENT + extra), "MF_yelp_bpr")


MERGED = """
base: &base {a: 1, b: 2}
other: &other {<<: *base, a: 3}
third: {<<: *other, b: 4}
fourth: {inner: *other}
"""


def test_what_a_merge_key_brings_in_may_be_written_again(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(MERGED)
    wanted = yaml.safe_load(MERGED)
    assert read_document(path) == wanted
    assert {name: {k: v.value for k, v in block.items()} for name, block in read_blocks(path).items()} == wanted


def test_missing_files_and_keys(tmp_path):
    with pytest.raises(UserError, match=r"holds neither model_config.yaml nor model_config/\*.yaml"):
        load_experiment(tmp_path, "x")
    without = EXPERIMENT.replace("    epochs: 100\n", "")
    with pytest.raises(UserError, match="experiment MF_yelp_bpr has no epochs"):
        load_experiment(write(tmp_path / "c", without), "MF_yelp_bpr")


def test_an_empty_value_is_the_default():
    empty = [f"{key}=" for key in ("max_gradient_norm", "embedding_dropout", "embedding_initializer", "sep", "nrows")]
    params = load_experiment(CONFIG, "MF_yelp_mml", empty).params
    assert not {text.rstrip("=") for text in empty} & set(params)
    # Within a column, null says that there is no pooling.
    columns = load_experiment(CONFIG, "SimpleX_yelp_mml").params["feature_cols"]
    assert any("embedding_callback" in column and column["embedding_callback"] is None for column in columns)


def test_numbers_that_yaml_reads_as_text_are_converted():
    p = load_experiment(CONFIG, "MF_yelp_mml", ("learning_rate=1e-3", "regularizer=1e-9", "neg_weight=1e2")).params
    assert (p["learning_rate"], p["regularizer"], p["neg_weight"]) == (1e-3, 1e-9, 100.0)
    p = load_experiment(CONFIG, "MF_yelp_mml", ("regularizer=1",)).params
    assert (p["regularizer"], type(p["regularizer"])) == (1.0, float)


def test_keys_of_another_loss_are_one_warning(caplog):
    load_experiment(CONFIG, "MF_yelp_mml", ("margin=0.5", "version=x"))
    warned = [r for r in caplog.records if r.levelname == "WARNING"]
    assert [r.getMessage() for r in warned] == ["Keys that MultiMarginLoss and this run do not read: margin, version"]
    caplog.clear()
    load_experiment(CONFIG, "MF_yelp_mml", ["debug_mode=true"])
    assert "do not read: debug_mode" in caplog.text


def test_a_runs_identity_changes_with_each_of_what_it_is_a_hash_of():
    experiment = load_experiment(CONFIG, "MF_tiny_mml")
    other = load_experiment(CONFIG, "MF_tiny_mml", ("learning_rate=0.5",))
    request = RunRequest("MF_tiny_mml", CONFIG, engine="fast", protocol="held-out")
    data = {"fingerprint": "f", "order": "o"}
    place = Conditions("numba", "cpu", 2)

    def of(experiment=experiment, seed=1, data=data, place=place, **changes):
        return identity_of(experiment, replace(request, **changes), seed, data, place)

    every = [
        of(), of(other), of(seed=2), of(data={**data, "fingerprint": "g"}), of(data={**data, "order": "p"}),
        *(of(place=replace(place, **change))
          for change in ({"backend": "torch"}, {"device": "cuda"}, {"threads": 1}, {"dtype": "float64"})),
        of(engine="recbox"), of(protocol="paper"), of(valid_share=0.2), of(max_batches=5),
    ]  # fmt: skip
    assert len(set(every)) == len(every)
    # Where things are, how they are shown, and a share that nothing is carved by, are no part of it.
    assert of(runs_dir=Path("elsewhere"), tensorboard=True, summary=False, thresholds=(0.5,), gpu=3) == of()
    assert of(protocol="paper", valid_share=0.2) == of(protocol="paper")


def test_identity_ignores_paths_and_seed_and_sees_everything_else():
    def identity(*overrides):
        return load_experiment(CONFIG, "MF_yelp_mml", overrides).identity()

    assert identity() == identity("seed=1", "verbose=0", "train_data=elsewhere.csv", "margin=0.3")
    assert len({identity(), identity("num_negs=10"), identity("neg_weight=399"), identity("epochs=99")}) == 4
    assert identity() == identity("loss=MML")


def test_margin_spec_is_the_two_lists():
    spec = load_experiment(CONFIG, "MF_yelp_mml", ("margin_spec={0.7: 0.1, 0.9: 0.9}",)).params
    assert (spec["margins"], spec["margin_weights"]) == ([0.7, 0.9], [0.1, 0.9])


def test_the_resolved_configuration_reads_back(tmp_path):
    experiment = load_experiment(CONFIG, "SimpleX_yelp_mml", ("num_negs=10",))
    folder = write(tmp_path / "c", experiment.to_yaml(), (CONFIG / "dataset_config" / "yelp.yaml").read_text())
    assert load_experiment(folder, "SimpleX_yelp_mml").identity() == experiment.identity()


@given(st.sampled_from(sorted(schema.known_keys())), st.integers(0, 30), st.sampled_from("qxz_"))
@settings(max_examples=60)
def test_a_misspelt_key_never_passes(key, position, letter):
    wrong = key[: position % len(key)] + letter + key[position % len(key) :]
    if wrong in schema.known_keys() | all_loss_keys():
        return
    with pytest.raises(UserError, match="unknown key"):
        load_experiment(CONFIG, "MF_yelp_mml", (f"{wrong}=1",))


def test_mf_refuses_a_second_column_of_a_side():
    """recbox stacks them and fails with a traceback; the fast engine would leave the history unread."""
    columns = yaml.safe_dump(load_experiment(CONFIG, "SimpleX_yelp_mml").params["feature_cols"], width=10**6)
    with pytest.raises(UserError, match="MF reads one user column, and 'user_history' is another; remove it"):
        load_experiment(CONFIG, "MF_yelp_mml", (f"feature_cols={columns}",))


def test_a_date_under_another_losss_key_is_refused_before_a_run_could_not_be_written():
    with pytest.raises(
        UserError, match=r"--set temperature.*: temperature is a date or another thing that is no setting"
    ):
        load_experiment(CONFIG, "MF_tiny_ccl", ["temperature=2020-01-01"])
