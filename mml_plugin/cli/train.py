"""``mml train`` and ``run_expid.py``: run one experiment."""

from __future__ import annotations

from pathlib import Path

import click

from mml_plugin.errors import UserError


@click.command()
@click.option(
    "--config",
    "config_dir",
    type=click.Path(path_type=Path),
    help="Folder of model_config and dataset_config; default ./config, of run_expid.py the one beside it.",
)
@click.option("--expid", required=True, help="The experiment to run, for example SimpleX_yelp_mml.")
@click.option("--gpu", type=int, default=-1, show_default=True, help="The GPU index, -1 for the CPU.")
@click.option("--engine", default="recbox", show_default=True, help="recbox, the stock pipeline, or fast.")
@click.option("--backend", default="auto", show_default=True,
              help="How the fast engine computes: numba, triton, torch, reference; auto picks.")  # fmt: skip
@click.option("--protocol", default="paper", show_default=True, help="paper (best epoch on test) or held-out.")
@click.option("--valid-share", type=click.FloatRange(0, 0.5, min_open=True), default=0.1, show_default=True,
              help="Share of each user's training items that held-out carves away.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Overrides the configuration's seed.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override one key; may be repeated.")
@click.option(
    "--runs",
    "runs_dir",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where run folders go.",
)
@click.option("--resume", is_flag=True, help="Go on with an unfinished run.")
@click.option("--overwrite", is_flag=True, help="Begin anew where a run already stands.")
@click.option("--tensorboard", is_flag=True, help="Also write TensorBoard events into the run folder.")
@click.option("--max-batches", type=click.IntRange(1), help="End each epoch after so many batches (labelled as cut).")
@click.option("--thresholds", metavar="T,T,...",
              help="Count training negatives between these similarities instead of the loss's margins.")  # fmt: skip
@click.option("--summary/--no-summary", default=True, show_default=True,
              help="Append reczoo's summary line to <config folder's name>.csv, here.")  # fmt: skip
@click.pass_obj
def train(settings, config_dir: Path | None, thresholds: str | None, **request) -> None:
    """Train and evaluate one experiment.

    Its folder under --runs holds everything.
    """
    from mml_plugin.experiment.run import RunRequest, run

    if thresholds is not None:
        # An empty text is none: losses without margins are compared so.
        request["thresholds"] = tuple(_number(word) for word in thresholds.split(",")) if thresholds else ()
    run(RunRequest(config_dir=config_dir or settings.default_config, **request))


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UserError(f"--thresholds: {word!r} is no number; write numbers with commas between: 0.6,0.9") from None
