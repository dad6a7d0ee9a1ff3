import codecs
import csv
import datetime
import io
from typing import Any

import numpy as np
import pytest
from refusals import message
from tolerances import assert_close

from jaxrnn.data.date_text import show_date
from jaxrnn.data.dates import Frequency
from jaxrnn.data.series import ReadOptions, made_series, read_series, split_rows
from jaxrnn.data.series_grid import interpolated
from jaxrnn.data.table import read_table
from jaxrnn.errors import InputError


@pytest.fixture
def table(tmp_path):
    def write(content: str | bytes) -> str:
        path = tmp_path / "a.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def read(path, **options) -> Any:
    return read_series(path, ReadOptions(**options))


def hours(rows: dict[int, str], header="date,x") -> str:
    lines = [f"2020-01-{1 + k // 24:02} {k % 24:02}:00,{value}" for k, value in rows.items()]
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize(
    "content",
    [
        '"Month","Passengers"\n"1949-01",112.5\n"1949-02",118\n"1949-03",-1\n',
        "Month;Passengers\r\n1949-01;112,5\r\n1949-02;118\r\n1949-03;-1\r\n",
        codecs.BOM_UTF8 + b"Month\tPassengers\n1949-01\t112,5\n1949-02\t1,18e2\n1949-03\t-1",
        "Passengers|Month\n112.5|1949-01\n118|1949-02\n-1|1949-03\n\n",
    ],
)
def test_files_as_found_in_the_wild(table, content):
    series = read(table(content))
    assert (series.targets, series.date_column) == (("Passengers",), "Month")
    assert series.frequency == Frequency("months")
    np.testing.assert_array_equal(series.values[:, 0], [112.5, 118, -1])
    months = np.array(["1949-01", "1949-02", "1949-03"], "datetime64[M]")
    np.testing.assert_array_equal(series.dates, months.astype("datetime64[s]"))
    np.testing.assert_array_equal(
        series.future_dates(1), np.array(["1949-04"], "datetime64[M]").astype("datetime64[s]")
    )
    assert series.remarks == ()


def test_a_comma_in_a_file_of_commas_is_no_decimal_comma(table):
    path = table('date,x\n2020-01-01,"1,234"\n2020-01-02,2\n')
    assert "'1,234' in column 'x' is not a number" in message(read, path, targets=("x",))
    assert read_table(table("a;b\n1,5;1.5\n")).numbers(0, "--targets")[0] == 1.5


@pytest.mark.parametrize(
    ("bad", "shown"),
    [("12.3x", "'12.3x'"), ('"51,234"', "'51,234'"), ("5%", "'5%'"), ("#REF!", "'#REF!'")],
)
def test_a_column_that_is_not_read_is_said(table, bad, shown):
    series = read(table(f"date,x,y\n2020-01-01,1,2\n2020-01-02,2,{bad}\n2020-01-03,5,1\n"))
    assert series.targets == ("x",)
    assert series.remarks == (f"'y' is not read: line 3 has {shown}",)


@pytest.mark.parametrize("missing", ["#N/A", "n.a.", "--", "missing"])
def test_what_stands_for_a_missing_value(table, missing):
    path = table(f"date,x,y\n2020-01-01,1,2\n2020-01-02,2,{missing}\n2020-01-03,5,1\n")
    assert read(path, gaps="previous").values.tolist() == [[1, 2], [2, 2], [5, 1]]


def test_a_point_is_of_thousands_where_commas_are_of_decimals(table):
    path = table("x;y\n1,5;999\n2,5;1.003\n-1.250,75;1.234.567\n")
    assert read(path).values.tolist() == [[1.5, 999], [2.5, 1003], [-1250.75, 1234567]]
    assert read(table("x;y\n1.5;999\n2.5;1.003\n1;0\n")).values.tolist()[1] == [2.5, 1.003]
    path = table("x;y\n1,5;1.003\n2,5;1.5\n1,2;0\n")
    assert message(read, path) == (
        f"{path}, line 3: '1.5' in column 'y' has a decimal point, '1.003' in it has none; write"
        " all alike, or choose another column with --targets"
    )


