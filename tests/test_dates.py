import datetime
from typing import Any

import numpy as np
import pytest
from refusals import message
from tolerances import assert_close

from jaxrnn.data.date_text import DateError, compact_dates, parse_dates
from jaxrnn.data.dates import (
    Frequency,
    calendar,
    calendar_names,
    infer_frequency,
)
from jaxrnn.errors import InputError

DAY = 86_400


def dates(*texts: str) -> np.ndarray:
    return np.array(texts, "datetime64[s]")


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2016-07-01 00:00:00", "2016-07-01 13:05:09"], ["2016-07-01", "2016-07-01T13:05:09"]),
        (["1749-01", "1749-12"], ["1749-01-01", "1749-12-01"]),
        (["2016/7/1 9:30", "2016.07.02"], ["2016-07-01T09:30", "2016-07-02"]),
        (["1949Q1", "1949-Q4"], ["1949-01-01", "1949-10-01"]),
        (["31/12/2020", "01/02/2021"], ["2020-12-31", "2021-02-01"]),
        (["12/31/2020", "01/02/2021"], ["2020-12-31", "2021-01-02"]),
        (["01.02.2020 07:00", "02.02.2020"], ["2020-02-01T07:00", "2020-02-02"]),
        (["31-12-68", "1-1-69"], ["2068-12-31", "1969-01-01"]),
        (["2020-01-01T01:00+02:00", "2020-01-01T00:00Z"], ["2019-12-31T23:00", "2020-01-01"]),
        (["2020-03-01 00:00:00.000000"], ["2020-03-01"]),
        (
            ["Jan 05, 2020", "December 31 2021", "Sept. 1, 2020"],
            ["2020-01-05", "2021-12-31", "2020-09-01"],
        ),
        (["05-Jan-2020", "5 March 20", "2020-Feb-29"], ["2020-01-05", "2020-03-05", "2020-02-29"]),
        (["Jan-20", "Dec 1999"], ["2020-01-01", "1999-12-01"]),
        (["Wed, 01 Jan 2020 10:00:00 GMT"], ["2020-01-01T10:00"]),
        (["01/31/2020 01:00 PM", "01/31/2020 12:30 am"], ["2020-01-31T13:00", "2020-01-31T00:30"]),
        (["2020-01-01 06:00+00", "2020-01-01 06:00-05"], ["2020-01-01T06:00", "2020-01-01T11:00"]),
        (["2020-03-29 00:00+01:00", "2020-03-30 00:00+02:00"], ["2020-03-29", "2020-03-30"]),
        (["2020-01-01 00:00:00 UTC"], ["2020-01-01"]),
        (["2020-W01", "2020-W05", "2020W53-7"], ["2019-12-30", "2020-01-27", "2021-01-03"]),
        (["1950 Q1", "Q4 1950"], ["1950-01-01", "1950-10-01"]),
        (["20200131T000000", "20200131T235901"], ["2020-01-31", "2020-01-31T23:59:01"]),
        (["20200131T0000", "20200131 1305"], ["2020-01-31", "2020-01-31T13:05"]),
        (["20200131T060000.000Z", "20200131T070000+0100"], ["2020-01-31T06:00"] * 2),
    ],
)
def test_dates_as_found_in_the_wild(texts, expected):
    np.testing.assert_array_equal(parse_dates([f" {t} " for t in texts])[0], dates(*expected))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["2020-01-01 06:00+01:00", "2020-01-01 07:00Z"], True),
        (["2020-03-29 00:00+01:00", "2020-03-30 00:00+02:00"], False),  # days as people have them
        (["2020-01-01 06:00Z", "2020-01-01 07:00+00:00"], False),
        (["2020-01-01 06:00", "2020-01-01 07:00"], False),
    ],
)
def test_it_is_told_where_times_were_moved(texts, expected):
    assert parse_dates(texts)[1] is expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["20200131", "20200201"], ["2020-01-31", "2020-02-01"]),
        (["202001", "202012"], ["2020-01-01", "2020-12-01"]),
        (["1577836800", "1577840400.0"], ["2020-01-01", "2020-01-01T01:00"]),
        (["1577836800000"], ["2020-01-01"]),
        (["202001310000", "202001312359"], ["2020-01-31", "2020-01-31T23:59"]),
        (["20200131000000", "20200201000001.0"], ["2020-01-31", "2020-02-01T00:00:01"]),
        (["946684800000", "946688400000"], ["2000-01-01", "2000-01-01T01:00"]),  # milliseconds
        (["202001312400", "202002010000"], ["1976-05-26T23:28:32", "1976-05-26T23:40:10"]),
        (["210112312359", "210101010000"], ["1976-08-28T20:31:52", "1976-08-28T17:23:30"]),
        (["1999", "2000"], ["1999-01-01", "2000-01-01"]),
    ],
)
def test_whole_numbers_may_be_dates(texts, expected):
    np.testing.assert_array_equal(compact_dates(texts, is_year=True), dates(*expected))
    if len(texts[0]) == 4:
        assert compact_dates(texts) is None
    assert compact_dates([*texts, "17"]) is None
    assert compact_dates([*texts, "x"]) is None


