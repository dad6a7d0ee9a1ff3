"""What modules refuse: the exception, and that it names the argument, what it got and expected."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layer_cases import CELLS, LAYERS, B, H, I, P, T, build, cells, layers

import jaxrnn
from jaxrnn.dense import Embedding, Linear

BAD_SIZES = [
    ({"input_size": 0}, ValueError, "input_size is 0, expected at least 1"),
    ({"input_size": True}, TypeError, "input_size is True, expected an int"),
    ({"input_size": 4.0}, TypeError, "input_size is 4.0, expected an int"),
    ({"hidden_size": -6}, ValueError, "hidden_size is -6, expected at least 1"),
    ({"hidden_size": "6"}, TypeError, "hidden_size is '6', expected an int"),
    ({"hidden_size": True}, TypeError, "hidden_size is True, expected an int"),
    ({"bias": 1}, TypeError, "bias is 1, expected a bool"),
    ({"backend": "cuda"}, ValueError, "backend is 'cuda', expected one of ['auto', 'scan'"),
    ({"dtype": jnp.int32}, TypeError, "int32'>, expected a floating dtype"),
    ({"param_dtype": jnp.complex64}, TypeError, "complex64'>, expected a floating dtype"),
]
BAD_LAYERS = [
    ({"num_layers": 0}, ValueError, "num_layers is 0, expected at least 1"),
    ({"num_layers": True}, TypeError, "num_layers is True, expected an int"),
    ({"num_layers": None}, TypeError, "num_layers is None, expected an int"),
    ({"batch_first": "yes"}, TypeError, "batch_first is 'yes', expected a bool"),
    ({"bidirectional": 2}, TypeError, "bidirectional is 2, expected a bool"),
    ({"dropout": -0.1}, ValueError, "dropout is -0.1, expected a probability in [0, 1]"),
    ({"dropout": 1.5}, ValueError, "dropout is 1.5, expected a probability in [0, 1]"),
    ({"dropout": float("nan")}, ValueError, "dropout is nan, expected a probability in [0, 1]"),
    ({"dropout": True}, TypeError, "dropout is True, expected a number in [0, 1]"),
    ({"dropout": "half"}, TypeError, "dropout is 'half', expected a number in [0, 1]"),
]
BAD_CONSTRUCTIONS = [
    *((name, *bad) for name in (*LAYERS, *CELLS) for bad in BAD_SIZES),
    *((name, *bad) for name in LAYERS for bad in BAD_LAYERS),
    ("LSTM", {"proj_size": 6}, ValueError, "proj_size is 6, expected less than hidden_size=6"),
    ("LSTM", {"proj_size": 7}, ValueError, "proj_size is 7, expected less than hidden_size=6"),
    ("LSTM", {"proj_size": -1}, ValueError, "proj_size is -1, expected at least 0"),
    ("LSTM", {"proj_size": True}, TypeError, "proj_size is True, expected an int"),
    ("GRU", {"proj_size": 2}, ValueError, "GRU: proj_size is 2, expected 0: only LSTM"),
    ("RNN", {"proj_size": 2}, ValueError, "RNN: proj_size is 2, expected 0: only LSTM"),
    *(
        (name, {"nonlinearity": bad}, ValueError, f"nonlinearity is {bad!r}, expected one of")
        for name in ("RNN", "RNNCell")
        for bad in ("gelu", None, True)
    ),
]


def refused(call, error, message):
    """``call`` raises exactly this exception, with this text in its message."""
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "bad", "error", "message"), BAD_CONSTRUCTIONS)
def test_a_constructor_refuses(unchecked, name, bad, error, message):
    arguments = {"input_size": I, "hidden_size": H} | bad
    construct = getattr(jaxrnn, name)
    refused(lambda: construct(**arguments, rngs=nnx.Rngs(0)), error, message)


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
def test_float64_is_refused_where_jax_has_it_switched_off(name, argument):
    with jax.enable_x64(False):
        message = f"{argument} is float64, which JAX has switched off"
        dtype: Any = {argument: "float64"}
        refused(lambda: build(name, **dtype), ValueError, message)


def zeros(*shape, dtype: Any = "float32"):
    return jnp.zeros(shape, dtype)


X = zeros(T, B, I)
BAD_X = [  # also inside jit: decided by shapes and dtypes alone
    (zeros(I), ValueError, "x has shape (4,), expected 3 dimensions, or 2 without a batch"),
    (zeros(1, T, B, I), ValueError, "x has shape (1, 5, 3, 4), expected 3 dimensions, or 2"),
    (
        zeros(T, B, H),
        ValueError,
        "x has shape (5, 3, 6), expected a last dimension of input_size=4",
    ),
    (zeros(T, B, I, dtype=int), TypeError, "x has dtype int64, expected a floating dtype"),
    (zeros(T, B, I, dtype=complex), TypeError, "x has dtype complex128, expected a floating"),
    (zeros(T, B, I, dtype=bool), TypeError, "x has dtype bool, expected a floating dtype"),
    (
        zeros(T, B, I, dtype="float64"),
        ValueError,
        "x has dtype float64, expected the parameters' f",
    ),
    (zeros(T, B, I, dtype="bfloat16"), ValueError, "x has dtype bfloat16, expected the parameters"),
    (zeros(0, B, I), ValueError, "x has shape (0, 3, 4), expected at least one time step"),
]
BAD_OPTIONS = [
    ({"lengths": zeros(B)}, TypeError, "lengths has dtype float32, expected integers"),
    ({"lengths": zeros(B, dtype=bool)}, TypeError, "lengths has dtype bool, expected integers"),
    (
        {"lengths": zeros(B + 1, dtype=int)},
        ValueError,
        "lengths has shape (4,), expected (3,): one length a sequence",
    ),
    ({"lengths": zeros(B, 1, dtype=int)}, ValueError, "lengths has shape (3, 1), expected (3,)"),
    ({"resets": zeros(T, B)}, TypeError, "resets has dtype float32, expected bool"),
    ({"resets": zeros(T, B, dtype=int)}, TypeError, "resets has dtype int64, expected bool"),
    (
        {"resets": zeros(B, T, dtype=bool)},
        ValueError,
        "resets has shape (3, 5), expected (5, 3): one bool a step and sequence",
    ),
]
BAD_STATES = [
    ("GRU", zeros(2, B, H), ValueError, "state h has shape (2, 3, 6), expected (1, 3, 6)"),
    ("GRU", zeros(1, B, H, dtype=int), TypeError, "state h has dtype int64, expected a floating"),
    ("RNN", zeros(B, H), ValueError, "state h has shape (3, 6), expected (1, 3, 6)"),
    ("LSTM", zeros(1, B, H), TypeError, "expected a tuple (h, c)"),
    ("LSTM", (zeros(1, B, H),), TypeError, "state is 1 members, expected a tuple (h, c)"),
    (
        "LSTM",
        (zeros(1, B, H), zeros(1, B, H, dtype=int)),
        TypeError,
        "state c has dtype int64, expected a floating dtype",
    ),
    (
        "LSTM",
        (zeros(1, B, H), zeros(1, B, P)),
        ValueError,
        "state c has shape (1, 3, 2), expected (1, 3, 6)",
    ),
]


def refused_with_and_without_jit(owner, call, arrays, error, message):
    refused(lambda: call(arrays), error, message)
    refused(lambda: jax.jit(call)(arrays), error, message)
    refused(lambda: call(arrays), error, f"{owner}: ")


@layers
@pytest.mark.parametrize(("x", "error", "message"), BAD_X)
def test_a_layer_refuses_an_input(name, x, error, message):
    refused_with_and_without_jit(name, build(name), x, error, message)


@layers
@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_a_layer_refuses_lengths_and_resets(name, options, error, message):
    module = build(name)
    call = lambda options: module(X, **options)  # noqa: E731
    refused_with_and_without_jit(name, call, options, error, message)


@pytest.mark.parametrize(("name", "state", "error", "message"), BAD_STATES)
def test_a_layer_refuses_a_state(unchecked, name, state, error, message):
    module = build(name)
    call = lambda state: module(X, state)  # noqa: E731
    refused_with_and_without_jit(name, call, state, error, message)


def test_a_projected_state_has_two_sizes():
    module = build("LSTM", proj_size=P)
    h, c = module.initial_state(B)
    assert (h.shape, c.shape) == ((1, B, P), (1, B, H))
    message = "state h has shape (1, 3, 6), expected (1, 3, 2)"
    refused(lambda: module(X, (c, c)), ValueError, message)


@layers
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0, 1], "lengths holds 0, expected 1 <= length <= T=5"),
        ([3, -2, 1], "lengths holds -2, expected 1 <= length <= T=5"),
        ([3, 6, 1], "lengths holds 6, expected 1 <= length <= T=5"),
    ],
)
@pytest.mark.parametrize("container", [list, np.array, jnp.array])
def test_a_layer_refuses_known_lengths_out_of_range(name, lengths, message, container):
    module = build(name)
    refused(lambda: module(X, lengths=container(lengths)), ValueError, message)


@cells
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (zeros(1, B, I), ValueError, "x has shape (1, 3, 4), expected 2 dimensions, or 1 without"),
        (zeros(B, H), ValueError, "x has shape (3, 6), expected a last dimension of input_size=4"),
        (zeros(B, I, dtype=int), TypeError, "x has dtype int64, expected a floating dtype"),
        (zeros(B, I, dtype="float64"), ValueError, "x has dtype float64, expected the parameters'"),
    ],
)
def test_a_cell_refuses_an_input(name, x, error, message):
    refused_with_and_without_jit(name, build(name), x, error, message)


@pytest.mark.parametrize(
    ("name", "state", "error", "message"),
    [
        ("GRUCell", zeros(B, P), ValueError, "state h has shape (3, 2), expected (3, 6)"),
        ("RNNCell", zeros(B, H, dtype=int), TypeError, "state h has dtype int64, expected a fl"),
        ("LSTMCell", zeros(B, H), TypeError, "expected a tuple (h, c)"),
        (
            "LSTMCell",
            (zeros(B, H), zeros(H)),
            ValueError,
            "state c has shape (6,), expected (3, 6)",
        ),
    ],
)
def test_a_cell_refuses_a_state(name, state, error, message):
    module, x = build(name), zeros(B, I)
    call = lambda state: module(x, state)  # noqa: E731
    refused_with_and_without_jit(name, call, state, error, message)


@pytest.mark.parametrize(
    ("kind", "args", "error", "message"),
    [
        (Linear, (0, H), ValueError, "in_features is 0, expected at least 1"),
        (Linear, (I, True), TypeError, "out_features is True, expected an int"),
        (Linear, (I, H, 1), TypeError, "bias is 1, expected a bool"),
        (Embedding, (0, H), ValueError, "num_embeddings is 0, expected at least 1"),
        (Embedding, (7, 1.5), TypeError, "embedding_dim is 1.5, expected an int"),
    ],
)
def test_linear_and_embedding_refuse_sizes(unchecked, kind, args, error, message):
    refused(lambda: kind(*args, rngs=nnx.Rngs(0)), error, message)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "foo"}, TypeError, "dtype is 'foo', expected a floating dtype"),
        ({"param_dtype": None}, TypeError, "param_dtype is None, expected a floating dtype"),
        ({"backend": ["scan"]}, ValueError, r"backend is \['scan'\], expected one of"),
        ({"rngs": 0}, TypeError, "rngs is int, expected flax.nnx.Rngs"),
        ({"rngs": None}, TypeError, "rngs is NoneType, expected flax.nnx.Rngs"),
        ({"rngs": nnx.Rngs(params=0)}, ValueError, "rngs has no stream 'dropout'"),
    ],
    ids=str,
)
def test_odd_arguments_are_named_too(unchecked, options, error, message):
    with pytest.raises(error, match=message):
        jaxrnn.LSTM(4, 6, 2, dropout=0.5, **({"rngs": nnx.Rngs(0)} | options))


def test_what_is_no_array_is_named(unchecked):
    lstm: Any = jaxrnn.LSTM(4, 6, rngs=nnx.Rngs(0))
    x = np.zeros((5, 3, 4), np.float32)
    with pytest.raises(TypeError, match="LSTM: x is a NoneType, expected an array"):
        lstm(None)
    with pytest.raises(TypeError, match="LSTM: x is a str, expected an array"):
        lstm("abc")
    with pytest.raises(TypeError, match="LSTM: state h is a NoneType, expected an array"):
        lstm(x, (None, None))
    with pytest.raises(TypeError, match="LSTM: lengths is a list, expected an array"):
        lstm(x, lengths=[[1], [1, 2]])
