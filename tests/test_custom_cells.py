"""Cells of one's own through ``jaxrnn.Recurrent``: the same machinery as the known ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from layer_cases import LENGTHS, B, H, I, P, T, members, normal, parameters
from recurrence_cases import RESETS
from tolerances import assert_close

import jaxrnn
from jaxrnn.cells import CELLS, Cell, gru, lstm
from jaxrnn.models import split
from torch_compat import to_torch

MY_LSTM = Cell("my_lstm", num_gates=4, num_states=2, equation=lambda *args: lstm(*args))
MY_GRU = Cell("my_gru", num_gates=3, num_states=1, equation=lambda *args: gru(*args))


def slow_and_fast(gates_x, gates_h, state):
    """A step with two gates and three states: two memories of different speed."""
    _, fast, slow = state
    a, n = jnp.split(gates_x + gates_h, 2, axis=-1)
    fast = 0.5 * fast + jnp.tanh(n)
    slow = jax.nn.sigmoid(a) * slow + 0.1 * fast
    return jnp.tanh(fast + slow), fast, slow


SLOW_AND_FAST = Cell("slow_and_fast", num_gates=2, num_states=3, equation=slow_and_fast)


def build(cell, **options):
    options = {"param_dtype": jnp.float64, **options}
    return jaxrnn.Recurrent(cell, I, H, rngs=nnx.Rngs(0), **options)


def everything(layer, x, state, **arrays):
    """Outputs, last states, and the gradient by every parameter, the input and the state."""
    skeleton, params = split(layer)

    def loss(params, x, state):
        y, last = skeleton.merge(params)(x, state, **arrays)
        values = (y, *members(last))
        return sum(jnp.sum(v * normal(*v.shape, seed=k)) for k, v in enumerate(values)), values

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, values), grads = step(params, x, state)
    return [*values, *jax.tree.leaves(grads)]


@pytest.mark.parametrize("arrays", [{}, {"lengths": jnp.array(LENGTHS)}, {"resets": RESETS}])
def test_an_lstm_of_ones_own_is_lstm_stacked_and_in_both_directions(arrays):
    options = {"num_layers": 2, "bidirectional": True, "proj_size": P}
    mine = build(MY_LSTM, **options)
    known = jaxrnn.LSTM(I, H, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    x = normal(T, B, I, dtype="float64")
    state = normal(4, B, P, dtype="float64"), normal(4, B, H, seed=1, dtype="float64")
    found = everything(mine, x, state, **arrays)
    expected = everything(known, x, state, **arrays)
    assert len(found) == len(expected) == 3 + 20 + 1 + 2
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b)


def test_a_cell_of_ones_own_may_bear_a_known_name():
    def louder(gates_x, gates_h, state):
        return (2 * jnp.tanh(gates_x + gates_h),)

    x = normal(T, B, I, dtype="float64")
    found, _ = build(Cell("rnn_tanh", 1, 1, louder))(x)
    assert_close(found, build(Cell("louder", 1, 1, louder))(x)[0])
    assert not np.allclose(found, build(CELLS["rnn_tanh"])(x)[0])


def test_a_gru_of_ones_own_is_gru():
    x, state = normal(T, B, I, dtype="float64"), normal(1, B, H, seed=1, dtype="float64")
    known = jaxrnn.GRU(I, H, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    pairs = zip(everything(build(MY_GRU), x, state), everything(known, x, state), strict=True)
    for a, b in pairs:
        assert_close(a, b)


def test_dropout_between_layers_draws_the_masks_of_lstm():
    options = {"num_layers": 2, "dropout": 0.5, "param_dtype": jnp.float64}
    x = normal(T, B, I, dtype="float64")
    y, _ = build(MY_LSTM, **options)(x)
    expected, _ = jaxrnn.LSTM(I, H, **options, rngs=nnx.Rngs(0))(x)
    assert_close(y, expected)
    calm, _ = build(MY_LSTM, **options | {"dropout": 0.0})(x)
    assert not np.allclose(y, calm)


def test_a_cell_with_three_states_is_its_equation_step_by_step():
    layer = build(SLOW_AND_FAST, batch_first=True)
    x = np.asarray(normal(B, T, I, dtype="float64"))
    w = {name: np.asarray(value) for name, value in parameters(layer).items()}
    assert w["weight_ih_l0"].shape == (2 * H, I)
    h, fast, slow = np.zeros((3, B, H))
    hs = []
    for t in range(T):
        gates = x[:, t] @ w["weight_ih_l0"].T + w["bias_ih_l0"]
        gates = gates + h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
        fast = 0.5 * fast + np.tanh(gates[:, H:])
        slow = slow / (1 + np.exp(-gates[:, :H])) + 0.1 * fast
        h = np.tanh(fast + slow)
        hs.append(h)
    y, last = layer(x)
    assert_close(y, np.stack(hs, axis=1))
    assert len(last) == 3
    for member, expected in zip(last, (h, fast, slow), strict=True):
        assert_close(member[0], expected)


def test_the_carried_state_makes_chunks_of_a_whole_sequence():
    layer = build(SLOW_AND_FAST, num_layers=2, proj_size=P)
    x = normal(T, B, I, dtype="float64")
    y, last = layer(x)
    first, state = layer(x[:2])
    assert [m.shape for m in state] == [(2, B, P), (2, B, H), (2, B, H)]
    second, state = layer(x[2:], state)
    assert_close(jnp.concatenate([first, second]), y)
    for a, b in zip(state, last, strict=True):
        assert_close(a, b)
    zeros = layer.initial_state(B)
    assert [m.shape for m in zeros] == [m.shape for m in last]
    assert not any(m.any() for m in zeros)


def test_it_is_differentiated_in_forward_mode_too():
    layer, x = build(SLOW_AND_FAST), normal(T, B, I, dtype="float64")
    direction = normal(T, B, I, seed=1, dtype="float64")
    _, along = jax.jvp(lambda x: layer(x)[0].sum(), (x,), (direction,))
    assert_close(along, jnp.vdot(jax.grad(lambda x: layer(x)[0].sum())(x), direction))


def test_a_backend_asked_for_by_name_says_why_it_cant():
    layer = build(SLOW_AND_FAST, backend="scan")
    with pytest.raises(ValueError, match="no hand-written derivative for the cell 'slow_and_fast'"):
        layer(normal(T, B, I, dtype="float64"))


def test_what_is_no_cell_is_refused(unchecked):
    with pytest.raises(TypeError, match=r"cell is a str, expected a jaxrnn.cells.Cell"):
        build("lstm")
    with pytest.raises(ValueError, match=r"cell 'flat': num_gates is 0, expected at least 1"):
        build(Cell("flat", 0, 1, slow_and_fast))


@pytest.mark.parametrize(
    ("num_states", "equation", "got"),
    [
        (1, lambda gates_x, gates_h, state: gates_x, r"an array of float32\(2, 6\)"),
        (2, lambda gates_x, gates_h, state: (gates_x,), r"a tuple of float32\(2, 6\), expected"),
        (1, lambda gates_x, gates_h, state: (gates_x[:, 1:],), r"a tuple of float32\(2, 5\)"),
        (1, lambda gates_x, gates_h, state: (gates_x * np.ones((1, 1)),), r"a tuple of float64"),
    ],
    ids=["no tuple", "too few", "a shape", "a dtype"],
)
def test_an_equation_that_does_not_give_a_state_is_refused(num_states, equation, got):
    with pytest.raises(ValueError, match=rf"cell 'bad': its equation gives {got}"):
        build(Cell("bad", 1, num_states, equation))
    with pytest.raises(ValueError, match="cell 'rnn_relu': its equation gives"):
        build(Cell("rnn_relu", 1, num_states, equation))


def test_the_members_of_a_state_are_named_in_errors():
    layer, x = build(SLOW_AND_FAST), normal(T, B, I, dtype="float64")
    with pytest.raises(TypeError, match=r"state is 2 members, expected a tuple \(h, c, c2\)"):
        layer(x, layer.initial_state(B)[:2])


def test_recurrent_dropout_is_the_lstms_alone():
    with pytest.raises(ValueError, match=r"recurrent_dropout is 0.1, .* the cell 'my_lstm' is not"):
        build(MY_LSTM, recurrent_dropout=0.1)


def test_torch_has_no_twin_of_it():
    with pytest.raises(TypeError, match=r"can't convert <class 'jaxrnn.layers.Recurrent'>"):
        to_torch(build(SLOW_AND_FAST))
