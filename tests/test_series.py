import codecs
import csv
import io

import numpy as np
import pytest
from refusals import message
from table_cases import hours, read, write_table

from jaxrnn.data.date_text import show_date
from jaxrnn.data.dates import Frequency
from jaxrnn.data.series import made_series, split_rows
from jaxrnn.data.table import read_table


@pytest.fixture
def table(tmp_path):
    return lambda content: write_table(tmp_path / "a.csv", content)


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


def test_a_header_with_a_name_twice(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("v,v\n" + "".join(f"{k},{k * k % 7}\n" for k in range(9)))
    expected = f"{path} has 2 columns named 'v' (the header), expected one; rename the others"
    assert message(read, path) == expected


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
