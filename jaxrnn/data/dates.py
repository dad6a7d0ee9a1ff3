"""Steps of dates: from one to the next, and calendar features.

A step is a number of seconds, of months, or of weekdays. A calendar feature of period P is ``sin``
and ``cos`` of ``2 pi phase``, the phase being the part of P that has passed. Usage::

    frequency = infer_frequency(dates)                       # hourly: 3600 seconds
    features = calendar(frequency.after(dates[-1], 24), ("hour", "weekday"))   # (24, 4)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64

from jaxrnn.data.date_text import DATES
from jaxrnn.errors import InputError, shown

DAY = 86_400  # seconds
_LONGEST = 10**12  # seconds of a step: 31,700 years, and 100,000 of them fit into 64 bits


@dataclasses.dataclass(frozen=True)
class Frequency:
    """The step from one date to the next; ``month_end``: of months, at the last day of each."""

    unit: Literal["seconds", "months", "weekdays"]
    step: int = 1
    month_end: bool = False

    @classmethod
    def from_dict(cls, values: Any) -> Frequency:
        """The one that ``to_dict`` gave; raises InputError for anything else."""
        given = {"step": 1, "month_end": False, **values} if isinstance(values, dict) else {}
        if (
            given.keys() == {"unit", "step", "month_end"}
            and given["unit"] in ("seconds", "months", "weekdays")
            and (type(given["step"]), type(given["month_end"])) == (int, bool)
            and given["step"] >= 1
            and (found := cls(**given)).seconds <= _LONGEST
        ):
            return found
        raise InputError(
            f"run.json's frequency is {shown(values)}, expected a unit (seconds, months or "
            "weekdays), a step of at least 1 and month_end: it is damaged; put a copy of it back, "
            "or start a new run"
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self)

    @property
    def name(self) -> str:
        """For people: hourly, every 15 minutes."""
        if self.unit == "weekdays":
            return "on weekdays"
        sizes = {"week": 7 * DAY, "day": DAY, "hour": 3600, "minute": 60, "second": 1}
        if self.unit == "months":
            sizes = {"year": 12, "quarter": 3, "month": 1}
        unit, size = next((u, s) for u, s in sizes.items() if self.step % s == 0)
        count = self.step // size
        return f"every {count} {unit}s" if count > 1 else {"day": "daily"}.get(unit, f"{unit}ly")

    @property
    def season(self) -> int:
        """Steps of the cycle that a naive forecast repeats: a day, week or year; 1: none."""
        if self.unit == "weekdays":
            return 5
        if self.unit == "months":
            return 12 // self.step if 12 % self.step == 0 else 1
        if self.step < DAY:
            return DAY // self.step if DAY % self.step == 0 else 1
        return {DAY: 7, 7 * DAY: 52}.get(self.step, 1)

    @property
    def seconds(self) -> int:
        """The length of a step, of months on average."""
        return {"seconds": 1, "months": 2_629_746, "weekdays": DAY}[self.unit] * self.step

    def places(self, dates: np.ndarray) -> Int64[np.ndarray, " N"]:
        """How many steps each date lies after the first; -1 for one that lies between two."""
        if self.unit == "months":
            months = dates.astype("datetime64[M]").astype(np.int64)
            places, rest = np.divmod(months - months[0], self.step)
            return np.where(rest == 0, places, -1)
        if self.unit == "weekdays":
            return np.busday_count(dates[0].astype("datetime64[D]"), dates.astype("datetime64[D]"))
        places, rest = np.divmod((dates - dates[0]).astype(np.int64), self.step)
        return np.where(rest == 0, places, -1)

    def after(self, date: np.datetime64, count: int, first: int = 1) -> np.ndarray:
        """The dates ``first``, ``first`` + 1, ... steps after one."""
        steps = np.arange(first, first + count)
        if self.unit == "seconds":
            return date.astype(DATES) + (steps * self.step).astype("timedelta64[s]")
        day = date.astype("datetime64[D]")
        time = date.astype(DATES) - day.astype(DATES)
        if self.unit == "weekdays":
            return np.busday_offset(day, steps).astype(DATES) + time
        month = date.astype("datetime64[M]")
        months = month + (steps * self.step).astype("timedelta64[M]")
        last = days_in(months) - np.timedelta64(1, "D")
        within = day - month.astype("datetime64[D]")
        within = np.minimum(last, within) if not self.month_end else last
        return (months.astype("datetime64[D]") + within).astype(DATES) + time


def infer_frequency(dates: np.ndarray) -> Frequency | None:
    """The most frequent step of ascending dates, all different; None for fewer than two.

    Months where every date is on the same day of its month, or on its last; weekdays where days
    follow each other and none is on a weekend.
    """
    if len(dates) < 2:
        return None
    days, months = dates.astype("datetime64[D]"), dates.astype("datetime64[M]")
    within = days - months.astype("datetime64[D]")
    is_end = are_month_ends(dates)
    if np.diff(days).min().astype(int) >= 28 and (is_end or (within == within[0]).all()):
        return Frequency("months", _mode(np.diff(months).astype(np.int64)), is_end)
    step = _mode(np.diff(dates).astype(np.int64))
    if step == DAY and len(dates) > 5 and np.is_busday(days).all():
        return Frequency("weekdays")
    return Frequency("seconds", step)


def are_month_ends(dates: np.ndarray) -> bool:
    """Whether each is on the last day of its month."""
    days, months = dates.astype("datetime64[D]"), dates.astype("datetime64[M]")
    return bool(((days + np.timedelta64(1, "D")).astype("datetime64[M]") > months).all())


def _mode(steps: np.ndarray) -> int:
    """The most frequent, the smaller of two as frequent."""
    values, counts = np.unique(steps, return_counts=True)
    return int(values[counts.argmax()])


_YEAR = 31_556_952  # seconds
CYCLES: dict[str, tuple[int, int, int]] = {
    "hour": (DAY, 0, DAY - 1),  # the cycle's seconds; the least and the largest step that show it
    "weekday": (7 * DAY, 0, DAY),
    "month_day": (_YEAR // 12, DAY, DAY),
    "year_day": (_YEAR, 0, 7 * DAY),
    "month": (_YEAR, 7 * DAY + 1, _YEAR - DAY),
}


def calendar_names(frequency: Frequency | None, num_rows: int) -> tuple[str, ...]:
    """The cycles that a step of this length shows, and that so many rows go through twice."""
    if frequency is None:
        return ()
    step = frequency.seconds
    return tuple(
        name
        for name, (cycle, least, most) in CYCLES.items()
        if least <= step <= most and num_rows * step >= 2 * cycle
    )


def days_in(dates: np.ndarray) -> np.ndarray:
    """How many days the months, or years, of datetime64 have."""
    following = dates + np.timedelta64(1, np.datetime_data(dates.dtype)[0])
    return following.astype("datetime64[D]") - dates.astype("datetime64[D]")


def calendar(dates: np.ndarray, names: Sequence[str]) -> Float64[np.ndarray, "N F"]:
    """A sine and a cosine for each name; of ``hour, weekday, month_day, year_day, month``."""
    dates = dates.astype(DATES)
    days, months = dates.astype("datetime64[D]"), dates.astype("datetime64[M]")
    years = dates.astype("datetime64[Y]")
    day = (dates - days.astype(DATES)).astype(np.float64) / DAY
    part = lambda unit: (days - unit.astype("datetime64[D]")).astype(float) + day  # noqa: E731
    phases = {
        "hour": day,
        "weekday": ((days.astype(np.int64) + 3) % 7 + day) / 7,  # 1970-01-01 was a Thursday
        "month_day": part(months) / days_in(months).astype(float),
        "year_day": part(years) / days_in(years).astype(float),
        "month": (months - years.astype("datetime64[M]")).astype(float) / 12,
    }
    angles = [2 * np.pi * phases[name] for name in names]
    columns = [wave(angle) for angle in angles for wave in (np.sin, np.cos)]
    return np.stack(columns, -1) if columns else np.zeros((len(dates), 0))
