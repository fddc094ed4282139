"""A suite: which experiments, with which seeds, make a table. Read and checked before anything runs."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment.config import Experiment, list_experiments, load_experiment
from mml_plugin.experiment.run import DATA_KEYS, ENGINES, RunRequest, check_overrides, run_folder_of
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.experiment.yaml_blocks import read_document
from mml_plugin.registry import margins_of
from mml_plugin.report.protocols import PROTOCOLS

Name = Annotated[str, Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
DATA_SUITE_KEYS = ("title", "about", "kind", "paper", "datasets")
SHORT = {
    "CosineContrastiveLoss": "CCL",
    "MultiMarginLoss": "MML",
    "BilateralSoftmaxLoss": "BSL",
    "PairwiseLogisticLoss": "BPR",
    "PairwiseMarginLoss": "hinge",
    "SoftmaxCrossEntropyLoss": "softmax",
    "SigmoidCrossEntropyLoss": "BCE",
    "MSELoss": "MSE",
    "InfoNCELoss": "InfoNCE",
    "ContrastiveLoss": "contrastive",
    "TripletLoss": "triplet",
}


class Entry(BaseModel):
    """One line of a suite: an experiment and what differs from its configuration.

    Attributes:
        expid: the experiment.
        label: what tables and plots call it; default: its name.
        group: what it is compared with; default: model, data set and number of negatives in words.
        family: entries of one family are tuning cells of each other: the best by its monitor stands for all
            (on validation under ``held-out``, on test under ``paper``).
        set: ``key: value`` overrides.
        engine, seeds: instead of the suite's.
    """

    model_config = ConfigDict(extra="forbid")
    expid: Name
    label: str = ""
    group: str = ""
    family: str = ""
    set: dict[str, Any] = {}
    engine: str = ""
    seeds: list[Seed] | None = None


class Grid(BaseModel):
    """Every combination of ``space`` over one experiment: the tuning cells of a family."""

    model_config = ConfigDict(extra="forbid")
    expid: Name
    family: Name
    group: str = ""
    set: dict[str, Any] = {}
    space: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)

    def entries(self) -> Iterator[Entry]:
        """The cells in the order of the lists, the last key fastest."""
        for values in itertools.product(*self.space.values()):
            choice = dict(zip(self.space, values))
            label = f"{self.family} " + " ".join(f"{key}={show(value)}" for key, value in choice.items())
            yield Entry(expid=self.expid, label=label, group=self.group, family=self.family, set={**self.set, **choice})


class Screen(BaseModel):
    """Which tuning cells get a whole run: the best of each family in another suite, whose runs are shorter.

    Attributes:
        suite: its name; its cells have the same groups, families and labels.
        keep: so many cells of each family go on.
    """

    model_config = ConfigDict(extra="forbid")
    suite: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    keep: Annotated[int, Field(ge=1)]


class Suite(BaseModel):
    """A suite file.

    Attributes:
        title, about: for the report.
        kind: ``metrics``, ``time`` (seconds per epoch are the point; see :func:`make_cells`) or ``data`` (statistics
            of ``datasets``).
        protocol: of every run; reports never mix two.
        engine, backend: of every run unless an entry says otherwise.
        seeds: of every experiment.
        set: overrides for every experiment.
        thresholds: similarities on which every run's negatives are counted; default: the union of all margins.
        early_stop: a patience that the report reads off the same histories.
        paper: a table of ``benchmarks/paper`` whose figures stand beside ours.
        max_batches: end each epoch early; labelled as cut.
        experiments, grids: what is run.
        screen: which of the tuning cells are; default: all.
    """

    model_config = ConfigDict(extra="forbid")
    title: Name
    about: str = ""
    kind: Literal["metrics", "time", "data"] = "metrics"
    protocol: str = "paper"
    engine: str = "fast"
    backend: str = "auto"
    seeds: list[Seed] = Field(default=[2019], min_length=1)
    set: dict[str, Any] = {}
    thresholds: list[float] | None = None
    early_stop: Annotated[int, Field(ge=1)] | None = None
    paper: str = ""
    valid_share: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    max_batches: Annotated[int, Field(ge=1)] | None = None
    experiments: list[Entry] = []
    grids: list[Grid] = []
    screen: Screen | None = None
    datasets: list[str] = []

    def entries(self) -> list[Entry]:
        """The lines and the grids' cells, in order."""
        return [*self.experiments, *(entry for grid in self.grids for entry in grid.entries())]


