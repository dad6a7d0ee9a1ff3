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
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxrnn import files, runs
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
    # As the system resolves it: dropping "link/.." from the text can name another directory.
    whole = directory.name in ("", "..")
    target = Path(os.path.realpath(directory if whole else directory.parent))
    target = target if whole else target / directory.name
    check_target(target, force, foreign)
    made = [parent for parent in target.parents if not parent.exists()]
    own: Path | None = None  # removed at the end, and nothing else is
    done = False
    try:
        if made:
            target.parent.mkdir(parents=True)
        own = Path(tempfile.mkdtemp(prefix=".jaxrnn-", dir=target.parent))
        new, old = own / "new", own / "old"
        new.mkdir()
        yield new
        check_target(target, force, foreign)
        is_run = (target / "run.json").is_file()
        with runs.held(target) if is_run else contextlib.nullcontext():
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except BaseException:
                if old.exists():
                    old.rename(target)
                raise
        done = True
        files.sync(target.parent)
    except OSError as error:
        what = "was written, but may not outlive a power loss" if done else "can't be written"
        raise InputError(f"--to {directory} {what}: {error.strerror or error}") from error
    finally:
        if own is not None and (done or not (own / "old").exists()):
            shutil.rmtree(own, ignore_errors=True)
        if not done:
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
