"""Layers and cells beside their twins in torch, and small inputs for them."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jaxrnn
from jaxrnn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell

B, T, I, H, P = 3, 5, 4, 6, 2
LENGTHS = [3, 5, 1]
LAYERS = {"RNN": RNN, "LSTM": LSTM, "GRU": GRU}
CELLS = {"RNNCell": RNNCell, "LSTMCell": LSTMCell, "GRUCell": GRUCell}

layers = pytest.mark.parametrize("name", LAYERS)
cells = pytest.mark.parametrize("name", CELLS)


# Compiled once for all modules that are alike; out of jit JAX compiles the loop at each call.
call = nnx.jit(lambda module, *args, **kwargs: module(*args, **kwargs))


def normal(*shape, seed=0, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def build(name, *args, seed=0, **kwargs):
    return getattr(jaxrnn, name)(*args or (I, H), rngs=nnx.Rngs(seed), **kwargs)


def build_twin(name, *args, seed=0, **kwargs):
    """Ours in float64 and torch's in double, with the same parameters."""
    ours = build(name, *args, seed=seed, param_dtype=jnp.float64, **kwargs)
    twin = getattr(torch.nn, name)(*args or (I, H), **kwargs).double()
    copy_parameters(ours, twin)
    return ours, twin


def copy_parameters(ours, twin):
    twin.load_state_dict({n: torch.tensor(np.asarray(p)) for n, p in parameters(ours).items()})


def parameters(module):
    """Name to array, in the order in which the constructor made them."""
    return {n: p[...] for n, p in vars(module).items() if isinstance(p, nnx.Param)}


def members(state):
    return state if isinstance(state, tuple) else (state,)


def states(name, *shape, **kwargs):
    """A random state for a layer or cell of this name."""
    h, c = normal(*shape, seed=1, **kwargs), normal(*shape, seed=2, **kwargs)
    return (h, c) if name.startswith("LSTM") else h


def to_torch(state):
    found = [torch.tensor(np.asarray(s)) for s in members(state)]
    return tuple(found) if len(found) > 1 else found[0]