def test_a_format_of_ones_own():
    found, _ = parse_dates(["3 Mar 2020", "4 Apr 2021"], "%d %b %Y")
    np.testing.assert_array_equal(found, dates("2020-03-03", "2021-04-04"))
    with pytest.raises(DateError, match=r"'x' is not --date-format '%Y'") as caught:
        parse_dates(["2020", "x"], "%Y")
    assert caught.value.place == 1


@pytest.mark.parametrize(
    ("date_format", "wrong"),
    [
        *((text, "a directive twice") for text in ("%Y%Y", "%c%c", "%d %d %m %Y", "%c %H")),
        *((text, "a directive that strptime does not know") for text in ("%q", "%Y-%", "%\n")),
    ],
)
def test_what_is_no_format_is_said(date_format, wrong):
    assert message(parse_dates, ["2020-01-01"], date_format) == (
        f"--date-format is {date_format!r}, which has {wrong}, expected each part of a date once; "
        "write it as %d/%m/%Y %H:%M"
    )


@pytest.mark.parametrize(
    ("texts", "place", "expected"),
    [
        (["01/02/2020", "03/04/2020"], None, "set --date-format, as %d/%m/%Y or %m/%d/%Y"),
        (["13/02/2020", "03/14/2020"], None, "begin with the day and some with the month"),
        (["2020-01-01", "2020-02-30"], 1, "'2020-02-30' is not a date"),
        (["2020-01-01", ""], 1, "of no known form"),
        (["2020-01-01", "2020-01-02T00:00Z"], None, "have an offset from UTC and some have none"),
    ],
)
def test_what_is_no_date_is_said(texts, place, expected):
    with pytest.raises(DateError) as caught:
        parse_dates(texts)
    assert expected in str(caught.value)
    assert caught.value.place == place


@pytest.mark.parametrize(
    ("found", "expected", "name", "season"),
    [
        (["2016-07-01T00:00", "2016-07-01T01:00", "2016-07-01T02:00"], (3600,), "hourly", 24),
        (["2016-07-01T00:00", "2016-07-01T00:15"], (900,), "every 15 minutes", 96),
        (["1981-12-30", "1981-12-31", "1982-01-01"], (DAY,), "daily", 7),
        (["2020-01-06", "2020-01-13"], (7 * DAY,), "weekly", 52),
        (["2021-02-01", "2021-03-01", "2021-04-01"], ("months", 1), "monthly", 12),
        (["2021-01-31", "2021-02-28", "2021-03-31"], ("months", 1, True), "monthly", 12),
        (["1949-01-01", "1949-04-01", "1949-07-01"], ("months", 3), "quarterly", 4),
        (["1949-01-01", "1950-01-01", "1951-01-01"], ("months", 12), "yearly", 1),
    ],
)
def test_the_step_is_the_most_frequent_one(found, expected, name, season):
    frequency: Any = infer_frequency(dates(*found))
    unit: Any = ("seconds", *expected) if isinstance(expected[0], int) else expected
    assert frequency == Frequency(*unit)
    assert (frequency.name, frequency.season) == (name, season)
    assert Frequency.from_dict(frequency.to_dict()) == frequency


