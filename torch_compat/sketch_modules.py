"""sketch-rnn in plain torch, with jaxrnn's parameter names; torch is all that is needed.

::

    model = torch_compat.load("exported")                  # or SketchRNN(hidden_size=512)
    drawings = model.draw(9, temperature=0.4)              # each (n, 3): dx, dy, pen lifted
    endings = model.draw(9, prefix=drawings[0][:20])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from torch_compat.normed_modules import HyperLSTM, LayerNormLSTM

POINT = 5  # numbers of a step: dx, dy, and pen down, lifted, or at the drawing's end
NORMED = {"layer_norm": LayerNormLSTM, "hyper": HyperLSTM}


class SketchRNN(nn.Module):
    """The variational model, or with ``conditional=False`` the decoder alone; arguments as ours.

    Encoder and an ``lstm`` decoder are ``torch.nn.LSTM``, which has no recurrent dropout; the
    other decoders are made without it too. ``strokes`` is ``{"scale": ..., "num_points": ...,
    "extent": ..., "classes": [...]}``: the model reads and draws offsets divided by the scale, of
    drawings of at most so many points, whose larger side is typically so long, of these classes.
    """

    def __init__(
        self,
        decoder: str = "lstm",
        hidden_size: int = 512,
        encoder_size: int = 256,
        latent_size: int = 128,
        num_mixtures: int = 20,
        num_classes: int = 0,
        class_size: int = 32,
        conditional: bool = True,
        strokes: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.arguments = {
            "decoder": decoder,
            "hidden_size": hidden_size,
            "encoder_size": encoder_size,
            "latent_size": latent_size,
            "num_mixtures": num_mixtures,
            "num_classes": num_classes,
            "class_size": class_size,
            "conditional": conditional,
        }
        if strokes is None:
            strokes = {"scale": 1.0, "num_points": 250, "extent": 256.0, "classes": []}
        self.scale = float(strokes["scale"])
        self.extent = float(strokes["extent"])
        self.num_points = int(strokes["num_points"])
        self.class_names = [str(name) for name in strokes["classes"]]
        if decoder != "lstm" and decoder not in NORMED:
            raise ValueError(f"decoder is {decoder!r}, expected one of lstm, {', '.join(NORMED)}")
        self.conditional, self.num_classes = conditional, num_classes
        if conditional:
            self.encoder = nn.LSTM(POINT, encoder_size, batch_first=True, bidirectional=True)
            self.mu = nn.Linear(2 * encoder_size, latent_size)
            self.presig = nn.Linear(2 * encoder_size, latent_size)
        if num_classes:
            self.classes = nn.Embedding(num_classes, class_size)
        context_size = latent_size * conditional + class_size * (num_classes > 0)
        make: Any = NORMED.get(decoder, nn.LSTM)
        self.decoder = make(POINT + context_size, hidden_size, batch_first=True)
        self.sizes = [hidden_size, hidden_size]
        if isinstance(self.decoder, HyperLSTM):
            self.sizes += [part.shape[-1] for part in self.decoder.initial_state(1)[2:]]
        self.initial = nn.Linear(context_size, sum(self.sizes)) if context_size else None
        self.output = nn.Linear(hidden_size, 3 + 6 * num_mixtures)

    @property
    def strokes(self) -> dict[str, Any]:
        """As the constructor takes it."""
        return {
            "scale": self.scale,
            "num_points": self.num_points,
            "extent": self.extent,
            "classes": list(self.class_names),
        }

    def encode(self, points: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """mu and the logarithm of the variance (B, Z) of drawings (B, T, 5) of these lengths."""
        packed = nn.utils.rnn.pack_padded_sequence(
            points, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (h, _) = self.encoder(packed)
        both = torch.cat([h[0], h[1]], dim=-1)
        return self.mu(both), self.presig(both)

    def forward(
        self,
        points: Tensor,
        state: Any = None,
        *,
        z: Tensor | None = None,
        classes: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """points (B, T, 5) -> (B, T, 3 + 6 M) for ``next_point``, and the state to go on from.

        Without a state it is the first: a drawing begins with the point (0, 0, 1, 0, 0). ``z``
        (B, Z) where the model is conditional, ``classes`` (B,) where it has some.
        """
        parts = [z] if self.conditional else []
        if self.num_classes:
            parts.append(None if classes is None else self.classes(classes))
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            raise ValueError("z or classes is None, which the model reads")
        x = points
        if known and self.initial is not None:
            context = torch.cat(known, dim=-1)
            x = torch.cat([points, context[:, None].expand(-1, points.shape[1], -1)], dim=-1)
            if state is None:
                members = torch.tanh(self.initial(context)).split(self.sizes, dim=-1)
                state = tuple(member[None].contiguous() for member in members)
        y, state = self.decoder(x, state)
        return self.output(y), state

    @torch.no_grad()
    def draw(
        self,
        count: int = 1,
        length: int = 0,
        *,
        prefix: Tensor | None = None,
        temperature: float = 1.0,
        convention: str = "paper",
        z: Tensor | None = None,
        classes: Tensor | None = None,
        draws: tuple[Tensor, Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> list[Tensor]:
        """``count`` drawings (n, 3) of dx, dy, pen lifted, in the data's unit.

        They have ``length`` points at most (0: ``num_points``), and go on from ``prefix`` (P, 3)
        where one is given. Without ``z`` a model that reads one gets N(0, 1), without ``classes``
        one that reads them gets the first. ``draws`` are numbers from U(0, 1) and N(0, 1), each
        (count, length, 2), in place of which ``generator`` or torch's own source is asked; the
        same numbers give the drawings of ``jaxrnn.models.sketch_drawing``.
        """
        weight, length = self.output.weight, length or self.num_points
        if z is None and self.conditional:
            shape = (count, self.mu.out_features)
            z = torch.randn(shape, generator=generator).to(weight)
        if classes is None and self.num_classes:
            classes = torch.zeros(count, dtype=torch.long, device=weight.device)
        z = None if z is None else z.to(weight)
        if draws is None:
            shape = (count, length, 2)
            uniform = torch.rand(shape, generator=generator).to(weight)
            normal = torch.randn(shape, generator=generator).to(weight)
        else:
            uniform, normal = (numbers.to(weight) for numbers in draws)
        if uniform.shape != (count, length, 2) or normal.shape != uniform.shape:
            raise ValueError(
                f"draws have shapes {tuple(uniform.shape)} and {tuple(normal.shape)}, expected "
                f"{(count, length, 2)}: two a point of each drawing"
            )
        start = torch.tensor([[0, 0, 1, 0, 0]]).to(weight)
        if prefix is not None:
            lifted = prefix[:, 2:]
            begun = torch.cat([prefix[:, :2] / self.scale, 1 - lifted, lifted, 0 * lifted], dim=-1)
            start = torch.cat([start, begun.to(start)])
        was_training = self.training
        self.eval()
        try:
            outputs, state = self(start.expand(count, -1, -1), z=z, classes=classes)
            points, ended = [], torch.zeros(count, dtype=torch.bool, device=weight.device)
            for k in range(length):
                point = next_point(
                    outputs[:, -1], uniform[:, k], normal[:, k], temperature, convention
                )
                points.append(point)
                ended = ended | (point[:, 4] > 0)
                if ended.all():
                    break
                outputs, state = self(point[:, None], state, z=z, classes=classes)
        finally:
            self.train(was_training)
        drawn = torch.stack(points, dim=1)
        after_end = drawn[..., 4].cumsum(dim=1) > 0
        drawn = torch.cat([drawn[..., :2] * self.scale, drawn[..., 3:4]], dim=-1)
        return [row[~end] for row, end in zip(drawn, after_end, strict=True)]


def next_point(
    outputs: Tensor,
    uniform: Tensor,
    normal: Tensor,
    temperature: float = 1.0,
    convention: str = "paper",
) -> Tensor:
    """outputs (B, 3 + 6 M) and random numbers (B, 2) to points (B, 5).

    ``paper``: variances times the temperature, logits over (1 + temperature) / 2; ``magenta``:
    variances times its square, logits over it.
    """
    pen, rest = outputs[:, :3], outputs[:, 3:]
    weight, *parts = rest.chunk(6, dim=-1)
    if convention == "paper":
        softness, spread = 0.5 + 0.5 * temperature, temperature**0.5
    else:
        softness, spread = max(temperature, 1e-6), temperature
    chosen = _choose(weight / softness, uniform[:, 1])[:, None]
    mu_x, mu_y, log_x, log_y, r = (part.gather(1, chosen)[:, 0] for part in parts)
    rho, first = torch.tanh(r), normal[:, 0]
    across = rho * first + torch.sqrt(1 - rho * rho) * normal[:, 1]
    state = nn.functional.one_hot(_choose(pen / softness, uniform[:, 0]), 3)
    dx, dy = mu_x + spread * log_x.exp() * first, mu_y + spread * log_y.exp() * across
    return torch.cat([torch.stack([dx, dy], dim=-1), state.to(dx)], dim=-1)


def _choose(logits: Tensor, uniform: Tensor) -> Tensor:
    """By inverse CDF."""
    cdf = logits.softmax(-1).cumsum(-1)
    chosen = (cdf <= (uniform * cdf[:, -1])[:, None]).sum(-1)
    return chosen.clamp(max=logits.shape[-1] - 1)
