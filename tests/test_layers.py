"""The layers beside torch.nn: constructors, parameters, modes, shapes, and what is refused."""

import functools
import inspect
import typing
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close

import jaxrnn
from jaxrnn import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from jaxrnn.layers import Embedding, Linear

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


# Constructors and parameters.


def torch_parameters(name):
    """What torch documents: the constructor's signature, or the first of its overloads."""
    init = getattr(torch.nn, name).__init__
    overloads = typing.get_overloads(init)
    found = inspect.signature(overloads[0] if overloads else init).parameters.values()
    skipped = ("self", "device", "dtype")  # JAX places arrays; dtype means computing in it, here
    return [(p.name, p.default) for p in found if p.name not in skipped]


@pytest.mark.parametrize("name", [*CELLS, "RNN", "GRU", "LSTM"])
def test_constructor_arguments_are_torchs_in_name_order_and_default(name):
    _, *found = inspect.signature(getattr(jaxrnn, name).__init__).parameters.values()
    ours = [(p.name, p.default) for p in found if p.kind is p.POSITIONAL_OR_KEYWORD]
    expected = torch_parameters(name)
    if name in ("RNN", "GRU"):  # torch takes proj_size there by keyword, to refuse it
        expected = [(n, d) for n, d in expected if n != "proj_size"] + [("proj_size", 0)]
    assert ours == expected
    keywords = [(p.name, p.default) for p in found if p.kind is p.KEYWORD_ONLY]
    assert keywords == [
        ("rngs", inspect.Parameter.empty),
        ("dtype", None),
        ("param_dtype", jnp.float32),
        ("backend", "auto"),
    ]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("RNN", (I, H, 2, "relu", False, True, 0.25, True)),
        ("LSTM", (I, H, 2, False, True, 0.25, True, P)),
        ("GRU", (I, H, 2, False, True, 0.25, True)),
        ("RNNCell", (I, H, False, "relu")),
        ("LSTMCell", (I, H, False)),
        ("GRUCell", (I, H, False)),
    ],
)
def test_arguments_by_position_mean_what_they_mean_to_torch(name, args):
    ours, twin = build(name, *args), getattr(torch.nn, name)(*args)
    for argument in [n for n, _ in torch_parameters(name)]:
        assert getattr(ours, argument) == getattr(twin, argument), argument


CONFIGURATIONS = [
    *((name, {}) for name in (*LAYERS, *CELLS)),
    *((name, {"bias": False}) for name in (*LAYERS, *CELLS)),
    *((name, {"num_layers": 3, "bidirectional": True}) for name in LAYERS),
    *((name, {"num_layers": 2, "bidirectional": True, "bias": False}) for name in LAYERS),
    ("RNN", {"num_layers": 2, "nonlinearity": "relu", "batch_first": True}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("LSTM", {"proj_size": P}),
    ("LSTM", {"proj_size": P, "num_layers": 2, "bidirectional": True}),
    ("LSTM", {"proj_size": P, "num_layers": 2, "bidirectional": True, "bias": False}),
    ("LSTM", {"num_layers": 2, "dropout": 0.5}),
]


@pytest.mark.parametrize(("name", "kwargs"), CONFIGURATIONS)
def test_parameters_are_torchs_in_name_order_and_shape(name, kwargs):
    ours, twin = build(name, **kwargs), getattr(torch.nn, name)(I, H, **kwargs)
    found = [(n, p.shape) for n, p in parameters(ours).items()]
    assert found == [(n, tuple(p.shape)) for n, p in twin.named_parameters()]
    in_the_tree = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(ours, nnx.Param))}
    assert in_the_tree == {n for n, _ in found}


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("RNN", {"num_layers": 2, "bidirectional": True}),
        ("LSTM", {"num_layers": 2, "bidirectional": True, "proj_size": 20}),
        ("GRU", {"num_layers": 2, "bidirectional": True}),
        *((name, {}) for name in CELLS),
    ],
)
def test_every_parameter_starts_uniform_within_one_over_root_h(name, kwargs):
    hidden_size = 64
    bound = hidden_size**-0.5
    values = parameters(build(name, 50, hidden_size, **kwargs))
    for parameter, value in values.items():
        value = np.sort(np.ravel(value)) / bound
        assert -1 <= value[0] < -0.9, parameter
        assert 0.9 < value[-1] <= 1, parameter
        # Kolmogorov's distance to the uniform distribution, at a level of about one in 10^5.
        uniform = np.linspace(-1, 1, value.size)
        assert np.abs(value - uniform).max() / 2 < 2.5 / np.sqrt(value.size), parameter
    firsts = {float(np.ravel(v)[0]) for v in values.values()}
    assert len(firsts) == len(values)  # each from a key of its own


