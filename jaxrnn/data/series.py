"""A series to forecast: columns of a CSV file on one grid of dates, whole, in order.

Rows are sorted by date; dates that are there twice, missing rows and missing values are counted,
said, and mended as asked. Without a date column rows are steps as they are. Trailing rows that have
none of the targets are left out; what they have of ``known`` columns is the future. Usage::

    series = read_series("ETTh1.csv", ReadOptions())
    series.names, series.values, series.dates, series.frequency, series.remarks
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64

from jaxrnn.data.date_column import Found, find_dates, has_date_name
from jaxrnn.data.date_text import DateError, parse_dates
from jaxrnn.data.dates import Frequency, are_month_ends, infer_frequency
from jaxrnn.data.series_grid import carried, on_grid, without_duplicates
from jaxrnn.data.table import Table, listed, read_table
from jaxrnn.errors import InputError


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """Which columns, and what is done about what is wrong with them; as ``SeriesConfig`` has it."""

    targets: tuple[str, ...] = ()  # none: every column of numbers that is not named elsewhere
    covariates: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    date_column: str = ""  # empty: found by its content
    date_format: str = ""
    duplicates: Literal["error", "first", "last", "mean"] = "error"
    gaps: Literal["error", "interpolate", "previous"] = "error"


def reading(options: Any) -> dict[str, str]:
    """What a command's options say of reading a file; those left to the run are left out."""
    names = ("duplicates", "gaps", "date_column", "date_format")
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value not in ("", "auto")}


@dataclasses.dataclass(frozen=True)
class Series:
    """N steps of K columns: targets, covariates, known, in this order.

    A missing value is the last before it, so that no row depends on a later one.
    """

    path: str
    targets: tuple[str, ...]
    covariates: tuple[str, ...]
    known: tuple[str, ...]
    values: Float64[np.ndarray, "N K"]
    missing: Bool[np.ndarray, "N K"]  # in the file; to be neither scaled by nor scored
    future: Float64[np.ndarray, "M F"]  # known columns of the steps after the last
    dates: np.ndarray | None  # (N,) datetime64[s]
    date_column: str
    frequency: Frequency | None
    is_day_first: bool | None  # whether 1/2/2020 is in February; None: dates of other forms
    is_utc: bool  # whether dates were moved there by their offset
    remarks: tuple[str, ...]  # what was found and done about it, for people

    @property
    def names(self) -> tuple[str, ...]:
        """Of the K columns."""
        return (*self.targets, *self.covariates, *self.known)

    @property
    def season(self) -> int:
        """Steps of the cycle that its frequency suggests; 1: none."""
        return 1 if self.frequency is None else self.frequency.season

    def future_dates(self, count: int) -> np.ndarray | None:
        """The dates of the steps after the last; None without dates."""
        if self.dates is None or self.frequency is None:
            return None
        return self.frequency.after(self.dates[-1], count)


