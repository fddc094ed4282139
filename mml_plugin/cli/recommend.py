"""``mml recommend``: the best unseen items, from a finished run."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mml_plugin.cli.parquet import parquet_file
from mml_plugin.errors import UserError


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--user", "users", multiple=True, metavar="ID", help="An original user id; may be repeated.")
@click.option("--all", "everybody", is_flag=True, help="Every user, into the Parquet file --output.")
@click.option("--k", type=click.IntRange(1), default=20, show_default=True, help="How many items.")
@click.option("--output", type=click.Path(path_type=Path), callback=parquet_file, help="The Parquet file of --all.")
def recommend(run: Path, users: tuple[str, ...], everybody: bool, k: int, output: Path | None) -> None:
    """Recommend items with a finished run.

    RUN is its folder; items that a user has seen in training are left out, ids are the original ones.
    """
    from mml_plugin.serving.recommend import recommend, recommend_all
    from mml_plugin.serving.saved_run import load_run

    if everybody == bool(users):
        raise UserError("give --user ID (it may be repeated), or --all with --output FILE.parquet")
    if everybody and output is None:
        raise UserError("--all writes a Parquet file: add --output FILE.parquet")
    if users and output is not None:
        raise UserError("--output belongs to --all")
    saved = load_run(run)
    if output is not None and everybody:
        written, cold = recommend_all(saved, output, k, progress=sys.stderr.isatty())
        left_out = f"; {cold} cold users without training interactions were left out" if cold else ""
        click.echo(f"wrote {output}: up to {k} items for each of {written} users{left_out}")
        return
    for user, items in [(user, recommend(saved, user, k)) for user in users]:
        click.echo(f"user {user}")
        for rank, (item, score) in enumerate(items, start=1):
            click.echo(f"{rank:>4}  {item:<20} {score:.6f}")
