"""Each layout runs in its own library, or in its equation written out, beside torch.nn."""

import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from flax import linen, nnx
from flax.traverse_util import unflatten_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import rnn as jax_rnn
from tolerances import assert_close

from jaxrnn.errors import InputError
from torch_compat import layout
from torch_compat.foreign import LAYOUTS, from_layout, to_layout

B, T, I, H = 3, 5, 4, 6
GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}
ONE_BIAS = [  # of torch's two biases some or all are one
    "flax.linen.LSTMCell",
    "flax.linen.OptimizedLSTMCell",
    "flax.linen.GRUCell",
    "flax.linen.SimpleCell",
    "flax.nnx.LSTMCell",
    "flax.nnx.OptimizedLSTMCell",
    "flax.nnx.GRUCell",
    "flax.nnx.SimpleCell",
    "keras.LSTM",
    "keras.SimpleRNN",
    "tensorflow.BasicLSTMCell",
]
TWO_BIASES = [
    "keras.GRU",
    "keras.CuDNNLSTM",
    "keras.CuDNNGRU",
    "onnx.LSTM",
    "onnx.GRU",
    "onnx.RNN",
    "cudnn.LSTM",
    "cudnn.GRU",
    "cudnn.RNN",
]
WITHOUT_BIAS = ["keras.LSTM", "keras.GRU", "keras.SimpleRNN", "onnx.LSTM", "onnx.GRU", "onnx.RNN"]
FLAX = [name for name in ONE_BIAS if name.startswith("flax.")]


def kind_of(name):
    return "gru" if "GRU" in name else "lstm" if "LSTM" in name else "rnn"


