"""Every configuration key that something reads: its type, its range, and who reads it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from mml_plugin.registry import all_loss_keys


def _not_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("a boolean is no number")
    return value


def _regularizer(value: Any) -> Any:
    # recbox ignores integers without a word and fails on strings such as 1e-9, which YAML does not read as numbers.
    if isinstance(value, bool):
        raise ValueError("a boolean is no regularizer")
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) else value


def _finite_norm(text: str) -> str:
    if not all(math.isfinite(float(number)) for number in re.findall(_FLOAT, text.partition("(")[2])):
        raise ValueError("a regularizer must be finite")
    return text


def _some_weight(monitor: str | dict[str, float]) -> str | dict[str, float]:
    if isinstance(monitor, dict) and not any(monitor.values()):
        raise ValueError("a mapping needs a metric whose weight is not 0")
    return monitor


def _separator(text: str) -> str:
    if len(text) != 1 or text in '"\r\n\0':
        raise ValueError("it must be one character, and no quote or line end")
    return text


Count = Annotated[int, BeforeValidator(_not_boolean), Field(ge=1)]
CountOrZero = Annotated[int, BeforeValidator(_not_boolean), Field(ge=0)]
Seed = Annotated[int, BeforeValidator(_not_boolean), Field(ge=0, lt=2**32)]
Positive = Annotated[float, BeforeValidator(_not_boolean), Field(gt=0)]
Rate = Annotated[float, BeforeValidator(_not_boolean), Field(gt=0, allow_inf_nan=False)]
Interval = Annotated[float, BeforeValidator(_not_boolean), Field(gt=0, le=1e6)]
Finite = Annotated[float, BeforeValidator(_not_boolean), Field(allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_not_boolean), Field(ge=0, le=1)]
Dropout = Annotated[float, BeforeValidator(_not_boolean), Field(ge=0, lt=1)]
_FLOAT = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
Norm = Annotated[
    str, Field(pattern=rf"^(l[12]\({_FLOAT}\)|l1_l2\({_FLOAT}, *{_FLOAT}\))$"), AfterValidator(_finite_norm)
]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Regularizer = Annotated[NotNegative | Norm | None, BeforeValidator(_regularizer)]


class FeatureColumn(BaseModel):
    """One entry of ``feature_cols`` (``label_col`` has ``name`` and ``dtype`` alone)."""

    model_config = ConfigDict(extra="forbid")
    name: str | list[str]
    """The column's name in the CSV files."""
    active: bool
    """False leaves the column out."""
    dtype: str
    """``str``, ``int`` or ``float``: as what ids are read and ordered."""
    type: Literal["index", "numeric", "categorical", "sequence"]
    """``index`` numbers users or items, ``categorical`` is an id, ``sequence`` a history; ``numeric`` is recbox's."""
    source: str = ""
    """``user`` or ``item``: whose the column is; an index has none."""
    preprocess: str = ""
    """Not supported; only empty."""
    na_value: str | float | None = None
    """What stands for a missing value, in recbox; the fast engine refuses it."""
    min_categr_count: Count | None = None
    """Instead of the data set's, for this column."""
    embedding_dim: Count | None = None
    """Instead of the model's, in recbox; the fast engine refuses it."""
    share_embedding: str | None = None
    """The earlier column whose table this one reads too: SimpleX's item and history."""
    splitter: str | None = None
    """Between the items of a history; our files have ``^``."""
    max_len: CountOrZero | None = None
    """How many items of a history are kept; by default all of the longest, 0 likewise."""
    padding: Literal["pre", "post"] | None = None
    """``pre`` keeps a history's last items and pads before them, ``post``, the default, the first."""
    embedding_callback: str | None = None
    """SimpleX's history: null, written out; without the key recbox would pool it."""


class LabelColumn(BaseModel):
    """``label_col``."""

    model_config = ConfigDict(extra="forbid")
    name: str
    dtype: str


