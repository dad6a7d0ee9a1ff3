"""sketch-rnn (arXiv 1704.03477): an encoder of whole drawings, a decoder that draws them.

A drawing is a sequence of (dx, dy, p1, p2, p3): an offset, and whether the pen then stays down, is
lifted, or the drawing has ended; it begins with the token (0, 0, 1, 0, 0). The decoder gives at
every step three logits of the pen and M Gaussians of the offset: weight, two means, two logarithms
of standard deviations, and an atanh of their correlation (``jaxrnn.mixture``). Usage::

    model = SketchRNN(rngs=nnx.Rngs(0))
    outputs, latent = model(strokes, lengths, rngs=nnx.Rngs(1))      # strokes (B, T + 1, 5)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.arguments import check_rngs, check_size
from jaxrnn.dense import Embedding, Linear
from jaxrnn.initial_values import glorot, orthogonal_gates
from jaxrnn.layers import LSTM
from jaxrnn.normed_layers import HyperLSTM, LayerNormLSTM

POINT = 5  # numbers of a step: dx, dy, p1, p2, p3
START = (0.0, 0.0, 1.0, 0.0, 0.0)
INITIAL_STD = 1e-3  # of the weights into and out of the latent vector

DECODERS = {"lstm": LSTM, "layer_norm": LayerNormLSTM, "hyper": HyperLSTM}
"""The recurrent layers of the decoder, by Magenta's names."""


class Latent(NamedTuple):
    """What the encoder makes of drawings: a Gaussian for each, and what was drawn from it."""

    mu: Float[Array, "B Z"]
    presig: Float[Array, "B Z"]  # logarithm of the variance
    z: Float[Array, "B Z"]


