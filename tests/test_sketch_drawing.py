"""Points drawn from known distributions, and drawings that go on, end, and repeat."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special
from tolerances import assert_close

from jaxrnn.models import split
from jaxrnn.models.sketch_drawing import CHUNK, Draws, Pen, draws_at, next_point, slerp
from jaxrnn.models.sketch_rnn import SketchRNN

M, N = 3, 40_000
SIZES: dict[str, Any] = {
    **{"hidden_size": 8, "encoder_size": 4, "latent_size": 3, "num_mixtures": 2},
}


def pen_of(seed=0, **options) -> Pen:
    model = SketchRNN(**(SIZES | options), rngs=nnx.Rngs(seed))
    model.eval()
    skeleton, params = split(model)
    # Far from the end, so that drawings are of some length, and moved by z.
    params["output.bias"] = params["output.bias"].at[2].set(-2.0)
    if "initial.weight" in params:
        params["initial.weight"] = params["initial.weight"] * 1000
    return Pen((skeleton, params))


def points_from(temperature, convention):
    rng = np.random.default_rng(0)
    outputs = jnp.asarray(rng.normal(size=3 + 6 * M), jnp.float32)
    draws = draws_at(jax.random.key(1), jnp.int32(0), N)
    many = jnp.broadcast_to(outputs, (N, len(outputs)))
    return np.asarray(outputs, np.float64), np.asarray(
        next_point(many, draws, temperature, convention), np.float64
    )


@pytest.mark.parametrize(
    ("temperature", "convention", "softness", "variance"),
    [
        (1.0, "paper", 1.0, 1.0),
        (0.36, "paper", 0.68, 0.36),
        (1.0, "magenta", 1.0, 1.0),
        (0.5, "magenta", 0.5, 0.25),
    ],
)
def test_points_have_the_distribution_of_their_temperature(
    temperature, convention, softness, variance
):
    outputs, points = points_from(temperature, convention)
    np.testing.assert_allclose(
        points[:, 2:].mean(0), special.softmax(outputs[:3] / softness), atol=0.01
    )
    weight, mu_x, mu_y, log_x, log_y, r = outputs[3:].reshape(6, M)
    shares = special.softmax(weight / softness)
    mean = np.array([shares @ mu_x, shares @ mu_y])
    np.testing.assert_allclose(points[:, :2].mean(0), mean, atol=0.05)
    sigma_x, sigma_y, rho = np.exp(log_x), np.exp(log_y), np.tanh(r)
    across = shares @ (variance * rho * sigma_x * sigma_y + mu_x * mu_y) - mean[0] * mean[1]
    expected = [
        [shares @ (variance * sigma_x**2 + mu_x**2) - mean[0] ** 2, across],
        [across, shares @ (variance * sigma_y**2 + mu_y**2) - mean[1] ** 2],
    ]
    np.testing.assert_allclose(np.cov(points[:, :2].T), expected, atol=0.12)


def test_without_temperature_the_likeliest_is_taken():
    outputs, points = points_from(0.0, "magenta")
    weight, mu_x, mu_y, *_ = outputs[3:].reshape(6, M)
    best = weight.argmax()
    assert_close(points[:, :2], np.broadcast_to([mu_x[best], mu_y[best]], (N, 2)), "float32")
    assert (points[:, 2:].argmax(1) == outputs[:3].argmax()).all()


def test_a_point_is_a_plain_function_of_its_random_numbers():
    outputs = jnp.asarray(np.random.default_rng(2).normal(size=(1, 3 + 6 * M)), jnp.float32)
    draws = Draws(jnp.array([[0.3, 0.8]]), jnp.array([[0.5, -1.2]]))
    row = np.asarray(outputs[0], np.float64)
    pen = np.searchsorted(np.cumsum(special.softmax(row[:3])), 0.3)
    weight, mu_x, mu_y, log_x, log_y, r = row[3:].reshape(6, M)
    k = np.searchsorted(np.cumsum(special.softmax(weight)), 0.8)
    rho = np.tanh(r[k])
    expected = [
        mu_x[k] + np.exp(log_x[k]) * 0.5,
        mu_y[k] + np.exp(log_y[k]) * (rho * 0.5 - np.sqrt(1 - rho**2) * 1.2),
        *np.eye(3)[pen],
    ]
    assert_close(next_point(outputs, draws)[0], expected, "float32")


def test_drawings_end_and_the_same_key_draws_the_same():
    pen = pen_of()
    pieces = list(pen.draw(jax.random.key(0), count=4, length=40))
    assert [piece.shape[1] for piece in pieces[:-1]] == [CHUNK] * (len(pieces) - 1)
    points = np.concatenate(pieces, axis=1)
    assert points.shape[1] <= 40
    for row in points:
        ended = row[:, 4] > 0
        if ended.any():
            np.testing.assert_array_equal(row[ended.argmax() :], [[0, 0, 0, 0, 1]] * sum(ended))
    drawings = pen.drawings(jax.random.key(0), count=4, length=40)
    for row, drawing in zip(points, drawings, strict=True):
        assert_close(drawing, row[: len(drawing)][:, [0, 1, 3]], "float32")
        assert len(drawing) == (row[:, 4] == 0).sum()
    other = pen.drawings(jax.random.key(1), count=4, length=40)
    assert [d.tolist() for d in other] != [d.tolist() for d in drawings]
    longer = pen.drawings(jax.random.key(0), count=4, length=60)
    for one, more in zip(drawings, longer, strict=True):
        np.testing.assert_array_equal(one, more[: len(one)])


def test_a_drawing_has_the_least_number_of_points_and_ends_after_it():
    pen = pen_of(conditional=False)
    pen.params["output.bias"] = pen.params["output.bias"].at[2].set(50.0)
    for least in (0, 1, 3, CHUNK + 2):
        found = pen.drawings(jax.random.key(0), count=3, length=40, least=least)
        assert [len(drawing) for drawing in found] == [least] * 3
        assert all(np.isfinite(drawing).all() for drawing in found)


def test_an_ending_is_what_the_whole_drawing_goes_on_with():
    """The points of a drawing, drawn again by hand from a prefix with the same numbers."""
    pen = pen_of(conditional=False)
    prefix = np.array([[0.5, 1, 0], [-1, 0.3, 1], [0.2, 0.2, 0]], np.float32)
    found = pen.drawings(jax.random.key(3), count=2, length=5, prefix=prefix)
    model = pen.skeleton.merge(pen.params)
    start = [[0, 0, 1, 0, 0]]
    begun = np.concatenate([start, [[*p[:2], 1 - p[2], p[2], 0] for p in prefix]])
    state = model.initial_state(None, 2)
    points = jnp.asarray(np.stack([begun] * 2), jnp.float32)
    outputs, state = model.decode(points, None, state)
    for k in range(5):
        draws = draws_at(jax.random.key(3), jnp.int32(k), 2)
        point = next_point(outputs[:, -1], draws)
        for row, drawing in zip(point, found, strict=True):
            if k < len(drawing):
                assert_close(drawing[k], row[jnp.array([0, 1, 3])], "float32")
        outputs, state = model.decode(point[:, None], None, state)


def test_a_latent_vector_and_a_class_decide_what_is_drawn():
    pen = pen_of(num_classes=2)
    z = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    options: dict[str, Any] = {"count": 2, "length": 8, "classes": np.array([0, 1])}
    same = [pen.drawings(jax.random.key(0), z=z, **options) for _ in range(2)]
    np.testing.assert_array_equal(same[0][0], same[1][0])
    moved = pen.drawings(jax.random.key(0), z=-z, **options)
    assert moved[0].tolist() != same[0][0].tolist()
    options["classes"] = np.array([1, 1])
    other = pen.drawings(jax.random.key(0), z=z, **options)
    np.testing.assert_array_equal(other[1], same[0][1])
    assert other[0].tolist() != same[0][0].tolist()


def test_drawings_of_different_lengths_are_encoded_each_by_itself():
    pen = pen_of()
    rng = np.random.default_rng(1)
    drawings = [rng.normal(size=(n, 3)).astype(np.float32) for n in (2, 9)]
    for drawing in drawings:
        drawing[:, 2] = [0] * (len(drawing) - 1) + [1]
    mu, presig = pen.encode(drawings)
    for k, drawing in enumerate(drawings):
        alone = pen.encode([drawing])
        assert_close(alone[0][0], mu[k], "float32")
        assert_close(alone[1][0], presig[k], "float32")
    with pytest.raises(ValueError, match="no encoder"):
        pen_of(conditional=False).encode(drawings)


def test_between_two_latent_vectors_lies_the_arc():
    first, second = np.array([2.0, 0.0]), np.array([0.0, 2.0])
    assert_close(slerp(first, second, 0.0), first)
    assert_close(slerp(first, second, 1.0), second)
    assert_close(slerp(first, second, 1 / 3), [np.sqrt(3), 1])
    assert_close(slerp(first, 3 * first, 0.5), [4, 0])
