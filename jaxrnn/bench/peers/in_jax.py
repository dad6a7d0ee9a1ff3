"""What the libraries in JAX share: compiling ahead of time, and one training step around layers.

The step is forward, loss, backward, optax's clipping and Adam, jitted, its state donated; the
state of the layers starts from zeros. Usage::

    return session(workload, params, [layer, ...], as_torch)
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxrnn.bench.peers import Arrays, Session, UnsupportedError
from jaxrnn.bench.workloads import Workload, data, lengths, parameters

Params = dict[str, Any]
Layer = Callable[[Params, Any, Any], Any]  # (params, x (B, T, I), lengths or None) -> (B, T, H)


class Program(NamedTuple):
    """A compiled function and what compiling it has shown."""

    call: Callable[..., Any]
    compile_s: float
    memory_mib: float | None


def ahead_of_time(function: jax.stages.Wrapped, *arguments: Any) -> Program:
    """Compile for these arguments; memory is that of arguments, outputs and temporaries."""
    started = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    compile_s = time.perf_counter() - started
    found = compiled.memory_analysis()
    if found is None:
        return Program(compiled, compile_s, None)
    size = found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes
    return Program(compiled, compile_s, (size - found.alias_size_in_bytes) / 2**20)


def arrays(tree: Params) -> Arrays:
    """As NumPy has them."""
    return {name: wide(value) for name, value in tree.items()}


def wide(array: Any) -> np.ndarray:
    """As NumPy has it, which knows float32 and float64."""
    found = np.asarray(array)
    return found if found.dtype.itemsize > 2 else found.astype(np.float32)


def weighted(y: jax.Array, targets: jax.Array) -> jax.Array:
    """The loss of ``gradients``: outputs times targets, over the root of their rows' number."""
    rows = y.shape[0] * y.shape[1]
    return (y.astype(targets.dtype) * targets).sum() / rows**0.5


def outputs_alone(function: Callable[[Params, Any], Any], params: Params, x: Any) -> Session:
    """Forward: what is timed is what is compared, and nothing else is compiled."""
    program = ahead_of_time(jax.jit(function), params, x)

    def call() -> Any:
        return program.call(params, x).block_until_ready()

    return Session(
        *(call, 1, lambda: (wide(call()), {})), program.compile_s, lambda: program.memory_mib
    )


def gradients(
    loss: Callable[..., Any],
    arguments: tuple[Params, Any, Any],
    as_torch: Callable[[Params], Arrays],
) -> Session:
    """Forward and backward, compared by what is timed too.

    ``loss(params, x, targets)`` gives the loss and the outputs, ``as_torch`` gradients under
    torch's names.
    """
    program = ahead_of_time(jax.jit(jax.value_and_grad(loss, has_aux=True)), *arguments)

    def call() -> Any:
        return jax.block_until_ready(program.call(*arguments))

    def check() -> tuple[np.ndarray, Arrays]:
        (_, y), grads = call()
        return wide(y), as_torch(grads)

    return Session(call, 1, check, program.compile_s, lambda: program.memory_mib)


def session(
    workload: Workload,
    params: Params,
    layers: Sequence[Layer],
    as_torch: Callable[[Params], Arrays],
) -> Session:
    """The model made of ``layers``, whose parameters are ``params`` under any names.

    ``as_torch`` gives their gradients under torch's names.
    """
    if workload.mode == "generate":
        raise UnsupportedError("it has no sampling")
    named = parameters(workload)
    head = {n: jnp.asarray(named[n]) for n in ("decoder.weight", "decoder.bias") if n in named}
    params = {**params, **head}
    valid = jnp.asarray(lengths(workload)) if workload.max_length else None

    def drop(y, key):
        kept = jax.random.bernoulli(key, 1 - workload.dropout, y.shape)
        return jnp.where(kept, y / (1 - workload.dropout), jnp.zeros_like(y))

    def outputs(params, x, key=None):
        y = jax.nn.one_hot(x, workload.input_size, dtype=jnp.float32) if workload.is_text else x
        for k, layer in enumerate(layers):
            if k and key is not None:
                y = drop(y, jax.random.fold_in(key, k))
            y = layer(params, y, valid)
        if valid is not None:  # the steps from a length on are computed, and count for nothing
            inside = jnp.arange(workload.num_steps)[None] < valid[:, None]
            y = jnp.where(inside[..., None], y, jnp.zeros_like(y))
        if head:
            if key is not None:
                y = drop(y, jax.random.fold_in(key, 0))
            y = y @ params["decoder.weight"].T + params["decoder.bias"][None, None]
        return y

    def loss(params, x, targets, key=None):
        y = outputs(params, x, key)
        if workload.is_text:
            return optax.softmax_cross_entropy_with_integer_labels(y, targets).mean(), y
        if workload.mode == "gradients":
            return weighted(y, targets), y
        return jnp.square(y - targets).mean(), y

    clip = [optax.clip_by_global_norm(workload.clip)] if workload.clip else []
    transform = optax.chain(*clip, optax.adam(workload.lr))

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, x, targets):
        params, moments, count = state
        key = jax.random.fold_in(jax.random.key(0), count) if workload.dropout else None
        (value, _), grads = jax.value_and_grad(loss, has_aux=True)(params, x, targets, key)
        updates, moments = transform.update(grads, moments, params)
        return (optax.apply_updates(params, updates), moments, count + 1), value

    x, targets = (jax.device_put(part[0]) for part in data(workload))

    def all_as_torch(grads: Params) -> Arrays:
        found = as_torch({n: g for n, g in grads.items() if n not in head})
        return {**found, **arrays({n: grads[n] for n in head})}

    if workload.mode == "forward":
        return outputs_alone(outputs, params, x)
    if workload.mode == "gradients":
        return gradients(loss, (params, x, targets), all_as_torch)

    def check() -> tuple[np.ndarray, Arrays]:
        grads, y = jax.jit(jax.grad(loss, has_aux=True))(params, x, targets)
        return wide(y), all_as_torch(grads)

    copies = jax.tree.map(jnp.array, params)
    box = [(copies, jax.jit(transform.init)(copies), jnp.int32(0))]
    program = ahead_of_time(step, box[0], x, targets)

    def train() -> float:
        box[0], value = program.call(box[0], x, targets)
        return float(value)

    return Session(train, 1, check, program.compile_s, lambda: program.memory_mib)