def normal(shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def torch_tensors(name, bias=True, suffixes=("_l0",), dtype: Any = np.float64, sizes=(I, H)):
    """Random tensors of a torch layer that the layout can hold."""
    shapes = layout.cell(kind_of(name), sizes[0], sizes[1], bias)
    tensors = {
        f"{tensor}{suffix}": normal(shape, seed).astype(dtype)
        for s, suffix in enumerate(suffixes)
        for seed, (tensor, shape) in enumerate(shapes.items(), 10 * s)
    }
    if bias and name == "flax.nnx.GRUCell":
        for suffix in suffixes:
            tensors[f"bias_hh{suffix}"][2 * sizes[1] :] = 0
    return tensors


def options_of(name, sizes=(I, H), num_layers=1, bidirectional=False) -> dict[str, Any]:
    """What from_layout must be told beside the arrays."""
    if name == "onnx.GRU":
        return {"linear_before_reset": 1}
    if name.startswith("cudnn."):
        stack = {"num_layers": num_layers, "bidirectional": bidirectional}
        return {"input_size": sizes[0], "hidden_size": sizes[1], **stack}
    return {}


def inputs(D=1):
    """A sequence and first states h and c."""
    return normal((T, B, I), 77), normal((D, B, H), 78), normal((D, B, H), 79)


def run_torch(name, tensors, num_layers=1):
    """Outputs and last states in float64."""
    reverse, bias = "weight_ih_l0_reverse" in tensors, "bias_ih_l0" in tensors
    cls = getattr(torch.nn, kind_of(name).upper())
    module = cls(I, H, num_layers, bias=bias, bidirectional=reverse, dtype=torch.float64)
    module.load_state_dict(
        {n: torch.from_numpy(a.astype(np.float64)) for n, a in tensors.items()}, strict=True
    )
    x, *states = map(torch.from_numpy, inputs(num_layers * (2 if reverse else 1)))
    with torch.no_grad():
        out, last = module(x, tuple(states) if kind_of(name) == "lstm" else states[0])
    return [out, *(last if kind_of(name) == "lstm" else [last])]


def assert_same(got, expected, dtype="float64"):
    assert len(got) == len(expected)
    for g, e in zip(got, expected, strict=True):
        assert np.shape(g) == np.shape(e)
        assert_close(g, e, dtype)


def assert_both_ways(name, run, arrays, bias=True, dtype: Any = np.float64, **options):
    """The library's arrays in torch, and torch's tensors in the library, compute the same."""
    options = options_of(name) | options
    tensors = from_layout(name, arrays, **options)
    assert list(tensors) == list(layout.recurrent(kind_of(name), I, H, bias=bias))
    assert_same(run(arrays), run_torch(name, tensors), dtype)

    tensors = torch_tensors(name, bias, dtype=dtype)
    to_options = {} if name.startswith("cudnn.") else options
    assert_same(run(to_layout(name, tensors, **to_options)), run_torch(name, tensors), dtype)


def bits(arrays):
    return {n: (str(a.dtype), a.shape, a.tobytes()) for n, a in arrays.items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_run(step, num_states):
    """Outputs and last states of a step (x, *states) -> states that gives h first."""
    x, *states = inputs()
    states, out = [s[0] for s in states[:num_states]], []
    for x_t in x:
        states = step(x_t, *states)
        out.append(states[0])
    return [np.stack(out), *(s[None] for s in states)]


def message(call, *args, **options):
    with pytest.raises(InputError) as caught:
        call(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_layout_is_tested_here():
    assert sorted(LAYOUTS) == sorted(ONE_BIAS + TWO_BIASES)


# Flax: the real cells, their parameter trees as they make them.


def flax_cell(name):
    """A cell, its tree of random parameters, and a function (tree, carry, x) -> (carry, y)."""
    library, cls = name.split(".")[1:]
    if library == "linen":
        cell: Any = getattr(linen, cls)(H, dtype=jnp.float64, param_dtype=jnp.float64)
        carry: Any = jax.ShapeDtypeStruct((B, H), jnp.float64)
        carry = (carry, carry) if kind_of(name) == "lstm" else carry
        x = jax.ShapeDtypeStruct((B, I), jnp.float64)
        tree = jax.eval_shape(cell.init, jax.random.key(0), carry, x)["params"]

        def apply(tree, carry, x):
            return cell.apply({"params": tree}, carry, x)

    else:
        make = lambda: getattr(nnx, cls)(  # noqa: E731
            I, H, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
        )
        graph, state = nnx.split(nnx.eval_shape(make))
        tree = nnx.to_pure_dict(state)

        def apply(tree, carry, x):
            return nnx.merge(graph, nnx.State(tree))(carry, x)

    leaves, structure = jax.tree.flatten(tree)
    leaves = [normal(leaf.shape, seed) for seed, leaf in enumerate(leaves)]
    return apply, jax.tree.unflatten(structure, leaves)


def run_flax(name, apply, tree):
    if any("." in key for key in tree):
        tree = unflatten_dict(tree, sep=".")
    tree = jax.tree.map(jnp.asarray, tree)
    x, h, c = inputs()
    carry, out = ((c[0], h[0]) if kind_of(name) == "lstm" else h[0]), []
    for x_t in x:
        carry, y = apply(tree, carry, x_t)
        out.append(y)
    last = carry[::-1] if kind_of(name) == "lstm" else [carry]
    return [np.stack(out), *(np.asarray(s)[None] for s in last)]


@pytest.mark.parametrize("name", FLAX)
def test_flax_cells_compute_as_torch(name):
    apply, tree = flax_cell(name)
    assert_both_ways(name, lambda arrays: run_flax(name, apply, arrays), tree)


def test_a_state_of_flax_nnx_is_taken_as_it_is():
    cell = nnx.GRUCell(I, H, rngs=nnx.Rngs(0))
    state = nnx.state(cell)
    tensors = from_layout("flax.nnx.GRUCell", state, suffix="")
    assert list(tensors) == list(layout.cell("gru", I, H))
    kernel = np.asarray(cell.dense_h.kernel[...])
    np.testing.assert_array_equal(tensors["weight_hh"], kernel.T)


# Keras: the real layers.


@pytest.fixture(scope="module")
def keras(tmp_path_factory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "jax")
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))  # it writes there
        import keras

        return keras


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["keras.LSTM", "keras.GRU", "keras.SimpleRNN"])
def test_keras_layers_compute_as_torch(keras, name, bias):
    cls = getattr(keras.layers, name.removeprefix("keras."))
    layer = cls(
        H,
        use_bias=bias,
        return_sequences=True,
        return_state=True,
        activation=jnp.tanh,  # the default's own tanh rounds to float32
        recurrent_initializer="zeros",  # the default needs rank promotion
        dtype="float64",
    )
    layer.build((B, T, I))
    x, h, c = inputs()
    states = [h[0], c[0]] if kind_of(name) == "lstm" else [h[0]]

    def run(arrays):
        assert sorted(arrays) == sorted(w.name for w in layer.weights)
        layer.set_weights([arrays[w.name] for w in layer.weights])
        with jax.numpy_rank_promotion("allow"):
            out, *last = layer(x.swapaxes(0, 1), initial_state=states)
        return [np.swapaxes(out, 0, 1), *(np.asarray(s)[None] for s in last)]

    arrays = {w.name: normal(w.shape, seed) for seed, w in enumerate(layer.weights)}
    assert_both_ways(name, run, arrays, bias)


