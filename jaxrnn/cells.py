"""The equations of one recurrent step, on plain arrays, and the table of cells.

A cell is given by its gates' two pre-activations, ``gates_x = W_ih x + b_ih`` and
``gates_h = W_hh h + b_hh``, and by the previous state; it returns the next state. Gate order
along the last axis is torch.nn's: LSTM ``i, f, g, o``; GRU ``r, z, n``.

    rnn:   h' = act(gates_x + gates_h)
    lstm:  c' = f * c + i * g,  h' = o * tanh(c')
    gru:   n = tanh(gates_x_n + r * gates_h_n),  h' = (1 - z) * n + z * h

Usage: ``h, c = CELLS["lstm"].equation(gates_x, gates_h, (h, c))``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

State = tuple[Array, ...]
"""``(h,)``, or ``(h, c)`` for an LSTM; each of shape (B, .)."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One kind of recurrent step.

    ``equation(gates_x, gates_h, state)`` gives the next state; its first member is the output
    (before the projection, where there is one). An LSTM's takes a ``scale`` of its candidate too.
    ``jaxrnn.Recurrent`` makes layers of any.
    """

    name: str
    num_gates: int
    num_states: int
    equation: Callable[..., State]


def rnn_tanh(gates_x: Float[Array, "B H"], gates_h: Float[Array, "B H"], state: State) -> State:
    """Elman step with tanh, as ``torch.nn.RNN(nonlinearity="tanh")``."""
    return (jnp.tanh(gates_x + gates_h),)


def rnn_relu(gates_x: Float[Array, "B H"], gates_h: Float[Array, "B H"], state: State) -> State:
    """Elman step with a rectifier, as ``torch.nn.RNN(nonlinearity="relu")``."""
    return (jax.nn.relu(gates_x + gates_h),)


def lstm(
    gates_x: Float[Array, "B G"],
    gates_h: Float[Array, "B G"],
    state: State,
    scale: Float[Array, "B H"] | None = None,
) -> State:
    """Long short-term memory with a forget gate (Gers et al., 2000), as ``torch.nn.LSTM``.

    ``scale`` multiplies ``g``: a mask of recurrent dropout (arXiv 1603.05118).
    """
    _, c = state
    i, f, g, o = jnp.split(gates_x + gates_h, 4, axis=-1)
    g = jnp.tanh(g) if scale is None else jnp.tanh(g) * scale
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * g
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(gates_x: Float[Array, "B G"], gates_h: Float[Array, "B G"], state: State) -> State:
    """Gated recurrent unit in its reset-after form (Cho et al., 2014 v1), as ``torch.nn.GRU``."""
    (h,) = state
    r_x, z_x, n_x = jnp.split(gates_x, 3, axis=-1)
    r_h, z_h, n_h = jnp.split(gates_h, 3, axis=-1)
    r, z = jax.nn.sigmoid(r_x + r_h), jax.nn.sigmoid(z_x + z_h)
    n = jnp.tanh(n_x + r * n_h)
    return ((1 - z) * n + z * h,)


CELLS = {
    "rnn_tanh": Cell("rnn_tanh", num_gates=1, num_states=1, equation=rnn_tanh),
    "rnn_relu": Cell("rnn_relu", num_gates=1, num_states=1, equation=rnn_relu),
    "lstm": Cell("lstm", num_gates=4, num_states=2, equation=lstm),
    "gru": Cell("gru", num_gates=3, num_states=1, equation=gru),
}
