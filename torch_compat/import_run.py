"""Weights from elsewhere as a run, which ``jaxrnn.sample``, ``evaluate`` and ``train`` take.

Usage::

    import_run("rnn_20_epoch.net", "runs/anna", data="anna.txt")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrnn.config import (
    CONFIGS,
    CharConfig,
    SeriesConfig,
    SineConfig,
    SketchConfig,
    TrainConfig,
)
from jaxrnn.data.scaler import Scaler
from jaxrnn.data.text import Vocabulary
from jaxrnn.errors import InputError
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.train_step import initial_state
from jaxrnn.training import load_model
from jaxrnn.training_progress import Progress
from torch_compat import directory as directories
from torch_compat import files, layout, magenta, output

_RUN_FILES = {
    *("config.toml", "run.json", "metrics.jsonl", "loss.png", "samples.txt", "prediction.png"),
    "test.json",
}
_CHECKPOINTS = {f"{name}.safetensors" for name in ("last", "previous", "best", "damaged")}

_HEADS = {
    "DirectForecaster": "direct",
    "RecursiveForecaster": "recursive",
    "SegmentForecaster": "segments",
}
_TASK_OF = {
    **{"CharLM": "char", "MinCharLM": "char", "Forecaster": "sine", "SketchRNN": "sketch"},
    **dict.fromkeys(_HEADS, "series"),
}
QUICKDRAW_EXTENT = 256.0  # of the drawings of sketch-rnn-js's models
_OPTIONS_OF = {
    **dict.fromkeys(("char", "sine"), ("cell", "hidden_size", "num_layers")),
    "series": (*("cell", "hidden_size", "num_layers", "horizon", "normalize", "distribution"),),
    "sketch": (
        *("decoder", "hidden_size", "encoder_size", "latent_size", "num_mixtures", "class_size"),
        "conditional",
    ),
}
"""The options of a task that its model's weights decide."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A model of ours as a file holds it."""

    name: str  # of a class in torch_compat.modules.MODELS
    arguments: dict[str, Any]  # its constructor's
    arrays: dict[str, np.ndarray]  # under our names
    carried: dict[str, Any]  # the vocabulary, scaler or strokes, where the file has them

    @property
    def is_tied(self) -> bool:
        """Whether embedding and decoder are one weight."""
        return bool(self.arguments.get("tie_embeddings"))


@dataclasses.dataclass(frozen=True)
class Import:
    """What ``import_run`` read."""

    task: str
    weights: Weights
    config: TrainConfig  # the run's
    has_data: bool  # whether the run can be trained on
    notes: list[str]  # what was presumed

    @property
    def num_parameters(self) -> int:
        """Of the model; a weight that two names share counts once."""
        shared = self.weights.arrays[layout.TIED[1]].size if self.weights.is_tied else 0
        return sum(array.size for array in self.weights.arrays.values()) - shared