def cudnn_gates(arrays, order):
    """Per gate the W, R and two biases that cuDNN takes from a Keras CuDNN layer's weights.

    It gets each gate's block of values in the order in which they lie in memory, row by row, and
    reads them as a matrix of H rows.
    """
    gates = {}
    for k, gate in enumerate(order):
        block = slice(k * H, (k + 1) * H)
        memory = [float(v) for row in arrays["kernel"][:, block] for v in row]
        W = np.array([[memory[j * I + i] for i in range(I)] for j in range(H)])
        memory = [float(v) for row in arrays["recurrent_kernel"][:, block] for v in row]
        R = np.array([[memory[j * H + i] for i in range(H)] for j in range(H)])
        b_W, b_R = arrays["bias"][k * H :][:H], arrays["bias"][(len(order) + k) * H :][:H]
        gates[gate] = (W, R, b_W, b_R)
    return gates


def cudnn_lstm(gates):
    """CUDNN_LSTM as NVIDIA's documentation has it."""

    def step(x, h, c):
        pre = {k: x @ W.T + h @ R.T + b_W + b_R for k, (W, R, b_W, b_R) in gates.items()}
        c = sigmoid(pre["f"]) * c + sigmoid(pre["i"]) * np.tanh(pre["c"])
        return sigmoid(pre["o"]) * np.tanh(c), c

    return numpy_run(step, 2)


def cudnn_gru(gates):
    """CUDNN_GRU as NVIDIA's documentation has it; its i is the update gate, z."""

    def step(x, h):
        wx = {k: x @ W.T + b_W for k, (W, R, b_W, b_R) in gates.items()}
        rh = {k: h @ R.T + b_R for k, (W, R, b_W, b_R) in gates.items()}
        i, r = sigmoid(wx["z"] + rh["z"]), sigmoid(wx["r"] + rh["r"])
        return [(1 - i) * np.tanh(wx["h"] + r * rh["h"]) + i * h]

    return numpy_run(step, 1)


@pytest.mark.parametrize(
    ("name", "order", "equation"),
    [("keras.CuDNNLSTM", "ifco", cudnn_lstm), ("keras.CuDNNGRU", "zrh", cudnn_gru)],
)
def test_keras_cudnn_layers_are_the_buffers_that_cudnn_reads(name, order, equation):
    G = len(order)
    shapes = {"kernel": (I, G * H), "recurrent_kernel": (H, G * H), "bias": (2 * G * H,)}
    arrays = {n: normal(shape, seed) for seed, (n, shape) in enumerate(shapes.items())}
    assert_both_ways(name, lambda arrays: equation(cudnn_gates(arrays, order)), arrays)


# TensorFlow 1.


@pytest.mark.parametrize("forget_bias", [1.0, 0.0, -0.3])
def test_basic_lstm_cell_computes_as_torch(forget_bias):
    def run(arrays):
        def step(x, h, c):
            pre = np.concatenate([x, h], 1) @ arrays["kernel"] + arrays["bias"]
            i, j, f, o = np.split(pre, 4, axis=1)
            c = c * sigmoid(f + forget_bias) + sigmoid(i) * np.tanh(j)
            return np.tanh(c) * sigmoid(o), c

        return numpy_run(step, 2)

    arrays = {"kernel": normal((I + H, 4 * H)), "bias": normal((4 * H,))}
    assert_both_ways("tensorflow.BasicLSTMCell", run, arrays, forget_bias=forget_bias)


def test_the_forget_bias_is_one_unless_given():
    name = "tensorflow.BasicLSTMCell"
    arrays = {"kernel": np.zeros((I + H, 4 * H)), "bias": np.arange(4.0 * H)}
    tensors = from_layout(name, arrays)
    np.testing.assert_array_equal(tensors["bias_ih_l0"][H : 2 * H], np.arange(2 * H, 3 * H) + 1)
    np.testing.assert_array_equal(tensors["bias_ih_l0"][:H], np.arange(H))
    assert not tensors["bias_hh_l0"].any()
    assert bits(to_layout(name, tensors)) == bits(arrays)


# ONNX: two runtimes.


