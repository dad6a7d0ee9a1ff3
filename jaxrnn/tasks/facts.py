"""The facts that a run pins from its data, read back from its ``run.json``.

Each is checked as it is read, since a file may say anything. Usage::

    season = fact(facts, "season", is_count, "a whole number, at least 1")
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxrnn.errors import InputError, shown

LARGEST = 1e30
"""Of a number that models compute with; the smallest is 1 / LARGEST: float32 holds both."""


def fact(
    facts: dict[str, Any],
    name: str,
    is_good: Callable[[Any], bool] = lambda _: True,
    expected: str = "",
) -> Any:
    """One of a run's facts; raises InputError where it is missing, or is not what is expected."""
    if name not in facts:
        raise InputError(
            f"run.json has no {name}, expected it among its facts: it is damaged or of another "
            "version; put a copy of it back, or start a new run"
        )
    if not is_good(facts[name]):
        raise InputError(
            f"run.json's {name} is {shown(facts[name])}, expected {expected}: it is damaged; put a "
            "copy of it back, or start a new run"
        )
    return facts[name]


def is_count(value: Any, most: int = 2**53) -> bool:
    """A whole number from 1 to ``most``."""
    return type(value) is int and 1 <= value <= most


def is_number(value: Any) -> bool:
    """Of at most ``LARGEST`` in size."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def is_size(value: Any) -> bool:
    """A number above 0, which something can be divided by."""
    return is_number(value) and value >= 1 / LARGEST


def is_list(of: Callable[[Any], bool], count: int | None = None) -> Callable[[Any], bool]:
    """A check of lists, of so many where that is given."""
    return lambda value: (
        isinstance(value, list)
        and (count is None or len(value) == count)
        and all(of(item) for item in value)
    )


def is_text(value: Any) -> bool:
    """That UTF-8 can write: JSON has escapes for what it can't."""
    return isinstance(value, str) and not any("\ud800" <= c <= "\udfff" for c in value)


def is_names(value: Any) -> bool:
    """A list of texts, none of them twice; there may be none."""
    return is_list(is_text)(value) and len(set(value)) == len(value)
