"""The training step: state, optimizer, the jitted loop over a few steps, and where it all lies.

A step is a pure function of the state and its batches: random keys by ``fold_in(key, step)``, the
learning rate by the step. Usage::

    skeleton, _, state = initial_state(task, config)
    step = make_step(task.loss, skeleton, config, total)
    state, metrics = step(state, inputs, targets, starts, count)
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from jaxrnn import averaging, rules
from jaxrnn.averaging import Average, initial_average
from jaxrnn.config import GPU_BACKENDS, CharConfig, StreamConfig, TrainConfig
from jaxrnn.dropout import dropped, weight_drop
from jaxrnn.mesh import batch_shardings, device_mesh, state_shardings
from jaxrnn.models import Params, Skeleton, skeleton_of, split
from jaxrnn.tasks import Task

# Folded into a step's key, for what is drawn besides dropout's masks:
LATENT = 2**31  # latent vectors
LOCKED = 2**31 + 1  # masks that a whole sequence has in common
WEIGHTS = 2**31 + 2  # masks of recurrent weights
RESETS = 2**31 + 3  # which states are zeroed


class TrainState(NamedTuple):
    """All that a step changes."""

    step: Int[Array, ""]
    params: Params
    moments: Any  # the optimizer's
    carry: Any  # the recurrent state at the end of the last batch
    average: Average | None = None  # of the parameters, where there is one

    @property
    def evaluated(self) -> Params:
        """The parameters to evaluate, sample and export."""
        return self.params if self.average is None else self.average.params


class StepMetrics(NamedTuple):
    """What a step reports; each of shape (K,) for K steps."""

    loss: Float[Array, "K"]
    grad_norm: Float[Array, "K"]
    lr: Float[Array, "K"]


def learning_rate(config: TrainConfig, total: int) -> Callable[[Any], Array]:
    """The rate of a step: a linear warm-up from lr / warmup_steps, then constant, half a cosine
    down to ``lr_final`` at the last step (arXiv 1608.03983, without restarts), or an exponential
    towards ``lr_final``.
    """

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        lr = jnp.float32(config.lr)
        if config.schedule == "cosine":
            share = (step - config.warmup_steps) / max(total - 1 - config.warmup_steps, 1)
            cosine = (1 + jnp.cos(jnp.pi * jnp.clip(share, 0, 1))) / 2
            lr = config.lr_final + (lr - config.lr_final) * cosine
        if config.schedule == "exponential":
            decayed = jnp.float32(config.lr_decay) ** jnp.maximum(step - config.warmup_steps, 0)
            lr = config.lr_final + (lr - config.lr_final) * decayed
        if config.warmup_steps:
            lr = lr * jnp.minimum((step + 1) / config.warmup_steps, 1)
        return lr

    return rate


def optimizer(config: TrainConfig) -> optax.GradientTransformation:
    """torch.optim's Adam, AdamW or SGD with momentum, up to the learning rate's factor."""
    decay = [optax.add_decayed_weights(config.weight_decay)] if config.weight_decay else []
    if config.optimizer == "sgd":
        return optax.chain(*decay, optax.trace(config.momentum))
    adam = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    return optax.chain(adam, *decay) if config.optimizer == "adamw" else optax.chain(*decay, adam)


def initial_state(task: Task, config: TrainConfig) -> tuple[Skeleton, Skeleton, TrainState]:
    """The model to train, the same for evaluation, and the state before the first step.

    A backend for GPUs trains alone: the model for evaluation runs on any device and batch.
    """
    key = jax.random.fold_in(jax.random.key(config.seed), 0)

    # One program in place of one for each draw, and compiled in half the time: it runs once.
    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def drawn(key):
        model = task.model(nnx.Rngs(key))
        skeleton, params = split(model)
        return params, skeleton.rest, task.initial_carry(model, config.batch_size)

    params, rest, carry = drawn(key)
    model: Any = nnx.eval_shape(lambda: task.model(nnx.Rngs(key)))
    train_skeleton = dataclasses.replace(skeleton_of(model), rest=rest)
    if config.backend in GPU_BACKENDS:
        anywhere = dataclasses.replace(config, backend="auto")
        task = dataclasses.replace(cast(Any, task), config=anywhere)
        model = nnx.eval_shape(lambda: task.model(nnx.Rngs(key)))
    model.eval()
    eval_skeleton = dataclasses.replace(skeleton_of(model), rest=rest)
    moments, average = optimizer(config).init(params), initial_average(config, params)
    state = TrainState(jnp.int32(0), params, moments, carry, average)
    return train_skeleton, eval_skeleton, state


def steps_per_dispatch(config: TrainConfig, params: Params) -> int:
    """How many steps one call to the device runs: more of them, the shorter they are."""
    if config.steps_per_dispatch:
        return config.steps_per_dispatch
    size = sum(math.prod(p.shape) for p in params.values())
    return rules.steps_per_dispatch(6 * size * config.batch_size * config.unroll_len)


def in_chunks(loss_of: Callable[..., Any]) -> Callable[..., Any]:
    """The same mean loss of (params, batch, carry, key, step), computed in chunks of sqrt(T) steps.

    Only the states between chunks are kept; a chunk's forward pass runs again for its gradient
    (arXiv 1604.06174): memory grows with sqrt(T), time by about a third.
    """

    def loss_in_chunks(params, batch, carry, key, step):
        num_steps = batch[0].shape[1]
        length = math.ceil(math.sqrt(num_steps))
        count = num_steps // length

        @jax.checkpoint
        def chunk(carry, inputs):
            number, *batch = inputs
            loss, carry = loss_of(params, batch, carry, jax.random.fold_in(key, number), step)
            return carry, loss * batch[0].shape[1] / num_steps

        def cut(a):
            a = a[:, : count * length].reshape(a.shape[0], count, length, *a.shape[2:])
            return a.swapaxes(0, 1)

        carry, losses = jax.lax.scan(chunk, carry, (jnp.arange(count), *map(cut, batch)))
        total = losses.sum()
        if rest := [a[:, count * length :] for a in batch if count * length < num_steps]:
            carry, loss = chunk(carry, (count, *rest))
            total += loss
        return total, carry

    return loss_in_chunks


def on_dropped_weights(loss_of: Callable[..., Any], rate: float) -> Callable[..., Any]:
    """The same loss of (params, batch, carry, key, step), one mask on each recurrent weight."""

    def loss_on_dropped_weights(params, batch, carry, key, step):
        params = weight_drop(params, rate, jax.random.fold_in(key, WEIGHTS))
        return loss_of(params, batch, carry, key, step)

    return loss_on_dropped_weights


def with_resets(carry: Any, rate: float, key: Array) -> Any:
    """States (L, B, ...), those of each stream zeroed with probability ``rate``.

    As Melis et al. reset them (arXiv 1707.05589), so that a text's beginning is seen more often.
    """

    def reset(member):
        batch_size = member.shape[1]
        kept = dropped(jnp.ones(batch_size), rate, key) > 0
        shape = (1, batch_size, *[1] * (member.ndim - 2))
        return jnp.where(kept.reshape(shape), member, jnp.zeros_like(member))

    return jax.tree.map(reset, carry)


def by_rows(gradient: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same array, its last axis contiguous in memory, as its parameter's is; inside jit.

    XLA would leave it transposed, and the optimizer read it across its rows. Never inside what is
    differentiated again: second derivatives outside jit come out wrong there (jax 0.10.2).
    """
    return with_layout_constraint(gradient, Layout(tuple(range(gradient.ndim))))


