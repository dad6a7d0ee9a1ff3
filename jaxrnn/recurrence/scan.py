"""``lax.scan`` with a derivative written by hand: the default on every device.

What it does that plain autodiff of a scan does not:

* The input projection is one matmul over all steps, before the loop; ``dx`` and every weight's
  gradient are one matmul each over all steps, after the backward loop, which carries ``dh`` and
  ``dc`` only.
* All gates of an LSTM go through **one** tanh, ``sigmoid(a) = tanh(a / 2) / 2 + 1 / 2``: XLA's CPU
  code fuses split gates into their consumers and computes them again for each.
* Activations are saved, never recomputed: G*H + H values a step and sequence.

The forward and backward loops are themselves plain JAX, so derivatives of derivatives work in
reverse mode; pure forward mode needs the reference backend.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrnn import rules
from jaxrnn.cells import CELLS, Cell, State
from jaxrnn.recurrence import lanes
from jaxrnn.recurrence.projections import biases, gates_of_inputs, gradients, over_steps
from jaxrnn.recurrence.types import (
    Backend,
    Inputs,
    PerStep,
    Spec,
    Weights,
    matmul,
    matmul_nt,
    state_dtype,
    where,
)


def supports(spec: Spec) -> str | None:
    """Every cell of ``CELLS``, a projection for an LSTM only: see ``Backend``."""
    if spec.cell != CELLS.get(spec.cell.name):  # a cell of one's own may bear a known name
        return f"it has no hand-written derivative for the cell {spec.cell.name!r}"
    if spec.proj_size and spec.cell.name != "lstm":
        return f"it has no derivative for a projection of the cell {spec.cell.name!r}"
    return None


def _sigmoid(a: Array) -> Array:
    return jnp.tanh(a * 0.5) * 0.5 + 0.5


def _lstm_forward(gates_x, gates_h, state, scale=None):
    _, c = state
    hidden_size = c.shape[-1]
    # tanh(a * slope) * slope + offset: sigmoid for i, f, o and tanh for g.
    slope = np.repeat(np.array([0.5, 0.5, 1.0, 0.5], c.dtype), hidden_size)[None]
    offset = np.repeat(np.array([0.5, 0.5, 0.0, 0.5], c.dtype), hidden_size)[None]
    gates = jnp.tanh((gates_x + gates_h) * slope) * slope + offset
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = f * c + i * (g if scale is None else g * scale)
    return (o * jnp.tanh(c), c), (gates,)


def _lstm_backward(residuals, state_in, state_out, dstate, scale=None):
    (gates,), (_, c_in), (_, c) = residuals, state_in, state_out
    dh, dc = dstate
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    tanh_c = jnp.tanh(c)
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    # Gate-wise products of whole rows, which ``_backward`` holds together.
    is_tanh = np.repeat(np.array([False, False, True, False]), c.shape[-1])[None]
    slope = jnp.where(is_tanh, 1 - gates * gates, gates * (1 - gates))
    through = jnp.concatenate([dc, dc, dc, dh], axis=-1)
    if scale is not None:
        i, g = i * scale, g * scale
    along = jnp.concatenate([g, c_in, i, tanh_c], axis=-1)
    dgates = through * along * slope
    return dgates, dgates, (None, dc * f)


def _gru_forward(gates_x, gates_h, state):
    (h,) = state
    hidden_size = h.shape[-1]
    split = 2 * hidden_size
    rz = _sigmoid(gates_x[:, :split] + gates_h[:, :split])
    r, z = jnp.split(rz, 2, axis=-1)
    n_h = gates_h[:, split:]
    n = jnp.tanh(gates_x[:, split:] + r * n_h)
    return (n + z * (h - n),), (rz, n, n_h)


def _gru_backward(residuals, state_in, state_out, dstate):
    (rz, n, n_h), (h_in,), (dh,) = residuals, state_in, dstate
    r, z = jnp.split(rz, 2, axis=-1)
    dn = dh * (1 - z) * (1 - n * n)
    dr = dn * n_h * r * (1 - r)
    dz = dh * (h_in - n) * z * (1 - z)
    dgates_x = jnp.concatenate([dr, dz, dn], axis=-1)
    dgates_h = jnp.concatenate([dr, dz, dn * r], axis=-1)
    return dgates_x, dgates_h, (dh * z,)


def _rnn_tanh_forward(gates_x, gates_h, state):
    return (jnp.tanh(gates_x + gates_h),), ()


def _rnn_tanh_backward(residuals, state_in, state_out, dstate):
    (h,), (dh,) = state_out, dstate
    dgates = dh * (1 - h * h)
    return dgates, dgates, (None,)


def _rnn_relu_forward(gates_x, gates_h, state):
    return (jax.nn.relu(gates_x + gates_h),), ()


def _rnn_relu_backward(residuals, state_in, state_out, dstate):
    (h,), (dh,) = state_out, dstate
    dgates = jnp.where(h > 0, dh, 0)
    return dgates, dgates, (None,)


# forward(gates_x, gates_h, state) -> (next state, residuals)
# backward(residuals, state before, state after, its gradient)
# of an LSTM also with the scale of its candidate, where there is one
#   -> (dgates_x, dgates_h, gradient of the state before other than through gates_h)
_STEPS = {
    "lstm": (_lstm_forward, _lstm_backward),
    "gru": (_gru_forward, _gru_backward),
    "rnn_tanh": (_rnn_tanh_forward, _rnn_tanh_backward),
    "rnn_relu": (_rnn_relu_forward, _rnn_relu_backward),
}


def _forward(cell_name: str, reverse: bool, weights: Weights, x, first, per_step: PerStep):
    """Outputs, last state, and what the backward loop needs."""
    dtype = x.dtype
    forward, _ = _STEPS[cell_name]
    weight_ih, weight_hh = weights.weight_ih.astype(dtype), weights.weight_hh.astype(dtype)
    weight_hr = None if weights.weight_hr is None else weights.weight_hr.astype(dtype)
    bias_x, bias_h = biases(cell_name, weights, state_dtype(dtype))
    is_held = rules.states_held(jax.default_backend())

    def carried(state):
        """The states, and where these are held h as products take it, if that is narrower."""
        if not is_held:
            return state, None
        narrow = None if state[0].dtype == dtype else state[0].astype(dtype)
        return jax.lax.optimization_barrier((state, narrow))

    def step(carry, inputs):
        gates_x, (valid, reset, scale) = inputs
        if reset is not None:
            carry = jax.tree.map(lambda s: where(reset, jnp.zeros_like(s), s), carry)
        state, narrow = carry
        h = state[0].astype(dtype) if narrow is None else narrow
        gates_h = matmul_nt(h, weight_hh)
        if bias_x is not None:  # here, where it joins a loop that runs anyway
            gates_x = gates_x + bias_x[None]
        if bias_h is not None:
            gates_h = gates_h + bias_h[None]
        scales = () if scale is None else (scale,)
        new, residuals = forward(gates_x, gates_h, state, *scales)
        if weight_hr is not None:
            new = (matmul_nt(new[0].astype(dtype), weight_hr), *new[1:])
        if valid is not None:
            new = tuple(where(valid, n, s) for n, s in zip(new, state, strict=True))
        new, narrow = carried(new)
        h = new[0].astype(dtype) if narrow is None else narrow
        return (new, narrow), ((h, *new[1:]), residuals)

    inputs = (gates_of_inputs(x, weight_ih), per_step)
    (last, _), (states, residuals) = jax.lax.scan(
        step, carried(first), inputs, reverse=reverse, unroll=rules.unroll(jax.default_backend())
    )
    return (states[0], last), (weights, x, first, per_step, states, residuals)


def _outputs(cell_name: str, reverse: bool, weights: Weights, x, state, per_step: PerStep):
    """Outputs and last state as of ``_forward``; nothing is kept, the projection neither."""
    num_steps, batch_size, _ = x.shape
    row_bytes = len(weights.weight_hh) * state_dtype(x.dtype).itemsize
    ahead = rules.steps_ahead(jax.default_backend(), num_steps, batch_size, row_bytes)

    def part(state, inputs):
        x, per_step = inputs
        (hs, state), _ = _forward(cell_name, reverse, weights, x, state, per_step)
        return state, hs

    if ahead == num_steps:
        return part(state, (x, per_step))[::-1]
    count = num_steps // ahead
    inputs = jax.tree.map(lambda a: a.reshape(count, ahead, *a.shape[1:]), (x, per_step))
    state, hs = jax.lax.scan(part, state, inputs, reverse=reverse)
    return hs.reshape(num_steps, *hs.shape[2:]), state


def _backward(cell_name: str, reverse: bool, saved, grads):
    weights, x, state, per_step, states, residuals = saved
    dhs, dlast = grads
    dtype, wide = x.dtype, state_dtype(x.dtype)
    _, backward = _STEPS[cell_name]
    weight_hh, weight_hr = weights.weight_hh.astype(dtype), weights.weight_hr
    narrow_hr = None if weight_hr is None else weight_hr.astype(dtype)

    def before(s0, s):
        """The state before each step: the stacked states, shifted by one in running order."""
        s0 = s0.astype(s.dtype)[None]
        s = jnp.concatenate([s[1:], s0] if reverse else [s0, s[:-1]])
        reset = per_step.reset
        return s if reset is None else jnp.where(reset[..., None], jnp.zeros_like(s), s)

    states_in = tuple(map(before, state, states))

    def step(dstate, inputs):
        dh_out, state_in, state_out, residuals, (valid, reset, scale) = inputs
        dstate = (dstate[0] + dh_out.astype(wide), *dstate[1:])
        held = dstate
        dh = dstate[0]
        if narrow_hr is not None:
            dstate = (matmul(dh.astype(dtype), narrow_hr), *dstate[1:])
        wide_in = tuple(s.astype(wide) for s in state_in)
        wide_out = tuple(s.astype(wide) for s in state_out)
        scales = () if scale is None else (scale,)
        dgates_x, dgates_h, direct = backward(residuals, wide_in, wide_out, dstate, *scales)
        if cell_name == "lstm":
            # One loop over whole rows that writes what the product takes: XLA's CPU code would run
            # one a gate, its GPU code another to make 16 bits of 32.
            dgates_x = dgates_h = jax.lax.optimization_barrier(dgates_h.astype(dtype))
        if valid is not None:
            dgates_x, dgates_h, dh = (where(valid, d, 0.0) for d in (dgates_x, dgates_h, dh))
        through = matmul(dgates_h.astype(dtype), weight_hh)
        dstate = (through if direct[0] is None else through + direct[0], *direct[1:])
        if valid is not None:
            dstate = tuple(where(valid, n, s) for n, s in zip(dstate, held, strict=True))
        if reset is not None:
            dstate = tuple(where(reset, jnp.zeros_like(d), d) for d in dstate)
        dgates = (dgates_x.astype(dtype), dgates_h.astype(dtype) if cell_name == "gru" else None)
        return dstate, (*dgates, None if narrow_hr is None else dh.astype(dtype))

    dstate, (dgates_x, dgates_h, dprojected) = jax.lax.scan(
        step,
        dlast,
        (dhs, states_in, states, residuals, per_step),
        reverse=not reverse,
        unroll=rules.unroll(jax.default_backend()),
    )
    dgates_h = dgates_x if dgates_h is None else dgates_h

    dweight_hr = None
    if dprojected is not None:
        gates, c = residuals[0], states[1]
        before_projection = gates[..., -c.shape[-1] :] * jnp.tanh(c)
        dweight_hr = over_steps(dprojected, before_projection.astype(dtype))
    dweights, dx = gradients(weights, x, dgates_x, dgates_h, states_in[0], dweight_hr)
    return dweights, dx, dstate, None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _scan(cell_name, reverse, weights, x, state, per_step):
    return _outputs(cell_name, reverse, weights, x, state, per_step)


_scan.defvjp(_forward, _backward)
_compiled_scan = jax.jit(_scan, static_argnums=(0, 1))  # so that eager calls compile once


def run(
    cell: Cell,
    weights: Weights,
    x: Inputs,
    state: State,
    per_step: PerStep,
    reverse: bool,
) -> tuple[Float[Array, "T B P"], State]:
    """See ``Backend``."""
    hidden_size = len(weights.weight_hh) // cell.num_gates
    size = rules.padded_units(jax.default_backend(), hidden_size)
    if size != hidden_size:
        weights, state, per_step = lanes.widened(cell, size, weights, state, per_step)
    try:
        hs, state = _compiled_scan(cell.name, reverse, weights, x, state, per_step)
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "backend 'scan' has a reverse-mode derivative only, and was differentiated in forward "
            "mode (jvp, jacfwd, linearize); use backend='reference', which has both"
        ) from error
    if size != hidden_size:
        hs, state = lanes.narrowed(hidden_size, weights.weight_hr is not None, hs, state)
    return hs, state


BACKEND = Backend("scan", run, supports)
