import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close

from jaxrnn.models import split
from jaxrnn.models.char_lm import CHUNK, CharLM, generate, next_symbol
from jaxrnn.models.forecaster import Forecaster, forecast

V, B, T, H = 7, 3, 5, 6


def char_lm(**options) -> CharLM:
    options = {"hidden_size": H, "param_dtype": jnp.float64, "rngs": nnx.Rngs(1)} | options
    return CharLM(V, **options)


IDS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("embedding_size", [0, 4])
def test_names_and_shapes_are_torchs(cell, embedding_size):
    _, params = split(char_lm(cell=cell, num_layers=2, dropout=0.5, embedding_size=embedding_size))
    layer = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}[cell]
    twin = torch.nn.ModuleDict(
        {"rnn": layer(embedding_size or V, H, 2), "decoder": torch.nn.Linear(H, V)}
    )
    if embedding_size:
        twin["embedding"] = torch.nn.Embedding(V, embedding_size)
    expected = {name: tuple(value.shape) for name, value in twin.state_dict().items()}
    assert {name: value.shape for name, value in params.items()} == expected


def test_split_and_merge_keep_every_bit():
    model = char_lm(num_layers=2, embedding_size=4)
    skeleton, params = split(model)
    np.testing.assert_array_equal(params["decoder.weight"], model.decoder.weight[...])
    weight = getattr(model.rnn, "weight_hh_l1")[...]  # noqa: B009 - made by setattr
    np.testing.assert_array_equal(params["rnn.weight_hh_l1"], weight)
    merged = skeleton.merge(params)
    _, again = split(merged)
    assert list(again) == list(params)
    for name, value in params.items():
        assert again[name].dtype == value.dtype
        np.testing.assert_array_equal(again[name], value)
    np.testing.assert_array_equal(merged(IDS)[0], model(IDS)[0])


def test_a_merged_model_computes_with_what_it_is_given():
    model = char_lm(num_layers=2)
    skeleton, params = split(model)
    zeros = {name: jnp.zeros_like(value) for name, value in params.items()}
    zeros["decoder.bias"] = jnp.arange(V) * 1.0
    logits, _ = jax.jit(lambda p: skeleton.merge(p)(IDS))(zeros)
    np.testing.assert_array_equal(logits, np.broadcast_to(np.arange(V), (B, T, V)))
    assert model(IDS)[0][0, 0, 0] != 0  # the model itself has kept its own


def test_a_skeleton_keeps_the_mode_it_was_split_in():
    model = char_lm(dropout=1.0)
    training, params = split(model)
    model.eval()
    evaluation, _ = split(model)
    bias = np.broadcast_to(params["decoder.bias"], (B, T, V))
    dropped, _ = training.merge(params)(IDS, rngs=nnx.Rngs(dropout=0))
    np.testing.assert_array_equal(dropped, bias)
    assert not np.array_equal(evaluation.merge(params)(IDS)[0], bias)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("embedding_size", [0, 4])
def test_logits_by_a_loop_in_numpy(embedding_size):
    model = char_lm(num_layers=2, embedding_size=embedding_size)
    p = {name: np.asarray(value) for name, value in split(model)[1].items()}
    table = p["embedding.weight"] if embedding_size else np.eye(V)
    h, c = np.zeros((2, 2, B, H))
    expected = np.empty((B, T, V))
    for t in range(T):
        x = table[np.asarray(IDS)[:, t]]
        for k in range(2):
            gates = x @ p[f"rnn.weight_ih_l{k}"].T + p[f"rnn.bias_ih_l{k}"]
            gates += h[k] @ p[f"rnn.weight_hh_l{k}"].T + p[f"rnn.bias_hh_l{k}"]
            i, f, g, o = np.split(gates, 4, axis=1)
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(g)
            x = h[k] = sigmoid(o) * np.tanh(c[k])
        expected[:, t] = x @ p["decoder.weight"].T + p["decoder.bias"]
    logits, (h_n, c_n) = model(IDS)
    assert_close(logits, expected)
    assert_close(h_n, h)
    assert_close(c_n, c)


def test_predictions_of_the_forecaster_by_a_loop_in_numpy():
    model = Forecaster(2, 3, hidden_size=H, param_dtype=jnp.float64, rngs=nnx.Rngs(1))
    p = {name: np.asarray(value) for name, value in split(model)[1].items()}
    x = np.random.default_rng(0).normal(size=(B, T, 2))
    h, expected = np.zeros((B, H)), np.empty((B, T, 3))
    for t in range(T):
        gates = x[:, t] @ p["rnn.weight_ih_l0"].T + p["rnn.bias_ih_l0"]
        h = np.tanh(gates + h @ p["rnn.weight_hh_l0"].T + p["rnn.bias_hh_l0"])
        expected[:, t] = h @ p["decoder.weight"].T + p["decoder.bias"]
    prediction, h_n = model(jnp.asarray(x))
    assert_close(prediction, expected)
    assert_close(h_n, h[None])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_sequence_is_its_parts_with_the_state_carried(cell):
    model = char_lm(cell=cell, num_layers=2)
    whole, last = model(IDS)
    first, state = model(IDS[:, :2])
    second, state = model(IDS[:, 2:], state)
    assert_close(np.concatenate([first, second], axis=1), whole)
    jax.tree.map(assert_close, state, last)


