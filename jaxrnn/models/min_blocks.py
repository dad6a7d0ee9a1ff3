"""The blocks that arXiv 2410.01201 puts around minGRU and minLSTM, and its language model.

A residual stream of H units passes ``num_layers`` blocks, each of which adds to it twice::

    x = x + dropout(out(rnn(conv(norm(x)))))         rnn of 2*H units, conv over 4 steps
    x = x + dropout(mlp_out(gelu(mlp_in(mlp_norm(x)))))              4*H units within

Before the first a linear layer, behind the last a norm. The paper names the parts (a convolution of
width 4, the minimal RNN with expansion 2, an MLP) and not their norms, which are RMSNorm here. The
state is that of the cells and the last three inputs of each convolution, so that a text written
symbol by symbol is that of the whole. Usage::

    model = MinCharLM(num_symbols=65, cell="mingru", hidden_size=384, num_layers=3, rngs=rngs)
    logits, (h, conv) = model(ids)                   # ids (B, T), logits (B, T, V)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.arguments import check_bool, check_dtype, check_probability, check_rngs, check_size
from jaxrnn.dense import Linear, uniform
from jaxrnn.dropout import Dropout
from jaxrnn.min_layers import MinGRU, MinLSTM
from jaxrnn.models.char_lm import CharLM
from jaxrnn.recurrence import state_dtype

WIDTH = 4  # steps that a convolution reads
EXPANSION = 2  # units of a minimal RNN, by those of the residual stream
MLP_EXPANSION = 4
EPSILON = 1e-5  # added to mean squares


class RMSNorm(nnx.Module):
    """``weight * x / sqrt(mean(x^2) + 1e-5)`` over the last axis, as ``torch.nn.RMSNorm``."""

    def __init__(self, size: int, *, param_dtype: DTypeLike = jnp.float32):
        self.weight = nnx.Param(jnp.ones(size, param_dtype))

    def __call__(self, x: Float[Array, "*N H"]) -> Float[Array, "*N H"]:
        """Of the same shape and dtype."""
        scale = jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + EPSILON)
        return x * scale * jnp.broadcast_to(self.weight[...].astype(x.dtype), x.shape)


class CausalConv(nnx.Module):
    """A convolution over time of each unit by itself, which reads no step to come.

    ``weight (H, 1, 4)`` and ``bias (H,)`` are those of ``torch.nn.Conv1d(H, H, 4, groups=H)``, and
    start so; the last column of the weight is for the step itself.
    """

    def __init__(self, size: int, *, rngs: nnx.Rngs, param_dtype: DTypeLike = jnp.float32):
        self.weight = uniform(rngs, (size, 1, WIDTH), WIDTH**-0.5, param_dtype)
        self.bias = uniform(rngs, (size,), WIDTH**-0.5, param_dtype)

    def __call__(self, x: Float[Array, "S B H"]) -> Float[Array, "T B H"]:
        """x from three steps before the first: S = T + 3."""
        num_steps = len(x) - (WIDTH - 1)
        shape = (num_steps, *x.shape[1:])
        weight, y = self.weight[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        y = jnp.broadcast_to(y, shape)
        for k in range(WIDTH):
            y = y + x[k : k + num_steps] * jnp.broadcast_to(weight[:, 0, k], shape)
        return y


class Block(nnx.Module):
    """One block of the residual stream; time-major."""

    def __init__(
        self,
        layer: Callable[..., Any],
        size: int,
        dropout: float,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        backend: str,
    ):
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        wide = EXPANSION * size
        self.norm = RMSNorm(size, param_dtype=param_dtype)
        self.conv = CausalConv(size, rngs=rngs, param_dtype=param_dtype)
        self.rnn = layer(size, wide, backend=backend, **options)
        self.out = Linear(wide, size, **options)
        self.mlp_norm = RMSNorm(size, param_dtype=param_dtype)
        self.mlp_in = Linear(size, MLP_EXPANSION * size, **options)
        self.mlp_out = Linear(MLP_EXPANSION * size, size, **options)
        self.dropout = Dropout(dropout, rngs=rngs) if dropout else None

    def __call__(
        self,
        x: Float[Array, "T B H"],
        h: Float[Array, "B E"],
        before: Float[Array, "3 B H"],
        lengths: Int[Array, "B"] | None,
        rngs: nnx.Rngs | None,
    ) -> tuple[Float[Array, "T B H"], Float[Array, "B E"], Float[Array, "3 B H"]]:
        """The stream, the cell's state, and the convolution's last three inputs."""

        def dropped(a):
            return a if self.dropout is None else self.dropout(a, rngs=rngs)

        read = jnp.concatenate([before.astype(x.dtype), self.norm(x)])
        y, h = self.rnn(self.conv(read), h[None], lengths=lengths)
        x = x + dropped(self.out(y))
        y = jax.nn.gelu(self.mlp_in(self.mlp_norm(x)), approximate=True)
        x = x + dropped(self.mlp_out(y))
        if lengths is None:
            return x, h[0], read[-(WIDTH - 1) :]
        ends = lengths[None, :] + jnp.arange(WIDTH - 1)[:, None]
        return x, h[0], jnp.take_along_axis(read, ends[..., None], axis=0)


class _MinBlocks(nnx.Module):
    """All blocks, with the call of a recurrent layer; ``layer`` is what they are around."""

    layer: ClassVar[Callable[..., Any]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        *,
        batch_first: bool,
        dropout: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        backend: str,
    ):
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.batch_first = check_bool("batch_first", batch_first)
        self.dtype = dtype = check_dtype("dtype", dtype)
        self.param_dtype = param_dtype = check_dtype("param_dtype", param_dtype)
        dropout = check_probability("dropout", dropout)
        check_rngs(rngs, "params", *["dropout"][: dropout > 0])
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.input = Linear(input_size, hidden_size, **options)
        self.blocks = nnx.List(
            Block(type(self).layer, hidden_size, dropout, backend=backend, **options)
            for _ in range(num_layers)
        )
        self.norm = RMSNorm(hidden_size, param_dtype=param_dtype)

    def initial_state(
        self, batch_size: int
    ) -> tuple[Float[Array, "L B E"], Float[Array, "L B 3 H"]]:
        """Zeros, as used where no state is given: of the cells and of the convolutions."""
        lead, size = (self.num_layers, batch_size), self.hidden_size
        dtype = state_dtype(self.dtype)
        h = jnp.zeros((*lead, EXPANSION * size), dtype)
        return h, jnp.zeros((*lead, WIDTH - 1, size), dtype)

    def __call__(
        self,
        x: Float[Array, "N M I"] | Int[Array, "N M"],
        state: Any = None,
        *,
        lengths: Int[Array, "B"] | None = None,
        rngs: nnx.Rngs | None = None,
        one_hot: bool = False,
    ) -> tuple[Float[Array, "N M H"], Any]:
        """The normed stream and the state; arguments as in ``jaxrnn.LSTM``, of a batch."""
        x = jax.nn.one_hot(x, self.input_size, dtype=self.dtype) if one_hot else x
        x = x.swapaxes(0, 1) if self.batch_first else x
        num_steps, batch_size, _ = x.shape
        valid = None
        if lengths is not None:
            valid = (jnp.arange(num_steps)[:, None] < lengths[None, :])[..., None]
            x = jnp.where(valid, x, jnp.zeros_like(x))
        h, conv = self.initial_state(batch_size) if state is None else state
        x = self.input(x)
        last = []
        for k, block in enumerate(self.blocks):
            x, *of_block = block(x, h[k], conv[k].swapaxes(0, 1), lengths, rngs)
            last.append(of_block)
        y = self.norm(x)
        if valid is not None:
            y = jnp.where(valid, y, jnp.zeros_like(y))
        h, conv = (jnp.stack(members) for members in zip(*last, strict=True))
        return y.swapaxes(0, 1) if self.batch_first else y, (h, conv.swapaxes(1, 2))


class MinGRUBlocks(_MinBlocks):
    """Blocks around ``MinGRU``."""

    layer = MinGRU


class MinLSTMBlocks(_MinBlocks):
    """Blocks around ``MinLSTM``."""

    layer = MinLSTM


class MinCharLM(CharLM):
    """The language model of arXiv 2410.01201: ``CharLM`` with blocks in place of layers.

    ``cell`` is 'mingru' or 'minlstm', ``hidden_size`` the width of the residual stream, and
    ``num_layers`` counts blocks; ``dropout`` acts on what they add, and before the decoder. All
    else, errors too, as in ``CharLM``. The state is ``(h, conv)``, (L, B, 2*H) and (L, B, 3, H).
    """

    layers: ClassVar[Mapping[str, Callable[..., Any]]] = {
        "mingru": MinGRUBlocks,
        "minlstm": MinLSTMBlocks,
    }
