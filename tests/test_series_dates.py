import datetime
from typing import Any

import numpy as np
import pytest
from refusals import message
from table_cases import hours, read, write_table
from tolerances import assert_close

from jaxrnn.data.date_text import show_date
from jaxrnn.data.dates import Frequency
from jaxrnn.data.series import ReadOptions, read_series
from jaxrnn.data.series_grid import interpolated
from jaxrnn.errors import InputError


@pytest.fixture
def table(tmp_path):
    return lambda content: write_table(tmp_path / "a.csv", content)


def test_without_dates_rows_are_steps(table):
    series = read(table("x,y\n3,1\n1,2\n2,7\n"))
    assert (series.dates, series.frequency, series.season) == (None, None, 1)
    assert series.future_dates(3) is None
    path = table("t,x\n2020-01-02,3\n2020-01-01,4\n2021-05-05,1\n")
    series = read(path, date_column="none")
    assert series.dates is None
    np.testing.assert_array_equal(series.values[:, 0], [3, 4, 1])


def test_the_date_column_is_named_or_has_a_format(table):
    path = table("a,b,x\n2020-01-01,01/02/2020,1\n2020-01-02,02/02/2020,2\n")
    assert read(path).date_column == "a"
    series = read(path, date_column="b", date_format="%d/%m/%Y")
    assert show_date(series.dates[0]) == "2020-02-01"
    assert "may begin with its day or its month; set --date-format" in message(
        read, path, date_column="b"
    )
    assert "no column of dates as --date-format '%Y %j'" in message(read, path, date_format="%Y %j")
    for column in ("", "b"):
        twice = {"date_column": column, "date_format": "%d/%m/%Y %d"}
        text = message(read, path, **twice)
        assert text.startswith("--date-format is '%d/%m/%Y %d', which has a directive twice")
    path = table("a,x\n2020-01-01,1\nyesterday,2\n")
    assert message(read, path).startswith(f"{path}, line 3: column 'a': 'yesterday' is not a date")
    path = table("year,x\n2019,1\n2020,5\n2021,2\n")
    series = read(path, date_column="year", date_format="%Y")
    assert series.frequency == Frequency("months", 12)
    assert series.targets == ("x",)


def test_rows_out_of_order_are_sorted_and_said(table):
    series = read(table(hours({2: "30", 0: "10", 1: "20"})))
    np.testing.assert_array_equal(series.values[:, 0], [10, 20, 30])
    assert series.remarks == ("rows out of order were sorted by date",)


def test_dates_that_are_there_twice(table):
    path = table("date,x\n2020-01-01,1\n2020-01-02,2\n2020-01-02,4\n2020-01-03,3\n2020-01-02,6\n")
    assert message(read, path) == (
        f"{path} has 2 rows whose date was there before, the first in line 4 (2020-01-02, as in"
        " line 3); set --duplicates first, last or mean"
    )
    for choice, value in (("first", 2), ("last", 6), ("mean", 4)):
        series = read(path, duplicates=choice)
        np.testing.assert_array_equal(series.values[:, 0], [1, value, 3])
        assert "of 2 rows with a date that was there before" in series.remarks[1]
    path = table("date,x,y\n2020-01-01,1,\n2020-01-01,,4\n2020-01-02,2,5\n")
    assert f"{path} has 1 row whose date was there before, the first in line 3" in message(
        read, path
    )
    assert read(path, duplicates="mean").remarks == (
        "of 1 row with a date that was there before, their mean is taken",
    )
    np.testing.assert_array_equal(read(path, duplicates="mean").values, [[1, 4], [2, 5]])


def test_missing_rows_and_values(table):
    path = table("date,x,y\n2020-01-01,1,2\n2020-01-02,NA,4\n2020-01-05,7,10\n2020-01-06,8,\n")
    # the step of a day is the most frequent, so that two rows are missing
    assert message(read, path) == (
        f"{path} has 2 missing rows and 2 missing values, the first at 2020-01-02, column 'x';"
        " set --gaps interpolate or previous, or fill them in"
    )
    series = read(path, gaps="interpolate")
    assert len(series.dates) == 6
    assert "the value before, learnt from as interpolated; not scored" in series.remarks[0]
    line = interpolated(series.values, series.missing, 6)
    assert_close(line, [[1, 2], [2.5, 4], [4, 6], [5.5, 8], [7, 10], [8, 10]])
    assert_close(interpolated(series.values, series.missing, 3)[:, 0], [1, 1, 1, 1, 7, 8])
    for gaps in ("interpolate", "previous"):
        series = read(path, gaps=gaps)
        carried = [[1, 2], [1, 4], [1, 4], [1, 4], [7, 10], [8, 10]]
        np.testing.assert_array_equal(series.values, carried)
        assert np.argwhere(series.missing).tolist() == [
            [1, 0],
            [2, 0],
            [2, 1],
            [3, 0],
            [3, 1],
            [5, 1],
        ]
    path = table("date,x\n2020-01-01,\n2020-01-02,2\n2020-01-03,3\n")
    series = read(path, gaps="previous")
    np.testing.assert_array_equal(series.values[:, 0], [2, 3])
    assert [show_date(date) for date in series.dates] == ["2020-01-02", "2020-01-03"]
    assert series.remarks[1] == "the row before the first value of 'x' is left out"
    path = table("x\n1\nnull\n3\n")
    assert "1 missing value, the first at step 2, column 'x'" in message(read, path)
    path = table("x,y\n1,NA\n2,\n3,\n")
    assert "no value at all in 'y'" in message(read, path, targets=("x", "y"), gaps="previous")


