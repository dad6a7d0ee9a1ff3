"""An exported model's directory: what lies in it, and the only code that reads and lays it out.

    config.json         format, model (a class in ``modules``), its arguments, dtype, vocabulary,
                        scaler, series or strokes, task, source (run, checkpoint, step, versions),
                        versions, and a sha256 over all of these and the weights
    model.safetensors   the parameters under torch's names

and what other ``formats`` add. NumPy and safetensors are needed, neither torch nor JAX. Usage::

    config, weights = read("exported")
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxrnn.data.dates import CYCLES, Frequency
from jaxrnn.data.scaler import Scaler
from jaxrnn.data.text import Vocabulary
from jaxrnn.errors import InputError
from torch_compat import layout

FORMAT = 2
LEVELLED = ("quantiles", "student_t")
CONFIG, WEIGHTS = "config.json", "model.safetensors"
CARRIED = ("vocabulary", "scaler", "series", "strokes")
"""What a model has besides its parameters."""

_BODY = ("hidden_size", "num_layers")
_HORIZON = (*layout.HORIZON_SIZES, *_BODY)
_DISTRIBUTED = {"cell", "dropout", "normalize", "distribution", "levels"}
_MODELS: dict[str, tuple[tuple[str, ...], set[str], str]] = {
    "CharLM": (("num_symbols", "embedding_size", *_BODY), {"cell", "dropout"}, "vocabulary"),
    "MinCharLM": (("num_symbols", "embedding_size", *_BODY), {"cell", "dropout"}, "vocabulary"),
    "Forecaster": (("input_size", "output_size", *_BODY), {"cell", "dropout"}, "scaler"),
    "DirectForecaster": (_HORIZON, _DISTRIBUTED, "series"),
    "RecursiveForecaster": (_HORIZON, _DISTRIBUTED, "series"),
    "SegmentForecaster": ((*_HORIZON, "segment_len"), _DISTRIBUTED, "series"),
    "SketchRNN": (
        (*layout.SKETCH_SIZES, "class_size"), {"decoder", "conditional"}, "strokes",
    ),
}  # fmt: skip
"""The sizes among a model's arguments, the others, and what it may carry."""

_MAY_BE_0 = ("embedding_size", "num_classes", "num_covariates", "num_known")

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
"""As safetensors has them, and as NumPy does."""


def dump(
    name: str, arguments: dict[str, Any], arrays: Mapping[str, np.ndarray], about: dict[str, Any]
) -> dict[str, bytes]:
    """The files by name; ``about`` has what is carried, and for people: task, source, versions."""
    weights = safetensors.numpy.save(dict(arrays), metadata={"format": "pt"})
    config = {
        "format": FORMAT,
        "model": name,
        "arguments": arguments,
        "dtype": next(iter(arrays.values())).dtype.name,
        **about,
    }
    config["sha256"] = _digest(config, weights)
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    return {WEIGHTS: weights, CONFIG: text.encode()}


def read(directory: str | Path) -> tuple[dict[str, Any], bytes]:
    """The configuration and the weights (a whole safetensors file) of an exported model.

    Raises InputError for a directory that is not one, or whose content is not as it was written.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise InputError(f"no directory {directory}")
    path = directory / CONFIG
    try:
        config = json.loads(_content(directory, CONFIG), object_pairs_hook=_unique)
        version, digest = config["format"], config.pop("sha256", None)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from error
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}, this version reads {FORMAT}")
    weights = _content(directory, WEIGHTS)
    header = check_safetensors(directory / WEIGHTS, weights)
    if digest != _digest(config, weights):
        raise InputError(
            f"{path} and {WEIGHTS} don't match their checksum: one of them was altered, or comes "
            "from another export"
        )
    try:
        _check(config, {name: of for name, of in header.items() if name != "__metadata__"})
    except (InputError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        reason = str(error) if isinstance(error, InputError | ValueError) else repr(error)
        raise InputError(f"{path} is damaged: {reason}") from error
    return config, weights


def _check(config: Mapping[str, Any], header: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise an error of many kinds where a configuration is not one that ``dump`` writes.

    A checksum is no signature: whoever alters a file can make a new one.
    """
    sizes, others, carried = _MODELS[config["model"]]
    arguments, dtype = config["arguments"], config["dtype"]
    expected = {*sizes, *others}
    if "embedding_size" in expected and "tie_embeddings" in arguments:
        expected.add("tie_embeddings")
        if arguments["tie_embeddings"] is not True:
            raise ValueError(f"tie_embeddings is {arguments['tie_embeddings']!r}, expected true")
        if arguments["embedding_size"] != arguments["hidden_size"]:
            raise ValueError("tie_embeddings is true, and embedding_size is not hidden_size")
    if set(arguments) != expected:
        raise ValueError(f"arguments are {', '.join(arguments)}, expected {', '.join(expected)}")
    for name in sizes:
        least = 0 if name in _MAY_BE_0 else 1
        if type(arguments[name]) is not int or arguments[name] < least:
            raise ValueError(f"{name} is {arguments[name]!r}, expected {least} or more")
    if arguments.get("num_layers", 0) > len(header):  # before anything loops over them
        raise ValueError(f"num_layers is {arguments['num_layers']}, of {len(header)} tensors")
    cells = layout.MIN_GATES if config["model"] == "MinCharLM" else layout.NUM_GATES
    for name, known in (("cell", cells), ("decoder", layout.SKETCH_DECODERS)):
        if name in others and arguments[name] not in known:
            raise ValueError(f"{name} is {arguments[name]!r}")
    if not 0 <= arguments.get("dropout", 0) <= 1:
        raise ValueError(f"dropout is {arguments['dropout']}, expected a probability in [0, 1]")
    if not isinstance(arguments.get("conditional", True), bool):
        raise ValueError(f"conditional is {arguments['conditional']!r}, expected true or false")
    found = {_DTYPES.get(of["dtype"], str(of["dtype"])) for of in header.values()}
    if found != {dtype}:
        raise ValueError(f"dtype is {dtype!r}, {WEIGHTS} holds {', '.join(sorted(found))}")
    if other := {name for name in CARRIED if name in config} - {carried}:
        raise ValueError(f"a {config['model']} has no {', '.join(other)}")
    if "vocabulary" in config:
        vocabulary = Vocabulary.from_dict(config["vocabulary"])
        vocabulary.symbols.encode()
        if vocabulary.size != arguments["num_symbols"]:
            raise ValueError(f"the vocabulary has {vocabulary.size} symbols")
    if "scaler" in config:
        scaler = config["scaler"]
        Scaler.from_dict({name: scaler[name] for name in ("mean", "std")})
        scaler["target"].encode()
    if "normalize" in others:
        _check_distribution(arguments)
    if "series" in config:
        _check_series(config["series"], arguments)
    if "strokes" in config:
        _check_strokes(config["strokes"], arguments["num_classes"])


