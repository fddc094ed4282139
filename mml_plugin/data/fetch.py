"""Known data sets from the Hugging Face Hub, checked against their published md5 sums."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from urllib.parse import urlsplit

from mml_plugin.data.catalog import KNOWN
from mml_plugin.data.importing import import_dataset
from mml_plugin.data.store import MARKS, OWN, folder_of
from mml_plugin.errors import UserError, nearest
from mml_plugin.files import checksum, make_folder
from mml_plugin.folders import check_place


def fetch(name: str, root: Path, overwrite: bool = False) -> Path:
    """Download, check and import a known data set.

    The download goes to ``root/.download/<name>`` through ``huggingface_hub``, which resumes an interrupted one and
    honours ``HF_ENDPOINT``; a file with a wrong checksum is removed.

    Args:
        name: one of the catalogue.
        root: where data sets live.
        overwrite: replace ``root/name``.

    Raises:
        UserError: for an unknown name, a folder that must not be replaced, an ``HF_ENDPOINT`` that is no URL, an
            unreachable Hub and a wrong checksum.
    """
    if name not in KNOWN:
        raise UserError(
            f"there is no known data set {name!r}; {nearest(name, KNOWN)} (mml data import takes other sets)"
        )
    check_place(folder_of(root, name), overwrite, MARKS, "a data set", OWN)
    _check_endpoint()
    known = KNOWN[name]
    work = make_folder(Path(root) / ".download" / name)
    for file, md5 in known.md5.items():
        path = _download(known.repo, file, work)
        found = checksum(path)
        if found != md5:
            path.unlink()
            raise UserError(
                f"{known.repo}/{file} has md5 {found} where {md5} is published; it was removed, fetch it again"
            )
        logging.info("%s: md5 %s as published", file, md5)
    return import_dataset(name, work, root, overwrite=overwrite)


def _check_endpoint() -> None:
    """Each version of ``huggingface_hub`` fails with errors of its own on a URL that is none, some when imported."""
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"HF_ENDPOINT must be a URL such as https://huggingface.co, got {endpoint!r}")


def _download(repo: str, file: str, work: Path) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, repo_type="dataset", local_dir=work))
    except (LocalEntryNotFoundError, OSError, ValueError) as error:  # ValueError: a host name that cannot be one
        if isinstance(error, (EntryNotFoundError, HfHubHTTPError)) and not isinstance(error, LocalEntryNotFoundError):
            raise UserError(f"{constants.ENDPOINT} does not give {repo}/{file}: {_first_line(error)}") from None
        raise UserError(
            f"cannot reach {constants.ENDPOINT} for {repo}/{file} ({type(error).__name__}); "
            "HF_ENDPOINT names a mirror, and mml data import NAME --from DIR takes files that you have"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
