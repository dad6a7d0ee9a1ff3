"""LayerNormLSTM and HyperLSTM beside a loop over their equations, written apart from them."""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import TOLERANCE, assert_close
from twins import FAST_COMPILE, filled

from jaxrnn.dropout import keep_mask
from jaxrnn.models import split
from jaxrnn.normed_layers import HyperLSTM, LayerNormLSTM

B, T, I, H, K, E = 3, 5, 4, 6, 7, 2
LENGTHS = np.array([3, 5, 1])
LAYERS = {"layer_norm": LayerNormLSTM, "hyper": HyperLSTM}
SIZES = {"layer_norm": {"h": H, "c": H}, "hyper": {"h": H, "c": H, "hyper_h": K, "hyper_c": K}}
HYPER: Any = {"hyper_size": K, "embedding_size": E}
KEEP = 0.6

layers = pytest.mark.parametrize("name", LAYERS)
compiled = functools.partial(jax.jit, compiler_options=FAST_COMPILE)


def arguments(name) -> dict[str, Any]:
    return HYPER if name == "hyper" else {}


def build(name, param_dtype="float64", **more):
    """A layer with parameters from NumPy, its biases and norms too; it has no masks of its own."""
    options = {**arguments(name), "param_dtype": jnp.dtype(param_dtype), **more}
    return filled(lambda: LAYERS[name](I, H, rngs=nnx.Rngs(0), **options), param_dtype)


def drawn(name, **more):
    """A layer as it starts."""
    return LAYERS[name](I, H, rngs=nnx.Rngs(0), **arguments(name), **more)


