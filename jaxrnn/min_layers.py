"""``MinGRU`` and ``MinLSTM``: recurrent layers whose gates see the input alone (arXiv 2410.01201).

They are other cells than ``torch.nn.GRU`` and ``torch.nn.LSTM``, not faster forms of them: there is
no hidden-to-hidden matrix, no tanh and no separate cell state, and weights of the one are of no use
to the other. Per step and unit, with g(a) = a + 0.5 where a >= 0, else sigmoid(a)::

    MinGRU    z = sigmoid(W_z x + b_z),  h~ = g(W_h x + b_h),  h' = (1 - z) * h + z * h~
    MinLSTM   f = sigmoid(W_f x + b_f),  i = sigmoid(W_i x + b_i),  h~ = g(W_h x + b_h),
              h' = f / (f + i) * h + i / (f + i) * h~

These are the paper's equations for training (its appendix B), whose h~ is never negative. It
computes them as logarithms, so as to sum exponentials; here h' = a * h + b itself is what is
combined, with a in 0..1, which needs no logarithms to be safe. Parameters are named as torch names
those of its layers: ``weight_ih_l0 (G*H, I)``, ``bias_ih_l0 (G*H,)``, gates in the order z, h and
f, i, h. Usage::

    layer = MinGRU(input_size=10, hidden_size=20, rngs=nnx.Rngs(0))
    y, h = layer(x)                                            # x (T, B, 10), y (T, B, 20)
    y, h = layer(x[:1], h)                                     # one step more
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from jaxrnn.arguments import (
    as_array,
    check_backend,
    check_bool,
    check_dtype,
    check_input,
    check_lengths,
    check_probability,
    check_rngs,
    check_shape,
    check_size,
    check_state,
)
from jaxrnn.dense import uniform
from jaxrnn.dropout import Dropout
from jaxrnn.recurrence import linear, matmul_nt, state_dtype


def _positive(a: Array) -> Array:
    """The paper's g."""
    return jnp.where(a >= 0, a + 0.5, jax.nn.sigmoid(a))


def min_gru(gates: Float[Array, "T B G"]) -> tuple[Float[Array, "T B H"], Float[Array, "T B H"]]:
    """(a, b) of ``h' = a * h + b``, of pre-activations z, h (T, B, 2*H)."""
    z, candidate = jnp.split(gates, 2, axis=-1)
    return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * _positive(candidate)


def min_lstm(gates: Float[Array, "T B G"]) -> tuple[Float[Array, "T B H"], Float[Array, "T B H"]]:
    """(a, b) of ``h' = a * h + b``, of pre-activations f, i, h (T, B, 3*H)."""
    f, i, candidate = jnp.split(gates, 3, axis=-1)
    # log(sigmoid(i) / sigmoid(f)): the quotients are its sigmoids, also where both gates are 0.
    more = jax.nn.softplus(-f) - jax.nn.softplus(-i)
    return jax.nn.sigmoid(-more), jax.nn.sigmoid(more) * _positive(candidate)