def onnx_model(name, arrays, dtype):
    operator, lstm = name.removeprefix("onnx."), kind_of(name) == "lstm"
    first, last = ["initial_h", "initial_c"][: 1 + lstm], ["Y", "Y_h", "Y_c"][: 2 + lstm]
    names = ["X", "W", "R", "B" if "B" in arrays else ""]
    attributes: dict[str, Any] = {
        "hidden_size": H,
        "direction": "bidirectional" if len(arrays["W"]) == 2 else "forward",
        **({"linear_before_reset": 1} if operator == "GRU" else {}),
    }
    node = onnx.helper.make_node(operator, [*names, "", *first], last, **attributes)
    x, *states = inputs(len(arrays["W"]))
    feeds = arrays | {"X": x} | dict(zip(first, states, strict=False))
    element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    info = onnx.helper.make_tensor_value_info
    takes = [info(n, element, a.shape) for n, a in feeds.items()]
    gives = [info(n, element, [None] * (4 if n == "Y" else 3)) for n in last]
    graph = onnx.helper.make_graph([node], "one", takes, gives)
    opsets = [onnx.helper.make_opsetid("", 14)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model)
    return model, {n: a.astype(dtype) for n, a in feeds.items()}


def joined(outputs):
    """Y (T, D, B, H) as torch has it, (T, B, D * H); the states are the same."""
    Y, *states = outputs
    return [Y.swapaxes(1, 2).reshape(T, B, -1), *states]


def run_onnxruntime(name, arrays):
    model, feeds = onnx_model(name, arrays, np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return joined(session.run(None, feeds))


def run_onnx_reference(name, arrays):
    model, feeds = onnx_model(name, arrays, np.float64)
    from onnx.reference import ReferenceEvaluator

    return joined(ReferenceEvaluator(model).run(None, feeds))


ONNX_RUNS = [(run_onnxruntime, "float32"), (run_onnx_reference, "float64")]


@pytest.mark.parametrize(("run", "dtype"), ONNX_RUNS, ids=["onnxruntime", "reference"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("D", [1, 2])
@pytest.mark.parametrize("name", ["onnx.LSTM", "onnx.GRU", "onnx.RNN"])
def test_onnx_operators_compute_as_torch(name, D, bias, run, dtype):
    G = len(GATES[kind_of(name)])
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H)} | ({"B": (D, 2 * G * H)} if bias else {})
    arrays = {n: normal(s, seed).astype(dtype) for seed, (n, s) in enumerate(shapes.items())}
    tensors = from_layout(name, arrays, **options_of(name))
    assert list(tensors) == list(
        layout.recurrent(kind_of(name), I, H, bias=bias, bidirectional=D == 2)
    )
    assert_same(run(name, arrays), run_torch(name, tensors), dtype)

    tensors = torch_tensors(name, bias, ("_l0", "_l0_reverse")[:D], dtype)
    arrays = to_layout(name, tensors)
    assert {n: a.shape for n, a in arrays.items()} == shapes
    assert_same(run(name, arrays), run_torch(name, tensors), dtype)


@pytest.mark.parametrize("suffix", ["", "_l0_reverse", "_l1", "_l12_reverse"])
def test_any_layer_and_direction_has_its_suffix(suffix):
    plain = torch_tensors("onnx.LSTM", suffixes=("",))
    tensors = {f"{n}{suffix}": a for n, a in plain.items()}
    arrays = to_layout("onnx.LSTM", tensors, suffix=suffix)
    assert bits(arrays) == bits(to_layout("onnx.LSTM", plain, suffix=""))
    assert bits(from_layout("onnx.LSTM", arrays, suffix=suffix)) == bits(tensors)


# cuDNN: one flat buffer.

STACKED = [
    *("weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"),
    *("weight_ih_l1", "weight_hh_l1", "weight_ih_l1_reverse", "weight_hh_l1_reverse"),
    *("bias_ih_l0", "bias_hh_l0", "bias_ih_l0_reverse", "bias_hh_l0_reverse"),
    *("bias_ih_l1", "bias_hh_l1", "bias_ih_l1_reverse", "bias_hh_l1_reverse"),
]


def stacked(kind, num_layers, bidirectional):
    shapes = layout.recurrent(kind, I, H, num_layers, bidirectional=bidirectional)
    return {n: normal(shape, seed) for seed, (n, shape) in enumerate(shapes.items())}


@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, True)])
@pytest.mark.parametrize("name", ["cudnn.LSTM", "cudnn.GRU", "cudnn.RNN"])
def test_the_flat_buffer_has_all_weights_before_all_biases(name, num_layers, bidirectional):
    tensors = stacked(kind_of(name), num_layers, bidirectional)
    arrays = to_layout(name, tensors)
    expected = np.concatenate([tensors[n].ravel() for n in STACKED if n in tensors])
    assert bits(arrays) == bits({"weights": expected})
    options = options_of(name, (I, H), num_layers, bidirectional)
    assert bits(from_layout(name, arrays, **options)) == bits(tensors)
    assert list(from_layout(name, arrays, **options)) == list(tensors)


