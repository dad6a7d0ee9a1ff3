"""Exported models in torch: the directories that ``directory`` lays out, as modules.

Torch and safetensors are needed, JAX is not; nothing is unpickled. Usage::

    model = load("exported")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from jaxrnn.errors import InputError
from torch_compat import directory as directories
from torch_compat import layout
from torch_compat.modules import MODELS, CharLM


def load(directory: str | Path) -> nn.Module:
    """The model in an exported directory, on the CPU in evaluation mode.

    Raises InputError for a directory that is not one, was altered, or whose parameters are not
    exactly the model's: all that is wrong with them is named.
    """
    directory = Path(directory)
    config, weights = directories.read(directory)
    tensors = safetensors.torch.load(weights)
    name, arguments = config["model"], config["arguments"]
    carried = {key: config[key] for key in directories.CARRIED if key in config}
    arrays = {key: _as_array(tensor) for key, tensor in tensors.items()}
    try:
        order = layout.parameters(name, arguments, arrays)
    except InputError as error:
        raise InputError(f"{directory / directories.WEIGHTS}: {error}") from None
    with torch.device("meta"):
        module = MODELS[name](**arguments, **carried)
    return fill(module, {key: tensors[key] for key in order})


def fill(module: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """A module made on the device 'meta', with these parameters, in evaluation mode.

    Made so, it has drawn nothing from torch's random numbers.
    """
    dtype = next(iter(tensors.values())).dtype
    module = module.to(dtype).to_empty(device="cpu")
    if isinstance(module, CharLM):
        module.tie()  # moved off 'meta', each of its names has a parameter of its own
    module.load_state_dict(tensors)
    return module.eval()


def _as_array(tensor: Tensor) -> np.ndarray:
    """For checks: float32 holds the values of what NumPy lacks, as bfloat16."""
    narrow = tensor.is_floating_point() and tensor.element_size() <= 2
    return (tensor.float() if narrow else tensor).numpy()
