"""Drawings in ``.npz`` archives: Magenta's, whose arrays are pickled, and a form without pickles.

Magenta's arrays ``train``, ``valid`` and ``test`` hold objects, which are arrays of (N, 3) numbers.
A pickle is a program: here it can name nothing but stand-ins for NumPy's arrays, dtypes and
scalars, and NumPy is given no more than bytes, a shape and a dtype of numbers. What is written has
no pickles: ``train_points`` (sum of N, 3) in int16 or float32, ``train_lengths``, where classes are
known their names in ``train_classes``, and the same for ``valid`` and ``test``.

Usage: ``write_sketches("cats.npz", train, valid, test)``; ``drawings, _ = read_npz("cats.npz")``.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from jaxrnn.data.strokes import Drawing, as_drawings
from jaxrnn.data.text import read_file
from jaxrnn.errors import InputError

PARTS = ("train", "valid", "test")

MAX_BYTES = 2 << 30
"""Of an archive's arrays together, unpacked."""

MAX_RATIO = 50
"""Of these bytes to the archive's: of drawings' it is 2 to 12, Deflate could make it 1,032."""

SMALL_BYTES = 16 << 20
"""Unpacked, that any archive may have."""

REPEATED_BYTES = 16 << 20
"""Of a pickle's arrays together where the pickle itself is smaller: it can name one twice."""

SMALL_ITEMS = 1 << 18
"""Drawings of an array, or opcodes of a pickle, that any archive may have, beside one for each of
its bytes; real ones have an opcode for 4 bytes, and some 18 for a drawing."""

_ARRAYS = {part + suffix for part in PARTS for suffix in ("", "_points", "_lengths", "_classes")}
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def write_sketches(
    path: str | os.PathLike[str],
    train: Sequence[Drawing],
    valid: Sequence[Drawing],
    test: Sequence[Drawing],
    classes: dict[str, list[str]] | None = None,
) -> None:
    """Write drawings without pickles; ``classes`` are as in ``SketchFile``.

    Raises InputError for what is no drawing, or where the file can't be written, and ValueError
    for classes that are not as many as drawings.
    """
    arrays = {}
    for part, drawings in zip(PARTS, (train, valid, test), strict=True):
        checked = as_drawings(drawings, part)
        arrays[f"{part}_points"] = _packed(checked)
        arrays[f"{part}_lengths"] = np.array([len(drawing) for drawing in checked], np.int32)
        if classes is not None:
            if len(classes[part]) != len(checked):
                raise ValueError(f"{len(classes[part])} {part} classes, {len(checked)} drawings")
            arrays[f"{part}_classes"] = np.array(classes[part], np.str_)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    try:
        Path(path).write_bytes(content.getvalue())
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{path}: can't write it ({error}), expected a path to write to") from None


def _packed(drawings: Sequence[Drawing]) -> np.ndarray:
    """All points of drawings, as int16 where that is exact."""
    points = np.concatenate(drawings) if drawings else np.zeros((0, 3), np.float32)
    short = np.clip(points, -(2**15), 2**15 - 1).astype(np.int16)
    return short if (short == points).all() else points


def read_npz(
    path: str | os.PathLike[str],
) -> tuple[dict[str, list[Drawing]], dict[str, list[str]]]:
    """Drawings, and where the file has them their classes' names, by 'train', 'valid', 'test'.

    Raises InputError for a file that is missing, damaged, larger unpacked than ``MAX_BYTES`` or
    ``MAX_RATIO`` allow, has no training drawings' array, or pickles of anything but numbers.
    """
    packed = read_file(path)
    contents = _read_members(packed, path)
    if not {"train", "train_points"} & contents.keys():
        raise InputError(
            f"{path} has none of the arrays train and train_points, expected one of them; is it a"
            " file of drawings?"
        )
    max_items = SMALL_ITEMS + len(packed)
    arrays = {}
    for name, content in contents.items():
        array = arrays[name] = _parse(content, f"{path}, {name}", max_items)
        # A list comes from a pickle, whose opcodes are counted.
        is_counted = isinstance(array, list) or array.ndim == 0 or name.endswith("_points")
        if not is_counted and len(array) > max_items:
            raise InputError(
                f"{path}, {name} is of {len(array)} drawings, expected at most {max_items} in so"
                " small a file; divide it into several files"
            )
    drawings, classes = {}, {}
    for part in PARTS:
        is_flat = f"{part}_points" in arrays
        pieces = _pieces(arrays, part, path) if is_flat else arrays.get(part, [])
        if isinstance(pieces, np.ndarray):
            pieces = [np.asarray(piece) for piece in np.atleast_1d(pieces)]
        drawings[part] = as_drawings(pieces, f"{path}, {part}")
        if f"{part}_classes" in arrays:
            classes[part] = [str(name) for name in arrays[f"{part}_classes"]]
            if len(classes[part]) != len(drawings[part]):
                raise InputError(
                    f"{path} has {len(classes[part])} names in {part}_classes, expected"
                    f" {len(drawings[part])}, one for each drawing; write the file anew"
                )
    return drawings, classes


