"""Per-user metrics that outlive their run folders: a later run can be compared with an earlier one over users."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mml_plugin.experiment.outputs import write_parquet
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.files import make_folder
from mml_plugin.report.rows import Row

FOLDER = "per_user"


def path_of(results: Path, identity: str) -> Path:
    """Where beside the rows the metrics of a run with that identity are kept."""
    return results / FOLDER / f"{identity[:16]}.parquet"


def keep(results: Path, folder: RunFolder, identity: str, metrics: Sequence[str]) -> None:
    """Keep the named metrics of a finished run, in single precision; what the run does not measure is left out."""
    table = _read(folder.per_user)
    if table is None:
        return
    columns = {name: np.asarray(table[name], np.float32) for name in metrics if name in table.column_names}
    make_folder(results / FOLDER)
    write_parquet(path_of(results, identity), {"user_row": np.asarray(table["user_row"], np.int32), **columns})


def table_of(results: Path, folder: RunFolder | None, row: Row) -> Any:
    """The per-user metrics of a row's very run, from its folder or else what was kept of it; None where neither is."""
    if folder is not None and folder.finished and folder.read_result()["identity"] == row["identity"]:
        found = _read(folder.per_user)
        if found is not None:
            return found
    return _read(path_of(results, row["identity"]))


def _read(path: Path) -> Any:
    import pyarrow.parquet as pq

    return pq.read_table(path) if path.is_file() else None
