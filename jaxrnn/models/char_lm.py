"""Character language model: one-hot or embedding, recurrent layers, dropout, linear decoder.

The lesson's ``CharRNN`` (udacity/deep-learning-v2-pytorch, char-rnn) with a choice of cell. Usage::

    model = CharLM(num_symbols=65, hidden_size=256, rngs=nnx.Rngs(0))
    logits, state = model(ids)                                # ids (B, T), logits (B, T, V)
    for chunk in generate(model, prime_ids, length=200, key=jax.random.key(0)):
        print(vocabulary.decode(chunk), end="")
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn import rules
from jaxrnn.dense import Embedding
from jaxrnn.dropout import Dropout
from jaxrnn.models import Params, Skeleton, split
from jaxrnn.models.recurrent_decoder import RecurrentDecoder

CHUNK = 256  # symbols generated in one dispatch, at most


class CharLM(RecurrentDecoder):
    """Logits of the next symbol at every step.

    Args:
        num_symbols: V, the vocabulary's size.
        embedding_size: width of a learned embedding; 0 for one-hot input.
        embedding_dropout: probability that a symbol's whole embedding is zero for a sequence.
        tie_embeddings: whether the decoder's weight is the embedding's (arXiv 1608.05859), which
            then has the size of the layers and starts as a decoder's weight does.
        input_dropout: probability on what layers read of embeddings, one mask for all steps.
        cell, hidden_size, num_layers, dropout, locked_dropout, rngs, dtype, param_dtype, backend:
            as in ``RecurrentDecoder``, and the errors too.

    Raises:
        ValueError for dropout on the embedding where there is none, and for one of another size
            than the layers where it is tied.
    """

    def __init__(
        self,
        num_symbols: int,
        *,
        cell: str = "lstm",
        hidden_size: int = 256,
        num_layers: int = 1,
        dropout: float = 0.0,
        embedding_size: int = 0,
        tie_embeddings: bool = False,
        embedding_dropout: float = 0.0,
        input_dropout: float = 0.0,
        locked_dropout: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        self.num_symbols = num_symbols
        if not embedding_size and (embedding_dropout or input_dropout):
            raise ValueError(
                f"embedding_dropout is {embedding_dropout} and input_dropout {input_dropout}, "
                "expected 0: embedding_size is 0"
            )
        if tie_embeddings and embedding_size != hidden_size:
            raise ValueError(
                f"embedding_size is {embedding_size}, expected hidden_size={hidden_size}: the "
                "decoder's weight is the embedding's"
            )
        self.tie_embeddings = tie_embeddings
        self.embedding_dropout = _dropout_or_none(embedding_dropout, rngs)
        self.input_dropout = _dropout_or_none(input_dropout, rngs)
        embedded: dict[str, Any] = {"rngs": rngs, "param_dtype": param_dtype}
        if tie_embeddings:
            embedded["bound"] = hidden_size**-0.5
        self.embedding = (
            Embedding(num_symbols, embedding_size, **embedded) if embedding_size else None
        )
        super().__init__(
            embedding_size or num_symbols,
            num_symbols,
            cell=cell,
            hidden_size=hidden_size,
            num_layers=num_layers,
            dropout=dropout,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            backend=backend,
            locked_dropout=locked_dropout,
            tied=tie_embeddings,
        )

    def __call__(
        self,
        ids: Int[Array, "B T"],
        state: Any = None,
        *,
        lengths: Int[Array, "B"] | None = None,
        rngs: nnx.Rngs | None = None,
    ) -> tuple[Float[Array, "B T V"], Any]:
        """Logits (float32 at least) and the state to go on from; arguments as in ``jaxrnn.LSTM``.

        An id outside 0..V-1 is an error of the caller that jitted code can't report: it reads as
        zeros (one-hot) or as another row (embedding).
        """
        x = self.read(ids, rngs)
        return self.decode(x, state, lengths, rngs, one_hot=self.embedding is None)

    def hidden(
        self, ids: Int[Array, "B T"], state: Any = None, *, rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "B T H"], Any]:
        """The last layer's output, without dropout, and the state."""
        one_hot = self.embedding is None
        return self.rnn(self.read(ids, rngs), state, rngs=rngs, one_hot=one_hot)

    def output(self, y: Float[Array, "B T H"]) -> Float[Array, "B T V"]:
        """Logits of the last layer's output."""
        if self.tie_embeddings and self.embedding is not None:
            return self.decoder(y, self.embedding.weight[...])
        return self.decoder(y)

    def read(
        self, ids: Int[Array, "B T"], rngs: nnx.Rngs | None
    ) -> Float[Array, "B T E"] | Int[Array, "B T"]:
        """What the layers read: rows of the embedding, or the ids where there is none."""
        if self.embedding is None:
            return ids
        if self.embedding_dropout is None:
            x = self.embedding(ids)
        else:
            x = self.embedding_dropout(self.embedding.weight[...], rngs=rngs)[ids]
        return x if self.input_dropout is None else self.input_dropout(x, rngs=rngs)


