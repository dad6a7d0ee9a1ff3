"""Checks of the arguments of layers, before anything is computed.

Each gives the argument in the form that the layers use, or raises ValueError or TypeError that
names it, what was got and what was expected; shapes and dtypes are known inside jit too.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike

from jaxrnn import recurrence
from jaxrnn.cells import CELLS, Cell

NONLINEARITIES = ("tanh", "relu")


def check_size(name: str, value: Any, least: int = 1) -> int:
    """The size as an int, at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is {value!r}, expected an int")
    if value < least:
        raise ValueError(f"{name} is {value}, expected at least {least}")
    return int(value)


def check_probability(name: str, value: Any) -> float:
    """The probability as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}, expected a number in [0, 1]")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"{name} is {value}, expected a probability in [0, 1]")
    return float(value)


def check_bool(name: str, value: Any) -> bool:
    """The flag as a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} is {value!r}, expected a bool")
    return bool(value)


def check_dtype(name: str, dtype: DTypeLike) -> jnp.dtype:
    """A floating dtype that JAX has switched on."""
    try:
        known = None if dtype is None else jnp.dtype(dtype)
    except TypeError:
        known = None
    if known is None or not jnp.issubdtype(known, jnp.floating):
        raise TypeError(f"{name} is {dtype!r}, expected a floating dtype, as jnp.float32")
    dtype = known
    if dtype == jnp.float64 and not jax.config.read("jax_enable_x64"):
        raise ValueError(
            f"{name} is float64, which JAX has switched off; "
            "call jax.config.update('jax_enable_x64', True) first"
        )
    return dtype


def check_backend(backend: Any, known: Iterable[str] = tuple(recurrence.BACKENDS)) -> str:
    """'auto', or the name of a backend."""
    names = ["auto", *known]
    if not isinstance(backend, str) or backend not in names:
        raise ValueError(f"backend is {backend!r}, expected one of {names}")
    return backend


def check_cell(cell: Any, hidden_size: int) -> Cell:
    """A cell whose equation, on a batch of two, gives states like those that it takes."""
    if not isinstance(cell, Cell):
        raise TypeError(f"cell is a {type(cell).__name__}, expected a jaxrnn.cells.Cell")
    if cell == CELLS.get(cell.name):
        return cell
    for count in ("num_gates", "num_states"):
        check_size(f"cell {cell.name!r}: {count}", getattr(cell, count))
    gates = jax.ShapeDtypeStruct((2, cell.num_gates * hidden_size), jnp.float32)
    state = (jax.ShapeDtypeStruct((2, hidden_size), jnp.float32),) * cell.num_states
    new = jax.eval_shape(cell.equation, gates, gates, state)
    got = [f"{m.dtype}{m.shape}" for m in jax.tree.leaves(new)]
    expected = [f"{m.dtype}{m.shape}" for m in state]
    if not isinstance(new, tuple) or got != expected:
        is_array = isinstance(new, jax.ShapeDtypeStruct)
        kind = "an array" if is_array else f"a {type(new).__name__}"
        raise ValueError(
            f"cell {cell.name!r}: its equation gives {kind} of {', '.join(got)}, "
            f"expected a tuple of {', '.join(expected)}, as the state that it is given"
        )
    return cell


def check_nonlinearity(nonlinearity: Any) -> str:
    """The name of a nonlinearity."""
    if nonlinearity not in NONLINEARITIES:
        raise ValueError(f"nonlinearity is {nonlinearity!r}, expected one of {NONLINEARITIES}")
    return nonlinearity


def check_rngs(rngs: Any, *streams: str) -> None:
    """Refuse what is not nnx.Rngs, or lacks one of the streams."""
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs is {type(rngs).__name__}, expected flax.nnx.Rngs, as nnx.Rngs(0)")
    for stream in streams:
        if stream not in rngs and "default" not in rngs:
            raise ValueError(f"rngs has no stream {stream!r}; use nnx.Rngs(0, {stream}=1)")


