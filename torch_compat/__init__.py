"""Models and layers between jaxrnn and torch.nn, bit for bit.

``load`` needs torch and safetensors alone, so that an exported model runs where JAX is not
installed; ``layout`` and ``foreign`` need NumPy alone. ``python -m torch_compat`` exports, imports
and verifies whole runs. Usage::

    import torch_compat; model = torch_compat.load("exported")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_compat.convert import find_layers, from_state_dict, from_torch, to_torch
    from torch_compat.exported import load
    from torch_compat.foreign import LAYOUTS, from_layout, to_layout
    from torch_compat.optimizers import (
        from_torch_optimizer,
        make_torch_optimizer,
        to_torch_optimizer,
    )

__all__ = [
    "LAYOUTS",
    "find_layers",
    "from_layout",
    "from_state_dict",
    "from_torch",
    "from_torch_optimizer",
    "load",
    "make_torch_optimizer",
    "to_layout",
    "to_torch",
    "to_torch_optimizer",
]

_MODULES = {
    **dict.fromkeys(("find_layers", "from_state_dict", "from_torch", "to_torch"), "convert"),
    **dict.fromkeys(("LAYOUTS", "from_layout", "to_layout"), "foreign"),
    **dict.fromkeys(
        ("from_torch_optimizer", "make_torch_optimizer", "to_torch_optimizer"), "optimizers"
    ),
    "load": "exported",
}


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