def _dropout_or_none(rate: float, rngs: nnx.Rngs) -> Dropout | None:
    """Of a table (V, E), whole rows; of a batch (B, T, E), one mask for all steps."""
    return Dropout(rate, rngs=rngs, shared_axis=1) if rate else None


def next_symbol(
    logits: Float[Array, "B V"],
    uniform: Float[Array, "B"],
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Int[Array, "B"]:
    """Draw from softmax(logits / temperature), by inverse CDF from one uniform number a row.

    ``temperature`` 0 takes the likeliest. ``top_k`` > 0 keeps the k likeliest; ``top_p`` < 1 then
    keeps the fewest of the likeliest whose probabilities reach p (arXiv 1904.09751). The inverse
    CDF makes a draw one comparison in any framework: the same numbers give the same text.
    """
    if temperature == 0:
        return jnp.argmax(logits, axis=-1)
    # From the largest on, so that a tiny temperature gives -inf, never inf - inf.
    logits = (logits - logits.max(-1, keepdims=True)) / max(temperature, 1e-30)
    if 0 < top_k < logits.shape[-1]:
        if rules.count_larger(logits.shape[-1]):
            larger = (logits[:, None, :] > logits[:, :, None]).sum(-1)
            logits = jnp.where(larger < top_k, logits, -jnp.inf)
        else:
            least = jax.lax.top_k(logits, top_k)[0][:, -1:]
            logits = jnp.where(logits < least, -jnp.inf, logits)
    probabilities = jax.nn.softmax(logits, axis=-1)
    if top_p < 1:
        descending = jnp.sort(probabilities, axis=-1)[:, ::-1]
        before = jnp.cumsum(descending, axis=-1) - descending
        least = jnp.min(jnp.where(before < top_p, descending, jnp.inf), axis=-1)
        probabilities = jnp.where(probabilities < least[:, None], 0, probabilities)
    cdf = jnp.cumsum(probabilities, axis=-1)
    chosen = (cdf <= (uniform.astype(cdf.dtype) * cdf[:, -1])[:, None]).sum(-1)
    last = logits.shape[-1] - 1 - jnp.argmax(probabilities[:, ::-1] > 0, axis=-1)
    return jnp.minimum(chosen, last)


@functools.partial(jax.jit, static_argnums=0)
def _read(skeleton, params, ids):
    """The logits after the prime, and the state."""
    logits, state = skeleton.merge(params)(ids)
    return logits[:, -1], state


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8))
def _write(skeleton, params, carry, key, start, count, temperature, top_k, top_p):
    """``count`` <= CHUNK more symbols after the one whose logits ``carry`` holds."""
    model = skeleton.merge(params)
    batch = carry[0].shape[:1]
    keys = jax.vmap(lambda position: jax.random.fold_in(key, position))(start + jnp.arange(CHUNK))
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, batch))(keys)

    def step(k, carried):
        logits, state, written = carried
        ids = next_symbol(logits, uniforms[k], temperature, top_k, top_p)
        logits, state = model(ids[:, None], state)
        return logits[:, 0], state, written.at[k].set(ids.astype(jnp.int32))

    written = jnp.zeros((CHUNK, *batch), jnp.int32)
    logits, state, written = jax.lax.fori_loop(0, count, step, (*carry, written))
    return (logits, state), written


def generate(
    model: CharLM | tuple[Skeleton[CharLM], Params],
    prime: Int[np.ndarray, "P"],
    *,
    length: int,
    key: Array,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
) -> Iterator[Int[np.ndarray, "C"]]:
    """Go on from ``prime`` (at least one id) for ``length`` symbols, in arrays of up to CHUNK.

    A loop on the device generates each array; the i-th symbol's uniform number comes from
    ``fold_in(key, i)``, so that a longer text begins with the shorter one. Dropout is off. Calls
    with the same pair, as ``split`` gives it, compile once; each call with a model compiles anew.
    """
    if isinstance(model, CharLM):
        parts = [part for _, part in nnx.iter_modules(model) if isinstance(part, Dropout)]
        was_training = any(not part.deterministic for part in parts)
        model.eval()
        model_split = split(model)
        if was_training:
            model.train()
    else:
        model_split = model
    skeleton, params = model_split
    carry = _read(skeleton, params, jnp.asarray(prime, jnp.int32)[None])
    for start in range(0, length, CHUNK):
        count = min(length - start, CHUNK)
        options = (float(temperature), int(top_k), float(top_p))
        carry, ids = _write(skeleton, params, carry, key, start, count, *options)
        yield np.asarray(ids)[:count, 0]