def import_run(
    source: str | Path,
    run: str | Path,
    *,
    data: str = "",
    tokens: str = "",
    target: str = "",
    config: TrainConfig | None = None,
    force: bool = False,
) -> Import:
    """Make a run of the weights in a file or an exported directory.

    Takes a state dict (torch.save's or safetensors), the lesson's checkpoint, sketch-rnn-js's JSON,
    and what ``export_run`` writes as ``module`` or ``safetensors``. But for a sketch-rnn the file's
    names may be any: it must hold one recurrent layer, a linear decoder, and an embedding unless
    the input is one-hot. With
    ``data`` (else ``config.data``) the run can be trained on, and evaluated on that data's
    validation part. A character model that brings no vocabulary takes the characters of that text,
    or bytes where ``tokens`` (else ``config.tokens``) is 'bytes'; a series that brings no scaler
    takes that of the data's column ``target`` (else ``config.target``), or without data the
    lesson's sine; a sketch-rnn that brings no scale takes scale and classes of the data. ``config``
    has the options to train on with; those that the weights decide are
    set from them. Narrower floats become float32, which holds all their values.

    Raises InputError for a file that can't be read as weights alone, or does not hold exactly such
    a model: all that is wrong is named, and nothing is written.
    """
    source, path = Path(source), Path(run)
    output.check_target(path, force, foreign)
    weights = read(source)
    task_name = _TASK_OF[weights.name]
    if config is None:
        own: Any = (
            {} if task_name == "sketch" else {"dropout": weights.arguments.get("dropout", 0.0)}
        )
        if task_name == "series":
            own |= _series_options(source, weights)
        config = CONFIGS[task_name](**own)
    if type(config) is not CONFIGS[task_name]:
        raise InputError(f"--config is not of the task {task_name!r}, whose model {source} holds")
    if target and (task_name != "sine" or not (data or config.data)):
        raise InputError(f"--target is {target!r}, expected with the --data of a sine run alone")
    if tokens and task_name == "sketch":
        raise InputError(f"--tokens is {tokens!r}, expected with the weights of text alone")
    options = {key: weights.arguments[key] for key in _OPTIONS_OF[task_name]}
    options["run"] = str(path)
    if data:
        options["data"] = (data,) if task_name == "sketch" else data
    if next(iter(weights.arrays.values())).dtype == np.float64:
        options["dtype"] = "float64"
    elif config.dtype == "float64":
        options["dtype"] = "float32"
    if isinstance(config, CharConfig):
        kind = weights.carried.get("vocabulary", {}).get("kind")
        if tokens and kind not in (None, tokens):
            raise InputError(f"--tokens is {tokens!r}, the vocabulary in {source} is of {kind}")
        options["tokens"] = kind or tokens or config.tokens
        options["embedding_size"] = weights.arguments["embedding_size"]
        options["tie_embeddings"] = weights.is_tied
    elif isinstance(config, SineConfig) and (data or config.data):
        carried = weights.carried.get("scaler", {}).get("target", "")
        options["target"] = target or config.target or carried
    elif task_name == "series":
        options |= _series_options(source, weights)
    config = dataclasses.replace(config, **options)
    if isinstance(config, SeriesConfig):
        facts = _series_facts(weights, config)
    elif isinstance(config, SketchConfig):
        facts = _sketch_facts(source, weights, config)
    elif task_name == "char":
        facts = _char_facts(source, weights, config)
    else:
        facts = _sine_facts(weights, config)

    with jax.enable_x64(config.dtype == "float64"):
        task = TASKS[task_name].from_facts(config, facts)
        _, _, state = initial_state(task, config)
        params = {
            key: jnp.asarray(weights.arrays[key], value.dtype)
            for key, value in state.params.items()
        }
        with output.appearing(path, force, foreign) as temporary:
            written = Run.create(task_name, dataclasses.replace(config, run=str(temporary)), facts)
            written.write_config(dataclasses.replace(written.config, run=str(path)))
            meta = {"progress": dataclasses.asdict(Progress()), "step": 0}
            average = state.average and state.average._replace(params=params)
            written.save(state._replace(params=params, average=average), meta)
            _, found, _ = load_model(task, written)
            for key, array in found.items():
                np.testing.assert_array_equal(np.asarray(array), weights.arrays[key])
    notes = []
    if getattr(config, "cell", "") == "rnn":
        notes.append("the RNN's nonlinearity is presumed to be tanh: weights do not tell")
    if task_name == "sine" and "scaler" not in weights.carried and not config.data:
        notes.append("no --data is given and the file has no scaler: this is a run of the sine")
    return Import(task_name, weights, config, bool(facts["digest"]), notes)


def foreign(directory: Path) -> list[str]:
    """What there is in a directory that is not a run's."""
    there = {path.name for path in directory.iterdir()}
    own = output.plain_files(directory) & _RUN_FILES
    if not output.marked(directory / "run.json", {"format", "task", "facts"}):
        own = set()
    checkpoints = directory / "checkpoints"
    if own and checkpoints.is_dir() and not checkpoints.is_symlink():
        inner = {path.name for path in checkpoints.iterdir()}
        if inner <= output.plain_files(checkpoints) & _CHECKPOINTS:
            own.add("checkpoints")
    return sorted(there - own)


def read(source: Path) -> Weights:
    """The model in a file or an exported directory; raises InputError where there is none."""
    if source.is_dir():
        described, _ = directories.read(source)
        arrays, _ = files.read(source / directories.WEIGHTS)
        name, arguments = described["model"], described["arguments"]
        carried = {key: described[key] for key in directories.CARRIED if key in described}
        where = source / directories.WEIGHTS
    elif source.suffix == ".json":
        found = magenta.read(files.content(source), str(source))
        name, arguments, arrays = recognise(source, found.arrays)
        where = source
        strokes = {"scale": float(found.info["scale_factor"]), "extent": QUICKDRAW_EXTENT}
        strokes["num_points"] = int(found.info["max_seq_len"])
        carried = {"strokes": strokes | {"classes": [str(found.info.get("name") or "drawing")]}}
    else:
        arrays, extras = files.read(source)
        name, arguments, arrays = recognise(source, arrays, is_text=bool(extras))
        carried, where = {}, source
        if extras:
            _check_lesson(source, name, arguments, extras)
            carried = {"vocabulary": {"kind": "characters", "symbols": "".join(extras["tokens"])}}
            arguments["dropout"] = 0.5  # which its file does not tell: what its net starts with
    try:
        arrays = layout.parameters(name, arguments, arrays)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    return Weights(name, arguments, arrays, carried)


