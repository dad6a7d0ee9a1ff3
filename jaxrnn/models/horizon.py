"""Forecasters of many steps: ``DirectForecaster``, ``RecursiveForecaster``, ``SegmentForecaster``.

All read the past ``(B, T, C + A + F)``: C targets, A covariates, F features that are known of the
future too, and those of the N steps to come ``(B, N, F)``; all give the parameters of a
``Distribution`` for each target and step, ``(B, N, C, P)``. Targets are normalised by their own
past, ``z = (x - shift) / factor``, and what comes out is brought back:

    none   shift 0, factor 1
    last   shift the last value, factor 1 (arXiv 2308.11200)
    revin  (x - mean) / sqrt(var + 1e-5) * weight + bias (RevIN, Kim et al., ICLR 2022)

Usage::

    model = DirectForecaster(7, horizon=24, cell="gru", hidden_size=64, rngs=nnx.Rngs(0))
    parameters = model(past, known)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxrnn.dense import Linear
from jaxrnn.distributions import Distribution, student_t_draw
from jaxrnn.dropout import Dropout
from jaxrnn.layers import LAYERS

EPSILON = 1e-5  # added to a variance
NORMALIZATIONS = ("none", "last", "revin")


class InstanceNorm(nnx.Module):
    """Shift and factor of targets, by their past; ``revin`` has a weight and a bias of each."""

    def __init__(self, num_targets: int, kind: str, param_dtype: DTypeLike):
        self.kind = kind
        learned = kind == "revin"
        self.weight = nnx.Param(jnp.ones(num_targets, param_dtype)) if learned else None
        self.bias = nnx.Param(jnp.zeros(num_targets, param_dtype)) if learned else None

    def __call__(
        self, past: Float[Array, "B T C"]
    ) -> tuple[Float[Array, "B 1 C"], Float[Array, "B 1 C"]]:
        """``(shift, factor)``, at least float32."""
        last = past[:, -1:].astype(jnp.promote_types(past.dtype, jnp.float32))
        if self.weight is None or self.bias is None:
            return (last if self.kind == "last" else 0 * last), jnp.ones_like(last)
        mean = past.mean(1, keepdims=True).astype(last.dtype)
        std = jnp.sqrt(past.var(1, keepdims=True).astype(last.dtype) + EPSILON)
        weight = self.weight[...].astype(last.dtype)[None, None]
        factor = std / (weight + EPSILON**2)  # as RevIN's code keeps off a weight of 0
        return mean - self.bias[...].astype(last.dtype)[None, None] * factor, factor


class HorizonModel(nnx.Module):
    """What the three have in common: sizes, normalisation, distribution.

    Args:
        num_targets, num_covariates, num_known: C, A, F.
        horizon: N, steps that are trained.
        cell, hidden_size, num_layers: of the recurrent layers: 'lstm', 'gru' or 'rnn'.
        dropout: probability between the layers and before what is linear at the end, in training.
        normalize: 'none', 'last' or 'revin'.
        distribution, levels: as in ``Distribution``.
        rngs, dtype, param_dtype, backend: as in ``jaxrnn.LSTM``; a dtype of None is param_dtype.
    """

    def __init__(
        self,
        num_targets: int,
        num_covariates: int = 0,
        num_known: int = 0,
        *,
        horizon: int,
        cell: str = "gru",
        hidden_size: int = 64,
        num_layers: int = 1,
        dropout: float = 0.0,
        normalize: str = "revin",
        distribution: Literal["point", "quantiles", "student_t"] = "point",
        levels: Sequence[float] = (0.5,),
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        self.num_targets, self.num_covariates = num_targets, num_covariates
        self.num_known, self.horizon = num_known, horizon
        self.cell, self.hidden_size, self.num_layers = cell, hidden_size, num_layers
        self.dtype, self.param_dtype, self.backend = dtype, param_dtype, backend
        self.distribution = Distribution(distribution, tuple(levels))
        self.normalization = InstanceNorm(num_targets, normalize, param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs) if dropout else None

    def _recurrent(self, input_size: int, rngs: nnx.Rngs, dropout: float = 0.0) -> Any:
        return LAYERS[self.cell](
            input_size,
            self.hidden_size,
            self.num_layers,
            batch_first=True,
            dropout=dropout if self.num_layers > 1 else 0.0,
            rngs=rngs,
            dtype=self.dtype or self.param_dtype,
            param_dtype=self.param_dtype,
            backend=self.backend,
        )

    def _linear(self, inputs: int, outputs: int, rngs: nnx.Rngs) -> Linear:
        options = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Linear(inputs, outputs, rngs=rngs, **options)

    @property
    def input_size(self) -> int:
        """I = C + A + F: what is read of a step of the past."""
        return self.num_targets + self.num_covariates + self.num_known

    @property
    def num_raw(self) -> int:
        """C * P: what is given for a step."""
        return self.num_targets * self.distribution.num_parameters

    def _read(self, past: Float[Array, "B T I"]) -> tuple[Array, Array, Array]:
        """The past with its targets normalised, and their shift and factor."""
        targets = past[..., : self.num_targets]
        shift, factor = self.normalization(targets)
        z = (targets - shift) / factor
        return (
            jnp.concatenate([z, past[..., self.num_targets :].astype(z.dtype)], -1),
            shift,
            factor,
        )

    def _parameters(self, raw: Float[Array, "B N CP"], shift: Array, factor: Array) -> Array:
        """Of raw numbers in normalised units: parameters in the unit of the past, (B, N, C, P)."""
        raw = raw.reshape(*raw.shape[:2], self.num_targets, -1)
        parameters = self.distribution.parameters(raw)
        return self.distribution.rescaled(parameters, shift[..., None], factor[..., None])

    def _dropped(self, y: Array, rngs: nnx.Rngs | None) -> Array:
        return y if self.dropout is None else self.dropout(y, rngs=rngs)


class DirectForecaster(HorizonModel):
    """All steps at once from the last state: ``W h + b``, N * C * P numbers.

    What is known of a step to come adds ``V relu(U [h, known] + a) + b``, U and V the same for all.
    """

    def __init__(self, *sizes: int, rngs: nnx.Rngs, dropout: float = 0.0, **options: Any):
        super().__init__(*sizes, rngs=rngs, dropout=dropout, **options)
        self.rnn = self._recurrent(self.input_size, rngs, dropout)
        self.decoder = self._linear(self.hidden_size, self.horizon * self.num_raw, rngs)
        num_known, size = self.num_known, self.hidden_size
        self.known_hidden = self._linear(size + num_known, size, rngs) if num_known else None
        self.known_decoder = self._linear(size, self.num_raw, rngs) if num_known else None

    def __call__(
        self,
        past: Float[Array, "B T I"],
        known: Float[Array, "B N F"],
        targets: Float[Array, "B N C"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B N C P"]:
        """Parameters of the ``horizon`` steps; ``targets`` are not read."""
        x, shift, factor = self._read(past)
        y, _ = self.rnn(x, rngs=rngs)
        last = self._dropped(y[:, -1], rngs)
        raw = self.decoder(last).reshape(len(x), self.horizon, self.num_raw)
        if self.known_hidden is not None and self.known_decoder is not None:
            shape = (*known.shape[:2], last.shape[-1])
            state = jnp.broadcast_to(last[:, None].astype(x.dtype), shape)
            joint = jnp.concatenate([state, known.astype(x.dtype)], -1)
            raw += self.known_decoder(jax.nn.relu(self.known_hidden(joint)))
        return self._parameters(raw, shift, factor)


class RecursiveForecaster(HorizonModel):
    """One step after the other: an encoder reads the past, a decoder its own last forecast.

    The decoder begins from the encoder's state, and reads the value before a step and what is known
    of the step. Called without ``targets`` it reads its own points, in training too: each step's
    parameters then are of that step, given the past. With ``targets`` it reads these (teacher
    forcing): a step's parameters are of the next value given the true one before, of which
    ``sample`` makes paths.
    """

    def __init__(self, *sizes: int, rngs: nnx.Rngs, dropout: float = 0.0, **options: Any):
        super().__init__(*sizes, rngs=rngs, dropout=dropout, **options)
        self.encoder = self._recurrent(self.input_size, rngs, dropout)
        self.rnn = self._recurrent(self.num_targets + self.num_known, rngs)
        self.decoder = self._linear(self.hidden_size, self.num_raw, rngs)

    def __call__(
        self,
        past: Float[Array, "B T I"],
        known: Float[Array, "B N F"],
        targets: Float[Array, "B N C"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B N C P"]:
        """Parameters of as many steps as ``known`` has; it reads ``targets`` where given."""
        x, shift, factor = self._read(past)
        _, state = self.encoder(x, rngs=rngs)
        value = x[:, -1:, : self.num_targets]
        known = known.astype(x.dtype)
        # One mask for each step, drawn before the loop: a loop's body is traced but once.
        kept = jnp.ones((known.shape[1], len(x), 1, self.hidden_size), x.dtype)
        kept = self._dropped(kept, rngs)
        if targets is not None:
            before = jnp.concatenate([value, ((targets - shift) / factor)[:, :-1]], 1)
            y, _ = self.rnn(jnp.concatenate([before, known], -1), state)
            raw = self.decoder(y * kept[:, :, 0].swapaxes(0, 1).astype(y.dtype))
            return self._parameters(raw, shift, factor)

        def step(carry, inputs):
            value, state = carry
            known, kept = inputs
            y, state = self.rnn(jnp.concatenate([value, known[:, None]], -1), state)
            raw = self.decoder(y * kept.astype(y.dtype))
            parameters = self.distribution.parameters(self._each(raw))
            return (self.distribution.point(parameters).astype(value.dtype), state), raw[:, 0]

        _, raw = jax.lax.scan(step, (value, state), (known.swapaxes(0, 1), kept))
        return self._parameters(raw.swapaxes(0, 1), shift, factor)

    def _each(self, raw: Float[Array, "B N CP"]) -> Float[Array, "B N C P"]:
        return raw.reshape(*raw.shape[:2], self.num_targets, -1)

    def sample(
        self,
        past: Float[Array, "B T I"],
        known: Float[Array, "B N F"],
        uniforms: Float[Array, "2 S B N C"],
    ) -> Float[Array, "S B N C"]:
        """S paths of a Student t, each step drawn given the one drawn before it."""
        x, shift, factor = self._read(past)
        _, state = self.encoder(x)
        _, num_paths, num_rows, num_steps, _ = uniforms.shape
        repeated = lambda a, axis: jnp.concatenate([a] * num_paths, axis)  # noqa: E731
        state = jax.tree.map(lambda member: repeated(member, 1), state)
        value = repeated(x[:, -1:, : self.num_targets], 0)
        inputs = uniforms.astype(x.dtype).reshape(2, num_paths * num_rows, num_steps, -1)

        def step(carry, inputs):
            value, state = carry
            known, uniforms = inputs
            y, state = self.rnn(jnp.concatenate([value, repeated(known, 0)[:, None]], -1), state)
            parameters = self.distribution.parameters(self._each(self.decoder(y)))
            drawn = student_t_draw(parameters, uniforms[:, :, None].astype(parameters.dtype))
            return (drawn.astype(value.dtype), state), drawn[:, 0]

        steps = (known.astype(x.dtype).swapaxes(0, 1), jnp.moveaxis(inputs, 2, 0))
        _, drawn = jax.lax.scan(step, (value, state), steps)
        drawn = drawn.swapaxes(0, 1).reshape(num_paths, num_rows, num_steps, -1)
        return drawn * factor[None] + shift[None]


class SegmentForecaster(HorizonModel):
    """SegRNN (arXiv 2308.11200): a few steps of whole segments, each target by itself.

    Segments of the past, ``relu(W s + b)``, are read one after the other; from the last state each
    segment to come is one more step, all at the same time, whose input is an embedding of its
    place beside one of the target (H/2 each). What is known of a segment is added to that. Targets
    share all else. Past-only covariates have no place in it.

    T is a multiple of ``segment_len``, N any number of steps.
    """

    def __init__(
        self,
        num_targets: int,
        num_covariates: int = 0,
        num_known: int = 0,
        *,
        segment_len: int,
        rngs: nnx.Rngs,
        dropout: float = 0.0,
        param_dtype: DTypeLike = jnp.float32,
        **options: Any,
    ):
        super().__init__(
            num_targets,
            num_covariates,
            num_known,
            rngs=rngs,
            dropout=dropout,
            param_dtype=param_dtype,
            **options,
        )
        if num_covariates:
            raise ValueError(f"num_covariates is {num_covariates}, expected 0: none is read")
        if self.hidden_size % 2:
            raise ValueError(f"hidden_size is {self.hidden_size}, expected an even number")
        self.segment_len = segment_len
        self.num_segments = -(-self.horizon // segment_len)
        half, num_parameters = self.hidden_size // 2, self.distribution.num_parameters
        self.segment = self._linear(segment_len, self.hidden_size, rngs)
        self.rnn = self._recurrent(self.hidden_size, rngs, dropout)
        draw = lambda *shape: nnx.Param(jax.random.normal(rngs.params(), shape, param_dtype))  # noqa: E731
        self.place = draw(self.num_segments, half)
        self.target = draw(num_targets, half)
        self.known = (
            self._linear(segment_len * num_known, self.hidden_size, rngs) if num_known else None
        )
        self.decoder = self._linear(self.hidden_size, segment_len * num_parameters, rngs)

    def __call__(
        self,
        past: Float[Array, "B T I"],
        known: Float[Array, "B N F"],
        targets: Float[Array, "B N C"] | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ) -> Float[Array, "B N C P"]:
        """Parameters of the ``horizon`` steps; ``targets`` are not read."""
        x, shift, factor = self._read(past)
        num_rows, num_segments, size = len(x), self.num_segments, self.hidden_size
        z = x[..., : self.num_targets].swapaxes(1, 2)
        z = z.reshape(num_rows * self.num_targets, -1, self.segment_len)
        _, state = self.rnn(jax.nn.relu(self.segment(z)), rngs=rngs)
        shape = (self.num_targets, num_segments, size // 2)
        place = jnp.broadcast_to(self.place[...][None], shape)
        target = jnp.broadcast_to(self.target[...][:, None], shape)
        ahead = jnp.concatenate([place, target], -1)[None]
        ahead = jnp.broadcast_to(ahead, (num_rows, *ahead.shape[1:]))
        if self.known is not None:
            ahead = ahead + self.known(self._by_segment(known))[:, None].astype(ahead.dtype)
        # (L, B*C, H) -> (L, B*C*M, H): the same state before each segment to come
        state = jax.tree.map(lambda member: jnp.repeat(member, num_segments, axis=1), state)
        y, _ = self.rnn(ahead.reshape(-1, 1, size), state, rngs=rngs)
        raw = self.decoder(self._dropped(y[:, 0], rngs))
        num_steps = num_segments * self.segment_len
        raw = raw.reshape(num_rows, self.num_targets, num_steps, -1)[:, :, : self.horizon]
        return self._parameters(
            raw.swapaxes(1, 2).reshape(num_rows, self.horizon, self.num_raw), shift, factor
        )

    def _by_segment(self, known: Float[Array, "B N F"]) -> Float[Array, "B M SF"]:
        """What is known of each segment in a row; zeros after the horizon."""
        missing = self.num_segments * self.segment_len - self.horizon
        known = jnp.pad(known, ((0, 0), (0, missing), (0, 0)))
        return known.reshape(len(known), self.num_segments, -1)


HEADS: dict[str, type[HorizonModel]] = {
    "direct": DirectForecaster,
    "recursive": RecursiveForecaster,
    "segments": SegmentForecaster,
}
"""The three by the option ``head``."""
