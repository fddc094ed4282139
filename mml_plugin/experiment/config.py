"""From a config folder in reczoo's layout to one checked experiment."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mml_plugin.engine.metrics import METRICS
from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment.identity import canonical_hash, is_json
from mml_plugin.experiment.schema import NOT_IDENTITY, NOT_READ_BY, UNUSED, Keys, known_keys
from mml_plugin.experiment.yaml_blocks import Value, read_blocks, read_value
from mml_plugin.hosts.recbox import allowed
from mml_plugin.registry import all_loss_keys, get_spec, is_known, loss_keys, params_from_config

MODELS = ("MF", "SimpleX")
REGULARIZERS = ("regularizer", "embedding_regularizer", "net_regularizer")
# The type and source of the columns that SimpleX's fields name.
FIELDS = {"user_id": ("categorical", "user"), "item_id": ("categorical", "item"), "user_history": ("sequence", "user")}


@dataclass(frozen=True)
class Experiment:
    """One experiment, merged and checked.

    Attributes:
        expid: its name.
        config_dir: where it was read.
        params: flat, typed, complete reczoo parameters, as recbox takes them.
        overridden: what ``--set`` changed.
    """

    expid: str
    config_dir: Path
    params: dict[str, Any]
    overridden: dict[str, Any]

    @property
    def loss(self) -> str:
        """The loss's canonical name."""
        return get_spec(self.params["loss"]).name

    @cached_property
    def loss_params(self) -> dict[str, Any]:
        """The loss's parameters, by our names."""
        return params_from_config(self.params["loss"], self.params)

    def identity(self) -> str:
        """Hash of everything that can change the numbers: no paths, no seed, no keys that nothing reads."""
        dropped = NOT_IDENTITY | all_loss_keys() | {"loss"}
        content = {key: value for key, value in self.params.items() if key not in dropped}
        return canonical_hash({**content, "loss": self.loss, "loss_params": self.loss_params})

    def to_yaml(self, **changes: Any) -> str:
        """The resolved parameters as a one-experiment YAML file that this package reads again."""
        return yaml.safe_dump({self.expid: {**self.params, **changes}}, sort_keys=False, allow_unicode=True)


def config_files(config_dir: Path, kind: str) -> list[Path]:
    """reczoo's rule: ``<kind>.yaml``, or else every ``<kind>/*.yaml``, here in a fixed order.

    Raises:
        UserError: when there is neither.
    """
    single = Path(config_dir) / f"{kind}.yaml"
    files = [single] if single.is_file() else sorted((Path(config_dir) / kind).glob("*.yaml"))
    if not files:
        raise UserError(f"--config {config_dir} holds neither {kind}.yaml nor {kind}/*.yaml")
    return files


def _blocks(path: Path) -> dict[str, dict[str, Value]]:
    """A file's blocks, parsed once as long as it does not change: suites ask for hundreds of experiments."""
    try:
        facts = path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error}") from None
    return _parsed(path.resolve(), str(path), facts.st_mtime_ns, facts.st_size)


@lru_cache(maxsize=64)
def _parsed(path: Path, shown: str, changed: int, size: int) -> dict[str, dict[str, Value]]:
    return read_blocks(Path(shown))


def _experiments(config_dir: Path) -> tuple[dict[str, Value], dict[str, dict[str, Value]]]:
    """The ``Base`` block and every experiment block of a folder."""
    base: dict[str, Value] = {}
    found: dict[str, dict[str, Value]] = {}
    for path in config_files(config_dir, "model_config"):
        for name, block in _blocks(path).items():
            if name == "Base":
                base = block
            elif name in found:
                raise UserError(f"{path}: experiment {name!r} is defined in another file too")
            else:
                found[name] = block
    return base, found


def list_experiments(config_dir: Path) -> list[str]:
    """The names of all experiments of a folder, in file order."""
    return list(_experiments(config_dir)[1])


def load_experiment(config_dir: Path, expid: str, overrides: Iterable[str] = ()) -> Experiment:
    """Merge Base, experiment, data set block and overrides as reczoo does, and check every key.

    Args:
        config_dir: a folder in reczoo's layout.
        expid: the experiment.
        overrides: ``key=value`` strings, the values read as YAML.

    Raises:
        UserError: for everything that is unknown, missing, of the wrong type or out of range; the sentence names file,
            line, key and value, and the nearest valid name.
    """
    base, found = _experiments(config_dir)
    if expid not in found:
        raise UserError(f"there is no experiment {expid!r} in {config_dir}; {nearest(expid, found)}")
    changed = dict(_parse_override(text) for text in overrides)
    merged = {**base, **found[expid], **changed}
    if "dataset_id" not in merged:
        raise UserError(f"experiment {expid} has no dataset_id")
    merged = {**merged, **_dataset_block(config_dir, merged["dataset_id"]), **changed}
    params = _checked(expid, merged)
    return Experiment(expid, Path(config_dir), params, {key: params.get(key) for key in changed})


def _parse_override(text: str) -> tuple[str, Value]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text!r}: write key=value")
    try:
        return key.strip(), Value(read_value(value), f"--set {text}")
    except UserError as error:
        raise UserError(f"--set {text!r}: the value is {error}") from None


