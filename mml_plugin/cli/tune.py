"""``mml tune`` and ``run_param_tuner.py``: run a grid of experiments."""

from __future__ import annotations

import sys
from pathlib import Path

import click


class SeveralValues(click.Command):
    """A command that takes FuxiCTR's ``--gpu 0 1 2`` beside ``--gpu 0 --gpu 1``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give every value after ``--gpu`` a flag of its own."""
        spread: list[str] = []
        after_gpu = False
        for word in args:
            if after_gpu and spread[-1] != "--gpu" and word.lstrip("-").isdigit():
                spread += ["--gpu"]
            elif not word.lstrip("-").isdigit():
                after_gpu = word == "--gpu"
            spread.append(word)
        return super().parse_args(ctx, spread)


@click.command(cls=SeveralValues)
@click.option("--config", "tuner_file", type=click.Path(path_type=Path), required=True, help="A file of config/tuner.")
@click.option(
    "--gpu",
    "gpus",
    type=int,
    multiple=True,
    default=(-1,),
    help="One worker per value (--gpu 0 1, or --gpu -1 -1); -1, the default, is the CPU.",
)
@click.option("--tag", help="Run only the cells whose name contains this.")
@click.option("--script", type=click.Path(path_type=Path), help="What runs a cell; default: mml train.")
@click.option("--runs", "runs_dir", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
              help="Where run folders go; the grid's own files in tuner/NAME.")  # fmt: skip
@click.option("--engine", default="recbox", show_default=True, help="recbox, the stock pipeline, or fast.")
@click.option("--backend", default="auto", show_default=True,
              help="How the fast engine computes: numba, triton, torch, reference; auto picks.")  # fmt: skip
@click.option("--protocol", default="paper", show_default=True, help="paper or held-out.")
@click.option("--valid-share", type=click.FloatRange(0, 0.5, min_open=True), default=0.1, show_default=True,
              help="Share of each user's training items that held-out carves away.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Overrides the configuration's seed.")
def tune(tuner_file: Path, gpus: tuple[int, ...], tag: str | None, script: Path | None, **request) -> int:
    """Run a grid of experiments; finished ones stay.

    Exit 1 when a cell failed. What the cells train is in the grid's file alone: there is no --set here.
    """
    from mml_plugin.experiment.run import RunRequest
    from mml_plugin.experiment.tuning import run_grid

    runner = [sys.executable, str(script)] if script else None
    return run_grid(tuner_file, gpus, RunRequest(expid="", config_dir=Path(), **request), runner, tag=tag)