# Numbers: the grid against torch is in test_torch_grid.py.


@layers
@pytest.mark.parametrize("batch_first", [False, True])
def test_lengths_out_of_order_and_no_state_are_torchs(name, batch_first):
    kwargs = {"num_layers": 2, "bidirectional": True, "batch_first": batch_first}
    ours, twin = build_twin(name, **kwargs)
    x = normal(*((B, T) if batch_first else (T, B)), I, dtype="float64")
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        torch.tensor(np.asarray(x)), LENGTHS, batch_first, enforce_sorted=False
    )
    right_y, right_last = twin(packed)
    right_y, _ = torch.nn.utils.rnn.pad_packed_sequence(right_y, batch_first)
    y, last = jax.jit(lambda x: ours(x, lengths=LENGTHS))(x)  # a list is as good
    assert_close(y, right_y.detach())
    for s, right in zip(members(last), members(right_last), strict=True):
        assert s.shape == (4, B, H)
        assert_close(s, right.detach())


@layers
def test_input_without_a_batch_is_torchs(name):
    ours, twin = build_twin(name, num_layers=2, bidirectional=True, batch_first=True)
    x, state = normal(T, I, dtype="float64"), states(name, 4, H, dtype="float64")
    y, last = call(ours, x, state, lengths=3)
    right_y, right_last = twin(torch.tensor(np.asarray(x[:3])), to_torch(state))
    assert y.shape == (T, 2 * H)
    assert_close(y[:3], right_y.detach())
    assert not np.any(y[3:])
    for s, right in zip(members(last), members(right_last), strict=True):
        assert s.shape == (4, H)
        assert_close(s, right.detach())
    # No state is zeros; resets without a batch are (T,).
    jax.tree.map(assert_close, call(ours, x), call(ours, x, ours.initial_state()))
    resets = jnp.zeros(T, bool).at[2].set(True)
    y, _ = call(ours, x, resets=resets)
    batch_y, _ = call(ours, x[None], resets=resets[None])
    assert_close(y, batch_y[0])


@layers
def test_batch_first_turns_inputs_and_outputs_and_never_states(name):
    kwargs = {"num_layers": 2, "bidirectional": True, "param_dtype": jnp.float64}
    first, second = build(name, batch_first=True, **kwargs), build(name, **kwargs)
    x, state = normal(B, T, I, dtype="float64"), states(name, 4, B, H, dtype="float64")
    resets = jnp.zeros((B, T), bool).at[1, 2].set(True)
    y, last = call(first, x, state, resets=resets, lengths=jnp.array(LENGTHS))
    right_y, right_last = call(
        second, x.swapaxes(0, 1), state, resets=resets.T, lengths=jnp.array(LENGTHS)
    )
    assert_close(y, right_y.swapaxes(0, 1))
    jax.tree.map(assert_close, last, right_last)


@layers
def test_a_state_is_taken_as_it_was_given(name):
    module = build(name, num_layers=2, param_dtype=jnp.float64)
    x = normal(T, B, I, dtype="float64")
    y, last = call(module, x)
    first_y, middle = call(module, x[:2])
    second_y, again = call(module, x[2:], list(middle) if name == "LSTM" else middle)
    assert_close(jnp.concatenate([first_y, second_y]), y)
    jax.tree.map(assert_close, again, last)
    jax.tree.map(assert_close, call(module, x, module.initial_state(B)), (y, last))


