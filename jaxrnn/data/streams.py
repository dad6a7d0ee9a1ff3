"""Batches of one long sequence whose rows continue from batch to batch.

The N positions are cut into B contiguous rows, and batch number k is columns k*T to (k+1)*T of
all rows: a state carried from one batch to the next has seen all that stands before in its row.

Usage: ``next_targets(ids, batch_size=32, seq_len=64).batch_at(step)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from jaxrnn.errors import InputError


class Batch(NamedTuple):
    """What one training step takes; before it the carried state is zeroed where ``starts``."""

    inputs: Shaped[np.ndarray, "B T *features"]
    targets: Shaped[np.ndarray, "B T *more"]
    starts: np.bool_


class Window(NamedTuple):
    """As ``Batch``, for validation over R rows: only positions where ``mask`` is True count."""

    inputs: Shaped[np.ndarray, "R C *features"]
    targets: Shaped[np.ndarray, "R C *more"]
    mask: Bool[np.ndarray, "R C"]


class Streams:
    """Batches of (inputs, targets), cut into ``batch_size`` contiguous rows.

    Arrays may be views of a larger one; nothing is copied but the batch asked for. It has the
    arrays' dtypes, except that unsigned integers (token ids in storage) become int32. What is
    left over after ``steps_per_epoch`` whole batches, at the end of the arrays, is not used.

    Raises InputError for less than one batch; ``name`` and ``unit`` are its words for the data.
    """

    def __init__(
        self,
        inputs: Shaped[np.ndarray, "N *features"],
        targets: Shaped[np.ndarray, "_ *more"],
        batch_size: int,
        seq_len: int,
        name: str = "the data",
        unit: str = "positions",
    ):
        if len(inputs) != len(targets):
            raise ValueError(f"{len(inputs)} inputs, but {len(targets)} targets")
        _check_length(len(inputs), batch_size, seq_len, name, unit, num_extra=0)
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.steps_per_epoch = len(inputs) // (batch_size * seq_len)
        used = self.steps_per_epoch * batch_size * seq_len
        self.inputs = inputs[:used].reshape(batch_size, -1, *inputs.shape[1:])
        self.targets = targets[:used].reshape(batch_size, -1, *targets.shape[1:])

    def batch_at(self, step: int, rows: slice = slice(None)) -> Batch:
        """The batch of a step counted from the start of training; epochs follow each other."""
        k = step % self.steps_per_epoch
        columns = slice(k * self.seq_len, (k + 1) * self.seq_len)
        return Batch(
            self.inputs[rows, columns].astype(_given_dtype(self.inputs), order="C"),
            self.targets[rows, columns].astype(_given_dtype(self.targets), order="C"),
            np.bool_(k == 0),
        )

    def num_alike(self, step: int, count: int) -> int:
        """All: batches have one shape."""
        return count


def next_targets(
    values: Shaped[np.ndarray, "N *features"],
    batch_size: int,
    seq_len: int,
    name: str = "the data",
    unit: str = "values",
) -> Streams:
    """Streams whose target at each position is the value that follows it.

    Raises InputError for less than one batch, which is ``batch_size * seq_len + 1`` values.
    """
    _check_length(len(values), batch_size, seq_len, name, unit, num_extra=1)
    return Streams(values[:-1], values[1:], batch_size, seq_len, name, unit)


def lesson_targets(
    values: Shaped[np.ndarray, "N *features"],
    batch_size: int,
    seq_len: int,
    name: str = "the data",
    unit: str = "values",
) -> Streams:
    """Streams as ``get_batches`` of Udacity's character RNN lesson gives them.

    They differ from ``next_targets`` in the last target of each row: the row's own first value.
    Raises InputError for less than one batch, which is ``batch_size * seq_len`` values.
    """
    _check_length(len(values), batch_size, seq_len, name, unit, num_extra=0)
    used = len(values) // (batch_size * seq_len) * batch_size * seq_len
    rows = values[:used].reshape(batch_size, -1, *values.shape[1:])
    targets = np.roll(rows, -1, axis=1).reshape(used, *values.shape[1:])
    return Streams(values[:used], targets, batch_size, seq_len, name, unit)


def windows(
    inputs: Shaped[np.ndarray, "N *features"],
    targets: Shaped[np.ndarray, "_ *more"],
    num_streams: int,
    chunk_len: int,
    counted_from: int = 0,
    num_context: int = 0,
) -> Iterator[Window]:
    """Yields the positions from ``counted_from`` on in parallel rows, each position masked in once.

    They are cut into contiguous segments, one a row, of equal length but for the last. A row
    begins ``num_context`` positions before its segment, or as many as there are, so that the
    state warms up. Windows are chunks of the rows, all of shape ``(R, chunk_len)``: what is past
    a row's or the array's end is zero. R is ``num_streams``, or less where that leaves a row
    without a position. Dtypes are as in ``Streams``. Without positions it yields nothing.
    """
    if len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} inputs, but {len(targets)} targets")
    num_positions, num_counted = len(inputs), len(inputs) - counted_from
    if num_counted <= 0:
        return
    segment_len = -(-num_counted // num_streams)
    num_rows = -(-num_counted // segment_len)
    segment_starts = counted_from + segment_len * np.arange(num_rows)[:, None]
    # No row has more before it than the last one: a longer context would only add padding.
    num_context = min(num_context, int(segment_starts[-1, 0]))
    row_starts = np.maximum(0, segment_starts - num_context)
    width = num_context + segment_len
    for first in range(0, width, chunk_len):
        columns = np.arange(first, first + chunk_len)
        positions = row_starts + columns
        real = (positions < num_positions) & (columns < width)
        mask = real & (positions >= segment_starts) & (positions < segment_starts + segment_len)
        yield Window(_take(inputs, positions, real), _take(targets, positions, real), mask)


def _take(array: np.ndarray, positions: np.ndarray, real: np.ndarray) -> np.ndarray:
    taken = array[np.minimum(positions, len(array) - 1)].astype(_given_dtype(array))
    taken[~real] = 0
    return taken


def _given_dtype(array: np.ndarray) -> np.dtype[Any]:
    """Token ids are stored as narrow as they fit; a compiled step wants one dtype for all."""
    return np.dtype(np.int32) if array.dtype.kind == "u" else array.dtype


def _check_length(
    num_values: int, batch_size: int, seq_len: int, name: str, unit: str, num_extra: int
) -> None:
    num_needed = batch_size * seq_len + num_extra
    if num_values < num_needed:
        plus = " and one more for the last target" if num_extra else ""
        raise InputError(
            f"{name} has {num_values} {unit}, one batch needs {num_needed} (--batch-size"
            f" {batch_size} times --seq-len {seq_len}{plus}); lower --batch-size or --seq-len"
        )
