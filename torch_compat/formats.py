"""The forms in which a trained model is written: one table, a row a form.

Each row has the names of its files, what it can't carry, how it is made, and how what was written
is run in its own runtime beside the JAX model. Torch and ONNX are imported only by rows that need
them. Usage::

    files = FORMATS["onnx"].make(subject)                      # {"model.onnx": b"..."}
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import io
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxrnn.errors import InputError
from torch_compat import directory as directories
from torch_compat import files, layout, magenta, output, standalone, verify
from torch_compat.parts import arrays_of, describe

CONFIG, WEIGHTS = directories.CONFIG, directories.WEIGHTS


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A model on its way out of JAX."""

    model: nnx.Module
    carried: dict[str, Any]  # the vocabulary, scaler or strokes, as a twin's constructor takes them
    about: dict[str, Any]  # for people: task, source, versions

    @functools.cached_property
    def description(self) -> tuple[str, dict[str, Any]]:
        """The class of the twin and its arguments."""
        return describe(self.model)

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters under torch's names."""
        return arrays_of(self.model)

    @functools.cached_property
    def reference(self) -> verify.Reference:
        """What the written forms are compared with."""
        return verify.Reference(self.model)

    @functools.cached_property
    def twin(self) -> Any:
        """The model in torch."""
        from torch_compat.convert import to_torch

        return to_torch(self.model, **self.carried)


@dataclasses.dataclass(frozen=True)
class Format:
    """One form; see ``FORMATS``."""

    files: tuple[str, ...]
    needs: tuple[str, ...]  # packages
    refusal: Callable[[Subject], str | None]  # the reason why it can't carry the model
    make: Callable[[Subject], dict[str, bytes]]  # the files' content
    # What was written, beside the model; with the gradient of each parameter, where it has one.
    compare: Callable[[Subject, Path, bool], list[verify.Row]]


def _never(subject: Subject) -> None:
    """Whatever can be described can be carried."""