def _pieces(arrays: dict[str, Any], part: str, path: Any) -> list[np.ndarray]:
    """The drawings of ``<part>_points``."""
    points, lengths = arrays[f"{part}_points"], arrays.get(f"{part}_lengths")
    if (
        not isinstance(points, np.ndarray)
        or not isinstance(lengths, np.ndarray)
        or lengths.ndim != 1
        or lengths.dtype.kind not in "iu"
        or lengths.min(initial=0) < 0
        or points.ndim == 0
        or lengths.sum(dtype=np.float64) != len(points)
    ):
        raise InputError(
            f"{path}: {part}_lengths does not divide {part}_points, expected whole numbers that add"
            " up to its rows; write the file anew"
        )
    return np.split(points, np.cumsum(lengths)[:-1]) if len(lengths) else []


def _read_members(packed: bytes, path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The unpacked ``.npy`` members that this module knows, by name."""
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            infos = archive.infolist()
            _check_members(infos, len(packed), path)
            contents = {}
            for info in infos:
                if (name := info.filename.removesuffix(".npy")) in _ARRAYS:
                    with archive.open(info) as file:
                        # A size makes zipfile unpack no more than that, whatever is inside.
                        contents[name] = file.read(info.file_size)
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,  # encrypted
        ValueError,
    ) as error:
        raise InputError(
            f"{path} is no whole .npz file ({error}), expected a zip archive of arrays; fetch it"
            " again"
        ) from None
    return contents


def _check_members(
    infos: list[zipfile.ZipInfo], num_packed: int, path: str | os.PathLike[str]
) -> None:
    seen: set[str] = set()
    for info in infos:
        if not re.fullmatch(r"[\w-]+\.npy", info.filename, re.ASCII):
            raise InputError(
                f"{path} has a member {info.filename[:60]!r}, expected names such as 'train.npy'"
            )
        if info.filename in seen:
            raise InputError(f"{path} has {info.filename!r} twice, expected it once")
        seen.add(info.filename)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path}, {info.filename}: packed by method {info.compress_type}, expected 0 or 8"
                " (stored or deflated), as NumPy writes; write the file anew"
            )
    size = sum(info.file_size for info in infos)
    if size > MAX_BYTES:
        raise InputError(
            f"{path} has {size} bytes unpacked, expected at most {MAX_BYTES}; divide it into"
            " several files"
        )
    # Of the whole file, as a member may say anything of its own packed size, or share its bytes.
    if size > max(SMALL_BYTES, MAX_RATIO * num_packed):
        raise InputError(
            f"{path} has {size} bytes unpacked, expected at most {MAX_RATIO} times its own"
            f" {num_packed}; if it is from a source you trust, write it anew with np.savez"
        )


def _parse(content: bytes, name: str, max_items: int) -> np.ndarray | list[np.ndarray]:
    """The array of an ``.npy`` file, or the arrays in its array of objects."""
    file = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 2's long integers in a header
            header = _HEADERS[np.lib.format.read_magic(file)](file)
    except Exception as error:  # a damaged header is damaged Python, which fails in many ways
        raise InputError(
            f"{name}: no .npy header ({type(error).__name__}), expected an array; fetch it again"
        ) from None
    shape, is_fortran, dtype = header
    data = content[file.tell() :]
    if dtype.kind == "O":
        return _unpickle(data, name, max_items)
    if dtype.kind not in "biufU":
        raise InputError(f"{name} is an array of {dtype}, expected numbers")
    sizes = (dtype.itemsize, *shape)
    # Without bytes there may be no more than an empty list: anything else could be endless.
    is_real = min(sizes) >= 0 and dtype.itemsize > 0 and 0 not in shape[1:]
    if not is_real or math.prod(sizes) != len(data):
        raise InputError(
            f"{name} has {len(data)} bytes, expected {dtype} of shape {shape}; fetch it again"
        )
    return np.ndarray(shape, dtype, data, order="F" if is_fortran else "C")


def _unpickle(data: bytes, name: str, max_opcodes: int) -> list[np.ndarray]:
    """The arrays in a pickled array of objects."""
    try:
        outer = _Unpickler(data, name, max_opcodes).load()
        return outer.inner_arrays(max(len(data), REPEATED_BYTES))
    except InputError:
        raise
    except Exception as error:  # a pickle is a program: a damaged one fails in any way
        raise InputError(
            f"{name}: its pickle can't be read ({type(error).__name__}), expected an array of"
            " arrays of (N, 3) numbers; fetch it again"
        ) from None


_OPCODES = b"".join(
    [
        *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK),
        *(pickle.NONE, pickle.NEWFALSE, pickle.NEWTRUE, pickle.FLOAT, pickle.BINFLOAT),
        *(pickle.INT, pickle.BININT, pickle.BININT1, pickle.BININT2),
        *(pickle.LONG, pickle.LONG1, pickle.LONG4),
        *(pickle.STRING, pickle.SHORT_BINSTRING, pickle.BINSTRING),
        *(pickle.SHORT_BINBYTES, pickle.BINBYTES, pickle.BINBYTES8),
        *(pickle.UNICODE, pickle.SHORT_BINUNICODE, pickle.BINUNICODE, pickle.BINUNICODE8),
        *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
        *(pickle.EMPTY_LIST, pickle.LIST, pickle.APPEND, pickle.APPENDS),
        *(pickle.PUT, pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE),
        *(pickle.GET, pickle.BINGET, pickle.LONG_BINGET),
        *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.REDUCE, pickle.BUILD),
        pickle.INST,  # only attacks have it: to tell what they ask for
    ]
)
"""What NumPy's arrays are pickled in, by protocols 0 to 4 of Python 2 and 3."""


class _Unpickler(pickle._Unpickler):
    """Reads pickles of NumPy arrays of numbers, and of arrays of those, by stand-ins.

    It is pickle's own reader in Python: the one in C takes gigabytes of memory for a few bytes
    that name a high place in its memo. A pickle has so many opcodes, each of which makes one small
    object or holds the bytes that it makes; what makes more by less is refused, or counted here,
    where a pickle can't reach it.
    """

    dispatch: ClassVar[dict[int, Any]] = {
        code: pickle._Unpickler.dispatch[code] for code in _OPCODES
    }

    def __init__(self, data: bytes, name: str, max_opcodes: int):
        # Of Python 2's str, which holds an array's bytes.
        super().__init__(io.BytesIO(data), encoding="bytes")
        self._name = name
        self._max_opcodes = max_opcodes
        self._num_encoded = 0
        self._max_encoded = max(len(data), REPEATED_BYTES)  # a text can be encoded twice

    def load(self) -> Any:
        """What is pickled; pickle's loop, but that it counts."""
        self._unframer = pickle._Unframer(self._file_read, self._file_readline)  # type: ignore[attr-defined]
        self.read, self.readline = self._unframer.read, self._unframer.readline
        self.metastack, self.stack = [], []
        self.append = self.stack.append
        dispatch, read = self.dispatch, self.read
        try:
            for _ in range(self._max_opcodes):
                dispatch[read(1)[0]](self)
        except pickle._Stop as stop:  # type: ignore[attr-defined]
            return stop.value
        raise ValueError(f"more than {self._max_opcodes} opcodes")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return self._encode
        if (module, name) not in _STAND_INS:
            raise InputError(
                f"{self._name} holds code-bearing pickle objects: it asks for"
                f" {f'{module}.{name}'[:60]!r}, expected arrays of numbers only; don't load this"
                " file with anything else either"
            )
        return _STAND_INS[module, name]

    def _encode(self, text: str, _: str) -> bytes:
        """``codecs.encode``, by which Python 3 pickles bytes for Python 2, as Latin 1."""
        self._num_encoded += len(text)
        if self._num_encoded > self._max_encoded:
            raise ValueError("more bytes than the pickle has")
        return text.encode("latin1")

    def _load_reduce(self) -> None:
        """Call a stand-in."""
        arguments = self.stack.pop()
        # Long ones, named again and again, would take time as the square of the pickle's length.
        if type(arguments) is not tuple or len(arguments) > 3:
            raise ValueError("other arguments than NumPy's")
        self.stack[-1] = self.stack[-1](*arguments)

    def _load_build(self) -> None:
        """Give an array or a dtype its state; nothing else has a way to take one."""
        state = self.stack.pop()
        self.stack[-1].set_state(state)

    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.BUILD[0]] = _load_build


