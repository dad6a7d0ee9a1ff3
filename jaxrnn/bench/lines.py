"""Files of the benchmark's figures, a line of JSON each, which only ever grow."""

from __future__ import annotations

import os
from pathlib import Path

from jaxrnn.cli import check_outputs
from jaxrnn.errors import InputError


def check_writable(flag: str, path: Path) -> None:
    """Now rather than after minutes of timing. Raises InputError."""
    check_outputs(**{flag: str(path)})
    existed = os.path.lexists(path)  # a link to what does not exist yet stays a link
    try:
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"can't write --{flag} {path}: {reason}; name another file") from error


def append(path: str, lines: str) -> None:
    """Raises InputError."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write(lines)
    except OSError as error:
        raise InputError(f"can't write --json {path}: {error}") from error