def example(name, dtype="float64"):
    """x and a state."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(T, B, I)), dtype)
    return x, tuple(jnp.asarray(rng.normal(size=(1, B, n)), dtype) for n in SIZES[name].values())


# The equations, gate by gate and step by step; ``xp`` is NumPy, or JAX to be differentiated.


def norm(xp, a, weight, bias):
    mean = a.sum(-1, keepdims=True) / a.shape[-1]
    variance = ((a - mean) ** 2).sum(-1, keepdims=True) / a.shape[-1]
    return weight[None] * (a - mean) / xp.sqrt(variance + 1e-3) + bias[None]


def gate(array, k):
    """The k-th of four blocks of rows: 0 i, 1 f, 2 g, 3 o."""
    size = len(array) // 4
    return array[k * size : (k + 1) * size]


def after_gates(xp, p, preactivations, c, scale, prefix=""):
    a = [
        norm(xp, preactivations[k], *(gate(p[f"{prefix}ln_gates_{n}"], k) for n in WEIGHT_BIAS))
        for k in range(4)
    ]
    i, f, o = (1 / (1 + xp.exp(-a[k])) for k in (0, 1, 3))
    c = c * f + i * xp.tanh(a[2]) * scale
    return o * xp.tanh(norm(xp, c, *(p[f"{prefix}ln_cell_{n}"] for n in WEIGHT_BIAS))), c


WEIGHT_BIAS = ("weight", "bias")


def layer_norm_step(xp, p, x, state, scale, prefix=""):
    h, c = state
    w, u = p[f"{prefix}weight_ih"], p[f"{prefix}weight_hh"]
    preactivations = [x @ gate(w, k).T + h @ gate(u, k).T for k in range(4)]
    return after_gates(xp, p, preactivations, c, scale, prefix)


def hyper_step(xp, p, x, state, scale):
    h, c, *hyper_state = state
    joined = xp.concatenate([x, h], -1)
    hyper_h, hyper_c = layer_norm_step(xp, p, joined, hyper_state, 1.0, "hyper_cell.")
    preactivations = []
    for k in range(4):

        def get(name, k=k):
            return gate(p[name], k)

        z_x = hyper_h @ get("zw_x_weight").T + get("zw_x_bias")[None]
        z_h = hyper_h @ get("zw_h_weight").T + get("zw_h_bias")[None]
        z_b = hyper_h @ get("zb_weight").T
        of_x = (z_x @ get("alpha_x_weight").T) * (x @ get("weight_ih").T)
        of_h = (z_h @ get("alpha_h_weight").T) * (h @ get("weight_hh").T)
        of_h = of_h + z_b @ get("beta_weight").T
        preactivations.append(of_x + of_h + get("bias")[None])
    return *after_gates(xp, p, preactivations, c, scale), hyper_h, hyper_c


STEPS = {"layer_norm": layer_norm_step, "hyper": hyper_step}


def loop(xp: Any, name, params, x, state, lengths=None, scale=None):
    """Outputs and last state as the layer gives them; ``scale`` (T, B, H) is of the candidates."""
    state, outputs = [member[0] for member in state], []
    for t in range(len(x)):
        new = STEPS[name](xp, params, x[t], state, 1.0 if scale is None else scale[t])
        y = new[0]
        if lengths is not None:
            runs = (t < lengths)[:, None]
            new = [xp.where(runs, n, s) for n, s in zip(new, state, strict=True)]
            y = xp.where(runs, y, 0.0)
        state = new
        outputs.append(y)
    return xp.stack(outputs), [member[None] for member in state]


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def assert_same(got, expected, dtype="float64"):
    """An output and a state beside the expected."""
    assert_close(got[0], expected[0], dtype, "y")
    for k, (a, b) in enumerate(zip(got[1], expected[1], strict=True)):
        assert_close(a, b, dtype, f"state {k}")


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
        compiled(jax.grad(f, argnums=(0, 1, 2)))(params, x, state) for f in (ours, theirs)
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
    moved = compiled(lambda step: loss(*jax.tree.map(lambda a, d: a + step * d, inputs, along)))
    numeric = (8 * (moved(1e-3) - moved(-1e-3)) - (moved(2e-3) - moved(-2e-3))) / 12e-3
    gradient = compiled(jax.grad(loss, argnums=(0, 1, 2)))(*inputs)
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

    gradient = compiled(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))
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


def names_and_shapes(name):
    cell = {
        "weight_ih": (4 * H, I),
        "weight_hh": (4 * H, H),
        "ln_gates_weight": (4 * H,),
        "ln_gates_bias": (4 * H,),
        "ln_cell_weight": (H,),
        "ln_cell_bias": (H,),
    }
    if name == "layer_norm":
        return cell
    return {
        **cell,
        "bias": (4 * H,),
        "zw_x_weight": (4 * E, K),
        "zw_x_bias": (4 * E,),
        "alpha_x_weight": (4 * H, E),
        "zw_h_weight": (4 * E, K),
        "zw_h_bias": (4 * E,),
        "alpha_h_weight": (4 * H, E),
        "zb_weight": (4 * E, K),
        "beta_weight": (4 * H, E),
        "hyper_cell.weight_ih": (4 * K, I + H),
        "hyper_cell.weight_hh": (4 * K, K),
        "hyper_cell.ln_gates_weight": (4 * K,),
        "hyper_cell.ln_gates_bias": (4 * K,),
        "hyper_cell.ln_cell_weight": (K,),
        "hyper_cell.ln_cell_bias": (K,),
    }


@layers
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_names_shapes_and_dtypes(name, dtype):
    _, params = split(drawn(name, param_dtype=jnp.dtype(dtype), recurrent_dropout=0.1))
    assert {key: value.shape for key, value in params.items()} == names_and_shapes(name)
    assert {str(value.dtype) for value in params.values()} == {dtype}


def test_defaults_are_magentas():
    layer = HyperLSTM(5, 8, rngs=nnx.Rngs(0))
    assert (layer.hyper_size, layer.embedding_size) == (256, 32)
    assert (layer.batch_first, layer.recurrent_dropout) == (False, 0.0)
    assert_close(layer.alpha_x_weight[...], np.full((32, 32), 0.1 / 32), "float32")
    signature = inspect.signature(LayerNormLSTM.__init__).parameters
    assert [n for n, p in signature.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == [
        "self",
        "input_size",
        "hidden_size",
    ]


@layers
def test_initial_values(name):
    size, hyper_size = 32, 24
    options = {"hyper_size": hyper_size, "embedding_size": E} if name == "hyper" else {}
    layer = LAYERS[name](I, size, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options)
    cells = [(layer, I, size)]
    if isinstance(layer, HyperLSTM):
        cells.append((layer.hyper_cell, I + size, hyper_size))
    for cell, width, units in cells:
        blocks = np.asarray(cell.weight_hh[...]).reshape(4, units, units)
        for block in blocks:
            assert_close(block @ block.T, np.eye(units))
        assert not np.allclose(blocks[0], blocks[1])
        bound = np.sqrt(6 / (width + 4 * units))
        drawn_from = np.asarray(cell.weight_ih[...])
        assert 0.95 * bound < np.abs(drawn_from).max() <= bound
        assert abs(drawn_from.std() / bound - 1 / np.sqrt(3)) < 0.05
        np.testing.assert_array_equal(cell.ln_gates_weight[...], np.ones(4 * units))
        np.testing.assert_array_equal(cell.ln_gates_bias[...], np.repeat([0, 1, 0, 0], units))
        np.testing.assert_array_equal(cell.ln_cell_weight[...], np.ones(units))
        np.testing.assert_array_equal(cell.ln_cell_bias[...], np.zeros(units))
    if isinstance(layer, HyperLSTM):
        for value, names in {
            0: ("bias", "zw_x_weight", "zw_h_weight", "beta_weight"),
            1: ("zw_x_bias", "zw_h_bias"),
            0.1 / E: ("alpha_x_weight", "alpha_h_weight"),
        }.items():
            for key in names:
                np.testing.assert_array_equal(np.unique(getattr(layer, key)[...]), [value], key)
        drawn_from = np.asarray(layer.zb_weight[...])
        assert abs(drawn_from.mean()) < 5 * 0.01 / np.sqrt(drawn_from.size)
        assert abs(drawn_from.std() / 0.01 - 1) < 0.2


def test_a_hyper_lstm_starts_as_one_of_scaled_gates():
    hyper, plain = drawn("hyper", param_dtype=jnp.float64), build("layer_norm")
    for key, param in vars(plain).items():
        if isinstance(param, nnx.Param):
            param[...] = getattr(hyper, key)[...]
    for key in ("weight_ih", "weight_hh"):
        param = getattr(plain, key)
        param[...] = 0.1 * param[...]
    x, state = example("hyper")
    y, (h, c, _, _) = hyper(x, state)
    assert_same((y, (h, c)), plain(x, state[:2]))


# Dtypes.


@layers
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_states_stay_wide_where_the_layer_computes_narrow(name, dtype):
    layer, (x, state) = build(name, "float32", dtype=jnp.dtype(dtype)), example(name, "float32")
    y, last = layer(x, state)
    assert y.dtype == dtype
    assert {str(s.dtype) for s in (*last, *layer.initial_state(B))} == {"float32"}
    expected = build(name, "float64")(x.astype("float64"), tuple(s.astype(float) for s in state))
    difference = max(
        np.abs(np.asarray(a, float) - b).max()
        for a, b in zip((y, *last), (expected[0], *expected[1]), strict=True)
    )
    narrow = TOLERANCE["float32" if dtype == "float32" else "bfloat16"]
    assert difference < (5 if name == "hyper" else 2) * narrow
    assert (difference > TOLERANCE["float32"]) == (dtype != "float32")  # it does compute narrow


@layers
def test_every_matrix_is_rounded_to_the_dtype_to_compute_in(name):
    skeleton, params = split(build(name, "float32", dtype=jnp.bfloat16))
    x, state = example(name, "float32")
    rounded = {
        key: value.astype("bfloat16").astype("float32") if value.ndim == 2 else value
        for key, value in params.items()
    }
    first, second = (skeleton.merge(p)(x, state) for p in (params, rounded))
    for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True):
        np.testing.assert_array_equal(a, b)


# What is refused.


def refused(call, error, message):
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert message in str(caught.value)


@layers
@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size is 0, expected at least 1"),
        ({"hidden_size": 6.0}, TypeError, "hidden_size is 6.0, expected an int"),
        ({"batch_first": 1}, TypeError, "batch_first is 1, expected a bool"),
        ({"recurrent_dropout": 1.5}, ValueError, "recurrent_dropout is 1.5, expected a prob"),
        ({"dtype": jnp.int32}, TypeError, "int32'>, expected a floating dtype"),
        ({"param_dtype": jnp.complex64}, TypeError, "complex64'>, expected a floating dtype"),
        ({"rngs": 0}, TypeError, "rngs is int, expected flax.nnx.Rngs"),
        (
            {"rngs": nnx.Rngs(params=0), "recurrent_dropout": 0.5},
            ValueError,
            "rngs has no stream 'dropout'",
        ),
    ],
)
def test_a_constructor_refuses(unchecked, name, bad, error, message):
    options: dict[str, Any] = {"input_size": I, "hidden_size": H, "rngs": nnx.Rngs(0)} | bad
    refused(lambda: LAYERS[name](**options), error, message)


@pytest.mark.parametrize("size", ["hyper_size", "embedding_size"])
def test_a_hyper_lstm_refuses_its_own_sizes(unchecked, size):
    options: Any = {size: 0}
    refused(
        lambda: HyperLSTM(I, H, rngs=nnx.Rngs(0), **options),
        ValueError,
        f"{size} is 0, expected at least 1",
    )


@layers
def test_a_call_refuses(unchecked, name):
    layer, (x, state) = build(name), example(name)
    owner, members = LAYERS[name].__name__, ", ".join(SIZES[name])
    num = len(state)
    for call, error, message in [
        (lambda: layer(object()), TypeError, f"{owner}: x is a object, expected an array"),
        (lambda: layer(x[0]), ValueError, f"{owner}: x has shape (3, 4), expected 3 dimensions"),
        (lambda: layer(x[:, :, 1:]), ValueError, "expected a last dimension of input_size=4"),
        (lambda: layer(x.astype(int)), TypeError, "x has dtype int64, expected a floating"),
        (lambda: layer(x.astype("float32")), ValueError, "expected the parameters' float64"),
        (lambda: layer(x[:0]), ValueError, f"{owner}: x has no time step, expected at least one"),
        (lambda: layer(x, state[0]), TypeError, f"expected a tuple ({members})"),
        (lambda: layer(x, state[1:]), TypeError, f"state is {num - 1} members, expected a tuple"),
        (
            lambda: layer(x, (state[0][0], *state[1:])),
            ValueError,
            f"{owner}: state h has shape (3, 6), expected (1, 3, 6)",
        ),
        (
            lambda: layer(x, (*state[:-1], state[-1][:, :, :1])),
            ValueError,
            f"expected (1, 3, {list(SIZES[name].values())[-1]})",
        ),
        (lambda: layer(x, lengths=[3.0, 5, 1]), TypeError, "lengths has dtype float64, expected"),
        (lambda: layer(x, lengths=object()), TypeError, "lengths has dtype object, expected int"),
        (lambda: layer(x, lengths=[[3], [5, 1]]), TypeError, "lengths is a list, expected an ar"),
        (lambda: layer(x, lengths=[3, 5]), ValueError, "lengths has shape (2,), expected (3,)"),
        (lambda: layer(x, lengths=[3, 6, 1]), ValueError, "lengths holds 6, expected 1 <= length"),
        (lambda: layer(x, lengths=[0, 5, 1]), ValueError, "lengths holds 0, expected 1 <= length"),
    ]:
        refused(call, error, message)