def _dataset_block(config_dir: Path, dataset_id: Value) -> dict[str, Value]:
    blocks: dict[str, dict[str, Value]] = {}
    for path in config_files(config_dir, "dataset_config"):
        for name, block in _blocks(path).items():
            blocks.setdefault(name, block)
    if str(dataset_id.value) not in blocks:
        raise UserError(
            f"{dataset_id.where}: there is no data set {dataset_id.value!r} in {config_dir}; "
            f"{nearest(str(dataset_id.value), blocks)}"
        )
    return blocks[str(dataset_id.value)]


def _expand_margin_spec(merged: Mapping[str, Value]) -> dict[str, Value]:
    """Replace ``margin_spec`` (margin -> weight), which the tuner varies as one key, by the two lists it stands for."""
    if "margin_spec" not in merged:
        return dict(merged)
    spec = merged["margin_spec"]
    if not isinstance(spec.value, dict) or not spec.value:
        raise UserError(f"{spec.where}: margin_spec must map margins to weights, got {spec.value!r}")
    rest = {key: value for key, value in merged.items() if key != "margin_spec"}
    pairs = {"margins": list(spec.value), "margin_weights": list(spec.value.values())}
    return {**rest, **{key: Value(value, spec.where) for key, value in pairs.items()}}


def _checked(expid: str, written: Mapping[str, Value]) -> dict[str, Any]:
    merged = _expand_margin_spec(written)
    known = known_keys()
    for key, value in merged.items():
        if key not in known:
            raise UserError(f"{value.where}: unknown key {key!r}; {nearest(key, known | {'margin_spec'})}")
        if not is_json(value.value):
            raise UserError(f"{value.where}: {key} is a date or another thing that is no setting: {value.value!r:.60}")
    where = {key: value.where for key, value in merged.items()}
    given = {key: value.value for key, value in merged.items()}
    _check_names(given, where)
    plain = {key: value for key, value in given.items() if key in Keys.model_fields}
    try:
        typed = Keys(**plain).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise UserError(_sentence(expid, error, where)) from None
    # An empty value means the default; recbox would be handed the None. Inside feature_cols null has a meaning.
    typed = {key: value for key, value in typed.items() if value is not None}
    params = {**typed, **_loss_params(given, where), "model_id": expid}
    for key in ("model_root", "verbose", "num_workers", "monitor_mode"):
        params.setdefault(key, Keys.model_fields[key].default)
    _check_strings(params, where)
    params["optimizer"] = allowed.spelled_optimizer(params["optimizer"])
    _check_together(params, where)
    return params


def _check_names(given: Mapping[str, Any], where: Mapping[str, str]) -> None:
    model = given.get("model")
    if model is not None and model not in MODELS:
        raise UserError(f"{where['model']}: there is no model {model!r}; {nearest(str(model), MODELS)}")
    for key in given:
        if key in NOT_READ_BY.get(str(model), ()) and given[key] is not None and key not in UNUSED:
            raise UserError(f"{where[key]}: {model} does not read {key!r}; {_instead(key, str(model))}")
    if "loss" in given and not is_known(given["loss"]):
        try:
            get_spec(given["loss"])
        except UserError as error:
            raise UserError(f"{where['loss']}: {error}") from None


def _instead(key: str, model: str) -> str:
    twins = {"regularizer": "embedding_regularizer", "embedding_dropout": "net_dropout"}
    twins |= {new: old for old, new in twins.items()}
    return f"its key is {twins[key]}" if key in twins else f"remove it or use another model than {model}"


def _sentence(expid: str, error: ValidationError, where: Mapping[str, str]) -> str:
    first = error.errors()[0]
    key = str(first["loc"][0])
    if key in REGULARIZERS:
        allowed_forms = "a number >= 0, l2(x), l1(x), l1_l2(x,y) or empty for none"
        return f"{where[key]}: {key} must be {allowed_forms}, got {first['input']!r}"
    path = key + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"][1:] if not _is_variant(p))
    if first["type"] == "missing" and len(first["loc"]) == 1:
        return f"experiment {expid} has no {key}, which the run needs"
    if first["type"] == "missing":
        return f"{where[key]}: {path} is missing"
    problem = first["msg"][0].lower() + first["msg"][1:]
    return f"{where[key]}: {path} {problem}, got {first['input']!r}"


def _is_variant(part: Any) -> bool:
    """Whether pydantic added this part of a location to name a member of a union."""
    return isinstance(part, str) and (part in {"str", "float", "int", "list[str]"} or "[" in part or "(" in part)


