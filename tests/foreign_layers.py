"""Tensors of a layer for every foreign layout, and torch's layer on the same input."""

from typing import Any

import numpy as np
import torch
from tolerances import assert_close

from torch_compat import layout
from torch_compat.foreign import from_layout, to_layout

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


def stacked(kind, num_layers, bidirectional):
    shapes = layout.recurrent(kind, I, H, num_layers, bidirectional=bidirectional)
    return {n: normal(shape, seed) for seed, (n, shape) in enumerate(shapes.items())}
