"""Names and shapes of every parameter as torch.nn has them: the one table, for both directions.

jaxrnn stores its parameters under the same names and in the same shapes, so that conversion
renames and never computes. G is gates * H, the gates ordered i, f, g, o (LSTM) and r, z, n (GRU):

    recurrent layer   weight_ih (G, I), weight_hh (G, P or H), bias_ih (G,), bias_hh (G,),
                      weight_hr (P, H), each with a suffix _l{k} or _l{k}_reverse; I of the layers
                      above the first is D * (P or H)
    cell              the same without suffixes and weight_hr
    CharLM            embedding.weight (V, E) unless one-hot, rnn.*, decoder.weight, decoder.bias
    MinCharLM         the same, rnn.* being rnn.input.*, rnn.blocks.{k}.*, rnn.norm.weight
    MinGRU, MinLSTM   weight_ih (G, I), bias_ih (G,), each with a suffix _l{k}; gates z, h and f, i,
                      h, and no matrix for h
    Forecaster        rnn.*, decoder.weight, decoder.bias
    DirectForecaster, RecursiveForecaster, SegmentForecaster
                      normalization.* of revin; rnn.*, decoder.*; of the first known_hidden.*,
                      known_decoder.*, of the second encoder.*, of the third place, target,
                      segment.*, known.*
    LayerNormLSTM     weight_ih, weight_hh without a bias, and ln_gates_*, ln_cell_* of its norms
    HyperLSTM         the same, what steers its gates, and hyper_cell.*, a LayerNormLSTM
    SketchRNN         of encoder.*, mu.*, presig.*, classes.weight, decoder.*, initial.*, output.*
                      those that it has; decoder is an LSTM, a LayerNormLSTM or a HyperLSTM

The kind of a layer and all its sizes can be read back from names and shapes: the rows of
weight_hh over its columns are 4 (LSTM), 3 (GRU) or 1 (RNN). NumPy alone is needed here. Usage::

    arrays = convert(arrays, expected("CharLM", {"num_symbols": 65, "cell": "lstm", ...}))
    find(shapes)                  # {"encoder.rnn": ("LSTM", {"input_size": 10, ...}), ...}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxrnn.errors import InputError

Shapes = dict[str, tuple[int, ...]]
"""Shapes of parameters by name, in torch's order."""

NUM_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
"""Rows of a weight matrix over hidden_size, by the kind of cell."""

MIN_GATES = {"mingru": 2, "minlstm": 3}
"""The same of the cells that have no weight_hh."""

MIN_CONV_WIDTH, MIN_EXPANSION, MIN_MLP_EXPANSION = 4, 2, 4  # of the blocks around them

TIED = ("embedding.weight", "decoder.weight")
"""The names in a state dict of the one weight of a tied model; jaxrnn has the first alone."""

SKETCH_POINT = 5  # numbers of a point that SketchRNN reads


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


def min_layer(
    kind: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True
) -> Shapes:
    """The parameters of ``MinGRU`` or ``MinLSTM``; ``kind`` is 'mingru' or 'minlstm'."""
    gate_size, shapes = MIN_GATES[kind] * hidden_size, {}
    for layer in range(num_layers):
        shapes[f"weight_ih_l{layer}"] = (gate_size, hidden_size if layer else input_size)
        if bias:
            shapes[f"bias_ih_l{layer}"] = (gate_size,)
    return shapes


def min_char_lm(
    num_symbols: int, cell: str, hidden_size: int, num_layers: int, embedding_size: int
) -> Shapes:
    """The parameters of ``MinCharLM``."""
    size = hidden_size
    norm: Shapes = {"weight": (size,)}
    block: Shapes = {
        **_within("norm", norm),
        **_within("conv", {"weight": (size, 1, MIN_CONV_WIDTH), "bias": (size,)}),
        **_within("rnn", min_layer(cell, size, MIN_EXPANSION * size)),
        **_within("out", _linear(MIN_EXPANSION * size, size)),
        **_within("mlp_norm", norm),
        **_within("mlp_in", _linear(size, MIN_MLP_EXPANSION * size)),
        **_within("mlp_out", _linear(MIN_MLP_EXPANSION * size, size)),
    }
    shapes: Shapes = {"embedding.weight": (num_symbols, embedding_size)} if embedding_size else {}
    shapes |= _within("rnn.input", _linear(embedding_size or num_symbols, size))
    for k in range(num_layers):
        shapes |= _within(f"rnn.blocks.{k}", block)
    return shapes | _within("rnn.norm", norm) | _within("decoder", _linear(size, num_symbols))


