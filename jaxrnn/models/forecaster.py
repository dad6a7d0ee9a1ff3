"""One-step forecaster of a series: recurrent layers and a linear decoder at every step.

The lesson's ``Simple_RNN`` (udacity/deep-learning-v2-pytorch, time-series) with a choice of cell::

    model = Forecaster(input_size=1, output_size=1, cell="rnn", hidden_size=32, rngs=nnx.Rngs(0))
    prediction, state = model(x)                              # x (B, T, I), prediction (B, T, O)
    values = forecast(*split(model), x, 24)                   # the 24 values after x
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.models import Params, Skeleton
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


@functools.partial(jax.jit, static_argnums=(0, 3))
def forecast(
    skeleton: Skeleton[Forecaster],
    params: Params,
    history: Float[Array, "B T I"],
    horizon: int,
) -> Float[Array, "B horizon I"]:
    """The ``horizon`` values after ``history``, each read as the input of the next step.

    ``skeleton, params`` as ``split`` gives them, in evaluation mode. Raises ValueError where the
    model does not predict what it reads, for another shape, and for a horizon below 1.
    """
    model = skeleton.merge(params)
    reads, predicts = model.rnn.input_size, model.decoder.weight.shape[0]
    if reads != predicts:
        raise ValueError(
            f"the model predicts {predicts} values a step and reads {reads}: it can't read its "
            "own predictions"
        )
    if history.ndim != 3:
        raise ValueError(f"history has shape {history.shape}, expected (B, T, I)")
    if horizon < 1:
        raise ValueError(f"horizon is {horizon}, expected at least 1 step")

    def step(carry, _):
        value, state = carry
        prediction, state = model(value.astype(history.dtype), state)
        return (prediction, state), value

    prediction, state = model(history)
    _, values = jax.lax.scan(step, (prediction[:, -1:], state), None, length=horizon)
    return values[:, :, 0].swapaxes(0, 1)
