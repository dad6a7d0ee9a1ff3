"""Whether a JAX model and what it was exported to compute the same, up to rounding.

Both run on the same random inputs, at two sizes, from zeros and from a random state: in float64,
where the same equations agree to many digits and others don't, and in the dtypes that the model
is stored and computes in. Usage::

    rows = verify(model, twin)                                 # raises DifferenceError
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.min_blocks import MinCharLM
from jaxrnn.models.sketch_rnn import SketchRNN
from torch_compat import layout, sides
from torch_compat.parts import arrays_of

if TYPE_CHECKING:
    from torch import nn

LIMITS = {"float64": 1e-10, "float32": 2e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference that is rounding, of values of order one; of larger ones, relative."""

NAMES = ("output", "h", "c")
"""What a model gives: its output, and the members of its last state."""

MIN_NAMES = ("output", "h", "conv")
"""The same of a ``MinCharLM``."""

LATENT_NAMES, SKETCH_NAMES = ("mu", "presig"), ("h", "c", "hyper_h", "hyper_c")
"""What a ``SketchRNN`` gives after its output: the former where it is conditional."""

SIZES = ((1, 11, False), (3, 7, True))
"""Batch, steps (of a model of text more where it has more symbols), and whether to begin from a
random state."""


class Row(NamedTuple):
    """The largest difference of one tensor in one dtype, over all elements and sizes."""

    form: str  # what the model was exported to
    dtype: str
    tensor: str  # parameters, output, h, c, loss, or grad NAME of a parameter
    difference: float  # absolute
    relative: float  # to the tensor's largest magnitude
    limit: float  # of the absolute one

    @property
    def ok(self) -> bool:
        """Whether it is rounding; NaN is not."""
        return self.difference <= self.limit


class DifferenceError(ArithmeticError):
    """Both sides differ by more than rounding; ``rows`` has all differences."""

    def __init__(self, rows: list[Row]):
        self.rows = rows
        wrong = ", ".join(
            f"{row.tensor} of {row.form} in {row.dtype} by {row.difference:.2g} (limit "
            f"{row.limit:.2g})"
            for row in rows
            if not row.ok
        )
        super().__init__(f"it differs from the JAX model by more than rounding: {wrong}")


def check(rows: list[Row]) -> list[Row]:
    """The same; raises DifferenceError where a difference is above its limit."""
    if not all(row.ok for row in rows):
        raise DifferenceError(rows)
    return rows


class Reference:
    """A JAX model and what it gives on the inputs to compare on, each computed once."""

    def __init__(self, model: nnx.Module):
        self.model = model
        self.arrays = arrays_of(model)
        self.stored = jnp.dtype(next(iter(self.arrays.values())).dtype)
        self.names = MIN_NAMES if isinstance(model, MinCharLM) else NAMES
        rnn: Any = getattr(model, "rnn", model)
        if isinstance(model, SketchRNN):
            rnn = model.decoder
            latent = LATENT_NAMES if model.conditional else ()
            self.names = ("output", *latent, *SKETCH_NAMES)
        self.computed = jnp.dtype(rnn.dtype or self.stored)
        self._copies: dict[Any, nnx.Module] = {}
        self._outputs: dict[Any, Any] = {}

    def held(self, dtype: jnp.dtype) -> jnp.dtype:
        """That of parameters where the model computes in ``dtype``, which may be narrower."""
        return max(dtype, self.stored, key=lambda d: d.itemsize)

    def copy(self, dtype: jnp.dtype) -> Any:
        """The model computing in ``dtype``, in evaluation mode."""
        if dtype not in self._copies:
            self._copies[dtype] = sides.copied(self.model, dtype, self.held(dtype))
        return self._copies[dtype]

    def outputs(self, dtype: jnp.dtype, size: tuple[int, int, bool]) -> tuple[Any, Any]:
        """Inputs of a size, and the output and members of the last state that they give."""
        if (dtype, size) not in self._outputs:
            held = self.held(dtype)
            x, state = sides.inputs_of(self.model, held, *size, np.random.default_rng(0))
            self._outputs[dtype, size] = (
                (x, state),
                sides.run_jax(self.copy(dtype), held, x, state),
            )
        return self._outputs[dtype, size]

    def gradients(self, dtype: jnp.dtype) -> tuple[Any, np.ndarray, Any]:
        """Inputs, targets, and a loss with its gradient by every parameter."""
        if dtype not in self._outputs:
            inputs, (output, *_) = self.outputs(dtype, SIZES[-1])
            held, rng = self.held(dtype), np.random.default_rng(1)
            targets = rng.normal(size=output.shape).astype(held).astype(np.float64)
            if isinstance(self.model, CharLM):
                targets = rng.integers(self.model.num_symbols, size=output.shape[:-1])
            found = sides.gradients_jax(self.copy(dtype), held, targets, *inputs)
            self._outputs[dtype] = inputs, targets, found
        return self._outputs[dtype]


def verify(model: nnx.Module, twin: nn.Module) -> list[Row]:
    """As ``compare``; raises DifferenceError where a difference is above its limit."""
    return check(compare(Reference(model), twin))


