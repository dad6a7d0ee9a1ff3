"""Writing that survives a kill, and a power loss: each file is whole, old or new.

A rename is atomic, but only what was fsynced before it, and its directory after it, outlives a
power loss. Usage::

    write_atomically(Path("runs/a/run.json"), data)
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path


def write_atomically(path: Path, data: bytes, durably: bool = True) -> None:
    """Replace ``path``'s content as a whole: a crash leaves the old or the new, never a part.

    A link stays, and what it names is replaced; a pipe or a device is written to. Not ``durably``,
    a power loss may leave none: for what can be made again. Raises IsADirectoryError, with nothing
    written, for a directory.
    """
    write_together({path: data}, durably)


def write_together(contents: Mapping[Path, bytes], durably: bool = True) -> None:
    """As ``write_atomically``, of several: none is replaced before all are on the disk."""
    streams = {path: data for path, data in contents.items() if _is_stream(path)}
    targets = {Path(os.path.realpath(path)): path for path in contents if path not in streams}
    for target in targets:
        if not target.name or target.is_dir():  # the root has no name for a temporary file
            raise _is_a_directory(target)
    beside = {target: target.with_name(f".{target.name}.tmp") for target in targets}
    try:
        for target, temporary in beside.items():
            with open(temporary, "wb") as file:
                file.write(contents[targets[target]])
                if durably:
                    file.flush()
                    os.fsync(file.fileno())
        for target, temporary in beside.items():
            os.replace(temporary, target)
    except BaseException as error:
        for target, temporary in beside.items():
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.filename == str(temporary):
                error.filename = str(target)  # which is what was asked for
        raise
    if durably:
        for directory in {target.parent for target in targets}:
            sync(directory)
    for path, data in streams.items():
        with open(path, "ab") as file:
            file.write(data)


def _is_stream(path: Path) -> bool:
    """Whether it takes what is written, and is not a file to be replaced."""
    name = os.path.abspath(path)
    is_ours = name in ("/dev/stdout", "/dev/stderr") or name.startswith("/dev/fd/")
    return is_ours or (path.exists() and not path.is_file() and not path.is_dir())


def read_text(path: Path, most: int, errors: str = "strict") -> str:
    """A UTF-8 text. Raises OSError, having read no more, for one of more than ``most`` bytes."""
    with open(path, "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return io.TextIOWrapper(io.BytesIO(content), encoding="utf-8", errors=errors).read()


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