@dataclass(frozen=True)
class Cell:
    """One run of a suite.

    Attributes:
        request: what is asked of ``run``.
        experiment: the same, resolved.
        seed: its seed.
        label, group, family: see :class:`Entry`.
    """

    request: RunRequest
    experiment: Experiment
    seed: int
    label: str
    group: str
    family: str = ""

    @property
    def folder(self) -> RunFolder:
        """Where the run is, or would be."""
        return run_folder_of(self.experiment, self.request)

    @property
    def name(self) -> str:
        """``<expid>/<run folder>``: what the cell is called everywhere."""
        return f"{self.request.expid}/{self.folder.path.name}"


def show(value: Any) -> str:
    """A setting's value in a label, without blanks."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{show(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(show, value)) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_suite(path: Path) -> Suite:
    """Read and check a suite file.

    Raises:
        UserError: when it is missing, no YAML, or has an unknown or wrong key.
    """
    if not path.is_file():
        known = [other.stem for other in path.parent.glob("*.yaml")] or ["none"]
        raise UserError(f"there is no suite {path.stem!r} in {path.parent}; {nearest(path.stem, known)}")
    content = read_document(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping with title, experiments, ...")
    return make_suite(content, str(path))


def make_suite(content: Mapping[str, Any], where: str) -> Suite:
    """A checked suite from plain values; an experiment may be its bare name.

    Raises:
        UserError: naming ``where`` and the key that is wrong.
    """
    listed = content.get("experiments") or []
    if not isinstance(listed, list):
        raise UserError(f"{where}: experiments must be a list of names or of mappings, got {listed!r:.60}")
    wrong = [key for key in content if not isinstance(key, str)]
    if wrong:
        raise UserError(f"{where}: the key {wrong[0]!r} is no text; allowed: {', '.join(Suite.model_fields)}")
    lines = [{"expid": line} if isinstance(line, str) else line for line in listed]
    try:
        suite = Suite(**{**content, "experiments": lines})
    except ValidationError as error:
        # A mistyped key is also a missing one; its own name says more.
        errors = error.errors()
        first = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
        path = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            key = str(first["loc"][-1])
            models: dict[str, type[BaseModel]] = {"experiments": Entry, "grids": Grid, "screen": Screen}
            model = models.get(str(first["loc"][0]), Suite)
            raise UserError(f"{where}: unknown key {path!r}; {nearest(key, model.model_fields)}") from None
        raise UserError(f"{where}: {path}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
    if suite.protocol not in PROTOCOLS:
        raise UserError(f"{where}: protocol {suite.protocol!r} is unknown; {nearest(suite.protocol, PROTOCOLS)}")
    for engine in [suite.engine, *(entry.engine for entry in suite.experiments if entry.engine)]:
        if engine not in ENGINES:
            raise UserError(f"{where}: engine {engine!r} is unknown; {nearest(engine, ENGINES)}")
    engines = {entry.engine or suite.engine for entry in suite.entries()}
    if suite.backend != "auto" and engines == {"recbox"}:
        raise UserError(f"{where}: backend {suite.backend!r} is of the fast engine, and every run has engine: recbox")
    _check_kind(suite, content, where)
    if not (suite.datasets if suite.kind == "data" else suite.entries()):
        raise UserError(f"{where}: lists nothing to run")
    return suite


def _check_kind(suite: Suite, keys: Iterable[str], where: str) -> None:
    """Refuse keys that a suite of this kind would never read."""
    if suite.kind == "data":
        unread, instead = [key for key in keys if key not in DATA_SUITE_KEYS], f"allowed: {', '.join(DATA_SUITE_KEYS)}"
    else:
        unread, instead = [key for key in keys if key == "datasets"], "data sets are named by kind: data"
    if unread:
        raise UserError(f"{where}: {unread[0]} means nothing in a suite with kind: {suite.kind}; {instead}")


def make_cells(
    suite: Suite,
    config_dir: Path,
    runs_dir: Path,
    gpu: int = -1,
    seeds: Sequence[int] | None = None,
    overrides: Iterable[str] = (),
    where: str = "the suite",
) -> list[Cell]:
    """Every run of a suite, resolved and checked, each once; nothing is written.

    Seeds are the outer loop, so that a suite that is cut short has whole tables of fewer seeds. Where seconds are the
    point, every second seed goes through the experiments backwards: what is slow because of its place is so once only.

    Args:
        suite: what is run.
        config_dir: a folder in reczoo's layout.
        runs_dir: where run folders go.
        gpu: CUDA index, -1 for the CPU.
        seeds: instead of the suite's.
        overrides: ``key=value`` for every experiment.
        where: the suite's file, for messages.

    Raises:
        UserError: for an unknown experiment and everything else that a run would refuse in its configuration.
    """
    wrong = [seed for seed in seeds or () if not 0 <= seed < 2**32]
    if wrong:
        raise UserError(f"{where}: a seed must be between 0 and {2**32 - 1}, got {wrong[0]}")
    given = list(overrides)
    _check_set([text.partition("=")[0].strip() for text in given], where)
    for changes in (suite.set, *(entry.set for entry in suite.entries())):
        _check_set(changes, where)
    known = list_experiments(config_dir)
    for entry in suite.entries():
        if entry.expid not in known:
            raise UserError(f"{where}: there is no experiment {entry.expid!r}; {nearest(entry.expid, known)}")
    resolved = [(entry, *_resolve(suite, entry, config_dir, given)) for entry in suite.entries()]
    thresholds = union_of_margins([experiment for _, experiment, _ in resolved], suite.thresholds)
    cells: dict[str, Cell] = {}
    every = [list(seeds or entry.seeds or suite.seeds) for entry, _, _ in resolved]
    for turn in range(max(map(len, every), default=0)):
        forwards = list(zip(resolved, every))
        for (entry, experiment, words), own in forwards[::-1] if suite.kind == "time" and turn % 2 else forwards:
            if turn >= len(own):
                continue
            request = RunRequest(
                entry.expid, config_dir, gpu=gpu, engine=entry.engine or suite.engine,
                backend=suite.backend if (entry.engine or suite.engine) == "fast" else "auto",
                protocol=suite.protocol, seed=own[turn], overrides=words, runs_dir=runs_dir,
                valid_share=suite.valid_share, max_batches=suite.max_batches, thresholds=thresholds,
            )  # fmt: skip
            group = entry.group or default_group(experiment)
            cell = Cell(request, experiment, own[turn], entry.label or entry.expid, group, entry.family)
            twin = cells.setdefault(cell.name, cell)
            if (twin.group, twin.label) != (cell.group, cell.label):
                raise UserError(f"{where}: {twin.label!r} and {cell.label!r} are the same run; list it once")
    _check_labels(cells.values(), where)
    _check_data(cells.values(), where)
    _check_families(cells.values(), where)
    return list(cells.values())


def _check_labels(cells: Iterable[Cell], where: str) -> None:
    """Refuse two different experiments under one label: a report could not tell them apart."""
    seen: dict[tuple[str, str], str] = {}
    for cell in cells:
        data = [cell.experiment.params.get(key) for key in sorted(DATA_KEYS)]
        what = f"{cell.experiment.identity()} {cell.request.engine} {data}"
        if seen.setdefault((cell.group, cell.label), what) != what:
            raise UserError(f"{where}: two different lines are labelled {cell.label!r} in {cell.group!r}; give labels")


def _check_data(cells: Iterable[Cell], where: str) -> None:
    """Refuse a group on two data sets: its lines would be compared."""
    seen: dict[str, str] = {}
    for cell in cells:
        folder = _real(cell.experiment)
        if seen.setdefault(cell.group, folder) != folder:
            raise UserError(
                f"{where}: {cell.group!r} would compare runs on {seen[cell.group]} with runs on {folder}; give groups"
            )


def _check_families(cells: Iterable[Cell], where: str) -> None:
    """Refuse tuning cells of one family that are selected by different monitors: none of them could be chosen."""
    seen: dict[tuple[str, str], tuple[Any, Any]] = {}
    for cell in cells:
        params = cell.experiment.params
        aim = (params["monitor"], params["monitor_mode"])
        if cell.family and seen.setdefault((cell.group, cell.family), aim) != aim:
            raise UserError(
                f"{where}: the tuning cells of {cell.family!r} in {cell.group!r} have different monitors, so none can "
                "be chosen; give them one"
            )


def _resolve(
    suite: Suite, entry: Entry, config_dir: Path, overrides: Iterable[str]
) -> tuple[Experiment, tuple[str, ...]]:
    """The entry's experiment and its overrides; values that the configuration has already are no overrides.

    Raises:
        UserError: for an override that ``load_experiment`` refuses or that a suite's runs take from elsewhere.
    """
    plain = load_experiment(config_dir, entry.expid)
    changes = {**suite.set, **entry.set}
    kept = {key: value for key, value in changes.items() if plain.params.get(key) != value or key == "margin_spec"}
    words = tuple(f"{key}={_yaml(value)}" for key, value in kept.items()) + tuple(overrides)
    if not words:
        return plain, ()
    changed = load_experiment(config_dir, entry.expid, words)
    # All parameters, not the identity: that has no paths, and the data may be other data.
    if changed.params == plain.params:
        return plain, ()
    return changed, words


def _check_set(keys: Iterable[str], where: str) -> None:
    """Refuse what every cell has from elsewhere: it would be dropped or undone."""
    given = list(keys)
    if "seed" in given:
        raise UserError(f"{where}: set seed: every cell has a seed of its own; use --seeds, or seeds: in a suite file")
    check_overrides(given, f"{where}: ")


def _yaml(value: Any) -> str:
    """A value as one line of YAML."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")


