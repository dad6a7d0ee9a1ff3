"""Layers across and back: bits, numbers, and what is refused."""

from typing import Any

import jax.numpy as jnp
import pytest
import torch
from flax import nnx
from tolerances import assert_close
from twins import LAYER_CASES, bits, build_layer, example, outputs

import torch_compat
from jaxrnn.dense import Linear
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM
from torch_compat import convert


@pytest.mark.parametrize("name", LAYER_CASES)
def test_layers_cross_over_and_back(name):
    layer = build_layer(name)
    module: Any = torch_compat.to_torch(layer)
    back = torch_compat.from_torch(module)
    assert type(module) is getattr(torch.nn, type(layer).__name__)
    assert type(back) is type(layer)
    assert convert.describe(back) == convert.describe(layer)
    params, again = split(layer)[1], split(back)[1]
    assert set(again) == set(params)
    assert all(bits(again[key]) == bits(params[key]) for key in params)
    for ours, theirs in zip(*outputs(back, module, *example(layer)), strict=True):
        assert_close(theirs, ours)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_layer_of_torch_keeps_its_bits_and_stays_apart(dtype):
    # Of a size and place in memory that JAX would otherwise take as its own.
    module: Any = torch.nn.LSTM(64, 64, proj_size=32, dtype=getattr(torch, dtype))
    layer = torch_compat.from_torch(module)
    before = {key: bits(tensor) for key, tensor in module.state_dict().items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    for key, param in split(layer)[1].items():
        assert param.dtype == dtype
        assert bits(param) == before[key]


def test_what_has_no_twin_is_named():
    with pytest.raises(TypeError, match=r"Linear.*expected torch\.nn's LSTM, GRU, RNN, LSTMCell"):
        torch_compat.from_torch(torch.nn.Linear(2, 3))
    with pytest.raises(
        TypeError, match=r"Linear.*jaxrnn's LSTM, GRU, .*RNNCell, .*MinGRU, MinLSTM, CharLM, "
    ):
        torch_compat.to_torch(Linear(2, 3, rngs=nnx.Rngs(0)))

    class LSTM(torch.nn.LSTM):
        pass

    with pytest.raises(TypeError, match="LSTM"):
        torch_compat.from_torch(LSTM(2, 3))

    class Twice(CharLM):  # which may compute something else
        pass

    with pytest.raises(TypeError, match=r"can't convert .*Twice"):
        torch_compat.to_torch(Twice(2, hidden_size=3, rngs=nnx.Rngs(0)))


def test_parameters_that_are_not_finite_are_refused():
    layer = build_layer("rnn-relu")
    bias = layer.bias_ih_l1
    bias[...] = bias[...].at[2].set(jnp.nan)
    with pytest.raises(InputError, match=r"bias_ih_l1 .* holds 1 values that are NaN"):
        torch_compat.to_torch(layer)


def test_a_layer_with_more_parameters_is_refused():
    module = torch.nn.GRU(2, 3)
    module.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(InputError, match=r"extra \(2,\) is not expected"):
        torch_compat.from_torch(module)


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'save'"):
        torch_compat.save  # noqa: B018
