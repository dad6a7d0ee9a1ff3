"""Drawings as sequences of pen movements: their forms, what training makes of them, augmentation.

A drawing is stroke-3, float32 (N, 3): dx and dy from the point before (of the first point: from
the origin), and 1 where the pen is lifted after the point, else 0. Stroke-5 is (dx, dy, p1, p2,
p3), p one-hot: the pen stays down, is lifted, the drawing has ended (arXiv 1704.03477, 3.1).

Usage: ``drawings = prepare(read_sketches("sheep.npz").train)``, ``to_stroke5(drawings[0], 250)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Real

from jaxrnn.errors import InputError

Drawing = Float32[np.ndarray, "_ 3"]
Line = Real[np.ndarray, "_ 2"]

START = (0.0, 0.0, 1.0, 0.0, 0.0)
"""The token of stroke-5 that stands before the first point."""

LARGEST = 1e9
LIMIT = 1000.0  # of an offset that is trained on, as Magenta's loader has it
"""The largest coordinate that is taken from files."""

_END = (0.0, 0.0, 0.0, 0.0, 1.0)
_NUM_FIXED = 3  # first points of a stroke that are never dropped


def as_drawings(arrays: Sequence[np.ndarray], name: str) -> list[Drawing]:
    """Arrays of any number type as drawings, which may share memory with each other.

    Raises InputError, with ``name`` and the place, for one that is not (N, 3), not finite, or has
    a pen other than 0 and 1.
    """
    for k, array in enumerate(arrays):
        if array.ndim != 2 or array.shape[1] != 3 or array.dtype.kind not in "biuf":
            raise InputError(
                f"{name}[{k}] is an array of {array.dtype} of shape {array.shape}, expected (N, 3)"
                " numbers: dx, dy and pen of each point"
            )
    if not arrays:
        return []
    ends = np.cumsum([len(array) for array in arrays])
    with np.errstate(over="ignore"):  # what float32 can't hold becomes inf, and is refused
        points = np.concatenate(arrays).astype(np.float32)
    good = np.isfinite(points).all(axis=1) & ((points[:, 2] == 0) | (points[:, 2] == 1))
    if not good.all():
        row = int(good.argmin())
        k = int(np.searchsorted(ends, row, side="right"))
        raise InputError(
            f"{name}[{k}] has the point {points[row].tolist()}, expected finite offsets and a pen"
            " of 0 or 1; correct or remove the drawing"
        )
    return [points[end - len(array) : end] for array, end in zip(arrays, ends, strict=True)]


def to_stroke5(drawing: Drawing, max_len: int) -> Float32[np.ndarray, "T1 5"]:
    """The drawing as (max_len + 1, 5): the start token, its points, then ends (0, 0, 0, 0, 1).

    One of ``max_len`` points has no end. Raises InputError for a longer one.
    """
    num_points = len(drawing)
    if num_points > max_len:
        raise InputError(
            f"a drawing has {num_points} points, expected at most {max_len}; drop longer ones, or"
            " raise max_len"
        )
    stroke5 = np.zeros((max_len + 1, 5), np.float32)
    stroke5[0] = START
    points = stroke5[1 : num_points + 1]
    points[:, :2] = drawing[:, :2]
    points[:, 2] = 1 - drawing[:, 2]
    points[:, 3] = drawing[:, 2]
    stroke5[num_points + 1 :] = _END
    return stroke5


def to_stroke3(stroke5: Float[np.ndarray, "T1 5"]) -> Drawing:
    """The drawing of which ``to_stroke5`` made this: without start token, up to the first end."""
    points = stroke5[1:]
    is_end = points[:, 4] == 1
    num_points = int(is_end.argmax()) if is_end.any() else len(points)
    return points[:num_points, [0, 1, 3]].astype(np.float32)


def to_lines(drawing: Float[np.ndarray, "_ 3"]) -> list[Float64[np.ndarray, "_ 2"]]:
    """The drawing's strokes as polylines in absolute coordinates.

    The last stroke counts also where the pen is not lifted after it.
    """
    if not len(drawing):
        return []
    points = np.cumsum(drawing[:, :2], axis=0, dtype=np.float64)
    return np.split(points, np.flatnonzero(drawing[:-1, 2]) + 1)


def from_lines(lines: Sequence[Line]) -> Drawing:
    """The drawing of polylines; those without points are left out."""
    lengths = np.array([len(line) for line in lines if len(line)], np.int64)
    if not len(lengths):
        return np.zeros((0, 3), np.float32)
    points = np.concatenate(lines).astype(np.float64)
    drawing = np.zeros((len(points), 3), np.float32)
    drawing[0, :2] = points[0]
    drawing[1:, :2] = points[1:] - points[:-1]
    drawing[np.cumsum(lengths) - 1, 2] = 1
    return drawing


def simplify(line: Line, epsilon: float) -> Line:
    """The line without points that it can spare (Ramer, Douglas and Peucker).

    Ends are kept, and no point is farther than ``epsilon`` from the line that is left.
    """
    kept = np.zeros(len(line), bool)
    kept[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        distances = _distances(line[first + 1 : last], line[first], line[last])
        farthest = int(distances.argmax())
        if distances[farthest] > epsilon:
            middle = first + 1 + farthest
            kept[middle] = True
            spans += [(first, middle), (middle, last)]
    return line[kept]


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Of points to a segment, not to its whole line: a stroke may turn back beyond its end."""
    along = end - start
    square = along @ along
    offsets = points - start
    if square > 0:
        offsets = offsets - np.clip(offsets @ along / square, 0, 1)[:, None] * along
    return np.hypot(offsets[:, 0], offsets[:, 1])


