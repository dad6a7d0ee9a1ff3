"""Losses and the sums that metrics are made of; all in float32 at least."""

from __future__ import annotations

import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "B T V"],
    targets: Int[Array, "B T"],
    mask: Bool[Array, "B T"] | None = None,
) -> Float[Array, ""]:
    """Nats of the targets under softmax(logits): the mean, or the sum over a mask."""
    nats = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return nats.mean() if mask is None else jnp.where(mask, nats, 0).sum()


def activation_penalty(
    y: Float[Array, "B T H"], dropped: Float[Array, "B T H"], alpha: float, beta: float
) -> Float[Array, ""]:
    """alpha * mean(dropped^2) + beta * mean((y_t - y_{t-1})^2), of a layer's outputs, T >= 2.

    AR and TAR (arXiv 1708.01009), of outputs with dropout and without, as AWD-LSTM's code has them.
    """
    size, change = jnp.square(dropped).mean(), jnp.square(y[:, 1:] - y[:, :-1]).mean()
    return alpha * size + beta * change


def squared_error(
    prediction: Float[Array, "*shape O"],
    targets: Float[Array, "*shape O"],
    mask: Bool[Array, "*shape"] | None = None,
) -> Float[Array, ""]:
    """Mean over O of (prediction - target)^2: the mean, or the sum over a mask."""
    errors = jnp.square(prediction - targets).mean(-1)
    return errors.mean() if mask is None else jnp.where(mask, errors, 0).sum()


def absolute_error(
    prediction: Float[Array, "*shape O"],
    targets: Float[Array, "*shape O"],
    mask: Bool[Array, "*shape"] | None = None,
) -> Float[Array, ""]:
    """Mean over O of |prediction - target|: the mean, or the sum over a mask."""
    errors = jnp.abs(prediction - targets).mean(-1)
    return errors.mean() if mask is None else jnp.where(mask, errors, 0).sum()
