"""A whole sequence in one launch, by kernels of our own: on an NVIDIA GPU, taken by name alone.

The loops of ``scan`` are one kernel each (``persistent_kernels``), which keeps the recurrent
weights in shared memory; what comes before and after them is as there. Operands are bfloat16 or
float16, states and sums float32. The derivative is of reverse mode and first order. On an H200
they agreed in every row that was compared, at 2.7 to 4.4 times torch's speed in bfloat16; a test of
a GRU in float16 did not end (docs/bench/NOTES.md), so ``auto`` does not take them. Since then they
move less of a small batch, and ``persistent-cluster`` has blocks in clusters: neither has run on a
GPU. Without one tests run the same kernels under JAX's interpreter, and lower them for CUDA.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrnn.cells import CELLS, Cell, State
from jaxrnn.recurrence.projections import biases, gates_of_inputs, gradients
from jaxrnn.recurrence.types import Backend, Inputs, PerStep, Spec, Weights, matmul


def supports(spec: Spec, cluster: bool = False) -> str | None:
    """Cells of ``CELLS`` in 16 bits, with lengths: see ``Backend``."""
    if spec.cell != CELLS.get(spec.cell.name):  # a cell of one's own may bear a known name
        return f"it has no kernel for the cell {spec.cell.name!r}"
    if spec.platform != "gpu":
        return f"it needs an NVIDIA GPU, the device is a {spec.platform.upper()}"
    if spec.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, not in {jnp.dtype(spec.dtype).name}"
    if spec.proj_size:
        return "it has no projection"
    if spec.resets:
        return "it can't reset the state within a sequence"
    if spec.scaled:
        return "it has no dropout on candidates"
    if spec.hidden_size % 64:
        return f"hidden_size is {spec.hidden_size}, it needs a multiple of 64"
    return device_reason(spec, cluster)


def device_reason(spec: Spec, cluster: bool) -> str | None:
    """Why the device can't run it, or None."""
    capability, multiprocessors = device()
    if not capability.startswith("9."):
        return f"its products need compute capability 9 (Hopper), the device has {capability}"
    if planned(spec.cell, spec.hidden_size, spec.batch_size, multiprocessors, cluster) is None:
        if cluster:
            return (
                f"{spec.hidden_size} units are no 2, 4, 8 or 16 blocks whose weights fit into as "
                f"many of the {multiprocessors} multiprocessors"
            )
        return (
            f"the weights of {spec.hidden_size} units don't fit into the {multiprocessors} "
            f"multiprocessors at {spec.batch_size} sequences"
        )
    return None


def device() -> tuple[str, int]:
    """Compute capability and multiprocessors of the first device."""
    found: Any = jax.devices()[0]
    return found.compute_capability, found.core_count


def planned(
    cell: Cell, hidden_size: int, batch_size: int, multiprocessors: int, cluster: bool
) -> Any:
    """The kernels' plan; they are imported where they are asked for."""
    from jaxrnn.recurrence import persistent_kernels as kernels

    return kernels.plan(cell.num_gates, hidden_size, batch_size, multiprocessors, cluster)


def _over_time(a: Array, plan: Any) -> Array:
    """(T, B, ...) as rows of steps, with zeros: up to the stride, and the margin at both ends."""
    widths = [(0, 0), (0, plan.stride - a.shape[1]), *[(0, 0)] * (a.ndim - 2)]
    rows = jnp.pad(a, widths).reshape(-1, *a.shape[2:])
    return jnp.pad(rows, [(plan.margin, plan.margin), *widths[2:]])


def _steps(rows: Array, plan: Any, batch_size: int) -> Array:
    """The reverse."""
    rows = rows[plan.margin : len(rows) - plan.margin]
    return rows.reshape(-1, plan.stride, *rows.shape[1:])[:, :batch_size]


def _tile(a: Array, plan: Any, reverse: bool) -> Array:
    """(B, ...) as the tiles of a step: of steps that run backwards behind the margin."""
    before = plan.margin if reverse else 0
    after = plan.stride + plan.margin - before - len(a)
    return jnp.pad(a, [(before, after), *[(0, 0)] * (a.ndim - 1)])


def _sequences(tile: Array, plan: Any, reverse: bool, batch_size: int) -> Array:
    """The reverse."""
    before = plan.margin if reverse else 0
    return tile[before : before + batch_size]


def _lengths(lengths: Array | None, plan: Any, reverse: bool) -> Array | None:
    """As the kernels read them, as any other (rows, units)."""
    if lengths is None:
        return None
    tile = _tile(lengths, plan, reverse)
    return jnp.broadcast_to(tile[:, None], (len(tile), plan.units))


