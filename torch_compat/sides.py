"""The same inputs for a JAX model and its twin in torch, and what each side gives for them.

Every tensor is compared in float64, whatever computed it. Usage::

    x, state = inputs_of(model, jnp.dtype("float32"), 3, 7, True, rng)
    run_jax(model, jnp.dtype("float32"), x, state), run_torch(twin, x, state)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from jaxrnn import losses
from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.horizon import HorizonModel, RecursiveForecaster, SegmentForecaster
from jaxrnn.models.sketch_rnn import START, SketchRNN
from jaxrnn.recurrence import state_dtype

if TYPE_CHECKING:
    from torch import nn

# Each program runs once: compiling it is nearly all the time that it takes.
_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def copied(model: nnx.Module, dtype: jnp.dtype, held: jnp.dtype) -> nnx.Module:
    """A model that computes in ``dtype``, its parameters in ``held``, in evaluation mode."""
    model = nnx.clone(model)
    parts: list[Any] = [part for _, part in nnx.iter_modules(model)]
    for part in parts:
        if hasattr(part, "param_dtype"):
            part.dtype, part.param_dtype = dtype, held
    model.eval()
    skeleton, params = split(model)
    return skeleton.merge({name: jnp.asarray(value, held) for name, value in params.items()})


def inputs_of(
    model: nnx.Module,
    held: jnp.dtype,
    batch_size: int,
    num_steps: int,
    carried: bool,
    rng: np.random.Generator,
) -> tuple[Any, list[np.ndarray] | None]:
    """x and the members of a state, values of ``held`` in float64 (ids are ints)."""

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(held).astype(np.float64)

    if isinstance(model, SketchRNN):
        return _drawings(model, normal, batch_size, num_steps, carried, rng), None
    if isinstance(model, HorizonModel):
        return _windows(model, normal, batch_size, num_steps, carried), None
    rnn: Any = getattr(model, "rnn", model)
    shape = (batch_size, num_steps) if rnn.batch_first else (num_steps, batch_size)
    if isinstance(model, CharLM):
        if carried:  # as many steps as every symbol needs to be read
            num_steps = max(num_steps, -(-model.num_symbols // batch_size))
        ids = np.resize(rng.permutation(model.num_symbols), batch_size * num_steps)
        x = ids.reshape(batch_size, num_steps)
    else:
        x = normal(*shape, rnn.input_size)
    if not carried:
        return x, None
    zeros = rnn.initial_state(batch_size)
    members = zeros if isinstance(zeros, tuple) else (zeros,)
    return x, [normal(*member.shape) for member in members]


class Windows(NamedTuple):
    """What a forecaster of many steps is run on."""

    past: np.ndarray  # (B, T, I)
    known: np.ndarray  # (B, N, F)
    targets: np.ndarray | None  # (B, N, C) that a recursive one reads


def _windows(
    model: HorizonModel, normal: Any, batch_size: int, num_steps: int, reads_targets: bool
) -> Windows:
    if isinstance(model, SegmentForecaster):
        num_steps *= model.segment_len
    width = model.num_targets + model.num_covariates + model.num_known
    reads_targets &= isinstance(model, RecursiveForecaster)
    ahead = (batch_size, model.horizon)
    return Windows(
        normal(batch_size, num_steps, width),
        normal(*ahead, model.num_known),
        normal(*ahead, model.num_targets) if reads_targets else None,
    )


class Drawings(NamedTuple):
    """What a ``SketchRNN`` is run on."""

    points: np.ndarray  # (B, T + 1, 5), the first the start token
    lengths: np.ndarray  # (B,)
    noise: np.ndarray | None  # (B, Z)
    classes: np.ndarray | None  # (B,)


def _drawings(
    model: SketchRNN, normal: Any, batch_size: int, num_steps: int, varied: bool, rng: Any
) -> Drawings:
    points = normal(batch_size, num_steps + 1, 5)
    points[..., 2:] = np.eye(3)[rng.integers(0, 3, (batch_size, num_steps + 1))]
    points[:, 0] = START
    lengths = np.full(batch_size, num_steps)
    if varied:
        lengths[1:] = rng.integers(1, num_steps + 1, batch_size - 1)
    noise = normal(batch_size, model.latent_size) if model.conditional else None
    classes = rng.permutation(batch_size) % model.num_classes if model.num_classes else None
    return Drawings(points, lengths, noise, classes)


def _call_jax(model: Any, x: Any, state: Any) -> tuple[Array, tuple[Array, ...]]:
    """The output and all else that a model gives."""
    if isinstance(model, HorizonModel):
        return model(*x), ()
    if not isinstance(model, SketchRNN):
        output, last = model(x, state)
        return output, last if isinstance(last, tuple) else (last,)
    points, lengths, noise, classes = x
    z, latent = None, ()
    if noise is not None:
        mu, presig = latent = model.encode(points[:, 1:], lengths)
        z = mu + jnp.exp(presig / 2) * noise
    context = model.context(z, classes)
    state = model.initial_state(context, len(points))
    output, last = model.decode(points[:, :-1], context, state)
    return output, (*latent, *last)


def _call_torch(module: Any, x: Any, state: Any) -> tuple[Any, tuple[Any, ...]]:
    """The same of a twin."""
    if isinstance(x, Windows):
        return module(*x), ()
    if not isinstance(x, Drawings):
        output, last = module(x, state)
        return output, last if isinstance(last, tuple) else (last,)
    z, latent = None, ()
    if x.noise is not None:
        mu, presig = latent = module.encode(x.points[:, 1:], x.lengths)
        z = mu + (presig / 2).exp() * x.noise
    output, last = module(x.points[:, :-1], z=z, classes=x.classes)
    return output, (*latent, *last)


def _jax_inputs(held: jnp.dtype, x: Any, state: list[np.ndarray] | None) -> tuple[Any, Any]:
    inputs = jax.tree.map(
        lambda v: jnp.asarray(v) if v.dtype.kind == "i" else jnp.asarray(v, held), x
    )
    members = None if state is None else [jnp.asarray(m, state_dtype(held)) for m in state]
    return inputs, members and _packed(members)


def run_jax(
    model: nnx.Module, held: jnp.dtype, x: Any, state: list[np.ndarray] | None
) -> list[np.ndarray]:
    """The output and the members of the last state."""
    skeleton, params = split(model)
    run: Any = _jit(lambda params, x, state: _call_jax(skeleton.merge(params), x, state))
    return _listed(run(params, *_jax_inputs(held, x, state)), lambda v: np.asarray(v, np.float64))


def gradients_jax(
    model: nnx.Module,
    held: jnp.dtype,
    targets: np.ndarray,
    x: Any,
    state: list[np.ndarray] | None,
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A loss, of ids cross-entropy and else squared error, and its gradient by every parameter."""
    skeleton, params = split(model)
    is_ids = targets.dtype.kind == "i"
    loss_of = losses.cross_entropy if is_ids else losses.squared_error

    def loss(params, x, state, targets):
        output, _ = _call_jax(skeleton.merge(params), x, state)
        return loss_of(output, targets if is_ids else targets.astype(output.dtype))

    run: Any = _jit(jax.value_and_grad(loss))
    value, grads = run(params, *_jax_inputs(held, x, state), jnp.asarray(targets))
    as_array = lambda v: np.asarray(v, np.float64)  # noqa: E731
    return as_array(value), {name: as_array(grad) for name, grad in grads.items()}


