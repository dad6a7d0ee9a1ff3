"""One file holds a checkpoint: a safetensors archive of named arrays, with a checksum.

Format: the arrays under their path's name (``params/rnn.weight_ih_l0``), and in the header's
metadata ``format`` (a number), ``sha256`` (over names, dtypes, shapes and bytes) and ``meta``
(JSON: the step, the best validation so far, ...). Safetensors rather than orbax: one file that is
fsynced, checked and replaced as a whole, that torch and any language can read, and that loads no
code. A save is: write beside, fsync, rename, fsync the directory::

    save(path, state, {"step": 100})
    state, meta = load(path, like=state)
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from jaxrnn.errors import InputError, shown
from jaxrnn.files import write_atomically

FORMAT = 1
MOST_HEADER = 100_000_000  # bytes: safetensors reads no longer one
ANOTHER = "put another copy of the file there"
_DTYPES = {
    "BOOL": np.bool_,
    "I32": np.int32,
    "I64": np.int64,
    "U32": np.uint32,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _digest(arrays: dict[str, np.ndarray], meta: str) -> str:
    digest = hashlib.sha256(meta.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save(path: Path, tree: Any, meta: dict[str, Any]) -> None:
    """Write a pytree of arrays and JSON-able ``meta``, atomically and durably."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    # Safetensors writes the memory as it lies: arrays in another order would come out permuted.
    arrays = {_name(key): np.asarray(jax.device_get(leaf), order="C") for key, leaf in leaves}
    for name, array in arrays.items():
        if array.dtype not in _DTYPES.values():
            raise TypeError(f"{name} has dtype {array.dtype}, which a checkpoint can't hold")
    meta_json = json.dumps(meta, sort_keys=True)
    header = {"format": str(FORMAT), "meta": meta_json, "sha256": _digest(arrays, meta_json)}
    write_atomically(path, safetensors.numpy.save(arrays, metadata=header))


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays by name and ``meta`` of a checkpoint, its checksum verified.

    Raises InputError for a file that is missing, cut short, altered, or not a checkpoint.
    """
    try:
        if not _has_stated_size(path):  # which may be any, and is not read
            raise InputError(
                f"{path} is not a whole checkpoint (by its size): it was cut short or is another "
                "file"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"can't read the checkpoint {path}: {error.strerror}") from error
    try:
        arrays = {name: as_array(tensor) for name, tensor in safetensors.deserialize(data)}
        header_size = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + header_size])["__metadata__"]
        version, meta, digest = header["format"], header["meta"], header["sha256"]
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a whole checkpoint ({error}): it was cut short or is another file"
        ) from error
    if version != str(FORMAT):
        raise InputError(f"{path} has checkpoint format {version}, this version reads {FORMAT}")
    if _digest(arrays, meta) != digest:
        raise InputError(f"{path} is damaged: its content does not match its checksum")
    try:
        values = json.loads(meta)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise InputError(f"{path} has the meta {shown(meta)}, expected a JSON object; {ANOTHER}")
    return arrays, values


def _has_stated_size(path: Path) -> bool:
    """Whether a file has as many bytes as its header says."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > MOST_HEADER:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [v["data_offsets"][1] for k, v in header.items() if k != "__metadata__"]
            return 8 + length + max(ends, default=0) == os.fstat(file.fileno()).st_size
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return False


def as_array(tensor: dict[str, Any]) -> np.ndarray:
    """A tensor as ``safetensors.deserialize`` gives it; raises KeyError for another dtype."""
    return np.frombuffer(tensor["data"], _DTYPES[tensor["dtype"]]).reshape(tensor["shape"])


def load(path: Path, like: Any, partial: bool = False) -> tuple[Any, dict[str, Any]]:
    """A pytree with the structure of ``like`` (arrays or ShapeDtypeStructs), and ``meta``.

    Raises InputError as ``read`` does, and for arrays that are missing, too many (unless only a
    part is asked for), or of another shape or dtype than ``like``'s, all of them named.
    """
    arrays, meta = read(path)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(like)
    names = [_name(key) for key, _ in leaves]
    wrong = [f"{name} is missing" for name in names if name not in arrays]
    if not partial:
        wrong += [f"{name} is not expected" for name in arrays if name not in set(names)]
    for name, (_, leaf) in zip(names, leaves, strict=True):
        if name in arrays and (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype):
            got = f"{arrays[name].dtype}{arrays[name].shape}"
            wrong.append(f"{name} is {got}, expected {leaf.dtype}{leaf.shape}")
    if wrong:
        raise InputError(f"{path} was made by other options: {'; '.join(wrong)}")
    return jax.tree_util.tree_unflatten(treedef, [arrays[name] for name in names]), meta
