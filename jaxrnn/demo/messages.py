"""What the page may ask for: bodies in JSON, checked field by field.

    /complete  {"lines": [[[x, y], ...], ...], "count": 9, "temperature": 0.4, "seed": 7}
    /mimic     the same of a whole drawing
    /between   "first" and "second" in place of "lines"
    /file      {"form": "svg" or "json", "lines": [...], "endings": [lines, ...]}

``"class"`` names one of the run's classes. Usage: ``wish = read_wish(read_fields(body), classes)``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxrnn.data.sketch_output import to_json, to_svg
from jaxrnn.data.strokes import from_lines
from jaxrnn.demo.artist import MAX_COUNT, Line, Wish
from jaxrnn.errors import InputError

MAX_BODY = 256 * 1024  # bytes
MAX_POINTS = 1000  # of a drawing
FARTHEST = 100_000  # coordinate
FORMS = {"svg": "image/svg+xml", "json": "application/json"}


class RefusedError(InputError):
    """A request that is not answered: the field that is to blame, and the HTTP status."""

    def __init__(self, field: str, reason: str, status: int = 422):
        super().__init__(f"{field} {reason}")
        self.field, self.status = field, status


def read_fields(body: bytes) -> dict[str, Any]:
    """The object that a body is; raises RefusedError for anything else, and for NaN in it."""
    try:
        fields = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RefusedError("body", f"is not JSON ({error}), expected an object", 400) from None
    if not isinstance(fields, dict):
        raise RefusedError("body", f"is a {type(fields).__name__}, expected an object", 400)
    return fields


def read_wish(fields: dict[str, Any], classes: Sequence[str], least_count: int = 1) -> Wish:
    """How to draw; raises RefusedError for what is out of range."""
    name = fields.get("class", classes[0])
    if name not in classes:
        raise RefusedError("class", f"is {_shown(name)}, expected one of {', '.join(classes)}")
    return Wish(
        count=_integer(fields, "count", least_count, MAX_COUNT),
        temperature=_number(fields, "temperature", 0.01, 2.0),
        seed=_integer(fields, "seed", 0, 2**32 - 1),
        class_index=classes.index(name),
    )


def read_lines(fields: dict[str, Any], name: str, least: int = 0) -> list[Line]:
    """The polylines of a field, of ``least`` to MAX_POINTS points; raises RefusedError."""
    return _lines(_field(fields, name), name, least)


def read_file(fields: dict[str, Any]) -> tuple[str, str]:
    """A drawing, or several from the same beginning, as a file: its text and media type.

    Raises RefusedError.
    """
    form = _field(fields, "form")
    if form not in tuple(FORMS):  # a dict's keys would have to hash it
        raise RefusedError("form", f"is {_shown(form)}, expected svg or json")
    begun = read_lines(fields, "lines")
    endings = _field(fields, "endings")
    if not isinstance(endings, list) or len(endings) > MAX_COUNT:
        raise RefusedError("endings", f"is no list of at most {MAX_COUNT} endings")
    checked = [_lines(ending, f"endings[{k}]", 0) for k, ending in enumerate(endings)]
    drawings = [from_lines([*begun, *ending]) for ending in checked or [[]]]
    if form == "json":
        return to_json(drawings), FORMS[form]
    whole = drawings[0] if len(drawings) == 1 else drawings
    return to_svg(whole, num_prefix=sum(map(len, begun))), FORMS[form]


def _field(fields: dict[str, Any], name: str) -> Any:
    if name not in fields:
        raise RefusedError(name, "is missing")
    return fields[name]


def _lines(value: Any, name: str, least: int) -> list[Line]:
    if not isinstance(value, list) or not all(isinstance(line, list) for line in value):
        raise RefusedError(name, "is no list of lines, each a list of points [x, y]")
    num_points = sum(map(len, value))
    if not least <= num_points <= MAX_POINTS:
        raise RefusedError(name, f"has {num_points} points, expected {least} to {MAX_POINTS}")
    for k, line in enumerate(value):
        for place, point in enumerate(line):
            if not _is_point(point):
                raise RefusedError(
                    f"{name}[{k}][{place}]",
                    f"is {_shown(point)}, expected [x, y] in +-{FARTHEST}",
                )
    return [np.array(line, np.float64).reshape(-1, 2) for line in value]


def _is_point(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(_is_number(v) and abs(v) <= FARTHEST for v in value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)  # no bool


def _number(fields: dict[str, Any], name: str, low: float, high: float) -> float:
    value = _field(fields, name)
    if not (_is_number(value) and low <= value <= high):
        raise RefusedError(name, f"is {_shown(value)}, expected a number in {low}..{high}")
    return float(value)


def _integer(fields: dict[str, Any], name: str, low: int, high: int) -> int:
    value = _field(fields, name)
    if not (type(value) is int and low <= value <= high):
        raise RefusedError(name, f"is {_shown(value)}, expected a whole number in {low}..{high}")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
