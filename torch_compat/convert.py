"""Between jaxrnn and torch.nn: layers both ways, our models and whole runs to torch.

Parameters have the same names and shapes on both sides (``layout``), so each is copied, bit for
bit. Usage::

    twin = to_torch(jaxrnn.LSTM(10, 20, rngs=nnx.Rngs(0)))     # torch.nn.LSTM
    lstm = from_torch(torch.nn.LSTM(10, 20))                   # jaxrnn.LSTM
    export_run("runs/char-20250101-120000", "exported")
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import Tensor, nn

import jaxrnn
from jaxrnn.checkpoint import sync_directory, write_atomically
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.forecaster import Forecaster
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.training import load_model
from torch_compat import exported, layout, modules, verify

_LAYER = (
    *("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout"),
    "bidirectional",
)
_LAYERS: dict[str, tuple[str, ...]] = {
    "LSTM": (*_LAYER, "proj_size"),
    "GRU": _LAYER,
    "RNN": (*_LAYER, "nonlinearity"),
}
"""Layers that both libraries have, with the arguments that both constructors take."""

_CARRIED: dict[str, Callable[[Any], dict[str, Any]]] = {
    "char": lambda task: {"vocabulary": task.vocabulary.to_dict()},
    "series": lambda task: {"scaler": {**task.scaler.to_dict(), "target": task.target}},
}
"""What the twin of a task's model needs besides parameters."""


@dataclasses.dataclass(frozen=True)
class Export:
    """What ``export_run`` wrote and how far both frameworks differ."""

    model: nn.Module
    checkpoint: str  # best or last
    step: int
    rows: list[verify.Row]


def to_torch(module: nnx.Module, **carried: Any) -> nn.Module:
    """The torch module of a jaxrnn ``LSTM``, ``GRU``, ``RNN``, ``CharLM`` or ``Forecaster``.

    It is on the CPU, in evaluation mode, in the dtype of the parameters. ``carried`` is what a
    model has besides them, as its constructor in ``modules`` takes it (``vocabulary``, ``scaler``).
    Raises TypeError for another module.
    """
    name, arguments = describe(module)
    _, params = split(module)
    arrays = layout.convert(
        {key: np.asarray(value) for key, value in params.items()},
        layout.expected(name, arguments),
    )
    target = modules.MODELS.get(name) or getattr(nn, name)
    with torch.device("meta"):
        twin = target(**arguments, **carried)
    return exported.fill(twin, {key: as_tensor(array) for key, array in arrays.items()})


def from_torch(layer: nn.Module, *, rngs: nnx.Rngs | None = None) -> nnx.Module:
    """The jaxrnn layer of a ``torch.nn.LSTM``, ``GRU`` or ``RNN``, in evaluation mode.

    ``rngs`` is the source of its dropout masks. Raises TypeError for another module, InputError
    for parameters that are not such a layer's, and ValueError for float64 where JAX has it off.
    """
    name = type(layer).__name__
    if name not in _LAYERS or type(layer) is not getattr(nn, name):
        raise TypeError(f"can't convert {type(layer)}, expected torch.nn.{', '.join(_LAYERS)}")
    arguments = {key: getattr(layer, key) for key in _LAYERS[name]}
    arrays = layout.convert(
        {key: as_array(tensor) for key, tensor in layer.state_dict().items()},
        layout.expected(name, arguments),
    )
    dtype = next(iter(arrays.values())).dtype
    rngs = nnx.Rngs(0) if rngs is None else rngs
    module = getattr(jaxrnn, name)(**arguments, rngs=rngs, param_dtype=dtype)
    module.eval()
    skeleton, _ = split(module)
    return skeleton.merge({key: jnp.array(array) for key, array in arrays.items()})


