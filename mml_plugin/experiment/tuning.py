"""A grid of experiments: FuxiCTR's tuner makes the cells, each becomes an ordinary experiment, each runs once.

FuxiCTR's ``enumerate_params`` makes the products. Around it, by our side: ``margin_spec`` is put into the base
configuration (FuxiCTR refuses keys that are not there), cells are named by a hash of canonical JSON (FuxiCTR hashes
sorted characters, so anagrams collide), and the global change that importing its tuner makes to PyYAML is taken back.
Its ``grid_search`` calls whatever ``python`` is on the PATH, forgets exit codes and hands a finished GPU out twice, so
the queue is ours.
"""

from __future__ import annotations

import csv
import importlib
import io
import logging
import math
import queue
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from tqdm import tqdm

from mml_plugin.data.interactions import load
from mml_plugin.devices import resolve_device
from mml_plugin.errors import UserError, nearest
from mml_plugin.experiment.cells import DONE, ELSEWHERE, FAILED, is_locked, running_elsewhere, train_words
from mml_plugin.experiment.config import Experiment, config_files, load_experiment
from mml_plugin.experiment.identity import canonical_hash, is_json
from mml_plugin.experiment.run import DATA_KEYS, ENGINES, RunRequest, check_request, run_folder_of
from mml_plugin.experiment.run_folder import FolderInUse, RunFolder
from mml_plugin.experiment.schema import known_keys
from mml_plugin.experiment.yaml_blocks import read_blocks, read_document
from mml_plugin.files import atomic_write, make_folder

MML_TRAIN = (sys.executable, "-m", "mml_plugin", "train")
DAMAGED, OTHER_DATA = "damaged", "other data"
TUNER_KEYS = ("base_config", "base_expid", "dataset_id", "tuner_space")


@dataclass(frozen=True, eq=False)
class Cell:
    """One point of the grid.

    Attributes:
        expid: the base experiment's name, a number and a hash.
        choice: the tuned keys and their values.
        result: the ``result.json`` of its run.
        log: where its output goes.
        data: the folder of its data set.
    """

    expid: str
    choice: dict[str, Any]
    result: Path
    log: Path
    data: Path = Path()

    def obstacle(self, measured: str) -> tuple[str, str]:
        """The state of a result that is not the cell's and why; empty when it is. It must have ``measured``.

        A runner of one's own need not say on what data it was.
        """
        try:
            found = RunFolder(self.result.parent).read_result({measured: dict}).get("data")
        except UserError as error:
            return DAMAGED, str(error).partition("; --overwrite")[0]
        fingerprint = found.get("fingerprint", "") if isinstance(found, dict) else ""
        if not fingerprint or _fingerprint(self.data) in (fingerprint, ""):
            return "", ""
        return OTHER_DATA, f"{self.result} is of other data than {self.data} has now"


@cache
def _fingerprint(folder: Path) -> str:
    """The fingerprint of a data set; "" where it is not here."""
    try:
        return load(folder).fingerprint
    except UserError:
        return ""


