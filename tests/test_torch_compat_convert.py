"""Layers, cells, models and sub-trees across and back: names, order and bits."""

import collections
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import assert_close

import jaxrnn
import torch_compat
from jaxrnn.errors import InputError
from jaxrnn.models import split
from torch_compat import convert, layout, modules, normed_modules, parts, verify

B, T, I, H, P = 3, 5, 4, 6, 2
DTYPES = ("float32", "float64", "bfloat16", "float16")


def bits(state_dict):
    """Names, shapes, dtypes and bits, in order."""
    return [
        (name, tuple(t.shape), t.dtype, t.contiguous().view(torch.uint8).numpy().tobytes())
        for name, t in ((name, t.detach().reshape(-1)) for name, t in state_dict.items())
    ]


def members(state):
    return list(state) if isinstance(state, tuple) else [state]


def assert_same(module, layer, *inputs):
    """What a torch module and ours give on the same inputs; nothing is compiled."""

    def ours(value):
        if isinstance(value, tuple):
            return tuple(map(ours, value))
        return jnp.asarray(value.numpy())

    with torch.no_grad():
        expected = module(*inputs)
    with jax.disable_jit():
        got = layer(*map(ours, inputs))
    flat = jax.tree.leaves(jax.tree.map(lambda t: t.numpy(), expected))
    for value, right in zip(jax.tree.leaves(got), flat, strict=True):
        assert value.shape == right.shape
        assert_close(value, right)


@st.composite
def constructors(draw):
    """A class of torch.nn and arguments that its constructor takes."""
    name = draw(st.sampled_from([*parts.LAYERS]))
    size = st.integers(1, 7)
    arguments: dict[str, Any] = {
        "input_size": draw(size),
        "hidden_size": draw(size),
        "bias": draw(st.booleans()),
    }
    if name.startswith("RNN"):
        arguments["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if not name.endswith("Cell"):
        arguments["num_layers"] = draw(st.integers(1, 3))
        arguments["batch_first"] = draw(st.booleans())
        arguments["bidirectional"] = draw(st.booleans())
        if arguments["num_layers"] > 1:
            arguments["dropout"] = draw(st.sampled_from([0.0, 0.25]))
        if name == "LSTM":
            arguments["proj_size"] = draw(st.integers(0, arguments["hidden_size"] - 1))
    return name, arguments


@given(constructors(), st.sampled_from(DTYPES), st.sampled_from(["", "rnn", "model.encoder.1"]))
@settings(max_examples=200, deadline=None)
def test_any_layer_and_cell_crosses_over_and_back_bit_for_bit(constructor, dtype, prefix):
    name, arguments = constructor
    module: Any = getattr(torch.nn, name)(**arguments, dtype=getattr(torch, dtype))
    layer = torch_compat.from_torch(module)
    assert type(layer) is getattr(jaxrnn, name)
    _, described = convert.describe(layer)
    assert described.items() >= arguments.items()
    back: Any = torch_compat.to_torch(layer)
    assert type(back) is type(module)
    assert not back.training
    assert bits(back.state_dict()) == bits(module.state_dict())
    for key in parts.LAYERS[name]:
        assert getattr(back, key) == getattr(module, key)

    # The same from a state dict, beside other parameters; a state dict tells sizes alone.
    start = f"{prefix}." if prefix else ""
    around = {f"{start}{key}": value for key, value in module.state_dict().items()}
    if prefix:
        around = {"model.embedding.weight": torch.zeros(3, 2), **around, "head.bias": torch.ones(1)}
    told = {k: arguments[k] for k in ("nonlinearity", "batch_first", "dropout") if k in arguments}
    found = torch_compat.from_state_dict(around, prefix, **told)
    assert convert.describe(found) == convert.describe(layer)
    assert bits(torch_compat.to_torch(found).state_dict()) == bits(module.state_dict())
    sizes = {key: described[key] for key in described if key not in told}
    sizes = {k: v for k, v in sizes.items() if k not in ("nonlinearity", "batch_first", "dropout")}
    assert torch_compat.find_layers(around) == {prefix: (name, sizes)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LSTMCell", {}),
        ("GRUCell", {"bias": False}),
        ("RNNCell", {"nonlinearity": "relu"}),
        ("RNNCell", {}),
        ("LSTM", {"proj_size": P, "bidirectional": True, "num_layers": 2}),
        ("GRU", {"num_layers": 2}),
    ],
)
def test_what_was_converted_computes_the_same(name, options):
    module: Any = getattr(torch.nn, name)(I, H, **options).double()
    x = torch.randn(*([] if name.endswith("Cell") else [T]), B, I).double()
    layer = torch_compat.from_torch(module)
    assert_same(module, layer, x)
    assert_same(torch_compat.to_torch(layer), layer, x)