def test_columns_are_targets_covariates_and_known_in_this_order(table):
    path = table("p,date,a,note,b,k\n1,2020-01-01,2,x,3,4\n5,2020-01-02,6,y,7,8\n")
    series = read(path, targets=("b", "a"), covariates=("p",), known=("k",))
    assert series.names == ("b", "a", "p", "k")
    np.testing.assert_array_equal(series.values, [[3, 2, 1, 4], [7, 6, 5, 8]])
    assert read(path).targets == ("p", "a", "b", "k")
    assert read(path, known=("k",)).targets == ("p", "a", "b")
    assert "--known names 'a', which is that of --targets" in message(
        read, path, targets=("a",), known=("a",)
    )
    assert "--targets names 'date', which is that of --date-column" in message(
        read, path, targets=("date",)
    )
    assert "no column 'B' (--covariates)" in message(read, path, covariates=("B",))
    assert message(read, path, targets=("note",)) == (
        f"{path}, line 2: 'x' in column 'note' is not a number; correct it, or choose another"
        " column with --targets"
    )


def test_a_column_that_counts_rows_is_no_target_unless_it_is_named(table):
    path = table(",date,x\n1,2020-01-01,5\n2,2020-01-02,4\n3,2020-01-03,9\n")
    series = read(path)
    assert series.targets == ("x",)
    assert series.remarks == ("'' only counts the rows and is no target",)
    path = table("n,x\n1,5\n2,4\n3,9\n")
    assert read(path, targets=("n", "x")).values[:, 0].tolist() == [1, 2, 3]
    assert read(table("n\n1\n2\n3\n")).targets == ("n",)  # all that there is


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


def test_a_header_with_a_name_twice(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v,v\n" + "".join(f"{k},{k * k % 7}\n" for k in range(9)))
    expected = f"{path} has 2 columns named 'v' (the header), expected one; rename the others"
    assert message(read, path) == expected


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


def test_rows_without_targets_at_the_end_are_the_future_of_what_is_known(table):
    path = table("date,x,k\n2020-01-01,1,5\n2020-01-02,2,6\n2020-01-03,,7\n2020-01-04,NA,8\n")
    series = read(path, known=("k",))
    np.testing.assert_array_equal(series.values, [[1, 5], [2, 6]])
    np.testing.assert_array_equal(series.future, [[7], [8]])
    assert len(series.dates) == 2
    assert series.remarks == ("2 rows without targets at the end are the future",)
    series = read(path, targets=("x",))
    np.testing.assert_array_equal(series.values, [[1], [2]])
    assert series.remarks == ("2 rows without targets at the end are left out",)
    assert show_date(series.future_dates(1)[0]) == "2020-01-03"
    path = table("date,x,c\n2020-01-01,1,5\n2020-01-02,,6\n2020-01-03,3,7\n2020-01-04,,\n")
    series = read(path, targets=("x",), covariates=("c",), gaps="previous")
    np.testing.assert_array_equal(series.values, [[1, 5], [1, 6], [3, 7]])


@pytest.mark.parametrize(
    ("split", "ends"),
    [
        ("0.7,0.1,0.2", (35, 40, 50)),
        ("0.5,0,0.25", (25, 25, 37)),
        ("30,10,5", (30, 40, 45)),
        ("1,0,0", (50, 50, 50)),
        ("2020-01-02,2020-01-02 12:00", (24, 36, 50)),
    ],
)
def test_parts_by_shares_rows_and_dates(table, split, ends):
    series = read(table(hours({k: str(k % 7) for k in range(50)})))
    assert split_rows(split, series) == ends


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("0.7,0.3", "'0.7' is not a date"),
        ("a,b,c", "expected three fractions as 0.7,0.1,0.2, three numbers of rows, or two dates"),
        ("0.7,0.4,0.2", "whose fractions are 1.3, above 1"),
        ("40,10,1", "51 rows, of which there are 50"),
        ("0,0.5,0.5", "leaves no rows to train on"),
        ("2020-02-01,2020-01-01", "leaves no rows to train on"),
    ],
)
def test_a_split_that_is_none(table, split, expected):
    series = read(table(hours({k: str(k % 7) for k in range(50)})))
    assert expected in message(split_rows, split, series)


def test_the_made_series_has_a_day_and_a_week():
    series = made_series()
    assert series.values.shape == (2016, 1)
    assert (series.frequency, series.season) == (Frequency("seconds", 3600), 24)
    np.testing.assert_array_equal(series.values, made_series().values)
    by_day = series.values[:, 0].reshape(12, 7, 24)
    spread = by_day.mean((0, 1))
    assert spread.max() - spread.min() > 20
    assert by_day[:, :5].mean() - by_day[:, 5:].mean() == pytest.approx(12, abs=1)