def _torch_inputs(module: nn.Module, x: Any, state: list[np.ndarray] | None) -> Any:
    import torch

    parameter = next(module.parameters())

    def tensor(array: np.ndarray) -> Any:
        dtype = None if array.dtype.kind == "i" else parameter.dtype
        return torch.from_numpy(array).to(parameter.device, dtype)

    members = None if state is None else [tensor(member) for member in state]
    if isinstance(x, Drawings | Windows):
        parts: Any = (None if v is None else tensor(v) for v in x)
        return type(x)(*parts), None, tensor
    return tensor(x), members and _packed(members), tensor


def run_torch(module: nn.Module, x: Any, state: list[np.ndarray] | None) -> list[np.ndarray]:
    """The output and the members of the last state."""
    import torch

    inputs, packed, _ = _torch_inputs(module, x, state)
    with torch.no_grad():
        result = _call_torch(module, inputs, packed)
    return _listed(result, lambda v: v.double().cpu().numpy())


def gradients_torch(
    module: nn.Module, targets: np.ndarray, x: Any, state: list[np.ndarray] | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """As ``gradients_jax``."""
    from torch.nn import functional

    inputs, packed, tensor = _torch_inputs(module, x, state)
    module.zero_grad()
    output, _ = _call_torch(module, inputs, packed)
    goal = tensor(targets)
    if targets.dtype.kind == "i":
        loss = functional.cross_entropy(output.flatten(0, -2), goal.flatten())
    else:
        loss = functional.mse_loss(output, goal)
    loss.backward()
    as_array = lambda v: v.detach().double().cpu().numpy()  # noqa: E731
    return as_array(loss), {name: as_array(p.grad) for name, p in module.named_parameters()}


def _packed(members: list[Any]) -> Any:
    """A state as layers take it."""
    return tuple(members) if len(members) > 1 else members[0]


def _listed(result: Any, as_array: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
    output, members = result
    return [as_array(value) for value in (output, *members)]
