"""What every recurrence backend takes and gives: the weights, the case, the backend."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["ids"], meta_fields=["size", "dtype"]
)
@dataclasses.dataclass(frozen=True)
class OneHot:
    """Inputs (T, B, I) of which one is 1 and all others 0, by its index; outside 0..I-1 all are 0.

    A product with a matrix is then a choice of its rows.
    """

    ids: Any  # (T, B) ints; JAX itself also builds the class around placeholders
    size: int  # I
    dtype: jnp.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """(T, B, I)."""
        return (*self.ids.shape, self.size)

    def dense(self) -> Float[Array, "T B I"]:
        """All of it."""
        return jax.nn.one_hot(self.ids, self.size, dtype=self.dtype)

    def matmul(self, b: Float[Array, "I M"]) -> Float[Array, "T B M"]:
        """As ``matmul`` with ``dense()``."""
        rows = b.at[self.ids].get(mode="fill", fill_value=0, wrap_negative_indices=False)
        return rows.astype(state_dtype(self.dtype))


Inputs = Float[Array, "T B I"] | OneHot


class PerStep(NamedTuple):
    """What holds, besides ``x``, for single steps of single sequences; None: for none."""

    valid: Bool[Array, "*T B"] | None = None  # where False the state is held
    reset: Bool[Array, "*T B"] | None = None  # where True it is zeroed before the step
    scale: Float[Array, "*T B H"] | None = None  # of an LSTM's candidate g


class BackendError(ValueError):
    """A backend that was asked for by name can't run the case; ``reason`` says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"backend {name!r} can't run this case: {reason}; use backend='auto'")
        self.reason = reason


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
    scaled: bool
    dtype: jnp.dtype
    platform: str


@dataclasses.dataclass(frozen=True)
class Backend:
    """One way to run a recurrence.

    ``run(cell, weights, x, state, per_step, reverse)`` gives ``(hs, state)``: the carried ``h``
    after every step (T, B, P) in x's dtype, and the last state. ``supports(spec)`` gives None, or
    the reason why the case can't be run.
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


def matmul_nt(a: Float[Array, "*N K"], b: Float[Array, "M K"]) -> Float[Array, "*N M"]:
    """``a @ b.T`` as ``matmul``, for a weight as it is stored: never transposed in a loop."""
    contract = (((a.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(a, b, contract, preferred_element_type=state_dtype(a.dtype))


def where(mask: Bool[Array, "B"], a: Float[Array, "B N"], b: Float[Array, "B N"] | float) -> Array:
    """Choose per sequence."""
    return jnp.where(mask[:, None], a, b)
