"""FlashRNN (github.com/NX-AI/flashrnn) and haste (github.com/lmnt-com/haste): CUDA, under torch.

No GPU was at hand when this was written: it follows the projects' READMEs and documentation, and
what it computes is compared with ours, as every peer's is, before a time is shown.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxrnn.bench.peers import Arrays, Session, UnsupportedError
from jaxrnn.bench.peers.torch_nn import as_array, device, session
from jaxrnn.bench.workloads import GATES, Workload, parameters

HASTE_ORDER = {"lstm": [0, 2, 1, 3], "gru": [1, 0, 2]}  # i, g, f, o and z, r, n


def _cuda(workload: Workload, cells: str) -> torch.device:
    """Raises UnsupportedError for what neither library does."""
    if workload.cell not in cells.split():
        raise UnsupportedError(f"it has no {workload.cell} cell")
    if workload.proj_size:
        raise UnsupportedError("it has no projection")
    if workload.max_length:
        raise UnsupportedError("it has no semantics of packed sequences")
    if workload.mode == "generate":
        raise UnsupportedError("it has no sampling")
    place = device()
    if place.type != "cuda":
        raise UnsupportedError("it needs an NVIDIA GPU")
    return place


class Stack(nn.Module):
    """Layers that know nothing of states or of each other, with dropout between them."""

    def __init__(self, layers: list[Any], dropout: float):
        super().__init__()
        self.layers, self.dropout = nn.ModuleList(layers), nn.Dropout(dropout)

    def forward(self, x, state):
        """The states start from zeros; the one that is given is given back."""
        for k, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if k else x)
        return x, state


class FlashLayer(nn.Module):
    """The input's projection, a matmul over all steps, and FlashRNN's recurrence, of one head.

    Backend ``cuda``: the fused ones multiply in TF32 or bfloat16, which is another precision.
    """

    def __init__(self, workload: Workload, k: int):
        super().__init__()
        named, self.cell = parameters(workload), workload.cell
        self.run = importlib.import_module("flashrnn").flashrnn
        H = workload.hidden_size
        self.w = nn.Parameter(torch.from_numpy(named[f"rnn.weight_ih_l{k}"]))
        gates = torch.from_numpy(named[f"rnn.weight_hh_l{k}"]).reshape(-1, H, H)
        bias = torch.from_numpy(named[f"rnn.bias_ih_l{k}"]).reshape(-1, H)
        if workload.cell == "gru":  # R of n, r, z; biases of R's n, r, z, and the input's n
            gates, bias = gates[[2, 0, 1]], torch.stack([0 * bias[2], *bias])
        self.r, self.b = nn.Parameter(gates[:, None].clone()), nn.Parameter(bias[:, None].clone())

    def forward(self, x):
        """(B, T, I) -> (B, T, H)."""
        H = self.r.shape[-1]
        gates = (x @ self.w.T).reshape(*x.shape[:2], -1, 1, H)
        function = {"lstm": "lstm", "gru": "gru", "rnn": "elman"}[self.cell]
        options = {"function": function, "backend": "cuda", "dtype": "float32"}
        states, _ = self.run(gates, self.r, self.b, **options)
        return states[0][:, :, 0]


def _flash_gradients(rnn: Any) -> Arrays:
    found = {}
    for k, layer in enumerate(rnn.layers):
        r, b = as_array(layer.r.grad)[:, 0], as_array(layer.b.grad)[:, 0]
        if layer.cell == "gru":
            r, b = r[[1, 2, 0]], b[1:]
        found[f"rnn.weight_ih_l{k}"] = as_array(layer.w.grad)
        found[f"rnn.weight_hh_l{k}"] = r.reshape(-1, r.shape[-1])
        found[f"rnn.bias_ih_l{k}"] = b.ravel()
    return found


def flashrnn(workload: Workload) -> Session:
    """FlashRNN's ``flashrnn(Wx, R, b)`` under each layer's projection."""
    place = _cuda(workload, "lstm gru rnn")
    layers = [FlashLayer(workload, k) for k in range(workload.num_layers)]
    stack = Stack(layers, workload.dropout).to(place)
    return session(workload, stack, _flash_gradients, place)


class HasteLayer(nn.Module):
    """``haste_pytorch.LSTM`` or ``GRU``, whose kernels are (I, G*H)."""

    def __init__(self, workload: Workload, k: int):
        super().__init__()
        width = workload.hidden_size if k else workload.input_size
        make = getattr(importlib.import_module("haste_pytorch"), workload.cell.upper())
        self.order = HASTE_ORDER[workload.cell]
        self.rnn = make(input_size=width, hidden_size=workload.hidden_size, batch_first=True)
        named = parameters(workload)
        for theirs, ours in (
            ("kernel", f"rnn.weight_ih_l{k}"),
            ("recurrent_kernel", f"rnn.weight_hh_l{k}"),
            ("bias", f"rnn.bias_ih_l{k}"),
        ):
            gates = np.split(named[ours], GATES[workload.cell])
            turned = np.concatenate([gates[place] for place in self.order]).T
            getattr(self.rnn, theirs).data.copy_(torch.from_numpy(np.ascontiguousarray(turned)))
        if workload.cell == "gru":
            self.rnn.recurrent_bias.data.zero_()

    def forward(self, x):
        """(B, T, I) -> (B, T, H)."""
        return self.rnn(x)[0]


def _haste_gradients(rnn: Any) -> Arrays:
    def back(array, order):  # both orders are their own inverse
        gates = np.split(array.T, len(order))
        return np.concatenate([gates[place] for place in order])

    return {
        f"rnn.{ours}_l{k}": back(as_array(getattr(layer.rnn, theirs).grad), layer.order)
        for k, layer in enumerate(rnn.layers)
        for ours, theirs in (
            ("weight_ih", "kernel"),
            ("weight_hh", "recurrent_kernel"),
            ("bias_ih", "bias"),
        )
    }


def haste(workload: Workload) -> Session:
    """haste's layers, one upon the other."""
    place = _cuda(workload, "lstm gru")
    layers = [HasteLayer(workload, k) for k in range(workload.num_layers)]
    stack = Stack(layers, workload.dropout).to(place)
    return session(workload, stack, _haste_gradients, place)
