"""Files of drawings: ``.npz`` archives, Quick, Draw!'s ``.ndjson``, ``.svg`` and folders of it.

Usage: ``read_sketches("sheep.npz").train`` is a list of stroke-3 arrays (see ``strokes``).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from jaxrnn.data.sketch_ndjson import read_ndjson
from jaxrnn.data.sketch_npz import PARTS, read_npz
from jaxrnn.data.sketch_svg import read_svg
from jaxrnn.data.strokes import Drawing
from jaxrnn.data.text import read_file
from jaxrnn.errors import InputError

_SUFFIXES = (".npz", ".ndjson", ".svg")
_SIGNS = {b"P": ".npz", b"{": ".ndjson", b"<": ".svg"}  # how content begins


@dataclasses.dataclass(frozen=True)
class SketchFile:
    """Drawings in the file's own units; there may be none to validate or to test.

    ``classes["train"][k]`` names the class of ``train[k]``, and so for 'valid' and 'test'.
    """

    train: list[Drawing]
    valid: list[Drawing]
    test: list[Drawing]
    classes: dict[str, list[str]]


def read_sketches(path: str | os.PathLike[str], epsilon: float = 2.0) -> SketchFile:
    """The drawings of a file, or of all ``.svg`` files below a directory.

    The format is told by the suffix, or where that is another by the content. Raw ``.ndjson`` and
    curves of ``.svg`` are simplified: ``epsilon`` is how far that may move a line, in 255ths of
    a drawing's longer side.

    An ``.npz`` is split already, a single ``.svg`` trains; otherwise a hash of the drawing's
    ``key_id`` or line number, or its path in the directory, puts 1/20 into each of valid and
    test. A class is the line's ``word``, a name in the archive, the file's own folder in a
    directory, and else the file's stem.

    Raises InputError for a file that is missing, damaged, of another kind or without drawings.
    """
    if not epsilon >= 0:
        raise InputError(f"epsilon is {epsilon}, expected 0 or more")
    if Path(path).is_dir():
        sketches = _split(_read_directory(Path(path), epsilon))
    else:
        suffix = _suffix(path)
        if suffix == ".npz":
            sketches = _from_archive(path)
        elif suffix == ".ndjson":
            sketches = _split(read_ndjson(path, epsilon))
        else:
            classes = {"train": [Path(path).stem], "valid": [], "test": []}
            sketches = SketchFile([read_svg(path, epsilon)], [], [], classes)
    if not sketches.train + sketches.valid + sketches.test:
        raise InputError(f"{path} has no drawings, expected at least one")
    return sketches


def _suffix(path: str | os.PathLike[str]) -> str:
    suffix = Path(path).suffix.lower()
    if suffix in _SUFFIXES:
        return suffix
    first = read_file(path).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if first not in _SIGNS:
        raise InputError(
            f"{path} is no file of drawings, expected .npz, .ndjson (a JSON object a line) or .svg"
        )
    return _SIGNS[first]


def _from_archive(path: str | os.PathLike[str]) -> SketchFile:
    drawings, named = read_npz(path)
    stem = Path(path).stem
    classes = {part: named.get(part) or [stem] * len(drawings[part]) for part in PARTS}
    return SketchFile(**drawings, classes=classes)


def _read_directory(path: Path, epsilon: float) -> list[tuple[str, str, Drawing]]:
    """Key, class and drawing of each file, as ``read_ndjson`` gives them of each line."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".svg")
    if not files:
        raise InputError(f"{path} has no .svg files in it, expected at least one")
    return [
        (file.relative_to(path).as_posix(), file.resolve().parent.name, read_svg(file, epsilon))
        for file in files
    ]


def _split(entries: Sequence[tuple[str, str, Drawing]]) -> SketchFile:
    drawings, classes = {part: [] for part in PARTS}, {part: [] for part in PARTS}
    for key, name, drawing in entries:
        digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()
        part = {0: "valid", 1: "test"}.get(int.from_bytes(digest) % 20, "train")
        drawings[part].append(drawing)
        classes[part].append(name)
    return SketchFile(**drawings, classes=classes)
