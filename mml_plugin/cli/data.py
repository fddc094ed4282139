"""``mml data``: fetch, import, check and make data sets."""

from __future__ import annotations

import logging
from pathlib import Path

import click

from mml_plugin.errors import UserError

ROOT = click.option(
    "--root", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Where data sets live."
)
OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace a data set that is there.")
COLD = click.option("--drop-cold-users", is_flag=True, help="Leave out test users without training history.")


@click.group()
def data() -> None:
    """Fetch, import, check and make data sets."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # The Hub's library has a handler of its own; without this every line of it would show twice.
    logging.getLogger("huggingface_hub").propagate = False


@data.command("fetch")
@click.argument("name")
@ROOT
@OVERWRITE
def fetch_command(name: str, root: Path, overwrite: bool) -> None:
    """Download yelp18 or gowalla from the Hugging Face Hub and check it."""
    from mml_plugin.data.fetch import fetch

    click.echo(f"wrote {fetch(name, root, overwrite)}")


@data.command("import")
@click.argument("name")
@click.option("--from", "source", type=click.Path(path_type=Path), help="Folder with train.txt and test.txt (or .gz).")
@click.option("--train", type=click.Path(path_type=Path), help="CSV with the columns user,item.")
@click.option("--test", type=click.Path(path_type=Path), help="CSV with the columns user,item.")
@COLD
@ROOT
@OVERWRITE
def import_command(name, source, train, test, drop_cold_users, root, overwrite) -> None:
    """Import a data set from LightGCN text files or from two CSV files."""
    from mml_plugin.data.importing import import_csv, import_dataset

    if source is not None and train is None and test is None:
        folder = import_dataset(name, source, root, drop_cold_users, overwrite)
    elif source is None and train is not None and test is not None:
        folder = import_csv(name, train, test, root, drop_cold_users, overwrite)
    else:
        raise UserError("give either --from DIR (train.txt, test.txt) or --train FILE and --test FILE (CSV)")
    click.echo(f"wrote {folder}")


@data.command("check")
@click.argument("name")
@ROOT
def check_command(name: str, root: Path) -> None:
    """Count users, items and interactions; a known set is held against the paper's Table 1.

    Where there are text and CSV files, they must hold the same interactions.
    """
    from mml_plugin.data.check import check, differing_files, find_folder

    lines = check(name, root)
    for line in lines:
        expected = "" if line.expected is None else ("as in Table 1" if line.fits else f"Table 1: {line.expected:,}")
        click.echo(f"{line.what:<34} {line.found:>12,}  {expected}".rstrip())
    wrong = [line.what for line in lines if not line.fits]
    if wrong:
        raise UserError(f"{name} is not the published data set: {', '.join(wrong)} differ from Table 1")
    differ = differing_files(find_folder(name, root))
    if differ:
        raise UserError(
            f"{name}: {differ:,} interactions stand in the text files or in the CSV files alone; the fast engine reads "
            "the former, recbox the latter: import the data set again"
        )


@data.command("synth")
@click.option("--name", default="synth", show_default=True, help="Name of the data set.")
@click.option("--users", type=click.IntRange(10, 100_000), default=1500, show_default=True)
@click.option("--items", type=click.IntRange(64, 100_000), default=2000, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=2019, show_default=True)
@ROOT
@OVERWRITE
def synth_command(name: str, users: int, items: int, seed: int, root: Path, overwrite: bool) -> None:
    """Make a small synthetic data set from a seed."""
    from mml_plugin.data.store import folder_of
    from mml_plugin.data.synthetic import generate, is_there

    folder = folder_of(root, name)
    if not overwrite and is_there(folder, users, items, seed):
        click.echo(f"{folder} is already there, made with the same sizes and seed")
        return
    click.echo(f"wrote {generate(folder, users, items, seed, overwrite)}")
