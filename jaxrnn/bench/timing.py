"""Peers timed in turn: A B C, C B A, ...; medians, spread, and ratios pair by pair.

What disturbs the machine for a while then disturbs all, and a ratio of two neighbours in time is
nearer to the truth than one of two medians. Usage::

    times = in_turns({"jaxrnn": ours.call, "torch": theirs.call}, rounds=7, least_s=0.5)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np


class CallError(Exception):
    """A call failed; ``name`` is whose, ``__cause__`` how."""

    def __init__(self, name: str, error: Exception):
        super().__init__(f"{name}: {type(error).__name__}: {error}")
        self.name = name


class Spread(NamedTuple):
    """Median, first and third quartile."""

    median: float
    low: float
    high: float


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int, least_s: float
) -> dict[str, np.ndarray]:
    """Seconds a call, (rounds,) for each name; a turn is as many calls as fill ``least_s``.

    One call of each goes before, to warm up. Raises CallError.
    """

    def turn(name: str, least_s: float) -> float:
        count, started = 0, time.perf_counter()
        try:
            while True:
                calls[name]()
                count += 1
                if (spent := time.perf_counter() - started) >= least_s:
                    return spent / count
        except Exception as error:
            raise CallError(name, error) from error

    for name in calls:
        turn(name, 0.0)
    times: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds):
        # Forwards, then backwards: what one leaves behind is not always the same peer's burden.
        for name in list(calls)[:: 1 if k % 2 == 0 else -1]:
            times[name].append(turn(name, least_s))
    return {name: np.array(values) for name, values in times.items()}


def spread(values: np.ndarray) -> Spread:
    """Of times, or of ratios pair by pair."""
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(float(median), float(low), float(high))