class _MinRecurrent(nnx.Module):
    """Stacking, dropout, layouts and checks, shared by MinGRU and MinLSTM.

    Memory in training, floats: T*B*L*(G*H + 4*H), besides the inputs of each layer.
    """

    num_gates: ClassVar[int]
    equation: ClassVar[Callable[[Array], tuple[Array, Array]]]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.bias = check_bool("bias", bias)
        self.batch_first = check_bool("batch_first", batch_first)
        self.dropout = check_probability("dropout", dropout)
        self.dtype = None if dtype is None else check_dtype("dtype", dtype)
        self.param_dtype = check_dtype("param_dtype", param_dtype)
        self.backend = check_backend(backend, linear.BACKENDS)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect with num_layers=1: it is applied after every "
                "layer but the last",
                stacklevel=5,  # past flax's metaclass, to who constructs the layer
            )
        has_masks = self.dropout > 0 and self.num_layers > 1
        check_rngs(rngs, "params", *["dropout"][:has_masks])
        gate_size = self.num_gates * self.hidden_size
        for layer in range(self.num_layers):
            width = self.hidden_size if layer else self.input_size
            for name, shape in (("weight_ih", (gate_size, width)), ("bias_ih", (gate_size,))):
                if name == "weight_ih" or self.bias:
                    param = uniform(rngs, shape, width**-0.5, self.param_dtype)
                    setattr(self, f"{name}_l{layer}", param)
        self.dropout_layer = Dropout(self.dropout, rngs=rngs) if has_masks else None

    def initial_state(self, batch_size: int | None = None) -> Array:
        """Zeros (L, B, H), as used where no state is given; without a batch where B is None.

        In float32 or wider.
        """
        batch = () if batch_size is None else (batch_size,)
        dtype = state_dtype(self.dtype or self.param_dtype)
        return jnp.zeros((self.num_layers, *batch, self.hidden_size), dtype)

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | Sequence[int] | None = None,
        resets: ArrayLike | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Run the whole sequence; arguments as in ``jaxrnn.LSTM``.

        Args:
            x: (T, B, I); (B, T, I) if ``batch_first``; (T, I) without a batch. T >= 1.
            state: h (L, B, H) as returned, (L, H) without a batch; zeros if None.
            lengths: (B,) ints, 1 <= length <= T, in any order. Outputs from a sequence's length on
                are zero, the last state is the one at its length, the content of ``x`` there has
                no influence.
            resets: bools, (T, B) laid out as ``x``: True where a new episode begins, from zeros.
            rngs: the source of dropout masks (stream 'dropout'), in place of the module's own.

        Returns:
            y (T, B, H), laid out as ``x``, and the last state, like ``state``: in float32 at least,
            also where ``dtype`` is narrower.

        Raises:
            ValueError, TypeError: naming the argument, what it is and what it must be.
        """
        owner = type(self).__name__
        x = check_input(owner, x, (2, 3), self.input_size, self.dtype, self.param_dtype)
        batched = x.ndim == 3
        time_axis = 1 if batched and self.batch_first else 0
        num_steps, lead = x.shape[time_axis], x.shape[:-1]
        if num_steps == 0:
            raise ValueError(f"{owner}: x has shape {x.shape}, expected at least one time step")
        batch = (x.shape[1 - time_axis],) if batched else ()
        if state is None:
            h = self.initial_state(*batch)
        else:
            shape = (self.num_layers, *batch, self.hidden_size)
            (h,) = check_state(owner, "h", state, [shape])
        if lengths is not None:
            lengths = check_lengths(owner, lengths, batch, num_steps)
        if resets is not None:
            resets = as_array(f"{owner}: resets", resets)
            if resets.dtype != jnp.bool_:
                raise TypeError(f"{owner}: resets has dtype {resets.dtype}, expected bool")
            check_shape(f"{owner}: resets", resets.shape, lead, "one bool a step and sequence")

        if not batched:
            x, h = x[:, None], h[:, None]
            lengths = None if lengths is None else lengths[None]
            resets = None if resets is None else resets[:, None]
        elif self.batch_first:
            x = x.swapaxes(0, 1)
            resets = None if resets is None else resets.swapaxes(0, 1)
        y, h = self._run(x, h, lengths, resets, rngs)
        if not batched:
            return y[:, 0], h[:, 0]
        return y.swapaxes(0, 1) if self.batch_first else y, h

    def _run(self, x, h, lengths, resets, rngs) -> tuple[Array, Array]:
        """All layers, batched and time-major."""
        dtype, wide = x.dtype, state_dtype(x.dtype)
        valid = None
        if lengths is not None:
            valid = (jnp.arange(len(x))[:, None] < lengths[None, :])[..., None]
            x = jnp.where(valid, x, jnp.zeros_like(x))
        last = []
        for layer in range(self.num_layers):
            if layer and self.dropout_layer is not None:
                x = self.dropout_layer(x, rngs=rngs)
            gates = matmul_nt(x, getattr(self, f"weight_ih_l{layer}")[...].astype(dtype))
            if self.bias:
                bias = getattr(self, f"bias_ih_l{layer}")[...].astype(wide)
                gates = gates + jnp.broadcast_to(bias, gates.shape)
            a, b = type(self).equation(gates)
            if resets is not None:
                a = jnp.where(resets[..., None], jnp.zeros_like(a), a)
            if valid is not None:  # the state is held
                a = jnp.where(valid, a, jnp.ones_like(a))
                b = jnp.where(valid, b, jnp.zeros_like(b))
            hs = linear.run(a, b, h[layer].astype(wide), self.backend)
            last.append(hs[-1])
            x = hs if valid is None else jnp.where(valid, hs, jnp.zeros_like(hs))
            x = x.astype(dtype)
        return x, jnp.stack(last)


class MinGRU(_MinRecurrent):
    """The minimal GRU of arXiv 2410.01201, ``h' = (1 - z) * h + z * h~``: not ``torch.nn.GRU``.

    The update gate z and the candidate h~ see the input alone, and there is no reset gate.

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout: as in ``jaxrnn.GRU``.
        rngs: streams 'params' and, with dropout, 'dropout'.
        dtype, param_dtype: as in ``jaxrnn.GRU``.
        backend: 'auto', by the device; 'associative' finds all steps at once by
            ``jax.lax.associative_scan``, 'scan' one after the other; 'reference' is the one to
            differentiate in forward mode. A single step is computed without either.

    Parameters start as those of ``torch.nn.Linear``, as U(-1/sqrt(in), 1/sqrt(in)).

    Raises:
        ValueError, TypeError: naming the argument, what it is and what it must be.
    """

    num_gates, equation = 2, staticmethod(min_gru)


class MinLSTM(_MinRecurrent):
    """The minimal LSTM of arXiv 2410.01201: not ``torch.nn.LSTM``.

    Forget and input gate are divided by their sum, see the input alone as the candidate does, and
    there is neither an output gate nor a cell state: the state is h alone. Arguments and errors as
    in ``MinGRU``.
    """

    num_gates, equation = 3, staticmethod(min_lstm)


MIN_LAYERS = {"mingru": MinGRU, "minlstm": MinLSTM}
"""The layers by the name of their cell, as options spell it."""