def test_states_and_outputs_stand_in_torchs_order():
    """States l0, l0_reverse, l1, l1_reverse; outputs forward, then reverse."""
    module = build("GRU", num_layers=2, bidirectional=True)
    x = normal(T, B, I)
    y, h = call(module, x)
    assert_close(y[-1, :, :H], h[2], "float32")
    assert_close(y[0, :, H:], h[3], "float32")
    for k in range(4):  # a change of one row of the state touches that row's layer and those above
        _, changed = call(module, x, module.initial_state(B).at[k].set(1.0))
        touched = [bool(np.any(changed[j] != h[j])) for j in range(4)]
        assert touched == [j == k or j // 2 > k // 2 for j in range(4)]


@layers
def test_an_empty_batch_works_and_an_empty_sequence_does_not(name):
    module = build(name, num_layers=2, bidirectional=True)
    y, last = call(module, jnp.zeros((T, 0, I), "float32"))
    assert y.shape == (T, 0, 2 * H)
    assert {s.shape for s in members(last)} == {(4, 0, H)}
    y, _ = call(module, jnp.zeros((T, 0, I), "float32"), lengths=jnp.zeros(0, int))
    assert y.shape == (T, 0, 2 * H)
    with pytest.raises(ValueError, match=rf"{name}: x has shape \(0, 3, 4\), .*one time step"):
        module(jnp.zeros((0, B, I), "float32"))


@layers
@pytest.mark.parametrize("lengths", [[-3, 9, 0], [0, 5, 0]])
def test_lengths_out_of_range_act_as_clipped_inside_jit(name, lengths):
    module, x = build(name, param_dtype=jnp.float64), normal(T, B, I, dtype="float64")
    state = states(name, 1, B, H, dtype="float64")
    y, last = call(module, x, state, lengths=jnp.array(lengths))
    right_y, right_last = call(module, x, state)
    assert not np.any(y[:, [0, 2]])
    assert_close(y[:, 1], right_y[:, 1])
    for s, given, full in zip(*map(members, (last, state, right_last)), strict=True):
        assert_close(s[:, [0, 2]], given[:, [0, 2]])
        assert_close(s[:, 1], full[:, 1])


@layers
def test_in_bfloat16_outputs_are_narrow_and_states_are_float32(name):
    module, x = build(name, dtype=jnp.bfloat16, num_layers=2), normal(T, B, I)
    assert {p.dtype for p in parameters(module).values()} == {jnp.dtype("float32")}
    y, last = call(module, x)
    assert y.dtype == jnp.bfloat16
    assert {s.dtype for s in members(last)} == {jnp.dtype("float32")}
    right_y, right_last = call(build(name, num_layers=2), x)
    assert_close(y, right_y, "bfloat16")
    for s, right in zip(members(last), members(right_last), strict=True):
        assert_close(s, right, "bfloat16")
    narrow = build(name, param_dtype=jnp.bfloat16)
    state = narrow.initial_state(B)
    assert {s.dtype for s in members(state)} == {jnp.dtype("float32")}
    y, last = call(narrow, x.astype(jnp.bfloat16), state)
    assert y.dtype == jnp.bfloat16
    assert {s.dtype for s in members(last)} == {jnp.dtype("float32")}


@layers
def test_outputs_hang_on_no_later_input(name):
    module, x = build(name, num_layers=2), normal(T, B, I)
    jacobian = jax.jit(jax.jacrev(lambda x: module(x)[0].sum((1, 2))))(x)  # (T, T, B, I)
    depends = np.any(np.asarray(jacobian) != 0, axis=(2, 3))
    np.testing.assert_array_equal(depends, np.tril(np.ones((T, T), bool)))


# Dropout.


def test_dropout_is_between_layers_and_scales_what_it_keeps():
    module = build("RNN", num_layers=2, dropout=0.75, nonlinearity="relu")
    seen = []
    drop = module.dropout_layer

    class Spy(nnx.Module):
        def __call__(self, x, rngs=None):
            seen.append((x, drop(x, rngs=rngs)))
            return seen[-1][1]

    module.dropout_layer = nnx.data(Spy())
    x = normal(T, 40, I)
    y, last = module(x)
    ((before, after),) = seen  # after the first layer, not after the last
    single = build("RNN", nonlinearity="relu")
    assert_close(before, call(single, x)[0], "float32")
    alive = np.asarray(before) > 0
    kept = np.asarray(after) != 0
    assert_close(np.asarray(after)[kept], 4 * np.asarray(before)[kept], "float32")
    assert 0.2 < kept[alive].mean() < 0.3
    assert_close(y[-1], last[1], "float32")


@layers
def test_dropout_is_on_in_training_only(name):
    x = normal(T, B, I)
    module, plain = build(name, num_layers=3, dropout=0.5), build(name, num_layers=3)
    assert not np.allclose(call(module, x)[0], call(module, x)[0])  # masks differ from call to call
    module.eval()
    jax.tree.map(np.testing.assert_array_equal, call(module, x), call(plain, x))
    module.train()
    assert not np.allclose(call(module, x)[0], call(plain, x)[0])


@layers
def test_dropout_is_reproduced_by_the_rngs_of_the_call(name):
    x, module = normal(T, B, I), build(name, num_layers=2, dropout=0.5)
    found = [call(module, x, rngs=nnx.Rngs(dropout=k))[0] for k in (1, 1, 2)]
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_dropout_of_everything_leaves_the_last_layer_its_biases():
    x = normal(T, B, I)
    module = build("GRU", num_layers=2, dropout=1.0)
    y, _ = call(module, x)
    np.testing.assert_array_equal(y, call(module, 2 * x)[0])
    assert np.all(np.isfinite(y))
    gradient = jax.grad(lambda x: module(x, rngs=nnx.Rngs(0))[0].sum())(x)
    assert not np.any(gradient)


@layers
def test_dropout_in_one_layer_warns_and_does_nothing(name):
    with pytest.warns(UserWarning, match=r"dropout=0.5 has no effect with num_layers=1") as caught:
        module = build(name, dropout=0.5)
    assert len(caught) == 1
    x = normal(T, B, I)
    jax.tree.map(np.testing.assert_array_equal, call(module, x), call(build(name), x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(name, num_layers=2, dropout=0.5)


# Cells, Linear and Embedding.


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *((name, {"bias": bias}) for name in CELLS for bias in (True, False)),
        ("RNNCell", {"nonlinearity": "relu"}),
    ],
)
@pytest.mark.parametrize("lead", [(B,), ()], ids=["batch", "no batch"])
def test_a_cell_is_torchs_in_numbers_and_gradients(name, kwargs, lead):
    ours, twin = build_twin(name, **kwargs)
    x, state = normal(*lead, I, dtype="float64"), states(name, *lead, H, dtype="float64")
    graph, params = nnx.split(ours)

    def loss(params, x, state):
        new = members(nnx.merge(graph, params)(x, state))
        return sum(jnp.sum(jnp.sin((k + 1) * s)) for k, s in enumerate(new)), new

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))
    (_, new), (dparams, dx, dstate) = step(params, x, state)
    torch_x = torch.tensor(np.asarray(x), requires_grad=True)
    torch_state = [torch.tensor(np.asarray(s), requires_grad=True) for s in members(state)]
    right = members(twin(torch_x, tuple(torch_state) if len(torch_state) > 1 else torch_state[0]))
    torch.stack([torch.sin((k + 1) * s).sum() for k, s in enumerate(right)]).sum().backward()
    for s, r in zip(new, right, strict=True):
        assert_close(s, r.detach())
    for d, r in zip((dx, *members(dstate)), (torch_x, *torch_state), strict=True):
        assert_close(d, r.grad)
    for parameter, r in twin.named_parameters():
        assert_close(dparams[parameter][...], r.grad, what=parameter)

    without = members(twin(torch_x))  # zeros stand for a state that isn't given
    for s, r in zip(members(call(ours, x)), without, strict=True):
        assert_close(s, r.detach())


