"""The oracle: a plain scan over the cell's equation, differentiated by JAX itself.

Works in forward and reverse mode to any order, for every cell in ``CELLS`` and for cells of your
own. All other backends are held to it. Low-precision operands are rounded to their dtype, then
multiplied and accumulated in float32.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.cells import Cell, State
from jaxrnn.recurrence.types import (
    Backend,
    Inputs,
    OneHot,
    PerStep,
    Spec,
    Weights,
    state_dtype,
    where,
)


def supports(spec: Spec) -> str | None:
    """Everything: see ``Backend``."""
    return None


@functools.partial(jax.jit, static_argnames=("cell", "reverse"))  # eager calls compile once
def run(
    cell: Cell,
    weights: Weights,
    x: Inputs,
    state: State,
    per_step: PerStep,
    reverse: bool,
) -> tuple[Float[Array, "T B P"], State]:
    """See ``Backend``."""
    dtype = x.dtype
    if isinstance(x, OneHot):
        x = x.dense()

    def linear(a, weight, bias):
        wide = state_dtype(dtype)
        a, weight = a.astype(dtype).astype(wide), weight.astype(dtype).astype(wide)
        out = a @ weight.T
        return out if bias is None else out + bias.astype(wide)[None]

    def step(state, inputs):
        x, (valid, reset, scale) = inputs
        if reset is not None:
            state = tuple(where(reset, jnp.zeros_like(s), s) for s in state)
        gates_x = linear(x, weights.weight_ih, weights.bias_ih)
        gates_h = linear(state[0], weights.weight_hh, weights.bias_hh)
        scaled = {} if scale is None else {"scale": scale}
        new = cell.equation(gates_x, gates_h, state, **scaled)
        if weights.weight_hr is not None:
            new = (linear(new[0], weights.weight_hr, None), *new[1:])
        if valid is not None:
            new = tuple(where(valid, n, s) for n, s in zip(new, state, strict=True))
        return new, new[0].astype(dtype)

    state, hs = jax.lax.scan(step, state, (x, per_step), reverse=reverse)
    return hs, state


BACKEND = Backend("reference", run, supports)