def _forward(
    cell_name: str,
    reverse: bool,
    cluster: bool,
    keep: bool,
    weights: Weights,
    x: Inputs,
    state: State,
    lengths,
):
    """Outputs and last state, and what the kernel backwards needs."""
    from jaxrnn.recurrence import persistent_kernels as kernels

    dtype, (num_steps, batch_size, _) = x.dtype, x.shape
    hidden_size = weights.weight_hh.shape[1]
    plan = planned(CELLS[cell_name], hidden_size, batch_size, device()[1], cluster)
    bias_x, bias_h = biases(cell_name, weights, jnp.dtype(jnp.float32))
    gates_x = gates_of_inputs(x, weights.weight_ih.astype(dtype))
    bias_n = None
    if bias_x is not None and bias_h is not None:  # of a GRU: those of r and z join the input's
        split = 2 * hidden_size
        bias_x = bias_x + bias_h.at[split:].set(0)
        bias_n = jnp.broadcast_to(bias_h[None, split:], (plan.rows, hidden_size))
    if bias_x is not None:
        gates_x = gates_x + bias_x[None, None]
    hs, last, cs, saved = kernels.forward(
        kernels.gpu(cluster),
        plan,
        cell_name,
        reverse,
        keep,
        num_steps,
        _over_time(gates_x, plan),
        bias_n,
        weights.weight_hh.astype(dtype),
        tuple(_tile(s, plan, reverse) for s in state),
        _lengths(lengths, plan, reverse),
    )
    states = _steps(hs, plan, batch_size)
    y = states[:-1] if reverse else states[1:]
    last = tuple(_sequences(s, plan, reverse, batch_size) for s in last)
    return (y, last), (weights, x, hs, cs, saved, lengths)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _persistent(cell_name, reverse, cluster, weights, x, state, lengths):
    return _forward(cell_name, reverse, cluster, False, weights, x, state, lengths)[0]


def _kept(cell_name, reverse, cluster, weights, x, state, lengths):
    return _forward(cell_name, reverse, cluster, True, weights, x, state, lengths)


def _backward(cell_name: str, reverse: bool, cluster: bool, kept, grads):
    from jaxrnn.recurrence import persistent_kernels as kernels

    weights, x, hs, cs, saved, lengths = kept
    dhs, dlast = grads
    num_steps, batch_size, _ = x.shape
    plan = planned(CELLS[cell_name], hs.shape[1], batch_size, device()[1], cluster)
    weight_hh = weights.weight_hh.astype(x.dtype)
    backwards = not reverse
    dgates, differing, dstate = kernels.backward(
        kernels.gpu(cluster),
        plan,
        cell_name,
        reverse,
        num_steps,
        _over_time(dhs, plan),
        hs,
        cs,
        saved,
        weight_hh,
        tuple(_tile(d, plan, backwards) for d in dlast),
        _lengths(lengths, plan, backwards),
    )
    dgates_h = _steps(dgates, plan, batch_size)
    dgates_x = dgates_h
    if differing is not None:
        split = dgates.shape[1] - hs.shape[1]
        other = _steps(differing, plan, batch_size)
        dgates_x = jnp.concatenate([dgates_h[..., :split], other], axis=-1)
    states = _steps(hs, plan, batch_size)
    h_in = states[1:] if reverse else states[:-1]
    dweights, dx = gradients(weights, x, dgates_x, dgates_h, h_in)
    first = dgates_h[-1 if reverse else 0]
    dh, *rest = (_sequences(d, plan, backwards, batch_size) for d in dstate)
    return dweights, dx, (dh + matmul(first, weight_hh), *rest), None


_persistent.defvjp(_kept, _backward)
_compiled = jax.jit(_persistent, static_argnums=(0, 1, 2))  # so that eager calls compile once


def run(
    cell: Cell,
    weights: Weights,
    x: Inputs,
    state: State,
    per_step: PerStep,
    reverse: bool,
    cluster: bool = False,
) -> tuple[Float[Array, "T B P"], State]:
    """See ``Backend``."""
    lengths = None
    if per_step.valid is not None:
        lengths = per_step.valid.sum(0, dtype=jnp.int32)
    return _compiled(cell.name, reverse, cluster, weights, x, state, lengths)


def in_clusters(function: Any) -> Any:
    """``run`` or ``supports`` of the kernels whose blocks are clusters."""
    return functools.partial(function, cluster=True)


BACKEND = Backend("persistent", run, supports)
CLUSTERS = Backend("persistent-cluster", in_clusters(run), in_clusters(supports))
