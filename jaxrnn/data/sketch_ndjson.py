"""Drawings of Quick, Draw! in ``.ndjson`` files: a JSON object a line.

Simplified files have ``"drawing": [[[x, ...], [y, ...]], ...]``, a pair for each stroke, in 0..255;
raw ones have a third list of times, and are simplified here as Google's simplified files are:
moved to the top left, scaled to 0..255, without points that Ramer, Douglas and Peucker can spare,
rounded. ``word`` is the class, ``key_id`` a name.

Usage: ``for key, word, drawing in read_ndjson("cats.ndjson", epsilon=2.0): ...``.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from jaxrnn.data.strokes import LARGEST, Drawing, from_lines, simplify
from jaxrnn.data.text import read_file
from jaxrnn.errors import InputError

SIDE = 255  # of the square that drawings are scaled to


def read_ndjson(path: str | os.PathLike[str], epsilon: float) -> list[tuple[str, str, Drawing]]:
    """Key, class and drawing of each line: the line's number is the key where it has none.

    ``epsilon`` is how far simplification may move a raw line, in 255ths of the longer side; what
    is simplified already stays as it is. The class is the file's stem where a line names none.
    Raises InputError for a file that can't be read, and for a line that is not such an object.
    """
    stem = Path(path).stem
    entries = []
    for number, line in enumerate(io.BytesIO(read_file(path)), start=1):
        if line.strip():
            entry = _parse(line, f"{path}, line {number}")
            drawing = _drawing(entry["drawing"], epsilon, f"{path}, line {number}")
            key, word = entry.get("key_id") or number, entry.get("word") or stem
            entries.append((str(key), str(word), drawing))
    return entries


def _parse(line: bytes, name: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        # The rest of the message counts lines and columns within this line.
        reason = str(error).partition(":")[0]
        raise InputError(
            f"{name}: not JSON ({reason}), expected an object a line; correct or remove the line"
        ) from None
    if not isinstance(entry, dict) or not isinstance(entry.get("drawing"), list):
        raise InputError(f"{name}: no object with a list named drawing; correct or remove the line")
    return entry


def _drawing(strokes: list[Any], epsilon: float, name: str) -> Drawing:
    lines = [_line(stroke, f"{name}, stroke {k}") for k, stroke in enumerate(strokes)]
    lines = [line for line in lines if len(line)]
    if not lines:
        return from_lines([])
    if not (np.abs(np.concatenate(lines)) <= LARGEST).all():
        raise InputError(
            f"{name}: coordinates that are not finite or beyond +-{LARGEST:g}; correct or remove"
            " the line"
        )
    is_raw = any(len(stroke) == 3 for stroke in strokes)
    return from_lines(_simplified(lines, epsilon) if is_raw else lines)


def _line(stroke: Any, name: str) -> np.ndarray:
    """A stroke's points (N, 2)."""
    try:
        points = np.array(stroke[:2])
    except (TypeError, ValueError, KeyError):  # no list, or lists of unequal lengths
        points = np.zeros(0)
    if points.ndim != 2 or points.dtype.kind not in "if" or len(stroke) not in (2, 3):
        raise InputError(
            f"{name}: not two lists, of x and of y, of as many numbers each; correct or remove"
            " the line"
        )
    return points.T


def _simplified(lines: list[np.ndarray], epsilon: float) -> list[np.ndarray]:
    points = np.concatenate(lines).astype(np.float64)
    corner = points.min(axis=0, keepdims=True)
    side = float((points - corner).max())
    scale = SIDE / side if side else 1.0
    return [np.round(simplify((line - corner) * scale, epsilon)) for line in lines]
