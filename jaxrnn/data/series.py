"""A series of numbers, predicted one step ahead: a CSV column, or the lesson's sine.

A file has a header line, then a row a time step; the delimiter is a comma, semicolon, tab or
bar. Values are scaled to mean 0 and standard deviation 1 of the training part:
``z = (x - mean) / std``; the input at t is ``z[t]``, the target ``z[t + 1]``.

Usage: ``load_series("passengers.csv", "", 1, 20, 0.1).train.batch_at(step)``.
"""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import math
import os
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64

from jaxrnn.data.streams import Batch, Streams, next_targets
from jaxrnn.data.text import decode_utf8, read_file
from jaxrnn.errors import InputError

_GAPS = {"", "na", "n/a", "nan", "null", "none", "nil", "-", "?", "."}


@dataclasses.dataclass(frozen=True)
class Scaler:
    """``z = (x - mean) / std`` and back. Raises InputError for numbers that can't scale."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        if not math.isfinite(self.mean):
            raise InputError(f"the scaler's mean is {self.mean}, expected a finite number")
        if not (math.isfinite(self.std) and self.std > 0):
            raise InputError(f"the scaler's std is {self.std}, expected a finite number above 0")

    @classmethod
    def of(cls, values: Float64[np.ndarray, " N"]) -> Scaler:
        """Mean and population standard deviation; of a constant series the std counts as 1."""
        # Rounding gives a constant series a tiny std, which would blow that rounding up.
        if values.min() == values.max():
            return cls(float(values[0]), 1.0)
        with np.errstate(over="ignore", invalid="ignore"):  # __post_init__ refuses it
            mean, std = float(values.mean()), float(values.std())
        return cls(mean, std or 1.0)

    @classmethod
    def from_dict(cls, values: Any) -> Scaler:
        """The scaler that ``to_dict`` gave; raises InputError for anything else."""
        if (
            not isinstance(values, dict)
            or set(values) != {"mean", "std"}
            or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values.values())
        ):
            raise InputError(f"the scaler is {values!r}, expected an object with mean and std")
        return cls(float(values["mean"]), float(values["std"]))

    def to_dict(self) -> dict[str, float]:
        """As JSON can hold it."""
        return {"mean": self.mean, "std": self.std}

    def transform(self, values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Scaled values."""
        return (values - self.mean) / self.std

    def inverse(self, scaled: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """Values in the series' own unit."""
        return scaled * self.std + self.mean


class SineStreams:
    """The batches of Udacity's RNN lesson: half a period of a sine each, with ``seq_len`` steps.

    Each batch begins at the point where the last one's targets end. Unlike ``Streams`` it never
    repeats: the sine goes on after ``steps_per_epoch`` steps, and so does the carried state.
    """

    batch_size = 1
    steps_per_epoch = 75

    def __init__(self, seq_len: int = 20):
        self.seq_len = seq_len

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """Inputs and targets of shape (1, seq_len, 1), float32."""
        times = np.linspace(step * np.pi, (step + 1) * np.pi, self.seq_len + 1)
        values = np.sin(times).astype(np.float32)[None, :, None]
        return Batch(values[:, :-1].copy(), values[:, 1:].copy(), np.bool_(step == 0))

    def num_alike(self, step: int, count: int) -> int:
        """All: batches have one shape."""
        return count


@dataclasses.dataclass(frozen=True)
class SeriesData:
    """A series split into training batches and validation positions, scaled.

    Validation arrays hold the whole series, so that a state can warm up on the training part;
    positions from ``counted_from`` on count. They are empty where nothing is kept for it.
    """

    target: str  # name of the column
    scaler: Scaler
    train: Streams | SineStreams
    val_inputs: Float32[np.ndarray, "N 1"]
    val_targets: Float32[np.ndarray, "N 1"]
    counted_from: int


def load_series(
    path: str | os.PathLike[str],
    target: str,
    batch_size: int,
    seq_len: int,
    val_fraction: float,
    scaler: Scaler | None = None,
) -> SeriesData:
    """The data of a forecaster: the first ``int(N * (1 - val_fraction))`` values train.

    A scaler not given is that of the training part. Each value of the rest is a validation
    target once. Raises InputError for a file that ``read_column`` refuses, or too few values.
    """
    target, values = read_column(path, target)
    num_train = int(len(values) * (1 - val_fraction))
    name = f"the training part of {path}" if val_fraction else str(path)
    if val_fraction > 0 and num_train == len(values):
        raise InputError(
            f"the validation part of {path} has 0 of {len(values)} values, expected at least 1;"
            f" raise --val-fraction from {val_fraction}, or set it to 0 for none"
        )
    if scaler is None:
        scaler = Scaler.of(values[:num_train]) if num_train else Scaler()
    scaled = scaler.transform(values).astype(np.float32)[:, None]
    train = next_targets(scaled[:num_train], batch_size, seq_len, name)
    if num_train == len(values):
        return SeriesData(target, scaler, train, scaled[:0], scaled[:0], 0)
    return SeriesData(target, scaler, train, scaled[:-1], scaled[1:], num_train - 1)


def sine_data(seq_len: int = 20) -> SeriesData:
    """The lesson's sine: 75 half periods to train on, the 25 that follow to validate."""
    train = SineStreams(seq_len)
    segments = [train.batch_at(k) for k in range(train.steps_per_epoch + 25)]
    return SeriesData(
        "sin",
        Scaler(),
        train,
        np.concatenate([segment.inputs[0] for segment in segments]),
        np.concatenate([segment.targets[0] for segment in segments]),
        counted_from=train.steps_per_epoch * seq_len,
    )


def naive_errors(
    inputs: Float[np.ndarray, "N 1"], targets: Float[np.ndarray, "N 1"], counted_from: int = 0
) -> dict[str, float]:
    """Mean squared and absolute error of the forecast that the next value equals the last.

    Over the positions from ``counted_from`` on, of which there must be one; in float64.
    """
    if len(inputs) <= counted_from:
        raise ValueError(f"{len(inputs)} positions, expected more than counted_from {counted_from}")
    errors = targets[counted_from:].astype(np.float64) - inputs[counted_from:].astype(np.float64)
    return {"mse": float(np.mean(errors**2)), "mae": float(np.mean(np.abs(errors)))}


def read_column(
    path: str | os.PathLike[str], target: str = ""
) -> tuple[str, Float64[np.ndarray, " N"]]:
    """The name and values of a CSV file's column; no target: the only one that is all numbers.

    Raises InputError for a file that is missing, empty, not UTF-8, without header or rows, or
    ragged, for a column that is not there or not the only one, and for a gap or a value that is
    not a finite number.
    """
    header, rows, lines = _read_rows(path)
    if target:
        index = _find_column(path, header, target)
    else:
        index = _only_numeric_column(path, header, rows, lines)
    values = np.empty(len(rows))
    for k, row in enumerate(rows):
        value = _number(row[index])
        if value is None:
            raise InputError(_bad_value(path, lines[k], header[index], row[index]))
        values[k] = value
    return header[index], values


def _read_rows(path: str | os.PathLike[str]) -> tuple[list[str], list[list[str]], list[int]]:
    """The header, the rows of as many fields each, and the line in the file of each row."""
    text = decode_utf8(read_file(path), path, "convert the file to UTF-8")
    reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text))
    rows, lines = [], []
    try:
        for row in reader:
            rows.append(row)
            lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: not CSV ({error}); correct the line"
        ) from None
    while rows and not any(map(str.strip, rows[-1])):
        del rows[-1], lines[-1]
    if not rows:
        raise InputError(f"{path} has only blank lines, expected a header line and rows of values")
    header = [name.strip() for name in rows[0]]
    if not any(header):
        raise InputError(f"{path}, line 1: blank, expected a header line; add the columns' names")
    if len(rows) == 1:
        raise InputError(
            f"{path} has no rows after line 1 ({_listed(header)}), expected a header line and"
            " rows of values"
        )
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise InputError(
                f"{path}, line {line}: {len(row)} field{'s' * (len(row) != 1)}, expected"
                f" {len(header)} as in the header; fill in or remove the row"
            )
    return header, rows[1:], lines[1:]


