"""Densities of points, against SciPy's and against a plain transcription of the formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats
from tolerances import assert_close

from jaxrnn.mixture import Mixture, kl_nats, offset_nats, pen_nats, split_outputs

N, M = 4, 3


def outputs_of(seed=0, dtype="float64"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(N, 3 + 6 * M)), dtype)


def densities(outputs, offsets):
    """Of each offset by SciPy."""
    found = []
    for row, offset in zip(np.asarray(outputs), np.asarray(offsets), strict=True):
        weight, mu_x, mu_y, log_x, log_y, r = row[3:].reshape(6, M)
        sigma_x, sigma_y, rho = np.exp(log_x), np.exp(log_y), np.tanh(r)
        total = 0.0
        for k, share in enumerate(special.softmax(weight)):
            across = rho[k] * sigma_x[k] * sigma_y[k]
            covariance: Any = [[sigma_x[k] ** 2, across], [across, sigma_y[k] ** 2]]
            normal = stats.multivariate_normal([mu_x[k], mu_y[k]], covariance)
            total += share * normal.pdf(offset)
        found.append(total)
    return np.array(found)


def test_outputs_are_split_in_magentas_order():
    mixture = split_outputs(jnp.arange(21.0))
    assert [list(map(int, part)) for part in mixture] == [
        [0, 1, 2],
        *([first, first + 1, first + 2] for first in range(3, 21, 3)),
    ]
    assert Mixture._fields == (
        *("pen", "weight", "mu_x", "mu_y", "log_sigma_x", "log_sigma_y", "atanh_rho"),
    )


def test_offsets_cost_the_logarithm_of_their_density():
    outputs = outputs_of()
    offsets = jnp.asarray(np.random.default_rng(1).normal(size=(N, 2)))
    expected = densities(outputs, offsets)
    assert_close(offset_nats(split_outputs(outputs), offsets), -np.log(expected))
    magenta = offset_nats(split_outputs(outputs), offsets, magenta=True)
    assert_close(magenta, -np.log(expected + 1e-6))


def test_far_from_every_mean_magentas_floor_holds_and_ours_goes_on():
    outputs = jnp.zeros((1, 3 + 6 * M), jnp.float64)
    offsets = jnp.array([[30.0, 40.0]], jnp.float64)
    far = offset_nats(split_outputs(outputs), offsets)
    assert_close(far, [2500 / 2 + np.log(2 * np.pi)])
    assert_close(offset_nats(split_outputs(outputs), offsets, magenta=True), [-np.log(1e-6)])


@pytest.mark.parametrize("size", [1e2, 1e10, 3e38])
@pytest.mark.parametrize("field", range(1, 7))
@pytest.mark.parametrize("sign", [-1, 1])
def test_cost_and_gradient_stay_finite(field, size, sign):
    outputs = outputs_of(dtype="float32")
    start = 3 + M * (field - 1)
    outputs = outputs.at[:, start].set(sign * size)
    outputs = outputs.at[0, start : start + M].set(sign * size)
    offsets = jnp.array([[0, 0], [1000, -1000], [1e-30, 5], [-0.01, 1000]], jnp.float32)

    check_finite(outputs, offsets)


def check_finite(outputs, offsets):
    def total(outputs):
        return offset_nats(split_outputs(outputs), offsets).sum()

    value, gradient = jax.value_and_grad(total)(outputs)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_cost_and_gradient_stay_finite_where_all_is_out_of_range():
    signs = np.array([[1, -1][k % 2] for k in range(3 + 6 * M)])
    outputs = jnp.asarray(3e38 * np.stack([signs, -signs, 0 * signs + 1, 0 * signs - 1]), "float32")
    check_finite(outputs, jnp.array([[0, 0], [1000, -1000], [1e-30, 5], [-3e38, 3e38]], "float32"))


def test_a_correlation_near_one_keeps_its_density():
    outputs = jnp.zeros((1, 9), jnp.float64).at[0, 8].set(6.0)
    offsets = jnp.array([[0.5, 0.501]], jnp.float64)
    assert_close(
        offset_nats(split_outputs(outputs), offsets),
        -np.log(densities_of_one(np.tanh(6.0), 0.5, 0.501)),
        "float32",
    )


def densities_of_one(rho, x, y):
    rest = 1 - rho**2
    return np.exp(-(x * x + y * y - 2 * rho * x * y) / (2 * rest)) / (2 * np.pi * np.sqrt(rest))


def test_the_pen_costs_its_cross_entropy():
    outputs = outputs_of()
    pen = jnp.asarray(np.eye(3)[[0, 2, 1, 0]])
    log_p = special.log_softmax(np.asarray(outputs[:, :3]), axis=-1)
    assert_close(pen_nats(split_outputs(outputs), pen), -log_p[np.arange(N), [0, 2, 1, 0]])


def test_the_latent_cost_is_the_divergence_from_a_standard_normal():
    rng = np.random.default_rng(3)
    mu, presig = rng.normal(size=(2, N, 5))
    draws = rng.normal(size=(400_000, 1, 1)) * np.exp(presig / 2) + mu
    ratio = stats.norm.logpdf(draws, mu, np.exp(presig / 2)) - stats.norm.logpdf(draws)
    found = kl_nats(jnp.asarray(mu), jnp.asarray(presig))
    np.testing.assert_allclose(found, ratio.mean((0, 2)), atol=0.01)
    assert_close(kl_nats(jnp.zeros((2, 5)), jnp.zeros((2, 5))), [0, 0])