def read_min_char_lm(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The arguments of a ``MinCharLM`` with parameters of these shapes; None for another model.

    ``convert`` finds what does not fit.
    """
    gates, out = (shapes.get(f"rnn.blocks.0.{n}", ()) for n in ("rnn.bias_ih_l0", "out.weight"))
    decoder = shapes.get("decoder.weight", ())
    if (len(gates), len(out), len(decoder)) != (1, 2, 2):
        return None
    kinds = {count * out[1]: kind for kind, count in MIN_GATES.items()}
    embedding = shapes.get("embedding.weight", ())
    blocks = {name.split(".")[2] for name in shapes if name.startswith("rnn.blocks.")}
    return {
        "num_symbols": decoder[0],
        "embedding_size": embedding[1] if len(embedding) == 2 else 0,
        "cell": kinds.get(gates[0], "mingru"),
        "hidden_size": out[0],
        "num_layers": len(blocks),
    }


def forecaster(
    input_size: int, output_size: int, cell: str, hidden_size: int, num_layers: int
) -> Shapes:
    """The parameters of ``Forecaster``."""
    return {
        **_within("rnn", recurrent(cell, input_size, hidden_size, num_layers)),
        **_within("decoder", _linear(hidden_size, output_size)),
    }


def horizon_model(
    head: str,
    num_targets: int,
    num_covariates: int,
    num_known: int,
    horizon: int,
    cell: str,
    hidden_size: int,
    num_layers: int,
    normalize: str,
    distribution: str,
    levels: Sequence[float],
    segment_len: int = 1,
) -> Shapes:
    """The parameters of a forecaster of many steps."""
    num_parameters = {"point": 1, "quantiles": len(levels), "student_t": 3}[distribution]
    num_raw, size = num_targets * num_parameters, hidden_size
    inputs = num_targets + num_covariates + num_known
    learned: Shapes = {"weight": (num_targets,), "bias": (num_targets,)}
    shapes = _within("normalization", learned if normalize == "revin" else {})
    if head == "direct":
        shapes |= _within("rnn", recurrent(cell, inputs, size, num_layers))
        shapes |= _within("decoder", _linear(size, horizon * num_raw))
        if num_known:
            shapes |= _within("known_hidden", _linear(size + num_known, size))
            shapes |= _within("known_decoder", _linear(size, num_raw))
        return shapes
    if head == "recursive":
        return {
            **shapes,
            **_within("encoder", recurrent(cell, inputs, size, num_layers)),
            **_within("rnn", recurrent(cell, num_targets + num_known, size, num_layers)),
            **_within("decoder", _linear(size, num_raw)),
        }
    num_segments = -(-horizon // segment_len)
    shapes |= {"place": (num_segments, size // 2), "target": (num_targets, size // 2)}
    shapes |= _within("segment", _linear(segment_len, size))
    shapes |= _within("rnn", recurrent(cell, size, size, num_layers))
    if num_known:
        shapes |= _within("known", _linear(segment_len * num_known, size))
    return shapes | _within("decoder", _linear(size, segment_len * num_parameters))


def layer_norm_lstm(input_size: int, hidden_size: int) -> Shapes:
    """The parameters of ``LayerNormLSTM``."""
    gates = 4 * hidden_size
    return {
        **{"weight_ih": (gates, input_size), "weight_hh": (gates, hidden_size)},
        **{"ln_gates_weight": (gates,), "ln_gates_bias": (gates,)},
        **{"ln_cell_weight": (hidden_size,), "ln_cell_bias": (hidden_size,)},
    }


def hyper_lstm(
    input_size: int, hidden_size: int, hyper_size: int = 256, embedding_size: int = 32
) -> Shapes:
    """The parameters of ``HyperLSTM``."""
    to_z, to_gates = (4 * embedding_size, hyper_size), (4 * hidden_size, embedding_size)
    steer: Shapes = {"bias": (4 * hidden_size,)}
    for way in ("x", "h"):
        steer |= {f"zw_{way}_weight": to_z, f"zw_{way}_bias": to_z[:1]}
        steer |= {f"alpha_{way}_weight": to_gates}
    steer |= {"zb_weight": to_z, "beta_weight": to_gates}
    hyper_cell = layer_norm_lstm(input_size + hidden_size, hyper_size)
    return layer_norm_lstm(input_size, hidden_size) | steer | _within("hyper_cell", hyper_cell)


SKETCH_DECODERS: dict[str, tuple[Callable[[int, int], Shapes], int]] = {
    "lstm": (lambda *sizes: recurrent("lstm", *sizes), 0),
    "layer_norm": (layer_norm_lstm, 0),
    "hyper": (hyper_lstm, 2 * 256),
}
"""The shapes of each kind of ``SketchRNN``'s decoder, and what its state has besides h and c."""


def sketch_rnn(
    decoder: str,
    hidden_size: int,
    encoder_size: int,
    latent_size: int,
    num_mixtures: int,
    num_classes: int,
    class_size: int,
    conditional: bool,
) -> Shapes:
    """The parameters of ``SketchRNN``."""
    of_decoder, more = SKETCH_DECODERS[decoder]
    context_size = latent_size * conditional + class_size * (num_classes > 0)
    shapes: Shapes = {}
    if conditional:
        encoder = recurrent("lstm", SKETCH_POINT, encoder_size, bidirectional=True)
        shapes |= _within("encoder", encoder)
        for name in ("mu", "presig"):
            shapes |= _within(name, _linear(2 * encoder_size, latent_size))
    if num_classes:
        shapes["classes.weight"] = (num_classes, class_size)
    shapes |= _within("decoder", of_decoder(SKETCH_POINT + context_size, hidden_size))
    if context_size:
        shapes |= _within("initial", _linear(context_size, 2 * hidden_size + more))
    return shapes | _within("output", _linear(hidden_size, 3 + 6 * num_mixtures))


def read_sketch_rnn(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The arguments of a ``SketchRNN`` with parameters of these shapes; None for another model.

    What they do not tell has the defaults of the constructor; ``convert`` finds what does not fit.
    """
    kinds = {"weight_hh_l0": "lstm", "hyper_cell.weight_hh": "hyper", "ln_cell_bias": "layer_norm"}
    found = [kind for name, kind in kinds.items() if f"decoder.{name}" in shapes]
    output = shapes.get("output.weight", ())
    if not found or len(output) != 2:
        return None

    def size(name: str, axis: int, default: int) -> int:
        shape = shapes.get(name, ())
        return shape[axis] if axis < len(shape) else default

    return {
        "decoder": found[0],
        "hidden_size": output[1],
        "encoder_size": size("encoder.weight_hh_l0", 1, 256),
        "latent_size": size("mu.bias", 0, 128),
        "num_mixtures": (output[0] - 3) // 6,
        "num_classes": size("classes.weight", 0, 0),
        "class_size": size("classes.weight", 1, 32),
        "conditional": "mu.bias" in shapes,
    }


def _linear(in_features: int, out_features: int) -> Shapes:
    return {"weight": (out_features, in_features), "bias": (out_features,)}


def _within(owner: str, shapes: Shapes) -> Shapes:
    return {f"{owner}.{name}": shape for name, shape in shapes.items()}


_LAYER = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional")
_CELL = ("input_size", "hidden_size", "bias")
_MIN = ("input_size", "hidden_size", "num_layers", "bias")
HORIZON_SIZES = ("num_targets", "num_covariates", "num_known", "horizon")
_HORIZON = (
    *(*HORIZON_SIZES, "cell", "hidden_size", "num_layers"),
    *("normalize", "distribution", "levels"),
)
SKETCH_SIZES = ("hidden_size", "encoder_size", "latent_size", "num_mixtures", "num_classes")
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
    "MinCharLM": (
        min_char_lm,
        ("num_symbols", "cell", "hidden_size", "num_layers", "embedding_size"),
    ),
    "MinGRU": (lambda *sizes: min_layer("mingru", *sizes), _MIN),
    "MinLSTM": (lambda *sizes: min_layer("minlstm", *sizes), _MIN),
    "Forecaster": (
        forecaster,
        ("input_size", "output_size", "cell", "hidden_size", "num_layers"),
    ),
    "DirectForecaster": (lambda *of: horizon_model("direct", *of), _HORIZON),
    "RecursiveForecaster": (lambda *of: horizon_model("recursive", *of), _HORIZON),
    "SegmentForecaster": (
        lambda *of: horizon_model("segments", *of),
        (*_HORIZON, "segment_len"),
    ),
    "LayerNormLSTM": (layer_norm_lstm, ("input_size", "hidden_size")),
    "HyperLSTM": (hyper_lstm, ("input_size", "hidden_size", "hyper_size", "embedding_size")),
    "SketchRNN": (sketch_rnn, ("decoder", *SKETCH_SIZES, "class_size", "conditional")),
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


def parameters(
    name: str, arguments: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """``convert`` to those of the class ``name`` constructed with ``arguments``.

    Raises InputError as it does, and where a tied model's two names hold two weights.
    """
    found = convert(arrays, expected(name, arguments))
    if arguments.get("tie_embeddings"):
        ours, theirs = (found[weight] for weight in TIED)
        if ours.shape != theirs.shape or ours.tobytes() != theirs.tobytes():
            raise InputError(
                f"parameters don't fit: {' and '.join(TIED)} differ, expected one weight: "
                "tie_embeddings is true"
            )
    return found


def _is_floating(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"  # the latter is an extension's