def test_dropout_drops_units_of_every_step_and_scales_the_rest():
    options = {"hidden_size": 40, "rngs": nnx.Rngs(1)}
    model = CharLM(40, dropout=0.25, cell="rnn", **options)
    model.decoder.weight[...] = jnp.eye(40, dtype=jnp.float32)
    assert model.decoder.bias is not None
    model.decoder.bias[...] = jnp.zeros(40, jnp.float32)
    ids = jnp.arange(5 * 40).reshape(5, 40) % 40
    model.eval()
    plain, _ = model(ids)
    model.train()
    masks = [
        np.asarray(model(ids, rngs=nnx.Rngs(dropout=seed))[0] / plain).round(4)
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(masks[0], masks[1])
    for mask in masks[1:]:
        assert set(np.unique(mask)) == {0.0, np.float32(1.3333)}
        assert abs((mask == 0).mean() - 0.25) < 0.025  # 8000 draws: 5 standard deviations
    first = masks[0]
    for other in (masks[2], np.roll(first, 1, axis=0), np.roll(first, 1, axis=1)):
        assert abs(((first == 0) & (other == 0)).mean() - 0.25**2) < 0.015


def test_bfloat16_computes_in_it_but_keeps_parameters_states_and_logits():
    model = CharLM(V, hidden_size=H, rngs=nnx.Rngs(1), dtype=jnp.bfloat16)
    logits, (h, c) = model(IDS)
    assert {p.dtype for p in split(model)[1].values()} == {jnp.dtype("float32")}
    assert {a.dtype for a in (logits, h, c)} == {jnp.dtype("float32")}
    wide = CharLM(V, hidden_size=H, rngs=nnx.Rngs(1))
    assert_close(logits, wide(IDS)[0], "bfloat16")
    assert not np.allclose(logits, wide(IDS)[0], rtol=0, atol=1e-7)


# --- the choice of the next symbol ---


def slow_next_symbol(logits, uniform, temperature, top_k, top_p):
    """The definition, for one row, in Python's floats."""
    order = sorted(range(len(logits)), key=lambda k: -logits[k])
    if temperature == 0:
        return order[0]
    kept = order[:top_k] if top_k else order
    weights = {k: np.exp((logits[k] - logits[order[0]]) / temperature) for k in kept}
    total = sum(weights.values())
    nucleus, reached = {}, 0.0
    for k in kept:
        if reached >= top_p:
            break
        nucleus[k] = weights[k] / total
        reached += weights[k] / total
    threshold, below = uniform * sum(nucleus.values()), 0.0
    for k in sorted(nucleus):
        below += nucleus[k]
        if below > threshold:
            return k
    return max(nucleus)


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 3, V, V + 5])
@pytest.mark.parametrize("top_p", [1.0, 0.8, 0.35, 1e-9])
def test_next_symbol_is_the_slow_definition(temperature, top_k, top_p):
    rng = np.random.default_rng(3)
    logits, uniform = rng.normal(scale=2, size=(400, V)), rng.uniform(size=400)
    got = next_symbol(jnp.asarray(logits), jnp.asarray(uniform), temperature, top_k, top_p)
    expected = [
        slow_next_symbol(row, u, temperature, top_k, top_p)
        for row, u in zip(logits.tolist(), uniform, strict=True)
    ]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"), [(0, 1.0, range(5)), (3, 1.0, (0, 2, 4)), (0, 0.75, (0, 2, 4))]
)
def test_frequencies_are_the_probabilities(top_k, top_p, kept):
    probabilities = np.array([0.3, 0.1, 0.2, 0.14, 0.26])  # 0.3 + 0.26 < 0.75 <= 0.76
    num_draws = 10_000
    uniform = (np.arange(num_draws) + 0.5) / num_draws
    logits = np.broadcast_to(np.log(probabilities) + 3, (num_draws, 5))
    drawn = next_symbol(jnp.asarray(logits), jnp.asarray(uniform), 1.0, top_k, top_p)
    expected = np.zeros(5)
    expected[list(kept)] = probabilities[list(kept)]
    counts = np.bincount(drawn, minlength=5)
    np.testing.assert_allclose(counts / num_draws, expected / expected.sum(), atol=1.1 / num_draws)


def test_temperature_sharpens():
    logits = np.broadcast_to(np.log([0.2, 0.8]), (10_000, 2))
    uniform = (np.arange(10_000) + 0.5) / 10_000
    for temperature, share in ((0.5, 0.04 / 0.68), (1.0, 0.2), (2.0, 1 / 3)):
        drawn = next_symbol(jnp.asarray(logits), jnp.asarray(uniform), temperature)
        assert abs((drawn == 0).mean() - share) < 2e-4


