"""``LayerNormLSTM`` and ``HyperLSTM`` in plain torch, with jaxrnn's parameter names; torch alone.

The equations are in ``jaxrnn.normed_layers``, and are Magenta's. Usage::

    rnn = HyperLSTM(input_size=5, hidden_size=512, batch_first=True)
    y, (h, c, hyper_h, hyper_c) = rnn(x)                # x (B, T, 5), y (B, T, 512), h (1, B, 512)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

EPSILON = 1e-3  # added to variances


class _NormedLSTM(nn.Module):
    """What LayerNormLSTM and HyperLSTM share: parameters, the loop, the end of a step."""

    def __init__(
        self, input_size: int, hidden_size: int, batch_first: bool, recurrent_dropout: float
    ):
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.batch_first = batch_first
        self.recurrent_dropout = recurrent_dropout
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, hidden_size))
        self.ln_gates_weight = nn.Parameter(torch.ones(4 * hidden_size))
        self.ln_gates_bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.ln_cell_weight = nn.Parameter(torch.ones(hidden_size))
        self.ln_cell_bias = nn.Parameter(torch.zeros(hidden_size))
        nn.init.xavier_uniform_(self.weight_ih)
        for gate in self.weight_hh.detach().chunk(4):
            nn.init.orthogonal_(gate)
        nn.init.ones_(self.ln_gates_bias.detach()[hidden_size : 2 * hidden_size])  # forget gate

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros (1, B, .), as used where no state is given."""
        raise NotImplementedError

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """One step: x (B, I) and a state of members (B, .) -> the next state, h first."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, state: tuple[Tensor, ...] | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x (T, B, I), or (B, T, I) if ``batch_first`` -> y of x's layout, and the last state."""
        steps = x.unbind(1 if self.batch_first else 0)
        members = self.initial_state(len(steps[0])) if state is None else state
        members = tuple(m[0] for m in members)
        outputs = []
        for x_t in steps:
            members = self.step(x_t, members)
            outputs.append(members[0])
        y = torch.stack(outputs, dim=1 if self.batch_first else 0)
        return y, tuple(m[None] for m in members)

    def update(self, gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """h and c after pre-activations (B, 4*H) that are not normed yet."""
        normed = _normed(gates.unflatten(-1, (4, self.hidden_size))).flatten(-2)
        i, f, g, o = (normed * self.ln_gates_weight + self.ln_gates_bias).chunk(4, -1)
        candidate = functional.dropout(g.tanh(), self.recurrent_dropout, self.training)
        c = f.sigmoid() * c + i.sigmoid() * candidate
        h = o.sigmoid() * (_normed(c) * self.ln_cell_weight + self.ln_cell_bias).tanh()
        return h, c


class LayerNormLSTM(_NormedLSTM):
    """An LSTM whose gates and cell are layer-normed (arXiv 1607.06450); the state is (h, c).

    ``recurrent_dropout``: in training the probability that an element of tanh(g) is zeroed at a
    step, the others being scaled (arXiv 1603.05118).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        batch_first: bool = False,
        recurrent_dropout: float = 0.0,
    ):
        super().__init__(input_size, hidden_size, batch_first, recurrent_dropout)

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros (1, B, H) for h and c."""
        zeros = self.weight_hh.new_zeros(1, batch_size, self.hidden_size)
        return zeros, zeros

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x (B, I), h and c (B, H) -> the next h and c."""
        h, c = state
        gates = functional.linear(x, self.weight_ih) + functional.linear(h, self.weight_hh)
        return self.update(gates, c)


class HyperLSTM(_NormedLSTM):
    """A LayerNormLSTM whose gates another, ``hyper_cell``, scales and shifts (arXiv 1609.09106).

    The state is (h, c, hyper_h, hyper_c). From hyper_h each gate has an embedding for each of its
    scales, ``zw_*`` then ``alpha_*``, and for its shift, ``zb`` then ``beta``; the four gates'
    matrices are stacked.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        hyper_size: int = 256,
        embedding_size: int = 32,
        batch_first: bool = False,
        recurrent_dropout: float = 0.0,
    ):
        super().__init__(input_size, hidden_size, batch_first, recurrent_dropout)
        self.hyper_size = hyper_size
        self.embedding_size = embedding_size
        self.hyper_cell = LayerNormLSTM(input_size + hidden_size, hyper_size)
        to_z, to_gates = (4 * embedding_size, hyper_size), (4 * hidden_size, embedding_size)
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        self.zw_x_weight = nn.Parameter(torch.zeros(to_z))
        self.zw_x_bias = nn.Parameter(torch.ones(4 * embedding_size))
        self.alpha_x_weight = nn.Parameter(torch.full(to_gates, 0.1 / embedding_size))
        self.zw_h_weight = nn.Parameter(torch.zeros(to_z))
        self.zw_h_bias = nn.Parameter(torch.ones(4 * embedding_size))
        self.alpha_h_weight = nn.Parameter(torch.full(to_gates, 0.1 / embedding_size))
        self.zb_weight = nn.Parameter(0.01 * torch.randn(to_z))
        self.beta_weight = nn.Parameter(torch.zeros(to_gates))

    def initial_state(self, batch_size: int) -> tuple[Tensor, ...]:
        """Zeros (1, B, H) for h and c, (1, B, K) for hyper_h and hyper_c."""
        zeros = self.weight_hh.new_zeros(1, batch_size, self.hidden_size)
        return zeros, zeros, *self.hyper_cell.initial_state(batch_size)

    def step(self, x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """x (B, I), h and c (B, H), hyper_h and hyper_c (B, K) -> the next four."""
        h, c, *hyper_state = state
        hyper_h, hyper_c = self.hyper_cell.step(torch.cat([x, h], -1), tuple(hyper_state))
        zw_x = functional.linear(hyper_h, self.zw_x_weight, self.zw_x_bias)
        zw_h = functional.linear(hyper_h, self.zw_h_weight, self.zw_h_bias)
        zb = functional.linear(hyper_h, self.zb_weight)
        gates = (
            _by_gate(zw_x, self.alpha_x_weight) * functional.linear(x, self.weight_ih)
            + _by_gate(zw_h, self.alpha_h_weight) * functional.linear(h, self.weight_hh)
            + _by_gate(zb, self.beta_weight)
            + self.bias
        )
        h, c = self.update(gates, c)
        return h, c, hyper_h, hyper_c


def _normed(a: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the last dimension."""
    return functional.layer_norm(a, a.shape[-1:], eps=EPSILON)


def _by_gate(z: Tensor, weight: Tensor) -> Tensor:
    """z (B, 4*E), weight (4*H, E) -> (B, 4*H): each gate's part of z by that gate's rows."""
    parts = zip(z.chunk(4, -1), weight.chunk(4), strict=True)
    return torch.cat([functional.linear(part, rows) for part, rows in parts], -1)
