"""Rows of a table on one grid of dates: what is there twice, between two steps, or missing.

Usage::

    dates, values, lines = without_duplicates(table, "mean", dates, values, lines, remarks)
    dates, values, absent = on_grid(table, frequency, dates, values, lines)
    begin, values, missing = carried(table, "previous", values, absent, dates, names, remarks)
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from jaxrnn.data.date_text import show_date
from jaxrnn.data.dates import Frequency
from jaxrnn.data.table import Table, listed
from jaxrnn.errors import InputError

MAX_STRETCH = 20  # steps that the dates may span, for each row that there is


def without_duplicates(
    table: Table,
    how: str,
    dates: np.ndarray,
    values: Float64[np.ndarray, "N K"],
    lines: Int64[np.ndarray, " N"],
    remarks: list[str],
) -> tuple[np.ndarray, Float64[np.ndarray, "U K"], Int64[np.ndarray, " U"]]:
    """One row for each date: ``how`` is error, first, last or mean. Remarks are added to.

    Raises InputError for rows with the same date where that is an error.
    """
    first = np.concatenate([[True], np.diff(dates) > np.timedelta64(0, "s")])
    count = int((~first).sum())
    if not count:
        return dates, values, lines
    if how == "error":
        k = int(np.nonzero(~first)[0][0])
        raise InputError(
            f"{table.path} has {count:,} row{'s' * (count > 1)} whose date was there before, the "
            f"first in line {lines[k]} ({show_date(dates[k])}, as in line {lines[k - 1]}); "
            + _advice(table, int(lines[k - 1]), int(lines[k]))
        )
    (starts,) = np.nonzero(first)
    if how == "mean":
        there = ~np.isnan(values)
        sums = np.add.reduceat(np.where(there, values, 0), starts)
        counts = np.add.reduceat(there.astype(np.int64), starts)
        kept = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    else:
        ends = np.append(starts[1:], len(dates)) - 1
        kept = values[starts if how == "first" else ends]
    what = "their mean" if how == "mean" else f"the {how}"
    rows = f"{count:,} row{'s' * (count > 1)}"
    remarks.append(f"of {rows} with a date that was there before, {what} is taken")
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


def on_grid(
    table: Table,
    frequency: Frequency | None,
    dates: np.ndarray,
    values: Float64[np.ndarray, "U K"],
    lines: Int64[np.ndarray, " U"],
) -> tuple[np.ndarray, Float64[np.ndarray, "N K"], Bool[np.ndarray, " N"]]:
    """A row for each step, NaN where the file has none, and where that is.

    Raises InputError for dates between two steps, and for few rows in very many steps.
    """
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


def carried(
    table: Table,
    gaps: str,
    values: Float64[np.ndarray, "N K"],
    absent: Bool[np.ndarray, " N"],
    dates: np.ndarray | None,
    names: Sequence[str],
    remarks: list[str],
) -> tuple[int, Float64[np.ndarray, "M K"], Bool[np.ndarray, "M K"]]:
    """The first row before which every column has a value, the rows from it on, what was missing.

    Each missing value is the last before it, whatever ``gaps`` is but error. Remarks are added to.
    Raises InputError for what is missing where that is an error, and for a column without a value.
    """
    missing = np.asarray(np.isnan(values))
    if not missing.any():
        return 0, values, missing
    num_rows, num_values = int(absent.sum()), int(missing[~absent].sum())
    row, column = (int(k) for k in np.argwhere(missing)[0])
    at = f"step {row + 1}" if dates is None else show_date(dates[row])
    counted = " and ".join(
        f"{count:,} {what}{'s' * (count > 1)}"
        for count, what in ((num_rows, "missing row"), (num_values, "missing value"))
        if count
    )
    if gaps == "error":
        where = at if absent[row] else f"{at}, column {names[column]!r}"
        raise InputError(
            f"{table.path} has {counted}, the first at {where}; set --gaps interpolate or "
            "previous, or fill them in"
        )
    empty = [name for k, name in enumerate(names) if missing[:, k].all()]
    if empty:
        raise InputError(f"{table.path} has no value at all in {listed(empty)}; leave it out")
    how = "read as the value before"
    if gaps == "interpolate":
        how += ", learnt from as interpolated"
    remarks.append(f"{counted}, the first at {at}, {how}; not scored")
    begin = int((~missing).argmax(0).max())
    if begin:
        name = names[int((~missing).argmax(0).argmax())]
        rows = "row" if begin == 1 else f"{begin:,} rows"
        are = "is" if begin == 1 else "are"
        remarks.append(f"the {rows} before the first value of {name!r} {are} left out")
    steps = np.where(missing, 0, np.arange(len(values))[:, None])
    found = np.take_along_axis(values, np.maximum.accumulate(steps), 0)
    return begin, found[begin:], missing[begin:]


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