class SketchRNN(nnx.Module):
    """The variational model, or with ``conditional=False`` the decoder alone.

    Args:
        decoder: 'lstm', 'layer_norm' or 'hyper' (see ``jaxrnn.normed_layers``).
        hidden_size: of the decoder.
        encoder_size: of each direction of the encoder, a bidirectional LSTM.
        latent_size: Z.
        num_mixtures: M, Gaussians of a step.
        num_classes: above 0 the decoder also reads an embedding of the drawing's class.
        class_size: width of that embedding.
        conditional: whether there are an encoder and a latent vector.
        recurrent_dropout: probability that an element of a candidate is zeroed, in training.
        rngs, dtype, param_dtype, backend: as in ``jaxrnn.LSTM``; a dtype of None is param_dtype.

    Initial values are Magenta's: orthogonal recurrent weights, a forget gate's bias of 1. There
    are torch's two biases, of which Magenta has one.

    Raises:
        KeyError for an unknown decoder; ValueError, TypeError as ``jaxrnn.LSTM`` does.
    """

    def __init__(
        self,
        *,
        decoder: str = "lstm",
        hidden_size: int = 512,
        encoder_size: int = 256,
        latent_size: int = 128,
        num_mixtures: int = 20,
        num_classes: int = 0,
        class_size: int = 32,
        conditional: bool = True,
        recurrent_dropout: float = 0.1,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        self.num_mixtures = check_size("num_mixtures", num_mixtures)
        self.num_classes = check_size("num_classes", num_classes, least=0)
        self.latent_size = check_size("latent_size", latent_size) if conditional else 0
        self.conditional = conditional
        common: dict[str, Any] = {
            "batch_first": True,
            "recurrent_dropout": recurrent_dropout,
            "rngs": rngs,
            "dtype": dtype or param_dtype,
            "param_dtype": param_dtype,
        }
        linear: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        encoder = mu = presig = initial = classes = None
        if conditional:
            encoder = LSTM(POINT, encoder_size, bidirectional=True, backend=backend, **common)
            _start_lstm(encoder, rngs)
            mu = _near_zero(Linear(2 * encoder_size, latent_size, **linear), rngs)
            presig = _near_zero(Linear(2 * encoder_size, latent_size, **linear), rngs)
        if num_classes:
            classes = Embedding(num_classes, class_size, rngs=rngs, param_dtype=param_dtype)
        context_size = self.latent_size + (class_size if num_classes else 0)
        own = {"backend": backend} if decoder == "lstm" else {}
        self.decoder = DECODERS[decoder](POINT + context_size, hidden_size, **own, **common)
        if isinstance(self.decoder, LSTM):
            _start_lstm(self.decoder, rngs)
        if context_size:
            sizes = [part.shape[-1] for part in self.decoder.initial_state(1)]
            initial = _near_zero(Linear(context_size, sum(sizes), **linear), rngs)
        self.encoder, self.mu, self.presig = encoder, mu, presig
        self.initial, self.classes = initial, classes
        self.output = Linear(hidden_size, 3 + 6 * num_mixtures, **linear)
        for name in ("weight", "bias"):
            param = getattr(self.output, name)
            param[...] = glorot(rngs.params(), param.shape, param.dtype)

    def encode(
        self,
        strokes: Float[Array, "B T 5"],
        lengths: Int[Array, "B"],
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B Z"], Float[Array, "B Z"]]:
        """(mu, presig) of drawings without their start token; raises ValueError without an encoder.

        The encoder sees ``lengths`` steps of each: at least 1.
        """
        if self.encoder is None or self.mu is None or self.presig is None:
            raise ValueError("the model has no encoder: it was made with conditional=False")
        _, (h, _) = self.encoder(strokes, lengths=lengths, rngs=rngs)
        both = jnp.concatenate([h[0], h[1]], axis=-1)
        return self.mu(both), self.presig(both)

    def context(
        self,
        z: Float[Array, "B Z"] | None = None,
        classes: Int[Array, "B"] | None = None,
    ) -> Float[Array, "B C"] | None:
        """What the decoder reads at every step besides the point; None where it is nothing.

        Raises ValueError where the model reads a latent vector or a class, and none is given.
        """
        parts = []
        if self.conditional:
            if z is None:
                raise ValueError("z is None, expected (B, Z): the model reads a latent vector")
            parts.append(z)
        if self.classes is not None:
            if classes is None:
                raise ValueError("classes is None, expected (B,): the model reads a class")
            parts.append(self.classes(classes))
        return jnp.concatenate(parts, axis=-1) if parts else None

    def initial_state(self, context: Float[Array, "B C"] | None, batch_size: int) -> Any:
        """The decoder's state before the first step: tanh of a projection, or zeros."""
        state = self.decoder.initial_state(batch_size)
        if self.initial is None or context is None:
            return state
        places = np.cumsum([part.shape[-1] for part in state])[:-1]
        parts = jnp.split(jnp.tanh(self.initial(context)), places, axis=-1)
        return tuple(p[None].astype(s.dtype) for p, s in zip(parts, state, strict=True))

    def decode(
        self,
        points: Float[Array, "B T 5"],
        context: Float[Array, "B C"] | None,
        state: Any,
        lengths: Int[Array, "B"] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B T O"], Any]:
        """Outputs after each point, for ``jaxrnn.mixture.split_outputs``, and the last state."""
        x = points
        if context is not None:
            shape = (*points.shape[:2], context.shape[-1])
            every = jnp.broadcast_to(context[:, None].astype(points.dtype), shape)
            x = jnp.concatenate([points, every], axis=-1)
        y, state = self.decoder(x, state, lengths=lengths, rngs=rngs)
        return self.output(y), state

    def __call__(
        self,
        strokes: Float[Array, "B T1 5"],
        lengths: Int[Array, "B"],
        classes: Int[Array, "B"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        noise: Float[Array, "B Z"] | None = None,
    ) -> tuple[Float[Array, "B T O"], Latent | None]:
        """Outputs for every point after the start token, T of them, and the latent vectors.

        ``rngs``: stream 'dropout' draws the masks, and stream 'latent' the noise of z, N(0, 1),
        where ``noise`` is not given.
        """
        latent, z = None, None
        if self.conditional:
            mu, presig = self.encode(strokes[:, 1:], lengths, rngs)
            if noise is None:
                check_rngs(rngs, "latent")
                assert rngs is not None
                noise = jax.random.normal(rngs.latent(), mu.shape, mu.dtype)
            z = mu + jnp.exp(presig / 2) * noise.astype(mu.dtype)
            latent = Latent(mu, presig, z)
        context = self.context(z, classes)
        state = self.initial_state(context, len(strokes))
        outputs, _ = self.decode(strokes[:, :-1], context, state, rngs=rngs)
        return outputs, latent


def _near_zero(linear: Linear, rngs: nnx.Rngs) -> Linear:
    """The layer with weights from N(0, 0.001) and no bias."""
    weight, bias = linear.weight, linear.bias
    weight[...] = INITIAL_STD * jax.random.normal(rngs.params(), weight.shape, weight.dtype)
    if bias is not None:
        bias[...] = jnp.zeros_like(bias[...])
    return linear


def _start_lstm(lstm: LSTM, rngs: nnx.Rngs) -> None:
    """Glorot's input weights, orthogonal recurrent ones, and 1 as the forget gate's bias."""
    size, dtype = lstm.hidden_size, lstm.param_dtype
    for suffix in ("l0", "l0_reverse")[: lstm.num_directions]:
        weight_ih, weight_hh, bias_ih, bias_hh = (
            getattr(lstm, f"{name}_{suffix}")
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        weight_ih[...] = glorot(rngs.params(), weight_ih.shape, dtype)
        weight_hh[...] = orthogonal_gates(rngs.params(), 4, size, dtype)
        bias_ih[...] = jnp.zeros(4 * size, dtype).at[size : 2 * size].set(1)
        bias_hh[...] = jnp.zeros(4 * size, dtype)
