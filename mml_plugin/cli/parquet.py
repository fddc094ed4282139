"""``--output`` of the commands that write Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from mml_plugin.errors import UserError

OTHERS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".npz", ".npy", ".xlsx", ".gz", ".zip")


def parquet_file(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """The path, unless its ending promises another format; a callback of a click option.

    Raises:
        UserError: for such an ending.
    """
    if path is not None and path.suffix.lower() in OTHERS:
        raise UserError(f"--output is a Parquet file, not {path.suffix}: name it {path.stem}.parquet")
    return path
