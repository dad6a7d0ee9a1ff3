"""The language model around MinGRU and MinLSTM in small sizes, for its tests here and in torch."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from twins import filled

from jaxrnn.models.min_blocks import MinCharLM

V, B, T, H, L, E = 7, 3, 6, 4, 2, 3
IDS = jnp.asarray(np.random.default_rng(0).integers(0, V, (B, T)), jnp.int32)
LENGTHS = jnp.array([4, 6, 1])
cells = pytest.mark.parametrize("cell", ["mingru", "minlstm"])


def build(cell, **options) -> Any:
    """With parameters from NumPy, in evaluation mode."""
    arguments = {"hidden_size": H, "num_layers": L, "param_dtype": jnp.float64, **options}
    model = filled(lambda: MinCharLM(V, cell=cell, rngs=nnx.Rngs(0), **arguments), "float64")
    model.eval()
    return model


def state_of(model):
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.normal(size=s.shape)) for s in model.rnn.initial_state(B))