def test_the_flat_buffer_is_that_of_jax():
    tensors = stacked("lstm", 2, True)
    (weights,) = to_layout("cudnn.LSTM", tensors).values()
    assert weights.shape == (jax_rnn.get_num_params_in_lstm(I, H, 2, True),)
    unpacked = jax_rnn.unpack_lstm_weights(jnp.asarray(weights), I, H, 2, True)
    x, h, c = inputs(4)
    run = jax.jit(
        lambda *a: jax_rnn.lstm_ref(*a, I, H, 2, 0.0, True),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    lengths = jnp.full((B,), T, jnp.int32)
    out, *last = run(x.swapaxes(0, 1), h, c, *unpacked, lengths)
    assert_same([np.swapaxes(out, 0, 1), *last], run_torch("cudnn.LSTM", tensors, 2))


@pytest.mark.parametrize(
    ("name", "order", "equation"),
    [
        ("cudnn.LSTM", "ifco", cudnn_lstm),  # linLayerID 0 to 3 of CUDNN_LSTM
        ("cudnn.GRU", "rzh", cudnn_gru),  # linLayerID 0 to 2 of CUDNN_GRU
    ],
)
def test_the_flat_buffer_has_the_gates_in_the_order_of_cudnns_ids(name, order, equation):
    G = len(order)

    def run(arrays):
        weights = arrays["weights"]
        ends = np.cumsum([G * H * I, G * H * H, G * H])
        W, R, b_W, b_R = (np.split(part, G) for part in np.split(weights, ends))
        gates = {
            gate: (W[k].reshape(H, I), R[k].reshape(H, H), b_W[k], b_R[k])
            for k, gate in enumerate(order)
        }
        return equation(gates)

    arrays = {"weights": normal((G * H * (I + H + 2),))}
    assert_both_ways(name, run, arrays)


# Bits, biases, dtypes.


@st.composite
def cases(draw):
    name = draw(st.sampled_from(sorted(LAYOUTS)))
    sizes = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    bias = draw(st.booleans()) if name in WITHOUT_BIAS else True
    dtype = draw(st.sampled_from([np.float64, np.float32, np.float16, ml_dtypes.bfloat16]))
    suffix = "_l0" if name.startswith("cudnn.") else draw(st.sampled_from(["_l0", "_l3"]))
    suffixes = (suffix, f"{suffix}_reverse")
    two = name.startswith(("onnx.", "cudnn.")) and draw(st.booleans())
    return name, sizes, bias, dtype, suffixes if two else suffixes[:1]


@settings(max_examples=200, deadline=None)
@given(cases())
def test_a_round_trip_changes_no_bit(case):
    name, sizes, bias, dtype, suffixes = case
    options = options_of(name, sizes, bidirectional=len(suffixes) == 2)
    offset = {"forget_bias": 0.0} if name.startswith("tensorflow") else {}
    tensors = torch_tensors(name, bias, suffixes, dtype, sizes)
    arrays = to_layout(name, tensors, suffix=suffixes[0], **offset)
    if name in TWO_BIASES:
        back = from_layout(name, arrays, suffix=suffixes[0], **options)
        assert bits(back) == bits(tensors)
        assert list(back) == list(tensors)

    arrays = {n: normal(a.shape, 5).astype(a.dtype) for n, a in arrays.items()}
    for array in arrays.values():
        array[normal(array.shape, 6) < -1] = -0.0
    tensors = from_layout(name, arrays, suffix=suffixes[0], **options, **offset)
    assert bits(to_layout(name, tensors, suffix=suffixes[0], **offset)) == bits(arrays)


@pytest.mark.parametrize("name", ONE_BIAS)
def test_two_biases_become_their_sum_and_zeros(name):
    tensors = torch_tensors(name)
    back = from_layout(name, to_layout(name, tensors))
    own, other = ("bias_ih_l0", "bias_hh_l0")
    if kind_of(name) == "lstm" and name.startswith("flax."):
        own, other = other, own
    joint = slice(0, 2 * H) if kind_of(name) == "gru" else slice(None)
    expected = {n: a.copy() for n, a in tensors.items()}
    expected[own][joint] += expected[other][joint]
    expected[other][joint] = 0
    assert sorted(back) == sorted(expected)
    if name != "tensorflow.BasicLSTMCell":
        assert bits(back) == {n: bits(expected)[n] for n in back}
    assert_same([back[n] for n in expected], list(expected.values()))


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_a_layer_without_biases_gets_none_or_zeros(name):
    tensors = torch_tensors(name, bias=False)
    arrays = to_layout(name, tensors)
    back = from_layout(name, arrays, **options_of(name))
    if name in WITHOUT_BIAS:
        assert not {"bias", "B"} & set(arrays)
        assert bits(back) == bits(tensors)
    else:
        zeros = {n: np.zeros(len(GATES[kind_of(name)]) * H) for n in ("bias_ih_l0", "bias_hh_l0")}
        assert bits(back) == bits(tensors | zeros)


def test_a_sum_of_bfloat16_is_rounded_once():
    tensors = torch_tensors("tensorflow.BasicLSTMCell", dtype=ml_dtypes.bfloat16)
    tensors["bias_ih_l0"][:], tensors["bias_hh_l0"][:] = 1, 2**-10  # 1 + 2**-10 rounds to 1
    bias = to_layout("tensorflow.BasicLSTMCell", tensors)["bias"]
    assert bias.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(bias[2 * H : 3 * H].astype(np.float64), 2**-10)
    np.testing.assert_array_equal(bias[: 2 * H].astype(np.float64), 1)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_no_memory_is_shared_and_nothing_given_is_written_to(name):
    tensors = torch_tensors(name)
    for tensor in tensors.values():
        tensor.flags.writeable = False
    arrays = to_layout(name, tensors)
    for array in arrays.values():
        assert not any(np.shares_memory(array, tensor) for tensor in tensors.values())
        array.flags.writeable = False
    back = from_layout(name, arrays, **options_of(name))
    for tensor in back.values():
        assert not any(np.shares_memory(array, tensor) for array in arrays.values())


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_how_an_array_lies_in_memory_does_not_matter(name):
    tensors = torch_tensors(name)
    arrays = to_layout(name, tensors)
    strided = {n: np.repeat(np.asfortranarray(a), 2, -1)[..., ::2] for n, a in tensors.items()}
    assert bits(to_layout(name, strided)) == bits(arrays)
    expected = from_layout(name, arrays, **options_of(name))
    strided = {n: np.repeat(np.asfortranarray(a), 2, -1)[..., ::2] for n, a in arrays.items()}
    assert bits(from_layout(name, strided, **options_of(name))) == bits(expected)


# What is refused, and how it is said.


def test_the_layouts_need_numpy_alone():
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'jax', 'flax', 'keras', 'onnx'))\n"
        "import numpy as np; from torch_compat.foreign import from_layout\n"
        "arrays = {'kernel': np.ones((2, 3)), 'recurrent_kernel': np.eye(3)}\n"
        "print({n: a.shape for n, a in from_layout('keras.SimpleRNN', arrays).items()})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "{'weight_ih_l0': (3, 2), 'weight_hh_l0': (3, 3)}\n"


