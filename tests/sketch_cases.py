"""What the tests of drawings share: drawings, and files of them byte by byte."""

import io
import struct
import zipfile
from pathlib import Path

import numpy as np


def drawing(*rows) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 3)


def stretched(points: np.ndarray, factor: float) -> np.ndarray:
    return points * np.array([factor, factor, 1], np.float32)


def random_drawing(rng: np.random.Generator, num_points: int) -> np.ndarray:
    """Of whole offsets, the pen lifted now and then, and after the last point."""
    points = rng.integers(-50, 50, (num_points, 3)).astype(np.float32)
    points[:, 2] = rng.random(num_points) < 0.2
    points[-1:, 2] = 1
    return points


def short_bytes(data: bytes) -> bytes:
    """The opcode of a Python 2 string."""
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data
    return b"T" + struct.pack("<i", len(data)) + data


def python2_pickle(drawings) -> bytes:
    """An object array of int16 drawings, as Python 2 pickled it."""

    def array(shape: tuple[int, ...], dtype: bytes, data: bytes) -> bytes:
        sizes = b"".join(b"M" + struct.pack("<H", size) for size in shape)
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            + (b"(K\x01" + (sizes + (b"\x85", b"\x86")[len(shape) - 1]))
            + (b"cnumpy\ndtype\n" + short_bytes(dtype[1:]) + b"K\x00K\x01\x87R")
            + (b"(K\x03" + short_bytes(dtype[:1]) + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff")
            + (b"K" + (b"?" if dtype == b"|O8" else b"\x00") + b"tb" + b"\x89" + data + b"tb")
        )

    inner = [array(d.shape, b"<i2", short_bytes(d.astype("<i2").tobytes())) for d in drawings]
    return b"\x80\x02" + array((len(drawings),), b"|O8", b"](" + b"".join(inner) + b"e") + b"."


def object_npy(pickled: bytes, shape: str, dtype: str = "|O") -> bytes:
    """An ``.npy`` file whose content is this pickle."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + pickled


def npy(array: np.ndarray, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def write_zip(path: Path, members: list[tuple[str, bytes]], method=zipfile.ZIP_DEFLATED) -> str:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return str(path)


def objects(drawings) -> np.ndarray:
    array = np.empty(len(drawings), object)
    array[:] = drawings
    return array
