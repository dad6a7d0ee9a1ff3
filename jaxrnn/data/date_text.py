"""Dates as files write them: text to ``datetime64[s]``.

Read are ISO dates and times with ``-``, ``/`` or ``.`` (``2016-07-01 00:00:00``, ``1749-01``), the
same without separators (``20200131T1200``), quarters and weeks (``1949 Q1``, ``2020-W05``), names
of months (``Jan 05, 2020``, ``05-Jan-2020``, ``Jan-20``), AM and PM, and days or months first where
the column shows which (``31/12/2020``); a format of ``strptime`` takes anything else. Columns of
whole numbers may be compact dates (``20200131``, ``202001``, ``202001311200``), years, or seconds
or milliseconds since 1970. Days that are written as a midnight with an offset stay those days,
other times with an offset become UTC. Usage::

    dates, is_utc = parse_dates(["2016-07-01 00:00", "2016-07-01 01:00"])
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence

import numpy as np

from jaxrnn.errors import InputError, shown

DATES = "datetime64[s]"

_OFFSET = r"\s*(Z|UTC|GMT|[+-]\d{2}(?::?\d{2})?)?"
_TIME = r"(?:[T ,]+(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,]\d+)?)?\s*([AP]\.?M\.?)?)?" + _OFFSET
_WEEKDAY = r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)[a-z]*\.?,?\s+)?"
_NAME = r"([A-Z]{3,9})\.?"
_ANY_YEAR = r"'?(\d{4}|\d{2})"


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE | re.ASCII)


_YEAR_FIRST = _compiled(rf"(\d{{4}})[-/.](\d{{1,2}})(?:[-/.](\d{{1,2}}))?{_TIME}")
_BASIC = _compiled(
    rf"(\d{{4}})(\d{{2}})(\d{{2}})[T ]+(\d{{2}}):?(\d{{2}})(?::?(\d{{2}})(?:[.,]\d+)?)?{_OFFSET}"
)
_YEAR_LAST = _compiled(rf"(\d{{1,2}})([-/.])(\d{{1,2}})[-/.](\d{{4}}|\d{{2}}){_TIME}")
_DAY_NAME = _compiled(
    rf"{_WEEKDAY}(\d{{1,2}})(?:th|st|nd|rd)?[-\s./]*{_NAME}[-\s.,/]*{_ANY_YEAR}{_TIME}"
)
_NAME_DAY = _compiled(
    rf"{_WEEKDAY}{_NAME}[-\s./]*(\d{{1,2}})(?:th|st|nd|rd)?[-\s.,/]+(\d{{4}}){_TIME}"
)
_NAME_YEAR = _compiled(rf"{_NAME}[-\s.,/]*{_ANY_YEAR}")
_YEAR_NAME = _compiled(rf"(\d{{4}})[-\s./]*{_NAME}(?:[-\s./]*(\d{{1,2}}))?{_TIME}")
_QUARTER = _compiled(r"(\d{4})[-\s/]*Q([1-4])|Q([1-4])[-\s/]*(\d{4})")
_WEEK = _compiled(r"(\d{4})[-\s]?W(\d{1,2})(?:-?([1-7]))?")
_MONTHS = (
    *("january", "february", "march", "april", "may", "june", "july", "august", "september"),
    *("october", "november", "december"),
)


class DateError(ValueError):
    """Text that is no date; ``place`` is its number in the column, or None for the whole."""

    def __init__(self, place: int | None, reason: str):
        super().__init__(reason)
        self.place = place


def check_format(date_format: str) -> None:
    """Raise InputError for what is no format of strptime, whatever the text."""
    try:
        datetime.datetime.strptime("", date_format)
    except re.error:  # %c and %x stand for several
        wrong = "a directive twice"
    except ValueError as error:
        if "directive" not in str(error) and "stray" not in str(error):
            return
        wrong = "a directive that strptime does not know"
    else:
        return
    raise InputError(
        f"--date-format is {shown(date_format)}, which has {wrong}, expected each part of a date "
        "once; write it as %d/%m/%Y %H:%M"
    )


def parse_dates(
    texts: Sequence[str], date_format: str = "", is_day_first: bool | None = None
) -> tuple[np.ndarray, bool]:
    """The dates of a column as ``datetime64[s]``, and whether they were moved to UTC.

    ``is_day_first``: whether 1/2/2020 is in February; None: as the column shows. Raises DateError
    for what is no date, and InputError for what is no format.
    """
    parse: Callable[[str], datetime.datetime]
    if date_format:
        check_format(date_format)
        parse = lambda text: datetime.datetime.strptime(text, date_format)  # noqa: E731
    else:
        if is_day_first is None:
            found = day_first(texts)
            is_day_first = True if found is None else found
        parse = lambda text: _parse(text, is_day_first)  # noqa: E731
    dates, offsets = [], []
    for place, text in enumerate(texts):
        try:
            date = parse(text.strip())
            offsets.append(date.utcoffset())
        except (ValueError, OverflowError) as error:
            expected = f"--date-format {date_format!r}" if date_format else "a date"
            raise DateError(place, f"{text.strip()!r} is not {expected} ({error})") from None
        dates.append(date.replace(tzinfo=None))
    there = [offset for offset in offsets if offset is not None]
    if len(there) not in (0, len(dates)):
        raise DateError(None, "some dates have an offset from UTC and some have none")
    found = np.array(dates, DATES)
    if not any(there) or all(date.time() == datetime.time() for date in dates):
        return found, False
    return found - np.array(there, "timedelta64[s]"), True


def is_date(text: str) -> bool:
    """Whether a text is a date, whichever of day and month comes first."""
    for is_day_first in (True, False):
        try:
            _parse(text.strip(), is_day_first)
        except (ValueError, OverflowError):
            continue
        return True
    return False


def _parse(text: str, is_day_first: bool) -> datetime.datetime:
    if match := _YEAR_FIRST.fullmatch(text):
        year, month, day, *time = match.groups()
        return _with_time(int(year), int(month), int(day or 1), *time)
    if match := _BASIC.fullmatch(text):
        year, month, day, *time, offset = match.groups()
        return _with_time(int(year), int(month), int(day), *time, None, offset)
    if match := _YEAR_LAST.fullmatch(text):
        first, _, second, year, *time = match.groups()
        day, month = (first, second) if is_day_first else (second, first)
        return _with_time(_year(year), int(month), int(day), *time)
    if match := _DAY_NAME.fullmatch(text):
        day, name, year, *time = match.groups()
        return _with_time(_year(year), _month(name), int(day), *time)
    if match := _NAME_DAY.fullmatch(text):
        name, day, year, *time = match.groups()
        return _with_time(int(year), _month(name), int(day), *time)
    if match := _NAME_YEAR.fullmatch(text):
        return datetime.datetime(_year(match[2]), _month(match[1]), 1)
    if match := _QUARTER.fullmatch(text):
        quarter = int(match[2] or match[3])
        return datetime.datetime(int(match[1] or match[4]), 3 * quarter - 2, 1)
    if match := _WEEK.fullmatch(text):
        week = int(match[1]), int(match[2]), int(match[3] or 1)
        return datetime.datetime.fromisocalendar(*week)
    if match := _YEAR_NAME.fullmatch(text):
        year, name, day, *time = match.groups()
        return _with_time(int(year), _month(name), int(day or 1), *time)
    raise ValueError("of no known form; set --date-format, as %d %b %Y")


def _year(text: str) -> int:
    """Of two digits as strptime's %y."""
    return int(text) + (0 if len(text) == 4 else 1900 if int(text) > 68 else 2000)


