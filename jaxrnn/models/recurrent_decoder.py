"""What our models have in common: recurrent layers, dropout, a linear decoder at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxrnn.dense import Linear
from jaxrnn.dropout import Dropout
from jaxrnn.layers import LAYERS


class RecurrentDecoder(nnx.Module):
    """``decoder(dropout(rnn(x)))``; models call ``decode`` with what they make of their input.

    Args:
        input_size, output_size: features of a step that are read and given.
        cell: 'lstm', 'gru' or 'rnn': a key of ``layers``.
        hidden_size, num_layers: of the recurrent layers.
        dropout: probability between the layers and before the decoder, in training only.
        locked_dropout: whether a sequence has one mask of each for all its steps.
        tied: whether the decoder has no weight of its own: a subclass's ``output`` gives it.
        rngs, dtype, param_dtype, backend: as in ``jaxrnn.LSTM``; a dtype of None is param_dtype.

    Raises:
        KeyError for an unknown cell; ValueError, TypeError as ``jaxrnn.LSTM`` does.
    """

    layers: ClassVar[Mapping[str, Callable[..., Any]]] = LAYERS

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        cell: str,
        hidden_size: int,
        num_layers: int,
        dropout: float,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None,
        param_dtype: DTypeLike,
        backend: str,
        locked_dropout: bool = False,
        tied: bool = False,
    ):
        is_between = num_layers > 1 or self.layers is not LAYERS  # others have it within, too
        self.rnn = self.layers[cell](
            input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout if is_between else 0.0,
            rngs=rngs,
            dtype=dtype or param_dtype,
            param_dtype=param_dtype,
            backend=backend,
        )
        if locked_dropout:
            for _, part in nnx.iter_modules(self.rnn):
                if isinstance(part, Dropout):
                    part.shared_axis = 0  # layers are time-major within
        time_axis = 1 if locked_dropout else None
        self.dropout = Dropout(dropout, rngs=rngs, shared_axis=time_axis) if dropout else None
        linear: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.decoder = Linear(hidden_size, output_size, tied=tied, **linear)

    def decode(
        self,
        x: Float[Array, "B T I"] | Int[Array, "B T"],
        state: Any,
        lengths: Int[Array, "B"] | None,
        rngs: nnx.Rngs | None,
        one_hot: bool = False,
    ) -> tuple[Float[Array, "B T O"], Any]:
        """The decoder's output (float32 at least) and the state; arguments as ``jaxrnn.LSTM``'s."""
        y, state = self.rnn(x, state, lengths=lengths, rngs=rngs, one_hot=one_hot)
        return self.output(self.dropped(y, rngs)), state

    def dropped(self, y: Float[Array, "B T H"], rngs: nnx.Rngs | None) -> Float[Array, "B T H"]:
        """What the decoder reads of the layers' output."""
        return y if self.dropout is None else self.dropout(y, rngs=rngs)

    def output(self, y: Float[Array, "B T H"]) -> Float[Array, "B T O"]:
        """What the decoder makes of it."""
        return self.decoder(y)
