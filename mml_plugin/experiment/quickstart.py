"""Two small runs, one table, one picture: the first thing that a newcomer sees."""

from __future__ import annotations

from pathlib import Path

from mml_plugin.data.interactions import load
from mml_plugin.errors import UserError
from mml_plugin.experiment.config import Experiment, load_experiment
from mml_plugin.experiment.run import RunRequest, run
from mml_plugin.experiment.run_folder import RunFolder, folder_name
from mml_plugin.report.curves import active_share, plot_curves, read_history
from mml_plugin.report.table import markdown_table

LOSSES = {"CCL": "MF_tiny_ccl", "MML": "MF_tiny_mml"}
METRICS = ("Recall(k=20)", "NDCG(k=20)")


def run_quickstart(config_dir: Path, runs_dir: Path, overwrite: bool = False) -> str:
    """Make the data set, train what is missing, draw the curves.

    Returns:
        The table and the lines that say where everything is.
    """
    experiments = {name: load_experiment(config_dir, expid) for name, expid in LOSSES.items()}
    for experiment in experiments.values():
        _make_data(Path(experiment.params["train_data"]).parent)
    folders = {
        name: _run_or_reuse(config_dir, runs_dir, experiment, overwrite) for name, experiment in experiments.items()
    }
    picture = runs_dir / "quickstart.png"
    plot_curves({name: folder.history for name, folder in folders.items()}, METRICS[0], picture)
    rows = [_row(name, folder) for name, folder in folders.items()]
    lines = [
        "",
        markdown_table(["loss", "Recall@20", "NDCG@20", "seconds", "active negatives"], rows),
        "",
        "Selected on test (protocol paper), one seed, synthetic data: a demonstration, not a comparison.",
        "seconds: training and evaluation of all epochs. Active negatives: their share with a gradient.",
        f"Learning curves: {picture.resolve()}",
        "Run folders: " + ", ".join(str(folder.path.resolve()) for folder in folders.values()),
    ]
    return "\n".join(lines)


def _make_data(folder: Path) -> None:
    if not (folder / "dataset.json").is_file():
        from mml_plugin.data.synthetic import generate

        generate(folder)


def _check_data(folder: RunFolder, data: Path) -> None:
    """Refuse a finished run on other data than are there now: it would stand beside one on these."""
    if folder.read_result()["data"]["fingerprint"] != load(data).fingerprint:
        raise UserError(f"{folder.path} is of other data than {data} has now; mml quickstart --overwrite begins anew")


def _run_or_reuse(config_dir: Path, runs_dir: Path, experiment: Experiment, overwrite: bool) -> RunFolder:
    expid, seed = experiment.expid, int(experiment.params["seed"])
    data = Path(experiment.params["train_data"]).parent
    folder = RunFolder(runs_dir / expid / folder_name("recbox", "paper", seed))
    folder.recover()
    if folder.finished and not overwrite:
        _check_data(folder, data)
        return folder
    resume = folder.checkpoint.is_file() and not overwrite
    return run(RunRequest(expid, config_dir, runs_dir=runs_dir, resume=resume, overwrite=overwrite))


def _row(name: str, folder: RunFolder) -> list[str]:
    result = folder.read_result()
    for metric in METRICS:
        if metric not in result["metrics"]:
            raise UserError(f"{folder.result} has no {metric}; mml quickstart --overwrite begins anew")
    shares = [share for row in read_history(folder.history) if (share := active_share(row)) is not None]
    seconds = result["seconds"]["train"] + result["seconds"]["evaluation"]
    return [
        name,
        *(f"{result['metrics'][metric]:.4f}" for metric in METRICS),
        f"{seconds:.1f}",
        f"{100 * sum(shares) / len(shares):.2f} %" if shares else "–",
    ]
