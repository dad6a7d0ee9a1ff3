"""A model as a program of torch.export, which runs without its Python class: ``model.pt2``.

Batch and time are dynamic, and the state is an input and an output, so that it streams::

    program = torch.export.load("model.pt2").module()
    logits, h, c = program(ids, h, c)              # of an LSTM; h, c (L, B, H), zeros to begin with

torch.export unrolls ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` over a fixed number of steps. Here the
steps are torch's ``scan`` over the equations of ``jaxrnn.cells``, on the parameters of the twin.
Only load such a file where you trust who wrote it: torch's reader may unpickle what is in it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from torch_compat.modules import CharLM


def _lstm(x: Tensor, gates: Tensor, h: Tensor, c: Tensor) -> list[Tensor]:
    i, f, g, o = (x + gates).chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return [o.sigmoid() * c.tanh(), c]


def _gru(x: Tensor, gates: Tensor, h: Tensor) -> list[Tensor]:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = x.chunk(3, -1), gates.chunk(3, -1)
    z = (x_z + h_z).sigmoid()
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    return [(1 - z) * n + z * h]


def _rnn(x: Tensor, gates: Tensor, h: Tensor) -> list[Tensor]:
    return [(x + gates).tanh()]


_STEPS: dict[str, Callable[..., list[Tensor]]] = {"LSTM": _lstm, "GRU": _gru, "RNN_TANH": _rnn}
"""A step by the mode of torch.nn's layer: its products with x and h, then the state."""


class Program(nn.Module):
    """A twin of ``modules`` as ``(inputs, *state) -> (output, *state)``, by scans of its steps."""

    def __init__(self, twin: Any):
        super().__init__()
        self.twin = twin

    def forward(self, inputs: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """inputs as the twin's, the members of a state -> output and the members of the last."""
        from torch._higher_order_ops.scan import scan  # whole since torch 2.7, not yet public

        rnn = self.twin.rnn
        x = self._features(inputs).transpose(0, 1)
        last = []
        for layer in range(rnn.num_layers):
            weight_ih, weight_hh, bias_ih, bias_hh = (
                getattr(rnn, f"{name}_l{layer}")
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )

            def step(carry, x_t, mode=rnn.mode, weight_hh=weight_hh, bias_hh=bias_hh):
                new = _STEPS[mode](x_t, functional.linear(carry[0], weight_hh, bias_hh), *carry)
                return new, new[0].clone()  # scan takes no output that is the carry itself

            initial = [member[layer].clone() for member in state]
            carry, x = scan(step, initial, functional.linear(x, weight_ih, bias_ih))
            last.append(carry)
        output = self.twin.decoder(x.transpose(0, 1))
        return (output, *(torch.stack(members) for members in zip(*last, strict=True)))

    def _features(self, inputs: Tensor) -> Tensor:
        if not isinstance(self.twin, CharLM):
            return inputs
        if self.twin.embedding is not None:
            return self.twin.embedding(inputs)
        one_hot = functional.one_hot(inputs, self.twin.num_symbols)
        return one_hot.to(self.twin.decoder.weight.dtype)


def dump(twin: Any) -> bytes:
    """The program of a twin of ``modules``, in evaluation mode."""
    weight, num_layers, size = twin.decoder.weight, twin.rnn.num_layers, twin.rnn.hidden_size
    inputs = torch.zeros(2, 3, dtype=torch.long)
    if not isinstance(twin, CharLM):
        inputs = torch.zeros(2, 3, twin.rnn.input_size, dtype=weight.dtype)
    num_states = 2 if twin.rnn.mode == "LSTM" else 1
    state = [torch.zeros(num_layers, 2, size, dtype=weight.dtype) for _ in range(num_states)]
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    dynamic = ({0: batch, 1: time}, tuple({1: batch} for _ in state))
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's own deprecations, inside torch
        program = torch.export.export(
            Program(twin).eval(), (inputs, *state), dynamic_shapes=dynamic
        )
        torch.export.save(program, buffer)
    return buffer.getvalue()


def runner(data: bytes) -> Callable[..., list[Any]]:
    """What runs a program that ``dump`` has just written, on NumPy arrays."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(io.BytesIO(data)).module()

    def run(inputs: list[Any]) -> list[Any]:
        with torch.no_grad():
            values = program(*(torch.from_numpy(array) for array in inputs))
        return [value.numpy() for value in values]

    return run
