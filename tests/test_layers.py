"""The layers beside torch.nn: constructors, parameters, modes, shapes."""

import functools
import inspect
import typing
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from layer_cases import (
    CELLS,
    LAYERS,
    LENGTHS,
    B,
    H,
    I,
    P,
    T,
    build,
    build_twin,
    call,
    layers,
    members,
    normal,
    parameters,
    states,
    to_torch,
)
from tolerances import assert_close

import jaxrnn

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
        *([("recurrent_dropout", 0.0)] if name == "LSTM" else []),
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


# Ids in place of one-hot rows.


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
