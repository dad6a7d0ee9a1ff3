"""One-step forecaster of a series: recurrent layers and a linear decoder at every step.

The lesson's ``Simple_RNN`` (udacity/deep-learning-v2-pytorch, time-series) with a choice of cell::

    model = Forecaster(input_size=1, output_size=1, cell="rnn", hidden_size=32, rngs=nnx.Rngs(0))
    prediction, state = model(x)                              # x (B, T, I), prediction (B, T, O)
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.models.recurrent_decoder import RecurrentDecoder


class Forecaster(RecurrentDecoder):
    """The next value at every step.

    Args:
        input_size, output_size: features of a step that are read and predicted.
        cell, hidden_size, num_layers, dropout, rngs, dtype, param_dtype, backend: as in
            ``RecurrentDecoder``, and the errors too.
    """

    def __init__(
        self,
        input_size: int = 1,
        output_size: int = 1,
        *,
        cell: str = "rnn",
        hidden_size: int = 32,
        num_layers: int = 1,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        super().__init__(
            input_size,
            output_size,
            cell=cell,
            hidden_size=hidden_size,
            num_layers=num_layers,
            dropout=dropout,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            backend=backend,
        )

    def __call__(
        self,
        x: Float[Array, "B T I"],
        state: Any = None,
        *,
        lengths: Int[Array, "B"] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B T O"], Any]:
        """Predictions (float32 at least) and the state; arguments as in ``jaxrnn.LSTM``."""
        return self.decode(x, state, lengths, rngs)
