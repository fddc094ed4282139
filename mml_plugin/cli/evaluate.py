"""``mml evaluate``: a finished run on another split."""

from __future__ import annotations

from pathlib import Path

import click

from mml_plugin.cli.parquet import parquet_file
from mml_plugin.errors import UserError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--k", multiple=True, type=click.IntRange(1), default=(20,), show_default=True, help="May be repeated.")
@click.option("--metric", "metrics", multiple=True, default=("Recall", "NDCG"), show_default=True,
              help="May be repeated.")  # fmt: skip
@click.option("--file", type=click.Path(path_type=Path), help="Interactions: CSV (user,item) or lines 'user item ...'.")
@click.option("--data", type=click.Path(path_type=Path), help="A data set's folder, for its test split.")
@click.option("--skip-unknown", is_flag=True, help="Leave out interactions with ids that the run does not know.")
@click.option("--output", type=click.Path(path_type=Path), callback=parquet_file,
              help="Also write each user's metrics (Parquet).")  # fmt: skip
def evaluate(run: Path, k, metrics, file: Path | None, data: Path | None, skip_unknown: bool, output: Path | None):
    """Evaluate a run on other interactions.

    RUN is its folder; without --file, the test split of the data it was trained on is used.
    """
    from mml_plugin.experiment.outputs import write_parquet
    from mml_plugin.serving import evaluate as serving
    from mml_plugin.serving.saved_run import load_run

    if file is not None and data is not None:
        raise UserError("give either --file or --data")
    saved = load_run(run)
    if file is not None:
        pairs = serving.read_pairs(file)
    elif data is not None:
        pairs = serving.split_pairs(data)
    else:
        data, pairs = serving.own_pairs(saved)
    found = serving.evaluate(saved, pairs, k, metrics, skip_unknown)
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(f"{len(found.users)} users of {data or file}, training items masked")
    for name, value in found.metrics.items():
        click.echo(f"{name:<20} {value:.6f}")
    if output is not None:
        write_parquet(output, {"user": found.users, **found.per_user})
        click.echo(f"wrote {output}")
