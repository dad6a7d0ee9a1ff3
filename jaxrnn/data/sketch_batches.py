"""Batches of drawings of similar length, padded to one of a few lengths.

Lengths are divided into buckets, whose bounds are chosen for the least padding: a batch is padded
to one step more than its bucket's bound, so that few shapes are compiled, and each drawing's end
is seen. Which drawings a batch has, and how they
are augmented, is a function of the seed and the step.

Usage: ``SketchBatches(drawings, classes, 100, scale_factor(drawings), 0, 250).batch_at(step)``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int32, Integer

from jaxrnn.data.strokes import Drawing, augment, to_stroke5
from jaxrnn.errors import InputError

NUM_BUCKETS = 6

_EPOCH, _STEP = 0, 1  # streams of random numbers


class SketchBatch(NamedTuple):
    """What one training step takes; T is one more than the bound of the batch's bucket."""

    strokes: Float32[np.ndarray, "B T1 5"]  # stroke-5 after its start token, offsets scaled
    lengths: Int32[np.ndarray, " B"]  # points without start token and end
    classes: Int32[np.ndarray, " B"]


class HeldOutBatch(NamedTuple):
    """As ``SketchBatch``, for evaluation: only drawings where ``counted`` is True count."""

    strokes: Float32[np.ndarray, "B T1 5"]
    lengths: Int32[np.ndarray, " B"]
    classes: Int32[np.ndarray, " B"]
    places: Int32[np.ndarray, " B"]  # of the drawings among all
    counted: Bool[np.ndarray, " B"]


