"""SVG path data (``M0 0C0 8 8 8 8 0``) as lines and cubic Bézier curves, and those as polylines.

A subpath is its start (1, 2), followed by the end (1, 2) of each line and the two control points
and end (3, 2) of each curve: an affine map of all of them is the same map of what is drawn.

Usage: ``[flatten(subpath, 0.1, 2.0) for subpath in parse_path("M0 0C0 8 8 8 8 0", "the path")]``.
"""

from __future__ import annotations

import cmath
import itertools
import math
import re
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float64

from jaxrnn.data.strokes import LARGEST, simplify
from jaxrnn.errors import InputError

Subpath = list[Float64[np.ndarray, "_ 2"]]

_NUM_ARGUMENTS = {"M": 2, "L": 2, "H": 1, "V": 1, "C": 6, "S": 4, "Q": 4, "T": 2, "A": 7, "Z": 0}
_COMMAND = re.compile(r"[\s,]*([MLHVCSQTAZ])", re.IGNORECASE)
_NUMBER = re.compile(r"[\s,]*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)", re.ASCII)
_FLAG = re.compile(r"[\s,]*([01])")  # may stand against the next number


def parse_numbers(text: str, name: str) -> list[float]:
    """The numbers of a list such as ``1,2 .5.5-1e-3``; raises InputError for anything else."""
    numbers, end = _scan(text, 0, "", name)
    _check_end(text, end, name)
    return numbers


def parse_path(data: str, name: str) -> list[Subpath]:
    """The subpaths of path data, without those that draw nothing.

    A subpath that is closed right after its start is a dot. Raises InputError, with ``name``, for
    what is no path data.
    """
    pen = _Pen()
    for letter, values in _commands(data, name):
        command = letter.upper()
        origin = pen.at if letter.islower() else 0j
        coordinates = values[5:] if command == "A" else values
        pairs = zip(coordinates[::2], coordinates[1::2], strict=False)  # H and V have no pair
        points = [origin + complex(x, y) for x, y in pairs]
        match command:
            case "M":
                pen.move(*points)
            case "L":
                pen.line(*points)
            case "H":
                pen.line(complex(origin.real + values[0], pen.at.imag))
            case "V":
                pen.line(complex(pen.at.real, origin.imag + values[0]))
            case "C":
                pen.curve(*points)
            case "S":
                pen.curve(pen.mirrored("CS"), *points)
            case "Q":
                pen.quadratic(*points)
            case "T":
                pen.quadratic(pen.mirrored("QT"), *points)
            case "A":
                pen.arc(values[0], values[1], values[2], values[3] == 1, values[4] == 1, *points)
            case "Z":
                pen.close()
        pen.command = command
    return pen.subpaths


def flatten(subpath: Subpath, tolerance: float, epsilon: float) -> Float64[np.ndarray, "_ 2"]:
    """The subpath as a polyline: each curve within ``tolerance``, then curves simplified.

    Ends of lines stay; of curves that follow each other only points remain that ``simplify``
    needs for ``epsilon``.
    """
    pieces = [subpath[0]]
    for num_points, segments in itertools.groupby(subpath[1:], key=len):
        if num_points == 1:
            pieces += segments
        else:
            run = [pieces[-1][-1:]]
            for curve in segments:
                run.append(_curve_points(run[-1][-1:], curve, tolerance))
            pieces.append(simplify(np.concatenate(run), epsilon)[1:])
    return np.concatenate(pieces)


def _curve_points(start: np.ndarray, curve: np.ndarray, tolerance: float) -> np.ndarray:
    """Points of a cubic, without its start: as many as Wang's bound asks for."""
    controls = np.concatenate([start, curve])
    bend = float(np.hypot(*np.diff(controls, n=2, axis=0).T).max())
    num_pieces = max(1, math.ceil(math.sqrt(0.75 * bend / tolerance)))
    t = np.linspace(0, 1, num_pieces + 1)[1:, None]
    basis = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3]
    return np.concatenate(basis, axis=1) @ controls


