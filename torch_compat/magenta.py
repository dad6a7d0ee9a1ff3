"""Models of sketch-rnn-js: JSON of ``[info, shapes, [base64 of int16, ...]]``.

Magenta's demos keep a sketch-rnn so: the decoder alone (``.gen.json``, ``info.mode`` 2), or with
its encoder (mode 0 or 1). A weight is ``10 * v / 32767``; matrices are (in, out), gates come in
the order i, g, f, o with one bias, to which 1 is added for f at run time, and the initial state's
halves are c, h. Usage::

    model = read(Path("dog.gen.json").read_bytes())
    text = write(model.arrays, model.info)
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxrnn.errors import InputError

LARGEST = 10.0
STEP = LARGEST / 32767
INFO = ("name", "mode", "version", "max_seq_len", "scale_factor")
MOST_VALUES = 10**8  # of one array: 200 MB
NUM_MIXTURES = 20  # its pages know no other number
_LSTM = ("W_xh", "W_hh", "bias")
DECODER = ("output_w", "output_b", *(f"decoder {name}" for name in _LSTM))
ENCODER = (
    *(f"encoder {way} {name}" for way in ("forward", "backward") for name in _LSTM),
    *("mu_w", "mu_b", "sigma_w", "sigma_b", "initial_w", "initial_b"),
)
_GATES = [0, 2, 1, 3]  # i, g, f, o and i, f, g, o: the same exchange both ways


@dataclasses.dataclass(frozen=True)
class SketchModel:
    """A sketch-rnn: the arguments of its constructor, its parameters, what is said about it."""

    arguments: dict[str, Any]
    arrays: dict[str, np.ndarray]  # by the names of ``jaxrnn.models.sketch_rnn.SketchRNN``
    info: dict[str, Any]  # of them scale_factor and max_seq_len: the data's


def _turned(matrix: np.ndarray) -> np.ndarray:
    """(in, 4H) in one order of gates to (4H, in) in the other."""
    gates = np.split(matrix, 4, axis=-1)
    return np.concatenate([gates[k] for k in _GATES], axis=-1).T


def _back(matrix: np.ndarray) -> np.ndarray:
    gates = np.split(matrix.T, 4, axis=-1)
    return np.concatenate([gates[k] for k in _GATES], axis=-1)


def _forget(size: int) -> np.ndarray:
    return np.repeat(np.array([0, 1, 0, 0], np.float32), size)


def _lstm(weights: Mapping[str, np.ndarray], theirs: str, ours: str) -> dict[str, np.ndarray]:
    module, suffix = ours.split(".")
    bias = _turned(weights[f"{theirs} bias"][None])[:, 0]
    return {
        f"{module}.weight_ih_{suffix}": _turned(weights[f"{theirs} W_xh"]),
        f"{module}.weight_hh_{suffix}": _turned(weights[f"{theirs} W_hh"]),
        f"{module}.bias_ih_{suffix}": bias + _forget(len(bias) // 4),
        f"{module}.bias_hh_{suffix}": np.zeros_like(bias),
    }


def _swapped(array: np.ndarray) -> np.ndarray:
    """c, h to h, c along the last axis, and back."""
    return np.concatenate(np.split(array, 2, axis=-1)[::-1], axis=-1)


_DECODER_LSTM = ("decoder", "decoder.l0")
_ENCODER_LSTMS = (("encoder forward", "encoder.l0"), ("encoder backward", "encoder.l0_reverse"))
_LINEAR = {"output": "output", "mu": "mu", "sigma": "presig", "initial": "initial"}


def read(data: bytes, source: str = "the file") -> SketchModel:
    """A model in that form; raises InputError for anything else, naming ``source``."""
    info, weights = _parse(data, source)
    conditional = len(weights) > len(DECODER)
    arrays = _lstm(weights, *_DECODER_LSTM)
    if conditional:
        for names in _ENCODER_LSTMS:
            arrays |= _lstm(weights, *names)
    for theirs, ours in _LINEAR.items():
        if f"{theirs}_w" in weights:
            matrix, bias = weights[f"{theirs}_w"], weights[f"{theirs}_b"]
            if theirs == "initial":
                matrix, bias = _swapped(matrix), _swapped(bias)
            arrays |= {f"{ours}.weight": matrix.T, f"{ours}.bias": bias}
    arguments = {
        "decoder": "lstm",
        "hidden_size": len(weights["decoder W_hh"]),
        "num_mixtures": (len(weights["output_b"]) - 3) // 6,
        "conditional": conditional,
    }
    if conditional:
        arguments["encoder_size"] = len(weights["encoder forward W_hh"])
        arguments["latent_size"] = len(weights["initial_w"])
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    return SketchModel(arguments, arrays, info)


def _parse(data: bytes, source: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What is said of a model, and its arrays by Magenta's names, of shapes that fit together."""
    try:
        info, shapes, blobs = json.loads(data)
        shapes = [tuple(map(int, shape)) for shape in shapes]
        version, scale = float(info["version"]), float(info["scale_factor"])
        points = int(info["max_seq_len"])
        if not (isinstance(blobs, list) and all(isinstance(blob, str) for blob in blobs)):
            raise TypeError("weights must be base64 texts")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{source} is not a model of sketch-rnn-js, JSON of [info, shapes, weights] with "
            f"info's version, scale_factor and max_seq_len: {error!r}"
        ) from None
    if not (0 < scale <= MOST_VALUES and 0 < points <= MOST_VALUES):
        raise InputError(
            f"{source}: scale_factor is {scale}, max_seq_len {points}, expected both above 0, at "
            f"most {MOST_VALUES:,}"
        )
    if not str(info.get("name", "")).isprintable():  # half a surrogate pair can't be written
        raise InputError(f"{source}: its name is {info['name']!r}, expected a word")
    names = {len(DECODER): DECODER, len(DECODER) + len(ENCODER): (*ENCODER, *DECODER)}
    if len(shapes) != len(blobs) or len(shapes) not in names:
        raise InputError(
            f"{source} has {len(shapes)} shapes and {len(blobs)} arrays, expected {len(DECODER)} "
            f"of each (a decoder), or {len(DECODER) + len(ENCODER)} (with its encoder)"
        )
    if version < 6 and len(shapes) > len(DECODER):
        raise InputError(
            f"{source} is of version {version:g}, expected 6: z is another thing there"
        )
    found = {}
    for name, shape, blob in zip(names[len(shapes)], shapes, blobs, strict=True):
        found[name] = _array(blob, shape, f"{source}: {name}")
    _check_shapes(found, source)
    return dict(info), found


