"""The temperature of a text's predictions, found while it is read: softmax(logits / temperature).

Each window is scored at the temperature that was best over the windows before it, so that no symbol
has a say in its own probability; the first at 1. What is tried are 141 temperatures from 0.5 to 2,
1% apart. Usage::

    metrics, temperature = evaluate_tuned(task, skeleton, params, held_out)
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn import losses
from jaxrnn.models import Params, Skeleton
from jaxrnn.tasks import HeldOut
from jaxrnn.training import EVAL_CHUNK

TEMPERATURES = 2.0 ** (np.arange(-70, 71) / 70)


@functools.partial(jax.jit, static_argnums=0)
def _nats(skeleton, params, state, window):
    """Sums at every temperature, and the state."""
    inputs, targets, mask = window
    logits, state = skeleton.merge(params)(inputs, state)

    def nats(temperature):
        return losses.cross_entropy(logits / temperature.astype(logits.dtype), targets, mask)

    return jax.lax.map(nats, jnp.asarray(TEMPERATURES)), state


def evaluate_tuned(
    task: Any,
    skeleton: Skeleton,
    params: Params,
    held_out: HeldOut,
    num_streams: int = 1,
    chunk_len: int = EVAL_CHUNK,
) -> tuple[dict[str, float], float]:
    """The task's metrics so, and the temperature that is best over all windows."""
    model: Any = skeleton.merge(params)
    state, sums = None, np.zeros(len(TEMPERATURES))
    scored = []
    for window in held_out.windows(num_streams, chunk_len):
        if state is None:
            state = model.rnn.initial_state(len(window.mask))
        found, state = _nats(skeleton, params, state, window)
        found = np.asarray(found, np.float64)
        scored.append(found[best_of(sums)])
        sums += found
    metrics = task.metrics({"nats": math.fsum(scored)}, held_out.num_counted)
    return metrics, float(TEMPERATURES[best_of(sums)])


def best_of(sums: np.ndarray) -> int:
    """The place of the least sum; of several, the one nearest to a temperature of 1."""
    middle = len(sums) // 2
    least = np.flatnonzero(sums == sums.min())
    return int(least[np.argmin(np.abs(least - middle))])
