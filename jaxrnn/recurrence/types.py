"""What every recurrence backend takes and gives: the weights, the case, the backend."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrnn.cells import Cell, State


class Weights(NamedTuple):
    """The parameters of one layer and direction, stored as torch.nn stores them."""

    weight_ih: Float[Array, "G I"]
    weight_hh: Float[Array, "G P"]
    bias_ih: Float[Array, "G"] | None = None
    bias_hh: Float[Array, "G"] | None = None
    weight_hr: Float[Array, "P H"] | None = None


@dataclasses.dataclass(frozen=True)
class Spec:
    """All that decides whether a backend can run a case: no arrays, only what is static."""

    cell: Cell
    num_steps: int
    batch_size: int
    input_size: int
    hidden_size: int
    proj_size: int
    bias: bool
    masked: bool
    resets: bool
    dtype: jnp.dtype
    platform: str


@dataclasses.dataclass(frozen=True)
class Backend:
    """One way to run a recurrence.

    ``run(cell, weights, x, state, valid, resets, reverse)`` gives ``(hs, state)``: the carried
    ``h`` after every step (T, B, P) in x's dtype, and the last state. Where ``valid`` is False the
    state is held; where ``resets`` is True it is zeroed before the step. ``supports(spec)`` gives
    None, or the reason why the case can't be run.
    """

    name: str
    run: Callable[..., tuple[Array, State]]
    supports: Callable[[Spec], str | None]


def state_dtype(dtype: jnp.dtype) -> jnp.dtype:
    """The dtype of carried states and accumulation: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def matmul(a: Float[Array, "*N K"], b: Float[Array, "K M"]) -> Float[Array, "*N M"]:
    """``a @ b``, operands as they are, accumulated and returned in ``state_dtype``."""
    return jax.lax.dot_general(
        a, b, (((a.ndim - 1,), (0,)), ((), ())), preferred_element_type=state_dtype(a.dtype)
    )


def where(mask: Bool[Array, "B"], a: Float[Array, "B N"], b: Float[Array, "B N"] | float) -> Array:
    """Choose per sequence."""
    return jnp.where(mask[:, None], a, b)
