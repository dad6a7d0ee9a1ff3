"""Dropout whose masks cost what a multiplication costs: a hash of each element's place.

JAX's default generator, threefry, takes longer for a mask than a GRU of 64 units for its step; a
mask needs independence, not cryptography. Here two rounds of a 32-bit mixing hash (lowbias32,
nullprogram.com/blog/2018/07/31) of the element's index are keyed by 64 bits from a JAX key: the
same key gives the same mask, on any device and however the array is sharded. Usage::

    y = Dropout(0.5, rngs=nnx.Rngs(0))(x)
    y = Dropout(0.5, rngs=nnx.Rngs(0), shared_axis=0)(x)
    params = weight_drop(params, 0.5, key)
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


def dropped(x: Array, rate: float, key: Array, shared_axis: int | None = None) -> Array:
    """x, each element zeroed with probability ``rate``, the rest scaled by 1 / (1 - rate).

    All places along ``shared_axis`` have one mask.
    """
    if rate == 0:
        return x
    if rate == 1:
        return jnp.zeros_like(x)
    shape = tuple(1 if axis == shared_axis else size for axis, size in enumerate(x.shape))
    keep = 1 - rate
    return jnp.where(keep_mask(key, keep, shape), x / keep, jnp.zeros_like(x))


def weight_drop(params: dict[str, Array], rate: float, key: Array) -> dict[str, Array]:
    """The parameters, elements of each recurrent matrix (``weight_hh_...``) zeroed or scaled.

    DropConnect from state to state (arXiv 1708.02182, section 2): whole sequences are run with one
    mask. The k-th matrix in the order of ``params`` has that of ``fold_in(key, k)``.
    """
    names = [name for name in params if name.rpartition(".")[2].startswith("weight_hh")]
    return params | {
        name: dropped(params[name], rate, jax.random.fold_in(key, k))
        for k, name in enumerate(names)
    }


class Dropout(nnx.Module):
    """Zeroes each element with probability ``rate`` in training, and scales the rest, as torch's.

    ``train()`` and ``eval()`` of a module switch it, as they do ``nnx.Dropout``.

    Args:
        rate: in [0, 1].
        rngs: whose stream 'dropout' the keys come from, a new one for each call.
        shared_axis: all places along it have one mask; of the axis of time, that is variational
            or locked dropout (arXiv 1512.05287). Keys of a call's ``rngs`` are then those of the
            stream 'locked': where a sequence is run in parts, they can have one mask.
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs, shared_axis: int | None = None):
        self.rate = rate
        self.deterministic = False
        self.shared_axis = shared_axis
        self.rngs = rngs["dropout"].fork()

    def __call__(self, x: jax.Array, *, rngs: nnx.Rngs | nnx.RngStream | None = None) -> jax.Array:
        """x of any shape with its mask; ``rngs``: in place of the module's own."""
        if self.deterministic or self.rate == 0:
            return x
        if self.rate == 1:
            return jnp.zeros_like(x)
        stream = self.rngs if rngs is None else rngs
        if isinstance(stream, nnx.Rngs):
            stream = stream["dropout" if self.shared_axis is None else "locked"]
        return dropped(x, self.rate, stream(), self.shared_axis)
