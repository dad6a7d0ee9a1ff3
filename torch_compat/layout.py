"""Names and shapes of every parameter as torch.nn has them: the one table, for both directions.

jaxrnn stores its parameters under the same names and in the same shapes, so that conversion
renames and never computes. G is gates * H, the gates ordered i, f, g, o (LSTM) and r, z, n (GRU):

    recurrent layer   weight_ih (G, I), weight_hh (G, P or H), bias_ih (G,), bias_hh (G,),
                      weight_hr (P, H), each with a suffix _l{k} or _l{k}_reverse; I of the layers
                      above the first is D * (P or H)
    cell              the same without suffixes and weight_hr
    CharLM            embedding.weight (V, E) unless one-hot, rnn.*, decoder.weight, decoder.bias
    Forecaster        rnn.*, decoder.weight, decoder.bias

The kind of a layer and all its sizes can be read back from names and shapes: the rows of
weight_hh over its columns are 4 (LSTM), 3 (GRU) or 1 (RNN). NumPy alone is needed here. Usage::

    arrays = convert(arrays, expected("CharLM", {"num_symbols": 65, "cell": "lstm", ...}))
    find(shapes)                  # {"encoder.rnn": ("LSTM", {"input_size": 10, ...}), ...}
"""

from __future__ import annotations

import re
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
_CELL = ("input_size", "hidden_size", "bias")
_TABLE: dict[str, tuple[Callable[..., Shapes], tuple[str, ...]]] = {
    "LSTM": (lambda *sizes: recurrent("lstm", *sizes), (*_LAYER, "proj_size")),
    "GRU": (lambda *sizes: recurrent("gru", *sizes), _LAYER),
    "RNN": (lambda *sizes: recurrent("rnn", *sizes), _LAYER),
    "LSTMCell": (lambda *sizes: cell("lstm", *sizes), _CELL),
    "GRUCell": (lambda *sizes: cell("gru", *sizes), _CELL),
    "RNNCell": (lambda *sizes: cell("rnn", *sizes), _CELL),
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


Layer = tuple[str, dict[str, Any]]
"""A recurrent layer or cell: the name of torch's class, and the arguments that decide shapes."""

_NAME = re.compile(r"(weight_ih|weight_hh|bias_ih|bias_hh|weight_hr)(?:_l(\d+)(_reverse)?)?")


def find(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Layer]:
    """Every recurrent layer and cell in a state dict, by its prefix ("" at the top).

    Raises InputError as ``read`` does for one whose sizes can't be read.
    """
    owners = [name.rpartition(".") for name in shapes]
    prefixes = dict.fromkeys(p for p, _, name in owners if re.match(r"weight_hh(_l0)?$", name))
    return {prefix: read(within(shapes, prefix), prefix) for prefix in prefixes}


def within(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What a state dict has under a prefix, without it."""
    start = f"{prefix}." if prefix else ""
    return {
        name.removeprefix(start): value for name, value in values.items() if name.startswith(start)
    }


def read(shapes: Mapping[str, tuple[int, ...]], prefix: str = "") -> Layer:
    """The layer that has parameters of these names and shapes; ``prefix`` is for messages.

    What is around the layer's first two matrices is presumed to fit them: ``convert`` finds what
    does not. Raises InputError where there are none, or they are no LSTM's, GRU's or RNN's.
    """
    where = f"{prefix}." if prefix else ""
    suffix = "" if "weight_hh" in shapes else "_l0"

    def matrix(name: str) -> tuple[int, int]:
        shape = shapes.get(f"{name}{suffix}")
        if shape is None:
            raise InputError(f"{where}{name}{suffix} is missing: no recurrent layer is there")
        if len(shape) != 2 or 0 in shape:
            raise InputError(f"{where}{name}{suffix} has shape {shape}, expected a matrix")
        return shape[0], shape[1]

    (_, input_size), (rows, columns) = matrix("weight_ih"), matrix("weight_hh")
    projection = matrix("weight_hr") if f"weight_hr{suffix}" in shapes else None
    hidden_size = columns if projection is None else projection[1]
    kinds = {gates * hidden_size: kind for kind, gates in NUM_GATES.items()}
    kind = kinds.get(rows)
    if kind is None or (projection is not None and kind != "lstm"):
        expected = ", ".join(f"({n}, {columns}) of {k}" for n, k in kinds.items())
        raise InputError(
            f"{where}weight_hh{suffix} has shape {(rows, columns)}, expected {expected}, with "
            f"hidden_size {hidden_size}"
        )
    sizes = {
        "input_size": input_size,
        "hidden_size": hidden_size,
        "bias": any(name.startswith("bias_") for name in shapes),
    }
    if not suffix:
        return f"{kind.upper()}Cell", sizes
    matches = [match for name in shapes if (match := _NAME.fullmatch(name))]
    stacked = {
        "num_layers": len({match[2] for match in matches if match[2]}),
        "bidirectional": any(match[3] for match in matches),
    }
    sized = {"proj_size": 0 if projection is None else columns} if kind == "lstm" else {}
    return kind.upper(), sizes | stacked | sized


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
