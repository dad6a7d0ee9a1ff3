"""Whether a JAX model and its torch twin compute the same, up to rounding.

Both run on the same random inputs, at two sizes, from zeros and from a random state: in float64,
where the same equations agree to many digits and others don't, and in the dtypes that the model
is stored and computes in. Usage::

    rows = verify(model, twin)                                 # raises DifferenceError
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.recurrence import state_dtype
from torch_compat import layout

LIMITS = {"float64": 1e-10, "float32": 2e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference that is rounding, of values of order one; of larger ones, relative."""

NAMES = ("output", "h", "c")
"""What a model gives: its output, and the members of its last state."""

SIZES = ((1, 11, False), (3, 7, True))
"""Batch, steps, and whether to begin from a random state."""


class Row(NamedTuple):
    """The largest difference of one tensor in one dtype."""

    dtype: str
    tensor: str  # parameters, output, h or c
    difference: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether it is rounding; NaN is not."""
        return self.difference <= self.limit


class DifferenceError(ArithmeticError):
    """Both frameworks differ by more than rounding; ``rows`` has all differences."""

    def __init__(self, rows: list[Row]):
        self.rows = rows
        wrong = ", ".join(
            f"{row.tensor} in {row.dtype} by {row.difference:.2g} (limit {row.limit:.2g})"
            for row in rows
            if not row.ok
        )
        super().__init__(f"JAX and torch differ by more than rounding: {wrong}")


def verify(model: nnx.Module, twin: nn.Module) -> list[Row]:
    """As ``compare``; raises DifferenceError where a difference is above its limit."""
    rows = compare(model, twin)
    if not all(row.ok for row in rows):
        raise DifferenceError(rows)
    return rows


def compare(model: nnx.Module, twin: nn.Module, seed: int = 0) -> list[Row]:
    """The largest differences of parameters, outputs and last states, a row for each and dtype.

    Dropout is off; neither module is changed. Raises InputError where the parameters of the two
    have other names or shapes.
    """
    _, params = split(model)
    stored = jnp.dtype(next(iter(params.values())).dtype)
    rnn: Any = getattr(model, "rnn", model)
    computed = jnp.dtype(rnn.dtype or stored)
    rows = [Row(stored.name, "parameters", _parameter_difference(params, twin), 0.0)]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        for dtype in dict.fromkeys([jnp.dtype("float64"), stored, computed]):
            # A model may compute in less than its parameters' dtype; a torch module has one.
            held = max(dtype, stored, key=lambda d: d.itemsize)
            ours = _copy(model, dtype, held)
            theirs = copy.deepcopy(twin).to(getattr(torch, held.name)).eval()
            found: dict[str, list[Row]] = {}
            for size in SIZES:
                inputs = _inputs(model, held, *size, np.random.default_rng(seed))
                expected, got = _run_jax(ours, held, *inputs), _run_torch(theirs, *inputs)
                for name, value, other in zip(NAMES, expected, got, strict=False):
                    difference = float(np.abs(other - value).max())
                    limit = LIMITS[dtype.name] * max(1.0, float(np.abs(value).max()))
                    found.setdefault(name, []).append(Row(dtype.name, name, difference, limit))
            rows += [max(of_name, key=_excess) for of_name in found.values()]
    return rows


def _excess(row: Row) -> float:
    """By how much a row is above its limit; NaN is above all."""
    return np.nan_to_num(row.difference / row.limit, nan=np.inf)


def _parameter_difference(params: dict[str, Any], twin: nn.Module) -> float:
    theirs = {name: t.detach().double().cpu().numpy() for name, t in twin.state_dict().items()}
    arrays = layout.convert(theirs, {name: value.shape for name, value in params.items()})
    return max(
        float(np.abs(arrays[name] - np.asarray(value, np.float64)).max())
        for name, value in params.items()
    )


def _copy(model: nnx.Module, dtype: jnp.dtype, held: jnp.dtype) -> nnx.Module:
    """A model that computes in ``dtype``, its parameters in ``held``, in evaluation mode."""
    model = nnx.clone(model)
    parts: list[Any] = [part for _, part in nnx.iter_modules(model)]
    for part in parts:
        if hasattr(part, "param_dtype"):
            part.dtype, part.param_dtype = dtype, held
    model.eval()
    skeleton, params = split(model)
    return skeleton.merge({name: jnp.asarray(value, held) for name, value in params.items()})


def _inputs(
    model: nnx.Module,
    held: jnp.dtype,
    batch_size: int,
    num_steps: int,
    carried: bool,
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[np.ndarray] | None]:
    """x and the members of a state, values of ``held`` in float64 (ids are ints)."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(held).astype(np.float64)

    rnn: Any = getattr(model, "rnn", model)
    shape = (batch_size, num_steps) if rnn.batch_first else (num_steps, batch_size)
    if isinstance(model, CharLM):
        x = rng.integers(model.num_symbols, size=shape)
    else:
        x = normal(*shape, rnn.input_size)
    if not carried:
        return x, None
    layers = rnn.num_directions * rnn.num_layers
    sizes = (rnn.output_size, rnn.hidden_size)[: rnn.cell.num_states]
    return x, [normal(layers, batch_size, size) for size in sizes]


def _run_jax(
    model: nnx.Module, held: jnp.dtype, x: np.ndarray, state: list[np.ndarray] | None
) -> list[np.ndarray]:
    """The output and the members of the last state."""
    inputs = jnp.asarray(x) if x.dtype.kind == "i" else jnp.asarray(x, held)
    members = None if state is None else [jnp.asarray(m, state_dtype(held)) for m in state]
    skeleton, params = split(model)
    run: Any = jax.jit(lambda params, x, state: skeleton.merge(params)(x, state))
    result = run(params, inputs, members and _packed(members))
    return _listed(result, lambda v: np.asarray(v, np.float64))


def _run_torch(
    module: nn.Module, x: np.ndarray, state: list[np.ndarray] | None
) -> list[np.ndarray]:
    """The output and the members of the last state."""
    parameter = next(module.parameters())

    def tensor(array: np.ndarray) -> torch.Tensor:
        dtype = None if array.dtype.kind == "i" else parameter.dtype
        return torch.from_numpy(array).to(parameter.device, dtype)

    members = None if state is None else [tensor(member) for member in state]
    with torch.no_grad():
        result = module(tensor(x), members and _packed(members))
    return _listed(result, lambda v: v.double().cpu().numpy())


def _packed(members: list[Any]) -> Any:
    """A state as layers take it."""
    return tuple(members) if len(members) > 1 else members[0]


def _listed(result: Any, as_array: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    output, state = result
    members = state if isinstance(state, tuple) else (state,)
    return [as_array(value) for value in (output, *members)]
