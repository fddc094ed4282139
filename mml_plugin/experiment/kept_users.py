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
DATE = b"date"  # of the run, in a kept file's metadata


def path_of(results: Path, identity: str) -> Path:
    """Where beside the rows the metrics of a run with that identity are kept."""
    return results / FOLDER / f"{identity[:16]}.parquet"


def keep(results: Path, folder: RunFolder, identity: str, metrics: Sequence[str]) -> None:
    """Keep the named metrics of a finished run, in single precision; what the run does not measure is left out.

    Those of a newer training of the same run, which another suite may have brought, are not written over.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table, date = _read(folder.per_user), folder.read_result()["date"].encode()
    if table is None or _date(_read(path_of(results, identity))) > date:
        return
    names = [name for name in metrics if name in table.column_names]
    columns = {name: pa.array(np.asarray(table[name], np.float32)) for name in names}
    users = pa.array(np.asarray(table["user_row"], np.int32))
    make_folder(results / FOLDER)
    with atomic_write(path_of(results, identity), "wb") as stream:
        # Users rise by one, so their differences take next to nothing.
        packed = {"use_dictionary": names, "column_encoding": {"user_row": "DELTA_BINARY_PACKED"}}
        kept = pa.table({"user_row": users, **columns}).replace_schema_metadata({DATE: date})
        pq.write_table(kept, stream, compression="zstd", **packed)


def table_of(results: Path, folder: RunFolder | None, row: Row) -> Any:
    """The per-user metrics of a row's very run, from its folder or else what was kept of it; None where neither is."""
    if folder is not None and folder.finished and _trained(folder) == (row["identity"], row["date"]):
        found = _read(folder.per_user)
        if found is not None:
            return found
    return _read(path_of(results, row["identity"]))


def _trained(folder: RunFolder) -> tuple[str, str]:
    """The run's identity and date; "" where its result is damaged, which whoever runs the cell says."""
    try:
        result = folder.read_result()
        return result["identity"], result["date"]
    except UserError:
        return "", ""


def _date(kept: Any) -> bytes:
    """When the run of a kept table was finished; b"" where it does not say."""
    return (kept.schema.metadata or {}).get(DATE, b"") if kept is not None else b""


def _read(path: Path) -> Any:
    """The table, or None where there is none, or none that can be read: a comparison less, and the rows stay."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    try:
        found = pq.read_table(path)
        if "user_row" not in found.column_names:
            raise pa.ArrowInvalid("it has no column user_row")
        return found
    except (pa.ArrowException, OSError) as error:
        logging.warning("%s cannot be read and is left out of the comparison over users: %s", path, error)
        return None