def fits(drawings: Sequence[Drawing], max_len: int = 250) -> Bool[np.ndarray, " N"]:
    """Which of the drawings ``prepare`` keeps: those of 1 to ``max_len`` points."""
    return np.array([0 < len(drawing) <= max_len for drawing in drawings], bool)


def prepare(drawings: Sequence[Drawing], max_len: int = 250, limit: float = LIMIT) -> list[Drawing]:
    """The drawings that ``fits`` names, offsets clamped to +-limit, as Magenta's loader does."""
    clamped = []
    for drawing, is_kept in zip(drawings, fits(drawings, max_len), strict=True):
        if is_kept:
            clamped.append(np.clip(drawing, -limit, limit).astype(np.float32, copy=False))
    return clamped


def scale_factor(drawings: Sequence[Drawing]) -> float:
    """The standard deviation of all dx and dy together: what training divides them by.

    Magenta's is that of the training drawings after ``prepare``. Raises InputError where it is 0.
    """
    offsets = [drawing[:, :2].astype(np.float64) for drawing in drawings]
    scale = float(np.std(np.concatenate(offsets))) if sum(map(len, offsets)) else 0.0
    if scale == 0:
        raise InputError(
            f"the offsets of {len(offsets)} drawings have a standard deviation of 0, expected"
            " drawings that move the pen"
        )
    return scale


def typical_extent(drawings: Sequence[Drawing]) -> float:
    """The median of the drawings' larger sides, in the data's unit; a dot does not count.

    Raises InputError where there are dots alone.
    """
    sides = [np.ptp(drawing[:, :2].cumsum(axis=0), axis=0).max() for drawing in drawings]
    if not any(sides):
        raise InputError(f"{len(drawings)} drawings are dots, expected drawings that move the pen")
    return float(np.median([side for side in sides if side]))


def mean_start(drawings: Sequence[Drawing]) -> Float64[np.ndarray, "2"]:
    """The mean first offset, in the data's unit: from where a pen comes that has drawn nothing."""
    return np.array([drawing[0, :2] for drawing in drawings], np.float64).mean(axis=0)


def random_scale(drawing: Drawing, rng: np.random.Generator, factor: float = 0.15) -> Drawing:
    """The drawing stretched in x and in y, by factors from U(1 - factor, 1 + factor)."""
    return augment([drawing], rng, factor, 0.0)[0]


def drop_points(drawing: Drawing, rng: np.random.Generator, probability: float = 0.1) -> Drawing:
    """The drawing without some points inside its strokes, as Magenta's ``augment_strokes``.

    Each goes with this probability, but the first three and the last of a stroke stay. The point
    kept before takes over the offset, so that what follows stays in place.
    """
    return augment([drawing], rng, 0.0, probability)[0]


def augment(
    drawings: Sequence[Drawing], rng: np.random.Generator, factor: float, probability: float
) -> list[Drawing]:
    """``random_scale`` and ``drop_points`` of each drawing, all at once: a batch takes 1 ms."""
    lengths = np.array([len(drawing) for drawing in drawings], np.int64)
    points = np.concatenate(drawings)
    scales = np.ones((len(drawings), 3), np.float32)
    scales[:, :2] = rng.uniform(1 - factor, 1 + factor, (len(drawings), 2))
    points *= np.repeat(scales, lengths, axis=0)
    starts = np.cumsum(lengths) - lengths
    can_go = _inside_strokes(points[:, 2], starts[lengths > 0])
    kept = np.flatnonzero(~(can_go & (rng.random(len(points)) < probability)))
    thinned = points[kept]
    if len(kept) < len(points):
        thinned[:, :2] = np.add.reduceat(points[:, :2], kept, axis=0)
    return np.split(thinned, np.searchsorted(kept, starts[1:]))


def _inside_strokes(pen: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which points of drawings that begin at ``starts`` may be dropped."""
    index = np.arange(len(pen))
    is_first = np.zeros(len(pen), bool)
    is_first[1:] = pen[:-1] == 1
    is_first[starts] = True
    index_in_stroke = index - np.maximum.accumulate(np.where(is_first, index, 0))
    return (index_in_stroke >= _NUM_FIXED) & (pen == 0)
