"""``Linear`` and ``Embedding`` with torch.nn's parameters, and how torch.nn draws them.

Usage::

    y = Linear(20, 5, rngs=nnx.Rngs(0))(x)       # x (..., 20), y (..., 5)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxrnn import recurrence
from jaxrnn.arguments import check_bool, check_dtype, check_size


def uniform(rngs: nnx.Rngs, shape: tuple[int, ...], bound: float, dtype: DTypeLike) -> nnx.Param:
    """A parameter of this shape from U(-bound, bound), drawn by the ``params`` stream."""
    return nnx.Param(jax.random.uniform(rngs.params(), shape, dtype, -bound, bound))


class Linear(nnx.Module):
    """``y = W x + b`` with ``weight (out, in)`` and ``bias (out,)``, as ``torch.nn.Linear``.

    ``nnx.Linear`` stores the transposed kernel, which a conversion would have to compute with.
    Both parameters start as U(-1/sqrt(in), 1/sqrt(in)). If ``tied``, it has a bias alone, and is
    called with a weight of another layer's.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        tied: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        bound = check_size("in_features", in_features) ** -0.5
        shape = (check_size("out_features", out_features), in_features)
        self.dtype = None if dtype is None else check_dtype("dtype", dtype)
        self.param_dtype = check_dtype("param_dtype", param_dtype)
        if not tied:
            self.weight = uniform(rngs, shape, bound, self.param_dtype)
        has_bias = check_bool("bias", bias)
        self.bias = uniform(rngs, shape[:1], bound, self.param_dtype) if has_bias else None

    def __call__(self, x: jax.Array, weight: jax.Array | None = None) -> jax.Array:
        """x (..., in) -> (..., out), accumulated and returned in float32 at least.

        ``weight`` (out, in) is in place of its own.
        """
        dtype = self.dtype or self.param_dtype
        weight = self.weight[...] if weight is None else weight
        y = recurrence.matmul_nt(x.astype(dtype), weight.astype(dtype))
        if self.bias is None:
            return y
        return y + jnp.broadcast_to(self.bias[...].astype(y.dtype), y.shape)


class Embedding(nnx.Module):
    """A row of ``weight (num_embeddings, dim)`` for each id, as ``torch.nn.Embedding``: N(0, 1).

    With a ``bound`` it starts as U(-bound, bound).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        bound: float | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
    ):
        shape = (
            check_size("num_embeddings", num_embeddings),
            check_size("embedding_dim", embedding_dim),
        )
        dtype = check_dtype("param_dtype", param_dtype)
        if bound is None:
            self.weight = nnx.Param(jax.random.normal(rngs.params(), shape, dtype))
        else:
            self.weight = uniform(rngs, shape, bound, dtype)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """ids (...) -> (..., embedding_dim)."""
        return self.weight[...][ids]
