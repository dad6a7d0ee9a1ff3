"""Drawings from ``.svg`` files: each subpath is a stroke, in the order of the file.

Read are path, polyline, polygon, line, rect, circle and ellipse, where their ``transform`` and
their groups' puts them. Passed over: definitions (``defs``, ``clipPath``, ...), ``use``, text,
images, and whatever styles do.

Usage: ``drawing = read_svg("cat.svg", epsilon=2.0)``.
"""

from __future__ import annotations

import math
import os
import re
from xml.parsers import expat

import numpy as np

from jaxrnn.data.strokes import LARGEST, Drawing, from_lines
from jaxrnn.data.svg_paths import Subpath, flatten, parse_numbers, parse_path
from jaxrnn.data.text import read_file
from jaxrnn.errors import InputError

SIDE = 255  # what the longer side counts as, for tolerances

_FLATNESS = 0.1  # of curves before they are simplified, in 255ths of the longer side
_NOT_DRAWN = {"defs", "clipPath", "mask", "marker", "pattern", "symbol"}
_SHAPES = {"path", "polyline", "polygon", "line", "rect", "circle", "ellipse"}
_TRANSFORM = re.compile(r"[\s,]*([A-Za-z]+)\s*\(([^()]*)\)")
_LENGTH = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:px)?\s*", re.ASCII)


def read_svg(path: str | os.PathLike[str], epsilon: float) -> Drawing:
    """The drawing of a file, in its coordinates.

    ``epsilon`` is how far simplification may move a curve, in 255ths of the drawing's longer
    side; points between straight lines all stay. Raises InputError for a file that can't be read,
    is no SVG, has a document type (which may define entities), or draws nothing.
    """
    subpaths = _Reader(path).read()
    if not subpaths:
        raise InputError(f"{path} draws nothing, expected paths; is it an image in an SVG file?")
    controls = np.concatenate([piece for subpath in subpaths for piece in subpath])
    if not (np.abs(controls) <= LARGEST).all():
        raise InputError(
            f"{path} draws beyond {LARGEST:g}, expected less; correct its numbers and transforms"
        )
    unit = float(np.ptp(controls, axis=0).max()) / SIDE or 1.0
    return from_lines([flatten(subpath, _FLATNESS * unit, epsilon * unit) for subpath in subpaths])


class _Reader:
    """Collects subpaths while expat goes through a file; elements are not kept."""

    def __init__(self, path: str | os.PathLike[str]):
        self._path = path
        self._subpaths: list[Subpath] = []
        self._transforms = [np.eye(3)]
        self._num_hidden = 0  # open elements that are not drawn
        self._parser = expat.ParserCreate()
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.StartDoctypeDeclHandler = self._refuse_doctype

    def read(self) -> list[Subpath]:
        content = read_file(self._path)
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # refused once all is read
                self._parser.Parse(content, True)
        except expat.ExpatError as error:
            raise InputError(
                f"{self._path}, line {error.lineno}: not XML ({expat.ErrorString(error.code)}),"
                " expected an SVG file; correct or replace it"
            ) from None
        except (LookupError, ValueError) as error:  # an encoding that expat or Python lacks
            raise InputError(
                f"{self._path}: can't decode it ({error}), expected UTF-8; convert the file"
            ) from None
        return self._subpaths

    @property
    def _name(self) -> str:
        return f"{self._path}, line {self._parser.CurrentLineNumber}"

    def _refuse_doctype(self, *_: object) -> None:
        raise InputError(
            f"{self._name}: a document type, which may define entities, expected none; remove the"
            " declaration <!DOCTYPE ...>"
        )

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        if self._num_hidden or tag in _NOT_DRAWN:
            self._num_hidden += 1
            return
        is_root = len(self._transforms) == 1
        if is_root != (tag == "svg"):
            raise InputError(
                f"{self._name}: the element {tag[:20]!r}"
                f" {'at the top' if is_root else 'inside another'}, expected one svg, at the top;"
                " give an SVG file without others in it"
            )
        transform = _parse_transform(attributes.get("transform", ""), self._name)
        self._transforms.append(self._transforms[-1] @ transform)
        if tag in _SHAPES:
            linear, shift = self._transforms[-1][:2, :2], self._transforms[-1][:2, 2:]
            self._subpaths += [
                [piece @ linear.T + shift.T for piece in subpath]
                for subpath in parse_path(_path_data(tag, attributes, self._name), self._name)
            ]

    def _end(self, tag: str) -> None:
        if self._num_hidden:
            self._num_hidden -= 1
        else:
            self._transforms.pop()


