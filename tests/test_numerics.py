"""Where numbers end: saturated gates, a hundred thousand steps, sizes of one, narrow types."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recurrence_cases import backends
from small_runs import assert_same_bits, char_config, lines_of, steps_of, train
from tolerances import assert_close

from jaxrnn import GRU, LSTM, RNN, cli, recurrence, sample
from jaxrnn.cells import CELLS

T, B, H = 4, 2, 3
LARGE = [1e4, 1e30, 3e38]

large = pytest.mark.parametrize("size", LARGE)


def saturated(kind, backend, biases, state, dtype):
    """Last state and gradients of its sum by ``state``, gates held open or shut by their biases."""
    bias = jnp.repeat(jnp.array(biases, "float32"), H)
    rows = len(bias)
    zeros = jnp.zeros((rows, H), "float32")
    weights = recurrence.Weights(zeros, zeros, bias, jnp.zeros_like(bias))
    x = jnp.ones((T, B, H), dtype)

    @jax.jit
    def total(weights, state):
        _, last = recurrence.run(CELLS[kind], weights, x, state, backend=backend)
        return last[-1].sum(), last

    gradient, last = jax.grad(total, argnums=(0, 1), has_aux=True)(weights, state)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    return last, gradient


@backends
@large
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_lstm_keeps_its_cell_where_it_forgets_nothing_and_takes_nothing(backend, size, dtype):
    h, c = jnp.full((B, H), 0.25, "float32"), jnp.arange(B * H, dtype="float32").reshape(B, H)
    (last_h, last_c), (_, (_, dc)) = saturated(
        "lstm", backend, [-size, size, 0, size], (h, c), dtype
    )
    np.testing.assert_array_equal(last_c, c)
    assert_close(last_h, jnp.tanh(c), "float32")
    np.testing.assert_array_equal(dc, 1)


@backends
@large
def test_an_lstm_forgets_all_and_takes_all(backend, size):
    state = jnp.full((B, H), 0.5, "float32"), jnp.full((B, H), 7.0, "float32")
    (last_h, last_c), (dweights, (dh, dc)) = saturated(
        "lstm", backend, [size, -size, size, size], state, "float32"
    )
    np.testing.assert_array_equal(last_c, 1)
    assert_close(last_h, np.full((B, H), np.tanh(1)), "float32")
    for gradient in jax.tree.leaves((dweights, dh, dc)):
        np.testing.assert_array_equal(gradient, 0)


@backends
@large
def test_a_gru_keeps_its_state_or_takes_the_new_one(backend, size):
    h = jnp.arange(B * H, dtype="float32").reshape(B, H)
    (kept,), (_, (dh,)) = saturated("gru", backend, [0, size, 0], (h,), "float32")
    np.testing.assert_array_equal(kept, h)
    np.testing.assert_array_equal(dh, 1)
    (new,), (dweights, (dh,)) = saturated("gru", backend, [size, -size, size], (h,), "float32")
    np.testing.assert_array_equal(new, 1)
    for gradient in jax.tree.leaves((dweights, dh)):
        np.testing.assert_array_equal(gradient, 0)


@backends
@large
def test_a_saturated_tanh_passes_nothing_back(backend, size):
    h = jnp.full((B, H), 0.5, "float32")
    (last,), gradient = saturated("rnn_tanh", backend, [-size], (h,), "float32")
    np.testing.assert_array_equal(last, -1)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf, 0)


@backends
def test_a_sum_over_100_000_steps_and_its_gradient(backend):
    """A cell that keeps all and takes tanh(w x): c is a sum, and its derivative one too."""
    num_steps, w = 100_000, 0.3
    x = np.random.default_rng(0).normal(size=(num_steps, 1, 1))
    big = 1e4
    weights = recurrence.Weights(
        jnp.array([[0.0], [0], [w], [0]]), jnp.zeros((4, 1)), jnp.array([big, big, 0, 0]),
        jnp.zeros(4), None,
    )  # fmt: skip
    state = jnp.zeros((1, 1)), jnp.ones((1, 1))

    @jax.jit
    def total(weights, x):
        _, (_, c) = recurrence.run(CELLS["lstm"], weights, x, state, backend=backend)
        return c.sum()

    c, (dweights, dx) = jax.value_and_grad(total, argnums=(0, 1))(weights, jnp.asarray(x))
    slope = 1 - np.tanh(w * x) ** 2
    np.testing.assert_allclose(c, 1 + np.tanh(w * x).sum(), rtol=1e-10)
    np.testing.assert_allclose(dweights.weight_ih[2, 0], (x * slope).sum(), rtol=1e-10)
    np.testing.assert_allclose(dx, w * slope, rtol=1e-12)


def test_training_on_100_000_steps_in_chunks_is_training_on_them_at_once(text_file, tmp_path):
    text = tmp_path / "long.txt"
    rng = np.random.default_rng(0)
    text.write_text("".join(rng.choice(list("abc\n"), 111_200)))
    options = {"cell": "lstm", "hidden_size": 2, "batch_size": 1, "seq_len": 100_000}
    config = char_config(str(text), **options, dtype="float64", steps_per_dispatch=1, mesh="data=1")
    state, (loss, norm, _) = steps_of(config, 1)
    chunked, (loss_chunked, norm_chunked, _) = steps_of(dataclasses.replace(config, remat=True), 1)
    np.testing.assert_allclose(loss_chunked, loss, rtol=1e-12)
    np.testing.assert_allclose(norm_chunked, norm, rtol=1e-10)
    for a, b in zip(jax.tree.leaves(chunked.moments), jax.tree.leaves(state.moments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru", "mingru", "minlstm"])
def test_one_unit_one_symbol_and_one_row(cell, tmp_path, capsys):
    """Nothing is to be learnt from a text of one symbol: it costs nothing from the first step."""
    text = tmp_path / "ones.txt"
    text.write_text("a" * 200)
    sizes = {"cell": cell, "hidden_size": 1, "batch_size": 1, "eval_every": 4, "steps": 8}
    run, outcome = train(char_config(str(text), **sizes, run=str(tmp_path / "run")))
    assert outcome.reason == "done"
    lines = lines_of(run)
    assert [line["step"] for line in lines] == list(range(1, 9))
    validations = [line["val_nats"] for line in lines if "val_nats" in line]
    assert len(validations) == 2
    found = [*validations, *(line[name] for line in lines for name in ("loss", "grad_norm"))]
    np.testing.assert_allclose(found, 0.0, atol=1e-7)  # -0.0, or another rounding of both logits
    argv = [str(run.path), "--length", "5", "--prime", "a"]
    assert cli.exit_code(lambda: sample.run_command(argv)) == 0
    assert "aaaaa" in capsys.readouterr().out


@pytest.mark.parametrize("layer", [RNN, LSTM, GRU])
def test_sums_beyond_float16_are_of_float32(layer):
    """Products of 16 bits whose sum is above 65,504: gates saturate, nothing becomes NaN."""
    narrow, wide = (layer(4, H, dtype=dtype, rngs=nnx.Rngs(0)) for dtype in ("float16", "float32"))
    params = jax.tree.map(lambda p: jnp.where(p > 0, 100.0, -100.0), nnx.state(narrow))
    x = jnp.full((T, B, 4), 1e3, "float32").at[..., :1].set(2e3)

    def run(module):
        graph, _ = nnx.split(module)

        def loss(params):
            y, _ = nnx.merge(graph, params)(x)
            return y.astype("float32").sum(), y

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (gradient, y), (_, expected) = run(narrow), run(wide)
    assert y.dtype == jnp.float16
    assert_close(y, expected, "bfloat16")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


@backends
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_bfloat16_has_the_range_of_float32(backend, kind):
    """Gradients of a loss as large as 1e30 are those of 1, times 1e30."""
    rng = np.random.default_rng(0)
    rows = CELLS[kind].num_gates * H
    draws = (rng.normal(size=shape) / 2 for shape in ((rows, H), (rows, H), rows, rows))
    weights = recurrence.Weights(*(jnp.asarray(draw, "float32") for draw in draws))
    x = jnp.asarray(rng.normal(size=(T, B, H)), "bfloat16")
    state = tuple(jnp.zeros((B, H), "float32") for _ in range(CELLS[kind].num_states))

    @jax.jit
    def gradient(scale):
        def loss(weights):
            y, _ = recurrence.run(CELLS[kind], weights, x, state, backend=backend)
            return (y.astype("float32") * scale).sum()

        return jax.grad(loss)(weights)

    of_one, of_many = gradient(jnp.float32(1)), gradient(jnp.float32(2.0**100))
    scaled = jax.tree.map(lambda g: g * np.float32(2.0**100), of_one)
    assert_same_bits(jax.tree.leaves(of_many), jax.tree.leaves(scaled))
