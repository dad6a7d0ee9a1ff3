"""One layer, one direction, a whole sequence, on plain time-major arrays.

``run`` is the one signature; ``BACKENDS`` the one table behind it. Usage::

    y, (h, c) = run(CELLS["lstm"], weights, x, (h0, c0), lengths=lengths)
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrnn.cells import Cell, State
from jaxrnn.recurrence import cudnn, persistent, reference, scan
from jaxrnn.recurrence.types import (
    Backend,
    BackendError,
    Inputs,
    OneHot,
    PerStep,
    Spec,
    Weights,
    matmul_nt,
    state_dtype,
)

BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        scan.BACKEND,
        reference.BACKEND,
        cudnn.BACKEND,
        persistent.BACKEND,
        persistent.CLUSTERS,
    )
}
"""Every backend, the preferred ones first: ``auto`` takes the first that supports the case.

The reference supports all; what comes after it is taken by name only.
"""

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendError",
    "OneHot",
    "PerStep",
    "Spec",
    "Weights",
    "choose",
    "matmul_nt",
    "run",
    "state_dtype",
]


def choose(spec: Spec, backend: str = "auto") -> Backend:
    """The backend that will run ``spec``.

    Raises ValueError for an unknown name, and BackendError for a backend asked for by name that
    can't run the case, with its reason.
    """
    if backend == "auto":
        return next(b for b in BACKENDS.values() if b.supports(spec) is None)
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}, expected one of {['auto', *BACKENDS]}")
    if (reason := BACKENDS[backend].supports(spec)) is not None:
        raise BackendError(backend, reason)
    return BACKENDS[backend]


def run(
    cell: Cell,
    weights: Weights,
    x: Inputs,
    state: State,
    *,
    lengths: Int[Array, "B"] | None = None,
    resets: Bool[Array, "T B"] | None = None,
    scale: Float[Array, "T B H"] | None = None,
    reverse: bool = False,
    backend: str = "auto",
) -> tuple[Float[Array, "T B P"], State]:
    """Run ``cell`` over ``x`` (T, B, I); computes in x's dtype, states in ``state_dtype`` of it.

    ``lengths`` (1 <= length <= T): outputs from there on are zero, the last state is the one at
    the true length, and what ``x`` holds there has no influence, not even NaN. ``resets`` marks
    the first step of each episode: no state passes from the steps before it to those from it on,
    in either direction; an episode starts from zeros. ``scale`` multiplies an LSTM's candidate at
    each step, and has no derivative: the masks of recurrent dropout.

    Raises ValueError for a scale of another cell, and as ``choose`` does.
    """
    if scale is not None and cell.name != "lstm":
        raise ValueError(f"scale is given for the cell {cell.name!r}, expected 'lstm'")
    valid = None
    if lengths is not None:
        valid = jnp.arange(x.shape[0])[:, None] < lengths[None, :]
        if not isinstance(x, OneHot):
            x = jnp.where(valid[..., None], x, jnp.zeros_like(x))
    if resets is not None:
        if valid is not None:
            resets = resets & valid
        if reverse:  # running backwards, an episode's last step is the one before the next's first
            resets = jnp.concatenate([resets[1:], jnp.zeros_like(resets[:1])])
    state = tuple(s.astype(state_dtype(x.dtype)) for s in state)
    spec = Spec(
        cell=cell,
        num_steps=x.shape[0],
        batch_size=x.shape[1],
        input_size=x.shape[2],
        hidden_size=weights.weight_ih.shape[0] // cell.num_gates,
        proj_size=0 if weights.weight_hr is None else weights.weight_hr.shape[0],
        bias=weights.bias_ih is not None,
        masked=lengths is not None,
        resets=resets is not None,
        scaled=scale is not None,
        dtype=x.dtype,
        platform=jax.default_backend(),
    )
    if scale is not None:
        scale = jax.lax.stop_gradient(scale).astype(state_dtype(x.dtype))
    per_step = PerStep(valid, resets, scale)
    y, state = choose(spec, backend).run(cell, weights, x, state, per_step, reverse)
    if valid is not None:
        y = jnp.where(valid[..., None], y, jnp.zeros_like(y))
    return y, state