def _check_distribution(arguments: Mapping[str, Any]) -> None:
    """Raise an error where a forecaster of many steps can't have these arguments."""
    known = {"normalize": ("none", "last", "revin"), "distribution": ("point", *LEVELLED)}
    for name, values in known.items():
        if arguments[name] not in values:
            raise ValueError(f"{name} is {arguments[name]!r}")
    levels = arguments["levels"]
    if not (isinstance(levels, list) and 0.5 in levels and all(0 < v < 1 for v in levels)):
        raise ValueError(f"levels are {levels!r}, expected numbers in (0, 1) with 0.5")
    if levels != sorted(set(levels)) or len(levels) > 1000:
        raise ValueError(f"levels are {levels!r}, expected ascending")


def _check_series(series: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raise an error where this is not what a forecaster of many steps carries."""
    sizes = {name: len(series[name]) for name in ("targets", "covariates", "known", "calendar")}
    expected = {
        "num_targets": sizes["targets"],
        "num_covariates": sizes["covariates"],
        "num_known": sizes["known"] + 2 * sizes["calendar"],
    }
    for name, size in expected.items():
        if arguments[name] != size:
            raise ValueError(f"series has {size} of {name}, the model {arguments[name]}")
    columns = [*series["targets"], *series["covariates"], *series["known"]]
    for name in columns:
        name.encode()
    if unknown := set(series["calendar"]) - set(CYCLES):
        raise ValueError(f"series' calendar has {', '.join(sorted(unknown))}")
    if len([Scaler.from_dict(scaler) for scaler in series["scalers"]]) != len(columns):
        raise ValueError(f"series has {len(series['scalers'])} scalers of {len(columns)} columns")
    if series["frequency"] is not None:
        Frequency.from_dict(series["frequency"])
    for name in ("input_len", "num_samples", "season"):
        if type(series[name]) is not int or series[name] < 1:
            raise ValueError(f"series' {name} is {series[name]!r}, expected 1 or more")


def _check_strokes(strokes: Mapping[str, Any], num_classes: int) -> None:
    """Raise an error where this is not what ``SketchRNN`` carries."""
    for name in ("scale", "extent"):
        if not 0 < float(strokes[name]) < math.inf:
            raise ValueError(f"strokes' {name} is {strokes[name]}, expected a number above 0")
    if type(strokes["num_points"]) is not int or strokes["num_points"] < 1:
        raise ValueError(f"strokes' num_points is {strokes['num_points']!r}, expected 1 or more")
    names = strokes["classes"]
    if not isinstance(names, list) or len(names) != max(num_classes, 1):
        raise ValueError(f"strokes' classes are {names!r}, expected a list of {num_classes or 1}")
    for name in names:
        name.encode()


def check_safetensors(path: Path, data: bytes) -> dict[str, Any]:
    """The header; raises InputError for what is no whole safetensors file, or has a name twice."""
    try:
        safetensors.deserialize(data)
        size = int.from_bytes(data[:8], "little")
        return json.loads(data[8 : 8 + size], object_pairs_hook=_unique)
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or is another file"
        ) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose names are all different."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} is there twice")
    return values


def _content(directory: Path, name: str) -> bytes:
    try:
        return (directory / name).read_bytes()
    except FileNotFoundError:
        raise InputError(
            f"{directory} is not an exported model: it has no {name}; of weights alone, name the "
            "file"
        ) from None
    except OSError as error:
        raise InputError(f"can't read {directory / name}: {error.strerror}") from error


def _digest(config: dict[str, Any], weights: bytes) -> str:
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    digest.update(weights)
    return digest.hexdigest()