@cells
def test_a_cell_in_steps_is_its_layer(name):
    cell, layer = build(name), build(name.removesuffix("Cell"))
    x, state = normal(T, B, I), None
    for t in range(T):
        state = call(cell, x[t], state)
    for s, right in zip(members(state), members(call(layer, x)[1]), strict=True):
        assert_close(s, right[0], "float32")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("lead", [(), (B,), (T, B)])
def test_linear_is_torchs(bias, lead):
    ours = Linear(I, H, bias, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
    twin = torch.nn.Linear(I, H, bias).double()
    found = [(n, p.shape) for n, p in parameters(ours).items()]
    assert found == [(n, tuple(p.shape)) for n, p in twin.named_parameters()]
    copy_parameters(ours, twin)
    x = normal(*lead, I, dtype="float64")
    right = twin(torch.tensor(np.asarray(x))).detach()
    y = call(ours, x)
    assert y.shape == tuple(right.shape)
    assert_close(y, right)


def test_linear_starts_uniform_and_computes_in_its_dtype():
    linear = Linear(100, 50, rngs=nnx.Rngs(0), dtype=jnp.bfloat16)
    weight = np.abs(linear.weight[...])
    assert 0.099 < weight.max() <= 0.1
    assert abs(weight.mean() - 0.05) < 0.002
    y = linear(normal(B, 100))
    assert y.dtype == jnp.float32
    assert_close(y, Linear(100, 50, rngs=nnx.Rngs(0))(normal(B, 100)), "bfloat16")


def test_embedding_is_torchs_and_starts_normal():
    ours, twin = Embedding(7, H, rngs=nnx.Rngs(0)), torch.nn.Embedding(7, H)
    copy_parameters(ours, twin)
    ids = np.array([[0, 6, 3], [3, 3, 1]])
    assert_close(call(ours, jnp.array(ids)), twin(torch.tensor(ids)).detach(), "float32")
    weight = np.asarray(Embedding(200, 100, rngs=nnx.Rngs(0)).weight[...])
    assert abs(weight.mean()) < 0.02
    assert abs(weight.std() - 1) < 0.02


# Transformations.


@pytest.mark.parametrize("jit", [jax.jit, nnx.jit], ids=["jax.jit", "nnx.jit"])
@layers
def test_a_module_runs_under_jit(name, jit):
    module, x = build(name, num_layers=2, bidirectional=True), normal(T, B, I)
    if jit is jax.jit:
        graph, params = nnx.split(module)
        found = jax.jit(lambda params, x: nnx.merge(graph, params)(x))(params, x)
    else:
        found = nnx.jit(lambda module, x: module(x))(module, x)
    jax.tree.map(lambda a, b: assert_close(a, b, "float32"), found, call(module, x))


def test_dropout_draws_new_masks_in_each_call_of_nnx_jit():
    module, x = build("LSTM", num_layers=2, dropout=0.5), normal(T, B, I)
    step = nnx.jit(lambda module, x: module(x)[0])
    assert not np.allclose(step(module, x), step(module, x))


@layers
def test_vmap_over_modules_is_an_ensemble(name):
    modules, x = [build(name, seed=k) for k in range(2)], normal(T, B, I)
    graph, _ = nnx.split(modules[0])
    stacked = jax.tree.map(lambda *p: jnp.stack(p), *map(nnx.state, modules))
    y, last = jax.jit(jax.vmap(lambda params: nnx.merge(graph, params)(x)))(stacked)
    for k, module in enumerate(modules):
        right_y, right_last = call(module, x)
        assert_close(y[k], right_y, "float32")
        jax.tree.map(lambda a, b, k=k: assert_close(a[k], b, "float32"), last, right_last)


# What is refused: which exception, and that the message names the argument, what it got and what
# it expected.

BAD_SIZES = [
    ({"input_size": 0}, ValueError, "input_size is 0, expected at least 1"),
    ({"input_size": True}, TypeError, "input_size is True, expected an int"),
    ({"input_size": 4.0}, TypeError, "input_size is 4.0, expected an int"),
    ({"hidden_size": -6}, ValueError, "hidden_size is -6, expected at least 1"),
    ({"hidden_size": "6"}, TypeError, "hidden_size is '6', expected an int"),
    ({"hidden_size": True}, TypeError, "hidden_size is True, expected an int"),
    ({"bias": 1}, TypeError, "bias is 1, expected a bool"),
    ({"backend": "cuda"}, ValueError, "backend is 'cuda', expected one of ['auto', 'scan'"),
    ({"dtype": jnp.int32}, TypeError, "int32'>, expected a floating dtype"),
    ({"param_dtype": jnp.complex64}, TypeError, "complex64'>, expected a floating dtype"),
]
BAD_LAYERS = [
    ({"num_layers": 0}, ValueError, "num_layers is 0, expected at least 1"),
    ({"num_layers": True}, TypeError, "num_layers is True, expected an int"),
    ({"num_layers": None}, TypeError, "num_layers is None, expected an int"),
    ({"batch_first": "yes"}, TypeError, "batch_first is 'yes', expected a bool"),
    ({"bidirectional": 2}, TypeError, "bidirectional is 2, expected a bool"),
    ({"dropout": -0.1}, ValueError, "dropout is -0.1, expected a probability in [0, 1]"),
    ({"dropout": 1.5}, ValueError, "dropout is 1.5, expected a probability in [0, 1]"),
    ({"dropout": float("nan")}, ValueError, "dropout is nan, expected a probability in [0, 1]"),
    ({"dropout": True}, TypeError, "dropout is True, expected a number in [0, 1]"),
    ({"dropout": "half"}, TypeError, "dropout is 'half', expected a number in [0, 1]"),
]
BAD_CONSTRUCTIONS = [
    *((name, *bad) for name in (*LAYERS, *CELLS) for bad in BAD_SIZES),
    *((name, *bad) for name in LAYERS for bad in BAD_LAYERS),
    ("LSTM", {"proj_size": 6}, ValueError, "proj_size is 6, expected less than hidden_size=6"),
    ("LSTM", {"proj_size": 7}, ValueError, "proj_size is 7, expected less than hidden_size=6"),
    ("LSTM", {"proj_size": -1}, ValueError, "proj_size is -1, expected at least 0"),
    ("LSTM", {"proj_size": True}, TypeError, "proj_size is True, expected an int"),
    ("GRU", {"proj_size": 2}, ValueError, "GRU: proj_size is 2, expected 0: only LSTM"),
    ("RNN", {"proj_size": 2}, ValueError, "RNN: proj_size is 2, expected 0: only LSTM"),
    *(
        (name, {"nonlinearity": bad}, ValueError, f"nonlinearity is {bad!r}, expected one of")
        for name in ("RNN", "RNNCell")
        for bad in ("gelu", None, True)
    ),
]


def refused(call, error, message):
    """``call`` raises exactly this exception, with this text in its message."""
    with pytest.raises(error) as caught:
        call()
    assert caught.type is error
    assert message in str(caught.value)


@pytest.mark.parametrize(("name", "bad", "error", "message"), BAD_CONSTRUCTIONS)
def test_a_constructor_refuses(unchecked, name, bad, error, message):
    arguments = {"input_size": I, "hidden_size": H} | bad
    construct = getattr(jaxrnn, name)
    refused(lambda: construct(**arguments, rngs=nnx.Rngs(0)), error, message)


@pytest.mark.parametrize("name", [*LAYERS, *CELLS])
@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
def test_float64_is_refused_where_jax_has_it_switched_off(name, argument):
    with jax.enable_x64(False):
        message = f"{argument} is float64, which JAX has switched off"
        dtype: Any = {argument: "float64"}
        refused(lambda: build(name, **dtype), ValueError, message)


def zeros(*shape, dtype: Any = "float32"):
    return jnp.zeros(shape, dtype)


X = zeros(T, B, I)
BAD_X = [  # also inside jit: decided by shapes and dtypes alone
    (zeros(I), ValueError, "x has shape (4,), expected 3 dimensions, or 2 without a batch"),
    (zeros(1, T, B, I), ValueError, "x has shape (1, 5, 3, 4), expected 3 dimensions, or 2"),
    (
        zeros(T, B, H),
        ValueError,
        "x has shape (5, 3, 6), expected a last dimension of input_size=4",
    ),
    (zeros(T, B, I, dtype=int), TypeError, "x has dtype int64, expected a floating dtype"),
    (zeros(T, B, I, dtype=complex), TypeError, "x has dtype complex128, expected a floating"),
    (zeros(T, B, I, dtype=bool), TypeError, "x has dtype bool, expected a floating dtype"),
    (
        zeros(T, B, I, dtype="float64"),
        ValueError,
        "x has dtype float64, expected the parameters' f",
    ),
    (zeros(T, B, I, dtype="bfloat16"), ValueError, "x has dtype bfloat16, expected the parameters"),
    (zeros(0, B, I), ValueError, "x has shape (0, 3, 4), expected at least one time step"),
]
BAD_OPTIONS = [
    ({"lengths": zeros(B)}, TypeError, "lengths has dtype float32, expected integers"),
    ({"lengths": zeros(B, dtype=bool)}, TypeError, "lengths has dtype bool, expected integers"),
    (
        {"lengths": zeros(B + 1, dtype=int)},
        ValueError,
        "lengths has shape (4,), expected (3,): one length a sequence",
    ),
    ({"lengths": zeros(B, 1, dtype=int)}, ValueError, "lengths has shape (3, 1), expected (3,)"),
    ({"resets": zeros(T, B)}, TypeError, "resets has dtype float32, expected bool"),
    ({"resets": zeros(T, B, dtype=int)}, TypeError, "resets has dtype int64, expected bool"),
    (
        {"resets": zeros(B, T, dtype=bool)},
        ValueError,
        "resets has shape (3, 5), expected (5, 3): one bool a step and sequence",
    ),
]
BAD_STATES = [
    ("GRU", zeros(2, B, H), ValueError, "state h has shape (2, 3, 6), expected (1, 3, 6)"),
    ("GRU", zeros(1, B, H, dtype=int), TypeError, "state h has dtype int64, expected a floating"),
    ("RNN", zeros(B, H), ValueError, "state h has shape (3, 6), expected (1, 3, 6)"),
    ("LSTM", zeros(1, B, H), TypeError, "expected a tuple (h, c)"),
    ("LSTM", (zeros(1, B, H),), TypeError, "state is 1 members, expected a tuple (h, c)"),
    (
        "LSTM",
        (zeros(1, B, H), zeros(1, B, H, dtype=int)),
        TypeError,
        "state c has dtype int64, expected a floating dtype",
    ),
    (
        "LSTM",
        (zeros(1, B, H), zeros(1, B, P)),
        ValueError,
        "state c has shape (1, 3, 2), expected (1, 3, 6)",
    ),
]


def refused_with_and_without_jit(owner, call, arrays, error, message):
    refused(lambda: call(arrays), error, message)
    refused(lambda: jax.jit(call)(arrays), error, message)
    refused(lambda: call(arrays), error, f"{owner}: ")


@layers
@pytest.mark.parametrize(("x", "error", "message"), BAD_X)
def test_a_layer_refuses_an_input(name, x, error, message):
    refused_with_and_without_jit(name, build(name), x, error, message)


@layers
@pytest.mark.parametrize(("options", "error", "message"), BAD_OPTIONS)
def test_a_layer_refuses_lengths_and_resets(name, options, error, message):
    module = build(name)
    call = lambda options: module(X, **options)  # noqa: E731
    refused_with_and_without_jit(name, call, options, error, message)


@pytest.mark.parametrize(("name", "state", "error", "message"), BAD_STATES)
def test_a_layer_refuses_a_state(unchecked, name, state, error, message):
    module = build(name)
    call = lambda state: module(X, state)  # noqa: E731
    refused_with_and_without_jit(name, call, state, error, message)


def test_a_projected_state_has_two_sizes():
    module = build("LSTM", proj_size=P)
    h, c = module.initial_state(B)
    assert (h.shape, c.shape) == ((1, B, P), (1, B, H))
    message = "state h has shape (1, 3, 6), expected (1, 3, 2)"
    refused(lambda: module(X, (c, c)), ValueError, message)


@layers
@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0, 1], "lengths holds 0, expected 1 <= length <= T=5"),
        ([3, -2, 1], "lengths holds -2, expected 1 <= length <= T=5"),
        ([3, 6, 1], "lengths holds 6, expected 1 <= length <= T=5"),
    ],
)
@pytest.mark.parametrize("container", [list, np.array, jnp.array])
def test_a_layer_refuses_known_lengths_out_of_range(name, lengths, message, container):
    module = build(name)
    refused(lambda: module(X, lengths=container(lengths)), ValueError, message)