class Keys(BaseModel):
    """The flat configuration without the keys of losses; a comment says who reads a group.

    docs/keys.md is written from it.
    """

    model_config = ConfigDict(extra="forbid")
    # the run
    model: str
    """``MF`` or ``SimpleX``."""
    loss: str
    """A name of `mml losses`; its parameters are keys beside it."""
    dataset_id: str
    """A block of ``dataset_config``."""
    seed: Seed
    """Of initial weights, order, negatives and dropout; ``--seed`` overrides it."""
    epochs: Count
    """At most so many."""
    model_root: str = "./checkpoints/"
    """Read from foreign configurations; a run's files go into its folder under ``--runs``."""
    model_id: str | None = None
    """Read from foreign configurations; the experiment's name stands for it."""
    gpu: int = -1
    """``--gpu`` says it."""
    verbose: CountOrZero = 1
    """Above 0 shows a progress bar per epoch."""
    version: str | None = None
    """Read by nothing."""
    debug_mode: bool | None = None
    """Read by nothing here."""
    # recbox's MatchingModel
    optimizer: str
    """adam, rmsprop, sgd, adagrad, adadelta, adamax, adamw, nadam, radam or asgd, in any letters."""
    learning_rate: Rate
    """Of the first epoch."""
    metrics: list[str] = Field(min_length=1)
    """``Recall(k=20)``; nRecall, Precision, F1, DCG, NDCG, HitRate, MRR, MAP; fast engine: StandardMRR, StandardMAP."""
    monitor: Annotated[str | dict[str, Finite], AfterValidator(_some_weight)]
    """The metric that chooses the best epoch, or a mapping of metrics to weights."""
    monitor_mode: Literal["max", "min"] = "max"
    """Whether a large monitor is good."""
    patience: Count = 2
    """Evaluations in a row without improvement after which training stops."""
    save_best_only: bool = True
    """Evaluate and export the best epoch's weights; False: the last one's."""
    eval_interval_epochs: Interval = 1
    """1; the fast engine refuses other values, and recbox does not evaluate less often with one."""
    reduce_lr_on_plateau: bool = True
    """The plateau schedule: at every evaluation without improvement a tenth of the rate, and the best weights again."""
    max_gradient_norm: Positive | None = None
    """The norm at which the whole gradient is clipped; 10 by default."""
    embedding_initializer: str | None = None
    """recbox's text, such as ``lambda w: nn.init.normal_(w, std=1e-4)``, the default."""
    # recbox's loaders
    batch_size: Count
    """Training rows (positives) in a batch."""
    num_negs: Count
    """N, negatives per positive."""
    num_workers: CountOrZero = 1
    """Processes that load batches, in recbox."""
    shuffle: bool = True
    """A new order of the training rows in every epoch."""
    sampling_num_process: Count = 1
    """Processes that draw negatives, in recbox."""
    fix_sampling_seeds: bool = True
    """Where several processes draw, each epoch from seeds of its own, in recbox; then only True."""
    ignore_pos_items: bool = False
    """Never draw a training item of the user."""
    compress_duplicate_items: bool | None = None
    """Broken in recbox; only False."""
    # recbox's encoder and files
    data_root: str
    """Read from foreign configurations; train_data, valid_data and item_corpus say where the data are."""
    data_format: Literal["csv"]
    """The format of the files that recbox reads."""
    train_data: str
    """The data set's ``train.csv``."""
    valid_data: str
    """The data set's ``test.csv``: the paper's protocol selects on it."""
    test_data: str | None = None
    """Read from foreign configurations."""
    item_corpus: str
    """The data set's ``item_corpus.csv``."""
    query_index: str
    """The column that numbers users."""
    corpus_index: str
    """The column that numbers items."""
    label_col: LabelColumn
    """``name`` and ``dtype`` of the label."""
    feature_cols: list[FeatureColumn] = Field(min_length=1)
    """The columns: one user id, one item id, with SimpleX the user's history."""
    min_categr_count: Count = 1
    """Ids with fewer training interactions share one vector."""
    nrows: Count | None = None
    """Read only so many rows of each file, in recbox."""
    sep: Annotated[str, AfterValidator(_separator)] | None = None
    """Read from foreign configurations; the separator of the CSV files."""
    data_block_size: CountOrZero | None = None
    """Broken in recbox; only 0."""
    # both models
    embedding_dim: Count = 10
    """d, the length of a vector."""
    similarity_score: Literal["dot", "cosine", "sigmoid"] = "dot"
    """``sigmoid``, of the dot product in training, is MF's alone."""
    # MF
    regularizer: Regularizer = None
    """MF: lambda of (lambda/2) sum W^2 over whole tables, in every step."""
    embedding_dropout: Dropout | None = None
    """MF: dropout of the user vector; 0 by default."""
    # SimpleX
    aggregator: Literal["mean", "user_attention", "self_attention"] | None = None
    """SimpleX: how a history becomes one vector; ``mean`` by default."""
    gamma: Share | None = None
    """SimpleX: share of the user's own vector; 0.5 by default. At 1 the history does not matter."""
    user_id_field: str | None = None
    """SimpleX: the user column; ``user_id`` by default."""
    item_id_field: str | None = None
    """SimpleX: the item column; ``item_id`` by default."""
    user_history_field: str | None = None
    """SimpleX: the history column; ``user_history`` by default."""
    enable_bias: bool | None = None
    """SimpleX: biases of items, users and all; False by default."""
    net_dropout: Dropout | None = None
    """SimpleX: dropout of the user vector; 0 by default."""
    attention_dropout: Dropout | None = None
    """SimpleX: dropout of the attention weights; 0 by default."""
    batch_norm: bool | None = None
    """Read by nothing."""
    embedding_regularizer: Regularizer = None
    """SimpleX: as ``regularizer``, for the tables."""
    net_regularizer: Regularizer = None
    """SimpleX: as ``regularizer``, for the layers."""
    # the fast engine's own: negatives drawn by popularity ** alpha (0 is uniform)
    popularity_alpha: NotNegative | None = None
    """Fast engine: draw negatives by popularity to this power; 0, the default, is uniform."""
    # native BSL's step, which stock recbox does not have
    regularizer_scope: Literal["table", "batch"] | None = None
    """Fast engine: with ``batch`` the L2 term is on the batch's rows, as in BSL's code; ``table`` by default."""
    dropout_position: Literal["after_normalize", "before_normalize"] | None = None
    """Fast engine: dropout after normalisation, the default, or before it, as in BSL's code."""
    initializer: Literal["xavier_uniform", "xavier_normal"] | None = None
    """Fast engine: fill the tables so instead of by ``embedding_initializer``."""


MF_ONLY = frozenset({"regularizer", "embedding_dropout"})
SIMPLEX_ONLY = frozenset(
    {"aggregator", "gamma", "user_id_field", "item_id_field", "user_history_field", "enable_bias", "net_dropout",
     "attention_dropout", "batch_norm", "embedding_regularizer", "net_regularizer"}
)  # fmt: skip
NOT_READ_BY = {"MF": SIMPLEX_ONLY, "SimpleX": MF_ONLY}
# Accepted for other people's configurations and read by nothing here; debug_mode is FuxiCTR's tuner's.
UNUSED = frozenset({"batch_norm", "version", "debug_mode"})
# Where a run reads and writes, or how it looks: never a part of what it computes.
NOT_IDENTITY = UNUSED | {
    "model_root", "model_id", "gpu", "verbose", "num_workers", "seed", "dataset_id", "data_root", "train_data",
    "valid_data", "test_data", "item_corpus", "data_format",
}  # fmt: skip


def known_keys() -> frozenset[str]:
    """Every key that may stand in an experiment or a data set block."""
    return frozenset(Keys.model_fields) | all_loss_keys()
