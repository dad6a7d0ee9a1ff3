"""LSTMs with layer norm: ``LayerNormLSTM``, and ``HyperLSTM``, which a smaller one of them steers.

The equations are Magenta's ``LayerNormLSTMCell`` (arXiv 1607.06450) and ``HyperLSTMCell`` (arXiv
1609.09106), the layout is torch.nn's: weights (out, in), gates in the order i, f, g, o::

    LN(a) = weight * (a - mean(a)) / sqrt(var(a) + 0.001) + bias     over H, each gate by itself
    LayerNormLSTM:  i, f, g, o = LN(W_ih x + W_hh h)
    HyperLSTM:      i, f, g, o = LN(alpha_x * W_ih x + alpha_h * W_hh h + beta + bias)
    both:           c' = sigmoid(f) * c + sigmoid(i) * tanh(g),  h' = sigmoid(o) * tanh(LN(c'))

where hyper_h is the output of a LayerNormLSTM that reads x and h, and each gate by itself has
``alpha_x = A (Z hyper_h + z)``, ``alpha_h`` alike, and ``beta = B Z_b hyper_h``. Usage::

    y, (h, c) = LayerNormLSTM(input_size=5, hidden_size=512, rngs=nnx.Rngs(0))(x)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxrnn.arguments import (
    as_array,
    check_bool,
    check_dtype,
    check_input,
    check_lengths,
    check_probability,
    check_rngs,
    check_size,
    check_state,
)
from jaxrnn.cells import State
from jaxrnn.dropout import Dropout
from jaxrnn.initial_values import glorot, orthogonal_gates
from jaxrnn.recurrence import PerStep, matmul_nt, state_dtype
from jaxrnn.recurrence.types import where

EPSILON = 1e-3  # Magenta's, added to variances


class CellWeights(NamedTuple):
    """The parameters of one layer-normed LSTM."""

    weight_ih: Float[Array, "4*H I"]
    weight_hh: Float[Array, "4*H H"]
    ln_gates_weight: Float[Array, "4*H"]
    ln_gates_bias: Float[Array, "4*H"]
    ln_cell_weight: Float[Array, "H"]
    ln_cell_bias: Float[Array, "H"]


class HyperWeights(NamedTuple):
    """What steers a HyperLSTM: for each gate, from hyper_h (K) to embeddings (E) and on to H."""

    bias: Float[Array, "4*H"]
    zw_x_weight: Float[Array, "4*E K"]
    zw_x_bias: Float[Array, "4*E"]
    alpha_x_weight: Float[Array, "4*H E"]
    zw_h_weight: Float[Array, "4*E K"]
    zw_h_bias: Float[Array, "4*E"]
    alpha_h_weight: Float[Array, "4*H E"]
    zb_weight: Float[Array, "4*E K"]
    beta_weight: Float[Array, "4*H E"]


def _normed(a: Array, weight: Array, bias: Array) -> Array:
    """Layer norm over the last axis."""
    a = a - a.mean(-1, keepdims=True)
    return a * jax.lax.rsqrt((a * a).mean(-1, keepdims=True) + EPSILON) * weight + bias


def _update(weights: CellWeights, gates: Array, c: Array, scale: Array | None) -> State:
    """The next h and c, of pre-activations (B, 4*H) before their norm."""
    wide, (batch_size, hidden_size) = c.dtype, c.shape

    def normed(a, weight, bias):
        shape = (1, *a.shape[1:])
        return _normed(a, weight.astype(wide).reshape(shape), bias.astype(wide).reshape(shape))

    by_gate = gates.reshape(batch_size, 4, hidden_size)
    gates = normed(by_gate, weights.ln_gates_weight, weights.ln_gates_bias).reshape(gates.shape)
    # tanh(a * slope) * slope + offset: sigmoid for i, f, o and tanh for g, in one loop.
    slope = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], wide), hidden_size)[None]
    offset = np.repeat(np.array([0.5, 0.5, 0.0, 0.5], wide), hidden_size)[None]
    i, f, g, o = jnp.split(jnp.tanh(gates * slope) * slope + offset, 4, axis=-1)
    c = f * c + i * (g if scale is None else g * scale)
    return o * jnp.tanh(normed(c, weights.ln_cell_weight, weights.ln_cell_bias)), c


def _layer_norm_lstm(weights: CellWeights, x: Float[Array, "T B I"]) -> tuple[Array, Callable]:
    dtype = x.dtype
    weight_hh = weights.weight_hh.astype(dtype)

    def step(state, gates_x, scale):
        h, c = state
        return _update(weights, gates_x + matmul_nt(h.astype(dtype), weight_hh), c, scale)

    return matmul_nt(x, weights.weight_ih.astype(dtype)), step


def _hyper_lstm(
    weights: tuple[CellWeights, CellWeights, HyperWeights], x: Float[Array, "T B I"]
) -> tuple[Array, Callable]:
    main, hyper, steer = weights
    dtype, wide, input_size = x.dtype, state_dtype(x.dtype), x.shape[-1]
    hidden_size, embedding_size = len(main.ln_cell_bias), steer.alpha_x_weight.shape[-1]
    # What reads the same vector is one matrix: a step then has four matmuls.
    split = len(hyper.weight_ih)
    of_x = jnp.concatenate([hyper.weight_ih[:, :input_size], main.weight_ih]).astype(dtype)
    of_h = jnp.concatenate([hyper.weight_ih[:, input_size:], main.weight_hh]).astype(dtype)
    hyper_hh = hyper.weight_hh.astype(dtype)
    of_hyper_h = jnp.concatenate([steer.zw_x_weight, steer.zw_h_weight, steer.zb_weight])
    of_hyper_h = of_hyper_h.astype(dtype)
    no_bias = jnp.zeros_like(steer.zw_x_bias)
    z_bias = jnp.concatenate([steer.zw_x_bias, steer.zw_h_bias, no_bias]).astype(wide)
    of_z = jnp.concatenate([steer.alpha_x_weight, steer.alpha_h_weight, steer.beta_weight])
    of_z = of_z.astype(dtype).reshape(12, hidden_size, embedding_size)

    def step(state, through_x, scale):
        h, c, hyper_h, hyper_c = state
        through_h = matmul_nt(h.astype(dtype), of_h)
        hyper_gates = through_x[:, :split] + through_h[:, :split]
        hyper_gates = hyper_gates + matmul_nt(hyper_h.astype(dtype), hyper_hh)
        hyper_h, hyper_c = _update(hyper, hyper_gates, hyper_c, None)
        z = matmul_nt(hyper_h.astype(dtype), of_hyper_h) + z_bias[None]
        z = z.astype(dtype).reshape(len(h), 12, embedding_size)
        steered = jnp.einsum("bne,nhe->bnh", z, of_z, preferred_element_type=wide)
        alpha_x, alpha_h, beta = jnp.split(steered.reshape(len(h), 12 * hidden_size), 3, axis=-1)
        gates = alpha_x * through_x[:, split:] + alpha_h * through_h[:, split:] + beta
        h, c = _update(main, gates + steer.bias.astype(wide)[None], c, scale)
        return h, c, hyper_h, hyper_c

    return matmul_nt(x, of_x), step


@functools.partial(jax.jit, static_argnums=0)  # so that eager calls compile once
def _run(
    cell: Callable, weights: Any, x: Float[Array, "T B I"], state: State, per_step: PerStep
) -> tuple[Float[Array, "T B H"], State]:
    """Outputs and the last state; ``cell(weights, x)`` gives what is known ahead, and the step."""
    if per_step.valid is not None:
        x = jnp.where(per_step.valid[..., None], x, jnp.zeros_like(x))
    ahead, step = cell(weights, x)

    def body(state, inputs):
        ahead, (valid, _, scale) = inputs
        new = step(state, ahead, scale)
        y = new[0].astype(x.dtype)
        if valid is not None:
            new = tuple(where(valid, n, s) for n, s in zip(new, state, strict=True))
            y = where(valid, y, jnp.zeros_like(y))
        return new, y

    state, y = jax.lax.scan(body, state, (ahead, per_step))
    return y, state


class _NormedLSTM(nnx.Module):
    """Parameters, checks and layouts that LayerNormLSTM and HyperLSTM share."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        batch_first: bool,
        recurrent_dropout: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
    ):
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.batch_first = check_bool("batch_first", batch_first)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.dtype = None if dtype is None else check_dtype("dtype", dtype)
        self.param_dtype = param_dtype = check_dtype("param_dtype", param_dtype)
        check_rngs(rngs, "params", *["dropout"][: self.recurrent_dropout > 0])
        size = self.hidden_size
        self.weight_ih = nnx.Param(glorot(rngs.params(), (4 * size, self.input_size), param_dtype))
        self.weight_hh = nnx.Param(orthogonal_gates(rngs.params(), 4, size, param_dtype))
        self.ln_gates_weight = _full(1.0, (4 * size,), param_dtype)
        # The forget gate starts open, by what Magenta adds at each step.
        forget = slice(size, 2 * size)
        self.ln_gates_bias = nnx.Param(jnp.zeros(4 * size, param_dtype).at[forget].set(1))
        self.ln_cell_weight = _full(1.0, (size,), param_dtype)
        self.ln_cell_bias = _full(0.0, (size,), param_dtype)
        self.candidate_dropout = (
            Dropout(self.recurrent_dropout, rngs=rngs) if self.recurrent_dropout else None
        )

    def _state_sizes(self) -> dict[str, int]:
        """The members of the state, with the size of each."""
        raise NotImplementedError

    def _cell(self) -> tuple[Callable, Any]:
        """The cell to run, and its weights."""
        raise NotImplementedError

    def initial_state(self, batch_size: int) -> tuple[Float[Array, "1 B _"], ...]:
        """Zeros, as used where no state is given; float32 or wider."""
        dtype = state_dtype(self.dtype or self.param_dtype)
        sizes = self._state_sizes().values()
        return tuple(jnp.zeros((1, batch_size, size), dtype) for size in sizes)

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | Sequence[int] | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Run the whole sequence.

        Args:
            x: (T, B, I), or (B, T, I) if ``batch_first``; T >= 1.
            state: members (1, B, .) as returned and as of ``initial_state``; zeros if None.
            lengths: (B,) ints, 1 <= length <= T, as of ``jaxrnn.LSTM``: outputs from a sequence's
                length on are zero, the last state is the one at its length, the content of ``x``
                there has no influence.
            rngs: the source of dropout masks (stream 'dropout'), in place of the module's own.

        Returns:
            y (T, B, H), laid out as ``x``, and the last state: float32 at least, also where
            ``dtype`` is narrower.

        Raises:
            ValueError, TypeError: naming the argument, what it is and what it must be.
        """
        owner = type(self).__name__
        x = as_array(f"{owner}: x", x)
        if x.ndim != 3:
            raise ValueError(f"{owner}: x has shape {x.shape}, expected 3 dimensions")
        x = check_input(owner, x, (3, 3), self.input_size, self.dtype, self.param_dtype)
        if self.batch_first:
            x = x.swapaxes(0, 1)
        num_steps, batch_size, _ = x.shape
        if num_steps == 0:
            raise ValueError(f"{owner}: x has no time step, expected at least one")
        sizes = self._state_sizes()
        if state is None:
            members = self.initial_state(batch_size)
        else:
            shapes = [(1, batch_size, size) for size in sizes.values()]
            members = check_state(owner, f"({', '.join(sizes)})", state, shapes)
        valid = None
        if lengths is not None:
            lengths = check_lengths(owner, lengths, (batch_size,), num_steps)
            valid = jnp.arange(num_steps)[:, None] < lengths[None, :]
        wide = state_dtype(x.dtype)
        cell, weights = self._cell()
        y, members = _run(
            cell,
            weights,
            x,
            tuple(m[0].astype(wide) for m in members),
            PerStep(valid, None, self._candidate_scale(num_steps, batch_size, wide, rngs)),
        )
        return y.swapaxes(0, 1) if self.batch_first else y, tuple(m[None] for m in members)

    def _candidate_scale(self, num_steps, batch_size, dtype, rngs) -> jax.Array | None:
        """A mask of the candidate for every step, or None where nothing is dropped."""
        if self.candidate_dropout is None or self.candidate_dropout.deterministic:
            return None
        ones = jnp.ones((num_steps, batch_size, self.hidden_size), dtype)
        return self.candidate_dropout(ones, rngs=rngs)


class LayerNormLSTM(_NormedLSTM):
    """An LSTM whose gates and cell are layer-normed, one layer in one direction.

    The state is ``(h, c)``. ``weight_ih`` starts as Glorot's, ``weight_hh`` orthogonal for each
    gate, norms as the identity but for the forget gate's bias of 1.

    Args:
        input_size, hidden_size: I and H.
        batch_first: x and y are (B, T, .).
        recurrent_dropout: in training the probability that an element of ``tanh(g)`` is zeroed at
            a step, the others being scaled (arXiv 1603.05118).
        rngs, dtype, param_dtype: as in ``jaxrnn.LSTM``.

    Raises:
        ValueError, TypeError: naming the argument, what it is and what it must be.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        batch_first: bool = False,
        recurrent_dropout: float = 0.0,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(
            input_size, hidden_size, batch_first, recurrent_dropout, rngs, dtype, param_dtype
        )

    def _state_sizes(self):
        return {"h": self.hidden_size, "c": self.hidden_size}

    def _cell(self):
        return _layer_norm_lstm, _values(self, CellWeights)


