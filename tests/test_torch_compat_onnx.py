"""ONNX graphs in onnxruntime, beside torch with the same parameters."""

import collections
import itertools
import json
import re
import subprocess
import sys
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tolerances import assert_close

import jaxrnn
from jaxrnn.errors import InputError
from torch_compat import layout, modules, onnx_graph

B, T, I, H, V, E, O = 3, 5, 4, 6, 7, 5, 2
LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "-".join([cell, str(num_layers), *itertools.compress(("bi", "bias", "batch"), flags)]): (
        cell.removesuffix("-relu"),
        {
            **{"input_size": I, "hidden_size": H, "num_layers": num_layers, "dropout": 0.0},
            **dict(zip(("bidirectional", "bias", "batch_first"), flags, strict=True)),
            **more,
        },
    )
    for cell, more in {
        "LSTM": {"proj_size": 0},
        "GRU": {},
        "RNN": {"nonlinearity": "tanh"},
        "RNN-relu": {"nonlinearity": "relu"},
    }.items()
    for num_layers, *flags in itertools.product((1, 2), *[(False, True)] * 3)
}
BODY = {"hidden_size": H, "dropout": 0.4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        f"char-{cell}-{size or 'onehot'}-{layers}": (
            "CharLM",
            {
                **{"num_symbols": V, "embedding_size": size, "cell": cell},
                **{"num_layers": layers, **BODY},
            },
        )
        for cell in ("lstm", "gru", "rnn")
        for size, layers in ((0, 2), (E, 1))
    },
    **{
        f"series-{cell}-{layers}": (
            "Forecaster",
            {"input_size": I, "output_size": O, "cell": cell, "num_layers": layers, **BODY},
        )
        for cell, layers in (("lstm", 1), ("gru", 2), ("rnn", 3))
    },
}
CASES = LAYERS | MODELS
VOCABULARY = {"kind": "characters", "symbols": '\n "é𝄞b'}


def parameters(name, dtype="float32"):
    class_name, arguments = CASES[name]
    rng = np.random.default_rng(5)
    shapes = layout.expected(class_name, arguments)
    return {key: rng.uniform(-0.6, 0.6, size=shape).astype(dtype) for key, shape in shapes.items()}


def built(name, dtype="float32", **carried) -> Any:
    return onnx_graph.build(*CASES[name], parameters(name, dtype), carried=carried)


def twin_of(name, dtype="float32") -> Any:
    class_name, arguments = CASES[name]
    target = modules.MODELS.get(class_name) or getattr(torch.nn, class_name)
    twin = target(**arguments).to(getattr(torch, dtype))
    twin.load_state_dict({k: torch.tensor(a) for k, a in parameters(name, dtype).items()})
    return twin.eval()


def opened(graph) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def example(name, batch=B, time=T, dtype="float32", seed=0) -> list[np.ndarray]:
    """x and the members of a state."""
    class_name, arguments = CASES[name]
    rng = np.random.default_rng(seed)
    is_layer = class_name in torch.nn.__dict__
    lead = (batch, time) if arguments.get("batch_first", not is_layer) else (time, batch)
    x = rng.normal(size=(*lead, I)).astype(dtype)
    if class_name == "CharLM":
        x = rng.integers(V, size=lead)
    directions = 2 if arguments.get("bidirectional") else 1
    size = (directions * arguments["num_layers"], batch, H)
    num_states = 2 if "lstm" in (class_name.lower(), arguments.get("cell")) else 1
    return [x, *(rng.normal(size=size).astype(dtype) for _ in range(num_states))]


def run(session: Any, inputs):
    names = [value.name for value in session.get_inputs()]
    return session.run(None, dict(zip(names, inputs, strict=True)))


def run_torch(twin, x, *members):
    tensors = [torch.tensor(member) for member in members]
    with torch.no_grad():
        y, state = twin(torch.tensor(x), tuple(tensors) if len(tensors) > 1 else tensors[0])
    return [y.numpy(), *(m.numpy() for m in (state if isinstance(state, tuple) else (state,)))]


