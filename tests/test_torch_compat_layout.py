import itertools
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from flax import nnx
from refusals import message

from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.forecaster import Forecaster
from jaxrnn.models.sketch_rnn import SketchRNN
from torch_compat import layout, modules, normed_modules

I, H, P, V, E, O = 4, 6, 3, 7, 5, 2

LAYERS = [
    (kind, num_layers, bias, bidirectional, proj_size)
    for kind, num_layers, bias, bidirectional, proj_size in itertools.product(
        ("lstm", "gru", "rnn"), (1, 3), (True, False), (True, False), (0, P)
    )
    if kind == "lstm" or not proj_size
]
CHAR_LMS = [
    {"num_symbols": V, "cell": cell, "hidden_size": H, "num_layers": L, "embedding_size": size}
    for cell, L, size in itertools.product(("lstm", "gru", "rnn"), (1, 2), (0, E))
]
FORECASTERS = [
    {"input_size": I, "output_size": O, "cell": cell, "hidden_size": H, "num_layers": L}
    for cell, L in itertools.product(("lstm", "gru", "rnn"), (1, 2))
]


def shapes(module):
    return [(name, tuple(value.shape)) for name, value in module.state_dict().items()]


def numbered(expected, dtype: Any = np.float32):
    """Arrays of these shapes, no two values alike."""
    counter = itertools.count()
    return {
        name: np.array([next(counter) for _ in range(int(np.prod(shape)))], dtype).reshape(shape)
        for name, shape in expected.items()
    }


@pytest.mark.parametrize(("kind", "num_layers", "bias", "bidirectional", "proj_size"), LAYERS)
def test_recurrent_layers_are_torchs_in_its_order(kind, num_layers, bias, bidirectional, proj_size):
    arguments = {
        "input_size": I,
        "hidden_size": H,
        "num_layers": num_layers,
        "bias": bias,
        "bidirectional": bidirectional,
        **({"proj_size": proj_size} if kind == "lstm" else {}),
    }
    expected = shapes(getattr(torch.nn, kind.upper())(**arguments))
    assert list(layout.recurrent(kind, **arguments).items()) == expected
    # Arguments that decide no shape may be among a class's.
    got = layout.expected(kind.upper(), arguments | {"dropout": 0.5, "batch_first": True})
    assert list(got.items()) == expected


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_cells_are_torchs_in_its_order(kind, bias):
    module = getattr(torch.nn, f"{kind.upper()}Cell")(I, H, bias)
    assert list(layout.cell(kind, I, H, bias).items()) == shapes(module)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [*(("CharLM", a) for a in CHAR_LMS), *(("Forecaster", a) for a in FORECASTERS)],
)
def test_models_are_the_twins_in_order_and_jaxrnns(name, arguments):
    expected = layout.expected(name, arguments)
    assert shapes(modules.MODELS[name](**arguments)) == list(expected.items())
    cls = {"CharLM": CharLM, "Forecaster": Forecaster}[name]
    model = nnx.eval_shape(lambda: cls(**arguments, rngs=nnx.Rngs(0)))
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert {".".join(map(str, path)): param.shape for path, param in params} == expected


@pytest.mark.parametrize("decoder", ["lstm", "layer_norm", "hyper"])
@pytest.mark.parametrize(("num_classes", "conditional"), [(0, True), (2, False), (3, True)])
def test_sketch_rnns_are_the_twins_in_order_and_jaxrnns(decoder, num_classes, conditional):
    arguments: dict[str, Any] = {
        **{"decoder": decoder, "hidden_size": 6, "encoder_size": 4, "latent_size": 3},
        **{"num_mixtures": 2, "num_classes": num_classes, "class_size": 5},
        "conditional": conditional,
    }
    expected = layout.expected("SketchRNN", arguments)
    assert shapes(modules.SketchRNN(**arguments)) == list(expected.items())
    model = nnx.eval_shape(lambda: SketchRNN(**arguments, rngs=nnx.Rngs(0)))
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    assert {".".join(map(str, path)): param.shape for path, param in params} == expected
    presumed = {} if conditional else {"encoder_size": 256, "latent_size": 128}
    presumed |= {} if num_classes else {"class_size": 32}
    assert layout.read_sketch_rnn(expected) == arguments | presumed


@pytest.mark.parametrize("name", ["LayerNormLSTM", "HyperLSTM"])
def test_layer_normed_layers_are_the_twins_in_order(name):
    sizes = {"input_size": I, "hidden_size": H}
    more = {"hyper_size": 7, "embedding_size": 3} if name == "HyperLSTM" else {}
    module = getattr(normed_modules, name)(**sizes, **more)
    expected = layout.expected(name, {**sizes, **more, "recurrent_dropout": 0.1})
    assert list(expected.items()) == shapes(module)
    assert layout.read_sketch_rnn(expected) is None