def compare(
    reference: Reference, twin: nn.Module, *, form: str = "module", gradients: bool = False
) -> list[Row]:
    """The largest differences of parameters, outputs and last states, a row for each and dtype.

    With ``gradients``, of a loss and its gradient by every parameter too: cross-entropy with
    random targets of a ``CharLM``, the mean squared error of other modules. A ``SketchRNN`` encodes
    drawings, takes a latent vector from what it found, and reads the drawings again. Dropout is
    off; neither module is changed.

    Raises InputError where the parameters of the two have other names or shapes.
    """
    import torch

    theirs = {name: t.detach().double().cpu().numpy() for name, t in twin.state_dict().items()}
    rows = [compare_parameters(reference, theirs, form)]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        dtypes = [jnp.dtype("float64"), reference.stored, reference.computed]
        for dtype in dict.fromkeys(dtypes + [jnp.dtype("float32")] * gradients):
            held = getattr(torch, reference.held(dtype).name)  # a torch module has one dtype
            other = copy.deepcopy(twin).to(held).eval()
            pairs: list[tuple[str, np.ndarray, np.ndarray]] = []
            for size in SIZES:
                inputs, values = reference.outputs(dtype, size)
                got = zip(values, sides.run_torch(other, *inputs), strict=True)
                pairs += [(n, *v) for n, v in zip(reference.names, got, strict=False)]
            rows += _rows(form, dtype.name, pairs)
            if gradients:
                rows += _gradient_rows(form, dtype, reference, other)
    return rows


def compare_parameters(
    reference: Reference, theirs: dict[str, np.ndarray], form: str = "module"
) -> Row:
    """The largest difference of the parameters, of which none is allowed.

    Raises InputError where those of the two have other names or shapes.
    """
    ours = reference.arrays
    arrays = layout.convert(theirs, {name: value.shape for name, value in ours.items()})
    pairs = [
        ("parameters", np.asarray(value, np.float64), arrays[name]) for name, value in ours.items()
    ]
    rows = _each(form, reference.stored.name, pairs, 0.0)
    return max(rows, key=lambda row: row.difference)


def compare_rounded(
    ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], limit: float, form: str, dtype: str
) -> Row:
    """The largest difference of parameters of which a form keeps but so much.

    Raises InputError where those of the two have other names or shapes.
    """
    arrays = layout.convert(theirs, {name: value.shape for name, value in ours.items()})
    pairs = [("parameters", value.astype(np.float64), arrays[n]) for n, value in ours.items()]
    # A little more, for what is rounded to float32 on its way.
    rows = [r._replace(limit=1.001 * limit) for r in _each(form, dtype, pairs, limit)]
    return max(rows, key=lambda row: row.difference)


def compare_carried(form: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[Row]:
    """What a model has besides its parameters, which must be equal: vocabulary or scaler."""
    same = {name: theirs.get(name) == value for name, value in ours.items()}
    found = {name: 0.0 if equal else np.inf for name, equal in same.items()}
    return [Row(form, "-", name, value, value, 0.0) for name, value in found.items()]


def compare_run(
    reference: Reference, run: Callable[[list[np.ndarray]], list[np.ndarray]], form: str
) -> list[Row]:
    """The largest differences of outputs and last states of anything that can be run.

    ``run`` takes x and the members of a state, in the dtype of the parameters (ids are int64), and
    gives the output and the members of the last state.
    """
    stored, pairs = reference.stored, []
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        for size in SIZES:
            (x, state), expected = reference.outputs(stored, size)
            # No state is zeros, of the shapes that the last one has.
            members = [np.zeros_like(value) for value in expected[1:]] if state is None else state
            given = [v if v.dtype.kind == "i" else v.astype(stored) for v in (x, *members)]
            got = [np.asarray(value, np.float64) for value in run(given)]
            pairs += zip(NAMES, expected, got, strict=False)
    return _rows(form, stored.name, pairs)


def _rows(form: str, dtype: str, pairs: Iterable[tuple[str, np.ndarray, np.ndarray]]) -> list[Row]:
    """A row for each tensor: that of the size at which it is nearest to its limit or above it."""
    found: dict[str, list[Row]] = {}
    for row in _each(form, dtype, pairs, LIMITS[dtype]):
        found.setdefault(row.tensor, []).append(row)
    return [max(of_name, key=_excess) for of_name in found.values()]


def _each(
    form: str,
    dtype: str,
    pairs: Iterable[tuple[str, np.ndarray, np.ndarray]],
    limit: float,
    scale: float = 1.0,
) -> list[Row]:
    rows = []
    for name, ours, theirs in pairs:
        largest = float(np.abs(ours).max())
        shapes_fit = ours.shape == theirs.shape
        difference = float(np.abs(theirs - ours).max()) if shapes_fit else np.inf
        relative = difference / largest if largest else difference
        rows.append(Row(form, dtype, name, difference, relative, limit * max(scale, largest)))
    return rows


def _excess(row: Row) -> float:
    """By how much a row is above its limit; NaN is above all."""
    return np.nan_to_num(row.difference / row.limit, nan=np.inf)


def _gradient_rows(
    form: str, dtype: jnp.dtype, reference: Reference, theirs: nn.Module
) -> list[Row]:
    """Of the loss, and of its gradient by every parameter, beside the largest of all gradients."""
    inputs, targets, (loss, grads) = reference.gradients(dtype)
    their_loss, their_grads = sides.gradients_torch(theirs, targets, *inputs)
    largest = max(float(np.abs(grad).max()) for grad in grads.values())
    limit = LIMITS[dtype.name]
    rows = _each(form, dtype.name, [("loss", loss, their_loss)], limit)
    for name, grad in grads.items():
        pair = (f"grad {name}", grad, their_grads[name])
        rows += _each(form, dtype.name, [pair], limit, largest)
    return rows
