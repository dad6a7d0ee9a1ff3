import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tolerances import assert_close

from jaxrnn.distributions import (
    Distribution,
    pinball,
    student_t_draw,
    student_t_nats,
    student_t_quantile,
)

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
RNG = np.random.default_rng(0)
SHAPE = (3, 4, 2)


def test_the_quantile_of_student_t_is_scipys():
    freedom = np.array([2.0001, 2.5, 3, 4, 7.5, 30, 200, 1e4])
    for level in (0.001, 0.025, 0.1, 0.4, 0.5, 0.75, 0.9, 0.99, 0.9999):
        got = jax.jit(student_t_quantile, static_argnums=0)(level, jnp.asarray(freedom))
        np.testing.assert_allclose(got, stats.t.ppf(level, freedom), rtol=2e-9, atol=1e-9)


def test_the_quantile_in_float32_is_near():
    freedom = np.array([2.1, 5, 50], np.float32)
    got = student_t_quantile(0.9, jnp.asarray(freedom))
    assert got.dtype == np.float32
    assert_close(got, stats.t.ppf(0.9, freedom.astype(float)), "float32")


def test_nats_of_student_t_are_scipys():
    y, location = RNG.normal(size=SHAPE), RNG.normal(size=SHAPE)
    scale, freedom = RNG.uniform(0.1, 3, SHAPE), RNG.uniform(2, 40, SHAPE)
    got = student_t_nats(jnp.stack([location, scale, freedom], -1), jnp.asarray(y))
    assert_close(got, -stats.t.logpdf(y, freedom, location, scale))


def test_draws_of_student_t_have_its_distribution():
    key, count = jax.random.key(0), 20_000
    uniforms = jax.random.uniform(key, (2, count), minval=1e-12)
    parameters = jnp.tile(jnp.array([1.5, 0.7, 3.2]), (count, 1))
    drawn = np.asarray(student_t_draw(parameters, uniforms))
    assert stats.kstest(drawn, stats.t(3.2, 1.5, 0.7).cdf).pvalue > 0.01
    u, v = 0.3, 0.1
    by_hand = 1.5 + 0.7 * np.sqrt(3.2 * (u ** (-2 / 3.2) - 1)) * np.cos(2 * np.pi * v)
    one = student_t_draw(jnp.array([[1.5, 0.7, 3.2]]), jnp.array([[u], [v]]))
    assert_close(one, [by_hand])


def test_pinball_by_a_loop():
    quantiles, y = RNG.normal(size=(*SHAPE, 3)), RNG.normal(size=SHAPE)
    levels = (0.1, 0.5, 0.8)
    expected = np.zeros(SHAPE)
    for place in np.ndindex(SHAPE):
        for k, level in enumerate(levels):
            error = y[place] - quantiles[place][k]
            expected[place] += (level * error if error > 0 else (level - 1) * error) / 3
    assert_close(pinball(jnp.asarray(quantiles), jnp.asarray(y), levels), expected)


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
def test_losses_of_a_point(loss):
    kind = Distribution("point", point_loss=loss)
    error = np.array([-3.0, -0.5, 0.0, 0.4, 1.0, 2.5])
    small = np.abs(error) < 1
    expected = {
        "mse": error**2,
        "mae": np.abs(error),
        "huber": np.where(small, error**2 / 2, np.abs(error) - 0.5),
    }[loss]
    assert_close(kind.loss(jnp.zeros((6, 1)), jnp.asarray(error)), expected)
    assert (kind.num_parameters, kind.loss_name) == (1, loss)


def test_quantiles_never_cross():
    kind = Distribution("quantiles", LEVELS)
    raw = RNG.normal(0, 5, (*SHAPE, 5))
    got = np.asarray(kind.parameters(jnp.asarray(raw)))
    widths = np.log1p(np.exp(raw))
    m = raw[..., 2]
    expected = np.stack(
        [
            m - widths[..., 1] - widths[..., 0],
            m - widths[..., 1],
            m,
            m + widths[..., 3],
            m + widths[..., 3] + widths[..., 4],
        ],
        -1,
    )
    assert_close(got, expected)
    assert (np.diff(got) > 0).all()
    assert kind.loss_name == "pinball"
    np.testing.assert_array_equal(kind.point(jnp.asarray(got)), got[..., 2])


def test_parameters_of_student_t_are_in_range():
    kind = Distribution("student_t", LEVELS)
    raw = RNG.normal(0, 50, (*SHAPE, 3))
    got = np.asarray(kind.parameters(jnp.asarray(raw)))
    np.testing.assert_array_equal(got[..., 0], raw[..., 0])
    assert (got[..., 1] > 0).all()
    assert (got[..., 2] >= 2).all()
    assert_close(got[..., 1], np.logaddexp(raw[..., 1], 0) + 1e-4)
    assert_close(got[..., 2], np.logaddexp(raw[..., 2], 0) + 2)


def test_quantiles_of_student_t():
    kind = Distribution("student_t", LEVELS)
    parameters = jnp.asarray(
        np.stack(
            [RNG.normal(size=SHAPE), RNG.uniform(0.5, 2, SHAPE), RNG.uniform(2.1, 9, SHAPE)], -1
        )
    )
    location, scale, freedom = np.moveaxis(np.asarray(parameters), -1, 0)
    expected = [stats.t.ppf(level, freedom, location, scale) for level in LEVELS]
    np.testing.assert_allclose(kind.quantiles(parameters), np.stack(expected, -1), atol=1e-9)
    np.testing.assert_array_equal(kind.point(parameters), location)


@pytest.mark.parametrize("factor", [2.5, -0.5])
@pytest.mark.parametrize("kind", ["point", "quantiles", "student_t"])
def test_rescaled_is_of_the_scaled_variable(kind, factor):
    levels = (0.5,) if kind == "point" else (0.1, 0.5, 0.9)
    distribution = Distribution(kind, levels)
    raw = RNG.normal(size=(4, 2, 3, distribution.num_parameters))
    parameters = distribution.parameters(jnp.asarray(raw))
    shift, factors = jnp.full((4, 2, 3, 1), 7.0), jnp.full((4, 2, 3, 1), factor)
    got = np.asarray(distribution.quantiles(distribution.rescaled(parameters, shift, factors)))
    ours = np.asarray(distribution.quantiles(parameters))
    middle = ours[..., [ours.shape[-1] // 2]]
    expected = 7 + factor * middle + abs(factor) * (ours - middle)
    assert_close(got, expected)
    assert (np.diff(got) > 0).all()
