"""sketch-rnn as one writes it in torch: ``nn.LSTM``, ``nn.Linear``, the loss in log space."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_value_

from jaxrnn.bench.peers import Session
from jaxrnn.bench.peers.ours_sketch import KL_WEIGHT, noise
from jaxrnn.bench.peers.torch_nn import as_array, device, on_device
from jaxrnn.bench.workloads import Drawing, data, parameters


class Net(nn.Module):
    """The variational model, or the decoder alone where there is no latent vector."""

    def __init__(self, drawing: Drawing):
        super().__init__()
        size, latent = drawing.hidden_size, drawing.latent_size
        self.latent_size = latent
        if latent:
            self.encoder = nn.LSTM(5, drawing.encoder_size, batch_first=True, bidirectional=True)
            self.mu = nn.Linear(2 * drawing.encoder_size, latent)
            self.presig = nn.Linear(2 * drawing.encoder_size, latent)
            self.initial = nn.Linear(latent, 2 * size)
        self.decoder = nn.LSTM(drawing.columns, size, batch_first=True)
        self.output = nn.Linear(size, drawing.width_out)

    def forward(self, strokes: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T + 1, 5) and (B, Z) to outputs, mu and presig; the encoder reads all T points."""
        points = strokes[:, :-1]
        if not self.latent_size:
            return self.output(self.decoder(points)[0]), noise, noise
        _, (h, _) = self.encoder(strokes[:, 1:])
        both = torch.cat([h[0], h[1]], dim=-1)
        mu, presig = self.mu(both), self.presig(both)
        z = mu + (presig / 2).exp() * noise
        h0, c0 = torch.tanh(self.initial(z)).chunk(2, dim=-1)
        x = torch.cat([points, z[:, None].expand(-1, points.shape[1], -1)], dim=-1)
        y, _ = self.decoder(x, (h0[None].contiguous(), c0[None].contiguous()))
        return self.output(y), mu, presig


def reconstruction(outputs: Tensor, points: Tensor) -> Tensor:
    """Mean over all points of the offsets' and the pen's negative log-likelihood."""
    pen, weight, mu_x, mu_y, log_x, log_y, r = outputs.split(
        [3, *6 * [(outputs.shape[-1] - 3) // 6]], dim=-1
    )
    rho = torch.tanh(r)
    rest = 1 - rho * rho
    a, b = (points[..., :1] - mu_x) / log_x.exp(), (points[..., 1:2] - mu_y) / log_y.exp()
    squared = (a * a + b * b - 2 * rho * a * b) / rest
    log_normal = -math.log(2 * math.pi) - log_x - log_y - (rest.log() + squared) / 2
    offset = -(weight.log_softmax(-1) + log_normal).logsumexp(-1)
    drawn = points[..., 4] == 0
    states = functional.cross_entropy(
        pen.flatten(0, 1), points[..., 2:].flatten(0, 1).argmax(-1), reduction="none"
    )
    return (offset * drawn).mean() + states.mean()


def session(drawing: Drawing) -> Session:
    """Eager, with Adam and clipping of each element."""
    place = device()
    net = Net(drawing)
    net.load_state_dict({n: torch.from_numpy(array) for n, array in parameters(drawing).items()})
    net = net.to(place)
    strokes = torch.from_numpy(data(drawing)[0][0]).to(place)
    shape = (drawing.batch_size, drawing.latent_size)
    adam = torch.optim.Adam(net.parameters(), lr=drawing.lr)

    def loss_of(noise: Tensor) -> tuple[Tensor, Tensor]:
        outputs, mu, presig = net(strokes, noise)
        loss = reconstruction(outputs, strokes[:, 1:])
        if drawing.latent_size:
            loss = loss - KL_WEIGHT * 0.5 * (1 + presig - mu * mu - presig.exp()).mean()
        return loss, outputs

    def check():
        net.zero_grad()
        loss, outputs = loss_of(torch.from_numpy(noise(drawing).copy()).to(place))
        loss.backward()
        grads = {name: as_array(p.grad) for name, p in net.named_parameters()}
        net.zero_grad()
        return as_array(outputs), grads

    def train() -> float:
        adam.zero_grad()
        loss, _ = loss_of(torch.randn(shape, device=place))
        loss.backward()
        clip_grad_value_(net.parameters(), drawing.clip)
        adam.step()
        return loss.item()

    own = [*net.parameters(), strokes]
    return on_device(drawing, place, own, Session(train, 1, check))