def _delimiter(text: str) -> str:
    """The delimiter that is most frequent in the first line, outside quotes."""
    unquoted = "".join(text.partition("\n")[0].split('"')[::2])
    return max(",;\t|", key=unquoted.count)


def _find_column(path: str | os.PathLike[str], header: list[str], target: str) -> int:
    matches = [k for k, name in enumerate(header) if name == target.strip()]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise InputError(
            f"{path} has {len(matches)} columns named {target!r} (--target), expected one;"
            " rename the others"
        )
    folded = {name.casefold(): name for name in header}
    close = difflib.get_close_matches(target.casefold(), folded, n=1)
    hint = f"; did you mean {folded[close[0]]!r}?" if close else ""
    _refuse_numbers(path, header, header)
    raise InputError(
        f"{path} has no column {target!r} (--target), its columns are {_listed(header)}{hint}"
    )


def _only_numeric_column(
    path: str | os.PathLike[str], header: list[str], rows: list[list[str]], lines: list[int]
) -> int:
    first_bad = [
        next((k for k, row in enumerate(rows) if _number(row[index]) is None), None)
        for index in range(len(header))
    ]
    numeric = [index for index, bad in enumerate(first_bad) if bad is None]
    if numeric:
        _refuse_numbers(path, header, [header[index] for index in numeric])
    if len(numeric) == 1:
        return numeric[0]
    if numeric:
        raise InputError(
            f"{path} has {len(numeric)} columns of numbers ({_listed([header[k] for k in numeric])}"
            f" of {_listed(header)}), expected one; choose with --target"
        )
    bad = [
        f"{header[index]!r} (line {lines[k]}: {rows[k][index]!r})"
        for index, k in enumerate(first_bad)
        if k is not None
    ]
    raise InputError(
        f"{path} has no column of numbers only, its columns are"
        f" {', '.join(bad[:20])}{', ...' if len(bad) > 20 else ''};"
        " fill in or remove such rows, or choose with --target"
    )


def _refuse_numbers(path: str | os.PathLike[str], header: list[str], names: list[str]) -> None:
    """A header whose names are numbers is the first row of a file without one."""
    if all(_number(name) is not None for name in names):
        raise InputError(
            f"{path}, line 1: {_listed(header)}, expected a header line; add the columns' names"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")


def _number(field: str) -> float | None:
    """The field as a finite number, or None."""
    try:
        value = float(field)
    except ValueError:
        return None
    # Python's 1_000 is no number in a CSV file.
    return value if math.isfinite(value) and "_" not in field else None


def _bad_value(path: str | os.PathLike[str], line: int, name: str, field: str) -> str:
    where = f"{path}, line {line}: {field.strip()!r} in column {name!r}"
    try:
        is_gap = field.strip().casefold() in _GAPS or not math.isfinite(float(field))
    except ValueError:
        is_gap = False
    if is_gap:
        return f"{where} is a gap, expected a finite number; fill in or remove the row"
    return f"{where} is not a number; correct it, or choose another column with --target"
