"""LayerNormLSTM and HyperLSTM beside a loop over their equations, and their dropout."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from normed_cases import (
    KEEP,
    LENGTHS,
    SIZES,
    B,
    H,
    I,
    T,
    as_numpy,
    assert_same,
    build,
    drawn,
    example,
    layers,
    loop,
)
from tolerances import assert_close

from jaxrnn.dropout import keep_mask
from jaxrnn.models import split


@layers
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_values_are_those_of_a_loop_over_the_equations(name, lengths):
    layer, (x, state) = build(name), example(name)
    params = as_numpy(split(layer)[1])
    options: dict[str, Any] = {} if lengths is None else {"lengths": lengths}
    expected = loop(np, name, params, *as_numpy((x, state)), lengths=lengths)
    assert_same(layer(x, state, **options), expected)
    assert_same(jax.jit(lambda o: layer(x, state, **o))(options), expected)  # lengths traced
    zeros = tuple(np.zeros_like(s) for s in state)
    expected = loop(np, name, params, as_numpy(x), zeros, lengths)
    assert_same(layer(x, **options), expected)
    assert_same(layer(x, layer.initial_state(B), **options), expected)


@layers
def test_gradients_are_those_of_a_loop_over_the_equations(name):
    skeleton, params = split(build(name))
    x, state = example(name)
    x, lengths = x[:2], jnp.array([2, 2, 1])
    rng = np.random.default_rng(2)
    dy, *dstate = (jnp.asarray(rng.normal(size=s)) for s in ((2, B, H), *(s.shape for s in state)))

    def total(y, last):
        return (y * dy).sum() + sum((s * d).sum() for s, d in zip(last, dstate, strict=True))

    def ours(params, x, state):
        return total(*skeleton.merge(params)(x, state, lengths=lengths))

    def theirs(params, x, state):
        return total(*loop(jnp, name, params, x, state, lengths))

    got, expected = (
        jax.jit(jax.grad(f, argnums=(0, 1, 2)))(params, x, state) for f in (ours, theirs)
    )
    assert set(got[0]) == set(params)
    for key in params:
        assert np.abs(expected[0][key]).max() > 1e-3, key
        assert_close(got[0][key], expected[0][key], what=key)
    assert_same(got[1:], expected[1:])


@layers
def test_gradients_are_finite_differences(name):
    skeleton, params = split(build(name))
    x, state = example(name)

    def loss(params, x, state):
        y, last = skeleton.merge(params)(x, state)
        return jnp.sin(y).sum() + sum(jnp.cos(s).sum() for s in last)

    inputs = (params, x, state)
    rng = np.random.default_rng(3)
    along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), inputs)
    moved = jax.jit(lambda step: loss(*jax.tree.map(lambda a, d: a + step * d, inputs, along)))
    numeric = (8 * (moved(1e-3) - moved(-1e-3)) - (moved(2e-3) - moved(-2e-3))) / 12e-3
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)
    analytic = sum(
        (g * d).sum() for g, d in zip(*map(jax.tree.leaves, (gradient, along)), strict=True)
    )
    np.testing.assert_allclose(analytic, numeric, rtol=1e-6)


@layers
def test_what_padding_holds_has_no_influence(name):
    skeleton, params = split(build(name))
    x, state = example(name)
    padded = np.arange(T)[:, None] >= LENGTHS

    def loss(params, x, state):
        y, last = skeleton.merge(params)(x, state, lengths=LENGTHS)
        return (y**2).sum() + sum((s**3).sum() for s in last), (y, last)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    found = [
        gradient(params, jnp.where(padded[..., None], value, x), state) for value in (0.0, np.nan)
    ]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a).all()
    (_, dx, _), (y, _) = found[1]
    for values in (dx, y):
        assert not values[padded].any()
        assert values[~padded].all()


@layers
def test_a_state_is_that_of_the_sequence_cut_at_its_length(name):
    layer, (x, state) = build(name), example(name)
    y, last = layer(x, state, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        one = slice(b, b + 1)
        alone = layer(x[:length, one], tuple(s[:, one] for s in state))
        assert_same((y[:length, one], [s[:, one] for s in last]), alone)


@layers
def test_a_whole_sequence_is_its_chunks(name):
    layer, (x, state) = build(name), example(name)
    whole = layer(x, state)
    outputs = []
    for first, end in ((0, 1), (1, 3), (3, 5)):
        y, state = layer(x[first:end], state)
        outputs.append(y)
    assert_same((jnp.concatenate(outputs), state), whole)


@layers
def test_batch_first_is_the_transpose(name):
    x, state = example(name)
    y, last = build(name)(x, state, lengths=LENGTHS)
    other, other_last = build(name, batch_first=True)(x.swapaxes(0, 1), state, lengths=LENGTHS)
    assert_same((other.swapaxes(0, 1), other_last), (y, last))


@layers
def test_an_empty_batch_has_empty_outputs(name):
    y, last = build(name)(jnp.zeros((T, 0, I)))
    assert y.shape == (T, 0, H)
    assert [s.shape for s in last] == [(1, 0, n) for n in SIZES[name].values()]


# Recurrent dropout.


@layers
def test_dropout_scales_the_candidate_with_a_mask_for_every_step(name):
    layer, (x, state) = build(name, recurrent_dropout=1 - KEEP), example(name)
    params = as_numpy(split(layer)[1])
    scale = np.asarray(keep_mask(nnx.Rngs(dropout=7).dropout(), KEEP, (T, B, H))) / KEEP
    expected = loop(np, name, params, *as_numpy((x, state)), lengths=LENGTHS, scale=scale)
    assert_same(layer(x, state, lengths=LENGTHS, rngs=nnx.Rngs(dropout=7)), expected)
    turned = build(name, recurrent_dropout=1 - KEEP, batch_first=True)
    y, last = turned(x.swapaxes(0, 1), state, lengths=LENGTHS, rngs=nnx.Rngs(dropout=7))
    assert_same((y.swapaxes(0, 1), last), expected)


@layers
def test_dropout_preserves_the_mean_and_is_of_the_main_candidate_alone(name):
    layer, plain = build(name, recurrent_dropout=1 - KEEP), build(name)
    x = jnp.broadcast_to(example(name)[0][:1, :1], (1, 4000, I))
    _, (_, c, *hyper) = layer(x, rngs=nnx.Rngs(dropout=1))
    _, (_, expected, *hyper_expected) = plain(x)
    ratio = np.asarray(c / expected)  # c starts as zeros: it is i * g
    kept = ratio > 0.5
    assert_close(ratio, kept / KEEP)
    deviation = np.sqrt(KEEP * (1 - KEEP) / kept.size)
    assert abs(kept.mean() - KEEP) < 5 * deviation
    for a, b in zip(hyper, hyper_expected, strict=True):
        assert_close(a, b)


@layers
def test_dropout_is_drawn_from_its_stream_and_off_in_evaluation(name):
    layer = drawn(name, recurrent_dropout=1 - KEEP)
    x, _ = example(name, "float32")
    first, second = layer(x)[0], layer(x)[0]
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(drawn(name, recurrent_dropout=1 - KEEP)(x)[0], first)
    one, again = (layer(x, rngs=nnx.Rngs(dropout=3))[0] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, layer(x, rngs=nnx.Rngs(dropout=4))[0])
    stream = nnx.Rngs(dropout=3)["dropout"]
    assert isinstance(stream, nnx.RngStream)
    np.testing.assert_array_equal(layer(x, rngs=stream)[0], one)
    plain = drawn(name)(x)[0]
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0], plain)
    np.testing.assert_array_equal(layer(x, rngs=nnx.Rngs(dropout=3))[0], plain)
    layer.train()
    np.testing.assert_array_equal(layer(x, rngs=nnx.Rngs(dropout=3))[0], one)


# Construction.