def test_a_missing_row_does_not_change_the_step():
    hours = np.delete(np.arange(40), [3, 4, 20])
    found = dates("2020-01-01")[0] + hours.astype("timedelta64[h]")
    frequency: Any = infer_frequency(found)
    assert frequency == Frequency("seconds", 3600)
    np.testing.assert_array_equal(frequency.places(found), hours)
    off = np.append(found, found[-1] + np.timedelta64(30, "m"))
    assert frequency.places(off)[-1] == -1


def test_days_without_weekends_are_weekdays():
    days = np.arange(np.datetime64("2021-03-01"), np.datetime64("2021-03-27"))
    days = days[np.is_busday(days)].astype("datetime64[s]")
    frequency: Any = infer_frequency(days)
    assert (frequency, frequency.season) == (Frequency("weekdays"), 5)
    np.testing.assert_array_equal(frequency.places(days), np.arange(20))
    np.testing.assert_array_equal(frequency.after(days[-1], 2), dates("2021-03-29", "2021-03-30"))
    assert infer_frequency(days[:5]) == Frequency("seconds", DAY)  # too few to tell


def test_dates_go_on():
    month = Frequency("months", 1)
    np.testing.assert_array_equal(
        month.after(dates("2019-12-31")[0], 3), dates("2020-01-31", "2020-02-29", "2020-03-31")
    )
    end = Frequency("months", 1, True)
    np.testing.assert_array_equal(
        end.after(dates("2020-02-29")[0], 2), dates("2020-03-31", "2020-04-30")
    )
    hour = Frequency("seconds", 3600)
    np.testing.assert_array_equal(
        hour.after(dates("2020-02-29T23:00")[0], 2, first=0),
        dates("2020-02-29T23:00", "2020-03-01"),
    )
    for start in ("2019-12-31", "2020-02-01"):
        found = month.after(dates(start)[0], 30, first=0)
        np.testing.assert_array_equal(month.places(found), np.arange(30))


def test_a_damaged_frequency_is_refused():
    for values in ({"unit": "years"}, {"unit": "months", "step": 0}, 3, {"step": 1}):
        with pytest.raises(InputError, match=r"frequency is .* damaged"):
            Frequency.from_dict(values)


def test_calendar_features_are_waves_of_the_phase():
    found = dates("2024-02-29T06:00", "2023-12-31T18:00", "1969-07-20T00:00")
    names = ("hour", "weekday", "month_day", "year_day", "month")
    phases = []
    for text in ("2024-02-29T06:00", "2023-12-31T18:00", "1969-07-20T00:00"):
        date = datetime.datetime.fromisoformat(text)
        day = date.hour / 24
        days = 366 if date.year == 2024 else 365
        month_days = {2: 29, 12: 31, 7: 31}[date.month]
        phases.append(
            [
                day,
                (date.weekday() + day) / 7,
                (date.day - 1 + day) / month_days,
                (date.timetuple().tm_yday - 1 + day) / days,
                (date.month - 1) / 12,
            ]
        )
    waves = [[f(2 * np.pi * p) for p in row for f in (np.sin, np.cos)] for row in phases]
    assert_close(calendar(found, names), waves)
    assert calendar(found, ()).shape == (3, 0)


def test_cycles_are_those_that_the_step_shows_and_the_rows_go_through_twice():
    assert calendar_names(Frequency("seconds", 3600), 24 * 14) == ("hour", "weekday")
    assert calendar_names(Frequency("seconds", 3600), 24 * 13) == ("hour",)
    assert calendar_names(Frequency("seconds", 3600), 24 * 731) == ("hour", "weekday", "year_day")
    assert calendar_names(Frequency("seconds", DAY), 800) == ("weekday", "month_day", "year_day")
    assert calendar_names(Frequency("seconds", 7 * DAY), 110) == ("year_day",)
    assert calendar_names(Frequency("months"), 24) == ("month",)
    assert calendar_names(Frequency("months"), 23) == ()
    assert calendar_names(None, 1000) == ()