@pytest.mark.parametrize("call", [from_layout, to_layout])
def test_an_unknown_layout_is_answered_with_the_known_ones(call):
    found = message(call, "keras.LSTMs", {})
    assert found == f"unknown layout 'keras.LSTMs', expected one of {', '.join(LAYOUTS)}"


RESET = (
    "without it the reset gate multiplies h before the matrix product, which is another equation "
    "than torch.nn.GRU's"
)


def test_the_other_gru_of_keras_is_refused():
    name, tensors = "keras.GRU", torch_tensors("keras.GRU")
    arrays = to_layout(name, tensors)
    expected = f"keras.GRU: reset_after is False, must be True: {RESET}"
    assert message(from_layout, name, arrays, reset_after=False) == expected
    assert message(to_layout, name, tensors, reset_after=False) == expected
    assert bits(from_layout(name, arrays, reset_after=True)) == bits(tensors)
    assert message(from_layout, name, arrays | {"bias": np.zeros(3 * H)}) == (
        f"keras.GRU: bias (18,) is refused: it is that of reset_after=False; {RESET}"
    )


def test_the_other_gru_of_onnx_is_refused():
    name, tensors = "onnx.GRU", torch_tensors("onnx.GRU")
    arrays = to_layout(name, tensors, linear_before_reset=1)
    expected = f"onnx.GRU: linear_before_reset is {{}}, must be 1: {RESET}"
    assert message(from_layout, name, arrays) == expected.format("missing")
    assert message(from_layout, name, arrays, linear_before_reset=0) == expected.format(0)
    assert message(to_layout, name, tensors, linear_before_reset=0) == expected.format(0)