def test_dates_that_are_on_no_grid(table):
    path = table(hours({k: str(k % 5) for k in range(6)}) + "2020-01-01 06:20,3\n")
    assert message(read, path) == (
        f"{path}, line 8: 2020-01-01 06:20 lies between two steps of a series that is hourly;"
        " correct it, or take rows as they are with --date-column none"
    )
    assert len(read(path, date_column="none").values) == 7
    path = table("date,x\n2020-01-01 00:00,1\n2020-01-01 00:01,2\n2021-01-01 00:00,1\n")
    assert "no regular series" in message(read, path, gaps="previous")
    with pytest.raises(InputError, match="lies between two steps of a series that is daily"):
        read_series(table(hours({0: "1", 1: "2"})), ReadOptions(), Frequency("seconds", 86_400))


def days(form: str, header: str = "date,x", count: int = 40) -> list[str]:
    start = datetime.datetime(2020, 1, 1)
    made = [(start + datetime.timedelta(k)).strftime(form) for k in range(count)]
    return [header, *(f'"{date}",{k * k % 17}' for k, date in enumerate(made))]


@pytest.mark.parametrize(
    "form",
    [
        "%b %d, %Y",
        "%d-%b-%Y",
        "%m/%d/%Y 01:00 PM",
        "%Y-%m-%d 00:00:00+00",
        "%Y-%m-%d 00:00 UTC",
        "%Y%m%d",
    ],
)
def test_newest_first_is_sorted_whatever_the_dates_look_like(table, form):
    header, *lines = days(form)
    series = read(table("\n".join([header, *lines[::-1]])))
    assert series.targets == ("x",)
    assert series.frequency == Frequency("seconds", 86_400)
    np.testing.assert_array_equal(series.values[:, 0], [k * k % 17 for k in range(40)])
    assert series.remarks == ("rows out of order were sorted by date",)


@pytest.mark.parametrize(("field", "line"), [("", 2), ("2020-13-01", 2)])
def test_a_column_is_judged_by_most_of_its_rows(table, field, line):
    lines = days("%Y-%m-%d")
    lines[line - 1] = f"{field},5"
    text = message(read, path := table("\n".join(lines)))
    assert text.startswith(f"{path}, line {line}: column 'date': {field!r} is not a date")
    assert text.endswith("--date-column none")


@pytest.mark.parametrize("header", ["date,x", "Order Date,x", "when,x"])
def test_dates_of_no_known_form_are_no_text(table, header):
    path = table("\n".join([header, "1st of 2020,5", "2nd of 2020,6", "3rd of 2020,4"]))
    assert message(read, path).startswith(f"{path}, line 2: column {header[:-2]!r}: '1st of 2020'")
    assert "set --date-format" in message(read, path)
    assert read(path, date_column="none").targets == ("x",)
    assert read(table("shop,x\nberlin,1\nulm,2\n")).dates is None
    assert read(table("shop,code,x\nberlin,a12,1\nulm,b7,2\n")).targets == ("x",)


def test_days_of_a_place_stay_its_days_and_hours_become_utc(table):
    lines = ["2020-03-29 00:00+01:00,1", "2020-03-30 00:00+02:00,2", "2020-03-31 00:00+02:00,4"]
    series = read(table("\n".join(["date,x", *lines])))
    assert series.frequency == Frequency("seconds", 86_400)
    assert show_date(series.dates[0]) == "2020-03-29"
    assert (series.is_utc, series.remarks) == (False, ())
    lines = ["2020-03-29 01:00+01:00,1", "2020-03-29 03:00+02:00,2", "2020-03-29 04:00+02:00,4"]
    series = read(table("\n".join(["date,x", *lines])))
    assert series.frequency == Frequency("seconds", 3600)
    assert show_date(series.dates[0]) == "2020-03-29"
    assert (series.is_utc, series.remarks) == (True, ("times with an offset were moved to UTC",))


