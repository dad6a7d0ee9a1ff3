"""Recurrent weights as other libraries lay them out, to torch's names and back: one table.

``LAYOUTS`` (in ``layouts``) has a row for each layout: the order of its gates, how its matrices
lie, and what each of its arrays holds. Both directions read that same row, so that each is the
other's inverse::

    tensors = from_layout("keras.LSTM", {"kernel": ..., "recurrent_kernel": ..., "bias": ...})
    module.load_state_dict({name: torch.from_numpy(a) for name, a in tensors.items()})
    arrays = to_layout("onnx.LSTM", tensors)  # W, R, B

A conversion renames, permutes and transposes: bit for bit, both ways. It computes only where a
layout has one bias for torch's two (``bias_ih+bias_hh`` in the table):

    from it     the bias becomes the tensor that is named first, and the other one is zeros
    to it       the two are added in float64 and rounded once; where one is zero the other stays
                as it is. The way back then gives the sum and zeros

and where it adds a constant to the bias at run time (``forget_bias`` of TensorFlow's
``BasicLSTMCell``), which is added from it and subtracted to it. A layout that always has biases
gets zeros from a torch layer without.

The equations are presumed to be torch's: sigmoid for gates and tanh elsewhere (Keras before 2.3
had ``hard_sigmoid`` by default), no residual (flax's ``SimpleCell``), no clip, no coupled gates.
Whether a plain RNN has tanh or relu is no part of its weights. No layout here holds a projection.

NumPy alone is needed; arrays are anything that ``numpy.asarray`` takes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from jaxrnn.errors import InputError
from torch_compat import layout
from torch_compat.layout import Shapes
from torch_compat.layouts import LAYOUTS, ORIENTATIONS, Layout

Arrays = dict[str, np.ndarray]


_TORCH = {"weight_ih": "GH I", "weight_hh": "GH H", "bias_ih": "GH", "bias_hh": "GH"}
_TORCH_GATES = {"lstm": "ifgo", "gru": "rzn", "rnn": "h"}


def from_layout(
    name: str, arrays: Mapping[str, Any], *, suffix: str = "_l0", **options: Any
) -> Arrays:
    """The torch tensors, by torch's names, of a layer whose arrays are in the layout ``name``.

    ``arrays`` may be nested (a flax parameter tree): its names are then joined by dots. ``suffix``
    is torch's for the layer and direction (``_l0``, ``_l1_reverse``; "" for a torch cell), that of
    the forward direction if the arrays hold two (onnx, D = 2). The ``options``:

    - ``reset_after`` (keras.GRU, True by default), ``linear_before_reset`` (onnx.GRU, must be
      given as ONNX's default is 0): the layer's own; only torch's equation is accepted;
    - ``forget_bias`` (tensorflow.BasicLSTMCell): the cell's own, 1.0 by default;
    - ``input_size``, ``hidden_size``, ``num_layers`` (1), ``bidirectional`` (False) of cudnn: a
      flat buffer has no shapes. It holds all layers, so that ``suffix`` has no meaning.

    Raises InputError if torch's layer can't hold what is given, with the reason; or if arrays are
    missing, not expected, of another shape, of mixed dtypes or not finite, all named together.
    """
    row = _row(name)
    options = _options(name, row.options | row.sizes, options)
    given = _flatten(name, arrays)
    for (array, num_axes), reason in row.refuses.items():
        if array in given and given[array].ndim == num_axes:
            raise InputError(f"{name}: {array} {given[array].shape} is refused: {reason}")
    for option, (needed, reason) in row.needs.items():
        _need(name, option, options[option], needed, reason)
    if row.sizes:
        layer = _stack(name, row, suffix, **{size: options[size] for size in row.sizes})
    else:
        I, H, D = _sizes(row, given, {n: shape for n, (shape, _, _) in _each(row).items()})
        optional = _optional(row)
        bias = not optional or any(array in given for array in optional)
        layer = _layer(row, I, H, _directions(name, suffix, D), bias)
    given = _convert(name, given, layer.foreign)
    tensors = _zeros(layer.torch, given)
    for gate, parts, block in _blocks(row, layer, tensors, given):
        offset = _offset(gate, block, options)
        parts[0][...] = _sum([block], offset) if offset else block
    return _convert(name, tensors, layer.torch)


def to_layout(
    name: str, arrays: Mapping[str, Any], *, suffix: str = "_l0", **options: Any
) -> Arrays:
    """The arrays, by their flat names, that hold a torch layer's tensors in the layout ``name``.

    ``arrays`` has the tensors of exactly one layer and direction, by torch's names with
    ``suffix``; for onnx perhaps also those of its ``_reverse``, which makes D = 2; for cudnn those
    of all layers and directions. The ``options`` are those of ``from_layout`` but for the sizes;
    ``linear_before_reset`` needn't be given: the arrays are for a GRU that has it set to 1.

    Raises InputError if the layout can't hold what is given, with the reason; or if tensors are
    missing, not expected, of another shape, of mixed dtypes or not finite, all named together.
    """
    row = _row(name)
    options = _options(name, row.options, options)
    given = _flatten(name, arrays)
    for option, (needed, reason) in row.needs.items():
        if options[option] is not None:
            _need(name, option, options[option], needed, reason)
    for tensor, array in given.items():
        if tensor.startswith("weight_hr"):
            raise InputError(f"{name} has no projection (proj_size): {tensor} {array.shape}")
    bias = any(tensor.startswith("bias") for tensor in given)
    if row.sizes:
        I, H, _ = _sizes(row, given, {f"{tensor}_l0": shape for tensor, shape in _TORCH.items()})
        layers = {m[1] for tensor in given if (m := re.search(r"_l(\d+)(_reverse)?$", tensor))}
        reverse = any(tensor.endswith("_reverse") for tensor in given)
        layer = _stack(name, row, suffix, I, H, max(1, len(layers)), reverse, checked=False)
    else:
        two = _has_directions(row) and any(t.endswith(f"{suffix}_reverse") for t in given)
        suffixes = _directions(name, suffix, 2 if two and suffix else 1)
        shapes = {f"{tensor}{s}": shape for s in suffixes for tensor, shape in _TORCH.items()}
        I, H, _ = _sizes(row, given, shapes)
        layer = _layer(row, I, H, suffixes, bias)
    needed = {n: s for n, s in layer.torch.items() if bias or not n.startswith("bias")}
    given = _convert(name, given, needed)
    tensors = _zeros(layer.torch, given) | given
    for (tensor, gate), reason in row.lacks.items():
        held = tensors[f"{tensor}{suffix}"]
        largest = np.max(np.abs(np.split(held, len(row.gates))[_TORCH_GATES[row.kind].index(gate)]))
        if largest:
            raise InputError(
                f"{name} {reason}: {tensor}{suffix} of {gate} must be zero, its largest value is "
                f"{float(largest):g}"
            )
    foreign = _zeros(layer.foreign, given)
    for gate, parts, block in _blocks(row, layer, tensors, foreign):
        offset = _offset(gate, block, options)
        block[...] = _sum(parts, -offset) if len(parts) > 1 else parts[0]
    return _convert(name, foreign, layer.foreign)


@dataclass(frozen=True)
class _Layer:
    """A layer of known sizes on both sides."""

    torch: Shapes
    foreign: Shapes
    suffixes: list[str]  # torch's, of each direction that one set of arrays holds


def _layer(row: Layout, I: int, H: int, suffixes: list[str], bias: bool) -> _Layer:
    optional = set() if bias else _optional(row)
    foreign = {
        name: tuple(_size(token, I, H, len(row.gates), len(suffixes)) for token in shape.split())
        for name, (shape, _, _) in _each(row).items()
        if name not in optional
    }
    torch = {
        f"{name}{suffix}": tuple(_size(token, I, H, len(row.gates)) for token in shape.split())
        for suffix in suffixes
        for name, shape in _TORCH.items()
        if not (optional and name.startswith("bias"))
    }
    return _Layer(torch, foreign, suffixes)


def _stack(
    name: str,
    row: Layout,
    suffix: str,
    input_size: Any,
    hidden_size: Any,
    num_layers: Any,
    bidirectional: Any,
    checked: bool = True,
) -> _Layer:
    """All layers and directions in one flat array."""
    if suffix != "_l0":
        raise InputError(
            f"{name} holds all layers and directions: suffix {suffix!r} has no meaning"
        )
    sizes = {"input_size": input_size, "hidden_size": hidden_size, "num_layers": num_layers}
    for option, size in sizes.items() if checked else ():
        if not isinstance(size, Integral) or size < 1:
            raise InputError(
                f"{name}: {option} is {size}, expected a whole number from 1: a flat buffer has "
                f"no shapes to read it from"
            )
    if not isinstance(bidirectional, bool):
        raise InputError(f"{name}: bidirectional is {bidirectional}, expected True or False")
    torch = layout.recurrent(row.kind, **sizes, bidirectional=bidirectional)
    return _Layer(torch, dict.fromkeys(row.arrays, (sum(map(math.prod, torch.values())),)), [])


def _blocks(
    row: Layout, layer: _Layer, tensors: Arrays, arrays: Arrays
) -> Iterator[tuple[str, list[np.ndarray], np.ndarray]]:
    """Each gate in each array: its letter, the torch tensors' parts and the array's part, as views.

    More than one part of torch's tensors are summed in the array. The views have one shape, and
    all of them together cover every tensor and every array once.
    """
    if row.sizes:
        ((_, flat),) = arrays.items()
        start = 0
        for tensor in sorted(layer.torch, key=lambda tensor: tensor.startswith("bias")):  # stable
            stop = start + math.prod(layer.torch[tensor])
            yield "", [tensors[tensor]], flat[start:stop].reshape(layer.torch[tensor])
            start = stop
        return
    orient, order = ORIENTATIONS[row.orientation], _TORCH_GATES[row.kind]
    axis = 0 if row.orientation == "torch" else -1
    for name, (shape, holds, gates) in _each(row).items():
        for d, suffix in enumerate(layer.suffixes if name in arrays else ()):
            array = arrays[name][d] if shape.startswith("D") else arrays[name]
            for held, part in zip(holds.split(), _split(array, shape, holds, row), strict=True):
                blocks = np.split(part, len(gates), axis)
                of_gates = [np.split(tensors[n + suffix], len(order)) for n in held.split("+")]
                for gate, block in zip(gates, blocks, strict=True):
                    parts = [rows[order.index(gate)] for rows in of_gates]
                    yield gate, [orient(part, block.shape) for part in parts], block


def _split(array: np.ndarray, shape: str, holds: str, row: Layout) -> list[np.ndarray]:
    """The part of an array for each of the tensors that it holds one after the other, as views."""
    if " " not in holds:
        return [array]
    if shape.startswith("I+H"):
        return np.split(array, [array.shape[0] - array.shape[1] // len(row.gates)])
    return np.split(array.reshape(-1), 2)


def _sum(parts: list[np.ndarray], offset: float) -> np.ndarray:
    """Rounded once; x + 0 is x, even where it is -0."""
    own = parts[0]
    total = own.astype(np.result_type(own.dtype, np.float64))
    for part in parts[1:]:
        total += part
    with np.errstate(over="ignore"):  # found by convert, and named
        rounded = (total + offset).astype(own.dtype)
    return rounded if offset else np.where(parts[1] == 0, own, rounded)


def _offset(gate: str, block: np.ndarray, options: Mapping[str, Any]) -> float:
    """What the layout adds to this bias at run time."""
    return float(options.get("forget_bias", 0)) if gate == "f" and block.ndim == 1 else 0.0


def _each(row: Layout) -> dict[str, tuple[str, str, str]]:
    """By the name of each array: its shape, the tensors and the gates that it holds."""
    each = {}
    for pattern, (shape, holds) in row.arrays.items():
        before, _, rest = pattern.removesuffix("?").partition("{")
        gates, _, after = rest.partition("}")
        for gate in gates or [row.gates]:
            each[f"{before}{gate if gates else ''}{after}"] = (shape, holds, gate)
    return each


def _optional(row: Layout) -> set[str]:
    """The arrays that a layer without biases lacks."""
    return {pattern.removesuffix("?") for pattern in row.arrays if pattern.endswith("?")}


def _has_directions(row: Layout) -> bool:
    return any(shape.startswith("D") for shape, _ in row.arrays.values())


def _directions(name: str, suffix: str, D: int) -> list[str]:
    """Torch's suffix for each of the directions that one set of arrays holds."""
    if not re.fullmatch(r"(_l\d+(_reverse)?)?", suffix):
        raise InputError(f"suffix is {suffix!r}, expected one of torch's: '_l0', '_l1_reverse', ''")
    if D == 1:
        return [suffix]
    if not suffix or suffix.endswith("_reverse"):
        raise InputError(
            f"{name}: suffix is {suffix!r}, expected that of the forward direction, such as '_l0', "
            f"since the arrays hold two"
        )
    return [suffix, f"{suffix}_reverse"]


def _sizes(row: Layout, given: Arrays, shapes: Mapping[str, str]) -> tuple[int, int, int]:
    """I, H and D by the shapes that are given, -1 where they don't tell; most decide H."""
    fitting = [
        (given[name].shape, shape.split())
        for name, shape in shapes.items()
        if name in given and given[name].ndim == len(shape.split())
    ]
    D = next((s[0] for s, tokens in fitting if tokens[0] == "D" and s[0] in (1, 2)), 1)
    votes: Counter[int] = Counter()
    for shape, tokens in fitting:
        for size, token in zip(shape, tokens, strict=True):
            if token in ("H", "GH", "2GH"):
                H, rest = divmod(size, _size(token, 1, 1, len(row.gates)))
                if H > 0 and not rest:
                    votes[H] += 1
    H = max(votes, key=lambda H: (votes[H], H), default=-1)
    for shape, tokens in fitting:
        others = [_size(t, 1, H, len(row.gates), D) for t in tokens if t not in ("I", "I+H")]
        if len(others) < len(tokens) and min(others) > 0:
            I, rest = divmod(math.prod(shape), math.prod(others))
            I -= H if "I+H" in tokens else 0
            if I > 0 and not rest:
                return I, H, D
    return -1, H, D


def _size(token: str, I: int, H: int, G: int, D: int = 1) -> int:
    """A dimension such as ``2GH`` or ``I+H``; -1 if a size in it is unknown."""
    sizes = {"I": I, "H": H, "G": G, "D": D, "2": 2}
    if any(sizes.get(letter, 1) < 0 for letter in token):
        return -1
    return sum(math.prod(sizes[letter] for letter in term) for term in token.split("+"))


def _row(name: str) -> Layout:
    if name not in LAYOUTS:
        raise InputError(f"unknown layout {name!r}, expected one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _options(name: str, known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    if wrong := [option for option in given if option not in known]:
        raise InputError(
            f"{name}: no option {', '.join(wrong)} here, expected {', '.join(known) or 'none'}"
        )
    options = {**known, **given}
    offset = options.get("forget_bias", 0)
    if not isinstance(offset, Real) or not math.isfinite(offset):
        raise InputError(f"{name}: forget_bias is {offset}, expected a finite number")
    return options


def _need(name: str, option: str, value: Any, needed: Any, reason: str) -> None:
    if value != needed:
        found = "missing" if value is None else value
        raise InputError(f"{name}: {option} is {found}, must be {needed}: {reason}")


def _flatten(name: str, arrays: Mapping[Any, Any], before: str = "") -> Arrays:
    """The arrays of a tree by their names joined with dots."""
    if not isinstance(arrays, Mapping):
        names = ", ".join(repr(array) for array in _each(LAYOUTS[name]))
        raise InputError(
            f"{name}: arrays is a {type(arrays).__name__}, expected a mapping by the names {names}"
        )
    flat: Arrays = {}
    for key, value in arrays.items():
        if value is None:  # an optional input that is not there
            continue
        path = f"{before}{key}".removesuffix(":0")  # TensorFlow's names of variables
        if hasattr(value, "detach"):  # a tensor of torch
            value = _from_torch(value)
        inner = _flatten(name, value, f"{path}.") if isinstance(value, Mapping) else None
        for array, values in ({path: np.asarray(value)} if inner is None else inner).items():
            if array in flat:
                raise InputError(f"{name}: {array} is given twice, nested and with dots")
            flat[array] = values
    return flat


def _from_torch(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    import ml_dtypes
    import torch

    return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)


def _zeros(shapes: Shapes, like: Arrays) -> Arrays:
    dtype = next(iter(like.values())).dtype
    return {name: np.zeros(shape, dtype) for name, shape in shapes.items()}


def _convert(name: str, arrays: Arrays, shapes: Shapes) -> Arrays:
    try:
        return layout.convert(arrays, shapes)
    except InputError as error:
        message = re.sub(r"(?<=[( ])-1(?=[,)])", "?", str(error))  # sizes that nothing tells
        raise InputError(f"{name}: {message}") from None
