"""Dynamic evaluation: a model that goes on learning from the text that it is measured on.

Each segment of ``segment_len`` symbols is scored, then learnt from (Krause et al. 2017, arXiv
1709.07432, equations 3 to 6): with L the segment's mean nats, g = dL/dp, p0 the trained parameters,
and s the root mean square of g over the training text::

    sgd    p <- p - lr * g + decay * (p0 - p)
    rms    p <- p - lr * g / (s + 2e-5) + min(decay * s / mean(s), 1) * (p0 - p)

No symbol is learnt from before it is scored. Such a figure is of another kind than that of a model
which stays as it is: never put one beside the other without saying so. Usage::

    scales = gradient_scales(skeleton, params, data.train, segment_len=20)
    metrics = evaluate(task, skeleton, params, held_out, Dynamic(20, 2e-4, 8e-3), scales)
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import losses
from jaxrnn.data.streams import Streams
from jaxrnn.errors import InputError
from jaxrnn.models import Params, Skeleton
from jaxrnn.tasks import HeldOut

EPSILON = 2e-5  # added to scales; that of the paper's code
STREAMS = 100  # side by side in the batches of which the scales are the mean, as there
MAX_BATCHES = 200  # of them: more change the scales little
SEGMENTS = 64  # in one dispatch
DEFAULTS = {"rms": (2e-4, 8e-3), "sgd": (0.2, 0.0)}
"""lr and decay of segments of 20: of rms the paper's code's, which it scales with the length."""


class Dynamic(NamedTuple):
    """How a model learns while it is evaluated."""

    segment_len: int
    lr: float
    decay: float


def gradient_scales(skeleton: Skeleton, params: Params, train: Any, segment_len: int) -> Params:
    """s of the rule rms: root mean squares of the mean nats' gradient, over batches of training.

    ``train`` are the batches of a run of characters, whose text is read again in segments, 100 side
    by side, the state carried.

    Raises InputError for a text that has no segment.
    """
    inputs, targets = train.inputs.ravel(), train.targets.ravel()
    num_streams = min(STREAMS, len(inputs) // segment_len)
    if not num_streams:
        raise InputError(
            f"--dynamic-len is {segment_len}, expected at most the {len(inputs)} symbols trained on"
        )
    streams = Streams(inputs, targets, num_streams, segment_len)
    model: Any = skeleton.merge(params)
    state, squares = model.rnn.initial_state(num_streams), jax.tree.map(jnp.zeros_like, params)
    count = min(streams.steps_per_epoch, MAX_BATCHES)
    for step in range(count):
        inputs, targets, _ = streams.batch_at(step)
        squares, state = _add_squares(skeleton, params, squares, state, inputs, targets)
    return jax.tree.map(lambda total: jnp.sqrt(total / count), squares)


@functools.partial(jax.jit, static_argnums=0)
def _add_squares(skeleton, params, squares, state, inputs, targets):
    mask = jnp.ones(targets.shape, bool)
    grads, (_, state) = jax.grad(_segment_nats, has_aux=True)(
        params, skeleton, state, inputs, targets, mask
    )
    return jax.tree.map(lambda total, g: total + g * g, squares, grads), state


def _segment_nats(params, skeleton, state, inputs, targets, mask):
    """The mean over the mask, and beside it the sum and the state."""
    logits, state = skeleton.merge(params)(inputs, state)
    total = losses.cross_entropy(logits, targets, mask)
    return total / jnp.maximum(mask.sum(), 1), (total, state)


@functools.partial(jax.jit, static_argnums=0)
def _score_and_learn(skeleton, params, start, rates, state, segments):
    """Sums of nats, the parameters and the state after some segments (K, 1, n).

    ``rates``: what a gradient, and the way back to ``start``, are multiplied by.
    """

    def step(carried, segment):
        params, state = carried
        grads, (total, state) = jax.grad(_segment_nats, has_aux=True)(
            params, skeleton, state, *segment
        )
        params = jax.tree.map(
            lambda p, g, p0, lr, decay: p - lr * g + decay * (p0 - p), params, grads, start, *rates
        )
        return (params, state), total

    (params, state), totals = jax.lax.scan(step, (params, state), segments)
    return totals, params, state


def learning_rates(params: Params, how: Dynamic, scales: Params | None) -> tuple[Params, Params]:
    """Of each element of each parameter: of its gradient, and of its way back.

    Without ``scales`` the rule is sgd. The mean of the scales is that over parameters of their own
    means, as in the paper's code.
    """
    if scales is None:
        same = [jax.tree.map(lambda p, r=r: jnp.full_like(p, r), params) for r in how[1:]]
        return same[0], same[1]
    mean = sum(s.mean() for s in scales.values()) / len(scales)
    return (
        jax.tree.map(lambda s: how.lr / (s + EPSILON), scales),
        jax.tree.map(lambda s: jnp.minimum(how.decay * s / mean, 1), scales),
    )


def evaluate(
    task: Any,
    skeleton: Skeleton,
    params: Params,
    held_out: HeldOut,
    how: Dynamic,
    scales: Params | None = None,
) -> dict[str, float]:
    """The task's metrics over every position, the model learning from each segment once scored."""
    model: Any = skeleton.merge(params)
    rates, start = learning_rates(params, how, scales), params
    state = model.rnn.initial_state(1)
    sums: list[np.ndarray] = []
    for window in held_out.windows(1, how.segment_len * SEGMENTS):
        segments = [_cut(part, how.segment_len) for part in window]
        totals, params, state = _score_and_learn(skeleton, params, start, rates, state, segments)
        sums.append(np.asarray(totals, np.float64))
    nats = math.fsum(np.concatenate(sums))
    return task.metrics({"nats": nats}, held_out.num_counted)


def _cut(part: np.ndarray, segment_len: int) -> np.ndarray:
    """(1, C) -> (K, 1, n), the last segment filled up with zeros, which no mask has."""
    missing = -part.shape[1] % segment_len
    return np.pad(part, ((0, 0), (0, missing))).reshape(-1, 1, segment_len)