class HyperLSTM(_NormedLSTM):
    """A layer-normed LSTM whose gates are scaled and shifted, at each step, by a smaller one.

    The state is ``(h, c, hyper_h, hyper_c)``. Scales start as 0.1 and shifts as 0, whatever
    hyper_h is; the rest as in ``LayerNormLSTM``.

    Args:
        input_size, hidden_size: I and H.
        hyper_size: K, units of the smaller LSTM, which has no dropout.
        embedding_size: E, of each gate's way from there.
        batch_first, recurrent_dropout, rngs, dtype, param_dtype: as in ``LayerNormLSTM``.

    Raises:
        ValueError, TypeError: naming the argument, what it is and what it must be.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        hyper_size: int = 256,
        embedding_size: int = 32,
        batch_first: bool = False,
        recurrent_dropout: float = 0.0,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(
            input_size, hidden_size, batch_first, recurrent_dropout, rngs, dtype, param_dtype
        )
        self.hyper_size = check_size("hyper_size", hyper_size)
        self.embedding_size = check_size("embedding_size", embedding_size)
        self.hyper_cell = LayerNormLSTM(
            input_size + hidden_size, hyper_size, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        gate_size, z_size = 4 * self.hidden_size, 4 * self.embedding_size
        to_z, to_gates = (z_size, self.hyper_size), (gate_size, self.embedding_size)
        normal = jax.random.normal(rngs.params(), to_z, self.param_dtype)
        self.bias = _full(0.0, (gate_size,), self.param_dtype)
        self.zw_x_weight = _full(0.0, to_z, self.param_dtype)
        self.zw_x_bias = _full(1.0, (z_size,), self.param_dtype)
        self.alpha_x_weight = _full(0.1 / self.embedding_size, to_gates, self.param_dtype)
        self.zw_h_weight = _full(0.0, to_z, self.param_dtype)
        self.zw_h_bias = _full(1.0, (z_size,), self.param_dtype)
        self.alpha_h_weight = _full(0.1 / self.embedding_size, to_gates, self.param_dtype)
        self.zb_weight = nnx.Param(0.01 * normal)
        self.beta_weight = _full(0.0, to_gates, self.param_dtype)

    def _state_sizes(self):
        main, hyper = self.hidden_size, self.hyper_size
        return {"h": main, "c": main, "hyper_h": hyper, "hyper_c": hyper}

    def _cell(self):
        main, hyper = _values(self, CellWeights), _values(self.hyper_cell, CellWeights)
        return _hyper_lstm, (main, hyper, _values(self, HyperWeights))


def _full(value: float, shape: tuple[int, ...], dtype: DTypeLike) -> nnx.Param:
    return nnx.Param(jnp.full(shape, value, dtype))


def _values(module: nnx.Module, weights: Any) -> Any:
    """The parameters of these names, as arrays."""
    return weights(*(getattr(module, name)[...] for name in weights._fields))
