"""jaxrnn's models and layers with parameters from NumPy, and both frameworks on the same input."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jaxrnn
from jaxrnn.models import split
from jaxrnn.models.char_lm import CharLM
from jaxrnn.models.forecaster import Forecaster

B, T, I, H, P, V, E, O, L = 3, 5, 4, 6, 2, 7, 5, 2, 2
SYMBOLS = "\n abcé𝄞"
VOCABULARY = {"kind": "characters", "symbols": SYMBOLS}
CELLS = ("lstm", "gru", "rnn")
MODELS = {
    **{
        f"char-{cell}-{size or 'onehot'}-{layers}": (
            CharLM,
            {"num_symbols": V, "embedding_size": size, "cell": cell, "num_layers": layers},
        )
        for cell in CELLS
        for size, layers in ((0, L), (E, 1))
    },
    **{
        f"series-{cell}": (
            Forecaster,
            {"input_size": I, "output_size": O, "cell": cell, "num_layers": L},
        )
        for cell in CELLS
    },
}
LAYER_CASES = {
    "lstm-all": (jaxrnn.LSTM, {"proj_size": P, "bidirectional": True, "batch_first": True}),
    "lstm-no-bias": (jaxrnn.LSTM, {"bias": False}),
    "gru-bidirectional": (jaxrnn.GRU, {"bidirectional": True}),
    "rnn-relu": (jaxrnn.RNN, {"nonlinearity": "relu", "batch_first": True}),
    "rnn-tanh": (jaxrnn.RNN, {"bias": False, "bidirectional": True}),
}
MIN_LAYER_CASES = {
    "mingru": (jaxrnn.MinGRU, {"batch_first": True}),
    "minlstm": (jaxrnn.MinLSTM, {"batch_first": True}),
}


def filled(make, dtype):
    """The module that ``make`` constructs, its parameters from NumPy, which compiles nothing."""
    graph, params, rest = nnx.split(nnx.eval_shape(make), nnx.Param, ...)
    rng = np.random.default_rng(5)
    params = jax.tree.map(lambda p: jnp.asarray(0.6 * rng.normal(size=p.shape), dtype), params)
    return nnx.merge(graph, params, rest)


def build(name, dtype="float64", **more):
    """A jaxrnn model in training mode, with dropout."""
    cls, arguments = MODELS[name]
    arguments = {"hidden_size": H, "dropout": 0.4, "param_dtype": jnp.dtype(dtype), **arguments}
    return filled(lambda: cls(**arguments, **more, rngs=nnx.Rngs(params=1, dropout=2)), dtype)


def build_layer(name, dtype="float64"):
    cls, arguments = (LAYER_CASES | MIN_LAYER_CASES)[name]
    arguments = {"num_layers": L, "dropout": 0.3, **arguments, "param_dtype": jnp.dtype(dtype)}
    return filled(lambda: cls(I, H, **arguments, rngs=nnx.Rngs(1)), dtype)


def bits(value):
    if isinstance(value, torch.Tensor):
        return value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return np.asarray(value).tobytes()


def members(state):
    return list(state) if isinstance(state, tuple) else [state]


def packed(members):
    return tuple(members) if len(members) > 1 else members[0]


def example(model, seed=0):
    """An input and a state, in float64 or ints."""
    rng = np.random.default_rng(seed)
    rnn = getattr(model, "rnn", model)
    lead = (B, T) if rnn.batch_first else (T, B)
    x = rng.normal(size=(*lead, rnn.input_size))
    if isinstance(model, CharLM):
        x = rng.integers(V, size=lead)
    return x, [rng.normal(size=m.shape) for m in members(rnn.initial_state(B))]


def outputs(model, twin, x, state):
    """Of both frameworks: the output and the members of the last state."""
    skeleton, params = split(model)
    run = jax.jit(lambda params, *a: skeleton.merge(params)(*a))
    y, last = run(params, jnp.asarray(x), packed([jnp.asarray(m) for m in state]))
    with torch.no_grad():
        z, other = twin(torch.tensor(x), packed([torch.tensor(m) for m in state]))
    return [y, *members(last)], [z.numpy(), *(m.numpy() for m in members(other))]