@cells
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (zeros(1, B, I), ValueError, "x has shape (1, 3, 4), expected 2 dimensions, or 1 without"),
        (zeros(B, H), ValueError, "x has shape (3, 6), expected a last dimension of input_size=4"),
        (zeros(B, I, dtype=int), TypeError, "x has dtype int64, expected a floating dtype"),
        (zeros(B, I, dtype="float64"), ValueError, "x has dtype float64, expected the parameters'"),
    ],
)
def test_a_cell_refuses_an_input(name, x, error, message):
    refused_with_and_without_jit(name, build(name), x, error, message)


@pytest.mark.parametrize(
    ("name", "state", "error", "message"),
    [
        ("GRUCell", zeros(B, P), ValueError, "state h has shape (3, 2), expected (3, 6)"),
        ("RNNCell", zeros(B, H, dtype=int), TypeError, "state h has dtype int64, expected a fl"),
        ("LSTMCell", zeros(B, H), TypeError, "expected a tuple (h, c)"),
        (
            "LSTMCell",
            (zeros(B, H), zeros(H)),
            ValueError,
            "state c has shape (6,), expected (3, 6)",
        ),
    ],
)
def test_a_cell_refuses_a_state(name, state, error, message):
    module, x = build(name), zeros(B, I)
    call = lambda state: module(x, state)  # noqa: E731
    refused_with_and_without_jit(name, call, state, error, message)


