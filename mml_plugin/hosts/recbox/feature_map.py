"""What recbox's models read of a FeatureMap, for models that are fed by somebody else.

recbox's own class comes with its encoder and so with pandas and scikit-learn, which cost 140 MB and a second.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class FeatureMap:
    """The attributes of recbox's ``FeatureMap`` after its ``load``."""

    dataset_id: str
    data_dir: str
    query_index: str
    corpus_index: str
    label_name: str
    feature_specs: OrderedDict[str, dict[str, Any]]
    num_fields: int
    num_features: int
    num_items: int


def feature_map(params: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]], num_items: int) -> FeatureMap:
    """A feature map of given columns.

    Args:
        params: flat reczoo configuration.
        specs: column -> its spec, in configuration order (the order fixes the random draws).
        num_items: rows of the item corpus.
    """
    return FeatureMap(
        dataset_id=params["dataset_id"],
        data_dir=params.get("data_root", "."),
        query_index=params["query_index"],
        corpus_index=params["corpus_index"],
        label_name=params["label_col"]["name"],
        feature_specs=OrderedDict((name, dict(spec)) for name, spec in specs.items()),
        num_fields=len(specs),
        num_features=sum(spec.get("vocab_size", 0) for spec in specs.values()),
        num_items=num_items,
    )
