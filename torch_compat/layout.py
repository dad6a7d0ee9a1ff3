"""Names and shapes of every parameter as torch.nn has them: the one table, for both directions.

jaxrnn stores its parameters under the same names and in the same shapes, so that conversion
renames and never computes. G is gates * H, the gates ordered i, f, g, o (LSTM) and r, z, n (GRU):

    recurrent layer   weight_ih (G, I), weight_hh (G, P or H), bias_ih (G,), bias_hh (G,),
                      weight_hr (P, H), each with a suffix _l{k} or _l{k}_reverse; I of the layers
                      above the first is D * (P or H)
    cell              the same without suffixes and weight_hr
    CharLM            embedding.weight (V, E) unless one-hot, rnn.*, decoder.weight, decoder.bias
    Forecaster        rnn.*, decoder.weight, decoder.bias

NumPy alone is needed here. Usage::

    arrays = convert(arrays, expected("CharLM", {"num_symbols": 65, "cell": "lstm", ...}))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jaxrnn.errors import InputError

Shapes = dict[str, tuple[int, ...]]
"""Shapes of parameters by name, in torch's order."""

NUM_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Rows of a weight matrix over hidden_size, by the kind of cell."""


def blocks(
    kind: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bias: bool = True,
    bidirectional: bool = False,
    proj_size: int = 0,
) -> Iterator[tuple[str, Shapes]]:
    """Each layer and direction of a recurrent layer: its suffix, and its shapes without it."""
    suffixes = ("", "_reverse") if bidirectional else ("",)
    gate_size, output_size = NUM_GATES[kind] * hidden_size, proj_size or hidden_size
    for layer in range(num_layers):
        width = len(suffixes) * output_size if layer else input_size
        shapes: Shapes = {"weight_ih": (gate_size, width), "weight_hh": (gate_size, output_size)}
        if bias:
            shapes |= {"bias_ih": (gate_size,), "bias_hh": (gate_size,)}
        if proj_size:
            shapes["weight_hr"] = (proj_size, hidden_size)
        for suffix in suffixes:
            yield f"_l{layer}{suffix}", shapes


def recurrent(
    kind: str,
    input_size: int,
    hidden_size: int,
    num_layers: int = 1,
    bias: bool = True,
    bidirectional: bool = False,
    proj_size: int = 0,
) -> Shapes:
    """The parameters of ``LSTM``, ``GRU`` or ``RNN``; ``kind`` is 'lstm', 'gru' or 'rnn'."""
    parts = blocks(kind, input_size, hidden_size, num_layers, bias, bidirectional, proj_size)
    return {f"{name}{suffix}": shape for suffix, shapes in parts for name, shape in shapes.items()}


def cell(kind: str, input_size: int, hidden_size: int, bias: bool = True) -> Shapes:
    """The parameters of ``LSTMCell``, ``GRUCell`` or ``RNNCell``."""
    ((_, shapes),) = blocks(kind, input_size, hidden_size, bias=bias)
    return shapes


def char_lm(
    num_symbols: int, cell: str, hidden_size: int, num_layers: int, embedding_size: int
) -> Shapes:
    """The parameters of ``CharLM``."""
    embedding: Shapes = {"weight": (num_symbols, embedding_size)} if embedding_size else {}
    return {
        **_within("embedding", embedding),
        **_within("rnn", recurrent(cell, embedding_size or num_symbols, hidden_size, num_layers)),
        **_within("decoder", _linear(hidden_size, num_symbols)),
    }


def forecaster(
    input_size: int, output_size: int, cell: str, hidden_size: int, num_layers: int
) -> Shapes:
    """The parameters of ``Forecaster``."""
    return {
        **_within("rnn", recurrent(cell, input_size, hidden_size, num_layers)),
        **_within("decoder", _linear(hidden_size, output_size)),
    }


def _linear(in_features: int, out_features: int) -> Shapes:
    return {"weight": (out_features, in_features), "bias": (out_features,)}


def _within(owner: str, shapes: Shapes) -> Shapes:
    return {f"{owner}.{name}": shape for name, shape in shapes.items()}


_LAYER = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional")
_TABLE: dict[str, tuple[Callable[..., Shapes], tuple[str, ...]]] = {
    "LSTM": (lambda *sizes: recurrent("lstm", *sizes), (*_LAYER, "proj_size")),
    "GRU": (lambda *sizes: recurrent("gru", *sizes), _LAYER),
    "RNN": (lambda *sizes: recurrent("rnn", *sizes), _LAYER),
    "CharLM": (
        char_lm,
        ("num_symbols", "cell", "hidden_size", "num_layers", "embedding_size"),
    ),
    "Forecaster": (
        forecaster,
        ("input_size", "output_size", "cell", "hidden_size", "num_layers"),
    ),
}


def expected(name: str, arguments: Mapping[str, Any]) -> Shapes:
    """The parameters of the class ``name`` constructed with ``arguments``.

    Those arguments that decide no shape (``dropout``, ``batch_first``, ...) may be among them.
    Raises KeyError for a class or argument that is missing.
    """
    shapes, names = _TABLE[name]
    return shapes(*(arguments[n] for n in names))


def convert(arrays: Mapping[str, np.ndarray], expected: Shapes) -> dict[str, np.ndarray]:
    """The same arrays, under the expected names in the expected order: each used exactly once.

    Raises InputError that names, all together, what is missing or not expected, has another shape,
    is not floating-point or of the same dtype as the rest, or holds NaN or infinity.
    """
    wrong = []
    for name, shape in expected.items():
        if name not in arrays:
            wrong.append(f"{name} is missing, expected {shape}")
            continue
        array = arrays[name]
        if array.shape != shape:
            wrong.append(f"{name} has shape {array.shape}, expected {shape}")
        if not _is_floating(array.dtype):
            wrong.append(f"{name} {array.shape} is {array.dtype}, expected floating-point {shape}")
        elif bad := array.size - np.count_nonzero(np.isfinite(array)):
            wrong.append(
                f"{name} {array.shape} holds {bad} values that are NaN or infinite, expected "
                f"finite ones {shape}"
            )
    for name, array in arrays.items():
        if name not in expected:
            wrong.append(f"{name} {array.shape} is not expected")
    dtypes = {str(a.dtype): name for name, a in arrays.items() if _is_floating(a.dtype)}
    if len(dtypes) > 1:
        found = ", ".join(f"{name} is {dtype}" for dtype, name in dtypes.items())
        wrong.append(f"dtypes are mixed, expected one: {found}")
    if wrong:
        raise InputError(f"parameters don't fit: {'; '.join(wrong)}")
    return {name: arrays[name] for name in expected}


def _is_floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"  # the latter is an extension's
