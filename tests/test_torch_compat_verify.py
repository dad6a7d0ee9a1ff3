"""What the comparison of a model with its twin finds, and what it lets pass."""

import itertools
import math
from typing import Any

import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from twins import (
    E,
    H,
    L,
    V,
    build,
    build_layer,
    filled,
)

import torch_compat
from jaxrnn.errors import InputError
from jaxrnn.models.char_lm import CharLM
from torch_compat import modules, verify


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("char-rnn-5-1", ["output", "h"]),
        ("series-lstm", ["output", "h", "c"]),
    ],
)
def test_rows_are_of_parameters_then_of_each_dtype_and_tensor(name, tensors):
    model = build(name, "float32")
    twin = torch_compat.to_torch(model).train()
    rows = verify.verify(model, twin)
    assert [(row.dtype, row.tensor) for row in rows] == [
        ("float32", "parameters"),
        *itertools.product(("float64", "float32"), tensors),
    ]
    assert (rows[0].difference, rows[0].limit) == (0, 0)
    for row in rows[1:]:
        assert row.ok
        assert 0 < row.difference < (1e-14 if row.dtype == "float64" else 2e-6)
    assert twin.training
    assert not model.dropout.deterministic
    assert next(twin.parameters()).dtype == torch.float32


@pytest.mark.parametrize("name", ["lstm-all", "rnn-relu"])
def test_layers_are_compared_as_well_with_every_gradient(name):
    layer = build_layer(name)
    twin = torch_compat.to_torch(layer)
    rows = verify.compare(verify.Reference(layer), twin, gradients=True)
    assert {row.dtype for row in rows} == {"float64", "float32"}
    assert max(row.difference for row in rows if row.dtype == "float64") < 1e-13
    assert all(row.ok for row in rows)
    grads = {f"grad {name}" for name in twin.state_dict()}
    assert {row.tensor for row in rows} >= {"loss", *grads}


def test_another_gradient_with_the_same_outputs_is_found():
    class Cut(modules.Forecaster):
        def forward(self, x, state=None):
            y, state = self.rnn(x, state)
            return self.decoder(y.detach() + 0 * y), state

    model = build("series-rnn")
    right: Any = torch_compat.to_torch(model)
    twin = Cut(**right.arguments).double()
    twin.load_state_dict(right.state_dict())
    rows = verify.compare(verify.Reference(model), twin, gradients=True)
    wrong = {row.tensor for row in rows if not row.ok}
    assert wrong == {f"grad {name}" for name in right.state_dict() if name.startswith("rnn.")}


def test_a_gradient_that_is_a_millionth_off_is_found():
    class Steep(modules.Forecaster):
        def forward(self, x, state=None):
            y, state = self.rnn(x, state)
            weight = self.decoder.weight
            weight = weight + 1e-6 * (weight - weight.detach())
            return torch.nn.functional.linear(y, weight, self.decoder.bias), state

    model = build("series-rnn")
    right: Any = torch_compat.to_torch(model)
    twin = Steep(**right.arguments).double()
    twin.load_state_dict(right.state_dict())
    rows = verify.compare(verify.Reference(model), twin, gradients=True)
    wrong = {(row.dtype, row.tensor) for row in rows if not row.ok}
    assert wrong == {("float64", "grad decoder.weight")}


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ({"dtype": jnp.bfloat16}, ["float64", "float32", "bfloat16"]),
        ({"param_dtype": jnp.bfloat16}, ["float64", "bfloat16"]),
    ],
    ids=str,
)
def test_the_dtypes_stored_and_computed_in_are_compared(dtypes, expected):
    arguments = {"cell": "rnn", "hidden_size": H, **dtypes}
    model = filled(
        lambda: CharLM(V, **arguments, rngs=nnx.Rngs(0)), dtypes.get("param_dtype", jnp.float32)
    )
    rows = verify.verify(model, torch_compat.to_torch(model))
    assert list(dict.fromkeys(row.dtype for row in rows[1:])) == expected
    narrow = [row.difference for row in rows if row.dtype == "bfloat16"]
    assert max(narrow) > 1e-6  # that narrow computation really was compared


@pytest.mark.parametrize(
    ("key", "tensors"),
    [
        ("embedding.weight", {"output"}),  # of the last of 500 symbols: each is read
        ("rnn.weight_hh_l1", {"output", "h"}),
    ],
)
def test_the_last_bit_of_a_parameter_is_found(key, tensors):
    arguments = {"cell": "rnn", "hidden_size": H, "num_layers": L, "embedding_size": E}
    model = filled(lambda: CharLM(500, **arguments, rngs=nnx.Rngs(0)), jnp.float32)
    twin = torch_compat.to_torch(model)
    value = twin.state_dict()[key].reshape(-1)
    value[-1] = torch.nextafter(value[-1], torch.tensor(math.inf))
    found = r"parameters of module in float32 by .* \(limit 0\)"
    with pytest.raises(verify.DifferenceError, match=found) as caught:
        verify.verify(model, twin)
    wrong = [row for row in caught.value.rows if not row.ok]
    assert {row.tensor for row in wrong if row.dtype == "float64"} == tensors
    assert len(wrong) == 1 + len(tensors)


class Off(modules.Forecaster):
    """A twin with the right parameters and another equation."""

    def __init__(self, change, **arguments):
        super().__init__(**arguments)
        self.change = change

    def forward(self, x, state=None):
        return self.change(*super().forward(x, state))


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        (lambda y, s: (y * (1 + 1e-8), s), {"output"}),
        (lambda y, s: (y, (s[0] + 1e-9, s[1])), {"h"}),
        (lambda y, s: (y, (s[0], s[1] * math.nan)), {"c"}),
        (lambda y, s: (y, (s[1], s[0])), {"h", "c"}),
        (lambda y, s: (y * math.nan if len(y) == 3 else y, s), {"output"}),  # at one size only
        (lambda y, s: (y + 1e-6 if len(y) == 1 else y, s), {"output"}),
    ],
)
def test_another_equation_with_the_same_parameters_is_found(change, tensors):
    model = build("series-lstm")
    right: Any = torch_compat.to_torch(model)
    twin = Off(change, **right.arguments).double()
    twin.load_state_dict(right.state_dict())
    rows = verify.compare(verify.Reference(model), twin)
    assert {row.tensor for row in rows if not row.ok} == tensors


def test_only_a_state_ignored_is_found():
    class Forgetful(modules.Forecaster):
        def forward(self, x, state=None):
            return super().forward(x)

    model = build("series-rnn")
    right: Any = torch_compat.to_torch(model)
    twin = Forgetful(**right.arguments).double()
    twin.load_state_dict(right.state_dict())
    assert not any(row.ok for row in verify.compare(verify.Reference(model), twin)[1:])


def test_parameters_of_another_model_are_named():
    twin = torch_compat.to_torch(build("char-gru-5-1"))
    with pytest.raises(InputError, match=r"embedding\.weight \(7, 5\) is not expected"):
        verify.compare(verify.Reference(build("char-gru-onehot-2")), twin)