class _Pen:
    """Where the pen is, in complex numbers, and what it has drawn."""

    def __init__(self):
        self.subpaths: list[Subpath] = []
        self.start = self.at = self.control = 0j
        self.command = ""  # the last one
        self.is_drawing = False

    def move(self, to: complex) -> None:
        self.start = self.at = to
        self.is_drawing = False

    def line(self, to: complex) -> None:
        self._add(to)

    def curve(self, control1: complex, control2: complex, to: complex) -> None:
        self._add(control1, control2, to)
        self.control = control2

    def quadratic(self, control: complex, to: complex) -> None:
        self._add(self.at + (control - self.at) * 2 / 3, to + (control - to) * 2 / 3, to)
        self.control = control

    def mirrored(self, commands: str) -> complex:
        """The last control point on the other side of the pen; the pen after other commands."""
        return 2 * self.at - self.control if self.command in commands else self.at

    def arc(
        self, rx: float, ry: float, degrees: float, is_large: bool, is_sweep: bool, to: complex
    ) -> None:
        if to == self.at:
            return
        if not rx or not ry:
            self.line(to)
            return
        for points in _arc(self.at, abs(rx), abs(ry), degrees, is_large, is_sweep, to):
            self._add(*points)

    def close(self) -> None:
        # Relative steps come back to the start with rounding errors.
        if self.is_drawing and not cmath.isclose(self.at, self.start, abs_tol=1e-9):
            self._add(self.start)
        elif self.command == "M":
            self._begin()
        self.move(self.start)

    def _begin(self) -> None:
        self.subpaths.append([_array(self.start)])
        self.is_drawing = True

    def _add(self, *points: complex) -> None:
        if not self.is_drawing:
            self._begin()
        self.subpaths[-1].append(_array(*points))
        self.at = points[-1]


def _array(*points: complex) -> np.ndarray:
    return np.array([(point.real, point.imag) for point in points])


def _arc(
    start: complex,
    rx: float,
    ry: float,
    degrees: float,
    is_large: bool,
    is_sweep: bool,
    end: complex,
) -> Iterator[tuple[complex, complex, complex]]:
    """Cubics for an elliptical arc, each of a quarter turn at most (SVG 1.1, appendix F.6)."""
    turn = cmath.exp(1j * math.radians(degrees))
    chord = (end - start) / turn
    half = complex(chord.real / rx, chord.imag / ry) / 2  # where the ellipse is the unit circle
    if abs(half) < 1e-9:  # radii so large that the arc is straight, or has no end to speak of
        yield start, end, end
        return
    # Of a circle too small to reach the end, the center is halfway: it grows to reach.
    height = math.sqrt(max(0.0, 1 / abs(half) ** 2 - 1))
    to_center = half * (1 + (1j if is_large != is_sweep else -1j) * height)
    angle = cmath.phase((2 * half - to_center) / -to_center) % (2 * math.pi)
    if not is_sweep:
        angle -= 2 * math.pi
    num_pieces = max(1, math.ceil(abs(angle) / (math.pi / 2) - 1e-9))
    step = angle / num_pieces
    handle = 4 / 3 * math.tan(step / 4) * 1j

    def place(point: complex) -> complex:
        return start + complex(point.real * rx, point.imag * ry) * turn

    radius = -to_center
    for k in range(1, num_pieces + 1):
        next_radius = -to_center * cmath.exp(1j * step * k)
        yield (
            place(to_center + radius * (1 + handle)),
            place(to_center + next_radius * (1 - handle)),
            end if k == num_pieces else place(to_center + next_radius),
        )
        radius = next_radius


def _commands(data: str, name: str) -> Iterator[tuple[str, list[float]]]:
    """Each command with its arguments; repeated without a letter, it is given its letter."""
    position = 0
    while match := _COMMAND.match(data, position):
        letter = match[1]
        if not position and letter not in "Mm":
            raise InputError(f"{name}: a path begins with {letter!r}, expected M; correct the path")
        values, position = _scan(data, match.end(), letter, name)
        count = _NUM_ARGUMENTS[letter.upper()]
        is_whole = bool(values) and len(values) % count == 0 if count else not values
        if not is_whole:
            raise InputError(
                f"{name}: {len(values)} numbers follow {letter!r} in a path, expected"
                f" {count}{' or a multiple' * bool(count)}; correct the path"
            )
        for first in range(0, len(values), count) if values else [0]:
            yield letter, values[first : first + count]
            letter = {"M": "L", "m": "l"}.get(letter, letter)
    _check_end(data, position, name)


def _scan(text: str, position: int, letter: str, name: str) -> tuple[list[float], int]:
    """The numbers from a position on, and where they end; an arc's fourth and fifth are flags."""
    numbers = []
    while True:
        is_flag = letter in ("A", "a") and len(numbers) % 7 in (3, 4)
        match = (_FLAG if is_flag else _NUMBER).match(text, position)
        if not match:
            return numbers, position
        numbers.append(float(match[1]))
        if abs(numbers[-1]) > LARGEST:
            raise InputError(f"{name}: the number {match[1][:20]}, expected none above {LARGEST:g}")
        position = match.end()


def _check_end(text: str, position: int, name: str) -> None:
    rest = text[position:].lstrip(" \t\r\n\f,")
    if rest:
        raise InputError(
            f"{name}: {rest[:20]!r} where a path command or a number was expected; correct it"
        )
