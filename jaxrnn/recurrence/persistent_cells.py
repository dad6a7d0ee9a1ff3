"""A step of each cell for the persistent kernels, and a step backwards: element by element.

Of the (rows, units) of a block, an array a gate, as a product leaves them in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


def _sigmoid(a: Array) -> Array:
    return jnp.tanh(a * 0.5) * 0.5 + 0.5


def _lstm_forward(x, h, state):
    i, f, o = (_sigmoid(x[k] + h[k]) for k in (0, 1, 3))
    g = jnp.tanh(x[2] + h[2])
    c = f * state[1] + i * g
    return (o * jnp.tanh(c), c), (i, f, g, o)


def _lstm_backward(saved, before, after, dstate):
    (i, f, g, o), c_in, (dh, dc) = saved, before, dstate
    tanh_c = jnp.tanh(after)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    di, df, do = dc * g * i * (1 - i), dc * c_in * f * (1 - f), dh * tanh_c * o * (1 - o)
    return (di, df, dc * i * (1 - g * g), do), (), (None, dc * f)


def _gru_forward(x, h, state):
    r, z = (_sigmoid(x[k] + h[k]) for k in (0, 1))
    n = jnp.tanh(x[2] + r * h[2])
    return (n + z * (state[0] - n),), (r, z, n, h[2])


def _gru_backward(saved, before, after, dstate):
    (r, z, n, n_h), (dh,) = saved, dstate
    dn = dh * (1 - z) * (1 - n * n)
    dr, dz = dn * n_h * r * (1 - r), dh * (before - n) * z * (1 - z)
    return (dr, dz, dn * r), (dn,), (dh * z,)


def _rnn_tanh_forward(x, h, state):
    return (jnp.tanh(x[0] + h[0]),), ()


def _rnn_tanh_backward(saved, before, after, dstate):
    return (dstate[0] * (1 - after * after),), (), (None,)


def _rnn_relu_forward(x, h, state):
    return (jnp.maximum(x[0] + h[0], 0),), ()


def _rnn_relu_backward(saved, before, after, dstate):
    return (jnp.where(after > 0, dstate[0], 0),), (), (None,)


class Step(NamedTuple):
    """A cell, of (rows, units) a gate.

    ``forward(gates of x, of h, state)`` gives the next state and what is saved;
    ``backward(saved, before, after, gradient of the state)`` the gradients of the gates of h, of
    those of x that differ (the last), and of the state before, other than through gates of h.
    Before and after are of the last member of the state, which a cell with two saves.
    """

    forward: Callable[..., Any]
    backward: Callable[..., Any]
    num_saved: int
    num_differing: int = 0
    needs_before: bool = False
    needs_after: bool = False


STEPS = {
    "lstm": Step(_lstm_forward, _lstm_backward, 4, needs_before=True, needs_after=True),
    "gru": Step(_gru_forward, _gru_backward, 4, num_differing=1, needs_before=True),
    "rnn_tanh": Step(_rnn_tanh_forward, _rnn_tanh_backward, 0, needs_after=True),
    "rnn_relu": Step(_rnn_relu_forward, _rnn_relu_backward, 0, needs_after=True),
}
"""By the name of the cell."""
