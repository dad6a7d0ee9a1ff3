"""The torch twins beside jaxrnn's models, in float64: outputs, draws, texts, forecasts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close
from twins import (
    CELLS,
    MODELS,
    VOCABULARY,
    B,
    H,
    I,
    L,
    O,
    T,
    V,
    bits,
    build,
    example,
    filled,
    outputs,
    packed,
)

import torch_compat
from jaxrnn.data.scaler import Scaler
from jaxrnn.data.text import BYTES, Vocabulary
from jaxrnn.models import char_lm, split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.forecaster import Forecaster, forecast
from torch_compat import modules


@pytest.mark.parametrize("name", MODELS)
def test_a_twin_gives_the_models_outputs_and_states(name):
    model = build(name)
    twin = torch_compat.to_torch(model)
    assert not twin.training
    model.eval()
    for ours, theirs in zip(*outputs(model, twin, *example(model)), strict=True):
        assert_close(theirs, ours)


@pytest.mark.parametrize("name", ["char-lstm-onehot-2", "series-gru"])
def test_a_twin_has_the_models_dropout(name):
    twin: Any = torch_compat.to_torch(build(name))
    assert (twin.rnn.dropout, twin.dropout.p) == (0.4, 0.4)
    single: Any = torch_compat.to_torch(build("char-gru-5-1"))
    assert single.rnn.dropout == 0.0
    without = filled(lambda: CharLM(V, hidden_size=H, num_layers=L, rngs=nnx.Rngs(0)), "float32")
    none: Any = torch_compat.to_torch(without)
    assert (none.rnn.dropout, none.dropout.p) == (0.0, 0.0)
    x, state = example(build(name))
    inputs = torch.tensor(x), packed([torch.tensor(m) for m in state])
    ids = torch.tensor(example(build("char-gru-5-1"))[0])
    assert not torch.equal(*(single.train()(ids)[0] for _ in range(2)))  # before the decoder
    still = [twin(*inputs)[0] for _ in range(2)]
    twin.train()
    moving = [twin(*inputs)[0] for _ in range(2)]
    assert torch.equal(*still)
    assert not torch.equal(*moving)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["char-gru-5-1", "series-lstm"])
def test_a_twin_has_the_models_bits(name, dtype):
    model = build(name, dtype)
    before = torch.get_rng_state()
    twin = torch_compat.to_torch(model)
    assert torch.equal(torch.get_rng_state(), before)
    params = split(model)[1]
    assert set(twin.state_dict()) == set(params)
    for key, tensor in twin.state_dict().items():
        assert tensor.dtype == getattr(torch, dtype)
        assert bits(tensor) == bits(params[key])
    assert all(p.requires_grad for p in twin.parameters())


OPTIONS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.7, "top_k": 3},
    {"temperature": 1.3, "top_p": 0.8},
    {"top_k": 4, "top_p": 0.6},
    {"top_k": 99, "top_p": 1e-6},
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *(("char-rnn-5-1", options) for options in OPTIONS),
        ("char-lstm-onehot-2", {}),
        ("char-gru-onehot-2", {"top_k": 5}),
    ],
    ids=str,
)
def test_the_same_uniform_numbers_give_the_same_text(name, options):
    model = build(name)
    twin: Any = torch_compat.to_torch(model, vocabulary=VOCABULARY)
    length, prime, key = 70, [1, 5, 2], jax.random.key(3)
    chunks = char_lm.generate(model, np.array(prime), length=length, key=key, **options)
    expected = np.concatenate(list(chunks))
    uniforms = [jax.random.uniform(jax.random.fold_in(key, k), (1,))[0] for k in range(length)]
    got = twin.generate(prime, length, uniforms=torch.tensor(np.array(uniforms)), **options)
    assert got.tolist() == expected.tolist()
    assert twin.decode(got) == Vocabulary.from_dict(VOCABULARY).decode(expected)
    if not options:
        assert len(set(expected.tolist())) > 4


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_next_symbol_is_jaxrnns(options):
    rng = np.random.default_rng(0)
    logits = 3 * rng.normal(size=(200, V))
    logits[:20] = rng.integers(3, size=(20, V))  # ties
    uniform = rng.uniform(size=200)
    uniform[::7], uniform[1::7] = 0.0, np.nextafter(1, 0)
    expected = char_lm.next_symbol(jnp.asarray(logits), jnp.asarray(uniform), **options)
    got = modules.next_symbol(torch.tensor(logits), torch.tensor(uniform), **options)
    assert got.tolist() == expected.tolist()


def test_a_uniform_number_of_one_draws_the_last_symbol_that_has_a_probability():
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    assert modules.next_symbol(logits, torch.ones(1)).tolist() == [3]
    assert modules.next_symbol(logits, torch.ones(1), top_k=2).tolist() == [1]


def test_generate_draws_from_a_generator_without_dropout_and_keeps_the_mode():
    twin: Any = torch_compat.to_torch(build("char-gru-onehot-2"), vocabulary=VOCABULARY).train()
    first, again, other = (
        twin.generate(twin.encode("ab"), 30, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert twin.training
    assert first.shape == (30,)
    assert len(twin.decode(first)) == 30
    assert twin.generate([0], 0).tolist() == []


def test_generate_names_what_is_wrong():
    twin = modules.CharLM(V, hidden_size=H)
    with pytest.raises(ValueError, match=r"prime_ids has shape \(0,\), expected \(P,\), P >= 1"):
        twin.generate([], 3)
    with pytest.raises(ValueError, match=r"uniforms has shape \(2,\), expected \(3,\)"):
        twin.generate([0], 3, uniforms=torch.zeros(2))
    with pytest.raises(ValueError, match="no vocabulary"):
        twin.encode("a")


@pytest.mark.parametrize("text", ["", "a", "é𝄞\n cab"])
def test_text_is_encoded_and_decoded_as_by_jaxrnn(text):
    characters = modules.CharLM(V, hidden_size=H, vocabulary=VOCABULARY)
    data = modules.CharLM(256, hidden_size=H, vocabulary=BYTES.to_dict())
    for twin, vocabulary in ((characters, Vocabulary.from_dict(VOCABULARY)), (data, BYTES)):
        assert twin.encode(text).tolist() == vocabulary.encode(text).tolist()
        assert twin.encode(text).dtype == torch.long
        assert twin.decode(twin.encode(text)) == text


def test_what_can_not_be_encoded_or_decoded_is_named():
    characters = modules.CharLM(V, hidden_size=H, vocabulary=VOCABULARY)
    data = modules.CharLM(256, hidden_size=H, vocabulary=BYTES.to_dict())
    assert data.decode([97, 195, 98]) == BYTES.decode([97, 195, 98])
    with pytest.raises(ValueError, match="vocabulary of 7 lacks: 'x', 'y'"):
        characters.encode("yaxx")
    with pytest.raises(IndexError, match=r"ids in -1\.\.7, expected 0\.\.6"):
        characters.decode([-1, 7])


def test_constructors_name_what_is_wrong():
    with pytest.raises(ValueError, match="cell is 'lru', expected one of lstm, gru, rnn"):
        modules.CharLM(V, cell="lru")
    with pytest.raises(ValueError, match="vocabulary has 7 symbols, expected num_symbols=8"):
        modules.CharLM(8, vocabulary=VOCABULARY)
    with pytest.raises(ValueError, match="kind is 'words'"):
        modules.CharLM(8, vocabulary={"kind": "words", "symbols": ""})


def test_a_forecaster_carries_its_scaler():
    scaler = {"mean": 12.5, "std": 3.25, "target": "price"}
    twin: Any = torch_compat.to_torch(build("series-rnn"), scaler=scaler)
    assert (twin.mean, twin.std, twin.target) == (12.5, 3.25, "price")
    assert twin.scaler == scaler
    values = np.linspace(-4, 30, 9)
    theirs = Scaler(12.5, 3.25)
    assert_close(twin.transform(torch.tensor(values)), theirs.transform(values))
    assert_close(twin.inverse(torch.tensor(values)), theirs.inverse(values))


@pytest.mark.parametrize("cell", CELLS)
def test_a_twin_forecasts_as_the_model(cell, unchecked):
    arguments = {"input_size": O, "output_size": O, "cell": cell, "hidden_size": H, "dropout": 0.4}
    options = arguments | {"num_layers": L, "param_dtype": jnp.dtype("float64")}
    model = filled(lambda: Forecaster(**options, rngs=nnx.Rngs(0)), "float64")
    model.eval()
    twin: Any = torch_compat.to_torch(model).train()
    history = np.random.default_rng(0).normal(size=(B, T, O))
    values = forecast(*split(model), jnp.asarray(history), 6)
    assert_close(twin.forecast(torch.tensor(history), 6), values)
    assert twin.training
    with pytest.raises(ValueError, match="horizon is 0, expected at least 1 step"):
        twin.forecast(torch.tensor(history), 0)
    with pytest.raises(ValueError, match=r"history has shape \(5, 2\), expected \(B, T, I\)"):
        twin.forecast(torch.tensor(history[0]), 2)
    with pytest.raises(ValueError, match=r"history has shape \(5, 2\), expected \(B, T, I\)"):
        forecast(*split(model), jnp.asarray(history[0]), 2)
    with pytest.raises(ValueError, match="predicts 2 values a step and reads 4"):
        modules.Forecaster(I, O).forecast(torch.zeros(B, T, I), 2)