def run_grid(
    tuner_file: Path,
    gpus: Sequence[int],
    template: RunRequest,
    runner: Sequence[str] | None = None,
    *,
    tag: str | None = None,
) -> int:
    """Validate all cells, run those without a result, write a table.

    Args:
        tuner_file: YAML with ``base_config``, ``base_expid`` and ``tuner_space``, and perhaps ``dataset_id``, which
            takes the place of the base experiment's.
        gpus: one worker per entry, -1 for the CPU.
        template: what every cell is asked for, apart from its name, its configuration and its GPU. Run folders go to
            its ``runs_dir``, the grid's own files to ``tuner/<name>`` there.
        runner: the command that runs one cell, ``mml train``'s flags appended; None is ``mml train``.
        tag: run only cells whose name contains it.

    Returns:
        0, or 1 when a cell failed.

    Raises:
        UserError: for a malformed tuner file, a cell that does not validate or that the engine cannot run (its data
            not there, for one), an unknown engine or protocol, a backend that cannot run and a GPU that is not there.
            Nothing is written then. What a ``runner`` of one's own can run, it says itself.
    """
    for gpu in gpus:
        resolve_device(gpu)
    check_request(template)
    space = read_space(tuner_file)
    with tempfile.TemporaryDirectory() as folder:
        for experiment in expand(tuner_file, space, Path(folder))[1]:
            if runner is None:
                engine = importlib.import_module(ENGINES[template.engine])
                for gpu in set(gpus):
                    engine.check(experiment, replace(template, expid=experiment.expid, gpu=gpu))
    work = make_folder(Path(template.runs_dir) / "tuner" / Path(tuner_file).stem)
    config_dir, experiments = expand(tuner_file, space, work)
    template = replace(template, config_dir=config_dir)
    cells = [_cell(experiment, space, replace(template, expid=experiment.expid), work) for experiment in experiments]
    cells = [cell for cell in cells if not tag or tag in cell.expid]
    if not cells:
        raise UserError(f"--tag {tag!r} matches none of the {len(experiments)} cells")
    protocol = template.protocol
    reasons: dict[Cell, str] = {}
    states = _run_cells([c for c in cells if not c.result.is_file()], gpus, template, runner or MML_TRAIN, reasons)
    obstacles = {cell: cell.obstacle(_measured(protocol)) for cell in cells if cell.result.is_file()}
    states |= {cell: state for cell, (state, _) in obstacles.items() if state}
    table = write_table(cells, states, work / "cells.csv", experiments[0].params, protocol)
    print(f"{len(cells) - len(states)} of {len(cells)} cells have a result; table: {table.resolve()}")
    for cell, state in states.items():
        if state == FAILED:
            print(f"failed: {cell.expid}, {reasons.get(cell, f'see {cell.log.resolve()}')}")
        elif state in (DAMAGED, OTHER_DATA):
            print(f"not taken: {obstacles[cell][1]}; remove its folder, and the same command runs the cell anew")
    elsewhere = list(states.values()).count(ELSEWHERE)
    if elsewhere:
        print(f"{running_elsewhere(elsewhere)}; the same command takes in what is missing now")
    return 1 if {FAILED, DAMAGED, OTHER_DATA} & set(states.values()) else 0


def read_space(tuner_file: Path) -> dict[str, list[Any]]:
    """The tuned keys and their values.

    Raises:
        UserError: for unknown keys, an empty space and keys that no experiment has.
    """
    if not Path(tuner_file).is_file():
        raise UserError(f"--config: there is no file {tuner_file}")
    content = _read_yaml(tuner_file)
    for key in content:
        if key not in TUNER_KEYS:
            raise UserError(f"{tuner_file}: unknown key {key!r}; {nearest(key, TUNER_KEYS)}")
    for key in ("base_expid", "tuner_space"):
        if not content.get(key):
            raise UserError(f"{tuner_file}: {key} is missing or empty")
    for key in ("base_config", "base_expid", "dataset_id"):
        if not isinstance(content.get(key, ""), str):
            raise UserError(f"{tuner_file}: {key} must be one name, got {content[key]!r:.60}")
    if not isinstance(content["tuner_space"], dict):
        raise UserError(f"{tuner_file}: tuner_space must map keys to lists of values")
    allowed = known_keys() | {"margin_spec"}
    space = {}
    for key, values in content["tuner_space"].items():
        if key not in allowed:
            raise UserError(f"{tuner_file}: tuner_space has the unknown key {key!r}; {nearest(key, allowed)}")
        if key == "dataset_id":
            raise UserError(f"{tuner_file}: dataset_id is not tuned; put one beside tuner_space, or write two files")
        space[key] = values if isinstance(values, list) else [values]
        if not is_json(space[key]):
            raise UserError(
                f"{tuner_file}: tuner_space, {key}: a date or another thing that is no setting: {values!r:.60}"
            )
        if not space[key]:
            raise UserError(f"{tuner_file}: tuner_space lists no value for {key}")
    return space


def _read_yaml(path: Path) -> dict[str, Any]:
    content = read_document(Path(path))
    if not isinstance(content, dict):
        raise UserError(f"{path}: must be a mapping with {', '.join(TUNER_KEYS)}")
    return content