def test_the_samples_that_torch_tests_its_modules_with():
    from torch.testing._internal.common_modules import module_db

    seen: collections.Counter[str] = collections.Counter()
    for info in module_db:
        name = info.module_cls.__name__
        if name not in parts.LAYERS:
            continue
        samples = info.module_inputs_func(
            info, device="cpu", dtype=torch.float64, requires_grad=False, training=False
        )
        for sample in samples:
            made = sample.constructor_input
            module = info.module_cls(*made.args, **made.kwargs).double().eval()
            layer = torch_compat.from_torch(module)
            assert not sample.forward_input.kwargs
            assert_same(module, layer, *sample.forward_input.args)
            assert bits(torch_compat.to_torch(layer).state_dict()) == bits(module.state_dict())
            seen[name] += 1
    assert set(seen) == set(parts.LAYERS)
    assert sum(seen.values()) >= 80


def test_dropout_masks_come_from_the_rngs_that_are_given():
    module = torch.nn.LSTM(I, H, 2, dropout=0.5)
    x = jnp.ones((T, B, I), jnp.float32)

    def run(seed):
        layer: Any = torch_compat.from_torch(module, rngs=nnx.Rngs(dropout=seed))
        layer.train()
        return np.asarray(layer(x)[0])

    np.testing.assert_array_equal(run(1), run(1))
    assert (run(1) != run(2)).any()
    with pytest.raises(ValueError, match="rngs has no stream 'dropout'"):
        torch_compat.from_torch(module, rngs=nnx.Rngs(params=1))


@pytest.mark.parametrize(
    ("twin", "name"),
    [
        (modules.CharLM(7, "lstm", H, 2, 0.3, 5), "CharLM"),
        (modules.CharLM(7, "gru", H, 1), "CharLM"),
        (modules.Forecaster(I, 2, "rnn", H, 2, 0.1), "Forecaster"),
    ],
)
def test_models_come_back_from_their_twins(twin, name):
    twin.double().eval()
    model: Any = torch_compat.from_torch(twin)
    assert convert.describe(model) == (name, twin.arguments)
    assert bits(torch_compat.to_torch(model).state_dict()) == bits(twin.state_dict())
    x = torch.randint(7, (B, T)) if name == "CharLM" else torch.randn(B, T, I).double()
    assert_same(twin, model, x)


@pytest.mark.parametrize("decoder", ["lstm", "layer_norm", "hyper"])
def test_sketch_rnns_come_back_from_their_twins(decoder):
    twin = modules.SketchRNN(decoder, 6, 4, 3, 2, 2, 5).double().eval()
    model: Any = torch_compat.from_torch(twin)
    assert convert.describe(model) == ("SketchRNN", twin.arguments)
    again: Any = torch_compat.to_torch(model, strokes=twin.strokes | {"scale": 7.0})
    assert bits(again.state_dict()) == bits(twin.state_dict())
    assert (type(again), again.scale, again.training) == (modules.SketchRNN, 7.0, False)


@pytest.mark.parametrize("name", ["LayerNormLSTM", "HyperLSTM"])
def test_layer_normed_layers_cross_over_and_back(name):
    layer: Any = getattr(jaxrnn, name)(
        *(I, H), batch_first=True, recurrent_dropout=0.3, rngs=nnx.Rngs(0), param_dtype=jnp.float64
    )
    module: Any = torch_compat.to_torch(layer)
    assert type(module) is getattr(normed_modules, name)
    assert (module.batch_first, module.recurrent_dropout, module.training) == (True, 0.3, False)
    back: Any = torch_compat.from_torch(module)
    assert convert.describe(back) == convert.describe(layer)
    for key, value in split(layer)[1].items():
        assert np.asarray(split(back)[1][key]).tobytes() == np.asarray(value).tobytes()
    rows = verify.verify(back, module)
    assert {row.tensor for row in rows} >= {"parameters", "output", "h", "c"}


def test_jax_and_numpy_arrays_are_a_state_dict_too():
    layer: Any = torch_compat.from_torch(torch.nn.GRU(I, H))
    params = split(layer)[1]
    for arrays in (params, {name: np.asarray(value) for name, value in params.items()}):
        again: Any = torch_compat.from_torch(arrays)
        assert convert.describe(again) == convert.describe(layer)
        for name, value in split(again)[1].items():
            np.testing.assert_array_equal(value, params[name])


def state_dict():
    model = torch.nn.ModuleDict({"rnn": torch.nn.LSTM(I, H), "head": torch.nn.Linear(H, 2)})
    return torch.nn.ModuleDict({"encoder": model, "cell": torch.nn.GRUCell(I, H)}).state_dict()


