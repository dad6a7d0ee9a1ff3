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
import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from jaxrnn.data.date_column import find_dates, has_date_name
from jaxrnn.data.date_text import DATES, DateError, parse_dates
from jaxrnn.data.dates import Frequency, infer_frequency
from jaxrnn.data.table import Table, listed, read_table
from jaxrnn.errors import InputError

MAX_STRETCH = 20  # steps that the dates may span, for each row that there is


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


def show_date(date: np.datetime64) -> str:
    """As ISO has it, without a time of midnight."""
    text = str(date.astype(DATES)).removesuffix(":00")
    return text.removesuffix("T00:00").replace("T", " ")


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
        remarks=(),
    )


def read_series(
    path: str | os.PathLike[str],
    options: ReadOptions,
    frequency: Frequency | None = None,
    is_day_first: bool | None = None,
) -> Series:
    """The series of a CSV file, its missing parts filled as the options have it.

    ``frequency``: that the dates must have; None: the one that they show; ``is_day_first``: of
    dates that don't show it. Raises InputError for a file that ``read_table`` refuses, columns that
    are not there or not numbers, dates that can't be read or lie between two steps, and for what is
    missing or there twice where the options don't say what to do about it.
    """
    table = read_table(path)
    date_index, dates, is_day_first = find_dates(
        table, options.date_column, options.date_format, is_day_first
    )
    targets, remarks = _targets(table, options, date_index)
    named = [
        *((name, "--targets") for name in targets),
        *((name, "--covariates") for name in options.covariates),
        *((name, "--known") for name in options.known),
    ]
    _refuse_twice(table, named, date_index)
    columns = [table.numbers(table.column(name, flag), flag) for name, flag in named]
    values = np.stack(columns, -1)
    absent = np.zeros(len(values), bool)
    if dates is not None:
        order = np.argsort(dates, kind="stable")
        lines = np.array(table.lines)[order]
        if (order != np.arange(len(order))).any():
            remarks.append("rows out of order were sorted by date")
        dates, values = dates[order], values[order]
        dates, values, lines = _without_duplicates(table, options, dates, values, lines, remarks)
        frequency = frequency or infer_frequency(dates)
        dates, values, absent = _on_grid(table, frequency, dates, values, lines)
    num_targets, num_known = len(targets), len(options.known)
    future = values[:0, len(named) - num_known :]
    (there,) = np.nonzero(~np.isnan(values[:, :num_targets]).all(1))
    if len(there) and (count := len(values) - 1 - int(there[-1])):
        values, future = values[:-count], values[-count:, len(named) - num_known :]
        what = "are the future" if num_known else "are left out"
        remarks.append(f"{count:,} row{'s' * (count > 1)} without targets at the end {what}")
    names = [name for name, _ in named]
    begin, values, missing = _filled(
        table, options, values, absent[: len(values)], dates, names, remarks
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
        date_column="" if date_index is None else table.header[date_index],
        frequency=None if dates is None else frequency,
        is_day_first=is_day_first,
        remarks=tuple(remarks),
    )


