"""What a power loss may leave of a directory: the order of system calls, played back.

Of a file outlives it what was fsynced; the rest of its length reads as zeros. Of a directory the
names outlive it that it had at its last fsync, or at any moment since: a filesystem writes names
when it likes, and may do so before the content.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

CHANGES = ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")


class Moment(NamedTuple):
    """How things stand before or after a system call."""

    what: str
    names: dict[int, dict[str, int]]  # of each directory by inode: inodes by name
    sizes: dict[int, int]
    synced: dict[int, bytes]  # files' contents at their last fsync
    synced_at: dict[int, int]  # directories' last fsyncs: how many moments were before


class Recorder:
    """Records every moment of what happens below ``root`` while the block runs."""

    def __init__(self, root: Path):
        self.root = root
        self.moments: list[Moment] = []
        self._synced: dict[int, bytes] = {}
        self._synced_at = {root.stat().st_ino: 0}
        self._sizes: dict[int, int] = {}  # of the files that there were, too
        self._held: dict[int, int] = {}  # open, so that no other file gets their inode
        self._patch = pytest.MonkeyPatch()

    def __enter__(self) -> "Recorder":
        for name in CHANGES:
            self._patch.setattr(os, name, self._watched(name, getattr(os, name)))
        self.note("begin")
        return self

    def __exit__(self, *_) -> None:
        self._patch.undo()
        for descriptor in self._held.values():
            os.close(descriptor)

    def _watched(self, name, call):
        def watched(*args, **kwargs):
            self.note(f"before {name} {args[:2]}")
            result = call(*args, **kwargs)
            if name == "fsync":
                path = Path(os.readlink(f"/proc/self/fd/{args[0]}"))
                inode = path.stat().st_ino
                if path.is_dir():
                    self._synced_at[inode] = len(self.moments)
                else:
                    self._synced[inode] = path.read_bytes()
            self.note(f"after {name} {args[:2]}")
            return result

        return watched

    def note(self, what: str) -> None:
        names = {}
        for directory in (self.root, *(p for p in self.root.rglob("*") if p.is_dir())):
            names[directory.stat().st_ino] = {p.name: p.stat().st_ino for p in directory.iterdir()}
            for path in directory.iterdir():
                inode = path.stat().st_ino
                self._sizes[inode] = path.stat().st_size
                if inode not in self._held:
                    self._held[inode] = os.open(path, os.O_RDONLY)
        sizes = dict(self._sizes)
        self.moments.append(Moment(what, names, sizes, dict(self._synced), dict(self._synced_at)))


def aftermaths(moments: list[Moment]) -> Iterator[tuple[int, str, dict[str, bytes]]]:
    """Every state that a power loss may leave, each once a moment: its number, its name, the files
    by their paths; a directory is a path that ends in a slash."""
    root = next(iter(moments[0].names))
    seen = set()
    for now, moment in enumerate(moments):
        for then in range(now + 1):
            files = dict(_lay_out("", root, moments, now, then))
            fingerprint = (tuple(sorted(files.items())), moment.what)
            if fingerprint not in seen:
                yield now, f"{moment.what}, names as of {moments[then].what}", files
            seen.add(fingerprint)


def _lay_out(
    path: str, inode: int, moments: list[Moment], now: int, then: int
) -> Iterator[tuple[str, bytes]]:
    at = max(moments[now].synced_at.get(inode, 0), then)
    while at > 0 and inode not in moments[at].names:
        at -= 1
    for name, child in moments[at].names.get(inode, {}).items():
        if child in moments[at].names:
            yield f"{path}{name}/", b""
            yield from _lay_out(f"{path}{name}/", child, moments, now, then)
        else:
            synced = moments[now].synced.get(child, b"")
            yield f"{path}{name}", synced.ljust(moments[now].sizes[child], b"\0")


def lay_out(files: dict[str, bytes], path: Path) -> None:
    """Make them, below a directory that is not there yet."""
    path.mkdir()
    for name, content in files.items():
        if name.endswith("/"):
            (path / name).mkdir()
        else:
            (path / name).write_bytes(content)