def test_years_and_stamps_are_dates_by_their_name(table):
    for name in ("year", "date"):
        series = read(table(f"{name},x\n1999,5\n2000,3\n2001,8\n2003,9\n"), gaps="previous")
        assert (series.date_column, series.targets) == (name, ("x",))
        assert series.frequency == Frequency("months", 12)
    path = table("n,x\n1999,5\n2000,3\n2001,8\n2003,9\n")
    assert read(path).dates is None
    assert read(path, date_column="n", gaps="previous").frequency == Frequency("months", 12)
    series = read(
        table("ts,x\n1577836800,5\n1577840400,3\n1577844000,8\n1577851200,9\n"), gaps="previous"
    )
    assert series.frequency == Frequency("seconds", 3600)
    assert len(series.values) == 5
    series = read(table("time,x\n0,5\n10,3\n25,8\n30,9\n"))
    assert series.targets == ("x",)
    assert "'time' only counts the rows" in series.remarks[0]


@pytest.mark.parametrize(
    ("header", "rows", "step", "last"),
    [
        ("year,month,day", ["2020,1,30", "2020,01,31", "2020,2,1.0"], (86_400,), "2020-02-01"),
        ("x,Month,Year", ["8,Nov,2019", "2,Dec,2019", "7,January,2020"], 1, "2020-01-01"),
        (
            "No,year,month,day,hour",  # as the sensors of Beijing have it
            ["1,2010,1,1,22", "2,2010,1,1,23", "3,2010,1,2,0"],
            (3600,),
            "2010-01-02",
        ),
        (
            "jahr,monat,tag,stunde,minute",
            ["2020,2,29,23,30", "2020,2,29,23,45", "2020,3,1,0,0"],
            (900,),
            "2020-03-01",
        ),
    ],
)
def test_columns_of_years_months_and_days_are_joined(table, header, rows, step, last):
    rows = [f"{row},{k * k}" for k, row in enumerate(rows)]
    series = read(table("\n".join([f"{header},y", *rows])))
    assert series.targets == (("x", "y") if "x" in header else ("y",))
    assert series.values[:, -1].tolist() == [0, 1, 4]
    assert show_date(series.dates[-1]) == last
    assert series.frequency == (Frequency("months") if step == 1 else Frequency("seconds", *step))
    assert series.date_column == "date"
    names = [name for name in header.split(",") if name not in ("No", "x")]
    names = ["Year", "Month"] if names[0] == "Month" else names
    assert series.remarks[-1] == f"{', '.join(map(repr, names))} are joined into one date"


def test_what_is_no_date_of_parts(table):
    path = table("year,month,day,x\n2020,2,28,1\n2020,2,30,2\n2020,3,1,4\n")
    assert message(read, path) == (
        f"{path}, line 3: year '2020', month '2', day '30' is no date; correct it, name a column "
        "of dates with --date-column, or take rows as they are with --date-column none"
    )
    assert read(path, date_column="none").dates is None
    # A column of whole dates before them is read; one part may be known of the future, too.
    path = table("date,year,month,x\n2020-01-05,2020,1,3\n2020-01-06,2020,1,5\n")
    assert read(path).date_column == "date"
    path = table("year,month,x\n2020,1,3\n2020,2,5\n")
    assert read(path, known=("month",)).names == ("x", "month")
    # No years of four digits, no months: what it was.
    assert read(table("year,month,x\n1,1,3\n1,2,5\n2,1,4\n")).dates is None
    path = table("year,day,x\n2019,1,3\n2020,1,5\n2021,1,5\n")
    assert read(path).date_column == "year"


@pytest.mark.parametrize("of_run", [False, True])
def test_months_end_or_begin_as_in_the_file_whatever_the_run_has(table, of_run):
    step = Frequency("months", 1, month_end=of_run)

    def shown(*dates: str) -> list[str]:
        path = table("\n".join(["date,x", *(f"{date},{k}" for k, date in enumerate(dates))]))
        series: Any = read_series(path, ReadOptions(), step)
        return [show_date(date) for date in (*series.dates, *series.future_dates(2))]

    ends = ["1954-01-31", "1954-02-28", "1954-03-31", "1954-04-30"]
    begins = ["1954-01-01", "1954-02-01", "1954-03-01", "1954-04-01"]
    assert shown(*ends[:2]) == ends
    assert shown(*begins[:2]) == begins
    assert shown(ends[1]) == ends[1:]
    assert shown(begins[1]) == begins[1:]