def union_of_margins(experiments: Iterable[Experiment], given: Sequence[float] | None) -> tuple[float, ...]:
    """The rising similarities on which every run is counted: ``given``, or the union of all margins."""
    if given is not None:
        return tuple(sorted({float(value) for value in given}))
    return tuple(sorted({m for e in experiments for m in margins_of(e.params["loss"], e.params)}))


def dataset_of(experiment: Experiment) -> str:
    """The name of the experiment's data folder."""
    return Path(experiment.params["train_data"]).parent.name


def _real(experiment: Experiment) -> str:
    """Where the experiment's data really stand, whatever links lead there."""
    return os.path.realpath(Path(experiment.params["train_data"]).parent)


def _told_apart(folders: Sequence[Path]) -> dict[str, str]:
    """Where a folder really stands -> its own name as it is first written, with as many of its parents' as it takes
    where different ones share it.
    """
    written: dict[str, Path] = {}
    for folder in folders:
        written.setdefault(os.path.realpath(folder), Path(os.path.abspath(folder)))
    for depth in range(1, max(len(folder.parts) for folder in written.values())):
        names = {real: "/".join(folder.parts[-depth:]) for real, folder in written.items()}
        if len(set(names.values())) == len(names):
            return names
    return {real: str(folder) for real, folder in written.items()}


