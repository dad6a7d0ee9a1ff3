"""Weights in files that come from elsewhere, read so that a hostile one can only be refused.

Takes safetensors, and what ``torch.save`` writes: a state dict, alone or under the key
``state_dict`` of a dict, and the lesson's checkpoint ``{n_hidden, n_layers, state_dict, tokens}``.
Torch's files are unpickled with ``weights_only=True``, and only dense tensors are taken from them.
Usage::

    arrays, extras = read(Path("rnn_20_epoch.net"))
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jaxrnn.checkpoint import as_array
from jaxrnn.errors import InputError
from torch_compat.directory import check_safetensors

LESSON = frozenset({"n_hidden", "n_layers", "state_dict", "tokens"})
"""The keys of the lesson's checkpoint."""

SAFE_TORCH = (2, 10)
"""The first version whose ``weights_only=True`` is not known to be led to run code."""


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a file by name, and the lesson's other entries if it is such a checkpoint.

    Raises InputError for a file that can't be read, is cut short or damaged as far as its format
    can tell (safetensors: header and sizes; torch's zip: checksums too), or holds anything else.
    """
    data = content(path)
    if data[:2] == b"PK":
        data = _repacked(path, data)
    elif data[8:9] == b"{":
        return _printable(path, _read_safetensors(path, data)), {}
    elif data[:1] != b"\x80":  # how a pickle begins: what torch wrote before its zip
        raise InputError(
            f"{path} is neither a safetensors file nor one that torch.save wrote: it was cut "
            "short or is another file"
        )
    arrays, extras = _read_torch(path, data)
    return _printable(path, arrays), extras


def content(path: Path) -> bytes:
    """All of a plain file; raises InputError for what is none, or can't be read."""
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is neither a file nor a directory that export wrote")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error


def _printable(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same; raises InputError for names that a message of one line can't show."""
    if bad := [name for name in arrays if not name.isprintable()]:
        raise InputError(f"{path} is damaged: a tensor has the name {bad[0]!r}")
    return arrays


def _read_safetensors(path: Path, data: bytes) -> dict[str, np.ndarray]:
    check_safetensors(path, data)
    try:
        return {name: as_array(tensor) for name, tensor in safetensors.deserialize(data)}
    except KeyError as error:
        raise InputError(f"{path} holds tensors of the dtype {error}, expected floats") from None


def _repacked(path: Path, data: bytes) -> bytes:
    """A new archive of the entries, which torch then can't read in another way than was checked.

    Torch looks at no checksum: of an archive with a damaged directory it has given memory that
    was never written. Raises InputError for an archive that is not whole, or not a plain one of
    torch.save's.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            inner = {name.partition("/")[2] for name in names}
            if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
                raise InputError(
                    f"{path} is a TorchScript archive, which holds code; save the module's "
                    "state_dict() and give that"
                )
            if "data.pkl" not in inner:
                raise InputError(f"{path} is a zip archive, but none that torch.save wrote")
            if len(set(names)) < len(names):
                raise InputError(f"{path} is damaged: it has an entry twice")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise InputError(f"{path} has compressed entries, which torch.save does not write")
            contents = {entry.filename: archive.read(entry) for entry in entries}
    except InputError:
        raise
    except Exception as error:  # whatever a damaged header leads zipfile to
        raise InputError(
            f"{path} is not a whole zip archive ({error}): it was cut short or altered"
        ) from None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _read_torch(path: Path, data: bytes) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError(f"{path} needs torch to be read: pip install torch") from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < SAFE_TORCH:
        raise InputError(
            f"{path} is not read: torch {torch.__version__} can be led to run code by a file "
            f"(CVE-2026-24747); install torch {'.'.join(map(str, SAFE_TORCH))} or newer, or give "
            "safetensors"
        )
    _refuse_duplicates(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged pickle leads torch to
        # Not torch's first words, which advise to do without this safety.
        told = re.search(r"\n\n+([^\n]+)\n\nCheck the documentation", str(error))
        reason = told[1] if told else str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"{path} can't be read as weights alone ({reason}): it is damaged, or holds more than "
            "tensors and plain values; save the module's state_dict()"
        ) from None
    if not isinstance(loaded, Mapping):
        kind = type(loaded).__name__
        raise InputError(f"{path} holds a {kind}, expected a state dict: a dict of tensors")
    extras: dict[str, Any] = {}
    if "state_dict" in loaded:
        if set(loaded) >= LESSON:
            extras = {key: loaded[key] for key in sorted(LESSON - {"state_dict"})}
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not loaded:
        raise InputError(f"{path} holds no state dict: its state_dict is {type(loaded).__name__}")
    return _dense(path, loaded), extras


def _refuse_duplicates(path: Path, data: bytes) -> None:
    """Raise InputError where a dict in the pickle has a name twice: torch keeps the later one.

    The instructions are followed as far as names and dicts go; nothing is made of them.
    """
    streams = [io.BytesIO(data)]
    if data[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            streams = [
                io.BytesIO(archive.read(name))
                for name in archive.namelist()
                if name.partition("/")[2] == "data.pkl"
            ]
    for stream in streams:
        for _ in range(5):  # torch's old form has a few pickles in a row
            try:
                twice = _duplicate(stream)
            except Exception:  # not whole: torch says so
                break
            if twice is not None:
                raise InputError(f"{path} is damaged: it has {twice!r} twice")


def _duplicate(stream: io.BytesIO) -> str | None:
    """A name that the next pickle in a stream gives twice to one dict."""
    mark, stack, memo = object(), [], {}
    seen: dict[int, set[str]] = {}
    alive: list[Any] = []  # so that no two objects have one id

    def to_mark() -> list[Any]:
        place = len(stack) - 1 - stack[::-1].index(mark)
        items, stack[place:] = stack[place + 1 :], []
        return items

    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MARK":
            stack.append(mark)
        elif name.endswith("PUT") or name == "MEMOIZE":
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else to_mark()
            names = seen.setdefault(id(stack[-1]), set())
            for key in items[::2]:
                if isinstance(key, str):
                    if key in names:
                        return key
                    names.add(key)
        else:
            before = [kind.name for kind in opcode.stack_before]
            if "mark" in before:
                to_mark()
                before = before[: before.index("mark")]
            del stack[len(stack) - len(before) :]
            for _ in opcode.stack_after:
                stack.append(argument if isinstance(argument, str) else object())
                alive.append(stack[-1])
    return None


def _dense(path: Path, state_dict: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """As NumPy; raises InputError for what is no dense tensor as large as the file holds it."""
    import torch

    from torch_compat.convert import as_arrays

    def is_larger(value: torch.Tensor) -> bool:
        plain = value.layout == torch.strided and not value.is_meta
        return plain and value.numel() * value.element_size() > value.untyped_storage().nbytes()

    for name, value in state_dict.items():
        if isinstance(name, str) and isinstance(value, torch.Tensor) and is_larger(value):
            shape = tuple(value.shape)
            raise InputError(f"{path}: {name} {shape} is larger than what the file holds of it")
    try:
        return as_arrays(state_dict)
    except InputError as error:
        raise InputError(f"{path} is no state dict: {error}") from None