def test_peepholes_are_refused():
    arrays = to_layout("onnx.LSTM", torch_tensors("onnx.LSTM")) | {"P": np.zeros((1, 3 * H))}
    expected = "onnx.LSTM: P (1, 18) is refused: torch.nn.LSTM has no peepholes"
    assert message(from_layout, "onnx.LSTM", arrays) == expected


def test_a_bias_inside_the_reset_gates_product_is_refused_by_nnx():
    tensors = torch_tensors("flax.nnx.GRUCell")
    tensors["bias_hh_l0"][2 * H + 1] = -0.3
    assert message(to_layout, "flax.nnx.GRUCell", tensors) == (
        "flax.nnx.GRUCell has no bias inside the reset gate's product (google/flax#5594): "
        "bias_hh_l0 of n must be zero, its largest value is 0.3"
    )


@pytest.mark.parametrize("name", [name for name in LAYOUTS if kind_of(name) == "lstm"])
def test_projections_are_refused(name):
    shapes = layout.recurrent("lstm", I, H, proj_size=2)
    tensors = {n: np.zeros(shape) for n, shape in shapes.items()}
    expected = f"{name} has no projection (proj_size): weight_hr_l0 (2, 6)"
    assert message(to_layout, name, tensors) == expected


def test_suffixes_are_torchs():
    tensors = torch_tensors("onnx.RNN", suffixes=("_l0", "_l0_reverse"))
    arrays = to_layout("onnx.RNN", tensors)
    for call, given_arrays in ((from_layout, arrays), (to_layout, tensors)):
        assert message(call, "onnx.RNN", given_arrays, suffix="_0") == (
            "suffix is '_0', expected one of torch's: '_l0', '_l1_reverse', ''"
        )
    for suffix in ("", "_l0_reverse"):
        assert message(from_layout, "onnx.RNN", arrays, suffix=suffix) == (
            f"onnx.RNN: suffix is {suffix!r}, expected that of the forward direction, such as "
            "'_l0', since the arrays hold two"
        )
    flat = to_layout("cudnn.RNN", tensors)
    options = options_of("cudnn.RNN", bidirectional=True)
    expected = "cudnn.RNN holds all layers and directions: suffix '_l1' has no meaning"
    assert message(from_layout, "cudnn.RNN", flat, suffix="_l1", **options) == expected
    assert message(to_layout, "cudnn.RNN", tensors, suffix="_l1") == expected


def test_a_flat_buffer_needs_sizes():
    flat = to_layout("cudnn.GRU", torch_tensors("cudnn.GRU"))
    rest = "expected a whole number from 1: a flat buffer has no shapes to read it from"
    assert message(from_layout, "cudnn.GRU", flat, hidden_size=H) == (
        f"cudnn.GRU: input_size is None, {rest}"
    )
    options = options_of("cudnn.GRU")
    for option, value in (("num_layers", 0), ("hidden_size", 2.5)):
        assert message(from_layout, "cudnn.GRU", flat, **options | {option: value}) == (
            f"cudnn.GRU: {option} is {value}, {rest}"
        )
    assert message(from_layout, "cudnn.GRU", flat, **options | {"bidirectional": 2}) == (
        "cudnn.GRU: bidirectional is 2, expected True or False"
    )
    assert message(from_layout, "cudnn.GRU", flat, **options | {"num_layers": 2}) == (
        "cudnn.GRU: parameters don't fit: weights has shape (216,), expected (468,)"
    )


def test_options_are_those_of_the_layout():
    name = "tensorflow.BasicLSTMCell"
    tensors = torch_tensors(name)
    assert message(to_layout, name, tensors, forget=1.0, reset_after=True) == (
        "tensorflow.BasicLSTMCell: no option forget, reset_after here, expected forget_bias"
    )
    assert message(to_layout, "cudnn.LSTM", tensors, input_size=I) == (
        "cudnn.LSTM: no option input_size here, expected none"
    )
    for value in (float("nan"), "1"):
        assert message(to_layout, name, tensors, forget_bias=value) == (
            f"tensorflow.BasicLSTMCell: forget_bias is {value}, expected a finite number"
        )


def test_all_arrays_that_do_not_fit_are_named_together():
    arrays = to_layout("keras.LSTM", torch_tensors("keras.LSTM"))
    arrays["kernel"] = arrays["kernel"].T
    arrays["bias"][3] = np.nan
    del arrays["recurrent_kernel"]
    arrays["extra"] = np.zeros((2, 3), np.float32)
    arrays["count"] = np.zeros((), np.int64)
    assert message(from_layout, "keras.LSTM", arrays) == (
        "keras.LSTM: parameters don't fit: kernel has shape (24, 4), expected (4, 24); "
        "recurrent_kernel is missing, expected (6, 24); "
        "bias (24,) holds 1 values that are NaN or infinite, expected finite ones (24,); "
        "extra (2, 3) is not expected; count () is not expected; "
        "dtypes are mixed, expected one: bias is float64, extra is float32"
    )


