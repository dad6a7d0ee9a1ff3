"""Drawings as SVG, one or a grid of them, still or drawing themselves, and as JSON.

JSON is a list of drawings, each a list of points ``[dx, dy, pen]``.

Usage: ``Path("cats.svg").write_text(to_svg(drawings, num_columns=4))``.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxrnn.data.strokes import Drawing, as_drawings, to_lines
from jaxrnn.errors import InputError

AnyDrawing = Float[np.ndarray, "_ 3"]

_CELL = 256  # pixels of a drawing's side
_MARGIN = 0.05  # around a drawing, in parts of its side
_COLOR, _PREFIX_COLOR = "#1b1b1b", "#d6336c"
_PAUSE_S = 1.0  # between drawing itself once and again


def to_svg(
    drawings: AnyDrawing | Sequence[AnyDrawing],
    *,
    num_columns: int = 0,
    num_prefix: int = 0,
    seconds: float = 0.0,
) -> str:
    """An SVG file of one drawing, in its own coordinates, or of several, each fitted into a cell.

    A path is a stroke. ``num_columns`` 0 makes a grid as square as can be. The first
    ``num_prefix`` points of each drawing are of another colour, which divides a stroke that goes
    on beyond them. With ``seconds`` drawings draw themselves in that time, over and over (SMIL).

    Raises InputError for coordinates that are not finite.
    """
    _check_finite([drawings] if isinstance(drawings, np.ndarray) else drawings)
    if isinstance(drawings, np.ndarray):
        left, top, side = _box(to_lines(drawings))
        body = _group(drawings, side, "", num_prefix, seconds)
        return _document(
            f"{_number(left)} {_number(top)} {_number(side)} {_number(side)}", 1, 1, body
        )
    num_columns = num_columns or max(1, math.ceil(math.sqrt(len(drawings))))
    groups = []
    for k, drawing in enumerate(drawings):
        left, top, side = _box(to_lines(drawing))
        scale = _CELL / side
        x, y = k % num_columns * _CELL - left * scale, k // num_columns * _CELL - top * scale
        place = f'transform="translate({x:.3f} {y:.3f}) scale({scale:.6g})" '
        groups.append(_group(drawing, side, place, num_prefix, seconds))
    num_rows = math.ceil(len(drawings) / num_columns)
    box = f"0 0 {num_columns * _CELL} {num_rows * _CELL}"
    return _document(box, num_columns, num_rows, "".join(groups))


def to_json(drawings: Sequence[Drawing]) -> str:
    """Drawings as JSON, from which ``from_json`` makes them again to the bit.

    Raises InputError for coordinates that are not finite, which JSON has no way to write.
    """
    _check_finite(drawings)
    # Through text, because 0.1 in float32 is 0.10000000149011612 in float64.
    numbers = [drawing.astype(str).astype(np.float64).tolist() for drawing in drawings]
    shortened = [
        [[int(v) if v.is_integer() else v for v in point] for point in drawing]
        for drawing in numbers
    ]
    return json.dumps(shortened, separators=(",", ":"))


def _check_finite(drawings: Sequence[AnyDrawing]) -> None:
    """Raise InputError for what float32 could not hold in the unit that was asked for."""
    for k, drawing in enumerate(drawings):
        if not np.isfinite(drawing).all():
            point = drawing[int(np.isfinite(drawing).all(axis=1).argmin())].tolist()
            raise InputError(
                f"drawing {k + 1} of {len(drawings)} has the point {point}, expected finite"
                " offsets; lower --span, or the coordinates of the file that was given"
            )


def from_json(text: str, name: str = "the drawings") -> list[Drawing]:
    """The drawings of ``to_json``; raises InputError, with ``name``, for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{name}: not JSON ({error}), expected a list of drawings, each a list of [dx, dy, pen]"
        ) from None
    if not isinstance(values, list):
        raise InputError(f"{name}: no list of drawings, each a list of [dx, dy, pen]")
    return as_drawings([_points(drawing) for drawing in values], name)


