"""A model as an ONNX graph of native LSTM, GRU and RNN operators, one a layer: ``model.onnx``.

Batch and time are dynamic, from 1 on: onnxruntime may abort on empty input. States go in and come
out, so that the graph streams:

    inputs    ids (batch, time) int64 of a CharLM, or x (batch, time, I);
              h_0 (D*L, batch, H), zeros to begin with, and c_0 likewise of an LSTM
    outputs   logits, prediction or output (batch, time, V, O or D*H); h_n, and c_n of an LSTM
    metadata  model and arguments, as ``layout`` has them; vocabulary or scaler; all in JSON

x and output of a layer without ``batch_first`` are (time, batch, ...). Negative ids count from the
end; others out of range read as zeros (one-hot) or are an error (embedding). NumPy and onnx are
needed here, onnxruntime by ``run``. Usage::

    data = build("CharLM", arguments, arrays, carried={"vocabulary": ...}).SerializeToString()
    logits, h_n, c_n = run(data, [ids, h_0, c_0])
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxrnn
from jaxrnn.errors import InputError
from torch_compat import foreign, layout

# Nothing here needs a newer one: they add dtypes and a batch-first layout for which onnxruntime
# has no kernels. It reads this opset since 1.0.
OPSET, IR_VERSION = 11, 6

_LAYERS = ("LSTM", "GRU", "RNN")
_OUTPUTS = {"CharLM": "logits", "Forecaster": "prediction"} | dict.fromkeys(_LAYERS, "output")

_DTYPES = {
    "float64": "onnxruntime computes no LSTM, GRU or RNN in float64",
    "bfloat16": "onnxruntime has no LSTM, GRU or RNN for bfloat16",
}
"""Those that can't be carried; float16 onnxruntime computes in float32 between its own casts."""


def refusal(name: str, arguments: Mapping[str, Any], dtype: str) -> str | None:
    """Why a class of ``layout``'s with these arguments can't be carried; None if it can."""
    if name not in _OUTPUTS:
        return f"there is a graph of {', '.join(_OUTPUTS)} only, not of {name}"
    if arguments.get("proj_size"):
        return f"ONNX's LSTM has no projection (proj_size={arguments['proj_size']})"
    return _DTYPES.get(dtype)


def build(
    name: str,
    arguments: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    *,
    carried: Mapping[str, Any] | None = None,
) -> Any:
    """The ``onnx.ModelProto`` of a class of ``layout``'s, for inference: dropout is left out.

    ``arguments`` construct the class, ``arrays`` are its parameters by torch's names. ``carried``
    is what a model has besides, as ``vocabulary`` or ``scaler``, by name.

    Raises InputError for what ``refusal`` refuses and for parameters that are not exactly the
    class's, and where onnx is not installed.
    """
    onnx = _installed("onnx")
    dtype = next((array.dtype.name for array in arrays.values()), "float32")
    if reason := refusal(name, arguments, dtype):
        raise InputError(f"can't be written to ONNX: {reason}")
    graph = _Graph(onnx, layout.parameters(name, arguments, arrays))
    rnn = _Recurrent(name, arguments)
    batch_time = ["batch", "time"] if rnn.batch_first else ["time", "batch"]
    if name == "CharLM":
        graph.input("ids", batch_time, onnx.TensorProto.INT64)
        x = _read_symbols(graph, arguments)
    else:
        x = graph.input("x", [*batch_time, arguments["input_size"]])
        x = graph.node("Transpose", x, perm=[1, 0, 2]) if rnn.batch_first else x
    output, width = _OUTPUTS[name], rnn.width
    if name in _LAYERS:
        _run_layers(graph, rnn, x, output)
    else:
        weight, bias = graph.arrays["decoder.weight"], graph.arrays["decoder.bias"]
        y = _run_layers(graph, rnn, x, "y")
        product = graph.node("MatMul", y, graph.constant("decoder.weight", weight.T))
        graph.node("Add", product, graph.constant("decoder.bias", bias), into=[output])
        width = len(bias)
    graph.output(output, [*batch_time, width])
    for state in rnn.states:
        graph.output(f"{state}_n", rnn.state_shape)
    about = {"model": name, "arguments": dict(arguments), **(carried or {})}
    return graph.model(name, {key: json.dumps(value) for key, value in about.items()})


def run(model: bytes, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a graph, on the CPU.

    Raises InputError where onnxruntime is not installed, for an empty input, and for a graph that
    it can't run on these.
    """
    onnxruntime = _installed("onnxruntime")
    if not all(value.size for value in inputs):  # some of its kernels abort the process
        raise InputError(f"an input is empty: {', '.join(str(value.shape) for value in inputs)}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_inputs()]
        if len(names) != len(inputs):
            raise ValueError(f"it takes {', '.join(names)}, got {len(inputs)} inputs")
        return session.run(None, dict(zip(names, inputs, strict=True)))
    except Exception as error:  # of many classes of its own
        reason = str(error).partition("\n")[0]
        raise InputError(f"onnxruntime can't run the graph: {reason}") from None


def metadata(model: bytes) -> dict[str, Any]:
    """What ``build`` has put beside the graph: model, arguments, vocabulary or scaler.

    Raises InputError where onnx is not installed or that is not JSON.
    """
    onnx = _installed("onnx")
    try:
        found = onnx.load_from_string(model).metadata_props
        return {entry.key: json.loads(entry.value) for entry in found}
    except Exception as error:  # of protobuf, or of JSON
        raise InputError(f"the graph's metadata can't be read: {error}") from None


def _installed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        raise InputError(f"{package} is not installed: pip install onnx onnxruntime") from None


class _Recurrent:
    """The recurrent layers of a class: a layer's own, or those within a model."""

    def __init__(self, name: str, arguments: Mapping[str, Any]):
        self.prefix = "" if name in _LAYERS else "rnn"
        self.operator = name if name in _LAYERS else arguments["cell"].upper()
        self.batch_first = arguments.get("batch_first", name not in _LAYERS)
        self.num_directions = 2 if arguments.get("bidirectional") else 1
        self.num_layers = arguments["num_layers"]
        self.hidden_size = arguments["hidden_size"]
        self.width = self.num_directions * self.hidden_size
        self.states = ("h", "c") if self.operator == "LSTM" else ("h",)
        self.state_shape = [self.num_directions * self.num_layers, "batch", self.hidden_size]
        self.attributes: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "direction": "bidirectional" if self.num_directions == 2 else "forward",
        }
        if self.operator == "GRU":  # torch's equation; 0, the default, is another one
            self.attributes["linear_before_reset"] = 1
        if self.operator == "RNN":
            nonlinearity = arguments.get("nonlinearity", "tanh").title()
            self.attributes["activations"] = [nonlinearity] * self.num_directions