class _Dtype:
    """Stands for a pickled dtype."""

    __slots__ = ("code", "order")

    def __init__(self, code: str | bytes, *_: Any):
        self.code = _text(code)
        self.order = "="

    def set_state(self, state: tuple[Any, ...]) -> None:
        """What pickle's ``__setstate__`` gets."""
        self.order = _text(state[1])

    def of_numbers(self) -> np.dtype[Any]:
        """The dtype; raises ValueError where it is not one of numbers."""
        if not re.fullmatch(r"[biuf][1248]", self.code) or self.order not in ("<", ">", "|", "="):
            raise ValueError(f"dtype {self.order}{self.code}")
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for a pickled array: of numbers, or a list of objects."""

    __slots__ = ("content", "shape")

    def __init__(self, *_: Any):
        self.content: np.ndarray | list[Any] | None = None
        self.shape: tuple[int, ...] = ()

    def set_state(self, state: tuple[Any, ...]) -> None:
        """What pickle's ``__setstate__`` gets; nothing is copied, it may be named many times."""
        _, shape, dtype, is_fortran, data = state
        if type(shape) is not tuple or len(shape) > 3:
            raise ValueError("no shape of an array of drawings")
        if not all(type(size) is int and 0 <= size < 2**32 for size in shape):
            raise ValueError("a shape of other things than sizes")
        self.shape = shape
        if dtype.code.startswith("O"):
            self.content = data
            return
        array = np.ndarray(shape, dtype.of_numbers(), data, order="F" if is_fortran else "C")
        if array.nbytes != len(data):
            raise ValueError(f"{len(data)} bytes of an array of {array.nbytes}")
        self.content = array

    def inner_arrays(self, num_bytes: int) -> list[np.ndarray]:
        """The arrays that the objects are, or that they make up where all are equally long.

        Raises ValueError for more than ``num_bytes`` of them: it names some many times.
        """
        if not isinstance(self.content, list) or len(self.content) != math.prod(self.shape):
            raise ValueError("no array of objects")
        if len(self.shape) == 3:
            if not all(type(item) in (int, float) for item in self.content):
                raise ValueError("an array of other things than numbers")
            return list(np.array(self.content, np.float64).reshape(self.shape))
        arrays = [item.content for item in self.content]
        if len(self.shape) != 1 or not all(isinstance(array, np.ndarray) for array in arrays):
            raise ValueError("not an array of arrays")
        if sum(array.nbytes for array in arrays) > num_bytes:
            raise ValueError(f"more than {num_bytes} bytes of arrays")
        return arrays


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    """Stands for NumPy's function that makes a scalar."""
    return np.frombuffer(data, dtype.of_numbers())[0].item()


# NumPy's function _reconstruct makes an array without content, of whatever arguments.
_STAND_INS = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
}


def _text(value: str | bytes) -> str:
    """A word of a dtype, which is short."""
    if type(value) not in (str, bytes) or len(value) > 8:
        raise ValueError("no word of a dtype")
    return value.decode("latin1") if isinstance(value, bytes) else value