@pytest.mark.parametrize(
    ("kind", "args", "error", "message"),
    [
        (Linear, (0, H), ValueError, "in_features is 0, expected at least 1"),
        (Linear, (I, True), TypeError, "out_features is True, expected an int"),
        (Linear, (I, H, 1), TypeError, "bias is 1, expected a bool"),
        (Embedding, (0, H), ValueError, "num_embeddings is 0, expected at least 1"),
        (Embedding, (7, 1.5), TypeError, "embedding_dim is 1.5, expected an int"),
    ],
)
def test_linear_and_embedding_refuse_sizes(unchecked, kind, args, error, message):
    refused(lambda: kind(*args, rngs=nnx.Rngs(0)), error, message)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dtype": "foo"}, TypeError, "dtype is 'foo', expected a floating dtype"),
        ({"param_dtype": None}, TypeError, "param_dtype is None, expected a floating dtype"),
        ({"backend": ["scan"]}, ValueError, r"backend is \['scan'\], expected one of"),
        ({"rngs": 0}, TypeError, "rngs is int, expected flax.nnx.Rngs"),
        ({"rngs": None}, TypeError, "rngs is NoneType, expected flax.nnx.Rngs"),
        ({"rngs": nnx.Rngs(params=0)}, ValueError, "rngs has no stream 'dropout'"),
    ],
    ids=str,
)
def test_odd_arguments_are_named_too(unchecked, options, error, message):
    with pytest.raises(error, match=message):
        jaxrnn.LSTM(4, 6, 2, dropout=0.5, **({"rngs": nnx.Rngs(0)} | options))


