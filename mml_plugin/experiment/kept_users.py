"""Per-user metrics that outlive their run folders: a later run can be compared with an earlier one over users."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mml_plugin.errors import UserError
from mml_plugin.experiment.run_folder import RunFolder
from mml_plugin.files import atomic_write, make_folder
from mml_plugin.report.rows import Row

FOLDER = "per_user"


def path_of(results: Path, identity: str) -> Path:
    """Where beside the rows the metrics of a run with that identity are kept."""
    return results / FOLDER / f"{identity[:16]}.parquet"


def keep(results: Path, folder: RunFolder, identity: str, metrics: Sequence[str]) -> None:
    """Keep the named metrics of a finished run, in single precision; what the run does not measure is left out."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = _read(folder.per_user)
    if table is None:
        return
    names = [name for name in metrics if name in table.column_names]
    columns = {name: pa.array(np.asarray(table[name], np.float32)) for name in names}
    users = pa.array(np.asarray(table["user_row"], np.int32))
    make_folder(results / FOLDER)
    with atomic_write(path_of(results, identity), "wb") as stream:
        # Users rise by one, so their differences take next to nothing.
        packed = {"use_dictionary": names, "column_encoding": {"user_row": "DELTA_BINARY_PACKED"}}
        pq.write_table(pa.table({"user_row": users, **columns}), stream, compression="zstd", **packed)


def table_of(results: Path, folder: RunFolder | None, row: Row) -> Any:
    """The per-user metrics of a row's very run, from its folder or else what was kept of it; None where neither is."""
    if folder is not None and folder.finished and _identity(folder) == row["identity"]:
        found = _read(folder.per_user)
        if found is not None:
            return found
    return _read(path_of(results, row["identity"]))


def _identity(folder: RunFolder) -> str:
    """The run's identity; "" where its result is damaged, which whoever runs the cell says."""
    try:
        return folder.read_result()["identity"]
    except UserError:
        return ""


def _read(path: Path) -> Any:
    """The table, or None where there is none, or none that can be read: a comparison less, and the rows stay."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        logging.warning("%s cannot be read and is left out of the comparison over users: %s", path, error)
        return None