def _loss_params(given: Mapping[str, Any], where: Mapping[str, str]) -> dict[str, Any]:
    """The configured loss's keys, checked and converted, under the names they were given."""
    if "loss" not in given:
        return {}
    keys = loss_keys(given["loss"])
    own = {key: (None if value == "None" else value) for key, value in given.items() if key in keys}
    first = next((where[key] for key in given if key in own), where["loss"])
    try:
        checked = params_from_config(given["loss"], own)
    except UserError as error:
        at = next((where[key] for key in own if key in str(error).replace("[", " ").split()), first)
        raise UserError(f"{at}: {error}") from None
    names = get_spec(given["loss"]).keys(given["loss"])
    # reczoo's own blocks have debug_mode: False, which asks for nothing.
    ignored = UNUSED if given.get("debug_mode") else UNUSED - {"debug_mode"}
    unused = sorted(set(given) & ((all_loss_keys() - keys - set(Keys.model_fields)) | ignored))
    if unused:
        logging.warning("Keys that %s and this run do not read: %s", given["loss"], ", ".join(unused))
    others = {key: given[key] for key in given if key in all_loss_keys() and key not in keys}
    # A mode that an alias translates keeps the alias's word, since the host translates it again.
    return {**others, **{key: own[key] if key == "mode" else checked[names[key]] for key in own}}


def _check_strings(params: Mapping[str, Any], where: Mapping[str, str]) -> None:
    for key in ("metrics", "embedding_initializer", "feature_cols", "label_col", "optimizer"):
        if params.get(key) is not None:
            try:
                if key == "metrics":
                    # The fast engine knows more than recbox, which run_recbox.check holds to its own.
                    for metric in params[key]:
                        allowed.parse_metric(metric, tuple(METRICS))
                else:
                    allowed.check_strings({key: params[key]})
            except UserError as error:
                raise UserError(f"{where[key]}: {error}") from None


def _check_together(params: Mapping[str, Any], where: Mapping[str, str]) -> None:
    """Rules that involve more than one key."""
    monitors = params["monitor"] if isinstance(params["monitor"], dict) else {params["monitor"]: 1}
    for name in monitors:
        if name not in params["metrics"]:
            hint = nearest(name, params["metrics"])
            raise UserError(f"{where['monitor']}: monitor {name!r} is not among the metrics; {hint}")
    if params["model"] == "SimpleX" and params.get("similarity_score") == "sigmoid":
        raise UserError(f"{where['similarity_score']}: SimpleX knows the similarities dot and cosine, not 'sigmoid'")
    if params.get("sampling_num_process", 1) > 1 and not params.get("fix_sampling_seeds", True):
        raise UserError(
            f"{where['sampling_num_process']}: with fix_sampling_seeds False, recbox draws the same negatives in every "
            "process and every epoch; set fix_sampling_seeds True or sampling_num_process 1"
        )
    for key in ("compress_duplicate_items", "data_block_size"):
        if params.get(key):
            raise UserError(f"{where[key]}: {key} does not work in recbox 0.0.4; remove it")
    _check_columns(params["feature_cols"], where["feature_cols"], params)


def _check_one_a_side(columns: list[dict[str, Any]], where: str, model: str) -> None:
    """MF has one vector a side: recbox's would fail on the second column's, and nothing else would read it."""
    for side in ("user", "item") if model == "MF" else ():
        names = [c["name"] for c in columns if c["active"] and c["type"] != "index" and c.get("source") == side]
        if len(names) > 1:
            raise UserError(f"{where}: MF reads one {side} column, and {names[1]!r} is another; remove it")


def _check_columns(columns: list[dict[str, Any]], where: str, params: Mapping[str, Any]) -> None:
    earlier: dict[str, str] = {}
    for column in columns:
        shared = column.get("share_embedding")
        if shared is not None and shared not in earlier:
            hint = nearest(shared, list(earlier) or ["none"])
            raise UserError(f"{where}: share_embedding {shared!r} must name an earlier column; {hint}")
        if shared is not None and earlier[shared] != column["dtype"]:
            # recbox looks up 7 among the tokens "7", finds none, and trains every row on the out-of-vocabulary vector.
            raise UserError(
                f"{where}: {column['name']!r} shares {shared!r}, so its dtype must be {earlier[shared]} too, "
                f"got {column['dtype']!r}"
            )
        names = column["name"] if isinstance(column["name"], list) else [column["name"]]
        earlier |= dict.fromkeys(names, column["dtype"])
    _check_one_a_side(columns, where, params["model"])
    needed = [params["query_index"], params["corpus_index"]]
    if needed[0] == needed[1]:
        raise UserError(f"{where}: query_index and corpus_index are both {needed[0]!r}: users and items need one each")
    if params["model"] == "SimpleX":
        needed += [params.get(f"{field}_field") or field for field in FIELDS]
    for name in needed:
        if name not in earlier:
            raise UserError(f"{where}: column {name!r} is missing, which {params['model']} needs")
    if params["model"] == "SimpleX":
        _check_fields(columns, where, params)


def _check_fields(columns: list[dict[str, Any]], where: str, params: Mapping[str, Any]) -> None:
    """SimpleX's three fields must name columns of their kind: rows of another table would lie beyond the one read."""
    for field, kind in FIELDS.items():
        name = params.get(f"{field}_field") or field
        if not any(c["name"] == name and c["active"] and (c["type"], c.get("source")) == kind for c in columns):
            raise UserError(
                f"{where}: {field}_field names {name!r}, which must be an active {kind[0]} column with source {kind[1]}"
            )
