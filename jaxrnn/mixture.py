"""The distribution of a drawing's next point: M Gaussians in the plane, and the pen's state.

Densities are those of arXiv 1308.0850, equations 18 to 26. Usage::

    mixture = split_outputs(outputs)                     # (..., 3 + 6 M) as a decoder gives them
    nats = offset_nats(mixture, points[..., :2])         # one a step
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

MAGENTA_FLOOR = 1e-6  # of a density, in Magenta's loss
LARGEST_LOG_SIGMA = 20.0
LARGEST_ATANH = 8.0  # a correlation of 1 - 2.3e-7: float32 has 1 - rho^2 above zero
FARTHEST = 1e25  # from a mean
MOST_SIGMAS = 1e12  # from a mean: float32 holds the sum of all such points' costs


class Mixture(NamedTuple):
    """The distribution of a step; fields as a decoder gives them, before softmax, exp and tanh."""

    pen: Float[Array, "*N 3"]
    weight: Float[Array, "*N M"]
    mu_x: Float[Array, "*N M"]
    mu_y: Float[Array, "*N M"]
    log_sigma_x: Float[Array, "*N M"]
    log_sigma_y: Float[Array, "*N M"]
    atanh_rho: Float[Array, "*N M"]


def split_outputs(outputs: Float[Array, "*N O"]) -> Mixture:
    """The parts of (..., 3 + 6 * M) numbers, in Magenta's order."""
    return Mixture(outputs[..., :3], *jnp.split(outputs[..., 3:], 6, axis=-1))


def offset_nats(
    mixture: Mixture, offsets: Float[Array, "*N 2"], magenta: bool = False
) -> Float[Array, "*N"]:
    """-log of the density of the offsets, in log space: finite for all that float32 holds.

    To that end sigma is kept within exp(-20)..exp(20), rho off -1 and 1, and an offset within 1e12
    sigmas of a mean. With ``magenta``, its arithmetic: the density itself, and 1e-6 added to it
    before the logarithm.
    """
    dx, dy = offsets[..., :1] - mixture.mu_x, offsets[..., 1:] - mixture.mu_y
    if magenta:
        return -jnp.log(_density(mixture, dx, dy) + MAGENTA_FLOOR)
    log_sigma_x, log_sigma_y = (
        jnp.clip(s, -LARGEST_LOG_SIGMA, LARGEST_LOG_SIGMA)
        for s in (mixture.log_sigma_x, mixture.log_sigma_y)
    )
    r = jnp.clip(mixture.atanh_rho, -LARGEST_ATANH, LARGEST_ATANH)
    log_rest = 2 * (math.log(2) - jnp.logaddexp(r, -r))  # log(1 - rho^2), rho = tanh(r)
    a, b = _in_sigmas(dx, log_sigma_x), _in_sigmas(dy, log_sigma_y)
    squared = jnp.square(a - jnp.tanh(r) * b) * jnp.exp(-log_rest) + jnp.square(b)
    log_normal = -math.log(2 * math.pi) - log_sigma_x - log_sigma_y - (log_rest + squared) / 2
    return -jax.nn.logsumexp(jax.nn.log_softmax(mixture.weight) + log_normal, axis=-1)


def _in_sigmas(distance: Array, log_sigma: Array) -> Array:
    near = jnp.clip(distance, -FARTHEST, FARTHEST)
    return jnp.clip(near * jnp.exp(-log_sigma), -MOST_SIGMAS, MOST_SIGMAS)


def _density(mixture: Mixture, dx: Array, dy: Array) -> Array:
    sigma_x, sigma_y = jnp.exp(mixture.log_sigma_x), jnp.exp(mixture.log_sigma_y)
    rho = jnp.tanh(mixture.atanh_rho)
    rest = 1 - jnp.square(rho)
    both = sigma_x * sigma_y
    squared = jnp.square(dx / sigma_x) + jnp.square(dy / sigma_y) - 2 * rho * dx * dy / both
    normal = jnp.exp(-squared / (2 * rest)) / (2 * math.pi * both * jnp.sqrt(rest))
    return (jax.nn.softmax(mixture.weight) * normal).sum(-1)


def pen_nats(mixture: Mixture, pen: Float[Array, "*N 3"]) -> Float[Array, "*N"]:
    """Cross-entropy of the pen's states, given one-hot."""
    return optax.softmax_cross_entropy(mixture.pen, pen)


def kl_nats(mu: Float[Array, "B Z"], presig: Float[Array, "B Z"]) -> Float[Array, "B"]:
    """Of N(mu, exp(presig)) from N(0, 1), the mean over Z as in the paper's equation 10."""
    return -0.5 * (1 + presig - jnp.square(mu) - jnp.exp(presig)).mean(-1)
