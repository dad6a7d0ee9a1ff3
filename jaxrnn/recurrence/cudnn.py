"""cuDNN's LSTM, by ``jax.experimental.rnn``: on an NVIDIA GPU, in float32, taken by name alone.

Parameters stay as torch.nn stores them; cuDNN's flat vector is made of them on the way. Its matmuls
follow ``jax.default_matmul_precision``: "highest" for float32, else TF32. Like cuDNN's own, the
derivative is of reverse mode and first order.

JAX's call states no layout for what it reads and writes, so that XLA gave it inputs that come time
first as they were, (T, B, N) in memory, which was wrong on an H200; ``as_read`` states one. Not run
on a GPU since: before it is taken for the first time a small case is held against ``scan`` on the
device itself, and refused with what was found. Tests hold vector, masks and directions on JAX's own
reference of the call, and the layouts in XLA's program for an H200.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import rnn
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from jaxrnn.cells import CELLS, Cell, State
from jaxrnn.recurrence import scan
from jaxrnn.recurrence.types import Backend, Inputs, OneHot, PerStep, Spec, Weights

TOLERANCE = 1e-2  # of the norm of each result: products may be in TF32, about 1e-3


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
    try:
        return differs()
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return f"a small case of it fails with {said}"


@functools.cache
def differs() -> str | None:
    """What is wrong with a small case on this device, or None: computed until it is known."""
    with jax.ensure_compile_time_eval(), jax.transfer_guard("allow"):
        found, expected = _small_case(run), _small_case(scan.run)
    for name, value in expected.items():
        error = np.linalg.norm(found[name] - value) / np.linalg.norm(value)
        if not error <= TOLERANCE:
            return f"on this device its {name} differs from that of scan by {error:.1e} of its norm"
    return None


def _small_case(run: Any) -> dict[str, np.ndarray]:
    """Outputs, last states and gradients of a layer with lengths, its input time first."""
    cell, rng = CELLS["lstm"], np.random.default_rng(0)
    num_steps, batch_size, input_size, hidden_size = 5, 3, 4, 8

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    gates = 4 * hidden_size
    weights = Weights(
        normal(gates, input_size), normal(gates, hidden_size), normal(gates), normal(gates)
    )
    state = normal(batch_size, hidden_size), normal(batch_size, hidden_size)
    x = normal(num_steps, batch_size, input_size)
    loss_weights = normal(num_steps, batch_size, hidden_size)
    valid = jnp.arange(num_steps)[:, None] < jnp.array([[5, 2, 4]])

    def loss(weights: Weights, x: Array, state: State) -> tuple[Array, Any]:
        y, last = run(cell, weights, x, state, PerStep(valid), False)
        y = jnp.where(valid[..., None], y, 0.0)
        return (y * loss_weights).sum() + sum(s.sum() for s in last), (y, last)

    step = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
    (_, (y, (h, c))), (dweights, dx, (dh, dc)) = step(weights, x, state)
    results = {"output": y, "last h": h, "last c": c, "gradient of x": dx}
    results |= {"gradient of h_0": dh, "gradient of c_0": dc}
    results |= {f"gradient of {name}": d for name, d in dweights._asdict().items() if d is not None}
    return {name: np.asarray(value) for name, value in results.items()}


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