def _check_lesson(
    source: Path, name: str, arguments: Mapping[str, Any], extras: Mapping[str, Any]
) -> None:
    """Raise InputError where what is beside the lesson's state dict does not fit it."""
    wrong = []
    if name != "CharLM" or arguments["embedding_size"] or arguments["cell"] != "lstm":
        wrong.append("its state_dict is no one-hot LSTM's")
    for key, ours in (("n_hidden", "hidden_size"), ("n_layers", "num_layers")):
        found = extras[key] if type(extras[key]) is int else type(extras[key]).__name__
        if found != arguments[ours]:
            wrong.append(f"{key} is {found}, its state_dict has {arguments[ours]}")
    tokens = extras["tokens"]
    if not isinstance(tokens, list | tuple) or any(
        not isinstance(token, str) or len(token) != 1 or "\ud800" <= token <= "\udfff"
        for token in tokens
    ):
        wrong.append("tokens is not a tuple of characters")
    elif len(tokens) != arguments.get("num_symbols") or len(set(tokens)) < len(tokens):
        wrong.append(
            f"tokens has {len(set(tokens))} distinct characters of {len(tokens)}, its state_dict "
            f"{arguments.get('num_symbols')} outputs"
        )
    if wrong:
        raise InputError(f"{source} looks like the lesson's checkpoint, but {'; '.join(wrong)}")


def _char_facts(source: Path, weights: Weights, config: Any) -> dict[str, Any]:
    """The vocabulary, and the data's digest where there is data."""
    num_symbols, vocabulary = weights.arguments["num_symbols"], weights.carried.get("vocabulary")
    if vocabulary is not None:
        known = Vocabulary.from_dict(vocabulary)
    elif config.tokens == "bytes":
        known = Vocabulary("bytes")
    else:
        known = None
    if config.data:
        pinned = None if known is None else {"vocabulary": known.to_dict(), "digest": None}
        task, facts = _load("char", config, pinned)
        known = task.vocabulary
    elif known is None:
        raise InputError(
            f"{source} brings no vocabulary: give the text that the model was trained on with "
            "--data, whose characters, sorted, are its symbols; or --tokens bytes"
        )
    else:
        facts = {"vocabulary": known.to_dict(), "digest": ""}
    if known.size != num_symbols:
        raise InputError(
            f"the vocabulary of {config.data or config.tokens} has {known.size} symbols, the model "
            f"in {source} has {num_symbols}"
        )
    return facts


def _sine_facts(weights: Weights, config: Any) -> dict[str, Any]:
    """The scaler, and the data's digest where there is data."""
    carried = weights.carried.get("scaler")
    if carried is None:
        return _load("sine", config, None)[1]
    scaler = {key: carried[key] for key in ("mean", "std")}
    facts = {"scaler": Scaler.from_dict(scaler).to_dict(), "target": str(carried["target"])}
    if not config.data:
        return facts | {"digest": ""}
    return _load("sine", config, facts | {"digest": None})[1]


def _series_options(source: Path, weights: Weights) -> dict[str, Any]:
    """The options that a forecaster of many steps has by its weights and by what it carries."""
    series = weights.carried.get("series")
    if series is None:
        raise InputError(f"{source} brings no columns of its series: export it from a run")
    arguments = weights.arguments
    options = {name: arguments[name] for name in _OPTIONS_OF["series"]}
    options |= {name: tuple(series[name]) for name in ("targets", "covariates", "known")}
    options |= {"head": _HEADS[weights.name], "input_len": series["input_len"]}
    if arguments["distribution"] != "point":
        options["quantiles"] = tuple(arguments["levels"])
    if options["head"] == "segments":
        options["segment_len"] = arguments["segment_len"]
    if options["head"] == "recursive" and arguments["distribution"] == "student_t":
        options["num_samples"] = series["num_samples"]
    return options


def _series_facts(weights: Weights, config: SeriesConfig) -> dict[str, Any]:
    """What the export carries, and the data's digest where there is data."""
    facts = dict(weights.carried["series"])
    for name in ("covariates", "known", "input_len", "num_samples"):
        del facts[name]
    if not config.data:
        return facts | {"digest": ""}
    return _load("series", config, facts | {"digest": None})[1]


