"""Conversion, the torch twins and their comparison, beside jaxrnn in float64."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close

import jaxrnn
import torch_compat
from jaxrnn.data.series import Scaler
from jaxrnn.data.text import BYTES, Vocabulary
from jaxrnn.errors import InputError
from jaxrnn.layers import Linear
from jaxrnn.models import char_lm, split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.forecaster import Forecaster, forecast
from torch_compat import convert, modules, verify

B, T, I, H, P, V, E, O, L = 3, 5, 4, 6, 2, 7, 5, 2, 2
SYMBOLS = "\n abcé𝄞"
VOCABULARY = {"kind": "characters", "symbols": SYMBOLS}
CELLS = ("lstm", "gru", "rnn")
MODELS = {
    **{
        f"char-{cell}-{size or 'onehot'}-{layers}": (
            CharLM,
            {"num_symbols": V, "embedding_size": size, "cell": cell, "num_layers": layers},
        )
        for cell in CELLS
        for size, layers in ((0, L), (E, 1))
    },
    **{
        f"series-{cell}": (
            Forecaster,
            {"input_size": I, "output_size": O, "cell": cell, "num_layers": L},
        )
        for cell in CELLS
    },
}
LAYER_CASES = {
    "lstm-all": (jaxrnn.LSTM, {"proj_size": P, "bidirectional": True, "batch_first": True}),
    "lstm-no-bias": (jaxrnn.LSTM, {"bias": False}),
    "gru-bidirectional": (jaxrnn.GRU, {"bidirectional": True}),
    "rnn-relu": (jaxrnn.RNN, {"nonlinearity": "relu", "batch_first": True}),
    "rnn-tanh": (jaxrnn.RNN, {"bias": False, "bidirectional": True}),
}


FAST_COMPILE = {"xla_backend_optimization_level": 0}  # compilation is most of the time here


def filled(make, dtype):
    """The module that ``make`` constructs, its parameters from NumPy, which compiles nothing."""
    graph, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda p: jnp.asarray(0.6 * rng.normal(size=p.shape), dtype), params)
    return nnx.merge(graph, params, rest)


def build(name, dtype="float64", **more):
    """A jaxrnn model in training mode, with dropout."""
    cls, arguments = MODELS[name]
    arguments = {"hidden_size": H, "dropout": 0.4, "param_dtype": jnp.dtype(dtype), **arguments}
    return filled(lambda: cls(**arguments, **more, rngs=nnx.Rngs(params=1, dropout=2)), dtype)


def build_layer(name, dtype="float64"):
    cls, arguments = LAYER_CASES[name]
    arguments = {"num_layers": L, "dropout": 0.3, **arguments, "param_dtype": jnp.dtype(dtype)}
    return filled(lambda: cls(I, H, **arguments, rngs=nnx.Rngs(1)), dtype)


def bits(value):
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.asarray(value).tobytes()


def members(state):
    return list(state) if isinstance(state, tuple) else [state]


def packed(members):
    return tuple(members) if len(members) > 1 else members[0]


def example(model, seed=0):
    """An input and a state, in float64 or ints."""
    rng = np.random.default_rng(seed)
    rnn = getattr(model, "rnn", model)
    lead = (B, T) if rnn.batch_first else (T, B)
    x = rng.normal(size=(*lead, rnn.input_size))
    if isinstance(model, CharLM):
        x = rng.integers(V, size=lead)
    return x, [rng.normal(size=m.shape) for m in members(rnn.initial_state(B))]


def outputs(model, twin, x, state):
    """Of both frameworks: the output and the members of the last state."""
    skeleton, params = split(model)
    run = jax.jit(lambda params, *a: skeleton.merge(params)(*a), compiler_options=FAST_COMPILE)
    y, last = run(params, jnp.asarray(x), packed([jnp.asarray(m) for m in state]))
    with torch.no_grad():
        z, other = twin(torch.tensor(x), packed([torch.tensor(m) for m in state]))
    return [y, *members(last)], [z.numpy(), *(m.numpy() for m in members(other))]


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
    with pytest.raises(TypeError, match=r"Linear.*jaxrnn's LSTM, GRU, .*RNNCell, CharLM, Forec"):
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


# --- verify


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
