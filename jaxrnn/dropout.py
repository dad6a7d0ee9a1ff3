"""Dropout whose masks cost what a multiplication costs: a hash of each element's place.

JAX's default generator, threefry, takes longer for a mask than a GRU of 64 units for its step; a
mask needs independence, not cryptography. Here two rounds of a 32-bit mixing hash (lowbias32,
nullprogram.com/blog/2018/07/31) of the element's index are keyed by 64 bits from a JAX key: the
same key gives the same mask, on any device and however the array is sharded. Usage::

    y = Dropout(0.5, rngs=nnx.Rngs(0))(x)
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool


def _mix(a: Array) -> Array:
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        a = (a ^ (a >> shift)) * jnp.uint32(factor)
    return a ^ (a >> 16)


def keep_mask(key: Array, keep: float, shape: tuple[int, ...]) -> Bool[Array, "..."]:
    """True with probability ``keep``, for each element by itself; 0 < keep < 1.

    Of more than 2**32 elements the mask repeats.
    """
    words = jax.random.bits(key, (2,), jnp.uint32)
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = math.prod(shape[axis + 1 :]) % 2**32
        index += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
    hashed = _mix(_mix(index ^ words[0]) ^ words[1])
    return hashed < jnp.uint32(min(round(keep * 2**32), 2**32 - 1))


class Dropout(nnx.Module):
    """Zeroes each element with probability ``rate`` in training, and scales the rest, as torch's.

    ``train()`` and ``eval()`` of a module switch it, as they do ``nnx.Dropout``.

    Args:
        rate: in [0, 1].
        rngs: whose stream 'dropout' the keys come from, a new one for each call.
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs):
        self.rate = rate
        self.deterministic = False
        self.rngs = rngs["dropout"].fork()

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | nnx.RngStream | None = None) -> jax.Array:
        """x of any shape with its mask; ``rngs``: in place of the module's own."""
        if self.deterministic or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        stream = self.rngs if rngs is None else rngs
        key = (stream["dropout"] if isinstance(stream, nnx.Rngs) else stream)()
        keep = 1 - self.rate
        return jnp.where(keep_mask(key, keep, x.shape), x / keep, jnp.zeros_like(x))
