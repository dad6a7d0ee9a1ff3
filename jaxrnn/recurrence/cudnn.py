"""cuDNN's LSTM, by ``jax.experimental.rnn``: on an NVIDIA GPU, in float32, taken by name alone.

Parameters stay as torch.nn stores them; cuDNN's flat vector is made of them on the way. Its matmuls
follow ``jax.default_matmul_precision``: "highest" for float32, else TF32. Like cuDNN's own, the
derivative is of reverse mode and first order.

It is refused: on an H200 (jax 0.11.2) it was right for a layer whose input came batch first, and
wrong where the input came time first and is turned round, most likely since XLA then gives the call
an array in another layout than it reads. ``as_read`` is against that, and has not run on a GPU
since. Tests hold vector, masks and directions on JAX's own reference of the call, and
``pytest -m gpu`` whether it is mended.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import rnn
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from jaxrnn.cells import CELLS, Cell, State
from jaxrnn.recurrence.types import Backend, Inputs, OneHot, PerStep, Spec, Weights

WRONG = "on an H200 it was wrong for inputs that come time first (see docs/bench/NOTES.md)"


def supports(spec: Spec) -> str | None:
    """An LSTM as cuDNN has it: see ``Backend``."""
    if spec.cell != CELLS["lstm"]:
        return f"it has the LSTM alone, not the cell {spec.cell.name!r}"
    if spec.platform != "gpu":
        return f"it needs an NVIDIA GPU, the device is a {spec.platform.upper()}"
    if spec.dtype != jnp.float32:
        return f"it computes in float32, not in {jnp.dtype(spec.dtype).name}"
    if spec.proj_size:
        return "it has no projection"
    if spec.resets:
        return "it can't reset the state within a sequence"
    if spec.scaled:
        return "it has no dropout on candidates"
    return WRONG


def flat(weights: Weights) -> Float[Array, "N"]:
    """The parameters of a layer in cuDNN's order; no bias is one of zeros."""
    zeros = jnp.zeros(len(weights.weight_hh), weights.weight_hh.dtype)
    biases = (zeros if b is None else b for b in (weights.bias_ih, weights.bias_hh))
    return jnp.concatenate([a.ravel() for a in (weights.weight_ih, weights.weight_hh, *biases)])


def as_read(x: Float[Array, "B T N"]) -> Float[Array, "B T N"]:
    """Row by row in memory, as JAX's call reads and writes without saying so to XLA.

    Neither it nor its derivative states a layout, and XLA may give it one turned round.
    """
    return with_layout_constraint(x, Layout(major_to_minor=(0, 1, 2)))


def turned(x: Float[Array, "T B N"], lengths: Int[Array, "B"]) -> Float[Array, "T B N"]:
    """Every sequence backwards, its padding where it is."""
    steps = jnp.arange(len(x))[:, None]
    index = jnp.where(steps < lengths[None], lengths[None] - 1 - steps, steps)
    return jnp.take_along_axis(x, index[..., None], axis=0)


def precision() -> jax.lax.Precision:
    """JAX's own for products, of which cuDNN knows two: float32 whole, or in TF32."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    whole = asked in ("highest", "float32")
    return jax.lax.Precision.HIGHEST if whole else jax.lax.Precision.HIGH


def run(
    cell: Cell,
    weights: Weights,
    x: Inputs,
    state: State,
    per_step: PerStep,
    reverse: bool,
) -> tuple[Float[Array, "T B P"], State]:
    """See ``Backend``."""
    if isinstance(x, OneHot):
        x = x.dense()
    num_steps, batch_size, input_size = x.shape
    lengths = jnp.full(batch_size, num_steps, jnp.int32)
    if per_step.valid is not None:
        lengths = per_step.valid.sum(0, dtype=jnp.int32)
    if reverse:
        x = turned(x, lengths)
    found: Any = rnn.lstm(
        as_read(x.swapaxes(0, 1)),
        *(as_read(s[None]) for s in state),
        flat(weights).astype(x.dtype),
        lengths,
        input_size=input_size,
        hidden_size=weights.weight_hh.shape[1],
        num_layers=1,
        dropout=0.0,
        bidirectional=False,
        precision=precision(),
    )
    hs, h, c = map(as_read, found)
    hs = hs.swapaxes(0, 1)
    return turned(hs, lengths) if reverse else hs, (h[0], c[0])


BACKEND = Backend("cudnn", run, supports)
