"""LayerNormLSTM and HyperLSTM of small sizes, and a loop over their equations, written apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tolerances import assert_close
from twins import filled

from jaxrnn.normed_layers import HyperLSTM, LayerNormLSTM

B, T, I, H, K, E = 3, 5, 4, 6, 7, 2
LENGTHS = np.array([3, 5, 1])
LAYERS = {"layer_norm": LayerNormLSTM, "hyper": HyperLSTM}
SIZES = {"layer_norm": {"h": H, "c": H}, "hyper": {"h": H, "c": H, "hyper_h": K, "hyper_c": K}}
HYPER: Any = {"hyper_size": K, "embedding_size": E}
KEEP = 0.6

layers = pytest.mark.parametrize("name", LAYERS)


def arguments(name) -> dict[str, Any]:
    return HYPER if name == "hyper" else {}


def build(name, param_dtype="float64", **more):
    """A layer with parameters from NumPy, its biases and norms too; it has no masks of its own."""
    options = {**arguments(name), "param_dtype": jnp.dtype(param_dtype), **more}
    return filled(lambda: LAYERS[name](I, H, rngs=nnx.Rngs(0), **options), param_dtype)


def drawn(name, **more):
    """A layer as it starts."""
    return LAYERS[name](I, H, rngs=nnx.Rngs(0), **arguments(name), **more)


def example(name, dtype="float64"):
    """x and a state."""
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(T, B, I)), dtype)
    return x, tuple(jnp.asarray(rng.normal(size=(1, B, n)), dtype) for n in SIZES[name].values())


# The equations, gate by gate and step by step; ``xp`` is NumPy, or JAX to be differentiated.


def norm(xp, a, weight, bias):
    mean = a.sum(-1, keepdims=True) / a.shape[-1]
    variance = ((a - mean) ** 2).sum(-1, keepdims=True) / a.shape[-1]
    return weight[None] * (a - mean) / xp.sqrt(variance + 1e-3) + bias[None]


def gate(array, k):
    """The k-th of four blocks of rows: 0 i, 1 f, 2 g, 3 o."""
    size = len(array) // 4
    return array[k * size : (k + 1) * size]


def after_gates(xp, p, preactivations, c, scale, prefix=""):
    a = [
        norm(xp, preactivations[k], *(gate(p[f"{prefix}ln_gates_{n}"], k) for n in WEIGHT_BIAS))
        for k in range(4)
    ]
    i, f, o = (1 / (1 + xp.exp(-a[k])) for k in (0, 1, 3))
    c = c * f + i * xp.tanh(a[2]) * scale
    return o * xp.tanh(norm(xp, c, *(p[f"{prefix}ln_cell_{n}"] for n in WEIGHT_BIAS))), c


WEIGHT_BIAS = ("weight", "bias")


def layer_norm_step(xp, p, x, state, scale, prefix=""):
    h, c = state
    w, u = p[f"{prefix}weight_ih"], p[f"{prefix}weight_hh"]
    preactivations = [x @ gate(w, k).T + h @ gate(u, k).T for k in range(4)]
    return after_gates(xp, p, preactivations, c, scale, prefix)


def hyper_step(xp, p, x, state, scale):
    h, c, *hyper_state = state
    joined = xp.concatenate([x, h], -1)
    hyper_h, hyper_c = layer_norm_step(xp, p, joined, hyper_state, 1.0, "hyper_cell.")
    preactivations = []
    for k in range(4):

        def get(name, k=k):
            return gate(p[name], k)

        z_x = hyper_h @ get("zw_x_weight").T + get("zw_x_bias")[None]
        z_h = hyper_h @ get("zw_h_weight").T + get("zw_h_bias")[None]
        z_b = hyper_h @ get("zb_weight").T
        of_x = (z_x @ get("alpha_x_weight").T) * (x @ get("weight_ih").T)
        of_h = (z_h @ get("alpha_h_weight").T) * (h @ get("weight_hh").T)
        of_h = of_h + z_b @ get("beta_weight").T
        preactivations.append(of_x + of_h + get("bias")[None])
    return *after_gates(xp, p, preactivations, c, scale), hyper_h, hyper_c


STEPS = {"layer_norm": layer_norm_step, "hyper": hyper_step}


def loop(xp: Any, name, params, x, state, lengths=None, scale=None):
    """Outputs and last state as the layer gives them; ``scale`` (T, B, H) is of the candidates."""
    state, outputs = [member[0] for member in state], []
    for t in range(len(x)):
        new = STEPS[name](xp, params, x[t], state, 1.0 if scale is None else scale[t])
        y = new[0]
        if lengths is not None:
            runs = (t < lengths)[:, None]
            new = [xp.where(runs, n, s) for n, s in zip(new, state, strict=True)]
            y = xp.where(runs, y, 0.0)
        state = new
        outputs.append(y)
    return xp.stack(outputs), [member[None] for member in state]


def as_numpy(tree: Any) -> Any:
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def assert_same(got, expected, dtype="float64"):
    """An output and a state beside the expected."""
    assert_close(got[0], expected[0], dtype, "y")
    for k, (a, b) in enumerate(zip(got[1], expected[1], strict=True)):
        assert_close(a, b, dtype, f"state {k}")
