"""``MinGRU``, ``MinLSTM`` and the blocks around them in plain torch, with jaxrnn's parameter names.

The equations are in ``jaxrnn.min_layers`` and ``jaxrnn.models.min_blocks``: these are other cells
than ``nn.GRU`` and ``nn.LSTM``, whose gates see the input alone (arXiv 2410.01201). Usage::

    rnn = MinGRU(input_size=5, hidden_size=512, batch_first=True)
    y, h = rnn(x)                                       # x (B, T, 5), y (B, T, 512), h (1, B, 512)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CONV_WIDTH = 4  # steps that a convolution reads


class _MinRecurrent(nn.Module):
    """What MinGRU and MinLSTM share: parameters, and ``h' = a * h + b`` over a sequence."""

    num_gates = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        for layer in range(num_layers):
            width = hidden_size if layer else input_size
            linear = nn.Linear(width, self.num_gates * hidden_size, bias)
            setattr(self, f"weight_ih_l{layer}", linear.weight)
            if bias:
                setattr(self, f"bias_ih_l{layer}", linear.bias)

    def coefficients(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """a and b (..., H) of pre-activations (..., G*H)."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (T, B, I), or (B, T, I) if ``batch_first`` -> y of x's layout, and h (L, B, H)."""
        x = x.transpose(0, 1) if self.batch_first else x
        if state is None:
            state = x.new_zeros(self.num_layers, x.shape[1], self.hidden_size)
        last = []
        for layer, h in enumerate(state):
            if layer:
                x = functional.dropout(x, self.dropout, self.training)
            weight = getattr(self, f"weight_ih_l{layer}")
            bias = getattr(self, f"bias_ih_l{layer}") if self.bias else None
            x = _recurrence(*self.coefficients(functional.linear(x, weight, bias)), h)
            last.append(x[-1])
        return x.transpose(0, 1) if self.batch_first else x, torch.stack(last)


class MinGRU(_MinRecurrent):
    """The minimal GRU of arXiv 2410.01201, ``h' = (1 - z) * h + z * h~``: not ``nn.GRU``."""

    num_gates = 2

    def coefficients(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Of z, h."""
        z, candidate = gates.chunk(2, -1)
        return (-z).sigmoid(), z.sigmoid() * _positive(candidate)


class MinLSTM(_MinRecurrent):
    """The minimal LSTM of arXiv 2410.01201, its gates divided by their sum: not ``nn.LSTM``."""

    num_gates = 3

    def coefficients(self, gates: Tensor) -> tuple[Tensor, Tensor]:
        """Of f, i, h."""
        f, i, candidate = gates.chunk(3, -1)
        more = functional.logsigmoid(i) - functional.logsigmoid(f)
        return (-more).sigmoid(), more.sigmoid() * _positive(candidate)


def _positive(a: Tensor) -> Tensor:
    """The paper's g."""
    return torch.where(a >= 0, a + 0.5, a.sigmoid())


def _recurrence(a: Tensor, b: Tensor, h: Tensor) -> Tensor:
    """``h' = a * h + b`` after every step (T, B, H): after each round over twice as many steps."""
    b = torch.cat([(b[0] + a[0] * h)[None], b[1:]])
    reach = 1
    while reach < len(a):
        b = torch.cat([b[:reach], b[reach:] + a[reach:] * b[:-reach]])
        a = torch.cat([a[:reach], a[reach:] * a[:-reach]])
        reach *= 2
    return b


class MinBlock(nn.Module):
    """What one block adds to the residual stream of ``size`` units; time-major."""

    def __init__(self, cell: str, size: int, dropout: float):
        super().__init__()
        self.norm = nn.RMSNorm(size, eps=1e-5)
        self.conv = nn.Conv1d(size, size, CONV_WIDTH, groups=size)
        self.rnn = MIN_LAYERS[cell](size, 2 * size)
        self.out = nn.Linear(2 * size, size)
        self.mlp_norm = nn.RMSNorm(size, eps=1e-5)
        self.mlp_in = nn.Linear(size, 4 * size)
        self.mlp_out = nn.Linear(4 * size, size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, h: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The stream, the cell's state (B, 2*H) and the convolution's last inputs (3, B, H)."""
        read = torch.cat([before, self.norm(x)])
        convolved = self.conv(read.permute(1, 2, 0)).permute(2, 0, 1)
        y, last = self.rnn(convolved, h[None])
        x = x + self.dropout(self.out(y))
        y = functional.gelu(self.mlp_in(self.mlp_norm(x)), approximate="tanh")
        return x + self.dropout(self.mlp_out(y)), last[0], read[1 - CONV_WIDTH :]


class MinBlocks(nn.Module):
    """``num_layers`` blocks, with the call of a recurrent layer that is ``batch_first``."""

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, num_layers: int, dropout: float
    ):
        super().__init__()
        if cell not in MIN_LAYERS:
            raise ValueError(f"cell is {cell!r}, expected one of {', '.join(MIN_LAYERS)}")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.input = nn.Linear(input_size, hidden_size)
        self.blocks = nn.ModuleList(MinBlock(cell, hidden_size, dropout) for _ in range(num_layers))
        self.norm = nn.RMSNorm(hidden_size, eps=1e-5)

    def initial_state(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Zeros: h (L, B, 2*H) of the cells, conv (L, B, 3, H) of the convolutions."""
        zeros, lead = self.norm.weight.new_zeros, (self.num_layers, batch_size)
        h = zeros(*lead, 2 * self.hidden_size)
        return h, zeros(*lead, CONV_WIDTH - 1, self.hidden_size)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x (B, T, I) -> (B, T, H), and the state to go on from, as of ``initial_state``."""
        h, conv = self.initial_state(len(x)) if state is None else state
        x = self.input(x).transpose(0, 1)
        last_h, last_conv = [], []
        for k, block in enumerate(self.blocks):
            x, of_cell, of_conv = block(x, h[k], conv[k].transpose(0, 1))
            last_h.append(of_cell)
            last_conv.append(of_conv.transpose(0, 1))
        return self.norm(x).transpose(0, 1), (torch.stack(last_h), torch.stack(last_conv))


MIN_LAYERS: dict[str, type[_MinRecurrent]] = {"mingru": MinGRU, "minlstm": MinLSTM}
"""The minimal layers by the name of their cell, as options spell it."""
