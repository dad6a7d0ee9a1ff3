"""Runs to export, the command that exports them, and what lies there afterwards."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from flax import nnx

from jaxrnn import checkpoint, cli
from jaxrnn.config import SineConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from torch_compat import __main__ as command
from torch_compat import directory as directories
from torch_compat.exported import load

ROOT = Path(__file__).parents[1]
TEXT = "Der Gärtner goß\nthe garden, twice a day.\n" * 20


def python(*arguments, cwd=ROOT):
    """A fresh interpreter in the checkout, as a user has it: without x64 and strict JAX."""
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
    )


def export(*arguments):
    return cli.exit_code(lambda: command.run_command(["export", *map(str, arguments)]))


def series_run(path, dtype: Any = "float32", **options):
    """A run directory whose checkpoint holds fresh parameters."""
    config = SineConfig(run=str(path), hidden_size=5, dtype=dtype, **options)
    facts = {"target": "price", "scaler": {"mean": 12.5, "std": 3.25}, "digest": ""}
    run = Run.create("sine", config, facts)
    model = TASKS["sine"].from_facts(run.config, facts).model(nnx.Rngs(0))
    run.save({"params": split(model)[1], "carry": jnp.zeros(2)}, {"step": 7})
    return path


def read(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def listing(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def params_of(run, name):
    arrays, meta = checkpoint.read(run / "checkpoints" / f"{name}.safetensors")
    return {
        k.removeprefix("params/"): a for k, a in arrays.items() if k.startswith("params/")
    }, meta


def refused(directory):
    with pytest.raises(InputError) as caught:
        load(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(directory, **values):
    """Another configuration, with a checksum that fits it and the weights."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    del config["sha256"]
    weights = (directory / "model.safetensors").read_bytes()
    config["sha256"] = directories._digest(config, weights)
    path.write_text(json.dumps(config), encoding="utf-8")