def _targets(
    table: Table, options: ReadOptions, date_index: int | None
) -> tuple[tuple[str, ...], list[str]]:
    """The targets, and remarks; columns that only count the rows are none unless they are named."""
    if options.targets:
        return options.targets, []
    others = {name.strip() for name in (*options.covariates, *options.known)}
    numeric = [
        k
        for k, name in enumerate(table.header)
        if k != date_index and name not in others and table.is_numeric(k)
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
        if name and name not in others and k != date_index and k not in numeric:
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


def _refuse_twice(table: Table, named: list[tuple[str, str]], date_index: int | None) -> None:
    """Raise InputError for a column that is named twice, or is the date."""
    seen = {} if date_index is None else {table.header[date_index]: "--date-column"}
    for name, flag in named:
        if (before := seen.get(name.strip())) is not None:
            raise InputError(f"{flag} names {name!r}, which is that of {before}; name it once")
        seen[name.strip()] = flag


def _without_duplicates(
    table: Table,
    options: ReadOptions,
    dates: np.ndarray,
    values: Float64[np.ndarray, "N K"],
    lines: Int64[np.ndarray, " N"],
    remarks: list[str],
) -> tuple[np.ndarray, Float64[np.ndarray, "U K"], Int64[np.ndarray, " U"]]:
    """One row for each date."""
    first = np.concatenate([[True], np.diff(dates) > np.timedelta64(0)])
    count = int((~first).sum())
    if not count:
        return dates, values, lines
    if options.duplicates == "error":
        k = int(np.nonzero(~first)[0][0])
        raise InputError(
            f"{table.path} has {count:,} rows whose date was there before, the first in line "
            f"{lines[k]} ({show_date(dates[k])}, as in line {lines[k - 1]}); "
            + _advice(table, int(lines[k - 1]), int(lines[k]))
        )
    (starts,) = np.nonzero(first)
    if options.duplicates == "mean":
        there = ~np.isnan(values)
        sums = np.add.reduceat(np.where(there, values, 0), starts)
        counts = np.add.reduceat(there.astype(np.int64), starts)
        kept = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    else:
        ends = np.append(starts[1:], len(dates)) - 1
        kept = values[starts if options.duplicates == "first" else ends]
    what = "their mean" if options.duplicates == "mean" else f"the {options.duplicates}"
    remarks.append(f"of {count:,} rows with a date that was there before, {what} is taken")
    return dates[starts], kept, lines[starts]


def _advice(table: Table, before: int, line: int) -> str:
    """What to do about two rows of one date, by what they differ in."""
    one, two = (table.rows[table.lines.index(k)] for k in (before, line))
    for name, a, b in zip(table.header, one, two, strict=True):
        if a != b and all(re.fullmatch(r"\s*\d{1,2}:\d{2}(:\d{2})?\s*", text) for text in (a, b)):
            return f"their times are in column {name!r}: write date and time into one column"
        if a != b and table.number(a) is None and table.number(b) is None and a and b:
            return (
                f"they are of {a!r} and {b!r} in column {name!r}: give each a file of its own, or "
                "a column"
            )
    return "set --duplicates first, last or mean"


def _on_grid(
    table: Table,
    frequency: Frequency | None,
    dates: np.ndarray,
    values: Float64[np.ndarray, "U K"],
    lines: Int64[np.ndarray, " U"],
) -> tuple[np.ndarray, Float64[np.ndarray, "N K"], Bool[np.ndarray, " N"]]:
    """A row for each step, NaN where the file has none, and where that is."""
    if frequency is None:
        return dates, values, np.zeros(len(values), bool)
    places = frequency.places(dates)
    off = (places < 0) | (np.diff(places, prepend=-1) < 1)
    if off.any():
        k = int(np.nonzero(off)[0][0])
        months = dates.astype("datetime64[M]").astype(np.int64)
        if len(months) > 2 and (np.diff(months) == 1).all():
            raise InputError(
                f"{table.path}, line {lines[k]}: {show_date(dates[k])} and others are one a month, "
                "on days that differ; write months alone, as 2020-01"
            )
        raise InputError(
            f"{table.path}, line {lines[k]}: {show_date(dates[k])} lies between two steps of a "
            f"series that is {frequency.name}; correct it, or take rows as they are with "
            "--date-column none"
        )
    num_steps = int(places[-1]) + 1
    if num_steps > MAX_STRETCH * len(dates):
        raise InputError(
            f"{table.path} has {len(dates):,} rows in {num_steps:,} steps that are "
            f"{frequency.name}: no regular series; take rows as they are with --date-column none"
        )
    whole = np.full((num_steps, values.shape[1]), np.nan)
    whole[places] = values
    absent = np.isin(np.arange(num_steps), places, invert=True)
    return frequency.after(dates[0], num_steps, first=0), whole, absent


def _filled(
    table: Table,
    options: ReadOptions,
    values: Float64[np.ndarray, "N K"],
    absent: Bool[np.ndarray, " N"],
    dates: np.ndarray | None,
    names: Sequence[str],
    remarks: list[str],
) -> tuple[int, Float64[np.ndarray, "M K"], Bool[np.ndarray, "M K"]]:
    """The first row before which every column has a value, the rows from it on, what was missing.

    Each missing value is the last before it.
    """
    missing = np.asarray(np.isnan(values))
    if not missing.any():
        return 0, values, missing
    num_rows, num_values = int(absent.sum()), int(missing[~absent].sum())
    row, column = (int(k) for k in np.argwhere(missing)[0])
    at = f"step {row + 1}" if dates is None else show_date(dates[row])
    found = " and ".join(
        f"{count:,} {what}{'s' * (count > 1)}"
        for count, what in ((num_rows, "missing row"), (num_values, "missing value"))
        if count
    )
    if options.gaps == "error":
        where = at if absent[row] else f"{at}, column {names[column]!r}"
        raise InputError(
            f"{table.path} has {found}, the first at {where}; set --gaps interpolate or previous, "
            "or fill them in"
        )
    empty = [name for k, name in enumerate(names) if missing[:, k].all()]
    if empty:
        raise InputError(f"{table.path} has no value at all in {listed(empty)}; leave it out")
    how = "read as the value before"
    if options.gaps == "interpolate":
        how += ", learnt from as interpolated"
    remarks.append(f"{found}, the first at {at}, {how}; not scored")
    begin = int((~missing).argmax(0).max())
    if begin:
        name = names[int((~missing).argmax(0).argmax())]
        remarks.append(f"the {begin:,} rows before the first value of {name!r} are left out")
    steps = np.where(missing, 0, np.arange(len(values))[:, None])
    carried = np.take_along_axis(values, np.maximum.accumulate(steps), 0)
    return begin, carried[begin:], missing[begin:]


def interpolated(
    values: Float[np.ndarray, "N C"], missing: Bool[np.ndarray, "N C"], end: int
) -> Float[np.ndarray, "N C"]:
    """The rows before ``end`` with what is missing between two of them on a line; others as given.

    After the last value before ``end`` that value is kept: rows from ``end`` on are not read.
    """
    found, steps = values.copy(), np.arange(end)
    for k in range(values.shape[1]):
        there = ~missing[:end, k]
        if there.any():
            found[:end, k] = np.interp(steps, steps[there], values[:end, k][there])
    return found


def split_rows(split: str, series: Series) -> tuple[int, int, int]:
    """The ends of the parts to train on, validate and test: rows before each.

    ``split``: three fractions of all rows, three numbers of rows, or two dates, at which
    validation and test begin. Raises InputError for anything else.
    """
    parts, num_rows = [part.strip() for part in split.split(",")], len(series.values)
    if len(parts) == 2 and series.dates is not None:
        try:
            begins = parse_dates(parts)
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
