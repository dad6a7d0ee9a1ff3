"""The table of other libraries' layouts of recurrent weights: gates, orientation, arrays.

``foreign`` converts by it, in both directions. Usage: ``LAYOUTS["keras.LSTM"].gates`` is "ifgo".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Layout:
    """How one library lays out a layer in one direction (in D directions, if its shapes have a D).

    A name in ``arrays`` ends in ``?`` if a layer without biases lacks the array, and stands for
    an array for each gate in braces, if there are: ``h{rz}.kernel`` is hr.kernel and hz.kernel. An
    array without braces holds all gates in the order of ``gates``. In shapes, I is input, H is
    hidden, G is gates. An array holds the torch tensors named: one, or two one after the other, or
    (``+``) the sum of two.
    """

    kind: str  # of cell: 'lstm', 'gru' or 'rnn'
    gates: str  # in its order, by torch's letters: i, f, g, o or r, z, n; h of an RNN
    orientation: str  # of its matrices: a key of ORIENTATIONS
    arrays: dict[str, tuple[str, str]]  # by name: the shape, and the torch tensors that it holds
    options: dict[str, Any] = field(default_factory=dict)  # by name: the default
    sizes: dict[str, Any] = field(default_factory=dict)  # options that stand in for shapes
    needs: dict[str, tuple[Any, str]] = field(default_factory=dict)  # option: its value, and why
    # What torch's layer can't hold: an array of so many axes, and why.
    refuses: dict[tuple[str, int], str] = field(default_factory=dict)
    # What the layout can't hold unless it is zero: a torch tensor's gate, and why.
    lacks: dict[tuple[str, str], str] = field(default_factory=dict)


ORIENTATIONS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "torch": lambda gate, shape: gate,  # (out, in), the gates along the first axis
    "transposed": lambda gate, shape: gate.T,  # (in, out), the gates along the last axis
    # Shaped (in, out) but filled with (out, in) as that lies in memory, since these buffers went
    # to cuDNN as they were; the gates along the last axis.
    "refilled": lambda gate, shape: gate.reshape(shape),
}

# What the arrays of a layer hold, by name: several layouts share a set.
_LINEN_LSTM = {
    "i{ifgo}.kernel": ("I H", "weight_ih"),
    "h{ifgo}.kernel": ("H H", "weight_hh"),
    "h{ifgo}.bias": ("H", "bias_hh+bias_ih"),
}
_LINEN_GRU = {
    "i{rzn}.kernel": ("I H", "weight_ih"),
    "h{rzn}.kernel": ("H H", "weight_hh"),
    "i{rz}.bias": ("H", "bias_ih+bias_hh"),
    "i{n}.bias": ("H", "bias_ih"),
    "h{n}.bias": ("H", "bias_hh"),
}
_LINEN_RNN = {
    "i.kernel": ("I GH", "weight_ih"),
    "h.kernel": ("H GH", "weight_hh"),
    "i.bias": ("GH", "bias_ih+bias_hh"),
}
_NNX_LSTM = {
    "i{igo}.kernel": ("I H", "weight_ih"),
    "i{f}_.kernel": ("I H", "weight_ih"),  # 'if' can't be an attribute in Python
    "h{ifgo}.kernel": ("H H", "weight_hh"),
    "h{ifgo}.bias": ("H", "bias_hh+bias_ih"),
}
_NNX_DENSE = {"dense_i.kernel": ("I GH", "weight_ih"), "dense_h.kernel": ("H GH", "weight_hh")}
_NNX_BIAS_H = _NNX_DENSE | {"dense_h.bias": ("GH", "bias_hh+bias_ih")}
_NNX_BIAS_I = _NNX_DENSE | {"dense_i.bias": ("GH", "bias_ih+bias_hh")}
_KERAS = {"kernel": ("I GH", "weight_ih"), "recurrent_kernel": ("H GH", "weight_hh")}
_KERAS_ONE_BIAS = _KERAS | {"bias?": ("GH", "bias_ih+bias_hh")}
_KERAS_TWO_BIASES = _KERAS | {"bias?": ("2 GH", "bias_ih bias_hh")}
_KERAS_CUDNN = _KERAS | {"bias": ("2GH", "bias_ih bias_hh")}
_TENSORFLOW = {
    "kernel": ("I+H GH", "weight_ih weight_hh"),
    "bias": ("GH", "bias_ih+bias_hh"),
}
_ONNX = {
    "W": ("D GH I", "weight_ih"),
    "R": ("D GH H", "weight_hh"),
    "B?": ("D 2GH", "bias_ih bias_hh"),
}
# All tensors of a stacked layer, one after the other: weight_ih, weight_hh of each layer and
# direction (l0, l0_reverse, l1, ...); after all of these bias_ih, bias_hh of each.
_CUDNN = {"weights": ("N", "all")}
_CUDNN_SIZES = {"input_size": None, "hidden_size": None, "num_layers": 1, "bidirectional": False}

_RESET_BEFORE = (
    "without it the reset gate multiplies h before the matrix product, which is another equation "
    "than torch.nn.GRU's"
)

LAYOUTS: dict[str, Layout] = {
    "flax.linen.LSTMCell": Layout("lstm", "ifgo", "transposed", _LINEN_LSTM),
    "flax.linen.OptimizedLSTMCell": Layout("lstm", "ifgo", "transposed", _LINEN_LSTM),
    "flax.linen.GRUCell": Layout("gru", "rzn", "transposed", _LINEN_GRU),
    "flax.linen.SimpleCell": Layout("rnn", "h", "transposed", _LINEN_RNN),
    "flax.nnx.LSTMCell": Layout("lstm", "ifgo", "transposed", _NNX_LSTM),
    "flax.nnx.OptimizedLSTMCell": Layout("lstm", "ifgo", "transposed", _NNX_BIAS_H),
    "flax.nnx.GRUCell": Layout(
        "gru",
        "rzn",
        "transposed",
        _NNX_BIAS_I,
        lacks={("bias_hh", "n"): "has no bias inside the reset gate's product (google/flax#5594)"},
    ),
    "flax.nnx.SimpleCell": Layout("rnn", "h", "transposed", _NNX_BIAS_I),
    "keras.LSTM": Layout("lstm", "ifgo", "transposed", _KERAS_ONE_BIAS),
    "keras.GRU": Layout(
        "gru",
        "zrn",
        "transposed",
        _KERAS_TWO_BIASES,
        options={"reset_after": True},
        needs={"reset_after": (True, _RESET_BEFORE)},
        refuses={("bias", 1): f"it is that of reset_after=False; {_RESET_BEFORE}"},
    ),
    "keras.SimpleRNN": Layout("rnn", "h", "transposed", _KERAS_ONE_BIAS),
    "keras.CuDNNLSTM": Layout("lstm", "ifgo", "refilled", _KERAS_CUDNN),
    "keras.CuDNNGRU": Layout("gru", "zrn", "refilled", _KERAS_CUDNN),
    "tensorflow.BasicLSTMCell": Layout(
        "lstm", "igfo", "transposed", _TENSORFLOW, options={"forget_bias": 1.0}
    ),
    "onnx.LSTM": Layout(
        "lstm", "iofg", "torch", _ONNX, refuses={("P", 2): "torch.nn.LSTM has no peepholes"}
    ),
    "onnx.GRU": Layout(
        "gru",
        "zrn",
        "torch",
        _ONNX,
        options={"linear_before_reset": None},
        needs={"linear_before_reset": (1, _RESET_BEFORE)},
    ),
    "onnx.RNN": Layout("rnn", "h", "torch", _ONNX),
    "cudnn.LSTM": Layout("lstm", "ifgo", "torch", _CUDNN, sizes=_CUDNN_SIZES),
    "cudnn.GRU": Layout("gru", "rzn", "torch", _CUDNN, sizes=_CUDNN_SIZES),
    "cudnn.RNN": Layout("rnn", "h", "torch", _CUDNN, sizes=_CUDNN_SIZES),
}
"""Every layout by name: the library's, then the layer's or cell's (``onnx``: the operator's)."""