def _sketch_facts(source: Path, weights: Weights, config: SketchConfig) -> dict[str, Any]:
    """The data's unit, classes and longest drawing, and the data's digest where there are data."""
    carried = weights.carried.get("strokes")
    if not config.data:
        if carried is None:
            raise InputError(
                f"{source} brings no scale of its drawings: give the drawings that the model was "
                "trained on with --data (several classes: data, in a TOML file for --config)"
            )
        return {**carried, "digest": ""}
    _, facts = _load("sketch", config, None)
    if carried is not None:
        facts |= {name: carried[name] for name in ("scale", "extent")}
        facts["num_points"] = max(carried["num_points"], facts["num_points"])
        if len(carried["classes"]) == 1 == len(facts["classes"]):
            facts["classes"] = carried["classes"]
        elif carried["classes"] != facts["classes"]:
            raise InputError(
                f"the data have the classes {', '.join(facts['classes'])}, the model in {source} "
                f"{', '.join(carried['classes'])}"
            )
    if len(facts["classes"]) != max(weights.arguments["num_classes"], 1):
        raise InputError(
            f"the data have {len(facts['classes'])} classes, the model in {source} has "
            f"{max(weights.arguments['num_classes'], 1)}"
        )
    return facts


def _load(task_name: str, config: Any, pinned: dict[str, Any] | None) -> tuple[Any, dict[str, Any]]:
    """The task with its data, and the facts that a run pins."""
    try:
        task, data = TASKS[task_name].load(config, pinned)
    except InputError as error:
        if "--batch-size" not in str(error):
            raise
        raise InputError(f"{error}, in a TOML file for --config") from None
    return task, data.facts


def recognise(
    source: Path, arrays: dict[str, np.ndarray], is_text: bool = False
) -> tuple[str, dict[str, Any], dict[str, np.ndarray]]:
    """Which of our models the arrays of a file are, and the arrays under its names.

    One value in and one out is a series, unless it ``is_text`` of a single symbol. Raises
    InputError where they are not one recurrent layer, a linear decoder and at most one embedding.
    """
    shapes = {name: array.shape for name, array in arrays.items()}
    if not is_text and (sketch := layout.read_sketch_rnn(shapes)):
        return "SketchRNN", sketch, arrays
    if blocks := layout.read_min_char_lm(shapes):
        return "MinCharLM", blocks | _tied(arrays), arrays
    try:
        found = layout.find(shapes)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    if len(found) != 1 or next(iter(found.values()))[0].endswith("Cell"):
        there = ", ".join(f"{prefix or 'the top'} ({name})" for prefix, (name, _) in found.items())
        raise InputError(
            f"{source} has {there or 'no recurrent layer'}, expected one LSTM, GRU or RNN"
        )
    ((prefix, (kind, sizes)),) = found.items()
    owners: dict[str, set[str]] = {}
    for name in shapes:
        owner, _, leaf = name.rpartition(".")
        if owner != prefix:
            owners.setdefault(owner, set()).add(leaf)
    decoders = [owner for owner, leaves in owners.items() if leaves == {"weight", "bias"}]
    embeddings = [owner for owner, leaves in owners.items() if leaves == {"weight"}]
    other = [owner for owner in owners if owner not in decoders + embeddings]
    wrong = [f"{owner}.* is no part of such a model" for owner in other]
    if len(decoders) != 1:
        wrong.append(f"it has the linear layers {decoders}, expected one, with weight and bias")
    if len(embeddings) > 1:
        wrong.append(f"it has the embeddings {embeddings}, expected at most one")
    for option, plain in (("bias", True), ("bidirectional", False), ("proj_size", 0)):
        if sizes.get(option, plain) != plain:
            wrong.append(f"the {kind} has {option}={sizes[option]}, our models have {plain}")
    if wrong:
        raise InputError(f"{source} is none of our models: {'; '.join(wrong)}")
    (decoder,) = decoders
    outputs = arrays[f"{decoder}.bias"].size
    body = {
        "cell": kind.lower(),
        "hidden_size": sizes["hidden_size"],
        "num_layers": sizes["num_layers"],
    }
    renamed = {f"rnn.{key}": value for key, value in layout.within(arrays, prefix).items()}
    renamed |= {f"decoder.{key}": arrays[f"{decoder}.{key}"] for key in ("weight", "bias")}
    if embeddings:
        weight = arrays[f"{embeddings[0]}.weight"]
        renamed["embedding.weight"] = weight
        embedding_size = weight.shape[-1] if weight.ndim == 2 else 0
        arguments = {"num_symbols": outputs, "embedding_size": embedding_size, **body}
        return "CharLM", arguments | _tied(renamed), renamed
    if sizes["input_size"] == outputs == 1 and not is_text:
        return "Forecaster", {"input_size": 1, "output_size": 1, **body}, renamed
    return "CharLM", {"num_symbols": outputs, "embedding_size": 0, **body}, renamed


def _tied(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The argument of a model whose embedding and decoder are one weight, and so have its bits."""
    ours, theirs = (arrays.get(name) for name in layout.TIED)
    if ours is None or theirs is None or ours.shape != theirs.shape:
        return {}
    return {"tie_embeddings": True} if ours.tobytes() == theirs.tobytes() else {}