def default_group(experiment: Experiment) -> str:
    """``MF on yelp18, 100 negatives``."""
    params = experiment.params
    return f"{params['model']} on {dataset_of(experiment)}, {params['num_negs']} negatives"


def comparison(expids: Sequence[str], config_dir: Path, overrides: Iterable[str] = (), **keys: Any) -> Suite:
    """The suite behind ``mml compare``: the experiments side by side, grouped by the data set that they then read.

    Raises:
        UserError: for fewer than two experiments, unknown ones, and overrides that ``load_experiment`` refuses.
    """
    for expid in expids:
        known = list_experiments(config_dir)
        if expid not in known:
            raise UserError(f"there is no experiment {expid!r} in {config_dir}; {nearest(expid, known)}")
    if len(set(expids)) < 2:
        raise UserError("give at least two different experiments to compare")
    words = list(overrides)
    resolved = {e: load_experiment(config_dir, e, words) for e in expids}
    names = _told_apart([Path(experiment.params["train_data"]).parent for experiment in resolved.values()])
    data = {e: names[_real(experiment)] for e, experiment in resolved.items()}
    alone = [e for e, name in data.items() if list(data.values()).count(name) == 1]
    if alone:
        others = ", ".join(sorted({name for e, name in data.items() if e != alone[0]}))
        raise UserError(
            f"{alone[0]} is on {data[alone[0]]} and nothing else is (the others: {others}): losses are compared on the "
            "same data, so name another experiment on it or leave it out"
        )
    lines = [{"expid": e, "group": f"on {name}"} for e, name in data.items()]
    title = " against ".join(dict.fromkeys(expids)) if len(expids) < 4 else f"{len(expids)} experiments"
    return make_suite({"title": title, "experiments": lines, **keys}, "mml compare")


def slug(text: str) -> str:
    """A name for files out of any text."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")
