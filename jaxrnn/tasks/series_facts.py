"""What a forecaster's run has pinned, read back from its ``run.json`` and checked.

Usage: ``SeriesTask(config=config, **read_facts(config, facts))``.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import numpy as np

from jaxrnn.config import SeriesConfig
from jaxrnn.data.dates import CYCLES, Frequency
from jaxrnn.data.scaler import Scaler
from jaxrnn.tasks.facts import fact, is_count, is_list, is_names


def read_facts(config: SeriesConfig, facts: dict[str, Any]) -> dict[str, Any]:
    """The fields of a ``SeriesTask`` but ``config``. Raises InputError for what is damaged."""
    is_targets = lambda value: is_names(value) and value != []  # noqa: E731
    targets = fact(facts, "targets", is_targets, "a list of columns' names, each once")
    num_columns = len(targets) + len(config.covariates) + len(config.known)
    scalers = fact(
        *(facts, "scalers", is_list(lambda _: True, num_columns)),
        f"a list of {num_columns}, one for each target, covariate and known column",
    )
    frequency = fact(facts, "frequency")
    cycles = [] if frequency is None else [*CYCLES]
    is_calendar = lambda value: is_names(value) and set(value) <= {*cycles}  # noqa: E731
    listed = f"a list of some of {', '.join(cycles)}" if cycles else "[] without frequency"
    mase_scale = fact(
        *(facts, "mase_scale", is_list(_is_scale, len(targets))),
        f"a list of {len(targets)}, a number above 0 for each target",
    )
    return {
        "targets": tuple(targets),
        "scalers": tuple(map(Scaler.from_dict, scalers)),
        "calendar": tuple(fact(facts, "calendar", is_calendar, listed)),
        "frequency": None if frequency is None else Frequency.from_dict(frequency),
        "season": fact(facts, "season", is_count, "a whole number, at least 1"),
        "mase_scale": tuple(map(float, mase_scale)),
        "ends": tuple(fact(facts, "ends", _is_ends, "three row numbers, ascending, above 0")),
        "start": fact(facts, "start", _is_start, "null, or a date as 2016-07-01T00:00:00"),
        "is_day_first": _order(facts),
    }


def _order(facts: dict[str, Any]) -> bool | None:
    """Whether days stand before months, which older runs do not say."""
    if "day_first" not in facts:
        return None
    is_known = lambda value: value is None or isinstance(value, bool)  # noqa: E731
    return fact(facts, "day_first", is_known, "true, false or null")


def _is_scale(value: Any) -> bool:
    """A number above 0 of any unit."""
    return type(value) in (int, float) and 0 < value <= sys.float_info.max


def _is_ends(value: Any) -> bool:
    """As ``split_rows`` gives them."""
    is_whole = is_list(lambda end: type(end) is int, 3)(value)
    return is_whole and 0 < value[0] <= value[1] <= value[2] < 2**53


def _is_start(value: Any) -> bool:
    """None, or what NumPy writes of a date, to the second."""
    if value is None:
        return True
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}(-[0-9]{2}){2}T[0-9:]{8}", value):
        return False
    try:
        return str(np.datetime64(value, "s")) == value
    except ValueError:
        return False
