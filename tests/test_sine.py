import codecs
import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import message
from tolerances import assert_close

from jaxrnn.data.scaler import Scaler
from jaxrnn.data.sine import (
    SineStreams,
    load_column,
    naive_errors,
    read_column,
    sine_data,
)
from jaxrnn.data.streams import windows

PROPERTY = settings(derandomize=True, deadline=None, max_examples=200)


@pytest.fixture
def table(tmp_path):
    def write(content: str | bytes) -> str:
        path = tmp_path / "a.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


@pytest.mark.parametrize(
    "content",
    [
        'Month,"Passengers"\n"1949-01",112\n"1949-02",118.5\n',
        '"Month","Passengers"\r\n"1949-01",112\r\n"1949-02",118.5',
        "Month;Passengers\n1949-01;112\n1949-02;118.5\n\n  \n;\n",
        "Month\tPassengers\n1949-01\t1.12e2\n1949-02\t +118.5 \n",
        "Month | Passengers \n1949-01|112\n1949-02|118.5\n",
        '"Month, or ""so""; a, b";Passengers\n"1949; 01";112\n"1949\n02";118.5\n',
        codecs.BOM_UTF8 + b"Passengers,Month\n112,x\n118.5,y\n",
        codecs.BOM_UTF8 + b"Passengers\r112\r118.5\r\r",
    ],
)
@pytest.mark.parametrize("target", ["", "Passengers", " Passengers "])
def test_the_column_of_files_as_found_in_the_wild(table, content, target):
    name, values = read_column(table(content), target)
    assert name == "Passengers"
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [112, 118.5])


def test_a_column_is_chosen_by_name(table):
    path = table("date,a,b\nx,1,-2.5\ny,3,4\n")
    for target, expected in (("a", [1, 3]), ("b", [-2.5, 4])):
        name, values = read_column(path, target)
        assert name == target
        np.testing.assert_array_equal(values, expected)


@PROPERTY
@given(
    st.sampled_from(",;\t|"),
    st.lists(st.tuples(st.text("a ,;|\"'\n", min_size=1), st.floats(-1e9, 1e9)), min_size=1),
)
def test_what_csv_writes_comes_back(tmp_path_factory, delimiter, rows):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerows([("note", "value"), *rows])
    path.write_text(file.getvalue(), newline="")
    np.testing.assert_array_equal(read_column(path, "value")[1], [value for _, value in rows])
    assert read_column(path)[0] == "value"


def test_without_target_there_must_be_one_column_of_numbers(table):
    path = table("date,a,b\nx,1,2\ny,3,4\n")
    assert message(read_column, path) == (
        f"{path} has 2 columns of numbers ('a', 'b' of 'date', 'a', 'b'), expected one; choose"
        " with --target"
    )
    path = table("date,a\nx,1\ny,\nz,NA\n")
    assert message(read_column, path) == (
        f"{path} has no column of numbers only, its columns are 'date' (line 2: 'x'), 'a' (line 3:"
        " ''); fill in or remove such rows, or choose with --target"
    )
    names = [f"c{k}" for k in range(30)]
    path = table(",".join(names) + "\n" + ",".join("1" * 30) + "\n")
    assert "'c19', ... of 'c0'" in message(read_column, path)
    path = table(",".join(names) + "\n" + ",".join("x" * 30) + "\n")
    assert "'c19' (line 2: 'x'), ...;" in message(read_column, path)


def test_an_unknown_column_gets_the_list_and_a_hint(table):
    path = table("date,Passengers,OT\nx,1,2\n")
    assert message(read_column, path, "ot") == (
        f"{path} has no column 'ot' (--target), its columns are 'date', 'Passengers', 'OT'; did you"
        " mean 'OT'?"
    )
    assert message(read_column, path, "PASENGERS").endswith("did you mean 'Passengers'?")
    assert message(read_column, path, "zzz").endswith("its columns are 'date', 'Passengers', 'OT'")
    path = table("a,b,a\n1,2,3\n")
    assert message(read_column, path, "a") == (
        f"{path} has 2 columns named 'a' (--target), expected one; rename the others"
    )


