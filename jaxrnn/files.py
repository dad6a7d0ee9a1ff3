"""Writing that survives a kill, and a power loss: each file is whole, old or new.

A rename is atomic, but only what was fsynced before it, and its directory after it, outlives a
power loss. Usage::

    write_atomically(Path("runs/a/run.json"), data)
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, data: bytes, durably: bool = True) -> None:
    """Replace ``path``'s content as a whole: a crash leaves the old or the new, never a part.

    A link stays, and what it names is replaced. Not ``durably``, a power loss may leave none: for
    what can be made again. Raises IsADirectoryError, with nothing written, for a directory.
    """
    path = Path(os.path.realpath(path))
    if not path.name or path.is_dir():  # the root has no name for a temporary file beside it
        raise _is_a_directory(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if durably:
        sync(path.parent)


def is_same(path: str | Path, other: str | Path) -> bool:
    """Whether two paths name one file, there or not yet."""
    return os.path.realpath(path) == os.path.realpath(other)


def sync(path: Path) -> None:
    """Make a file's content, or the names in a directory, survive a power loss."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Make a directory and those above it that are missing, to survive a power loss."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        sync(directory.parent)


@contextlib.contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes ``path`` if the block ends well, else nothing.

    A link stays, and what it names is made. Raises OSError where ``path`` is there then, unless as
    an empty directory.
    """
    path = Path(os.path.realpath(path))
    if not path.name:
        raise _is_a_directory(path)
    make_directory(path.parent)
    temporary = path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync(path.parent)


def _is_a_directory(path: Path) -> OSError:
    return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
