"""The lesson's sine, or a CSV column in its place, to be predicted one step ahead.

Values are scaled to mean 0 and standard deviation 1 of the training part:
``z = (x - mean) / std``; the input at t is ``z[t]``, the target ``z[t + 1]``.

Usage: ``load_column("passengers.csv", "", 1, 20, 0.1).train.batch_at(step)``.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
from jaxtyping import Float, Float32, Float64

from jaxrnn.data.scaler import Scaler
from jaxrnn.data.streams import Batch, Streams, next_targets
from jaxrnn.data.table import LARGEST, Table, listed, read_table
from jaxrnn.errors import InputError


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
class OneStepData:
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


def load_column(
    path: str | os.PathLike[str],
    target: str,
    batch_size: int,
    seq_len: int,
    val_fraction: float,
    scaler: Scaler | None = None,
) -> OneStepData:
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
    scaler.refuse_far(values, str(path), target)
    scaled = scaler.transform(values).astype(np.float32)[:, None]
    train = next_targets(scaled[:num_train], batch_size, seq_len, name)
    if num_train == len(values):
        return OneStepData(target, scaler, train, scaled[:0], scaled[:0], 0)
    return OneStepData(target, scaler, train, scaled[:-1], scaled[1:], num_train - 1)


def sine_data(seq_len: int = 20) -> OneStepData:
    """The lesson's sine: 75 half periods to train on, the 25 that follow to validate."""
    train = SineStreams(seq_len)
    segments = [train.batch_at(k) for k in range(train.steps_per_epoch + 25)]
    return OneStepData(
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
    table = read_table(path)
    index = table.column(target, "--target") if target else _only_numeric_column(table)
    values = np.empty(len(table.rows))
    for k, field in enumerate(table.texts(index)):
        value = table.number(field)
        if value is None or abs(value) > LARGEST:
            raise InputError(table.bad_value(k, index, "--target"))
        values[k] = value
    return table.header[index], values


def _only_numeric_column(table: Table) -> int:
    path, header = table.path, table.header
    first_bad = [
        next((k for k, field in enumerate(table.texts(index)) if table.number(field) is None), None)
        for index in range(len(header))
    ]
    numeric = [index for index, bad in enumerate(first_bad) if bad is None]
    if numeric:
        table.refuse_numbers([header[index] for index in numeric])
    if len(numeric) == 1:
        return numeric[0]
    if numeric:
        raise InputError(
            f"{path} has {len(numeric)} columns of numbers ({listed([header[k] for k in numeric])}"
            f" of {listed(header)}), expected one; choose with --target"
        )
    bad = [
        f"{header[index]!r} (line {table.lines[k]}: {table.rows[k][index]!r})"
        for index, k in enumerate(first_bad)
        if k is not None
    ]
    raise InputError(
        f"{path} has no column of numbers only, its columns are"
        f" {', '.join(bad[:20])}{', ...' if len(bad) > 20 else ''};"
        " fill in or remove such rows, or choose with --target"
    )
