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
    blocks = _orthonormal(jax.random.normal(key, (num_gates, size, size), wide))
    return blocks.reshape(num_gates * size, size).astype(dtype)


def _orthonormal(blocks: Float[Array, "N H H"]) -> Float[Array, "N H H"]:
    """The rows of each block by Gram and Schmidt, twice: of normal numbers, uniform rotations.

    Not ``jnp.linalg.qr``: within a jitted program on two CPU devices LAPACK's threads can wait for
    each other without end (jax 0.10.2).
    """

    def next_row(k, done):
        row = blocks[:, k]
        for _ in range(2):  # once loses digits to rounding
            along = jnp.einsum("nij,nj->ni", done, row)  # rows from k on are zeros yet
            row = row - jnp.einsum("ni,nij->nj", along, done)
        return done.at[:, k].set(row / jnp.linalg.norm(row, axis=1, keepdims=True))

    return jax.lax.fori_loop(0, blocks.shape[1], next_row, jnp.zeros_like(blocks))