def assert_same(got, expected, dtype="float32"):
    assert len(got) == len(expected)
    for ours, theirs in zip(got, expected, strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert_close(ours, theirs, dtype)


@pytest.mark.parametrize("name", CASES)
def test_a_graph_gives_torchs_outputs_and_states_at_any_size(name):
    session, twin = opened(built(name)), twin_of(name)
    for seed, (batch, time) in enumerate(((B, T), (1, 9), (4, 1))):
        inputs = example(name, batch, time, seed=seed)
        assert_same(run(session, inputs), run_torch(twin, *inputs))


@pytest.mark.parametrize(
    "name", [n for n, (_, arguments) in CASES.items() if not arguments.get("bidirectional")]
)
def test_two_chunks_with_the_carried_state_are_the_whole(name):
    session = opened(built(name))
    x, *state = example(name, time=7)
    whole = run(session, [x, *state])
    axis = x.shape.index(7)
    outputs = []
    for chunk in np.split(x, [3], axis):
        output, *state = run(session, [chunk, *state])
        outputs.append(output)
    assert_same([np.concatenate(outputs, axis), *state], whole)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_one_native_operator(name):
    class_name, arguments = CASES[name]
    counts = collections.Counter(node.op_type for node in built(name).graph.node)
    native = arguments.get("cell", class_name).upper()
    assert counts.pop(native) == arguments["num_layers"]
    plain = {"Transpose", "Reshape", "Split", "Concat", "OneHot", "Gather", "MatMul", "Add"}
    assert counts.keys() <= plain


@pytest.mark.parametrize("name", ["char-lstm-onehot-2", "series-rnn-3", "GRU-2-bi-bias-batch"])
def test_names_shapes_and_opset(name):
    class_name, arguments = CASES[name]
    graph = built(name)
    onnx.checker.check_model(graph, full_check=True)

    def signature(values):
        return {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in values
        }

    state = [arguments["num_layers"] * (2 if class_name == "GRU" else 1), "batch", H]
    inputs, outputs = {
        "CharLM": (
            {"ids": ["batch", "time"], "h_0": state, "c_0": state},
            {"logits": ["batch", "time", V], "h_n": state, "c_n": state},
        ),
        "Forecaster": (
            {"x": ["batch", "time", I], "h_0": state},
            {"prediction": ["batch", "time", O], "h_n": state},
        ),
        "GRU": (
            {"x": ["batch", "time", I], "h_0": state},
            {"output": ["batch", "time", 2 * H], "h_n": state},
        ),
    }[class_name]
    assert signature(graph.graph.input) == inputs
    assert signature(graph.graph.output) == outputs
    assert list(signature(graph.graph.input)) == list(inputs)  # in the order that run takes
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 11)]


def test_time_comes_first_where_a_layer_takes_it_so():
    shape = built("GRU-1-bias").graph.input[0].type.tensor_type.shape
    assert [d.dim_param or d.dim_value for d in shape.dim] == ["time", "batch", I]


def test_what_a_model_has_besides_is_in_the_metadata():
    graph = built("char-gru-5-1", vocabulary=VOCABULARY)
    assert (graph.producer_name, graph.producer_version) == ("jaxrnn", jaxrnn.__version__)
    session = opened(graph)
    found = session.get_modelmeta().custom_metadata_map
    assert {key: json.loads(value) for key, value in found.items()} == {
        "model": "CharLM",
        "arguments": CASES["char-gru-5-1"][1],
        "vocabulary": VOCABULARY,
    }
    scaler = {"mean": 0.1, "std": 3.25, "target": "price"}
    found = opened(built("series-gru-2", scaler=scaler)).get_modelmeta().custom_metadata_map
    assert json.loads(found["scaler"]) == scaler


def test_run_takes_bytes_and_a_list_and_is_silent(capfd):
    name = "char-lstm-onehot-2"
    data, inputs = built(name).SerializeToString(), example(name)
    assert_same(onnx_graph.run(data, inputs), run_torch(twin_of(name), *inputs))
    with pytest.raises(InputError, match="it takes ids, h_0, c_0, got 2 inputs"):
        onnx_graph.run(data, inputs[:2])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["char-lstm-onehot-2", "char-gru-5-1", "RNN-relu-2-bi-bias"])
def test_float16_parameters_are_carried(name):
    session, inputs = opened(built(name, "float16")), example(name, dtype="float16")
    got, expected = run(session, inputs), run_torch(twin_of(name, "float16"), *inputs)
    assert {value.dtype for value in got} == {np.dtype("float16")}
    assert_same(got, expected, "bfloat16")  # of the two narrow dtypes the table has the other


def test_empty_input_is_refused_before_it_aborts_the_process():
    data = built("char-lstm-onehot-2").SerializeToString()
    with pytest.raises(InputError, match=r"an input is empty: \(0, 5\), \(2, 0, 6\)"):
        onnx_graph.run(data, example("char-lstm-onehot-2", batch=0))


