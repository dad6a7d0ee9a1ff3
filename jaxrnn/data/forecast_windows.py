"""Windows of a series as batches: the past that a forecaster reads, and what it is to forecast.

A window of origin t has the T rows before t as its past and the N rows from t on as its targets,
in scaled values. Rows hold targets, covariates, what is known of the future, in this order; of the
future a model is given the known alone. All windows are gathered from one array. Usage::

    batches = WindowBatches(rows, num_targets=7, num_known=4, origins=origins, input_len=96,
                            horizon=24, batch_size=32, seed=0)
    (past, known), targets, _ = batches.batch_at(step)     # (B, T, I), (B, N, F), (B, N, C)
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64


class Windows(NamedTuple):
    """B windows."""

    past: Float[np.ndarray, "B T I"]
    known: Float[np.ndarray, "B N F"]
    targets: Float[np.ndarray, "B N C"]


@functools.lru_cache(maxsize=8)
def _permutation(seed: int, epoch: int, count: int) -> Int64[np.ndarray, " W"]:
    return np.random.default_rng((seed, epoch)).permutation(count)


@dataclasses.dataclass(frozen=True, eq=False)
class WindowSource:
    """All windows with these origins; rows before an origin may be those of an earlier part."""

    rows: Float[np.ndarray, "S I"]
    num_targets: int
    num_known: int
    origins: Int64[np.ndarray, " W"]
    input_len: int
    horizon: int
    truth: Float[np.ndarray, "S C"] | None = dataclasses.field(default=None, kw_only=True)
    # what the targets are, NaN where they are not known; None: as in the rows

    def take(self, places: Int64[np.ndarray, " B"]) -> Windows:
        """The windows at these places among the origins."""
        steps = np.arange(-self.input_len, self.horizon)
        block = self.rows[self.origins[places][:, None] + steps]
        future = block[:, self.input_len :]
        targets = future[..., : self.num_targets]
        if self.truth is not None:
            targets = self.truth[self.origins[places][:, None] + steps[self.input_len :]]
        return Windows(
            block[:, : self.input_len],
            future[..., self.rows.shape[1] - self.num_known :],
            targets,
        )

    def before(self, places: Int64[np.ndarray, " B"], count: int) -> Float[np.ndarray, "B L I"]:
        """The ``count`` rows before the windows' origins, which may be more than their past."""
        return self.rows[self.origins[places][:, None] + np.arange(-count, 0)]


@dataclasses.dataclass(frozen=True, eq=False)
class WindowBatches(WindowSource):
    """Training batches: each epoch has every window once, in an order of its own.

    Epochs follow each other without a seam, so that a batch may hold the end of one and the
    beginning of the next, or, of few windows, several.
    """

    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every window at least once."""
        return -(-len(self.origins) // self.batch_size)

    def batch_at(
        self, step: int, rows: slice = slice(None)
    ) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.bool_]:
        """(past, known), targets of these rows of a batch, and that no state is carried."""
        count = len(self.origins)
        epochs, places = np.divmod(step * self.batch_size + np.arange(self.batch_size)[rows], count)
        orders = {int(e): _permutation(self.seed, int(e), count) for e in np.unique(epochs)}
        chosen = [orders[int(e)][place] for e, place in zip(epochs, places, strict=True)]
        past, known, targets = self.take(np.array(chosen))
        return (past, known), targets, np.bool_(False)

    def num_alike(self, step: int, count: int) -> int:
        """All: batches have one shape."""
        return count


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOutWindows(WindowSource):
    """Windows to evaluate on, each once; no state is carried between them."""

    batch_size: int
    baseline: dict[str, float]  # of the forecast that repeats the last value
    continues: bool = False
    left_out: int = 0

    @property
    def num_counted(self) -> int:
        """How many there are."""
        return len(self.origins)

    def places(
        self, stride: int = 1
    ) -> Iterator[tuple[Int64[np.ndarray, " B"], Bool[np.ndarray, " B"]]]:
        """Of every ``stride``-th window in order, by batches; the last is padded with one that
        does not count.
        """
        last = len(self.origins) - 1
        for first in range(0, last + 1, stride * self.batch_size):
            places = first + stride * np.arange(self.batch_size)
            yield np.minimum(places, last), places <= last

    def windows(self, num_streams: int, chunk_len: int) -> Iterator[tuple]:
        """See ``Validation``; each batch is as large as any."""
        for places, counted in self.places():
            past, known, targets = self.take(places)
            yield (past, known), targets, counted


def origins_of(begin: int, end: int, input_len: int, horizon: int) -> Int64[np.ndarray, " W"]:
    """Of the windows whose targets lie in rows ``begin`` to ``end`` and whose past is there."""
    return np.arange(max(begin, input_len), max(end - horizon + 1, max(begin, input_len)))