def _array(blob: str, shape: tuple[int, ...], what: str) -> np.ndarray:
    if len(shape) not in (1, 2) or min(shape) < 1 or math.prod(shape) > MOST_VALUES:
        raise InputError(f"{what} has the shape {shape}, expected one or two sizes above 0")
    try:
        data = base64.b64decode(blob, validate=True)
    except ValueError as error:  # not base64's alphabet, or not even ASCII
        raise InputError(f"{what} is not base64: {error}") from None
    if len(data) != 2 * math.prod(shape):
        raise InputError(f"{what} has {len(data)} bytes, expected 2 for each value of {shape}")
    return (np.frombuffer(data, "<i2").astype(np.float64) * STEP).astype(np.float32).reshape(shape)


def _check_shapes(weights: Mapping[str, np.ndarray], source: str) -> None:
    """Raise InputError where sizes contradict each other."""
    H, outputs = weights["output_w"].shape if weights["output_w"].ndim == 2 else (0, 0)
    Z = len(weights["initial_w"]) if "initial_w" in weights else 0
    expected = {"output_b": (outputs,)} | _lstm_shapes("decoder", 5 + Z, H)
    if Z:
        E = len(weights["encoder forward W_hh"])
        for way in ("forward", "backward"):
            expected |= _lstm_shapes(f"encoder {way}", 5, E)
        for name in ("mu", "sigma"):
            expected |= {f"{name}_w": (2 * E, Z), f"{name}_b": (Z,)}
        expected |= {"initial_w": (Z, 2 * H), "initial_b": (2 * H,)}
    if outputs < 9 or (outputs - 3) % 6:
        raise InputError(f"{source}: output_w has {outputs} columns, expected 3 + 6 * mixtures")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise InputError(f"{source}: {name} is {weights[name].shape}, expected {shape}")


