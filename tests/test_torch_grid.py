"""Ours beside torch.nn over the grid of cases that torch holds its own backends to.

That grid (``test/test_nn.py``) is RNN, LSTM, GRU and LSTM with projection x bias x bidirectional
x batch_first x variable lengths, and RNN with its other nonlinearity once per option: 66 cases.
Here both nonlinearities are crossed with everything: 80, those 66 among them. Torch runs in
double; ours in float64 with each backend, and in float32. The module of one side is the other's,
converted: from torch for the backend ``scan``, to torch for the others.
"""

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close

import jaxrnn
import torch_compat
from jaxrnn.config import BACKENDS

B, T, I, H, P, L = 6, 7, 10, 6, 3, 2
LENGTHS = [7, 5, 5, 2, 1, 1]


class Case(NamedTuple):
    kind: str
    bias: bool
    bidirectional: bool
    batch_first: bool
    variable: bool

    def __str__(self):
        return "-".join([self.kind, *(n for n, on in self._asdict().items() if on is True)])

    def build(self, library, **kwargs):
        """The same constructor call to torch.nn or to jaxrnn."""
        kind, *options = self.kind.split("_")
        if options == ["proj"]:
            kwargs["proj_size"] = P
        elif options:
            (kwargs["nonlinearity"],) = options
        flags = {n: getattr(self, n) for n in ("bias", "bidirectional", "batch_first")}
        return getattr(library, kind)(I, H, L, **flags, **kwargs)


KINDS = ("RNN_tanh", "RNN_relu", "LSTM", "GRU", "LSTM_proj")
CASES = [
    Case(kind, *options) for kind in KINDS for options in itertools.product((True, False), repeat=4)
]


def arrays(case, dtype):
    """Input, states, and the weights of outputs and of last states in the loss."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.normal(size=shape).astype(dtype)

    directions = 2 if case.bidirectional else 1
    output_size = P if case.kind == "LSTM_proj" else H
    lead = (B, T) if case.batch_first else (T, B)
    sizes = [output_size, H] if case.kind.startswith("LSTM") else [output_size]
    state_shapes = [(directions * L, B, size) for size in sizes]
    return (
        normal(*lead, I),
        [normal(*shape) for shape in state_shapes],
        normal(*lead, directions * output_size),
        [normal(*shape) for shape in state_shapes],
    )


def packed(value):
    return tuple(value) if len(value) > 1 else value[0]


def unpacked(state):
    return list(state) if isinstance(state, tuple) else [state]


def run_torch(case, module, x, state, y_weight, state_weights):
    module.double()
    x = torch.tensor(x).double().requires_grad_()
    state = [torch.tensor(s).double().requires_grad_() for s in state]
    if case.variable:
        sequence = torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, case.batch_first)
        y, last = module(sequence, packed(state))
        y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, case.batch_first, total_length=T)
    else:
        y, last = module(x, packed(state))
    values = [y, *unpacked(last)]
    weights = [torch.tensor(w).double() for w in (y_weight, *state_weights)]
    torch.autograd.backward(values, weights)
    grads = {"x": x.grad, **{f"state {k}": s.grad for k, s in enumerate(state)}}
    grads |= {n: p.grad for n, p in module.named_parameters()}
    return [v.detach().numpy() for v in values], {n: np.asarray(g) for n, g in grads.items()}


def run_ours(module, variable, x, state, y_weight, state_weights):
    graph, parameters = nnx.split(module)
    lengths = jnp.array(LENGTHS) if variable else None

    def loss(parameters, x, state, lengths):
        y, last = nnx.merge(graph, parameters)(x, packed(state), lengths=lengths)
        values = [y, *unpacked(last)]
        pairs = zip(values, (y_weight, *state_weights), strict=True)
        return sum(jnp.sum(v * w) for v, w in pairs), values

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, values), (dparameters, dx, dstate) = step(parameters, x, state, lengths)
    grads = {"x": dx, **{f"state {k}": d for k, d in enumerate(dstate)}}
    return values, grads | {n: d[...] for n, d in dparameters.items()}


def test_the_grid_has_80_distinct_cases():
    assert len(CASES) == len(set(map(str, CASES))) == 80


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(
    ("backend", "dtype"), [*((b, "float64") for b in BACKENDS), ("auto", "float32")]
)
def test_outputs_states_and_every_gradient_are_torchs(case, backend, dtype):
    if backend == "scan":
        twin = case.build(torch.nn).double()
        module: Any = torch_compat.from_torch(twin)
        module.backend = backend
    else:
        options = {"param_dtype": jnp.dtype(dtype), "backend": backend}
        module = case.build(jaxrnn, rngs=nnx.Rngs(0), **options)
        twin = torch_compat.to_torch(module)
        assert type(twin) is getattr(torch.nn, case.kind.partition("_")[0])
    inputs = arrays(case, dtype)
    values, grads = run_ours(module, case.variable, *inputs)
    expected, expected_grads = run_torch(case, twin, *inputs)

    assert [v.dtype for v in values] == [dtype] * len(values)
    for name, value, right in zip(("y", "h_n", "c_n"), values, expected, strict=False):
        assert_close(value, right, dtype, name)
    assert grads.keys() == expected_grads.keys()
    for name, right in expected_grads.items():
        assert_close(grads[name], right, dtype, f"gradient of {name}")