def _points(drawing: Any) -> np.ndarray:
    """As an array; of objects, which ``as_drawings`` refuses, where it is none of numbers."""
    if drawing == []:
        return np.zeros((0, 3))
    try:
        return np.array(drawing)
    except ValueError:  # ragged
        return np.array(drawing, object)


def _box(lines: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Left, top and side of the square around lines, with its margin."""
    if not lines:
        return 0.0, 0.0, 1.0
    points = np.concatenate(lines)
    low, high = points.min(axis=0), points.max(axis=0)
    side = float((high - low).max()) * (1 + 2 * _MARGIN) or 1.0
    left, top = (low + high) / 2 - side / 2
    return float(left), float(top), side


def _document(box: str, num_columns: int, num_rows: int, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{num_columns * _CELL}"'
        f' height="{num_rows * _CELL}" style="background:#fff">\n{body}</svg>\n'
    )


def _group(drawing: AnyDrawing, side: float, place: str, num_prefix: int, seconds: float) -> str:
    """The paths of a drawing."""
    pieces = _pieces(to_lines(drawing), num_prefix)
    decimals = 4 - math.floor(math.log10(side))  # 1/10,000 of the side, or finer
    ends_s = np.cumsum([len(piece) for piece, _ in pieces]) * seconds / max(1, len(drawing))
    paths = []
    for (piece, is_prefix), (start_s, end_s) in zip(
        pieces, itertools.pairwise([0.0, *ends_s]), strict=True
    ):
        color = f' stroke="{_PREFIX_COLOR}"' if is_prefix else ""
        data = _path_data(np.round(piece, decimals))
        motion = _motion(start_s, end_s, seconds, is_dot=len(piece) == 1) if seconds else ""
        end = f' pathLength="1">{motion}</path>' if seconds else "/>"
        paths.append(f'<path d="{data}"{color}{end}\n')
    return (
        f'<g {place}fill="none" stroke="{_COLOR}" stroke-width="{side / 90:.3g}"'
        f' stroke-linecap="round" stroke-linejoin="round">\n{"".join(paths)}</g>\n'
    )


def _pieces(lines: Sequence[np.ndarray], num_prefix: int) -> list[tuple[np.ndarray, bool]]:
    """Lines, and whether each is of the prefix; one that is in part is divided."""
    pieces = []
    for line in lines:
        if 0 < num_prefix < len(line):
            pieces += [(line[:num_prefix], True), (line[num_prefix - 1 :], False)]
        else:
            pieces.append((line, num_prefix > 0))
        num_prefix -= len(line)
    return pieces


def _path_data(points: np.ndarray) -> str:
    """Path data of a line; a point alone is closed, which draws a dot."""
    numbers = " ".join(map(_number, points[1:].reshape(-1)))
    return f"M{_number(points[0, 0])} {_number(points[0, 1])}" + (f"L{numbers}" if numbers else "z")


def _motion(start_s: float, end_s: float, seconds: float, is_dot: bool) -> str:
    """What makes a path appear between two times; where SMIL is not known, the path is there.

    A line is one dash that slides in. The dash is longer than the line, so that its round ends
    don't show.
    """
    total_s = seconds + _PAUSE_S
    start, end = (f"{min(1, time_s / total_s):.4f}" for time_s in (start_s, end_s))
    timing = f'dur="{total_s:.6g}s" repeatCount="indefinite"'
    if is_dot:
        return (
            '<animate attributeName="stroke-opacity" calcMode="discrete" values="0;1"'
            f' keyTimes="0;{start}" {timing}/>'
        )
    return (
        '<set attributeName="stroke-dasharray" to="1.1 2"/><animate'
        ' attributeName="stroke-dashoffset" values="1.2;1.2;0;0"'
        f' keyTimes="0;{start};{end};1" {timing}/>'
    )


def _number(value: float) -> str:
    return f"{value + 0.0:.10g}"  # + 0.0: no -0
