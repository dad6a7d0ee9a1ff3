"""The drawings of a run: from several files, with a class for each, split in three.

Usage: ``data = read_drawings(["cats.npz", "dogs.npz"], max_len=250)``; ``data.classes`` is then
``("cats", "dogs")``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int32

from jaxrnn.data.sketches import SketchFile, read_sketches
from jaxrnn.data.strokes import LIMIT, Drawing, fits, prepare
from jaxrnn.errors import InputError

BUILT_IN = Path(__file__).parent / "omniglot.npz"
"""Handwritten characters of many alphabets (Lake et al., 2015; MIT licence)."""

_TENTH = 10  # every so many of what trains validates, where a file has no part for it


@dataclasses.dataclass(frozen=True)
class Part:
    """Drawings and the place of each one's class in ``Drawings.classes``."""

    drawings: list[Drawing]
    classes: Int32[np.ndarray, " N"]
    left_out: int = 0  # of the file's: empty, or of too many points


@dataclasses.dataclass(frozen=True)
class Drawings:
    """Drawings of 1 to ``max_len`` points, offsets of at most 1,000, in the files' own units."""

    classes: tuple[str, ...]
    train: Part
    valid: Part
    test: Part

    @property
    def longest(self) -> int:
        """Points of the longest of all."""
        parts = (self.train, self.valid, self.test)
        return max(len(drawing) for part in parts for drawing in part.drawings)


def read_drawings(paths: Sequence[str], max_len: int = 250) -> Drawings:
    """The drawings of files or directories, or of the built-in one where none is named.

    Classes are those that a file tells apart, else its stem is one. A file without a validation
    part gives every tenth of its training drawings to it.

    Raises InputError as ``read_sketches`` does, for other files than archives with offsets that
    would be cut, and where no drawing is short enough.
    """
    files = [_with_validation(_read(path)) for path in paths or [str(BUILT_IN)]]
    names = sorted({name for file in files for found in file.classes.values() for name in found})
    places = {name: place for place, name in enumerate(names)}
    parts = []
    for part in ("train", "valid", "test"):
        drawings = [drawing for file in files for drawing in getattr(file, part)]
        classes = [places[name] for file in files for name in file.classes[part]]
        kept = fits(drawings, max_len)
        kept_classes = np.array(classes, np.int32)[kept]
        parts.append(Part(prepare(drawings, max_len), kept_classes, int((~kept).sum())))
    if not any(part.drawings for part in parts):
        raise InputError(
            f"no drawing of {', '.join(paths)} has 1 to {max_len} points; raise --max-len"
        )
    return Drawings(tuple(names), *parts)


def _read(path: str) -> SketchFile:
    """A file whose drawings are in a unit that makes sense; archives have Magenta's outliers."""
    file = read_sketches(path)
    if Path(path).suffix.lower() == ".npz":
        return file
    drawings = [drawing for drawing in (*file.train, *file.valid, *file.test) if len(drawing)]
    largest = max((float(np.abs(drawing[:, :2]).max()) for drawing in drawings), default=0.0)
    if largest > LIMIT:
        raise InputError(
            f"{path} has points {largest:,.0f} units apart, expected at most {LIMIT:,.0f}: scale "
            "its drawings down, as to a side of 255"
        )
    return file


def _with_validation(file: SketchFile) -> SketchFile:
    if file.valid or len(file.train) < _TENTH:
        return file
    places = np.arange(len(file.train))
    validates = places % _TENTH == _TENTH - 1

    def chosen(values, is_chosen):
        return [values[k] for k in places[is_chosen]]

    names = file.classes["train"]
    return SketchFile(
        chosen(file.train, ~validates),
        chosen(file.train, validates),
        file.test,
        {
            **file.classes,
            "train": chosen(names, ~validates),
            "valid": chosen(names, validates),
        },
    )
