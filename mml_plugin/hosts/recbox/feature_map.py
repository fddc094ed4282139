"""recbox's FeatureMap without recbox's encoder: for models that are fed by somebody else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mml_plugin.hosts.recbox import shims


def feature_map(params: Mapping[str, Any], specs: Mapping[str, Mapping[str, Any]], num_items: int) -> Any:
    """A ``FeatureMap`` as ``FeatureMap.load`` would fill it.

    Args:
        params: flat reczoo configuration.
        specs: column -> its spec, in configuration order (the order fixes the random draws).
        num_items: rows of the item corpus.
    """
    shims.import_recbox()
    from recbox.matching.features import FeatureMap

    made = FeatureMap(
        params["dataset_id"],
        params.get("data_root", "."),
        params["query_index"],
        params["corpus_index"],
        params["label_col"]["name"],
    )
    made.feature_specs = OrderedDict((name, dict(spec)) for name, spec in specs.items())
    made.num_fields, made.num_items = len(specs), num_items
    made.num_features = sum(spec.get("vocab_size", 0) for spec in specs.values())
    return made
