"""Drawing with a ``SketchRNN``: new drawings, endings of one that was begun, and latent vectors.

Offsets are in the model's unit: those of the data divided by their scale. Usage::

    pen = Pen(split(model))
    for points in pen.draw(jax.random.key(0), count=9, temperature=0.4):     # (9, up to 16, 5)
        ...
    mu, _ = pen.encode([drawing])                                            # stroke-3, (1, Z)
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxrnn.mixture import split_outputs
from jaxrnn.models import Params, Skeleton
from jaxrnn.models.sketch_rnn import POINT, START, SketchRNN

CHUNK = 16  # points of one dispatch
Convention = Literal["paper", "magenta"]


class Draws(NamedTuple):
    """The random numbers of points: for the pen and the Gaussian, and for the offset."""

    uniform: Float[Array, "*N 2"]
    normal: Float[Array, "*N 2"]


def draws_at(key: Array, place: Array, count: int) -> Draws:
    """Those of the point at a place in each of ``count`` drawings, by ``fold_in(key, place)``."""
    uniform_key, normal_key = jax.random.split(jax.random.fold_in(key, place))
    return Draws(
        jax.random.uniform(uniform_key, (count, 2)), jax.random.normal(normal_key, (count, 2))
    )


def _choose(logits: Float[Array, "B N"], uniform: Float[Array, "B"]) -> Int[Array, "B"]:
    """By inverse CDF: the same numbers choose the same in any framework."""
    cdf = jnp.cumsum(jax.nn.softmax(logits), axis=-1)
    chosen = (cdf <= (uniform * cdf[:, -1])[:, None]).sum(-1)
    return jnp.minimum(chosen, logits.shape[-1] - 1)


def next_point(
    outputs: Float[Array, "B O"],
    draws: Draws,
    temperature: float | Float[Array, ""] = 1.0,
    convention: Convention = "paper",
) -> Float[Array, "B 5"]:
    """The next points from a decoder's outputs.

    ``paper``: variances times the temperature, logits over (1 + temperature) / 2, as the paper's
    own figures and sketch-rnn-js have it. ``magenta``: variances times its square, logits over it,
    as ``sketch_rnn/model.py`` computes; 0 then takes the likeliest.
    """
    mixture = split_outputs(outputs)
    if convention == "paper":
        softness, spread = 0.5 + 0.5 * temperature, jnp.sqrt(temperature)
    else:
        softness, spread = jnp.maximum(temperature, 1e-6), temperature
    pen, weight = (
        (logits - logits.max(-1, keepdims=True)) / softness
        for logits in (mixture.pen, mixture.weight)
    )
    chosen = _choose(weight, draws.uniform[:, 1])[:, None]
    mu_x, mu_y, log_x, log_y, r = (
        jnp.take_along_axis(values, chosen, axis=-1)[:, 0] for values in mixture[2:]
    )
    rho = jnp.tanh(r)
    first, second = draws.normal[:, 0], draws.normal[:, 1]
    across = rho * first + jnp.sqrt(jnp.maximum(1 - rho * rho, 0)) * second
    dx = mu_x + spread * jnp.exp(log_x) * first
    dy = mu_y + spread * jnp.exp(log_y) * across
    state = jax.nn.one_hot(_choose(pen, draws.uniform[:, 0]), 3, dtype=dx.dtype)
    return jnp.concatenate([jnp.stack([dx, dy], axis=-1), state], axis=-1)


@functools.partial(jax.jit, static_argnums=0)
def _encode(skeleton, params, strokes, lengths):
    return skeleton.merge(params).encode(strokes, lengths)


@functools.partial(jax.jit, static_argnums=0)
def _read(skeleton, params, points, lengths, z, classes):
    """The outputs after the last point of each prefix, and the state."""
    model = skeleton.merge(params)
    context = model.context(z, classes)
    state = model.initial_state(context, len(points))
    outputs, state = model.decode(points, context, state, lengths)
    last = jnp.take_along_axis(outputs, (lengths - 1)[:, None, None], axis=1)[:, 0]
    return last, state


@functools.partial(jax.jit, static_argnums=(0, 8))
def _write(skeleton, params, carry, key, start, least, classes_and_z, temperature, convention):
    """CHUNK more points; after its end a drawing has end points alone."""
    model = skeleton.merge(params)
    z, classes = classes_and_z
    context = model.context(z, classes)
    count = len(carry[0])
    end = jnp.zeros(POINT).at[4].set(1)
    is_end = jnp.arange(carry[0].shape[1]) == 2  # the logit of the pen's third state

    def step(k, carried):
        outputs, state, ended, points = carried
        outputs = jnp.where((start + k < least) & is_end, -jnp.inf, outputs)
        point = next_point(outputs, draws_at(key, start + k, count), temperature, convention)
        point = jnp.where(ended[:, None], end[None], point)
        point = jnp.where(point[:, 4:] > 0, end[None], point)
        outputs, state = model.decode(point[:, None], context, state)
        return outputs[:, 0], state, point[:, 4] > 0, points.at[:, k].set(point)

    points = jnp.zeros((count, CHUNK, POINT))
    *carry, points = jax.lax.fori_loop(0, CHUNK, step, (*carry, points))
    return tuple(carry), points


class Pen:
    """A model that draws; calls with the same number of drawings compile once."""

    def __init__(self, model: tuple[Skeleton[SketchRNN], Params]):
        self.skeleton, self.params = model
        self.model: SketchRNN = nnx.eval_shape(lambda: self.skeleton.merge(self.params))

    def encode(
        self, drawings: Sequence[Float[np.ndarray, "_ 3"]]
    ) -> tuple[Float[np.ndarray, "B Z"], Float[np.ndarray, "B Z"]]:
        """(mu, presig) of drawings, stroke-3; raises ValueError for a model without an encoder."""
        points, lengths = _padded([_to_points(drawing) for drawing in drawings])
        mu, presig = _encode(self.skeleton, self.params, points, lengths)
        return np.asarray(mu), np.asarray(presig)

    def draw(
        self,
        key: Array,
        *,
        count: int = 1,
        length: int = 250,
        temperature: float = 1.0,
        convention: Convention = "paper",
        z: Float[np.ndarray, "B Z"] | None = None,
        classes: Int[np.ndarray, "B"] | None = None,
        prefix: Float[np.ndarray, "_ 3"] | None = None,
        least: int = 0,
    ) -> Iterator[Float[np.ndarray, "B C 5"]]:
        """``count`` drawings, or endings of ``prefix``, in pieces of up to CHUNK points.

        They end with ``length`` points, or once all have ended, none with fewer than ``least``:
        points from a drawing's end on are (0, 0, 0, 0, 1). Without ``z`` a model that reads one
        gets N(0, 1); without ``classes`` one that reads them gets class 0. The random numbers of a
        point are those of its place after the prefix.
        """
        if z is None and self.model.conditional:
            shape = (count, self.model.latent_size)
            z = np.asarray(jax.random.normal(jax.random.fold_in(key, 2**31), shape))
        if self.model.classes is None:
            classes = None
        elif classes is None:
            classes = np.zeros(count, np.int32)
        begun = np.array([START], np.float32)
        if prefix is not None:
            begun = np.concatenate([begun, _to_points(prefix)])
        points, lengths = _padded([begun] * count)
        outputs, state = _read(self.skeleton, self.params, points, lengths, z, classes)
        carry = (outputs, state, jnp.zeros(count, bool))
        for start in range(0, length, CHUNK):
            carry, points = _write(
                *(self.skeleton, self.params, carry, key, start, np.int32(least), (z, classes)),
                *(np.float32(temperature), convention),
            )
            yield np.asarray(points)[:, : length - start]
            if np.asarray(carry[2]).all():
                return

    def drawings(self, key: Array, **options) -> list[Float[np.ndarray, "_ 3"]]:
        """All of ``draw``, each as stroke-3 without its end; arguments as there."""
        points = np.concatenate(list(self.draw(key, **options)), axis=1)
        ends = [int(np.argmax(p[:, 4] > 0)) if (p[:, 4] > 0).any() else len(p) for p in points]
        points = points[:, :, [0, 1, 3]].astype(np.float32)
        return [p[:end] for p, end in zip(points, ends, strict=True)]


def slerp(
    first: Float[np.ndarray, "Z"], second: Float[np.ndarray, "Z"], share: float
) -> Float[np.ndarray, "Z"]:
    """A latent vector between two, along the arc; where they point the same way, along the line."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    angle = np.arccos(np.clip(first @ second / max(norms, 1e-30), -1, 1))
    if np.sin(angle) < 1e-6:
        return (1 - share) * first + share * second
    return (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle)


def _to_points(drawing: Float[np.ndarray, "_ 3"]) -> Float[np.ndarray, "_ 5"]:
    """stroke-3 as (dx, dy, p1, p2, p3)."""
    lifted = np.asarray(drawing, np.float32)[:, 2:]
    return np.concatenate([drawing[:, :2], 1 - lifted, lifted, 0 * lifted], 1).astype(np.float32)


def _padded(
    sequences: Sequence[Float[np.ndarray, "_ 5"]],
) -> tuple[Float[np.ndarray, "B T 5"], Int[np.ndarray, "B"]]:
    """To a power of two, so that few shapes are compiled, and the lengths."""
    lengths = np.array([len(s) for s in sequences], np.int32)
    longest = 1 << int(lengths.max() - 1).bit_length()
    points = np.zeros((len(sequences), longest, POINT), np.float32)
    for row, sequence in zip(points, sequences, strict=True):
        row[: len(sequence)] = sequence
    return points, lengths