def test_all_tensors_that_do_not_fit_are_named_together():
    tensors: dict[str, Any] = torch_tensors("onnx.GRU", suffixes=("_l0", "_l0_reverse"))
    tensors["weight_ih_l0"] = tensors["weight_ih_l0"].T
    tensors["weight_hh_l0"] = tensors["weight_hh_l0"][:, :-1]
    tensors["bias_hh_l0"] = tensors["bias_hh_l0"].astype(np.int32)
    tensors["weight_ih_l1"] = np.zeros((3 * H, 2 * H))
    del tensors["bias_ih_l0"], tensors["weight_ih_l0_reverse"]
    assert message(to_layout, "onnx.GRU", tensors) == (
        "onnx.GRU: parameters don't fit: weight_ih_l0 has shape (4, 18), expected (18, 4); "
        "weight_hh_l0 has shape (18, 5), expected (18, 6); bias_ih_l0 is missing, expected (18,); "
        "bias_hh_l0 (18,) is int32, expected floating-point (18,); "
        "weight_ih_l0_reverse is missing, expected (18, 4); weight_ih_l1 (18, 12) is not expected"
    )


def test_a_stack_lacks_no_layer():
    tensors = stacked("rnn", 2, True)
    tensors = {n.replace("_l1", "_l2"): a for n, a in tensors.items()}
    del tensors["weight_hh_l2_reverse"]
    found = message(to_layout, "cudnn.RNN", tensors)
    for n in ("weight_ih_l1", "weight_hh_l1", "bias_ih_l1", "weight_ih_l1_reverse"):
        assert f"{n} is missing" in found
    for n in ("weight_ih_l2 (6, 12)", "bias_hh_l2_reverse (6,)"):
        assert f"{n} is not expected" in found


def test_a_missing_size_is_unknown():
    assert message(from_layout, "keras.SimpleRNN", {}) == (
        "keras.SimpleRNN: parameters don't fit: kernel is missing, expected (?, ?); "
        "recurrent_kernel is missing, expected (?, ?)"
    )


def test_arrays_are_a_mapping_by_name(unchecked):
    weights = [np.zeros((I, H)), np.zeros((H, H))]  # as Keras's get_weights gives them
    assert message(from_layout, "keras.SimpleRNN", weights) == (
        "keras.SimpleRNN: arrays is a list, expected a mapping by the names 'kernel', "
        "'recurrent_kernel', 'bias'"
    )


def test_names_of_variables_and_absent_arrays_are_taken():
    arrays = to_layout("keras.SimpleRNN", torch_tensors("keras.SimpleRNN"))
    named = {f"{name}:0": array for name, array in arrays.items()}
    assert bits(from_layout("keras.SimpleRNN", named)) == bits(
        from_layout("keras.SimpleRNN", arrays)
    )
    del arrays["bias"]
    without = from_layout("keras.SimpleRNN", arrays)
    assert bits(from_layout("keras.SimpleRNN", arrays | {"bias": None})) == bits(without)
    assert list(without) == ["weight_ih_l0", "weight_hh_l0"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_of_torch_are_taken_as_they_are(dtype):
    module = torch.nn.GRU(I, H, dtype=dtype)
    arrays = to_layout("keras.GRU", dict(module.named_parameters()))
    assert bits(arrays) == bits(to_layout("keras.GRU", module.state_dict()))
    back = from_layout("keras.GRU", arrays)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(back[name].astype(np.float32), tensor.float().numpy())


def test_a_name_is_given_once():
    arrays = {"i": {"kernel": np.zeros((I, H))}, "i.kernel": np.zeros((I, H))}
    expected = "flax.linen.SimpleCell: i.kernel is given twice, nested and with dots"
    assert message(from_layout, "flax.linen.SimpleCell", arrays) == expected


def test_a_sum_that_overflows_is_refused():
    tensors = torch_tensors("keras.SimpleRNN", dtype=np.float16)
    tensors["bias_ih_l0"][2] = tensors["bias_hh_l0"][2] = 40_000
    assert message(to_layout, "keras.SimpleRNN", tensors) == (
        "keras.SimpleRNN: parameters don't fit: bias (6,) holds 1 values that are NaN or infinite, "
        "expected finite ones (6,)"
    )
