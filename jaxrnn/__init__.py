"""jaxrnn: recurrent networks trained in JAX, shipped as plain ``torch.nn`` modules.

Dimension letters, used everywhere:

    B batch   T time     I input       H hidden   P projected (LSTM's proj_size)
    G gates   L layers   D directions  V vocabulary
"""

from jaxrnn.layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from jaxrnn.version import __version__

__all__ = ["GRU", "LSTM", "RNN", "GRUCell", "LSTMCell", "RNNCell", "__version__"]