@pytest.mark.parametrize("prefix", ["", "encoder", "encoder.head", "rnn", "decoder"])
def test_a_prefix_without_a_layer_names_those_that_there_are(prefix):
    with pytest.raises(InputError) as caught:
        torch_compat.from_state_dict(state_dict(), prefix)
    assert str(caught.value) == (
        f"there is no recurrent layer at prefix {prefix!r}; the state dict has 'encoder.rnn' "
        "(LSTM), 'cell' (GRUCell)"
    )
    with pytest.raises(InputError, match="the state dict has none at all"):
        torch_compat.from_state_dict({"weight": torch.zeros(2)})


def test_all_mismatches_of_a_sub_tree_are_named_together():
    tensors = state_dict()
    tensors["encoder.rnn.bias_hh_l0"] = torch.zeros(3)
    tensors["encoder.rnn.weight_ih_l2"] = torch.zeros(24, 6)
    tensors["encoder.rnn.gamma"] = torch.ones(1)
    tensors["encoder.rnn.weight_hh_l0"][0, 0] = torch.inf
    with pytest.raises(InputError) as caught:
        torch_compat.from_state_dict(tensors, "encoder.rnn")
    assert str(caught.value) == (
        "encoder.rnn: parameters don't fit: "
        "weight_hh_l0 (24, 6) holds 1 values that are NaN or infinite, expected finite ones "
        "(24, 6); bias_hh_l0 has shape (3,), expected (24,); "
        "weight_ih_l1 is missing, expected (24, 6); weight_hh_l1 is missing, expected (24, 6); "
        "bias_ih_l1 is missing, expected (24,); bias_hh_l1 is missing, expected (24,); "
        "weight_ih_l2 (24, 6) is not expected; gamma (1,) is not expected"
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"weight_hh_l0": (13, 6)}, r"rnn: weight_hh_l0 has shape \(13, 6\), expected \(24, 6\)"),
        ({"weight_hh_l0": (24,)}, r"rnn: weight_hh_l0 has shape \(24,\), expected a matrix"),
        ({"weight_ih_l0": (0, 4)}, r"rnn: weight_ih_l0 has shape \(0, 4\), expected a matrix"),
        ({"weight_ih_l0": None}, "rnn: weight_ih_l0 is missing"),
        ({"weight_hr_l0": (2, 5)}, r"rnn: weight_hh_l0 has shape .* with hidden_size 5"),
        ({"weight_hr_l0": (2, 24)}, r"rnn: weight_hh_l0 has shape .* with hidden_size 24"),
    ],
)
def test_shapes_that_no_layer_has_are_named(change, found):
    tensors = {"rnn." + k: v for k, v in torch.nn.LSTM(I, H).state_dict().items()}
    for name, shape in change.items():
        tensors.pop("rnn." + name, None)
        if shape is not None:
            tensors["rnn." + name] = torch.zeros(shape)
    with pytest.raises(InputError, match=found):
        torch_compat.from_state_dict(tensors, "rnn")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (torch.zeros(24, 4).to_sparse(), "weight_ih_l0 is no dense tensor"),
        (torch.zeros(24, 4, device="meta"), "weight_ih_l0 is no dense tensor"),
        ([1.0, 2.0], "weight_ih_l0 is a list"),
        (torch.zeros(24, 4).to(torch.float8_e5m2), "weight_ih_l0 is no dense tensor"),
        (torch.zeros(24, 4).int(), "weight_ih_l0 .* is int32, expected floating-point"),
        (torch.zeros(24, 4).double(), "dtypes are mixed"),
    ],
)
def test_what_is_no_dense_tensor_of_floats_is_named(value, found):
    tensors = torch.nn.LSTM(I, H).state_dict() | {"weight_ih_l0": value}
    with pytest.raises(InputError, match=found):
        torch_compat.from_state_dict(tensors)


def test_a_hostile_number_of_layers_is_no_loop():
    shapes = {"weight_ih_l0": (6, 4), "weight_hh_l0": (6, 6), "weight_ih_l999999999999": (6, 6)}
    assert layout.read(shapes)[1]["num_layers"] == 2
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(InputError, match=r"weight_ih_l999999999999 .* is not expected"):
        torch_compat.from_state_dict(tensors)


def test_a_checkpoint_around_the_state_dict_is_named():
    checkpoint = {"model_state": torch.nn.GRU(I, H).state_dict(), "step": 3}
    for call in (torch_compat.from_state_dict, torch_compat.find_layers, torch_compat.from_torch):
        with pytest.raises(InputError, match=r"mappings, at 'model_state': .*\['model_state'\]"):
            call(checkpoint)


def test_what_is_no_state_dict_is_named(unchecked):
    for other in (torch.nn.GRU(I, H), {3: torch.zeros(2)}):
        with pytest.raises(InputError, match="expected a mapping from names to tensors"):
            torch_compat.from_state_dict(other)  # pyright: ignore[reportArgumentType]


def test_the_public_names_are_listed():
    assert set(torch_compat.__all__) < set(dir(torch_compat))
    for name in torch_compat.__all__:
        assert getattr(torch_compat, name) is not None