@pytest.mark.parametrize("gap", ["", "  ", "nan", "NaN", "NA", "n/a", "null", "inf", "-Infinity"])
def test_a_gap_names_its_line(table, gap):
    path = table(f'date,a\n"x\ny",1\nz,{gap}\nw,3\n')
    assert message(read_column, path, "a") == (
        f"{path}, line 4: {gap.strip()!r} in column 'a' is a gap, expected a finite number; fill in"
        " or remove the row"
    )


@pytest.mark.parametrize("value", ["1e39", "-1e200", "1e308", "1e400", "9" * 400])
def test_what_is_too_large_names_its_line(table, value):
    path = table(f"date,a\nx,1\nz,{value}\nw,3\n")
    shown = repr(value) if len(value) < 60 else "'" + "9" * 56 + "..."
    for target in ("a", ""):
        assert message(read_column, path, target) == (
            f"{path}, line 3: {shown} in column 'a' is too large, expected at most 1e+30 in size; "
            "correct it, write the column in a larger unit, or choose another with --target"
        )


@pytest.mark.parametrize("line", [3, 19])
def test_what_is_too_far_from_what_is_trained_on_is_refused(table, line):
    values: list[float] = [k % 5 for k in range(20)]
    values[line - 2] = 1e18 if line == 19 else 1e20
    path = table("a\n" + "\n".join(map(str, values)))
    if line == 3:  # it is trained on, and the deviation is its own
        assert load_column(path, "a", 2, 3, 0.2).scaler.std > 1e19
        return
    text = message(load_column, path, "a", 2, 3, 0.2)
    assert text.startswith(
        f"{path}: value 18 of column 'a' is 1e+18, more than 1e+15 standard deviations (1.45237) "
        "from the mean of what is trained on (1.875)"
    )


@pytest.mark.parametrize("value", ["1_000", "12 kg", "0x1F", "1.234.5", "two"])
def test_what_is_not_a_number_names_its_line(table, value):
    path = table(f"date;a\nx;1\nz;{value}\nw;3\n")
    assert message(read_column, path, "a") == (
        f"{path}, line 3: {value!r} in column 'a' is not a number; correct it, or choose another"
        " column with --target"
    )


def test_a_ragged_row_names_its_line(table):
    path = table("date,a\nx,1\ny\nz,3\n")
    assert message(read_column, path) == (
        f"{path}, line 3: 1 field, expected 2 as in the header; fill in or remove the row"
    )
    path = table("date,a\nx,1\n\nInternational airline passengers, in thousands, monthly\n")
    assert message(read_column, path).startswith(f"{path}, line 4: 3 fields, expected 2")
    path = table("date,a\nx,1\nThe end, in thousands, monthly\n")
    assert message(read_column, path).startswith(f"{path}, line 3: 3 fields, expected 2")


def test_a_header_and_rows_are_needed(table):
    path = table("1949,112\n1950,118\n")
    for target in ("", "Passengers"):
        assert message(read_column, path, target) == (
            f"{path}, line 1: '1949', '112', expected a header line; add the columns' names"
        )
    path = table("1949-01,112\n1949-02,118\n")  # the dates are no numbers, the header is missing
    assert "'1949-01', '112', expected a header line" in message(read_column, path)
    assert read_column(path, "112")[0] == "112"  # but who names it so means it so
    path = table("date,a\n")
    assert message(read_column, path) == (
        f"{path} has no rows after line 1 ('date', 'a'), expected a header line and rows of values"
    )
    path = table("\n  \n,\n")
    assert message(read_column, path) == (
        f"{path} has only blank lines, expected a header line and rows of values"
    )
    path = table("\ndate,a\nx,1\n")
    assert message(read_column, path) == (
        f"{path}, line 1: blank, expected a header line; add the columns' names"
    )


