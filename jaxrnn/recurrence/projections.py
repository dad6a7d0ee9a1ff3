"""What a layer computes for all steps at once: before the loop, and after the one backwards.

The input projection is one matmul, so is the gradient of each weight and of ``x``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn import rules
from jaxrnn.recurrence.types import Inputs, OneHot, Weights, matmul, matmul_nt, state_dtype


def gates_of_inputs(x: Inputs, weight_ih: Float[Array, "G I"]) -> Float[Array, "T B G"]:
    """``W_ih x`` of every step, in ``state_dtype``."""
    return x.matmul(weight_ih.T) if isinstance(x, OneHot) else matmul_nt(x, weight_ih)


def biases(cell_name: str, weights: Weights, wide: jnp.dtype) -> tuple[Array | None, Array | None]:
    """What is added to the gates of inputs, and to those of the state."""
    bias_ih, bias_hh = weights.bias_ih, weights.bias_hh
    if bias_ih is None or bias_hh is None:
        return None, None
    bias_x, bias_h = bias_ih.astype(wide), bias_hh.astype(wide)
    if cell_name == "gru":  # r scales W_hn h + b_hn: that bias can't join the input's
        return bias_x, bias_h
    return bias_x + bias_h, None


def over_steps(a: Float[Array, "T B M"], b: Float[Array, "T B N"]) -> Float[Array, "M N"]:
    """sum over T and B of the outer product of a and b, in one matmul."""
    wide = state_dtype(a.dtype)
    if not rules.contiguous_rows(jax.default_backend()):
        contract = ((0, 1), (0, 1))
        return jax.lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=wide)
    rows = jax.lax.optimization_barrier(b.transpose(2, 0, 1))
    contract = ((1, 2), (0, 1))
    out = jax.lax.dot_general(rows, a, (contract, ((), ())), preferred_element_type=wide)
    # Turned apart from the product, which XLA would turn and then can't compute in bfloat16.
    return jax.lax.optimization_barrier(out).T


def gradients(
    weights: Weights,
    x: Inputs,
    dgates_x: Float[Array, "T B G"],
    dgates_h: Float[Array, "T B G"],
    h_in: Float[Array, "T B P"],
    dweight_hr: Float[Array, "P H"] | None = None,
) -> tuple[Weights, Float[Array, "T B I"] | None]:
    """Of the weights, each in its own dtype, and of ``x`` (None: it is one-hot)."""

    def total(a):
        return a.astype(state_dtype(a.dtype)).sum((0, 1))

    has_bias = weights.bias_ih is not None
    dweights = Weights(
        over_steps(dgates_x, x.dense() if isinstance(x, OneHot) else x),
        over_steps(dgates_h, h_in),
        total(dgates_x) if has_bias else None,
        total(dgates_h) if has_bias else None,
        dweight_hr,
    )
    dweights = jax.tree.map(lambda d, w: d.astype(w.dtype), dweights, weights)
    if isinstance(x, OneHot):
        return dweights, None
    return dweights, matmul(dgates_x, weights.weight_ih.astype(x.dtype)).astype(x.dtype)