def _month(name: str) -> int:
    for k, month in enumerate(_MONTHS):
        if month.startswith(name.casefold()) or (k == 8 and name.casefold() == "sept"):
            return k + 1
    raise ValueError(f"{name!r} is no month")


def _with_time(year: int, month: int, day: int, *rest: str | None) -> datetime.datetime:
    hour, minute, second, half, offset = rest
    hour = int(hour or 0)
    if half:
        if not 1 <= hour <= 12:
            raise ValueError(f"{hour} is no hour of {half}")
        hour = hour % 12 + 12 * (half[0] in "pP")
    date = datetime.datetime(year, month, day, hour, int(minute or 0), int(second or 0))
    if not offset:
        return date
    if offset.upper() in ("Z", "UTC", "GMT"):
        return date.replace(tzinfo=datetime.UTC)
    offset += "00" if len(offset) == 3 else ""
    return date.replace(tzinfo=datetime.datetime.strptime(offset, "%z").tzinfo)


def day_first(texts: Sequence[str]) -> bool | None:
    """Whether 1/2/2020 is in February; None for dates of other forms.

    Raises DateError where a column does not show it.
    """
    matches = [m for text in texts if (m := _YEAR_LAST.fullmatch(text.strip()))]
    if not matches:
        return None
    is_day_first = any(int(m[1]) > 12 for m in matches)
    is_month_first = any(int(m[3]) > 12 for m in matches)
    if is_day_first and is_month_first:
        raise DateError(None, "some dates begin with the day and some with the month")
    if not (is_day_first or is_month_first) and any(m[2] != "." for m in matches):
        raise DateError(
            None,
            f"{matches[0][0]!r} may begin with its day or its month; set --date-format, as "
            "%d/%m/%Y or %m/%d/%Y",
        )
    return not is_month_first


