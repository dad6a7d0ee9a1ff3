"""Hidden units made up to whole lanes of a TPU's registers, and back.

A TPU holds arrays in tiles of 8 x 128: with H a multiple of 128 the gates of (B, G * H) begin at
whole tiles, and taking them apart moves nothing. Units of which every weight is 0 stay 0 and pass
no gradient on, whatever the cell: the result is the same. Usage::

    weights, state, per_step = widened(cell, 384, weights, state, per_step)
    hs, state = narrowed(300, False, hs, state)
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array

from jaxrnn.cells import Cell, State
from jaxrnn.recurrence.types import PerStep, Weights


def widened(
    cell: Cell, size: int, weights: Weights, state: State, per_step: PerStep
) -> tuple[Weights, State, PerStep]:
    """A layer's arrays with ``size`` hidden units, those beyond its own of zeros."""
    hidden_size = len(weights.weight_hh) // cell.num_gates
    more = size - hidden_size

    def columns(array: Array) -> Array:
        return jnp.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, more)])

    def rows(array: Array) -> Array:
        gates = array.reshape(cell.num_gates, hidden_size, *array.shape[1:])
        gates = jnp.pad(gates, [(0, 0), (0, more)] + [(0, 0)] * (array.ndim - 1))
        return gates.reshape(cell.num_gates * size, *array.shape[1:])

    weight_ih, weight_hh, bias_ih, bias_hh, weight_hr = weights
    is_projected = weight_hr is not None  # then h has a size of its own
    wide = Weights(
        rows(weight_ih),
        rows(weight_hh if is_projected else columns(weight_hh)),
        None if bias_ih is None else rows(bias_ih),
        None if bias_hh is None else rows(bias_hh),
        None if weight_hr is None else columns(weight_hr),
    )
    h, *others = state
    state = (h if is_projected else columns(h), *map(columns, others))
    scale = None if per_step.scale is None else columns(per_step.scale)
    return wide, state, per_step._replace(scale=scale)


def narrowed(hidden_size: int, is_projected: bool, hs: Array, state: State) -> tuple[Array, State]:
    """The outputs and the state without the units that were added."""
    h, *others = state
    if not is_projected:
        hs, h = hs[..., :hidden_size], h[..., :hidden_size]
    return hs, (h, *(s[..., :hidden_size] for s in others))
