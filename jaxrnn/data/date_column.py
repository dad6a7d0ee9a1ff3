"""Which column of a table has its dates, and these dates.

A column is judged by most of its rows. One of numbers is compact dates only by its name, or where
it is named. Columns ``year, month`` and so on to ``second`` are one date. Usage::

    found = find_dates(table)
    found.place, found.dates
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxrnn.data.date_text import (
    DATES,
    DateError,
    compact_dates,
    date_of_parts,
    day_first,
    is_date,
    parse_dates,
)
from jaxrnn.data.table import Table, is_missing
from jaxrnn.errors import InputError

NO_DATES = "none"  # the date column that says that there is none
NAMES = {
    *("date", "dates", "time", "datetime", "timestamp", "ts", "ds", "day", "week", "month"),
    *("quarter", "year", "period", "unix", "epoch", "datum", "zeit", "tag", "woche", "monat"),
    *("quartal", "jahr"),
}
PARTS = (
    *({"year", "jahr"}, {"month", "monat"}, {"day", "tag"}),
    *({"hour", "stunde"}, {"minute"}, {"second", "sekunde"}),
)
JUDGED = 1000  # rows of a column, at most, by which it is judged
_NUMBER_LIKE = re.compile(r"[-+$€£]?[\d.,' ]+[%€$£]?")


class Found(NamedTuple):
    """A date column; all are None without one."""

    place: int | None = None  # among the columns
    dates: np.ndarray | None = None  # (N,) datetime64[s]
    is_day_first: bool | None = None  # whether 1/2/2020 is in February; None: no such dates
    is_utc: bool = False  # whether they were moved there by an offset
    parts: tuple[int, ...] = ()  # the columns that are joined into the date, place among them

    def name(self, table: Table) -> str:
        """Of the column; empty without one."""
        return "date" if self.parts else "" if self.place is None else table.header[self.place]


def find_dates(
    table: Table,
    date_column: str = "",
    date_format: str = "",
    is_day_first: bool | None = None,
) -> Found:
    """The place of the date column, and its dates.

    ``is_day_first``: of a column that does not show it. Raises InputError for dates that can't be
    read, the first of them named.
    """
    if date_column == NO_DATES and NO_DATES not in table.header:
        return Found()
    if date_column:
        index = table.column(date_column, "--date-column")
    else:
        index = _place(table, date_format)
        parts = () if date_format else _parts(table)
        if parts and index in (None, *parts):
            return Found(parts[0], _joined(table, parts), parts=parts)
        if index is None:
            if date_format:
                raise InputError(
                    f"{table.path} has no column of dates as --date-format {date_format!r} has "
                    "them; name it with --date-column"
                )
            _refuse_unread(table)
            return Found()
    texts = table.texts(index)
    if not date_format:
        is_year = bool(date_column) or bool(_words(table, index) & {"year", "jahr", "date"})
        dates = compact_dates(texts, is_year)
        if dates is not None:
            return Found(index, dates)
    try:
        order = None
        if not date_format:
            try:
                order = day_first(texts)
            except DateError:
                if is_day_first is None:
                    raise
                order = is_day_first
        dates, is_utc = parse_dates(texts, date_format, order)
        return Found(index, dates, order, is_utc)
    except DateError as error:
        where = table.path
        if error.place is not None:
            where += f", line {table.lines[error.place]}"
        raise InputError(
            f"{where}: column {table.header[index]!r}: {error}; or take rows as they are with "
            "--date-column none"
        ) from None


def has_date_name(table: Table, index: int) -> bool:
    """Whether a column is named as dates are."""
    return bool(_words(table, index) & NAMES)


def _words(table: Table, index: int) -> set[str]:
    return set(re.findall(r"[a-z]+", table.header[index].casefold()))


def _judged(table: Table, index: int) -> list[str]:
    """Some of a column's fields, from all over it, without those that are missing."""
    texts = table.texts(index)
    return [text for text in texts[:: -(-len(texts) // JUDGED)] if not is_missing(text)]


def _place(table: Table, date_format: str) -> int | None:
    """The first column of dates."""
    for k in range(len(table.header)):
        fields = _judged(table, k)
        if not fields:
            continue
        if date_format:
            if sum(_has_format(field, date_format) for field in fields) * 2 > len(fields):
                return k
            continue
        if sum(table.number(field) is None for field in fields) * 2 > len(fields):
            if sum(map(is_date, fields)) * 2 >= len(fields):
                return k
        elif has_date_name(table, k):
            is_year = bool(_words(table, k) & {"year", "jahr", "date"})
            dates = compact_dates(table.texts(k), is_year)
            if dates is not None and len(np.unique(dates)) > 1:
                return k
    return None


def _parts(table: Table) -> tuple[int, ...]:
    """Columns of years, months and so on that most rows have a date in; none without months."""
    header = [name.casefold() for name in table.header]
    found: list[int] = []
    for names in PARTS:
        places = [k for k, name in enumerate(header) if name in names]
        if len(places) != 1:
            break
        found += places
    if len(found) < 2:
        return ()
    step = -(-len(table.rows) // JUDGED)
    judged = table.rows[::step]
    are_dates = sum(_date_of(row, found) is not None for row in judged)
    return tuple(found) if are_dates * 2 > len(judged) else ()


def _date_of(row: list[str], parts: Sequence[int]) -> datetime.datetime | None:
    try:
        return date_of_parts(*(row[k] for k in parts))
    except ValueError:
        return None


def _joined(table: Table, parts: tuple[int, ...]) -> np.ndarray:
    """The dates in these columns; raises InputError, naming the first row that has none."""
    dates = [_date_of(row, parts) for row in table.rows]
    if None in dates:
        row = dates.index(None)
        named = ", ".join(f"{table.header[k]} {table.rows[row][k].strip()!r}" for k in parts)
        raise InputError(
            f"{table.path}, line {table.lines[row]}: {named} is no date; correct it, name a column "
            "of dates with --date-column, or take rows as they are with --date-column none"
        )
    return np.array(dates, DATES)


def _has_format(text: str, date_format: str) -> bool:
    try:
        parse_dates([text], date_format)
    except DateError:
        return False
    return True


def _refuse_unread(table: Table) -> None:
    """Raise InputError for a column of dates by its name, or that is the first of the texts."""
    is_first = True
    for k, name in enumerate(table.header):
        fields = _judged(table, k)
        is_text = sum(table.number(field) is None for field in fields) * 2 > len(fields)
        if not is_text:
            continue
        like_numbers = sum(_NUMBER_LIKE.fullmatch(field.strip()) is not None for field in fields)
        has_digits = sum(any(map(str.isdigit, field)) for field in fields)
        looks_so = is_first and has_digits * 2 > len(fields) > 2 * like_numbers
        is_first = False
        if has_date_name(table, k) or looks_so:
            row = next(i for i, text in enumerate(table.texts(k)) if not is_date(text))
            raise InputError(
                f"{table.path}, line {table.lines[row]}: column {name!r}: "
                f"{table.rows[row][k].strip()!r} is not a date of a known form; set --date-format, "
                "as %d %b %Y, or take rows as they are with --date-column none"
            )