def _lstm_shapes(name: str, inputs: int, size: int) -> dict[str, tuple[int, ...]]:
    shapes = ((inputs, 4 * size), (size, 4 * size), (4 * size,))
    return {f"{name} {part}": shape for part, shape in zip(_LSTM, shapes, strict=True)}


def folded(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same parameters as ``read`` gives them: of an LSTM's two biases the sum is the first."""
    folded = dict(arrays)
    for name in arrays:
        if ".bias_ih" in name:
            other = name.replace("bias_ih", "bias_hh")
            folded[name] = arrays[name] + arrays[other]
            folded[other] = np.zeros_like(arrays[other])
    return folded


def write(arrays: Mapping[str, np.ndarray], info: Mapping[str, Any]) -> bytes:
    """The form of a SketchRNN with an LSTM as decoder and without classes; ``info`` as in INFO.

    Raises InputError for another model, and for weights beyond +-10, which the form can't hold.
    """
    if "decoder.weight_ih_l0" not in arrays:
        raise InputError("sketch-rnn-js has LSTM decoders alone, the model's is another")
    if "classes.weight" in arrays:
        raise InputError("sketch-rnn-js has no classes, the model was trained on several")
    if (num_mixtures := (len(arrays["output.bias"]) - 3) // 6) != NUM_MIXTURES:
        raise InputError(
            f"sketch-rnn-js reads {NUM_MIXTURES} Gaussians, the model has {num_mixtures}"
        )
    weights = {}
    lstms, linear = [_DECODER_LSTM], {"output": "output"}
    if "encoder.weight_ih_l0" in arrays:
        lstms, linear = [_DECODER_LSTM, *_ENCODER_LSTMS], _LINEAR
    for theirs, ours in lstms:
        module, suffix = ours.split(".")
        bias = arrays[f"{module}.bias_ih_{suffix}"] + arrays[f"{module}.bias_hh_{suffix}"]
        bias = bias - _forget(len(bias) // 4)
        weights |= {
            f"{theirs} W_xh": _back(arrays[f"{module}.weight_ih_{suffix}"]),
            f"{theirs} W_hh": _back(arrays[f"{module}.weight_hh_{suffix}"]),
            f"{theirs} bias": _back(bias[:, None])[0],
        }
    for theirs, ours in linear.items():
        matrix, bias = arrays[f"{ours}.weight"].T, arrays[f"{ours}.bias"]
        if theirs == "initial":
            matrix, bias = _swapped(matrix), _swapped(bias)
        weights |= {f"{theirs}_w": matrix, f"{theirs}_b": bias}
    names = DECODER if len(lstms) == 1 else (*ENCODER, *DECODER)
    for name in names:
        largest = float(np.abs(weights[name]).max())
        if not largest <= LARGEST:
            raise InputError(f"{name} reaches {largest:.4g}, sketch-rnn-js holds weights up to 10")
    mode = 2 if len(lstms) == 1 else 1
    said = {**info, "mode": mode, "version": 6}
    shapes = [list(weights[name].shape) for name in names]
    blobs = [
        base64.b64encode(np.rint(weights[name] / STEP).astype("<i2").tobytes()).decode()
        for name in names
    ]
    return json.dumps([said, shapes, blobs]).encode()