def test_what_is_no_array_is_named(unchecked):
    lstm: Any = jaxrnn.LSTM(4, 6, rngs=nnx.Rngs(0))
    x = np.zeros((5, 3, 4), np.float32)
    with pytest.raises(TypeError, match="LSTM: x is a NoneType, expected an array"):
        lstm(None)
    with pytest.raises(TypeError, match="LSTM: x is a str, expected an array"):
        lstm("abc")
    with pytest.raises(TypeError, match="LSTM: state h is a NoneType, expected an array"):
        lstm(x, (None, None))
    with pytest.raises(TypeError, match="LSTM: lengths is a list, expected an array"):
        lstm(x, lengths=[[1], [1, 2]])


# --- ids in place of one-hot rows ---


@pytest.mark.parametrize("batch_first", [False, True])
def test_ids_stand_for_one_hot_rows(batch_first):
    module = build("LSTM", num_layers=2, bidirectional=True, batch_first=batch_first)
    ids = np.random.default_rng(0).integers(0, I, (B, T) if batch_first else (T, B))
    dense = jax.nn.one_hot(ids, I, dtype=jnp.float32)
    lengths = jnp.array([T, 2, 1])[:B]
    close = functools.partial(assert_close, dtype="float32")
    for options in ({}, {"lengths": lengths}):
        expected = module(dense, **options)
        jax.tree.map(close, module(ids, one_hot=True, **options), expected)
    expected = module(dense[0])
    jax.tree.map(close, module(ids[0], one_hot=True), expected)


def test_what_is_no_id_is_said():
    module = build("GRU")
    with pytest.raises(TypeError, match=r"GRU: x has dtype float64, expected integers"):
        module(jnp.zeros((T, B)), one_hot=True)
    with pytest.raises(ValueError, match=r"GRU: x has shape \(5, 3, 4\), expected 1 or 2 dim"):
        module(jnp.zeros((5, 3, 4), jnp.int32), one_hot=True)
    with pytest.raises(ValueError, match=r"at least one time step"):
        module(jnp.zeros((0, B), jnp.int32), one_hot=True)
