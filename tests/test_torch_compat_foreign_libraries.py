"""Each layout runs in its own library, or in its equation written out, beside torch.nn."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import linen, nnx
from flax.traverse_util import unflatten_dict
from foreign_layers import (
    FLAX,
    GATES,
    ONE_BIAS,
    TWO_BIASES,
    B,
    H,
    I,
    T,
    assert_both_ways,
    assert_same,
    bits,
    inputs,
    kind_of,
    normal,
    numpy_run,
    options_of,
    run_torch,
    sigmoid,
    stacked,
    torch_tensors,
)
from jax.experimental import rnn as jax_rnn

from torch_compat import layout
from torch_compat.foreign import LAYOUTS, from_layout, to_layout


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


STACKED = [
    *("weight_ih_l0", "weight_hh_l0", "weight_ih_l0_reverse", "weight_hh_l0_reverse"),
    *("weight_ih_l1", "weight_hh_l1", "weight_ih_l1_reverse", "weight_hh_l1_reverse"),
    *("bias_ih_l0", "bias_hh_l0", "bias_ih_l0_reverse", "bias_hh_l0_reverse"),
    *("bias_ih_l1", "bias_hh_l1", "bias_ih_l1_reverse", "bias_hh_l1_reverse"),
]


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