class _Graph:
    """A graph in the making: nodes are added in the order in which they run."""

    def __init__(self, onnx: Any, arrays: dict[str, np.ndarray]):
        self.onnx, self.arrays = onnx, arrays
        self.dtype = next(iter(arrays.values())).dtype
        self.elements = onnx.helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []

    def input(self, name: str, shape: list[Any], elements: int | None = None) -> str:
        info = self.onnx.helper.make_tensor_value_info(name, elements or self.elements, shape)
        self.inputs.append(info)
        return name

    def output(self, name: str, shape: list[Any]) -> None:
        info = self.onnx.helper.make_tensor_value_info(name, self.elements, shape)
        self.outputs.append(info)

    def constant(self, name: str, array: np.ndarray) -> str:
        array = np.ascontiguousarray(array) if array.ndim else array
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, into: list[str] | None = None, **attributes) -> str:
        """The name of the first output."""
        name = f"{operator}_{len(self.nodes)}"
        into = into or [f"{name}_out"]
        node = self.onnx.helper.make_node(operator, inputs, into, name=name, **attributes)
        self.nodes.append(node)
        return into[0]

    def model(self, name: str, metadata: dict[str, str]) -> Any:
        """The whole, once it has passed ONNX's checks."""
        helper = self.onnx.helper
        model = helper.make_model(
            helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.constants),
            producer_name="jaxrnn",
            producer_version=jaxrnn.__version__,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
        )
        helper.set_model_props(model, metadata)
        self.onnx.checker.check_model(model, full_check=True)
        return model


def _read_symbols(graph: _Graph, arguments: Mapping[str, Any]) -> str:
    """ids (B, T) -> their rows of the embedding, or one-hot, (T, B, ...)."""
    ids = graph.node("Transpose", "ids", perm=[1, 0])
    if arguments["embedding_size"]:
        table = graph.constant("embedding.weight", graph.arrays["embedding.weight"])
        return graph.node("Gather", table, ids)
    depth = graph.constant("num_symbols", np.array(arguments["num_symbols"], np.int64))
    x = graph.node("OneHot", ids, depth, graph.constant("off_on", np.array([0, 1], np.float32)))
    return x if graph.dtype == np.float32 else graph.node("Cast", x, to=graph.elements)


def _run_layers(graph: _Graph, rnn: _Recurrent, x: str, into: str) -> str:
    """x (T, B, I) -> ``into`` (B, T, D*H), (T, B, D*H) without batch_first; and h_0 -> h_n."""
    layers = range(rnn.num_layers)
    ends = [f"_l{k}" for k in layers] if len(layers) > 1 else [""]
    first = {state: [f"{state}_0{end}" for end in ends] for state in rnn.states}
    last = {state: [f"{state}_n{end}" for end in ends] for state in rnn.states}
    for state in rnn.states:
        name = graph.input(f"{state}_0", rnn.state_shape)
        if len(layers) > 1:
            graph.node("Split", name, into=first[state], axis=0)
    width = graph.constant("time_batch_width", np.array([0, 0, rnn.width], np.int64))
    parameters = layout.within(graph.arrays, rnn.prefix)
    for k in layers:
        suffix = f"_l{k}"
        own = {n: a for n, a in parameters.items() if n.removesuffix("_reverse").endswith(suffix)}
        arrays = foreign.to_layout(f"onnx.{rnn.operator}", own, suffix=suffix)
        weights = [
            graph.constant(f"{name}{suffix}", arrays[name]) if name in arrays else ""
            for name in ("W", "R", "B")
        ]
        no_lengths = ""
        y = graph.node(
            rnn.operator,
            *(x, *weights, no_lengths, *(first[state][k] for state in rnn.states)),
            into=[f"y{suffix}", *(last[state][k] for state in rnn.states)],
            **rnn.attributes,
        )
        is_last = k == len(layers) - 1
        # From (T, D, B, H): the directions go side by side.
        perm = [2, 0, 1, 3] if is_last and rnn.batch_first else [0, 2, 1, 3]
        y = graph.node("Transpose", y, perm=perm)
        x = graph.node("Reshape", y, width, into=[into] if is_last else None)
    for state in rnn.states:
        if len(layers) > 1:
            graph.node("Concat", *last[state], into=[f"{state}_n"], axis=0)
    return x
