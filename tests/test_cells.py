"""The cell equations against scalar arithmetic, and the meaning of each gate's position."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from jaxrnn.cells import CELLS

B, H = 3, 6
OPEN, SHUT = 50.0, -50.0  # arguments for which a sigmoid is 1, and 0, to within rounding
TANH_1 = math.tanh(1.0)


def sigmoid(a):
    return 1 / (1 + math.exp(-a))


def rnn_tanh_unit(x, h, state):
    return (math.tanh(x[0] + h[0]),)


def rnn_relu_unit(x, h, state):
    return (max(x[0] + h[0], 0.0),)


def lstm_unit(x, h, state):
    i, f, g, o = (a + b for a, b in zip(x, h, strict=True))
    c = sigmoid(f) * state[1] + sigmoid(i) * math.tanh(g)
    return sigmoid(o) * math.tanh(c), c


def gru_unit(x, h, state):
    r, z = sigmoid(x[0] + h[0]), sigmoid(x[1] + h[1])
    n = math.tanh(x[2] + r * h[2])
    return ((1 - z) * n + z * state[0],)


UNITS = {
    "rnn_tanh": rnn_tanh_unit,
    "rnn_relu": rnn_relu_unit,
    "lstm": lstm_unit,
    "gru": gru_unit,
}


def gates(*values):
    """Pre-activations for one sequence and one unit, a value a gate."""
    return jnp.array([values])


def test_the_table_names_its_cells():
    assert CELLS.keys() == UNITS.keys()
    assert {n: (c.name, c.num_gates, c.num_states) for n, c in CELLS.items()} == {
        "rnn_tanh": ("rnn_tanh", 1, 1),
        "rnn_relu": ("rnn_relu", 1, 1),
        "lstm": ("lstm", 4, 2),
        "gru": ("gru", 3, 1),
    }


@pytest.mark.parametrize("name", CELLS)
def test_an_equation_is_its_scalar_loop(name):
    cell, rng = CELLS[name], np.random.default_rng(0)
    gates_x, gates_h = rng.normal(size=(2, B, cell.num_gates * H))
    state = rng.normal(size=(cell.num_states, B, H))
    expected = np.empty_like(state)
    for b in range(B):
        for unit in range(H):  # unit k's gates are H apart
            args = gates_x[b, unit::H], gates_h[b, unit::H], state[:, b, unit]
            expected[:, b, unit] = UNITS[name](*args)

    new = cell.equation(jnp.asarray(gates_x), jnp.asarray(gates_h), tuple(map(jnp.asarray, state)))
    assert len(new) == cell.num_states
    for value, right in zip(new, expected, strict=True):
        assert_close(value, right)


@pytest.mark.parametrize(
    ("name", "x", "h", "state", "expected"),
    [
        ("rnn_tanh", [0.25], [0.25], [9.0], [math.tanh(0.5)]),
        ("rnn_relu", [2.0], [-0.5], [9.0], [1.5]),
        ("rnn_relu", [-2.0], [0.5], [9.0], [0.0]),
        ("lstm", [0, 0, 0, 0], [0, 0, 0, 0], [9.0, 0.8], [0.5 * math.tanh(0.4), 0.4]),
        ("lstm", [SHUT, OPEN, 1, OPEN], [0, 0, 1, 0], [9.0, 0.8], [math.tanh(0.8), 0.8]),
        ("lstm", [0, SHUT, 0.5, OPEN], [OPEN, 0, 0.5, 0], [9.0, 0.8], [math.tanh(TANH_1), TANH_1]),
        ("lstm", [0, 0, 0, SHUT], [0, 0, 0, 0], [9.0, 0.8], [0.0, 0.4]),
        ("gru", [0, 0, 0], [0, 0, 0], [0.8], [0.4]),
        ("gru", [0, OPEN, 1], [0, 0, 1], [0.8], [0.8]),
        ("gru", [SHUT, SHUT, 0.5], [0, 0, 7.0], [0.8], [math.tanh(0.5)]),
        ("gru", [OPEN, 0, 0.5], [0, SHUT, 0.25], [0.8], [math.tanh(0.75)]),
    ],
)
def test_each_gate_stands_where_torch_has_it(name, x, h, state, expected):
    x, h = gates(*map(float, x)), gates(*map(float, h))
    new = CELLS[name].equation(x, h, tuple(jnp.array([[s]]) for s in state))
    assert_close(np.concatenate(new).ravel(), expected)
