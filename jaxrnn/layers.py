"""Recurrent layers with torch.nn's constructors, shapes and numbers, as flax nnx modules.

``RNN``, ``LSTM`` and ``GRU`` run whole sequences: stacked layers, both directions, projections,
dropout between layers, variable lengths; ``Recurrent`` does all of it for a cell of your own.
Single steps are in ``jaxrnn.cell_modules``.
Parameters carry torch's names and shapes (``weight_ih_l0 (G*H, I)``, ...), so that conversion
renames and never computes. Usage::

    lstm = LSTM(input_size=10, hidden_size=20, num_layers=2, rngs=nnx.Rngs(0))
    y, (h_n, c_n) = lstm(x)                      # x (T, B, 10), y (T, B, 20), h_n (2, B, 20)
    y, (h_n, c_n) = lstm(x, (h_n, c_n), lengths=jnp.array([7, 5, 2]))
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from jaxrnn import recurrence
from jaxrnn.arguments import (
    as_array,
    check_backend,
    check_bool,
    check_cell,
    check_dtype,
    check_ids,
    check_input,
    check_lengths,
    check_nonlinearity,
    check_probability,
    check_rngs,
    check_shape,
    check_size,
    check_state,
)
from jaxrnn.cells import CELLS, Cell
from jaxrnn.dense import uniform
from jaxrnn.dropout import Dropout
from jaxrnn.recurrence import OneHot, Weights, state_dtype


class Recurrent(nnx.Module):
    """Any ``jaxrnn.cells.Cell`` as a layer: RNN, LSTM and GRU are this one with a cell of theirs.

    Arguments and errors as in ``LSTM``, the cell before them. A state is a tuple of the cell's
    members where it has more than one, of which h alone is projected. A cell that is not in
    ``jaxrnn.cells.CELLS`` is run by the backend 'reference', which JAX differentiates: x is read,
    and weights' gradients are summed, step by step in place of one matmul over all steps.

    Memory in training, floats: T*B*D*L*(G*H + 3*H), besides the inputs of each layer; of a cell of
    your own, what JAX keeps of its equation in place of the bracket.

    Usage: ``layer = Recurrent(Cell("mine", 2, 1, equation), 10, 20, rngs=nnx.Rngs(0))``.
    """

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
        recurrent_dropout: float = 0.0,
    ):
        self.input_size = check_size("input_size", input_size)
        self.hidden_size = check_size("hidden_size", hidden_size)
        self.num_layers = check_size("num_layers", num_layers)
        self.bias = check_bool("bias", bias)
        self.batch_first = check_bool("batch_first", batch_first)
        self.dropout = check_probability("dropout", dropout)
        self.recurrent_dropout = check_probability("recurrent_dropout", recurrent_dropout)
        self.bidirectional = check_bool("bidirectional", bidirectional)
        self.proj_size = check_size("proj_size", proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size is {proj_size}, expected less than hidden_size={hidden_size}"
            )
        self.dtype = None if dtype is None else check_dtype("dtype", dtype)
        self.param_dtype = check_dtype("param_dtype", param_dtype)
        self.backend = check_backend(backend)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                f"dropout={dropout} has no effect with num_layers=1: it is applied after every "
                "layer but the last",
                # Past flax's metaclass and a subclass's constructor, to who constructs the layer.
                stacklevel=5 + (type(self) is not Recurrent),
            )
        self.cell = check_cell(cell, self.hidden_size)
        if self.recurrent_dropout > 0 and cell != CELLS["lstm"]:
            raise ValueError(
                f"recurrent_dropout is {recurrent_dropout}, expected 0: the cell {cell.name!r} is "
                "not the LSTM's, whose candidate it would scale"
            )
        has_masks = self.dropout > 0 and self.num_layers > 1
        check_rngs(rngs, "params", *["dropout"][: has_masks or self.recurrent_dropout > 0])
        gate_size, bound = cell.num_gates * self.hidden_size, self.hidden_size**-0.5
        for layer in range(self.num_layers):
            layer_input = self.num_directions * self.output_size if layer else self.input_size
            shapes = {
                "weight_ih": (gate_size, layer_input),
                "weight_hh": (gate_size, self.output_size),
                "bias_ih": (gate_size,) if self.bias else None,
                "bias_hh": (gate_size,) if self.bias else None,
                "weight_hr": (self.proj_size, self.hidden_size) if self.proj_size else None,
            }
            for suffix in self._suffixes(layer):
                for name, shape in shapes.items():
                    if shape is not None:
                        param = uniform(rngs, shape, bound, self.param_dtype)
                        setattr(self, f"{name}_{suffix}", param)
        self.dropout_layer = Dropout(self.dropout, rngs=rngs) if has_masks else None
        self.candidate_dropout = (
            Dropout(self.recurrent_dropout, rngs=rngs) if self.recurrent_dropout else None
        )

    @property
    def num_directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """The size of h in one direction: P with a projection, else H."""
        return self.proj_size or self.hidden_size

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][: self.num_directions]

    def _weights(self, suffix: str) -> Weights:
        """One layer and direction's parameters, by torch's suffix ('l0', 'l0_reverse')."""

        def get(name):
            return getattr(self, f"{name}_{suffix}")[...]

        return Weights(
            weight_ih=get("weight_ih"),
            weight_hh=get("weight_hh"),
            bias_ih=get("bias_ih") if self.bias else None,
            bias_hh=get("bias_hh") if self.bias else None,
            weight_hr=get("weight_hr") if self.proj_size else None,
        )

    @property
    def _state_names(self) -> str:
        """Of the members of a state, for errors: '(h, c)' of an LSTM."""
        names = ["h", "c", *(f"c{k}" for k in range(2, self.cell.num_states))]
        joined = ", ".join(names[: self.cell.num_states])
        return f"({joined})" if self.cell.num_states > 1 else joined

    def _state_shapes(self, batch: tuple[int, ...]) -> list[tuple[int, ...]]:
        """Of each member of a state: h is the one that is projected."""
        sizes = [self.output_size] + [self.hidden_size] * (self.cell.num_states - 1)
        return [(self.num_directions * self.num_layers, *batch, size) for size in sizes]

    def initial_state(self, batch_size: int | None = None) -> Any:
        """Zeros, as used where no state is given; without a batch where ``batch_size`` is None.

        Returns h (D*L, B, P or H), or ``(h, c)`` with c (D*L, B, H) for an LSTM, in float32 or
        wider.
        """
        dtype = state_dtype(self.dtype or self.param_dtype)
        shapes = self._state_shapes(() if batch_size is None else (batch_size,))
        members = tuple(jnp.zeros(shape, dtype) for shape in shapes)
        return members if self.cell.num_states > 1 else members[0]

    def __call__(
        self,
        x: ArrayLike,
        state: Any = None,
        *,
        lengths: ArrayLike | Sequence[int] | None = None,
        resets: ArrayLike | None = None,
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        one_hot: bool = False,
    ) -> tuple[jax.Array, Any]:
        """Run the whole sequence; the numbers and shapes are torch.nn's.

        Args:
            x: (T, B, I); (B, T, I) if ``batch_first``; (T, I) without a batch. T >= 1.
            state: h (D*L, B, P or H), ``(h, c)`` for an LSTM, as returned; zeros if None.
            lengths: (B,) ints, 1 <= length <= T, in any order: the semantics of torch's
                PackedSequence. Outputs from a sequence's length on are zero, the last state is
                the one at its length, the content of ``x`` there has no influence. Values are
                checked where they are known; inside jit, outside 1..T, they act as clipped to
                0..T.
            resets: bools, (T, B) laid out as ``x``: True where a new episode begins. No state
                passes that step in either direction; the new episode starts from zeros, also
                where a ``state`` was given.
            rngs: the source of dropout masks (stream 'dropout'), in place of the module's own.
            one_hot: x holds ints, (T, B) or as above without I, each for a row of I zeros but
                for a 1 at that place; outside 0..I-1, for zeros alone.

        Returns:
            y (T, B, D*P or D*H), laid out as ``x``, and the last state, like ``state``. States
            are float32 at least, also where ``dtype`` is narrower.

        Raises:
            ValueError, TypeError: naming the argument, what it is and what it must be.
        """
        owner = type(self).__name__
        if one_hot:
            x = check_ids(owner, x, (1, 2))
            lead = x.shape
        else:
            x = check_input(owner, x, (2, 3), self.input_size, self.dtype, self.param_dtype)
            lead = x.shape[:-1]
        batched = len(lead) == 2
        time_axis = 1 if batched and self.batch_first else 0
        num_steps = x.shape[time_axis]
        if num_steps == 0:
            raise ValueError(f"{owner}: x has shape {x.shape}, expected at least one time step")
        batch: tuple[int, ...] = (x.shape[1 - time_axis],) if batched else ()

        if state is None:
            state = self.initial_state(*batch)
            members = list(state) if self.cell.num_states > 1 else [state]
        else:
            members = check_state(owner, self._state_names, state, self._state_shapes(batch))
        if lengths is not None:
            lengths = check_lengths(owner, lengths, batch, num_steps)
        if resets is not None:
            resets = as_array(f"{owner}: resets", resets)
            if resets.dtype != jnp.bool_:
                raise TypeError(f"{owner}: resets has dtype {resets.dtype}, expected bool")
            check_shape(f"{owner}: resets", resets.shape, lead, "one bool a step and sequence")

        if not batched:
            x, members = x[:, None], [m[:, None] for m in members]
            lengths = None if lengths is None else lengths[None]
            resets = None if resets is None else resets[:, None]
        elif self.batch_first:
            x = x.swapaxes(0, 1)
            resets = None if resets is None else resets.swapaxes(0, 1)

        dtype = self.dtype or self.param_dtype
        inputs = OneHot(x, self.input_size, dtype) if one_hot else x
        y, members = self._run(inputs, members, lengths, resets, rngs)

        if not batched:
            y, members = y[:, 0], [m[:, 0] for m in members]
        elif self.batch_first:
            y = y.swapaxes(0, 1)
        return y, tuple(members) if len(members) > 1 else members[0]

    def _candidate_scale(self, x, rngs) -> jax.Array | None:
        """A mask for every step of one layer and direction, or None where nothing is dropped."""
        if self.candidate_dropout is None or self.candidate_dropout.deterministic:
            return None
        ones = jnp.ones((*x.shape[:2], self.hidden_size), state_dtype(x.dtype))
        return self.candidate_dropout(ones, rngs=rngs)

    def _run(self, x, members, lengths, resets, rngs) -> tuple[jax.Array, list[jax.Array]]:
        """All layers, batched and time-major."""
        index, last = 0, []
        for layer in range(self.num_layers):
            if layer and self.dropout_layer is not None:
                x = self.dropout_layer(x, rngs=rngs)
            outputs = []
            for reverse, suffix in enumerate(self._suffixes(layer)):
                y, state = recurrence.run(
                    self.cell,
                    self._weights(suffix),
                    x,
                    tuple(m[index] for m in members),
                    lengths=lengths,
                    resets=resets,
                    scale=self._candidate_scale(x, rngs),
                    reverse=bool(reverse),
                    backend=self.backend,
                )
                outputs.append(y)
                last.append(state)
                index += 1
            x = outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=-1)
        return x, [jnp.stack(s) for s in zip(*last, strict=True)]


class RNN(Recurrent):
    """Elman network, ``h' = act(W_ih x + b_ih + W_hh h + b_hh)``, as ``torch.nn.RNN``.

    Args are torch's, in torch's order, then by keyword: ``rngs`` (streams 'params' and, with
    dropout, 'dropout'), ``dtype`` (computes in it; None: in ``param_dtype``, which x then must
    have), ``param_dtype``, ``backend`` ('auto', or a name in ``jaxrnn.recurrence.BACKENDS``;
    'reference' is the one to differentiate in forward mode, as by ``jax.jvp`` and ``jax.jacfwd``).
    Every parameter starts as U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError, TypeError: naming the argument, what it is and what it must be.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        _no_projection("RNN", proj_size)
        self.nonlinearity = check_nonlinearity(nonlinearity)
        super().__init__(
            CELLS[f"rnn_{nonlinearity}"],
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            backend=backend,
        )


