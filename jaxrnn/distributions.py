"""What a forecast is: a point, quantiles or a Student t distribution for each value.

A model gives P raw numbers a value. ``parameters`` makes of them, in the order of the last axis:

    point      the value
    quantiles  one for each level, ascending: the median, and sums of softplus on both sides of it,
               so that no two cross
    student_t  location, scale > 0 and degrees of freedom > 2

in normalised units; ``rescaled`` brings these to ``factor * unit + shift``. Usage::

    kind = Distribution("quantiles", (0.1, 0.5, 0.9))
    loss = kind.loss(kind.parameters(raw), targets).mean()     # raw (..., 3), targets (...)
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln, ndtri
from jaxtyping import Array, Float

MIN_SCALE = 1e-4  # of a Student t, in normalised units: a constant past has no likelihood else
NODES = 64  # of the Gauss-Legendre quadrature of Student t's distribution function
ROUNDS = 30  # of Newton's method for its inverse, which converges from one side
POINT_LOSSES = ("mse", "mae", "huber")


@dataclasses.dataclass(frozen=True)
class Distribution:
    """One of the three, with the levels at which quantiles are given."""

    kind: Literal["point", "quantiles", "student_t"]
    levels: tuple[float, ...] = (0.5,)  # ascending, with 0.5; of a point 0.5 alone
    point_loss: Literal["mse", "mae", "huber"] = "mse"

    @property
    def num_parameters(self) -> int:
        """P."""
        return {"point": 1, "quantiles": len(self.levels), "student_t": 3}[self.kind]

    @property
    def loss_name(self) -> str:
        """What ``loss`` is called."""
        names = {"point": self.point_loss, "quantiles": "pinball", "student_t": "nll"}
        return names[self.kind]

    @property
    def median_place(self) -> int:
        """Of 0.5 among the levels."""
        return self.levels.index(0.5)

    def parameters(self, raw: Float[Array, "*shape P"]) -> Float[Array, "*shape P"]:
        """Of what a model gives, in normalised units."""
        if self.kind == "point":
            return raw
        if self.kind == "quantiles":
            place = self.median_place
            median, widths = raw[..., place, None], jax.nn.softplus(raw)
            below = median - jnp.cumsum(widths[..., :place][..., ::-1], -1)[..., ::-1]
            above = median + jnp.cumsum(widths[..., place + 1 :], -1)
            return jnp.concatenate([below, median, above], -1)
        spread = jax.nn.softplus(raw[..., 1:])
        scale, freedom = spread[..., :1] + MIN_SCALE, spread[..., 1:] + 2
        return jnp.concatenate([raw[..., :1], scale, freedom], -1)

    def rescaled(
        self,
        parameters: Float[Array, "*shape P"],
        shift: Float[Array, "*scaled 1"],
        factor: Float[Array, "*scaled 1"],
    ) -> Float[Array, "*shape P"]:
        """Of ``factor`` times the variable, plus ``shift``; a negative factor keeps the order."""
        if self.kind == "student_t":
            location = parameters[..., :1] * factor + shift
            scale = parameters[..., 1:2] * jnp.abs(factor)
            return jnp.concatenate([location, scale, parameters[..., 2:]], -1)
        place = self.median_place
        median = parameters[..., place : place + 1]
        return median * factor + shift + (parameters - median) * jnp.abs(factor)

    def point(self, parameters: Float[Array, "*shape P"]) -> Float[Array, "*shape"]:
        """The forecast in one number: the point, or the median."""
        return parameters[..., 0 if self.kind == "student_t" else self.median_place]

    def quantiles(self, parameters: Float[Array, "*shape P"]) -> Float[Array, "*shape K"]:
        """At every level; of a point, it alone."""
        if self.kind != "student_t":
            return parameters
        location, scale, freedom = (parameters[..., k, None] for k in range(3))
        unit = [student_t_quantile(level, freedom) for level in self.levels]
        return location + scale * jnp.concatenate(unit, -1)

    def loss(
        self, parameters: Float[Array, "*shape P"], targets: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        """Of each value: squared, absolute or Huber's (1) error, mean pinball loss, or nats."""
        if self.kind == "quantiles":
            return pinball(parameters, targets, self.levels)
        if self.kind == "student_t":
            return student_t_nats(parameters, targets)
        error = jnp.abs(parameters[..., 0] - targets)
        if self.point_loss == "mae":
            return error
        if self.point_loss == "huber":
            return jnp.where(error < 1, jnp.square(error) / 2, error - 0.5)
        return jnp.square(error)


