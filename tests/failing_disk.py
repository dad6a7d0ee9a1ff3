"""A disk that is full, or fails, at one moment of writing a file."""

import errno
import os

from jaxrnn import files


class FullDisk:
    """A file that takes some bytes and then no more."""

    def __init__(self, *args, **kwargs):
        self.file = open(*args, **kwargs)  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, data):
        self.file.write(data[:100])
        self.file.flush()
        raise OSError(errno.ENOSPC, "No space left on device")


def fail(*args, **kwargs):
    raise OSError(errno.EIO, "Input/output error")


def break_at(moment: str, monkeypatch) -> None:
    if moment == "write":
        monkeypatch.setattr(files, "open", FullDisk, raising=False)
    else:
        monkeypatch.setattr(os, moment, fail)