def make_step(
    loss_fn: Callable[..., Any], skeleton: Skeleton, config: TrainConfig, total: int
) -> jax.stages.Wrapped:
    """``train_steps(state, inputs, targets, starts, count) -> (state, StepMetrics)``, jitted.

    ``loss_fn(model, inputs, targets, state, rngs, step)`` gives the loss and the carried state.
    Arguments carry K batches; the first ``count`` of them are trained on. One compiled loop serves
    every count, so that the same steps give the same bits however they are grouped. The state is
    donated. Each device of the mesh has its rows of every batch; gradients are averaged over all.
    """
    mesh = device_mesh(config)
    of_batches, of_all = batch_shardings(mesh)
    is_cut = mesh.shape["hidden"] > 1
    # Of a state that is cut each array has a sharding of its own, which it brings along.
    kinds: Any = (of_all, of_all, of_all, of_batches, of_all)
    of_state = None if is_cut else TrainState(*kinds)
    rate, transform = learning_rate(config, total), optimizer(config)
    dropout_key = jax.random.fold_in(jax.random.key(config.seed), 1)

    def loss_of(params, batch, carry, key, step):
        inputs, targets = batch
        # Not by ``key``, which each chunk has its own of.
        locked = jax.random.fold_in(jax.random.fold_in(dropout_key, step), LOCKED)
        rngs = nnx.Rngs(dropout=key, latent=jax.random.fold_in(key, LATENT), locked=locked)
        return loss_fn(skeleton.merge(params), inputs, targets, carry, rngs, step)

    if isinstance(config, StreamConfig) and config.remat:
        loss_of = in_chunks(loss_of)
    if isinstance(config, CharConfig) and config.weight_drop:
        loss_of = on_dropped_weights(loss_of, config.weight_drop)

    def train_step(state, inputs, targets, starts):
        zeroed = jax.tree.map(lambda s: jnp.where(starts, jnp.zeros_like(s), s), state.carry)
        key = jax.random.fold_in(dropout_key, state.step)
        if isinstance(config, CharConfig) and config.reset_probability:
            zeroed = with_resets(zeroed, config.reset_probability, jax.random.fold_in(key, RESETS))
        value_and_grad = jax.value_and_grad(loss_of, has_aux=True)
        batch = (inputs, targets)
        (loss, carry), grads = value_and_grad(state.params, batch, zeroed, key, state.step)
        if rules.contiguous_rows(jax.default_backend()):
            grads = jax.tree.map(by_rows, grads)
        grad_norm = optax.tree.norm(grads)
        if config.clip:  # torch.nn.utils.clip_grad_norm_'s formula
            scale = jnp.minimum(config.clip / (grad_norm + 1e-6), 1)
            grads = jax.tree.map(lambda g: g * scale.astype(g.dtype), grads)
        if config.clip_value:  # clip_grad_value_'s
            size = config.clip_value
            grads = jax.tree.map(lambda g: jnp.clip(g, -size, size), grads)
        updates, moments = transform.update(grads, state.moments, state.params)
        lr = rate(state.step)
        params = jax.tree.map(lambda p, u: p - lr.astype(p.dtype) * u, state.params, updates)
        number = state.step + 1
        new = TrainState(number, params, moments, carry)
        if config.not_finite == "skip":
            is_finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
            left_out = TrainState(number, state.params, state.moments, zeroed)
            new = jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, left_out)
        average = state.average and averaging.update(config, state.average, new.params, number)
        return new._replace(average=average), StepMetrics(loss, grad_norm, lr)

    @functools.partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(of_state, of_batches, of_batches, of_all, of_all),
        out_shardings=(of_state, of_all),
    )
    def train_steps(state, inputs, targets, starts, count):
        def body(k, carried):
            state, metrics = carried
            batch = jax.tree.map(lambda a: a[k], (inputs, targets, starts))
            state, new = train_step(state, *batch)
            metrics = jax.tree.map(lambda m, v: m.at[k].set(v.astype(m.dtype)), metrics, new)
            return state, metrics

        blank = jnp.zeros(starts.shape, jnp.result_type(float))
        blanks = StepMetrics(blank, blank, blank)
        state, metrics = jax.lax.fori_loop(0, count, body, (state, blanks))
        if is_cut:
            state = jax.lax.with_sharding_constraint(state, state_shardings(state, mesh))
        return state, metrics

    return train_steps