def describe(module: nnx.Module) -> tuple[str, dict[str, Any]]:
    """The class of a module's torch twin, by name, and the arguments that construct it."""
    if isinstance(module, CharLM):
        embedding_size = 0 if module.embedding is None else module.embedding.weight.shape[1]
        own = {"num_symbols": module.num_symbols, "embedding_size": embedding_size}
    elif isinstance(module, Forecaster):
        output_size = module.decoder.weight.shape[0]
        own = {"input_size": module.rnn.input_size, "output_size": output_size}
    else:
        name = type(module).__name__
        if name not in _LAYERS or type(module) is not getattr(jaxrnn, name):
            known = ", ".join([*_LAYERS, *modules.MODELS])
            raise TypeError(f"can't convert {type(module)}, expected jaxrnn's {known}")
        return name, {key: getattr(module, key) for key in _LAYERS[name]}
    return type(module).__name__, {
        **own,
        "cell": type(module.rnn).__name__.lower(),
        "hidden_size": module.rnn.hidden_size,
        "num_layers": module.rnn.num_layers,
        "dropout": 0.0 if module.dropout is None else float(module.dropout.rate),
    }


def as_tensor(array: np.ndarray) -> Tensor:
    """A copy of the same bits."""
    array = np.array(array)  # JAX's can't be written to, torch's can
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(tensor: Tensor) -> np.ndarray:
    """The same bits, maybe in the same memory."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def export_run(
    run: str | Path, directory: str | Path, checkpoint: str = "auto", force: bool = False
) -> Export:
    """Write a run's model as torch loads it, once what was written computes what JAX does.

    ``checkpoint`` is 'best', 'last', or 'auto': the best, or the last where nothing was validated.
    The directory appears as a whole at the end, with its parents; with ``force`` it takes the
    place of an earlier export.

    Raises InputError for what is not a whole run, and for a directory that exists or can't be
    written; DifferenceError where both frameworks differ by more than rounding.
    """
    opened, directory = Run.open(run), Path(directory)
    _check_target(directory, force)
    with jax.enable_x64(True):
        task = TASKS[opened.task].from_facts(opened.config, opened.facts)
        skeleton, params, meta = load_model(task, opened, checkpoint)
        model = skeleton.merge(params)
        twin = to_torch(model, **_CARRIED[opened.task](task))
        name, step = meta["name"], meta["step"]
        source = {key: opened.about.get(key) for key in ("revision", "versions")}
        about = {
            "task": opened.task,
            "source": {"run": opened.path.name, "checkpoint": name, "step": step, **source},
            "versions": {"jaxrnn": jaxrnn.__version__, "torch": torch.__version__},
        }
        with _appearing(directory, force) as temporary:
            for file, data in exported.dump(twin, about).items():
                write_atomically(temporary / file, data)
            written = exported.load(temporary)
            rows = verify.verify(model, written)
    return Export(written, name, step, rows)


def _check_target(directory: Path, force: bool) -> None:
    """Raise InputError where the directory's name is taken, with ``force`` by anything else."""
    if not os.path.lexists(directory):
        return
    if not force:
        raise InputError(
            f"--to {directory} exists already; choose another, or replace it with --force"
        )
    if directory.is_symlink() or not directory.is_dir():
        raise InputError(f"--to {directory} is not a directory, which is all that --force replaces")
    other = sorted(set(os.listdir(directory)) - {exported.CONFIG, exported.WEIGHTS})
    if other:
        shown = ", ".join(other[:5]) + (", ..." if len(other) > 5 else "")
        raise InputError(
            f"--to {directory} holds more than an export ({shown}), which is all that --force "
            "replaces; choose another"
        )


@contextlib.contextmanager
def _appearing(directory: Path, force: bool) -> Iterator[Path]:
    """A temporary directory that becomes ``directory`` if the block ends well, else nothing.

    Parents that were made for it go as well. With ``force``, what was there stays until then.
    """
    target = Path(os.path.abspath(directory))
    temporary, old = (
        target.with_name(f".{target.name}.{os.getpid()}.{word}") for word in ("tmp", "old")
    )
    made = [parent for parent in target.parents if not parent.exists()]
    done = False
    try:
        temporary.mkdir(parents=True)
        yield temporary
        _check_target(directory, force)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        sync_directory(target.parent)
        done = True
    except OSError as error:
        raise InputError(f"can't write --to {directory}: {error.strerror}") from error
    finally:
        if not done:
            if old.exists() and not target.exists():
                old.rename(target)
            shutil.rmtree(temporary, ignore_errors=True)
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()
        shutil.rmtree(old, ignore_errors=True)