class SketchBatches:
    """Training batches: in an epoch each drawing once, less what is left over below a batch.

    Args:
        drawings: as ``prepare`` gives them: 1 to ``max_len`` points each.
        classes: an id for each drawing.
        scale: offsets are divided by it.
        random_scale, drop_probability: of ``strokes.random_scale`` and ``strokes.drop_points``.

    Raises InputError for fewer drawings than a batch, or one of another length.
    """

    def __init__(
        self,
        drawings: Sequence[Drawing],
        classes: Integer[np.ndarray, " N"],
        batch_size: int,
        scale: float,
        seed: int,
        max_len: int,
        random_scale: float = 0.15,
        drop_probability: float = 0.1,
        num_buckets: int = NUM_BUCKETS,
    ):
        lengths = _lengths(drawings, classes, max_len)
        if len(drawings) < batch_size:
            raise InputError(
                f"there are {len(drawings)} drawings of at most {max_len} points to train on, one"
                f" batch needs {batch_size}; lower --batch-size, or raise --max-len"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.steps_per_epoch = len(drawings) // batch_size
        self.bounds = bucket_bounds(lengths, num_buckets)
        self._buckets = np.searchsorted(self.bounds, lengths)
        self._drawings = _scaled(drawings, scale)
        self._classes = classes.astype(np.int32)
        self._random_scale = random_scale
        self._drop_probability = drop_probability
        # Only spares the work: an epoch's plan depends on nothing but the seed.
        self._plan = functools.lru_cache(maxsize=2)(self._make_plan)

    def batch_at(self, step: int) -> SketchBatch:
        """The batch of a step counted from the start of training; epochs follow each other."""
        epoch, k = divmod(step, self.steps_per_epoch)
        chosen, bounds = self._plan(epoch)
        rng = np.random.default_rng((_STEP, self.seed, step))
        drawings = [self._drawings[index] for index in chosen[k]]
        augmented = augment(drawings, rng, self._random_scale, self._drop_probability)
        return SketchBatch(*_padded(augmented, int(bounds[k])), self._classes[chosen[k]])

    def bound_at(self, step: int) -> int:
        """The longest length in the bucket of a step's batch, one of ``bounds``."""
        epoch, k = divmod(step, self.steps_per_epoch)
        return int(self._plan(epoch)[1][k])

    def _make_plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Of each step of an epoch: the drawings (steps, B), and the bound (steps,)."""
        rng = np.random.default_rng((_EPOCH, self.seed, epoch))
        rows, bounds = [], []
        left_over = np.zeros(0, np.int64)
        for k, bound in enumerate(self.bounds):
            # What is left over comes first, or it could be left over, and padded more, again.
            members = rng.permutation(np.flatnonzero(self._buckets == k))
            pool = np.concatenate([left_over, members])
            num_batches = len(pool) // self.batch_size
            left_over = pool[num_batches * self.batch_size :]
            rows.append(pool[: num_batches * self.batch_size].reshape(-1, self.batch_size))
            bounds += [bound] * num_batches
        order = rng.permutation(self.steps_per_epoch)
        return np.concatenate(rows)[order], np.array(bounds)[order]


def held_out_batches(
    drawings: Sequence[Drawing],
    classes: Integer[np.ndarray, " N"],
    batch_size: int,
    scale: float,
    max_len: int,
) -> Iterator[HeldOutBatch]:
    """Yields every drawing once, in order and without augmentation, for evaluation.

    Each is padded to ``max_len``, so that nothing depends on its neighbours. The last batch
    repeats its last drawing, not counted, to be full. Without drawings it yields nothing. Raises
    InputError for one that has not 1 to ``max_len`` points.
    """
    _lengths(drawings, classes, max_len)
    scaled = _scaled(drawings, scale)
    for first in range(0, len(drawings), batch_size):
        places = np.arange(first, first + batch_size)
        chosen = np.minimum(places, len(drawings) - 1)
        yield HeldOutBatch(
            *_padded([scaled[index] for index in chosen], max_len),
            classes[chosen].astype(np.int32),
            chosen.astype(np.int32),
            places < len(drawings),
        )


def bucket_bounds(
    lengths: Integer[np.ndarray, " N"], num_buckets: int
) -> Integer[np.ndarray, " K"]:
    """At most ``num_buckets`` bounds, ascending, for the least padding if each length is padded
    to the next bound: of all choices among hundredths of the lengths, the last being the longest.
    """
    bounds = np.unique(np.quantile(lengths, np.linspace(0, 1, 101), method="higher"))
    counts = np.searchsorted(np.sort(lengths), bounds, side="right")
    costs = np.asarray(bounds * counts, np.float64)  # up to each bound, as one bucket
    is_before = np.tri(len(bounds), k=-1, dtype=bool).T
    choices = []
    for _ in range(min(num_buckets, len(bounds)) - 1):
        # Row i, column k: up to bound i as before, and a bucket more from there to bound k.
        grown = costs[:, None] + bounds[None] * (counts[None] - counts[:, None])
        grown = np.where(is_before, grown, np.inf)
        choices.append(grown.argmin(axis=0))
        costs = grown.min(axis=0)
    chosen = [len(bounds) - 1]
    for choice in reversed(choices):
        chosen.append(int(choice[chosen[-1]]))
    return bounds[chosen[::-1]]


def _lengths(
    drawings: Sequence[Drawing], classes: Integer[np.ndarray, " N"], max_len: int
) -> np.ndarray:
    if len(drawings) != len(classes):
        raise ValueError(f"{len(drawings)} drawings, but {len(classes)} classes")
    lengths = np.array([len(drawing) for drawing in drawings], np.int64)
    wrong = lengths[(lengths < 1) | (lengths > max_len)]
    if len(wrong):
        raise InputError(
            f"a drawing has {wrong[0]} points, expected 1 to {max_len}; leave out what"
            " strokes.prepare leaves out"
        )
    return lengths


def _scaled(drawings: Sequence[Drawing], scale: float) -> list[Drawing]:
    factors = np.array([[1 / scale, 1 / scale, 1]], np.float32)
    return [drawing * factors for drawing in drawings]


def _padded(drawings: Sequence[Drawing], bound: int) -> tuple[np.ndarray, np.ndarray]:
    """Strokes, with at least one end each, and lengths of a batch."""
    strokes = np.stack([to_stroke5(drawing, bound + 1) for drawing in drawings])
    return strokes, np.array([len(drawing) for drawing in drawings], np.int32)
