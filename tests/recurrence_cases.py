"""Small cases of every recurrence, their results by name, and the marks that run through them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from jaxrnn.cells import CELLS, Cell
from jaxrnn.config import BACKENDS
from jaxrnn.recurrence import Spec, Weights, run

B, T, I, H, P = 3, 5, 4, 6, 2
LENGTHS = jnp.array([3, 5, 1])
EPISODES = np.zeros((T, B), bool)
EPISODES[2, 0] = EPISODES[1, 1] = EPISODES[3, 1] = True
EPISODES[0, 1] = True  # at the very first step: the given state is dropped
EPISODES[[3, 1], [0, 2]] = True  # in the padding of LENGTHS: no influence there
RESETS = jnp.asarray(EPISODES)
MASKS = {
    "none": {},
    "lengths": {"lengths": LENGTHS},
    "resets": {"resets": RESETS},
    "both": {"lengths": LENGTHS, "resets": RESETS},
}
KINDS = [*CELLS, "lstm_proj"]
FAST = [name for name in BACKENDS if name != "reference"]

masks = pytest.mark.parametrize("mask", MASKS)
kinds = pytest.mark.parametrize("kind", KINDS)
backends = pytest.mark.parametrize("backend", BACKENDS)
fast_backends = pytest.mark.parametrize("backend", FAST)
directions = pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
each_kind_and_direction = pytest.mark.parametrize(
    ("kind", "reverse"),
    [
        ("rnn_tanh", True),
        ("rnn_relu", False),
        ("lstm", False),
        ("lstm_proj", True),
        ("gru", False),
        ("gru", True),
    ],
)

a_few_kinds_and_directions = pytest.mark.parametrize(
    ("kind", "reverse"), [("rnn_tanh", True), ("lstm_proj", False), ("gru", True)]
)


class Case(NamedTuple):
    """A cell with arrays to run it on, and the weights of its results in a loss."""

    cell: Cell
    weights: Weights
    x: jax.Array
    state: tuple
    y_weight: jax.Array
    state_weights: tuple

    @property
    def arguments(self):
        return self.weights, self.x, self.state


def make(kind, *, bias=True, dtype="float64", param_dtype=None, num_steps=T):
    name, proj_size = kind.removesuffix("_proj"), P if kind.endswith("_proj") else 0
    cell, rng = CELLS[name], np.random.default_rng(0)
    gate_size, output_size = cell.num_gates * H, proj_size or H
    wide = jnp.promote_types(dtype, "float32")
    param_dtype = param_dtype or wide

    def normal(*shape, dtype=param_dtype, scale=1.0):
        return jnp.asarray(rng.normal(size=shape) * scale, dtype)

    weights = Weights(
        normal(gate_size, I, scale=0.5),
        normal(gate_size, output_size, scale=0.5),
        normal(gate_size) if bias else None,
        normal(gate_size) if bias else None,
        normal(proj_size, H, scale=0.5) if proj_size else None,
    )
    sizes = (output_size, H)[: cell.num_states]
    return Case(
        cell,
        weights,
        normal(num_steps, B, I, dtype=dtype),
        tuple(normal(B, size, dtype=wide) for size in sizes),
        normal(num_steps, B, output_size, dtype=wide),
        tuple(normal(B, size, dtype=wide) for size in sizes),
    )


def loss_of(case, **options):
    """A function of the case's arguments, to which every output and every last state counts."""

    def loss(weights, x, state, **arrays):
        y, last = run(case.cell, weights, x, state, **options, **arrays)
        total = jnp.sum(y * case.y_weight)
        return total + sum(jnp.sum(s * w) for s, w in zip(last, case.state_weights, strict=True))

    return loss


def everything(case, runner, jit=jax.jit):
    """Outputs, last states and every gradient of ``runner(weights, x, state)``, by name."""

    def loss(arguments, loss_weights):
        y, last = runner(*arguments)
        pairs = zip((y, *last), loss_weights, strict=True)
        return sum(jnp.sum(v * w) for v, w in pairs), (y, last)

    step = jit(jax.value_and_grad(loss, has_aux=True))
    # As arguments: XLA folds constants an element at a time, seconds for some 100 MB.
    (_, (y, last)), grads = step(case.arguments, (case.y_weight, *case.state_weights))
    return named(y, last, grads)


def results(case, *, jit=jax.jit, **options):
    """``everything`` of a plain run."""
    return everything(case, lambda *arguments: run(case.cell, *arguments, **options), jit)


@functools.cache
def reference_results(kind, reverse, mask, **options):
    arrays = {"reverse": reverse, "backend": "reference", **MASKS[mask]}
    return results(make(kind, **options), **arrays)


def named(y, last, grads):
    dweights, dx, dstate = grads
    found = {"y": y} | {f"last state {k}": s for k, s in enumerate(last)}
    found |= {f"gradient of {n}": d for n, d in dweights._asdict().items() if d is not None}
    found |= {"gradient of x": dx}
    return found | {f"gradient of state {k}": d for k, d in enumerate(dstate)}


def assert_same(found, expected, dtype="float64"):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, dtype, name)


def spec_of(case, **changes):
    fields = {
        "cell": case.cell,
        "num_steps": case.x.shape[0],
        "batch_size": B,
        "input_size": I,
        "hidden_size": H,
        "proj_size": 0 if case.weights.weight_hr is None else P,
        "bias": case.weights.bias_ih is not None,
        "masked": False,
        "resets": False,
        "scaled": False,
        "dtype": case.x.dtype,
        "platform": "cpu",
    }
    return Spec(**fields | changes)
