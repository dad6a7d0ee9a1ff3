"""jaxrnn: recurrent networks trained in JAX, shipped as plain ``torch.nn`` modules.

Dimension letters, used everywhere:

    B batch   T time     I input       H hidden   P projected (LSTM's proj_size)
    G gates   L layers   D directions  V vocabulary

The names below are imported when first used, so that what needs no JAX (``jaxrnn.config``, a
``--help``) does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrnn.version import __version__

if TYPE_CHECKING:
    from jaxrnn.cell_modules import GRUCell, LSTMCell, RNNCell
    from jaxrnn.layers import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "__version__"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "jaxrnn.cell_modules" if name.endswith("Cell") else "jaxrnn.layers"
    return getattr(importlib.import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
