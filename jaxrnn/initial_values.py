"""How parameters are drawn where torch.nn's own U(-bound, bound) is not what a paper trains with.

Usage::

    weight = nnx.Param(orthogonal_gates(rngs.params(), 4, hidden_size, jnp.float32))
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float


def glorot(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Float[Array, "..."]:
    """U(-a, a) with a = sqrt(6 / (fan in + fan out)), of a vector's length twice: Glorot, 2010."""
    bound = math.sqrt(6 / (shape[0] + shape[-1]))
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def orthogonal_gates(
    key: Array, num_gates: int, size: int, dtype: DTypeLike
) -> Float[Array, "G H"]:
    """(num_gates * size, size): a random orthogonal matrix for each gate (arXiv 1312.6120)."""
    wide = jnp.promote_types(dtype, jnp.float32)
    make = jax.nn.initializers.orthogonal(dtype=wide)
    blocks = jax.vmap(lambda key: make(key, (size, size)))(jax.random.split(key, num_gates))
    return blocks.reshape(num_gates * size, size).astype(dtype)