def installed(name: str) -> bool:
    """Whether a module is there to be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def missing(form: Format) -> list[str]:
    """Packages that a form needs and that are not installed."""
    return [name for name in form.needs if not installed(name)]


# --- state-dict: torch.save


def _saved(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _make_state_dict(subject: Subject) -> dict[str, bytes]:
    return {"model.pt": _saved(subject.twin.state_dict())}


def _compare_state_dict(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    arrays, _ = files.read(directory / "model.pt")
    twin = _filled(subject, directory / "model.pt", arrays)
    return verify.compare(subject.reference, twin, form="state-dict", gradients=gradients)


def _filled(subject: Subject, path: Path, arrays: dict[str, np.ndarray]) -> Any:
    """A twin with the parameters of a file, which must be exactly its own."""
    from torch_compat.convert import as_tensor

    try:
        arrays = layout.parameters(*subject.description, arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    twin = copy.deepcopy(subject.twin)
    twin.load_state_dict({name: as_tensor(array) for name, array in arrays.items()})
    return twin


# --- safetensors: weights and config.json


def _make_safetensors(subject: Subject) -> dict[str, bytes]:
    about = {**subject.carried, **subject.about}
    return directories.dump(*subject.description, subject.arrays, about)


def _compare_safetensors(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    config, _ = directories.read(directory)
    if installed("torch"):
        from torch_compat.exported import load

        twin = load(directory)
        rows = verify.compare(subject.reference, twin, form="safetensors", gradients=gradients)
    else:
        arrays, _ = files.read(directory / WEIGHTS)
        theirs = {name: array.astype(np.float64) for name, array in arrays.items()}
        rows = [verify.compare_parameters(subject.reference, theirs, "safetensors")]
    return [*rows, *verify.compare_carried("safetensors", subject.carried, config)]


# --- module: the same, and the Python source that it takes


def _make_module(subject: Subject) -> dict[str, bytes]:
    name, _ = subject.description
    return _make_safetensors(subject) | {
        "model.py": standalone.source(name).encode(),
        "README.md": standalone.readme(name).encode(),
    }


def _compare_module(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    # The class in the file, not the one in this package; an import would leave bytecode beside it.
    path = directory / "model.py"
    module: Any = types.ModuleType("model")
    module.__file__ = str(path)
    exec(compile(path.read_text(encoding="utf-8"), path, "exec"), module.__dict__)
    twin = module.load()
    theirs = {name: getattr(twin, name) for name in subject.carried}
    rows = verify.compare(subject.reference, twin, form="module", gradients=gradients)
    return [*rows, *verify.compare_carried("module", subject.carried, theirs)]


# --- pt2: torch.export


def _refuse_pt2(subject: Subject) -> str | None:
    if (name := subject.description[0]) not in ("CharLM", "Forecaster"):
        return f"a program of CharLM and Forecaster is written so, not of {name}: take module"
    if not installed("torch._higher_order_ops.scan"):
        return "this torch has no scan, which dynamic lengths need; install torch 2.7 or newer"
    return None


def _make_pt2(subject: Subject) -> dict[str, bytes]:
    from torch_compat import pt2

    return {"model.pt2": pt2.dump(subject.twin)}


def _compare_pt2(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    from torch_compat import pt2

    run = pt2.runner((directory / "model.pt2").read_bytes())
    return verify.compare_run(subject.reference, run, "pt2")


# --- onnx


def _refuse_onnx(subject: Subject) -> str | None:
    from torch_compat import onnx_graph

    dtype = next(iter(subject.arrays.values())).dtype.name
    return onnx_graph.refusal(*subject.description, dtype)


def _make_onnx(subject: Subject) -> dict[str, bytes]:
    from torch_compat import onnx_graph

    graph = onnx_graph.build(*subject.description, subject.arrays, carried=subject.carried)
    return {"model.onnx": graph.SerializeToString()}


def _compare_onnx(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    from torch_compat import onnx_graph

    data = (directory / "model.onnx").read_bytes()
    rows = verify.compare_run(
        subject.reference, lambda inputs: onnx_graph.run(data, inputs), form="onnx"
    )
    about = onnx_graph.metadata(data)
    return [*rows, *verify.compare_carried("onnx", subject.carried, about)]


# --- lesson: the checkpoint of the char-rnn notebook


_LESSON_NAMES = {"rnn": "lstm", "decoder": "fc"}


def _refuse_lesson(subject: Subject) -> str | None:
    name, arguments = subject.description
    if name not in ("CharLM", "MinCharLM"):
        return f"the lesson's checkpoint is of a character model, this is a {name}"
    if arguments["embedding_size"]:
        return "the lesson's net reads one-hot input: train with --embedding-size 0"
    if arguments["cell"] != "lstm":
        return f"the lesson's net has an LSTM, this has the cell {arguments['cell']!r}"
    if subject.carried["vocabulary"]["kind"] != "characters":
        return "the lesson's net has characters as tokens, this has bytes"
    return None


def _make_lesson(subject: Subject) -> dict[str, bytes]:
    _, arguments = subject.description
    state_dict = {
        f"{_LESSON_NAMES[name.partition('.')[0]]}.{name.partition('.')[2]}": value
        for name, value in subject.twin.state_dict().items()
    }
    content = {
        "n_hidden": arguments["hidden_size"],
        "n_layers": arguments["num_layers"],
        "state_dict": state_dict,
        "tokens": tuple(subject.carried["vocabulary"]["symbols"]),
    }
    return {"lesson.pt": _saved(content)}


def _compare_lesson(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    ours = {theirs: name for name, theirs in _LESSON_NAMES.items()}
    arrays, extras = files.read(directory / "lesson.pt")
    renamed = {}
    for name, array in arrays.items():
        owner, _, leaf = name.partition(".")
        renamed[f"{ours.get(owner, owner)}.{leaf}"] = array
    twin = _filled(subject, directory / "lesson.pt", renamed)
    rows = verify.compare(subject.reference, twin, form="lesson", gradients=gradients)
    tokens = {"vocabulary": extras.get("tokens")}
    ours = {"vocabulary": tuple(subject.carried["vocabulary"]["symbols"])}
    return [*rows, *verify.compare_carried("lesson", ours, tokens)]


# --- sketch-rnn-js: what Magenta's pages load


_STROKES = {"scale": "scale_factor", "num_points": "max_seq_len"}  # here, and there


def _refuse_sketch_rnn_js(subject: Subject) -> str | None:
    name, _ = subject.description
    if name != "SketchRNN":
        return f"sketch-rnn-js has models of drawings, this is a {name}"
    try:
        _make_sketch_rnn_js(subject)
    except InputError as error:
        return str(error)
    return None


def _make_sketch_rnn_js(subject: Subject) -> dict[str, bytes]:
    strokes = subject.carried["strokes"]
    info = {theirs: strokes[ours] for ours, theirs in _STROKES.items()}
    info["name"] = strokes["classes"][0]
    return {"sketch-rnn.json": magenta.write(subject.arrays, info)}


def _compare_sketch_rnn_js(subject: Subject, directory: Path, gradients: bool) -> list[verify.Row]:
    """The parameters, which it has rounded; outputs say nothing more."""
    path = directory / "sketch-rnn.json"
    read = magenta.read(path.read_bytes(), str(path))
    ours = magenta.folded(subject.arrays)
    rows = [verify.compare_rounded(ours, read.arrays, magenta.STEP / 2, "sketch-rnn-js", "int16")]
    ours = {name: subject.carried["strokes"][name] for name in _STROKES}
    theirs = {name: read.info[of] for name, of in _STROKES.items()}
    return rows + verify.compare_carried("sketch-rnn-js", ours, theirs)


FORMATS: dict[str, Format] = {
    "module": Format(
        (CONFIG, WEIGHTS, "model.py", "README.md"),
        ("torch",), _never, _make_module, _compare_module,
    ),
    "safetensors": Format(
        (CONFIG, WEIGHTS), (), _never, _make_safetensors, _compare_safetensors
    ),
    "state-dict": Format(
        ("model.pt",), ("torch",), _never, _make_state_dict, _compare_state_dict
    ),
    "pt2": Format(("model.pt2",), ("torch",), _refuse_pt2, _make_pt2, _compare_pt2),
    "onnx": Format(
        ("model.onnx",), ("onnx", "onnxruntime"), _refuse_onnx, _make_onnx, _compare_onnx
    ),
    "lesson": Format(
        ("lesson.pt",), ("torch",), _refuse_lesson, _make_lesson, _compare_lesson
    ),
    "sketch-rnn-js": Format(
        ("sketch-rnn.json",), (),
        _refuse_sketch_rnn_js, _make_sketch_rnn_js, _compare_sketch_rnn_js,
    ),
}  # fmt: skip
"""Every form by its name, as the command line spells it."""

FILES = frozenset(name for form in FORMATS.values() for name in form.files)
"""The names of all files that any form has."""


def foreign(directory: Path) -> list[str]:
    """What there is in a directory that no export wrote.

    Common names, as model.safetensors, are an export's where config.json bears its checksum.
    """
    there = {path.name for path in directory.iterdir()} - {"__pycache__"}  # of using model.py
    own = output.plain_files(directory) & FILES
    if not output.marked(directory / CONFIG, {"format", "sha256", "model"}):
        own -= set(FORMATS["module"].files)
    return sorted(there - own)


VERIFIED = ("safetensors", "state-dict", "lesson", "onnx", "sketch-rnn-js")
"""Forms that can be compared in a directory from elsewhere, since none of them is a program."""