def test_what_is_no_sketch_rnn_is_not_read_as_one():
    char_lm = layout.char_lm(5, "lstm", H, 1, 0)
    assert layout.read_sketch_rnn(char_lm) is None
    seq2seq = {
        f"{part}.{name}": shape
        for part in ("encoder", "decoder")
        for name, shape in layout.recurrent("lstm", I, H).items()
    }
    assert layout.read_sketch_rnn(seq2seq) is None
    assert layout.read_sketch_rnn(seq2seq | {"output.weight": (9,)}) is None


@pytest.mark.parametrize(("kind", "num_layers", "bias", "bidirectional", "proj_size"), LAYERS)
def test_sizes_are_read_back_from_names_and_shapes(
    kind, num_layers, bias, bidirectional, proj_size
):
    arguments: dict[str, Any] = {
        "input_size": I,
        "hidden_size": H,
        "bias": bias,
        "num_layers": num_layers,
        "bidirectional": bidirectional,
    }
    if kind == "lstm":
        arguments["proj_size"] = proj_size
    expected = (kind.upper(), arguments)
    assert layout.read(layout.expected(*expected)) == expected
    shapes = {f"a.b.{name}": shape for name, shape in layout.expected(*expected).items()}
    around = {"a.weight": (3, 3), **shapes, **layout.cell(kind, I, H, bias)}
    sizes = {"input_size": I, "hidden_size": H, "bias": bias}
    assert layout.find(around) == {"a.b": expected, "": (f"{kind.upper()}Cell", sizes)}


def test_what_another_class_or_argument_lacks_is_a_key_error():
    with pytest.raises(KeyError, match="Transformer"):
        layout.expected("Transformer", {})
    with pytest.raises(KeyError, match="hidden_size"):
        layout.expected("LSTM", {"input_size": I})


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_every_array_is_used_once_as_it_is_in_the_expected_order(dtype):
    expected = layout.recurrent("gru", I, H, 2)
    arrays = numbered(expected, dtype)
    converted = layout.convert(dict(reversed(arrays.items())), expected)
    assert list(converted) == list(expected)
    assert all(converted[name] is arrays[name] for name in expected)


def test_bfloat16_is_floating_point():
    import ml_dtypes

    expected = layout.cell("rnn", I, H)
    layout.convert(numbered(expected, ml_dtypes.bfloat16), expected)
    wrong = numbered(expected, ml_dtypes.bfloat16)
    wrong["bias_hh"][1] = np.nan
    assert "bias_hh (6,) holds 1 values" in message(layout.convert, wrong, expected)


def test_all_mismatches_are_named_together():
    expected = layout.recurrent("lstm", I, H)
    arrays = numbered(expected)
    arrays["extra"] = np.zeros((2, 3), np.float32)
    arrays["weight_ih_l0"] = arrays["weight_ih_l0"].T
    arrays["bias_ih_l0"] = arrays["bias_ih_l0"].astype(np.int32)
    arrays["weight_hh_l0"][2, 3] = np.inf
    arrays["weight_hh_l0"][0, 1] = np.nan
    del arrays["bias_hh_l0"]
    assert message(layout.convert, arrays, expected) == (
        "parameters don't fit: weight_ih_l0 has shape (4, 24), expected (24, 4); "
        "weight_hh_l0 (24, 6) holds 2 values that are NaN or infinite, "
        "expected finite ones (24, 6); "
        "bias_ih_l0 (24,) is int32, expected floating-point (24,); "
        "bias_hh_l0 is missing, expected (24,); "
        "extra (2, 3) is not expected"
    )


def test_dtypes_are_not_mixed():
    expected = layout.cell("gru", I, H)
    arrays = numbered(expected)
    arrays["bias_ih"] = arrays["bias_ih"].astype(np.float64)
    found = message(layout.convert, arrays, expected)
    assert "dtypes are mixed, expected one" in found
    assert "bias_ih is float64" in found


def test_the_layout_needs_neither_torch_nor_jax():
    code = (
        "import sys; sys.modules |= dict.fromkeys(('torch', 'jax', 'flax'))\n"
        "import torch_compat.layout as layout; print(layout.cell('rnn', 2, 3, False))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "{'weight_ih': (3, 2), 'weight_hh': (3, 3)}\n"
