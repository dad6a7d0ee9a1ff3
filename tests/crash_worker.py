"""A training process that is killed, or finds its disk failing, at one exact event of its own.

An event is a system call that changes files, a write, a group of steps or a window of validation.
Run as ``python crash_worker.py PLAN``, JSON: ``argv`` of jaxrnn.train; ``root``, below which files
are watched; ``log``, a file to which each event's name goes; ``at``, a regular expression, and
``nth``, which match of it is meant, from 1 on; ``do``: kill_before, kill_after, kill_within (with
half of a write on the disk), SIGTERM, ENOSPC, EIO, or nothing.
"""

import builtins
import errno
import io
import json
import os
import re
import signal
import sys

from jaxrnn import train, training

PLAN = json.loads(sys.argv[1])
LOG = os.open(PLAN["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ROOT = os.path.abspath(PLAN["root"]) + os.sep
STATE = {"seen": 0, "failing": False}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def event(name: str, call, half=lambda: None):
    """Do what a call does, and what the plan has for this moment."""
    is_it = PLAN.get("at") is not None and re.search(PLAN["at"], name) is not None
    STATE["seen"] += is_it
    is_it = is_it and STATE["seen"] == PLAN.get("nth", 1)
    os.write(LOG, f"{name}\n".encode())
    what = PLAN.get("do") if is_it else None
    if what in ("ENOSPC", "EIO"):
        half()
        raise OSError(getattr(errno, what), os.strerror(getattr(errno, what)))
    if what == "kill_before":
        kill()
    if what == "SIGTERM":
        os.kill(os.getpid(), signal.SIGTERM)
    if what == "kill_within":
        half()
        kill()
    try:
        return call()
    finally:  # after a call that fails too, as one that removes what is not there
        if what == "kill_after":
            kill()


def below(path) -> str | None:
    """A path's end below the root, without what is random in it."""
    try:
        path = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fspath(path)
    except (OSError, TypeError):
        return None
    path = os.path.abspath(os.fsdecode(path))
    return (
        re.sub(r"\.tmp-[0-9a-f]{8}", ".tmp", path[len(ROOT) :]) if path.startswith(ROOT) else None
    )


def watch_calls() -> None:
    def watched(name, call):
        def does(path, *args, **kwargs):
            if (shown := below(path)) is None:
                return call(path, *args, **kwargs)
            return event(f"{name} {shown}", lambda: call(path, *args, **kwargs))

        return does

    for name in ("fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir"):
        setattr(os, name, watched(name, getattr(os, name)))


class Written:
    """A file whose writes are events."""

    def __init__(self, file, name):
        self._file, self._name = file, name

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        def half():
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        return event(f"write {self._name}", lambda: self._file.write(data), half)


def watch_writes() -> None:
    original = builtins.open

    def watched(file, mode="r", *args, **kwargs):
        name = below(file)
        if name is None or not set(mode) & set("wa"):
            return original(file, mode, *args, **kwargs)
        opened = event(f"open {name}", lambda: original(file, mode, *args, **kwargs))
        return Written(opened, name)

    builtins.open = io.open = watched


def watch_device() -> None:
    make_step, score = training.make_step, training._score

    def watched_make(*args):
        steps = make_step(*args)
        return lambda *arguments: event("steps", lambda: steps(*arguments))

    training.make_step = watched_make
    training._score = lambda *arguments: event("window", lambda: score(*arguments))


if __name__ == "__main__":
    watch_device()
    watch_calls()
    watch_writes()
    sys.argv[1:] = PLAN["argv"]
    sys.exit(train.main())
