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
    active: bool
    dtype: str
    type: Literal["index", "numeric", "categorical", "sequence"]
    source: str = ""
    preprocess: str = ""
    na_value: str | float | None = None
    min_categr_count: Count | None = None
    embedding_dim: Count | None = None
    share_embedding: str | None = None
    splitter: str | None = None
    max_len: CountOrZero | None = None
    padding: Literal["pre", "post"] | None = None
    embedding_callback: str | None = None


class LabelColumn(BaseModel):
    """``label_col``."""

    model_config = ConfigDict(extra="forbid")
    name: str
    dtype: str


class Keys(BaseModel):
    """The flat configuration without the keys of losses; the comment says who reads a group."""

    model_config = ConfigDict(extra="forbid")
    # the run
    model: str
    loss: str
    dataset_id: str
    seed: Seed
    epochs: Count
    model_root: str = "./checkpoints/"
    model_id: str | None = None
    gpu: int = -1
    verbose: CountOrZero = 1
    version: str | None = None
    debug_mode: bool | None = None
    # recbox's MatchingModel
    optimizer: str
    learning_rate: Rate
    metrics: list[str] = Field(min_length=1)
    monitor: Annotated[str | dict[str, Finite], AfterValidator(_some_weight)]
    monitor_mode: Literal["max", "min"] = "max"
    patience: Count = 2
    save_best_only: bool = True
    eval_interval_epochs: Interval = 1
    reduce_lr_on_plateau: bool = True
    max_gradient_norm: Positive | None = None
    embedding_initializer: str | None = None
    # recbox's loaders
    batch_size: Count
    num_negs: Count
    num_workers: CountOrZero = 1
    shuffle: bool = True
    sampling_num_process: Count = 1
    fix_sampling_seeds: bool = True
    ignore_pos_items: bool = False
    compress_duplicate_items: bool | None = None
    # recbox's encoder and files
    data_root: str
    data_format: Literal["csv"]
    train_data: str
    valid_data: str
    test_data: str | None = None
    item_corpus: str
    query_index: str
    corpus_index: str
    label_col: LabelColumn
    feature_cols: list[FeatureColumn] = Field(min_length=1)
    min_categr_count: Count = 1
    nrows: Count | None = None
    sep: Annotated[str, AfterValidator(_separator)] | None = None
    data_block_size: CountOrZero | None = None
    # both models
    embedding_dim: Count = 10
    similarity_score: Literal["dot", "cosine", "sigmoid"] = "dot"
    # MF
    regularizer: Regularizer = None
    embedding_dropout: Dropout | None = None
    # SimpleX
    aggregator: Literal["mean", "user_attention", "self_attention"] | None = None
    gamma: Share | None = None
    user_id_field: str | None = None
    item_id_field: str | None = None
    user_history_field: str | None = None
    enable_bias: bool | None = None
    net_dropout: Dropout | None = None
    attention_dropout: Dropout | None = None
    batch_norm: bool | None = None
    embedding_regularizer: Regularizer = None
    net_regularizer: Regularizer = None
    # the fast engine's own: negatives drawn by popularity ** alpha (0 is uniform)
    popularity_alpha: NotNegative | None = None
    # native BSL's step, which stock recbox does not have
    regularizer_scope: Literal["table", "batch"] | None = None
    dropout_position: Literal["after_normalize", "before_normalize"] | None = None
    initializer: Literal["xavier_uniform", "xavier_normal"] | None = None


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