def _parse_transform(text: str, name: str) -> np.ndarray:
    """The 3 x 3 matrix of a transform attribute."""
    matrix, end = np.eye(3), 0
    while match := _TRANSFORM.match(text, end):
        matrix = matrix @ _one_transform(match[1], parse_numbers(match[2], name), name)
        end = match.end()
    if text[end:].strip(" \t\r\n,"):
        raise InputError(f"{name}: the transform {text[:40]!r} can't be read; correct it")
    return matrix


def _one_transform(kind: str, values: list[float], name: str) -> np.ndarray:
    match kind, values:
        case "matrix", [a, b, c, d, e, f]:
            return _matrix(a, b, c, d, e, f)
        case "translate", [x]:
            return _matrix(1.0, 0.0, 0.0, 1.0, x, 0.0)
        case "translate", [x, y]:
            return _matrix(1.0, 0.0, 0.0, 1.0, x, y)
        case "scale", [x]:
            return _matrix(x, 0.0, 0.0, x, 0.0, 0.0)
        case "scale", [x, y]:
            return _matrix(x, 0.0, 0.0, y, 0.0, 0.0)
        case "rotate", [degrees]:
            sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
            return _matrix(cos, sin, -sin, cos, 0.0, 0.0)
        case "rotate", [degrees, x, y]:
            turn = _one_transform("rotate", [degrees], name)
            return _matrix(1.0, 0.0, 0.0, 1.0, x, y) @ turn @ _matrix(1.0, 0.0, 0.0, 1.0, -x, -y)
        case "skewX", [degrees]:
            return _matrix(1.0, 0.0, math.tan(math.radians(degrees)), 1.0, 0.0, 0.0)
        case "skewY", [degrees]:
            return _matrix(1.0, math.tan(math.radians(degrees)), 0.0, 1.0, 0.0, 0.0)
    raise InputError(
        f"{name}: the transform {kind[:20]!r} with {len(values)} numbers, expected matrix,"
        " translate, scale, rotate, skewX or skewY; correct it"
    )


def _matrix(a: float, b: float, c: float, d: float, e: float, f: float) -> np.ndarray:
    return np.array([[a, c, e], [b, d, f], [0, 0, 1]], np.float64)


def _path_data(tag: str, attributes: dict[str, str], name: str) -> str:
    """A shape as path data, empty where it draws nothing."""

    def lengths(*keys: str) -> list[float]:
        return [_length(attributes.get(key, "0"), key, name) for key in keys]

    match tag:
        case "path":
            return attributes.get("d", "")
        case "polyline" | "polygon":
            points = attributes.get("points", "").strip()
            return f"M{points}{'z' * (tag == 'polygon')}" if points else ""
        case "line":
            x1, y1, x2, y2 = lengths("x1", "y1", "x2", "y2")
            return f"M{x1} {y1} {x2} {y2}"
        case "rect":
            x, y, width, height = lengths("x", "y", "width", "height")
            rx, ry = lengths(
                "rx" if "rx" in attributes else "ry", "ry" if "ry" in attributes else "rx"
            )
            return _rectangle(x, y, width, height, min(rx, width / 2), min(ry, height / 2))
        case "circle":
            cx, cy, rx, ry = lengths("cx", "cy", "r", "r")
        case _:
            cx, cy, rx, ry = lengths("cx", "cy", "rx", "ry")
    if rx <= 0 or ry <= 0:
        return ""
    return f"M{cx - rx} {cy}a{rx} {ry} 0 1 1 {2 * rx} 0a{rx} {ry} 0 1 1 {-2 * rx} 0z"


def _rectangle(x: float, y: float, width: float, height: float, rx: float, ry: float) -> str:
    if width <= 0 or height <= 0:
        return ""
    if rx <= 0 or ry <= 0:
        return f"M{x} {y}h{width}v{height}h{-width}z"
    across, down, corner = width - 2 * rx, height - 2 * ry, f"a{rx} {ry} 0 0 1"
    return (
        f"M{x + rx} {y}h{across}{corner} {rx} {ry}v{down}{corner} {-rx} {ry}"
        f"h{-across}{corner} {-rx} {-ry}v{-down}{corner} {rx} {-ry}z"
    )


def _length(text: str, key: str, name: str) -> float:
    match = _LENGTH.fullmatch(text)
    if not match:
        raise InputError(f"{name}: {key} is {text[:20]!r}, expected a number without a unit")
    return float(match[1])
