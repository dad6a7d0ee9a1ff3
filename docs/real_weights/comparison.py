"""What an exercise hands over, and whether both sides agree: to rounding, or bit for bit.

Usage::

    lstm = layer_of(state_dict, "encoder.rnn")
    y, _ = lstm.module(x)
    outcome = Outcome([lstm], {"output": (y, wanted)})
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import torch_compat
from torch_compat import layout

Arrays = Mapping[str, np.ndarray]

TOLERANCE = 2e-5
"""Largest difference allowed, relative to the reference's largest magnitude: float32 rounding."""


@dataclass(frozen=True)
class Layer:
    """A jaxrnn layer or cell, and the arrays by torch's names that it was made of.

    ``layout`` and ``original``: where those came from another library, its layout and arrays.
    """

    module: Any
    arrays: Arrays
    layout: str = ""
    original: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What an exercise gives: layers, results of both sides, what must hold exactly, a remark."""

    layers: Sequence[Layer]
    pairs: Mapping[str, tuple[Any, Any]]  # by what it is: ours, the reference's
    facts: Mapping[str, bool] = field(default_factory=dict)
    remark: str = ""


def layer_of(state_dict: Mapping[str, Any], prefix: str = "", batch_first: bool = False) -> Layer:
    """The layer under a prefix of a state dict."""
    module = torch_compat.from_state_dict(state_dict, prefix, batch_first=batch_first)
    inner = layout.within(state_dict, prefix)
    return Layer(module, {name: np.asarray(value) for name, value in inner.items()})


def layer_in_layout(name: str, original: Arrays, batch_first: bool = False) -> Layer:
    """The layer whose arrays another library laid out its own way, the layout ``name``."""
    layer = layer_of(torch_compat.from_layout(name, original), batch_first=batch_first)
    plain = {array.removesuffix(":0"): values for array, values in original.items()}
    return replace(layer, layout=name, original=plain)


def same_bits(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether two arrays have the same shape, dtype and bytes."""
    same = (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    return same and ours.tobytes() == theirs.tobytes()


def returns_exactly(layer: Layer) -> bool:
    """Whether the arrays come back, bit for bit, from the layer's torch module.

    Those of another library come back from there in its own layout too.
    """
    state_dict = torch_compat.to_torch(layer.module).state_dict()
    back = {name: tensor.numpy() for name, tensor in state_dict.items()}
    sides = [(back, layer.arrays)]
    if layer.layout:
        sides.append((torch_compat.to_layout(layer.layout, back), layer.original))
    return all(
        ours.keys() == theirs.keys() and all(same_bits(ours[name], theirs[name]) for name in ours)
        for ours, theirs in sides
    )


def differences(ours: Any, theirs: Any) -> tuple[float, float]:
    """The largest difference, and the same over the reference's largest magnitude.

    Infinite where the shapes differ.
    """
    ours, theirs = (np.asarray(side, np.float64) for side in (ours, theirs))
    if ours.shape != theirs.shape:
        return math.inf, math.inf
    largest = float(np.abs(ours - theirs).max())
    return largest, largest / float(np.abs(theirs).max())
