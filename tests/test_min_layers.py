"""MinGRU and MinLSTM beside a loop over the paper's equations: values, gradients, arguments."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from recurrence_cases import LENGTHS, MASKS, RESETS, B, H, I, T, masks
from tolerances import assert_close
from twins import filled

import jaxrnn
from jaxrnn import rules
from jaxrnn.dropout import keep_mask
from jaxrnn.min_layers import min_lstm
from jaxrnn.models import split
from jaxrnn.recurrence import linear

L = 2
LAYERS: dict[str, Any] = {"MinGRU": jaxrnn.MinGRU, "MinLSTM": jaxrnn.MinLSTM}
layers = pytest.mark.parametrize("name", LAYERS)
backends = pytest.mark.parametrize("backend", linear.BACKENDS)


def build(name, param_dtype="float64", **options) -> Any:
    """Two layers with parameters from NumPy."""
    options = {"num_layers": L, "param_dtype": jnp.dtype(param_dtype), **options}
    return filled(lambda: LAYERS[name](I, H, rngs=nnx.Rngs(0), **options), param_dtype)


def example(num_steps=T):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.normal(size=(num_steps, B, I))), jnp.asarray(rng.normal(size=(L, B, H)))


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def g(a):
    return a + 0.5 if a >= 0 else sigmoid(a)


def unit_step(name, gates, h):
    """One step of one unit, as the paper writes it; ``gates`` before their sigmoids."""
    if name == "MinGRU":
        z = sigmoid(gates[0])
        return (1 - z) * h + z * g(gates[1])
    f, i = sigmoid(gates[0]), sigmoid(gates[1])
    return f / (f + i) * h + i / (f + i) * g(gates[2])


def loop(name, params, x, h, lengths=None, resets=None):
    """Outputs and last states, unit by unit."""
    y, h = np.array(x), np.array(h)
    for layer in range(L):
        weight, bias = (np.asarray(params[f"{n}_l{layer}"]) for n in ("weight_ih", "bias_ih"))
        x, y = y, np.zeros((len(y), B, H))
        for b in range(B):
            for t in range(len(x) if lengths is None else int(lengths[b])):
                if resets is not None and resets[t, b]:
                    h[layer, b] = 0
                gates = (weight @ x[t, b] + bias).reshape(-1, H)
                h[layer, b] = [unit_step(name, gates[:, j], h[layer, b, j]) for j in range(H)]
                y[t, b] = h[layer, b]
    return y, h


@layers
@backends
@masks
def test_values_are_those_of_a_loop_over_the_equations(name, backend, mask):
    layer, (x, h) = build(name, backend=backend), example()
    expected = loop(name, split(layer)[1], x, h, **MASKS[mask])
    jax.tree.map(assert_close, layer(x, h, **MASKS[mask]), expected)
    expected = loop(name, split(layer)[1], x, jnp.zeros_like(h), **MASKS[mask])
    jax.tree.map(assert_close, layer(x, **MASKS[mask]), expected)


def everything(name, backend, **options):
    """Outputs, the last state and every gradient of a weighted sum of both."""
    skeleton, params = split(build(name, backend=backend))
    x, h = example()
    rng = np.random.default_rng(2)
    dy, dh = jnp.asarray(rng.normal(size=(T, B, H))), jnp.asarray(rng.normal(size=(L, B, H)))

    def total(params, x, h):
        y, last = skeleton.merge(params)(x, h, **options)
        return (y * dy).sum() + (last * dh).sum(), (y, last)

    return jax.jit(jax.grad(total, argnums=(0, 1, 2), has_aux=True))(params, x, h)


@layers
@pytest.mark.parametrize("backend", ["associative", "scan"])
@pytest.mark.parametrize("mask", ["none", "both"])
def test_gradients_are_those_of_single_steps(name, backend, mask):
    found = everything(name, backend, **MASKS[mask])
    expected = everything(name, "reference", **MASKS[mask])
    assert np.abs(expected[0][2]).min(axis=(0, 2)).max() > 1e-6  # the given state counts
    for values in jax.tree.leaves(expected[0][0]):
        assert np.abs(values).max() > 1e-3
    jax.tree.map(assert_close, found, expected)


@layers
@pytest.mark.parametrize("backend", ["associative", "scan"])
def test_gradients_are_finite_differences(name, backend):
    skeleton, params = split(build(name, backend=backend))

    def loss(params, x, h):
        y, last = skeleton.merge(params)(x, h, lengths=LENGTHS)
        return jnp.sin(y).sum() + jnp.cos(last).sum()

    inputs = (params, *example())
    rng = np.random.default_rng(3)
    along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), inputs)
    moved = jax.jit(lambda step: loss(*jax.tree.map(lambda a, d: a + step * d, inputs, along)))
    numeric = (8 * (moved(1e-3) - moved(-1e-3)) - (moved(2e-3) - moved(-2e-3))) / 12e-3
    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)
    pairs = zip(*map(jax.tree.leaves, (gradient, along)), strict=True)
    np.testing.assert_allclose(sum((a * d).sum() for a, d in pairs), numeric, rtol=1e-6)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 8, 33])
def test_any_number_of_steps_is_solved_in_both_directions_of_its_derivatives(num_steps):
    rng = np.random.default_rng(4)
    a, b = (jnp.asarray(rng.uniform(0, 1, size=(num_steps, B, H))) for _ in range(2))
    h = jnp.asarray(rng.normal(size=(B, H)))

    def derivatives(backend):
        def loss(a, b, h):
            return (linear.run(a, b, h, backend) ** 3).sum()

        def of_gradient(a, b, h):
            return sum((d**2).sum() for d in jax.grad(loss, argnums=(0, 1, 2))(a, b, h))

        second = jax.grad(of_gradient, argnums=(0, 1, 2))
        run = jax.jit(lambda a, b, h: (linear.run(a, b, h, backend), second(a, b, h)))
        return run(a, b, h)

    expected = derivatives("reference")
    jax.tree.map(assert_close, derivatives("associative"), expected)
    jax.tree.map(assert_close, derivatives("scan"), expected)
    value = np.asarray(h)
    for t in range(num_steps):
        value = np.asarray(a[t]) * value + np.asarray(b[t])
    assert_close(expected[0][-1], value)


def test_the_reference_can_be_differentiated_in_forward_mode():
    skeleton, params = split(build("MinGRU", backend="reference"))
    x, h = example()

    def total(h):
        return skeleton.merge(params)(x, h)[0].sum()

    _, forward = jax.jvp(total, (h,), (jnp.ones_like(h),))
    assert_close(forward, jax.grad(total)(h).sum())


@layers
@backends
def test_a_sequence_is_its_chunks_and_its_single_steps(name, backend):
    layer, (x, h) = build(name, backend=backend), example()
    whole = layer(x, h)
    for ends in ((1, 3, 5), (1, 2, 3, 4, 5)):
        state, outputs, first = h, [], 0
        for end in ends:
            y, state = layer(x[first:end], state)
            outputs.append(y)
            first = end
        jax.tree.map(assert_close, (jnp.concatenate(outputs), state), whole)


@layers
@backends
def test_what_padding_holds_has_no_influence(name, backend):
    skeleton, params = split(build(name, backend=backend))
    x, h = example()
    padded = np.arange(T)[:, None] >= np.asarray(LENGTHS)

    def loss(params, x, h):
        y, last = skeleton.merge(params)(x, h, lengths=LENGTHS, resets=RESETS)
        return (y**2).sum() + (last**3).sum(), (y, last)

    gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
    found = [gradient(params, jnp.where(padded[..., None], value, x), h) for value in (0.0, np.nan)]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
    (_, dx, _), (y, _) = found[1]
    assert not dx[padded].any()
    assert not y[padded].any()
    assert y[~padded].all()


@layers
def test_layouts_are_transposes_and_a_sequence_alone_is_a_batch_of_one(name):
    x, h = example()
    options: Any = {"lengths": LENGTHS, "resets": RESETS}
    expected = y, last = build(name)(x, h, **options)
    turned = build(name, batch_first=True)
    other, other_last = turned(x.swapaxes(0, 1), h, lengths=LENGTHS, resets=RESETS.T)
    jax.tree.map(assert_close, (other.swapaxes(0, 1), other_last), expected)
    for layer in (build(name), turned):
        alone = layer(x[:, 0], h[:, 0], lengths=LENGTHS[0], resets=RESETS[:, 0])
        jax.tree.map(assert_close, alone, (y[:, 0], last[:, 0]))
        jax.tree.map(assert_close, layer(x[:, 0])[1], build(name)(x)[1][:, 0])
    assert build(name).initial_state().shape == (L, H)
    np.testing.assert_array_equal(build(name).initial_state(B), np.zeros((L, B, H)))


@layers
def test_without_bias_it_is_that_of_zeros(name):
    plain = build(name, bias=False)
    _, params = split(plain)
    assert set(params) == {"weight_ih_l0", "weight_ih_l1"}
    skeleton, full = split(build(name))
    zeros = {key: jnp.zeros_like(value) for key, value in full.items()}
    x, h = example()
    jax.tree.map(assert_close, plain(x, h), skeleton.merge(zeros | params)(x, h))


def test_quotients_of_gates_that_are_both_shut_are_safe_and_right():
    f, i = jnp.array([-800.0, -802.0, -800.0, 800.0, 0.0]), jnp.array([-800.0, -800.0, 5, 5, 0])
    gates = jnp.concatenate([f, i, jnp.zeros(5)])[None, None]
    a, b = min_lstm(gates)
    e2 = math.exp(2)
    expected = [0.5, 1 / (1 + e2), 0.0, 1 / (1 + sigmoid(5.0)), 0.5]
    assert_close(a[0, 0], expected)
    assert_close(b[0, 0], (1 - np.array(expected)) / 2)
    slopes = jax.jacobian(lambda v: min_lstm(v)[0])(gates)
    assert np.isfinite(slopes).all()


def test_long_sequences_of_extreme_gates_stay_finite():
    rng = np.random.default_rng(5)
    x = jnp.asarray(1e4 * rng.normal(size=(300, 1, I)), jnp.float32)
    for name in LAYERS:
        skeleton, params = split(build(name, "float32", backend="associative"))
        run = jax.value_and_grad(lambda p, s=skeleton: s.merge(p)(x)[0].mean())
        value, gradient = jax.jit(run)(params)
        assert np.isfinite(value)
        assert all(np.isfinite(v).all() for v in gradient.values())


# --- dtypes, dropout, parameters, the choice of a way


@layers
def test_bfloat16_is_of_products_alone(name):
    layer = build(name, "float32", dtype=jnp.bfloat16)
    x, _ = example()
    y, h = layer(x.astype(jnp.bfloat16))
    assert (y.dtype, h.dtype, layer.initial_state(B).dtype) == ("bfloat16", "float32", "float32")
    expected = build(name, "float32")(x.astype(jnp.float32))
    assert np.abs(np.asarray(h) - expected[1]).max() < 0.05
    assert 0 < np.abs(np.asarray(y, np.float32) - expected[0]).max() < 0.05


@layers
def test_dropout_is_between_layers_in_training_alone(name):
    keep = 0.6
    layer, (x, h) = build(name, dropout=1 - keep), example()
    whole = split(layer)[1]
    mask = np.asarray(keep_mask(nnx.Rngs(dropout=7).dropout(), keep, (T, B, H))) / keep

    def alone(k, width):
        one = LAYERS[name](width, H, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        params = {f"{n}_l0": whole[f"{n}_l{k}"] for n in ("weight_ih", "bias_ih")}
        return split(one)[0].merge(params)

    y, _ = alone(0, I)(x, h[:1])
    expected, last = alone(1, H)(y * mask, h[1:])
    found = layer(x, h, rngs=nnx.Rngs(dropout=7))
    assert_close(found[0], expected)
    assert_close(found[1][1:], last)
    layer.eval()
    jax.tree.map(assert_close, layer(x, h), build(name)(x, h))


@pytest.mark.parametrize(("name", "num_gates"), [("MinGRU", 2), ("MinLSTM", 3)])
def test_parameters_start_as_those_of_a_linear_layer(name, num_gates):
    layer = LAYERS[name](50, 400, 2, rngs=nnx.Rngs(0))
    _, params = split(layer)
    assert {key: value.shape for key, value in params.items()} == {
        "weight_ih_l0": (num_gates * 400, 50),
        "bias_ih_l0": (num_gates * 400,),
        "weight_ih_l1": (num_gates * 400, 400),
        "bias_ih_l1": (num_gates * 400,),
    }
    for key, value in params.items():
        bound = (50 if key.endswith("l0") else 400) ** -0.5
        assert bound * 0.99 < np.abs(value).max() <= bound
        assert abs(np.mean(value)) < 4 * bound / math.sqrt(3 * value.size)


@pytest.mark.parametrize(("platform", "backend"), [("cpu", "scan"), ("gpu", "associative")])
def test_the_device_decides_the_way(platform, backend, monkeypatch):
    assert rules.associative_scan(platform) is (backend == "associative")
    monkeypatch.setattr(rules, "associative_scan", lambda _: backend == "associative")
    a, h = jnp.ones((4, B, H)), jnp.ones((B, H))

    def program(name):
        return str(jax.make_jaxpr(lambda a, h: linear.run(a, a, h, name))(a, h))

    assert program("auto") == program(backend)
    assert ("scan[" in program("auto")) is (backend == "scan")
    assert "scan[" not in str(jax.make_jaxpr(lambda a: linear.run(a, a, h, "scan"))(a[:1]))


X = np.zeros((T, B, I), np.float32)


@layers
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X[..., :1],), ValueError, r"x has shape \(5, 3, 1\), expected a last dimension of inpu"),
        ((X[0, 0],), ValueError, r"x has shape \(4,\), expected 3 dimensions, or 2 without"),
        ((X[:0],), ValueError, r"x has shape \(0, 3, 4\), expected at least one time step"),
        ((X.astype(int),), TypeError, "x has dtype int64, expected a floating dtype"),
        ((X, X), ValueError, r"state h has shape \(5, 3, 4\), expected \(2, 3, 6\)"),
        ((X, None, {"lengths": [5, 0, 1]}), ValueError, "lengths holds 0, expected 1 <= length"),
        ((X, None, {"resets": np.zeros((B, T), bool)}), ValueError, r"resets has shape \(3, 5\)"),
        ((X, None, {"resets": X[..., 0]}), TypeError, "resets has dtype float32, expected bool"),
    ],
)
def test_what_a_layer_refuses(name, arguments, error, message, unchecked):
    *given, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(error, match=f"{name}: {message}"):
        build(name, "float32")(*given, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_size": 0}, ValueError, "hidden_size is 0, expected at least 1"),
        ({"num_layers": 1.0}, TypeError, "num_layers is 1.0, expected an int"),
        ({"bias": 1}, TypeError, "bias is 1, expected a bool"),
        ({"dropout": 1.5}, ValueError, r"dropout is 1.5, expected a probability in \[0, 1\]"),
        ({"backend": "cudnn"}, ValueError, r"backend is 'cudnn', expected one of \['auto', 'asso"),
        ({"rngs": nnx.Rngs(params=0)}, ValueError, "rngs has no stream 'dropout'"),
        ({"dtype": "foo"}, TypeError, "dtype is 'foo', expected a floating dtype"),
    ],
    ids=str,
)
def test_what_a_constructor_refuses(options, error, message, unchecked):
    with pytest.raises(error, match=message):
        jaxrnn.MinGRU(
            **{
                **{"input_size": I, "hidden_size": H, "num_layers": 2, "dropout": 0.5},
                **{"rngs": nnx.Rngs(0), **options},
            }
        )
    with pytest.raises(ValueError, match="backend is 'associative', expected one of"):
        jaxrnn.LSTM(I, H, rngs=nnx.Rngs(0), backend="associative")


def test_dropout_of_a_single_layer_warns():
    with pytest.warns(UserWarning, match=r"dropout=0.5 has no effect with num_layers=1") as caught:
        jaxrnn.MinLSTM(I, H, dropout=0.5, rngs=nnx.Rngs(0))
    assert len(caught) == 1
