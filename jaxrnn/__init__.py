"""jaxrnn: recurrent networks trained in JAX, shipped as plain ``torch.nn`` modules.

Dimension letters, used everywhere:

    B batch   T time     I input       H hidden   P projected (LSTM's proj_size)
    G gates   L layers   D directions  V vocabulary
    M mixtures           Z latent

The names below are imported when first used, so that what needs no JAX (``jaxrnn.config``, a
``--help``) does not wait for it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxrnn.version import __version__

if TYPE_CHECKING:
    from jaxrnn.cell_modules import GRUCell, LSTMCell, RNNCell
    from jaxrnn.layers import GRU, LSTM, RNN, Recurrent
    from jaxrnn.min_layers import MinGRU, MinLSTM
    from jaxrnn.normed_layers import HyperLSTM, LayerNormLSTM

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "GRUCell",
    "HyperLSTM",
    "LSTMCell",
    "LayerNormLSTM",
    "MinGRU",
    "MinLSTM",
    "RNNCell",
    "Recurrent",
    "__version__",
]

_MODULES = {
    **dict.fromkeys(("RNN", "LSTM", "GRU", "Recurrent"), "jaxrnn.layers"),
    **dict.fromkeys(("RNNCell", "LSTMCell", "GRUCell"), "jaxrnn.cell_modules"),
    **dict.fromkeys(("LayerNormLSTM", "HyperLSTM"), "jaxrnn.normed_layers"),
    **dict.fromkeys(("MinGRU", "MinLSTM"), "jaxrnn.min_layers"),
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