def made_series(num_weeks: int = 12) -> Series:
    """What is forecast where no data is given: hours with a day, a week, a trend and noise."""
    hours = np.arange(168 * num_weeks)
    rng = np.random.default_rng(0)
    noise = np.zeros(len(hours))
    for k, shock in enumerate(rng.normal(0, 1.5, len(hours))):
        noise[k] = 0.8 * noise[k - 1] + shock if k else shock
    day = 2 * np.pi * hours / 24
    weekend = np.where(hours // 24 % 7 >= 5, -12.0, 0.0)
    values = 100 + 0.005 * hours + 15 * np.sin(day - 2) + 6 * np.sin(2 * day) + weekend + noise
    start = np.datetime64("2024-01-01T00:00:00")  # a Monday
    frequency = Frequency("seconds", 3600)
    return Series(
        path="the made series",
        targets=("load",),
        covariates=(),
        known=(),
        values=values.round(3)[:, None],
        missing=np.zeros((len(hours), 1), bool),
        future=np.zeros((0, 0)),
        dates=frequency.after(start, len(hours), first=0),
        date_column="date",
        frequency=frequency,
        is_day_first=None,
        is_utc=False,
        remarks=(),
    )


def read_series(
    path: str | os.PathLike[str],
    options: ReadOptions,
    frequency: Frequency | None = None,
    is_day_first: bool | None = None,
) -> Series:
    """The series of a CSV file, its missing parts filled as the options have it.

    ``frequency``: that the dates must have, months at their ends where these dates are; None: the
    one that they show; ``is_day_first``: of dates that don't show it. Raises InputError for a file
    that ``read_table`` refuses, columns that are not there or not numbers, dates that can't be read
    or lie between two steps, and for what is missing or there twice where the options don't say
    what to do about it.
    """
    table = read_table(path)
    found = find_dates(table, options.date_column, options.date_format, is_day_first)
    dates = found.dates
    targets, remarks = _targets(table, options, found)
    if found.parts:
        joined = listed([table.header[k] for k in found.parts])
        remarks.append(f"{joined} are joined into one date")
    if found.is_utc:
        remarks.append("times with an offset were moved to UTC")
    named = [
        *((name, "--targets" if options.targets else "the header") for name in targets),
        *((name, "--covariates") for name in options.covariates),
        *((name, "--known") for name in options.known),
    ]
    _refuse_twice(named, "" if found.parts else found.name(table))
    columns = [table.numbers(table.column(name, flag), flag) for name, flag in named]
    values = np.stack(columns, -1)
    absent = np.zeros(len(values), bool)
    if dates is not None:
        order = np.argsort(dates, kind="stable")
        lines = np.array(table.lines)[order]
        if (order != np.arange(len(order))).any():
            remarks.append("rows out of order were sorted by date")
        dates, values = dates[order], values[order]
        dates, values, lines = without_duplicates(
            table, options.duplicates, dates, values, lines, remarks
        )
        if frequency is None:
            frequency = infer_frequency(dates)
        elif frequency.unit == "months":
            frequency = dataclasses.replace(frequency, month_end=are_month_ends(dates))
        dates, values, absent = on_grid(table, frequency, dates, values, lines)
    num_targets, num_known = len(targets), len(options.known)
    future = values[:0, len(named) - num_known :]
    (there,) = np.nonzero(~np.isnan(values[:, :num_targets]).all(1))
    if len(there) and (count := len(values) - 1 - int(there[-1])):
        values, future = values[:-count], values[-count:, len(named) - num_known :]
        what = "are the future" if num_known else "are left out"
        remarks.append(f"{count:,} row{'s' * (count > 1)} without targets at the end {what}")
    names = [name for name, _ in named]
    begin, values, missing = carried(
        table, options.gaps, values, absent[: len(values)], dates, names, remarks
    )
    return Series(
        path=str(path),
        targets=targets,
        covariates=options.covariates,
        known=options.known,
        values=values,
        missing=missing,
        future=future,
        dates=None if dates is None else dates[begin : begin + len(values)],
        date_column=found.name(table),
        frequency=None if dates is None else frequency,
        is_day_first=found.is_day_first,
        is_utc=found.is_utc,
        remarks=tuple(remarks),
    )


def _targets(table: Table, options: ReadOptions, found: Found) -> tuple[tuple[str, ...], list[str]]:
    """The targets, and remarks; columns that only count the rows are none unless they are named."""
    if options.targets:
        return options.targets, []
    others = {name.strip() for name in (*options.covariates, *options.known)}
    dated = {found.place, *found.parts}
    numeric = [
        k
        for k, name in enumerate(table.header)
        if k not in dated and name not in others and table.is_numeric(k)
    ]
    if not numeric:
        raise InputError(
            f"{table.path} has no column of numbers to forecast, its columns are "
            f"{listed(table.header)}; name one with --targets to see what is wrong with it"
        )
    table.refuse_numbers([table.header[k] for k in numeric])
    counting = [
        k
        for k in numeric
        if _counts(values := table.numbers(k, "--targets"))
        or (has_date_name(table, k) and _rises(values))
    ]
    if len(counting) == len(numeric):
        counting = []
    names = tuple(table.header[k] for k in numeric if k not in counting)
    left = [table.header[k] for k in counting]
    remarks = [f"{listed(left)} only counts the rows and is no target"] if left else []
    for k, name in enumerate(table.header):
        if name and name not in others and k not in dated and k not in numeric:
            remarks.append(table.unread(k))
    return names, remarks


def _counts(values: Float64[np.ndarray, " N"]) -> bool:
    """Whether values rise by the same whole number at each row."""
    steps = np.unique(np.diff(values))
    return len(values) > 2 and len(steps) == 1 and bool(steps[0] > 0 and steps[0] % 1 == 0)


def _rises(values: Float64[np.ndarray, " N"]) -> bool:
    """Whether values are whole numbers that rise, or fall, at each row."""
    steps = np.diff(values)
    return len(values) > 2 and bool(
        (values % 1 == 0).all() and (np.abs(np.sign(steps).sum()) == len(steps))
    )


def _refuse_twice(named: list[tuple[str, str]], date_column: str) -> None:
    """Raise InputError for a column that is named twice, or is the date."""
    seen = {date_column: "--date-column"} if date_column else {}
    for name, flag in named:
        if (before := seen.get(name.strip())) is not None:
            raise InputError(f"{flag} names {name!r}, which is that of {before}; name it once")
        seen[name.strip()] = flag


def split_rows(split: str, series: Series) -> tuple[int, int, int]:
    """The ends of the parts to train on, validate and test: rows before each.

    ``split``: three fractions of all rows, three numbers of rows, or two dates, at which
    validation and test begin. Raises InputError for anything else.
    """
    parts, num_rows = [part.strip() for part in split.split(",")], len(series.values)
    if len(parts) == 2 and series.dates is not None:
        try:
            begins, _ = parse_dates(parts)
        except DateError as error:
            raise InputError(f"--split is {split!r}: {error}") from None
        train, valid = (int(k) for k in np.searchsorted(series.dates, begins))
        ends = (train, valid, num_rows)
    else:
        try:
            sizes = [float(part) for part in parts]
        except ValueError:
            sizes = []
        if len(sizes) != 3 or not all(0 <= size < 1e15 for size in sizes):
            dates = "" if series.dates is None else ", or two dates"
            raise InputError(
                f"--split is {split!r}, expected three fractions as 0.7,0.1,0.2, three numbers of "
                f"rows{dates}"
            )
        if sum(sizes) <= 1 + 1e-9:
            shares = np.cumsum(sizes)
            train, valid, test = (int(num_rows * share + 1e-6) for share in shares)
        elif all(size % 1 == 0 for size in sizes):
            train, valid, test = (int(k) for k in np.cumsum(sizes))
        else:
            raise InputError(f"--split is {split!r}, whose fractions are {sum(sizes):g}, above 1")
        if test > num_rows:
            raise InputError(
                f"--split is {split!r}, {test:,} rows, of which there are {num_rows:,}"
            )
        ends = (train, valid, test)
    if num_rows < 2:
        raise InputError(f"{series.path} has {num_rows} row, expected some to learn from; add rows")
    if not 0 < ends[0] <= ends[1] <= ends[2]:
        raise InputError(f"--split is {split!r}, which leaves no rows to train on")
    return ends
