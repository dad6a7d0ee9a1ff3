"""A trained sketch-rnn that takes and gives lines in the page's coordinates.

Usage::

    artist = Artist(task, (skeleton, params))
    for points in artist.complete(lines, Wish(count=9, temperature=0.4, seed=0)):
        ...                                      # points[k]: more (x, y, lifted) of drawing k
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxrnn.data.strokes import Drawing, from_lines, simplify
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.sketch_drawing import Pen, slerp
from jaxrnn.models.sketch_rnn import SketchRNN
from jaxrnn.tasks.sketch import SketchTask

SIDE = 400  # of the page's square, in its units
EXTENT = 256  # the larger side of a typical drawing there, which leaves some room around it
EPSILON = 2.0  # by which what a person drew may move to have fewer points, as Quick, Draw! has it
START_AT = (0.3 * SIDE, 0.3 * SIDE)  # of a drawing that nobody began
MAX_COUNT = 9  # drawings of an answer
LENGTHS = (8, 16, 4, 32, 2, 64, 1, 128, 256, 512)  # of padded prefixes, the likeliest first

Line = Float[np.ndarray, "_ 2"]
Points = list[list[list[float]]]
"""Of each drawing some more points, [x, y, 1 where the pen is lifted after it, else 0]."""


@dataclasses.dataclass(frozen=True)
class Wish:
    """How to draw."""

    count: int
    temperature: float
    seed: int
    class_index: int = 0


class Artist:
    """Draws in pieces: each ``next`` of what its methods give computes some points.

    Answers are of 1 or of ``MAX_COUNT`` drawings inside, so that two shapes are all that is
    compiled.
    """

    def __init__(self, task: SketchTask, model: tuple[Skeleton[SketchRNN], Params]):
        self.task = task
        self.pen = Pen(model)
        self._unit = task.scale * EXTENT / task.extent  # the model's, in the page's

    def complete(self, lines: Sequence[Line], wish: Wish) -> Iterator[Points]:
        """Endings of what was begun; whole drawings where that is nothing."""
        drawing = self._stroke3(lines)
        begun = [line for line in lines if len(line)]
        start = begun[-1][-1] if begun else START_AT
        yield from self._draw(wish, start, prefix=drawing if len(drawing) else None, least=1)

    def mimic(self, lines: Sequence[Line], wish: Wish) -> Iterator[Points]:
        """What the model draws of the latent vector of a drawing, in its place."""
        first = next(line[0] for line in lines if len(line))
        start = first - np.multiply(self.task.start, self._unit)
        yield from self._draw(wish, start, z=np.repeat(self._latent(lines), wish.count, axis=0))

    def between(
        self, first: Sequence[Line], second: Sequence[Line], wish: Wish
    ) -> Iterator[Points]:
        """Drawings of latent vectors on the way from one drawing's to another's, ends included."""
        a, b = self._latent(first)[0], self._latent(second)[0]
        z = np.stack([slerp(a, b, share) for share in np.linspace(0, 1, wish.count)])
        yield from self._draw(wish, START_AT, z=z)

    def warm_ups(self) -> list[Callable[[], Any]]:
        """Calls that compile what answers need, the likeliest to be needed first."""
        calls: list[Callable[[], Any]] = []
        for count in (1, MAX_COUNT):
            calls += [functools.partial(self._warm_up, count, length) for length in LENGTHS]
        if self.task.config.conditional:
            drawings = [np.zeros((length, 3), np.float32) for length in LENGTHS]
            calls += [functools.partial(self.pen.encode, [drawing]) for drawing in drawings]
        return calls

    def _warm_up(self, count: int, length: int) -> None:
        wish = Wish(count, 1.0, 0)
        prefix = np.zeros((length - 1, 3), np.float32) if length > 1 else None
        for _ in itertools.islice(self._draw(wish, START_AT, prefix=prefix), 2):
            pass

    def _stroke3(self, lines: Sequence[Line]) -> Drawing:
        """In the model's unit."""
        kept = [simplify(line, EPSILON) for line in lines if len(line)]
        drawing = from_lines(kept)
        drawing[:, :2] /= self._unit
        return self.task.placed(drawing)

    def _latent(self, lines: Sequence[Line]) -> Float[np.ndarray, "1 Z"]:
        return self.pen.encode([self._stroke3(lines)])[0]

    def _draw(
        self,
        wish: Wish,
        start: Sequence[float] | np.ndarray,
        prefix: Drawing | None = None,
        z: Float[np.ndarray, "N Z"] | None = None,
        least: int = 0,
    ) -> Iterator[Points]:
        """The model's points from ``start`` on, in the page's units."""
        width = 1 if wish.count == 1 else MAX_COUNT
        if z is not None:
            z = np.concatenate([z, np.repeat(z[-1:], width - len(z), axis=0)]).astype(np.float32)
        classes = None
        if len(self.task.classes) > 1:
            classes = np.full(width, wish.class_index, np.int32)
        pieces = self.pen.draw(
            jax.random.key(wish.seed),
            count=width,
            length=self.task.num_points,
            temperature=wish.temperature,
            z=z,
            classes=classes,
            prefix=prefix,
            least=least,
        )
        places = np.tile(np.asarray(start, np.float64), (wish.count, 1))
        for piece in pieces:
            piece = piece[: wish.count]
            moved = (
                places[:, None] + np.cumsum(piece[..., :2], axis=1, dtype=np.float64) * self._unit
            )
            places = moved[:, -1]
            points = np.concatenate([moved.round(2), piece[..., 3:4]], axis=-1)
            is_drawn = piece[..., 4] == 0
            yield [row[drawn].tolist() for row, drawn in zip(points, is_drawn, strict=True)]
            if not is_drawn[:, -1].any():
                return
