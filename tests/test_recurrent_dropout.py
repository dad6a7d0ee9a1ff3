"""Masks on an LSTM's candidate: the recurrence with them, and the layer that draws them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recurrence_cases import (
    FAST,
    MASKS,
    B,
    H,
    T,
    assert_same,
    directions,
    everything,
    make,
)
from tolerances import assert_close

import jaxrnn
from jaxrnn.recurrence import run

SCALE = np.random.default_rng(1).integers(0, 2, (T, B, H)) / 0.6
KINDS = ["lstm", "lstm_proj"]


def with_scale(case, mask, reverse, backend):
    def runner(*arguments):
        arrays = {"scale": jnp.asarray(SCALE), **MASKS[mask]}
        return run(case.cell, *arguments, reverse=reverse, backend=backend, **arrays)

    return everything(case, runner)


def test_the_reference_scales_the_candidate_alone():
    case = make("lstm")
    weights, x, (h, c) = case.arguments
    assert weights.bias_ih is not None
    assert weights.bias_hh is not None
    y, last = run(case.cell, weights, x, (h, c), scale=jnp.asarray(SCALE), backend="reference")
    h, c = np.asarray(h), np.asarray(c)
    for t in range(T):
        gates = x[t] @ weights.weight_ih.T + weights.bias_ih[None] + weights.bias_hh[None]
        i, f, g, o = np.split(np.asarray(gates + h @ weights.weight_hh.T), 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g) * SCALE[t]
        h = o * np.tanh(c)
        assert_close(y[t], h)
    assert_close(last[1], c)


@directions
@pytest.mark.parametrize("mask", ["none", "both"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", FAST)
def test_every_backend_scales_as_the_reference(backend, kind, mask, reverse):
    case = make(kind)
    expected = with_scale(case, mask, reverse, "reference")
    assert_same(with_scale(case, mask, reverse, backend), expected)


def test_a_scale_of_ones_changes_nothing():
    case = make("lstm")
    plain = everything(case, lambda *arguments: run(case.cell, *arguments))
    ones = jnp.ones((T, B, H))
    scaled = everything(case, lambda *arguments: run(case.cell, *arguments, scale=ones))
    assert_same(scaled, plain)


@pytest.mark.parametrize("backend", ["scan", "reference"])
def test_no_gradient_goes_to_a_scale(backend):
    case = make("lstm")

    def total(scale):
        return run(case.cell, *case.arguments, scale=scale, backend=backend)[0].sum()

    assert not np.asarray(jax.jit(jax.grad(total))(jnp.asarray(SCALE))).any()


def test_a_scale_of_another_cell_is_refused():
    case = make("gru")
    with pytest.raises(ValueError, match="scale is given for the cell 'gru', expected 'lstm'"):
        run(case.cell, *case.arguments, scale=jnp.ones((T, B, H)))


def lstm_of(rate, **options):
    return jaxrnn.LSTM(
        4, 6, recurrent_dropout=rate, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options
    )


def test_a_layer_drops_candidates_and_scales_what_it_keeps():
    lstm, plain = lstm_of(0.75), lstm_of(0.0)
    x = jnp.broadcast_to(jax.random.normal(jax.random.key(1), (1, 1, 4)), (1, 4000, 4))
    _, (_, c) = lstm(x)
    _, (_, expected) = plain(x[:, :1])
    ratio = np.asarray(c / expected)[0]
    assert set(np.unique(ratio.round(4))) == {0.0, 4.0}
    np.testing.assert_allclose((ratio > 0).mean(0), 0.25, atol=0.03)
    lstm.eval()
    np.testing.assert_array_equal(lstm(x)[1][1], plain(x)[1][1])


def test_every_layer_and_direction_has_masks_of_its_own():
    lstm = lstm_of(0.5, num_layers=2, bidirectional=True)
    for suffix in ("l0", "l0_reverse", "l1", "l1_reverse"):  # the same candidates everywhere
        getattr(lstm, f"weight_ih_{suffix}")[...] *= 0
        for name in ("bias_ih", "bias_hh"):
            getattr(lstm, f"{name}_{suffix}")[...] = jnp.ones(24)
    _, (_, c) = lstm(jnp.ones((1, 50, 4)))
    kept = np.asarray(c) > 0
    for k in range(4):
        assert 0.35 < kept[k].mean() < 0.65
        for other in range(k):
            assert 0.35 < (kept[k] == kept[other]).mean() < 0.65


def test_masks_come_from_the_rngs_of_the_call_and_differ_between_steps():
    lstm, x = lstm_of(0.5), jnp.ones((6, 3, 4))
    first, again, other = (lstm(x, rngs=nnx.Rngs(dropout=seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.asarray(first - other)).max() > 0.01
    _, (_, c) = lstm_of(1.0)(x)
    assert not np.asarray(c).any()


@pytest.mark.parametrize("rate", [1.5, -0.1])
def test_what_is_no_probability_is_refused(rate):
    with pytest.raises(ValueError, match=r"recurrent_dropout is .*, expected .*\[0, 1\]"):
        lstm_of(rate)