def expand(tuner_file: Path, space: dict[str, list[Any]], work: Path) -> tuple[Path, list[Experiment]]:
    """Turn the grid into ordinary experiments below ``work/config`` and check every one of them.

    Returns:
        the config folder and the experiments, in the grid's order.
    """
    content = _read_yaml(tuner_file)
    base_dir = Path(tuner_file).parent / content.get("base_config", ".")
    other = [f"dataset_id={content['dataset_id']}"] if content.get("dataset_id") else []
    base = load_experiment(base_dir, content["base_expid"], other)
    blocks = _enumerate(base, base_dir, space)
    cells: dict[str, dict[str, Any]] = {}
    for number, block in enumerate(blocks, 1):
        choice = {key: block[key] for key in space}
        # The identity has no paths: without them, grids on two data sets would share their cells.
        data = {key: base.params.get(key) for key in sorted(DATA_KEYS)}
        known = canonical_hash({"choice": _plain(choice), "base": base.identity(), "data": data})
        cells[f"{base.expid}_{number:03d}_{known[:8]}"] = block
    config_dir = make_folder(work / "config")
    with atomic_write(config_dir / "model_config.yaml") as stream:
        yaml.safe_dump(cells, stream, sort_keys=False)
    datasets = {}
    for path in config_files(base_dir, "dataset_config"):
        for dataset_id, keys in read_blocks(path).items():
            datasets[dataset_id] = {key: value.value for key, value in keys.items()}
    with atomic_write(config_dir / "dataset_config.yaml") as stream:
        yaml.safe_dump(datasets, stream, sort_keys=False)
    return config_dir, [load_experiment(config_dir, name) for name in cells]


def _plain(value: Any) -> Any:
    """The value with text keys, as canonical JSON wants them."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return value


def _enumerate(base: Experiment, base_dir: Path, space: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """FuxiCTR's products of the space over the base experiment."""
    enumerate_params = _fuxictr_enumerator()
    dataset_keys = set()
    for path in config_files(base_dir, "dataset_config"):
        dataset_keys |= set(read_blocks(path).get(base.params["dataset_id"], {}))
    model = {key: value for key, value in base.params.items() if key not in dataset_keys}
    model |= {key: None for key in space if key not in model and key not in dataset_keys}
    if "margin_spec" in space:
        model = {key: value for key, value in model.items() if key not in ("margins", "margin_weights")}
    if dataset_keys & set(space):
        raise UserError(
            f"tuner_space: {sorted(dataset_keys & set(space))[0]!r} belongs to the data set and cannot be tuned"
        )
    model |= {"debug_mode": False}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "space.yaml"
        inlined = {
            "base_expid": base.expid,
            "base_config": folder,
            "tuner_space": space,
            "dataset_config": {base.params["dataset_id"]: {"data_format": "csv"}},
        }
        file.write_text(yaml.safe_dump(inlined), encoding="utf-8")
        (Path(folder) / "model_config.yaml").write_text(
            yaml.safe_dump({"Base": {}, base.expid: model}), encoding="utf-8"
        )
        with redirect_stdout(io.StringIO()):  # it says that it is done, once for each look at the grid
            products = Path(enumerate_params(str(file)))
        made = yaml.safe_load((products / "model_config.yaml").read_text(encoding="utf-8"))
    blocks = [made[name] for name in sorted(made)]
    return [{**block, "dataset_id": base.params["dataset_id"]} for block in blocks]


def _fuxictr_enumerator() -> Any:
    before = yaml.Dumper.__dict__.get("ignore_aliases")
    from fuxictr.autotuner import enumerate_params

    if before is None and "ignore_aliases" in yaml.Dumper.__dict__:
        del yaml.Dumper.ignore_aliases
    return enumerate_params


def _cell(experiment: Experiment, space: dict[str, Any], request: RunRequest, work: Path) -> Cell:
    folder = run_folder_of(experiment, request).path
    choice = {key: experiment.params.get(key) for key in space if key != "margin_spec"}
    if "margin_spec" in space:
        pairs = zip(experiment.params["margins"], experiment.params["margin_weights"])
        choice["margin_spec"] = " ".join(f"{margin:g}:{weight:g}" for margin, weight in pairs)
    data = Path(experiment.params["train_data"]).parent
    return Cell(experiment.expid, choice, folder / "result.json", work / f"{experiment.expid}.{folder.name}.log", data)


