"""A run's model out of jaxrnn in any of ``formats``, and an export beside a run.

Usage::

    export_run("runs/char-20250101-120000", "exported", ["module", "onnx"])
    verify_run("runs/char-20250101-120000", "exported")
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

import jaxrnn
from jaxrnn.errors import InputError
from jaxrnn.files import write_atomically
from jaxrnn.models import split
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.training import load_model
from torch_compat import directory as directories
from torch_compat import output, standalone, verify
from torch_compat.formats import FORMATS, VERIFIED, Subject, foreign, installed, missing


@dataclasses.dataclass(frozen=True)
class Export:
    """What ``export_run`` wrote and how far it differs from the JAX model."""

    model: str  # class
    num_parameters: int
    checkpoint: str  # best or last
    step: int
    files: dict[str, int]  # sizes in bytes
    rows: list[verify.Row]


def _versions() -> dict[str, str]:
    names = ("torch", "onnx", "onnxruntime", "safetensors")
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"jaxrnn": jaxrnn.__version__, **found}


def _subject(run: Run, checkpoint: str) -> tuple[Subject, dict[str, Any]]:
    """A run's model and its checkpoint's meta; JAX must have float64 on where the run has."""
    task = TASKS[run.task].from_facts(run.config, run.facts)
    skeleton, params, meta = load_model(task, run, checkpoint)
    carried = {
        "char": lambda: {"vocabulary": task.vocabulary.to_dict()},
        "series": lambda: {"series": task.carried},
        "sine": lambda: {"scaler": {**task.scaler.to_dict(), "target": task.target}},
        "sketch": lambda: {
            "strokes": {k: run.facts[k] for k in ("scale", "num_points", "extent", "classes")}
        },
    }[run.task]()
    source = {key: run.about.get(key) for key in ("revision", "versions")}
    about = {
        "task": run.task,
        "source": {
            "run": run.path.name,
            "checkpoint": meta["name"],
            "step": meta["step"],
            **source,
        },
        "versions": _versions(),
    }
    return Subject(skeleton.merge(params), carried, about), meta


def export_run(
    run: str | Path,
    directory: str | Path,
    formats: Sequence[str] = ("module",),
    checkpoint: str = "auto",
    force: bool = False,
) -> Export:
    """Write a run's model in some forms, once each, run as written, computes what JAX does.

    ``checkpoint`` is 'best', 'last', or 'auto': the best, or the last where nothing was validated.
    The directory appears as a whole at the end, with its parents; with ``force`` it takes the
    place of an earlier export.

    Raises InputError for what is not a whole run, for forms that can't carry it or lack a package,
    and for a directory that exists or can't be written; DifferenceError where what was written
    differs from the JAX model by more than rounding.
    """
    opened, directory = Run.open(run), Path(directory)
    output.check_target(directory, force, foreign)
    forms = {name: FORMATS[name] for name in dict.fromkeys(formats)}
    wrong = [
        f"--format {name} needs {' and '.join(absent)}: pip install {' '.join(absent)}"
        for name, form in forms.items()
        if (absent := missing(form))
    ]
    if wrong:
        raise InputError("; ".join(wrong))
    with jax.enable_x64(True):
        subject, meta = _subject(opened, checkpoint)
        refused = [
            f"--format {name}: {reason}"
            for name, form in forms.items()
            if (reason := form.refusal(subject))
        ]
        if refused:
            raise InputError("; ".join(refused))
        contents: dict[str, bytes] = {}
        for form in forms.values():
            contents |= form.make(subject)
        rows: list[verify.Row] = []
        with output.appearing(directory, force, foreign) as temporary:
            for file, data in contents.items():
                write_atomically(temporary / file, data)
            for form in forms.values():
                rows += form.compare(subject, temporary, False)
            verify.check(rows)
    return Export(
        subject.description[0],
        sum(array.size for array in split(subject.model)[1].values()),
        meta["name"],
        meta["step"],
        {file: len(data) for file, data in contents.items()},
        rows,
    )


def verify_run(
    run: str | Path, directory: str | Path, checkpoint: str = "auto"
) -> tuple[list[verify.Row], list[str]]:
    """How far what an exported directory holds differs from a run, and remarks.

    Of weights in torch: parameters, outputs, last states, a loss and its gradient by every
    parameter, in float64 and in the dtypes of the model; of ONNX: outputs and last states.

    Raises InputError for what is not a whole run, or a directory with nothing to compare.
    """
    opened, directory = Run.open(run), Path(directory)
    if not directory.is_dir():
        raise InputError(f"no directory {directory}")
    there = {path.name for path in directory.iterdir()}
    rows: list[verify.Row] = []
    remarks: list[str] = []
    with jax.enable_x64(True):
        subject, _ = _subject(opened, checkpoint)
        for name in VERIFIED:
            form = FORMATS[name]
            if not there & set(form.files):
                continue
            if absent := missing(form):
                names = " ".join(absent)
                remarks.append(f"{form.files[0]} was not compared: pip install {names}")
            else:
                rows += form.compare(subject, directory, True)
        if not installed("torch"):
            remarks.append("torch is not installed: of weights, the parameters alone were compared")
    if (
        "model.py" in there
        and (directory / "model.py").read_bytes()
        != standalone.source(subject.description[0]).encode()
    ):
        remarks.append("model.py is not what this version writes, and was not run: it is a program")
    if "model.pt2" in there:
        remarks.append(
            "model.pt2 was not compared: torch's reader of it may run code, so that it is run only "
            "by the export that has just written it"
        )
    if not rows:
        raise InputError(
            f"{directory} holds nothing to compare, expected {directories.WEIGHTS}, model.pt, "
            "lesson.pt, sketch-rnn.json or model.onnx" + "".join(f"; {text}" for text in remarks)
        )
    return rows, remarks
