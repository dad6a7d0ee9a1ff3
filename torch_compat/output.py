"""Output that appears as a whole or not at all, and never in the place of something else.

Usage::

    with appearing(Path("exported"), force=False, foreign=lambda directory: []) as temporary:
        (temporary / "model.pt").write_bytes(data)
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxrnn.checkpoint import sync_directory
from jaxrnn.errors import InputError

Foreign = Callable[[Path], list[str]]
"""What there is in a directory that a command did not write, by name: it is never replaced."""


def check_target(directory: Path, force: bool, foreign: Foreign) -> None:
    """Raise InputError where the name is taken; with ``force``, by what is ``foreign``."""
    if not os.path.lexists(directory):
        return
    if not force:
        raise InputError(
            f"--to {directory} exists already; choose another, or replace it with --force"
        )
    if directory.is_symlink() or not directory.is_dir():
        raise InputError(f"--to {directory} is not a directory, which is all that --force replaces")
    if other := sorted(foreign(directory)):
        shown = ", ".join(other[:5]) + (", ..." if len(other) > 5 else "")
        raise InputError(
            f"--to {directory} holds more than what this command writes ({shown}), which is all "
            "that --force replaces; choose another"
        )


def plain_files(directory: Path) -> set[str]:
    """The names of files that are neither links nor directories."""
    return {p.name for p in directory.iterdir() if p.is_file() and not p.is_symlink()}


def marked(path: Path, keys: set[str]) -> bool:
    """Whether a file is a JSON object with these keys."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and keys <= set(content)


@contextlib.contextmanager
def appearing(directory: Path, force: bool, foreign: Foreign) -> Iterator[Path]:
    """A temporary directory that becomes ``directory`` if the block ends well, else nothing.

    Parents that were made for it go as well. With ``force``, what was there stays until then;
    nothing that is ``foreign`` is ever replaced.
    """
    check_target(directory, force, foreign)
    target = Path(os.path.abspath(directory))
    temporary, old = (
        target.with_name(f".{target.name}.{os.getpid()}.{word}") for word in ("tmp", "old")
    )
    made = [parent for parent in target.parents if not parent.exists()]
    done = False
    try:
        temporary.mkdir(parents=True)
        yield temporary
        check_target(directory, force, foreign)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        sync_directory(target.parent)
        done = True
    except OSError as error:
        raise InputError(f"can't write --to {directory}: {error.strerror or error}") from error
    finally:
        if not done:
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
        shutil.rmtree(old, ignore_errors=True)