def test_files_that_cannot_be_read(table, tmp_path):
    missing = tmp_path / "missing.csv"
    assert message(read_column, missing) == f"{missing}: no such file; check the path"
    assert message(read_column, tmp_path).startswith(f"{tmp_path} is a directory, expected a file")
    path = table("")
    assert message(read_column, path) == f"{path} is empty, expected data; check the path"
    path = table(b"date,a\nx,1\n\xe9,2\n")
    assert message(read_column, path) == (
        f"{path} is not UTF-8: byte 0xe9 at offset 11, line 3; convert the file to UTF-8"
    )
    path = table("date,a\nx,1\ny," + "1" * 200_000 + "\n")
    assert message(read_column, path) == (
        f"{path}, line 3: not CSV (field larger than field limit (131072)); correct the line"
    )


def test_scaler_is_mean_and_population_std():
    values = np.array([1.0, 2.0, 6.0])
    scaler = Scaler.of(values)
    assert scaler.mean == 3
    assert_close(scaler.std, math.sqrt((4 + 1 + 9) / 3))
    assert_close(scaler.transform(values), (values - 3) / math.sqrt(14 / 3))
    assert_close(scaler.inverse(scaler.transform(values)), values)
    assert Scaler.of(np.array([0.1] * 7)) == Scaler(0.1, 1.0)
    assert Scaler.of(np.array([5.0])) == Scaler(5.0, 1.0)
    assert "std is inf, expected a finite number above 0" in message(
        Scaler.of, np.array([1e300, -1e300, 0.0])
    )


def test_scaler_survives_json():
    scaler = Scaler(0.1, 1 / 3)
    assert scaler.to_dict() == {"mean": 0.1, "std": 1 / 3}
    assert Scaler.from_dict(json.loads(json.dumps(scaler.to_dict()))) == scaler
    assert Scaler.from_dict({"mean": 0, "std": 2}) == Scaler(0.0, 2.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (None, "the scaler is None, expected an object with mean and std"),
        ({"mean": 1.0}, "the scaler is {'mean': 1.0}, expected an object with mean and std"),
        ({"mean": "1", "std": 1.0}, "expected an object with mean and std"),
        ({"mean": True, "std": 1.0}, "expected an object with mean and std"),
        ({"mean": float("nan"), "std": 1.0}, "mean is nan, expected a finite number"),
        ({"mean": 0.0, "std": 0.0}, "std is 0.0, expected a finite number above 0"),
        ({"mean": 0.0, "std": float("inf")}, "std is inf, expected a finite number above 0"),
    ],
)
def test_a_broken_scaler_is_refused(values, expected):
    assert expected in message(Scaler.from_dict, values)


def test_load_series_scales_by_the_training_part_alone(table):
    path = table("a\n" + "\n".join(map(str, [1, 2, 6, 3, 3, 100, 200, 300])) + "\n")
    data = load_column(path, "", batch_size=2, seq_len=2, val_fraction=0.375)  # 5 train
    std = math.sqrt((4 + 1 + 9) / 5)
    assert data.target == "a"
    assert data.scaler == Scaler.of(np.array([1.0, 2, 6, 3, 3]))
    scaled = (np.array([1, 2, 6, 3, 3, 100, 200, 300]) - 3) / std
    assert data.train.steps_per_epoch == 1
    batch = data.train.batch_at(0)
    assert batch.inputs.shape == batch.targets.shape == (2, 2, 1)
    assert batch.inputs.dtype == batch.targets.dtype == np.float32
    assert bool(batch.starts)
    assert_close(batch.inputs[..., 0], scaled[:4].reshape(2, 2), "float32")
    assert_close(batch.targets[..., 0], scaled[1:5].reshape(2, 2), "float32")
    assert data.val_inputs.dtype == data.val_targets.dtype == np.float32
    assert_close(data.val_inputs[:, 0], scaled[:-1], "float32")
    assert_close(data.val_targets[:, 0], scaled[1:], "float32")
    assert data.counted_from == 4
    (window,) = windows(data.val_inputs, data.val_targets, 1, 8, data.counted_from, num_context=9)
    assert_close(window.targets[window.mask][:, 0], scaled[5:], "float32")


