"""Files that are either complete or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mml_plugin.errors import UserError

_SAYS = {
    errno.ENOSPC: "there is no space left on the disk",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than the limit set for this process",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOENT: "the folder is not there and cannot be made",
    errno.EIO: "the device reports an error",
    errno.EBUSY: "something else uses it, such as a mount",
}


@contextmanager
def writing(what: str | os.PathLike[str]) -> Iterator[None]:
    """Turn an operating-system refusal to write ``what`` into a :class:`UserError` of one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in _SAYS:
            raise
        raise UserError(f"cannot write {os.fspath(what)}: {_SAYS[error.errno]}") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create ``path`` and its parents; a :class:`UserError` where that is not possible."""
    folder = Path(path)
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"cannot write to {folder}: it is a file, not a folder")
        for part in (folder, *folder.parents):
            if part.is_symlink() and not part.exists():
                raise UserError(
                    f"cannot write to {folder}: {part} is a link to {os.readlink(part)}, which is not there"
                )
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def atomic_write(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO]:
    """Open a temporary file beside ``path`` and rename it there when the block ends well.

    Args:
        path: the file to replace or create; its folder is created.
        mode: ``"w"`` (UTF-8 text, newlines untouched) or ``"wb"``.

    Raises:
        UserError: when the disk is full or the folder cannot be written, and for a device or another thing that is no
            file. Whatever stood at ``path`` before is still there, and no temporary file is left.
    """
    with writing(path):
        target = _real_file(Path(path))
    make_folder(target.parent)
    # Words of a command line that are no UTF-8 must not cost the file: they are written as escapes.
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "", "errors": "backslashreplace"}
    with writing(target):
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, mode, **text) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def _real_file(path: Path) -> Path:
    """Where a file really stands: a link is not to be replaced by a file, and /dev/null not by anything."""
    if not os.path.islink(path) and not os.path.exists(path):
        return path
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise UserError(f"cannot write {path}: it is a device or a pipe, not a file")
    target = Path(os.path.realpath(path)) if os.path.islink(path) else path
    if target.is_symlink():
        raise UserError(f"cannot write {path}: its symbolic links lead in a circle")
    return target


def checksum(path: str | os.PathLike[str], algorithm: str = "md5") -> str:
    """The hex digest of a file's content, read in chunks."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with open(path, "rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