def _run_cells(
    cells: list[Cell], gpus: Sequence[int], template: RunRequest, runner: Sequence[str], reasons: dict[Cell, str]
) -> dict[Cell, str]:
    """Run the cells, one per free GPU; returns the state of those without a result. Ctrl-C stops the children.

    Why one could not even be begun goes into ``reasons``; what one says itself is in its log.
    """
    free: queue.Queue[int] = queue.Queue()
    for gpu in gpus:
        free.put(gpu)
    running: set[subprocess.Popen] = set()

    def work(cell: Cell) -> str:
        gpu = free.get()
        try:
            # The claim that suites make too: on the run, whoever asks for it.
            with FileLock(f"{make_folder(cell.result.parents[1]) / cell.result.parent.name}.cell.lock", timeout=0):
                folder = RunFolder(cell.result.parent)
                if is_locked(Path(f"{folder.path}.lock")):
                    return ELSEWHERE
                try:
                    folder.recover()  # a process that was killed may have set a finished run aside
                except FolderInUse:
                    return ELSEWHERE  # begun this very moment
                except UserError as error:
                    cell.log.write_text(f"error: {error}\n", encoding="utf-8")
                    return FAILED
                return DONE if cell.result.is_file() or train(cell, gpu) else FAILED
        except Timeout:
            return ELSEWHERE
        except (UserError, OSError) as error:
            # One cell's folder or log; the others go on.
            reasons[cell] = str(error)
            return FAILED
        finally:
            free.put(gpu)

    def train(cell: Cell, gpu: int) -> bool:
        resume = (cell.result.parent / "checkpoint.pt").is_file()
        flags = train_words(replace(template, expid=cell.expid, gpu=gpu, resume=resume))[1:]
        with open(cell.log, "w", encoding="utf-8") as stream:
            process = subprocess.Popen([*runner, *flags], stdout=stream, stderr=subprocess.STDOUT)
            running.add(process)
            code = process.wait()
            running.discard(process)
        return code == 0 and cell.result.is_file()

    states: dict[Cell, str] = {}
    with ThreadPoolExecutor(len(gpus)) as pool, tqdm(total=len(cells), desc="cells", unit="cell") as bar:
        futures = {pool.submit(work, cell): cell for cell in cells}
        try:
            for future in as_completed(futures):
                if (state := future.result()) != DONE:
                    states[futures[future]] = state
                bar.set_postfix(failed=list(states.values()).count(FAILED))
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                process.terminate()
            time.sleep(0.1)
            print("stopped; the same command goes on with what is left")
            raise
    return states


def write_table(
    cells: list[Cell], states: Mapping[Cell, str], path: Path, params: Mapping[str, Any], protocol: str
) -> Path:
    """All cells with their choice and metrics, the best by the monitor first; of a damaged result only its state.

    Under ``held-out`` the metrics are those of validation: what a choice is made by is not test.

    Args:
        cells: the grid's.
        states: of the cells that have no result, or none that counts.
        path: where to write.
        params: of a cell, for ``monitor`` and ``monitor_mode``.
        protocol: of all cells.
    """
    measured = _measured(protocol)
    prefix = "validation " if protocol == "held-out" else ""
    found = []
    for cell in cells:
        row: dict[str, Any] = {"expid": cell.expid, **cell.choice, "state": states.get(cell, DONE)}
        row["protocol"] = protocol
        metrics: dict[str, float] = {}
        if cell not in states and cell.result.is_file():
            try:
                # A runner of one's own need not write more than metrics.
                metrics = RunFolder(cell.result.parent).read_result({measured: dict})[measured]
            except UserError as error:
                logging.warning("%s", error)
                row["state"] = DAMAGED
        found.append((_rank(metrics, params), {**row, **{prefix + name: value for name, value in metrics.items()}}))
    rows = [row for _, row in sorted(found, key=lambda pair: -pair[0])]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with atomic_write(path) as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _measured(protocol: str) -> str:
    """Where a result has what its cell is chosen by."""
    return "validation_metrics" if protocol == "held-out" else "metrics"


def _rank(metrics: Mapping[str, float], params: Mapping[str, Any]) -> float:
    """The monitor's weighted sum, larger better; the last where it is not known."""
    monitor = params["monitor"]
    weights = monitor if isinstance(monitor, dict) else {monitor: 1.0}
    if not set(weights) <= set(metrics):
        return -math.inf
    value = sum(weight * metrics[name] for name, weight in weights.items())
    return -value if params["monitor_mode"] == "min" else value
