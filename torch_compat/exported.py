"""An exported model's directory: all that its reader needs, and the only code that lays it out.

    config.json         format, model (a class in ``modules``), its arguments, dtype, vocabulary or
                        scaler, task, source (run, checkpoint, step, versions), versions
    model.safetensors   the parameters under torch's names

Torch and safetensors are needed, JAX is not; nothing is unpickled. Usage::

    model = load("exported")
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from jaxrnn.errors import InputError
from torch_compat import layout
from torch_compat.modules import MODELS

FORMAT = 1
CONFIG, WEIGHTS = "config.json", "model.safetensors"
_CARRIED = ("vocabulary", "scaler")  # what a model has besides its parameters


def load(directory: str | Path) -> nn.Module:
    """The model in an exported directory, on the CPU in evaluation mode.

    Raises InputError for a directory that is not one, is damaged, or whose parameters are not
    exactly the model's: all that is wrong with them is named.
    """
    directory = Path(directory)
    config = _read_config(directory)
    path = directory / WEIGHTS
    try:
        tensors = safetensors.torch.load_file(path)
    except FileNotFoundError:
        raise InputError(f"{directory} is not an exported model: it has no {WEIGHTS}") from None
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror or error}") from error
    except safetensors.SafetensorError as error:
        raise InputError(
            f"{path} is not a whole safetensors file ({error}): it was cut short or is another file"
        ) from error
    try:
        name, arguments, dtype = config["model"], config["arguments"], config["dtype"]
        carried = {key: config[key] for key in _CARRIED if key in config}
        shapes = layout.expected(name, arguments)
        with torch.device("meta"):
            module = MODELS[name](**arguments, **carried)
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"{directory / CONFIG} is damaged: {error!r}") from error
    try:
        order = layout.convert({key: _as_array(tensor) for key, tensor in tensors.items()}, shapes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    found = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}
    if found != {dtype}:
        raise InputError(f"{path} is of dtype {', '.join(sorted(found))}, {CONFIG} says {dtype}")
    return fill(module, {key: tensors[key] for key in order})


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module made on the device 'meta', with these parameters, in evaluation mode.

    Made so, it has drawn nothing from torch's random numbers.
    """
    dtype = next(iter(tensors.values())).dtype
    module = module.to(dtype).to_empty(device="cpu")
    module.load_state_dict(tensors)
    return module.eval()


def dump(model: nn.Module, about: dict[str, Any]) -> dict[str, bytes]:
    """The directory's files by name; ``about`` is for people: task, source, versions."""
    tensors = model.state_dict()
    config = {
        "format": FORMAT,
        "model": type(model).__name__,
        "arguments": model.arguments,
        "dtype": str(next(iter(tensors.values())).dtype).removeprefix("torch."),
        **{key: getattr(model, key) for key in _CARRIED if getattr(model, key, None) is not None},
        **about,
    }
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    return {WEIGHTS: safetensors.torch.save(tensors), CONFIG: text.encode()}


def _read_config(directory: Path) -> dict[str, Any]:
    if not directory.is_dir():
        raise InputError(f"no directory {directory}")
    path = directory / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format"]
    except FileNotFoundError:
        raise InputError(f"{directory} is not an exported model: it has no {CONFIG}") from None
    except OSError as error:
        raise InputError(f"can't read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged: {error!r}") from error
    if version != FORMAT:
        raise InputError(f"{path} has format {version!r}, this version reads {FORMAT}")
    return config


def _as_array(tensor: Tensor) -> np.ndarray:
    """For checks: float32 holds the values of what NumPy lacks, as bfloat16."""
    narrow = tensor.is_floating_point() and tensor.element_size() <= 2
    return (tensor.float() if narrow else tensor).numpy()
