"""``RNNCell``, ``LSTMCell`` and ``GRUCell``: one step, with torch.nn's constructors and numbers.

Usage::

    h, c = LSTMCell(10, 20, rngs=nnx.Rngs(0))(x, (h, c))     # x (B, 10), h and c (B, 20)
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from jaxrnn import recurrence
from jaxrnn.arguments import (
    check_backend,
    check_bool,
    check_dtype,
    check_input,
    check_nonlinearity,
    check_rngs,
    check_size,
    check_state,
)
from jaxrnn.cells import CELLS, Cell
from jaxrnn.dense import uniform
from jaxrnn.recurrence import Weights, state_dtype


class _Cell(nnx.Module):
    """One step, shared by RNNCell, LSTMCell and GRUCell."""

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        bias: bool,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        backend: str,
    ):
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.bias = check_bool("bias", bias)
        self.dtype = None if dtype is None else check_dtype("dtype", dtype)
        self.param_dtype = check_dtype("param_dtype", param_dtype)
        self.backend = check_backend(backend)
        self.cell = cell
        check_rngs(rngs, "params")
        gate_size, bound = cell.num_gates * self.hidden_size, self.hidden_size**-0.5
        self.weight_ih = uniform(rngs, (gate_size, self.input_size), bound, self.param_dtype)
        self.weight_hh = uniform(rngs, (gate_size, self.hidden_size), bound, self.param_dtype)
        self.bias_ih = uniform(rngs, (gate_size,), bound, self.param_dtype) if bias else None
        self.bias_hh = uniform(rngs, (gate_size,), bound, self.param_dtype) if bias else None

    def __call__(self, x: ArrayLike, state: Any = None) -> Any:
        """One step: x (B, I) or (I,), state h (B, H) or (H,), ``(h, c)`` for an LSTMCell.

        Returns the next state, float32 at least; zeros stand for a state that is None.
        """
        owner = type(self).__name__
        x = check_input(owner, x, (1, 2), self.input_size, self.dtype, self.param_dtype)
        batched, num_states = x.ndim == 2, self.cell.num_states
        shape = (*x.shape[:-1], self.hidden_size)
        if state is None:
            members = [jnp.zeros(shape, state_dtype(x.dtype))] * num_states
        else:
            names = "(h, c)" if num_states > 1 else "h"
            members = check_state(owner, names, state, [shape] * num_states)
        if not batched:
            x, members = x[None], [m[None] for m in members]
        weights = Weights(
            self.weight_ih[...],
            self.weight_hh[...],
            None if self.bias_ih is None else self.bias_ih[...],
            None if self.bias_hh is None else self.bias_hh[...],
        )
        _, new = recurrence.run(self.cell, weights, x[None], tuple(members), backend=self.backend)
        if not batched:
            new = tuple(m[0] for m in new)
        return new if num_states > 1 else new[0]


class RNNCell(_Cell):
    """One step of ``RNN``, as ``torch.nn.RNNCell``."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        self.nonlinearity = check_nonlinearity(nonlinearity)
        cell = CELLS[f"rnn_{nonlinearity}"]
        super().__init__(cell, input_size, hidden_size, bias, rngs, dtype, param_dtype, backend)


class LSTMCell(_Cell):
    """One step of ``LSTM``, as ``torch.nn.LSTMCell``; returns ``(h, c)``."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        cell = CELLS["lstm"]
        super().__init__(cell, input_size, hidden_size, bias, rngs, dtype, param_dtype, backend)


class GRUCell(_Cell):
    """One step of ``GRU``, as ``torch.nn.GRUCell``."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        cell = CELLS["gru"]
        super().__init__(cell, input_size, hidden_size, bias, rngs, dtype, param_dtype, backend)