def test_extreme_uniform_numbers_give_symbols_that_have_a_probability():
    logits = jnp.asarray(np.array([[-np.inf, 1.0, -np.inf, 2.0, -np.inf]] * 3), jnp.float32)
    uniform = jnp.asarray([0.0, 1 - 2**-24, 1 - 2**-53])  # the last rounds to 1 in float32
    np.testing.assert_array_equal(next_symbol(logits, uniform), [1, 3, 3])


@pytest.mark.parametrize("temperature", [1e-2, 1e-10, 1e-37, 1e-40, 5e-324])
def test_a_tiny_temperature_is_the_likeliest_symbol(temperature):
    logits = jnp.asarray([[0.5, -3.0, 2.0, 1.0]], jnp.float32)
    for uniform in (0.0, 0.5, 0.999):
        got = next_symbol(logits, jnp.asarray([uniform], jnp.float32), temperature)
        np.testing.assert_array_equal(got, [2])


# --- generation ---


def text_of(model, length, seed=5, **options) -> np.ndarray:
    chunks = list(
        generate(model, np.array([2, 0, 3]), length=length, key=jax.random.key(seed), **options)
    )
    assert [len(chunk) for chunk in chunks[:-1]] == [CHUNK] * (len(chunks) - 1)
    return np.concatenate(chunks)


@pytest.fixture(scope="module")
def peaked():
    """A model whose choices depend on all that stands before, split for the fast path."""
    model = char_lm(num_layers=2, dropout=0.5)
    model.eval()
    skeleton, params = split(model)
    return skeleton, {name: 5 * value for name, value in params.items()}


def test_a_longer_text_begins_with_the_shorter_one_and_seeds_differ(peaked):
    long = text_of(peaked, 2 * CHUNK + 9)
    assert len(long) == 2 * CHUNK + 9
    assert set(long) <= set(range(V))
    assert len(set(long)) > 3
    for length in (1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK):
        np.testing.assert_array_equal(text_of(peaked, length), long[:length])
    assert not np.array_equal(text_of(peaked, CHUNK, seed=6), long[:CHUNK])
    assert not np.array_equal(long[:CHUNK], long[CHUNK : 2 * CHUNK])


def test_generation_is_the_model_one_step_at_a_time(peaked):
    skeleton, params = peaked
    model = skeleton.merge(params)
    step = jax.jit(lambda params, ids, state: skeleton.merge(params)(ids, state))
    logits, state = model(jnp.array([[2, 0, 3]]))
    key, expected = jax.random.key(5), []
    for position in range(CHUNK + 5):
        uniform = jax.random.uniform(jax.random.fold_in(key, position), (1,))
        drawn = next_symbol(logits[:, -1], uniform, 0.9, 5, 0.95)
        expected.append(int(drawn[0]))
        logits, state = step(params, drawn[:, None], state)
    got = text_of(peaked, CHUNK + 5, temperature=0.9, top_k=5, top_p=0.95)
    np.testing.assert_array_equal(got, expected)


def test_generating_from_a_model_in_training_leaves_dropout_out_and_the_mode_alone():
    model = char_lm(cell="rnn", num_layers=2, dropout=0.9)
    plain, _ = split(char_lm(cell="rnn", num_layers=2))
    expected = text_of((plain, split(model)[1]), 30, temperature=0.0)
    np.testing.assert_array_equal(text_of(model, 30, temperature=0.0), expected)
    assert model.dropout is not None
    assert not model.dropout.deterministic
    assert not model.rnn.dropout_layer.deterministic
    model.eval()
    text_of(model, 1, temperature=0.0)
    assert model.dropout.deterministic


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_forecast_is_the_model_reading_its_own_predictions(cell):
    options = {"cell": cell, "hidden_size": H, "param_dtype": jnp.float64, "rngs": nnx.Rngs(1)}
    model = Forecaster(2, 2, **options)
    skeleton, params = split(model)
    history = jnp.asarray(np.random.default_rng(0).normal(size=(B, T, 2)))
    values = forecast(skeleton, params, history, 4)
    read = history
    for _ in range(4):
        prediction, _ = model(read)
        read = jnp.concatenate([read, prediction[:, -1:]], axis=1)
    assert values.shape == (B, 4, 2)
    assert_close(values, read[:, T:])
    assert_close(forecast(skeleton, params, history, 1), read[:, T : T + 1])


def test_a_forecast_names_what_is_wrong():
    skeleton, params = split(Forecaster(3, 1, rngs=nnx.Rngs(1)))
    history = jnp.zeros((B, T, 3), jnp.float32)
    with pytest.raises(ValueError, match="predicts 1 values a step and reads 3: it can't read"):
        forecast(skeleton, params, history, 2)
    skeleton, params = split(Forecaster(3, 3, rngs=nnx.Rngs(1)))
    with pytest.raises(ValueError, match="horizon is 0, expected at least 1 step"):
        forecast(skeleton, params, history, 0)