class LSTM(Recurrent):
    """Long short-term memory, as ``torch.nn.LSTM``; with ``proj_size``, LSTMP (arXiv 1402.1128).

    Gates i, f, g, o: ``c' = f * c + i * g``, ``h' = o * tanh(c')``, then ``W_hr h'`` where
    ``proj_size > 0``. Arguments and errors as in ``RNN``, and ``recurrent_dropout``: in training
    the probability that an element of ``g`` is zeroed at a step, the others being scaled, for each
    layer and direction (arXiv 1603.05118); torch has no such argument, and needs none to run what
    was trained with it.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
        recurrent_dropout: float = 0.0,
    ):
        super().__init__(
            CELLS["lstm"],
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            backend=backend,
            recurrent_dropout=recurrent_dropout,
        )


class GRU(Recurrent):
    """Gated recurrent unit, reset-after, as ``torch.nn.GRU``.

    Gates r, z, n: ``n = tanh(W_in x + b_in + r * (W_hn h + b_hn))``, ``h' = (1 - z) n + z h``.
    Arguments and errors as in ``RNN``.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        backend: str = "auto",
    ):
        _no_projection("GRU", proj_size)
        super().__init__(
            CELLS["gru"],
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
            backend=backend,
        )


def _no_projection(owner: str, proj_size: Any) -> None:
    if proj_size != 0:
        raise ValueError(f"{owner}: proj_size is {proj_size!r}, expected 0: only LSTM projects")


LAYERS = {"lstm": LSTM, "gru": GRU, "rnn": RNN}
"""The layers by the name of their cell, as options spell it."""
