"""``--output`` of the commands that write Parquet."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mml_plugin.errors import UserError

OF_RUNS = ("ids.parquet", "per_user.parquet", "seen.parquet")
OTHERS = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".npz", ".npy", ".xlsx", ".gz", ".zip")


def parquet_file(_context: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    """The path, unless its ending promises another format; a callback of a click option.

    Raises:
        UserError: for such an ending, and for a file of a run's own in its folder.
    """
    real = Path(os.path.realpath(path)) if path is not None else None  # a link is followed when it is written
    if real is not None and real.name in OF_RUNS and (real.parent / "result.json").is_file():
        raise UserError(f"--output {path} is a file of the run in {real.parent}: give it another name or folder")
    if path is not None and path.suffix.lower() in OTHERS:
        raise UserError(f"--output is a Parquet file, not {path.suffix}: name it {path.stem}.parquet")
    return path