def as_array(name: str, value: Any) -> jax.Array:
    """The value as an array."""
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is a {type(value).__name__}, expected an array") from error


def as_floating(name: str, value: ArrayLike) -> jax.Array:
    """The value as an array of a floating dtype."""
    value = as_array(name, value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"{name} has dtype {value.dtype}, expected a floating dtype")
    return value


def check_shape(name: str, got: tuple[int, ...], expected: tuple[int, ...], meaning: str) -> None:
    """Refuse another shape; ``meaning`` says what the expected one is."""
    if got != expected:
        raise ValueError(f"{name} has shape {got}, expected {expected}: {meaning}")


def check_ids(owner: str, x: Any, ndims: tuple[int, ...]) -> jax.Array:
    """Integers of a known number of dimensions."""
    x = as_array(f"{owner}: x", x)
    if not jnp.issubdtype(x.dtype, jnp.integer):
        raise TypeError(f"{owner}: x has dtype {x.dtype}, expected integers, since one_hot is True")
    if x.ndim not in ndims:
        raise ValueError(
            f"{owner}: x has shape {x.shape}, expected {' or '.join(map(str, ndims))} dimensions, "
            "without the input's, since one_hot is True"
        )
    return x


def check_input(
    owner: str, x: ArrayLike, ndims: tuple[int, int], size: int, dtype: Any, param_dtype: Any
) -> jax.Array:
    """x as an array of the dtype to compute in, its dtype, rank and last dimension checked."""
    x = as_floating(f"{owner}: x", x)
    if x.ndim not in ndims:
        raise ValueError(
            f"{owner}: x has shape {x.shape}, expected {ndims[1]} dimensions, or {ndims[0]} "
            "without a batch"
        )
    if x.shape[-1] != size:
        raise ValueError(
            f"{owner}: x has shape {x.shape}, expected a last dimension of input_size={size}"
        )
    if dtype is None and x.dtype != param_dtype:
        raise ValueError(
            f"{owner}: x has dtype {x.dtype}, expected the parameters' {param_dtype}; cast x, or "
            "construct the module with dtype=... to say in which dtype to compute"
        )
    return x.astype(dtype or param_dtype)


def check_state(
    owner: str, names: str, state: Any, shapes: list[tuple[int, ...]]
) -> list[jax.Array]:
    """The members of a state, counted, their dtypes and shapes checked."""
    if len(shapes) == 1:
        members = [state]
    elif isinstance(state, (tuple, list)) and len(state) == len(shapes):
        members = list(state)
    else:
        got = f"{len(state)} members" if isinstance(state, (tuple, list)) else type(state).__name__
        raise TypeError(f"{owner}: state is {got}, expected a tuple {names}")
    arrays = []
    for name, member, shape in zip(names.strip("()").split(", "), members, shapes, strict=True):
        member = as_floating(f"{owner}: state {name}", member)
        check_shape(f"{owner}: state {name}", member.shape, shape, "as x and the sizes require")
        arrays.append(member)
    return arrays


def check_lengths(owner: str, lengths: Any, batch: tuple[int, ...], num_steps: int) -> jax.Array:
    """One length a sequence, 1 <= length <= T where the values are known."""
    known = not isinstance(lengths, Tracer)
    try:
        array = np.asarray(lengths) if known else lengths
    except (TypeError, ValueError) as error:
        got = type(lengths).__name__
        raise TypeError(f"{owner}: lengths is a {got}, expected an array") from error
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{owner}: lengths has dtype {array.dtype}, expected integers")
    check_shape(f"{owner}: lengths", array.shape, batch, "one length a sequence")
    if known and array.size and (array.min() < 1 or array.max() > num_steps):
        bad = array.min() if array.min() < 1 else array.max()
        raise ValueError(f"{owner}: lengths holds {bad}, expected 1 <= length <= T={num_steps}")
    return jnp.asarray(lengths)