def test_what_csv_writes_comes_back(table):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20, 2))
    file = io.StringIO()
    csv.writer(file).writerows([["a", "b"], *values.tolist()])
    np.testing.assert_array_equal(read(table(file.getvalue())).values, values)


# --- which column has the dates ---


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


def test_true_and_false_are_1_and_0_where_they_are_asked_for(table):
    path = table("x,k\n5,True\n3,FALSE\n4,true\n")
    assert read(path).targets == ("x",)
    series = read(path, known=("k",))
    assert series.values.tolist() == [[5, 1], [3, 0], [4, 1]]
    path = table("x,k\n5,True\n3,\n4,false\n")
    assert read(path, known=("k",), gaps="previous").values[:, 1].tolist() == [1, 1, 0]
    path = table("x,k\n5,True\n3,2\n4,false\n")
    assert "line 2: 'True' in column 'k' is not a number" in message(read, path, known=("k",))


def test_a_quoted_column_of_decimal_commas_in_a_file_of_commas(table):
    path = table('date,x,y\n2020-01-01,"3,5",1\n2020-01-02,"-1.250,75",2\n2020-01-03,"4,125",5\n')
    assert read(path, targets=("x", "y")).values.tolist() == [[3.5, 1], [-1250.75, 2], [4.125, 5]]
    path = table('x,y\n"3,5",1\n,2\n"0,25",4\n')
    assert read(path, targets=("x",), gaps="previous").values[:, 0].tolist() == [3.5, 3.5, 0.25]
    for column in (("1,234", "2,345"), ("3,5", "4")):  # thousands perhaps; not all
        path = table("x,y\n" + "".join(f'"{x}",1\n' for x in column))
        assert f"line 2: {column[0]!r} in column 'x' is not a number" in message(
            read, path, targets=("x",)
        )


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


# --- what to do ---


def test_messages_say_what_to_do(table):
    path = table("date,x\n2020-01-01,1\n")
    assert message(split_rows, "0.7,0.1,0.2", read(path)).startswith(f"{path} has 1 row")
    path = table("date,store,x\n2020-01-01,A,1\n2020-01-01,B,2\n2020-01-02,A,3\n")
    text = message(read, path)
    assert "they are of 'A' and 'B' in column 'store': give each a file of its own" in text
    assert "--duplicates" not in text
    path = table("date,time,x\n2020-01-01,01:00,1\n2020-01-01,02:00,2\n2020-01-02,01:00,3\n")
    assert "their times are in column 'time': write date and time into one" in message(read, path)
    path = table("date,x\n2020-01-31,1\n2020-02-28,2\n2020-03-31,3\n2020-04-30,1\n2020-05-29,3\n")
    assert "are one a month, on days that differ; write months alone, as 2020-01" in message(
        read, path
    )


def test_a_blank_line_is_no_row(table):
    path = table("date,x\n2020-01-01,1\n\n2020-01-02,2\n2020-01-03,x\n")
    assert "line 5: 'x' in column 'x'" in message(read, path, targets=("x",))
    assert read(table("x\n1\n\n3\n")).values.tolist() == [[1], [3]]


@pytest.mark.parametrize("value", ["1e39", "-1e308", "1e400", "9" * 400])
@pytest.mark.parametrize("options", [{}, {"targets": ("x",)}])
def test_a_value_beyond_float32_is_no_gap(table, value, options):
    path = table(hours({0: "1", 1: value, 2: "3"}))
    text = message(read, path, gaps="previous", **options)
    assert text.startswith(f"{path}, line 3: '{value[:4]}")
    assert "in column 'x' is too large, expected at most 1e+30 in size; correct it" in text
    assert text.endswith("--targets")


def test_a_table_is_bounded(table, monkeypatch):
    path = table("x\n1\n2\n")
    monkeypatch.setattr("jaxrnn.data.table.MOST_BYTES", 5)
    assert message(read, path) == (
        f"{path} has more than 5 bytes, expected at most as many; give a part of it"
    )
    monkeypatch.setattr("jaxrnn.data.table.MOST_BYTES", 6)
    assert read(path).values.tolist() == [[1], [2]]