def pinball(
    quantiles: Float[Array, "*shape K"], targets: Float[Array, "*shape"], levels: tuple[float, ...]
) -> Float[Array, "*shape"]:
    """The mean over K levels of ``max(level * e, (level - 1) * e)``, e = target - quantile."""
    error = targets[..., None] - quantiles
    level = jnp.asarray(levels, error.dtype).reshape((1,) * (error.ndim - 1) + (-1,))
    return jnp.maximum(level * error, (level - 1) * error).mean(-1)


def student_t_nats(
    parameters: Float[Array, "*shape 3"], targets: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """The negative logarithm of Student t's density."""
    location, scale, freedom = (parameters[..., k] for k in range(3))
    half = (freedom + 1) / 2
    square = jnp.square((targets - location) / scale) / freedom
    log_unit = gammaln(half) - gammaln(freedom / 2) - jnp.log(freedom * jnp.pi) / 2
    return jnp.log(scale) - log_unit + half * jnp.log1p(square)


def student_t_quantile(level: float, freedom: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The quantile at a level in (0, 1) of Student t's distribution with ``freedom`` > 2 degrees.

    With t = sqrt(n) tan(a), n degrees: P(T <= t) - 1/2 = c times the integral of cos(x)^(n-1) from
    0 to a, c = Gamma((n+1)/2) / (sqrt(pi) Gamma(n/2)). Newton's method begins at the normal's
    quantile, which is nearer to 0, and comes closer from this side: the integral is concave.
    """
    nodes, weights = (jnp.asarray(v, freedom.dtype) for v in np.polynomial.legendre.leggauss(NODES))
    tail = jnp.asarray(abs(level - 0.5), freedom.dtype)
    log_c = gammaln((freedom + 1) / 2) - gammaln(freedom / 2) - math.log(math.pi) / 2
    start = jnp.abs(ndtri(jnp.asarray(level, freedom.dtype)))

    def density(angle, freedom, log_c):
        return jnp.exp(log_c + (freedom - 1) * jnp.log(jnp.cos(angle)))

    points = ((nodes + 1) / 2).reshape((1,) * freedom.ndim + (-1,))
    weight = (weights / 2).reshape(points.shape)

    def closer(_, angle):
        inner = density(angle[..., None] * points, freedom[..., None], log_c[..., None])
        found = angle * (inner * weight).sum(-1)
        return angle + (tail - found) / density(angle, freedom, log_c)

    angle = jax.lax.fori_loop(0, ROUNDS, closer, jnp.arctan(start / jnp.sqrt(freedom)))
    sign = (level > 0.5) - (level < 0.5)
    return sign * jnp.sqrt(freedom) * jnp.tan(angle)


def student_t_draw(
    parameters: Float[Array, "*shape 3"], uniforms: Float[Array, "2 *shape"]
) -> Float[Array, "*shape"]:
    """A draw each from two uniform numbers in (0, 1): Bailey's polar method (1994).

    ``sqrt(n (u^(-2/n) - 1)) cos(2 pi v)``; the same numbers give the same draws in any framework.
    """
    location, scale, freedom = (parameters[..., k] for k in range(3))
    radius = jnp.sqrt(freedom * jnp.expm1(-2 / freedom * jnp.log(uniforms[0])))
    return location + scale * radius * jnp.cos(2 * jnp.pi * uniforms[1])