def compact_dates(texts: Sequence[str], is_year: bool = False) -> np.ndarray | None:
    """Dates that are whole numbers, all of one form; None for other numbers.

    YYYYMMDD, YYYYMM, YYYYMMDDHHMM and YYYYMMDDHHMMSS of the years 1900 to 2100, seconds or
    milliseconds since 1970 of the years from 1973 on, and with ``is_year`` years of four digits.
    """
    fields = [text.strip().removesuffix(".0") for text in texts]
    lengths = {len(field) for field in fields}
    if not fields or not all(f.isascii() and f.isdigit() for f in fields):
        return None
    numbers = np.array([int(f) if len(f) < 19 else 0 for f in fields], np.int64)
    # Milliseconds of 1973 to 2001 have twelve digits too, but hardly ever are all of them dates.
    if lengths in ({12}, {14}) and (found := _with_clock(fields)) is not None:
        return found
    if lengths == {13} or (lengths <= {12, 13} and numbers.min() > 10**11):
        return (numbers // 1000).astype(DATES)
    if lengths == {8} and (found := _from_parts(numbers)) is not None:
        return found
    if lengths <= {9, 10} and lengths:
        return numbers.astype(DATES)
    if lengths == {6}:
        return _from_parts(numbers * 100 + 1)
    if lengths == {4} and is_year:
        return _from_parts(numbers * 10_000 + 101)
    return None


def _from_parts(numbers: np.ndarray) -> np.ndarray | None:
    """Of YYYYMMDD; None where one is no date of the years 1000 to 2999."""
    try:
        dates = [datetime.datetime(n // 10_000, n // 100 % 100, n % 100) for n in numbers.tolist()]
    except ValueError:
        return None
    return np.array(dates, DATES) if all(1000 <= date.year < 3000 for date in dates) else None


def _with_clock(fields: Sequence[str]) -> np.ndarray | None:
    """Of YYYYMMDDHHMM, with seconds or without; None where one is no date of 1900 to 2100."""
    form = "%Y%m%d%H%M%S"[: len(fields[0]) - 2]
    try:
        dates = [datetime.datetime.strptime(field, form) for field in fields]
    except ValueError:
        return None
    return np.array(dates, DATES) if all(1900 <= date.year <= 2100 for date in dates) else None


def date_of_parts(year: str, month: str, *rest: str) -> datetime.datetime:
    """Of a year, a month (its number or its name), and as many as there are of day to second.

    Raises ValueError for what is no date.
    """
    year, month, *others = (text.strip().removesuffix(".0") for text in (year, month, *rest))
    if not re.fullmatch(r"[1-9]\d{3}", year, re.ASCII):
        raise ValueError(f"{year!r} is no year of four digits")
    if month.isalpha():
        month = str(_month(month))
    for field in (month, *others):
        if not re.fullmatch(r"\d{1,2}", field, re.ASCII):
            raise ValueError(f"{field!r} is no number of one or two digits")
    day, hour, minute, second = [*map(int, others), *(1, 0, 0, 0)[len(others) :]]
    return datetime.datetime(int(year), int(month), day, hour, minute, second)


def show_date(date: np.datetime64) -> str:
    """As ISO has it, without a time of midnight."""
    text = str(date.astype(DATES)).removesuffix(":00")
    return text.removesuffix("T00:00").replace("T", " ")
