"""``mml quickstart``: CCL and MML side by side on the built-in data set."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.option(
    "--config",
    "config_dir",
    type=click.Path(path_type=Path),
    help="The folder with model_config and dataset_config.",
)
@click.option(
    "--runs",
    "runs_dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where run folders go.",
)
@click.option("--overwrite", is_flag=True, help="Train again where finished runs stand.")
@click.pass_obj
def quickstart(settings, config_dir: Path | None, runs_dir: Path, overwrite: bool) -> None:
    """Train MF with CCL and MML on a small data set.

    It is a synthetic one; training goes through the recbox engine.
    """
    from mml_plugin.experiment.quickstart import run_quickstart

    click.echo(run_quickstart(config_dir or settings.default_config, runs_dir, overwrite))