def test_a_scaler_given_is_kept(table):
    path = table("a\n1\n2\n3\n4\n")
    data = load_column(Path(path), "a", 1, 2, 0.0, Scaler(1.0, 2.0))
    assert data.scaler == Scaler(1.0, 2.0)
    np.testing.assert_array_equal(data.train.batch_at(0).inputs[0, :, 0], [0.0, 0.5])
    assert data.val_inputs.shape == data.val_targets.shape == (0, 1)
    assert list(windows(data.val_inputs, data.val_targets, 1, 4, data.counted_from)) == []


def test_too_short_a_series_says_what_is_needed(table):
    path = table("a\n" + "1\n2\n" * 4)
    assert message(load_column, path, "", 2, 3, 0.25) == (
        f"the training part of {path} has 6 values, one batch needs 7 (--batch-size 2 times"
        " --seq-len 3 and one more for the last target); lower --batch-size or --seq-len"
    )
    assert message(load_column, path, "", 2, 4, 0.0).startswith(
        f"{path} has 8 values, one batch needs 9"
    )
    assert message(load_column, path, "", 1, 3, 1e-20) == (
        f"the validation part of {path} has 0 of 8 values, expected at least 1;"
        " raise --val-fraction from 1e-20, or set it to 0 for none"
    )
    assert "has 0 values, one batch needs 4" in message(load_column, path, "", 1, 3, 0.99)


@pytest.mark.parametrize("seq_len", [20, 7])
def test_sine_batches_are_the_lessons(seq_len):
    streams = SineStreams(seq_len)
    assert streams.steps_per_epoch == 75
    for step in (0, 1, 74, 75, 80):
        # The lesson's loop, its batch as torch.Tensor(x).unsqueeze(0) makes it.
        time_steps = np.linspace(step * np.pi, (step + 1) * np.pi, seq_len + 1)
        data = np.sin(time_steps)
        data.resize((seq_len + 1, 1))
        batch = streams.batch_at(step)
        assert batch.inputs.dtype == batch.targets.dtype == np.float32
        assert batch.inputs.flags.c_contiguous
        assert batch.targets.flags.c_contiguous
        np.testing.assert_array_equal(batch.inputs, data[:-1].astype(np.float32)[None])
        np.testing.assert_array_equal(batch.targets, data[1:].astype(np.float32)[None])
        assert batch.starts == (step == 0)
        assert isinstance(batch.starts, np.bool_)


def test_sine_data_validates_on_the_25_segments_that_follow():
    data = sine_data(4)
    assert (data.target, data.scaler, data.counted_from) == ("sin", Scaler(0.0, 1.0), 300)
    assert data.val_inputs.shape == data.val_targets.shape == (400, 1)
    assert data.val_inputs.dtype == data.val_targets.dtype == np.float32
    assert data.train.steps_per_epoch == 75
    for k in (0, 74, 75, 99):
        batch = SineStreams(4).batch_at(k)
        np.testing.assert_array_equal(data.val_inputs[4 * k : 4 * k + 4], batch.inputs[0])
        np.testing.assert_array_equal(data.val_targets[4 * k : 4 * k + 4], batch.targets[0])
    assert_close(data.val_inputs[:, 0], np.sin(np.arange(400) * np.pi / 4), "float32")
    assert_close(data.val_targets[:-1], data.val_inputs[1:], "float32")
    chunks = windows(data.val_inputs, data.val_targets, 1, 40, data.counted_from, num_context=300)
    assert sum(int(chunk.mask.sum()) for chunk in chunks) == 100


def test_naive_errors_by_hand():
    inputs = np.array([[9], [0], [1], [3]], np.float32)
    targets = np.array([[0], [1], [3], [2]], np.float32)
    assert naive_errors(inputs, targets, counted_from=1) == {"mse": 2.0, "mae": 4 / 3}
    assert naive_errors(inputs, targets)["mse"] == (81 + 1 + 4 + 1) / 4
    with pytest.raises(ValueError, match="4 positions, expected more than counted_from 4"):
        naive_errors(inputs, targets, counted_from=4)
