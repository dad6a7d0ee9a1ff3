"""LayerNormLSTM and HyperLSTM: parameters, dtypes, and what is refused."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from normed_cases import LAYERS, SIZES, B, E, H, I, K, assert_same, build, drawn, example, layers
from tolerances import TOLERANCE, assert_close

from jaxrnn.models import split
from jaxrnn.normed_layers import HyperLSTM, LayerNormLSTM


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