def test_ids_out_of_range_read_as_documented():
    onehot, embedded = (opened(built(name)) for name in ("char-rnn-onehot-2", "char-rnn-5-1"))
    for session, name in ((onehot, "char-rnn-onehot-2"), (embedded, "char-rnn-5-1")):
        x, h = example(name, 1, 1)
        negative, last = (run(session, [np.full_like(x, i), h]) for i in (-1, V - 1))
        assert_same(negative, last)
    x, h = example("char-rnn-onehot-2", 1, 1)
    twin = twin_of("char-rnn-onehot-2")
    with torch.no_grad():
        twin.rnn.weight_ih_l0.zero_()
    assert_same(run(onehot, [np.full_like(x, V), h]), run_torch(twin, x, h))
    x, h = example("char-rnn-5-1", 1, 1)
    with pytest.raises(Exception, match="out of data bounds"):
        run(embedded, [np.full_like(x, V), h])


# --- what can't be carried


@pytest.mark.parametrize(
    ("class_name", "arguments", "dtype", "reason"),
    [
        ("LSTM", {"proj_size": 2}, "float32", r"no projection \(proj_size=2\)"),
        ("LSTM", {"proj_size": 0}, "float64", "no LSTM, GRU or RNN in float64"),
        ("CharLM", {}, "bfloat16", "no LSTM, GRU or RNN for bfloat16"),
        ("GRUCell", {}, "float32", "LSTM, GRU, RNN only, not of GRUCell"),
    ],
)
def test_the_reason_is_given(class_name, arguments, dtype, reason):
    found = onnx_graph.refusal(class_name, arguments, dtype)
    assert found is not None
    assert re.search(reason, found)


def test_the_rest_is_not_refused():
    for name in CASES:
        for dtype in ("float32", "float16"):
            assert onnx_graph.refusal(*CASES[name], dtype) is None


def test_refusals_are_of_what_onnxruntime_refuses():
    """Once it has these kernels, the refusal can go."""
    graph = built("LSTM-1-bias")
    for part in (*graph.graph.input, *graph.graph.output):
        part.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for value in graph.graph.initializer:
        array = onnx.numpy_helper.to_array(value)
        if array.dtype == np.float32:
            wide = onnx.numpy_helper.from_array(array.astype(np.float64), value.name)
            value.CopyFrom(wide)
    onnx.checker.check_model(graph, full_check=True)
    with pytest.raises(Exception, match="does not support double"):
        onnx_graph.run(graph.SerializeToString(), example("LSTM-1-bias", dtype="float64"))


def test_build_refuses_with_the_reason():
    name, arguments = CASES["LSTM-1-bias"]
    with pytest.raises(InputError, match=r"can't be written to ONNX: .*float64"):
        built("LSTM-1-bias", "float64")
    projected = {**arguments, "proj_size": 2}
    with pytest.raises(InputError, match=r"can't be written to ONNX: .*projection"):
        onnx_graph.build(name, projected, parameters("LSTM-1-bias"))


def test_build_names_parameters_that_do_not_fit():
    arrays = parameters("GRU-1-bias")
    arrays["weight_hh_l0"] = arrays["weight_hh_l0"].T
    arrays["extra"] = arrays.pop("bias_hh_l0")
    match = r"weight_hh_l0 has shape \(6, 18\).*bias_hh_l0 is missing.*extra \(18,\) is not"
    with pytest.raises(InputError, match=match):
        onnx_graph.build(*CASES["GRU-1-bias"], arrays)


def test_packages_that_are_missing_are_named(monkeypatch):
    data = built("GRU-1-bias").SerializeToString()
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"^onnx is not installed: pip install onnx onnxruntime$"):
        built("GRU-1-bias")
    with pytest.raises(InputError, match=r"^onnxruntime is not installed: pip install onnx"):
        onnx_graph.run(data, [])


def test_neither_torch_nor_jax_is_imported():
    code = """
import sys, numpy
from torch_compat import layout, onnx_graph
arguments = {"input_size": 2, "output_size": 1, "cell": "gru", "hidden_size": 3, "num_layers": 1}
shapes = layout.expected("Forecaster", arguments)
arrays = {name: numpy.ones(shape, "float32") for name, shape in shapes.items()}
data = onnx_graph.build("Forecaster", arguments, arrays).SerializeToString()
onnx_graph.run(data, [numpy.ones((1, 2, 2), "float32"), numpy.ones((1, 1, 3), "float32")])
print(*sorted({"torch", "jax", "flax"} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
