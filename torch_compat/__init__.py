"""Models and layers between jaxrnn and torch.nn, bit for bit.

``load`` needs torch and safetensors alone, so that an exported model runs where JAX is not
installed; ``torch_compat.layout`` needs NumPy alone. ``python -m torch_compat export`` writes
what it loads. Usage::

    import torch_compat; model = torch_compat.load("exported")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_compat.convert import from_torch, to_torch
    from torch_compat.exported import load

__all__ = ["from_torch", "load", "to_torch"]

_MODULES = {"from_torch": "convert", "load": "exported", "to_torch": "convert"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
