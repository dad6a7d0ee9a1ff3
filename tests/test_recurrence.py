"""The reference against NumPy, every backend against the reference, and what all must keep.

The NumPy loop takes one sequence at a time, visits its steps in running order and knows nothing of
masks. It also runs on complex numbers: a step of ``1e-30j`` in one argument gives that argument's
derivative to the last bits of float64, where a real difference would lose half of them.
"""

import functools
import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from recurrence_cases import (
    EPISODES,
    LENGTHS,
    MASKS,
    RESETS,
    B,
    H,
    T,
    a_few_kinds_and_directions,
    assert_same,
    backends,
    directions,
    each_kind_and_direction,
    everything,
    fast_backends,
    kinds,
    loss_of,
    make,
    masks,
    named,
    reference_results,
    results,
)
from tolerances import assert_close

from jaxrnn.recurrence import run

# The NumPy loop.


def numpy_sigmoid(a):
    return 1 / (1 + np.exp(-a))


def numpy_step(name, a, b, state):
    if name == "rnn_tanh":
        return [np.tanh(a + b)]
    if name == "rnn_relu":
        return [np.where((a + b).real > 0, a + b, 0)]
    if name == "lstm":
        i, f, g, o = np.split(a + b, 4)
        c = numpy_sigmoid(f) * state[1] + numpy_sigmoid(i) * np.tanh(g)
        return [numpy_sigmoid(o) * np.tanh(c), c]
    (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(a, 3), np.split(b, 3)
    r, z = numpy_sigmoid(r_x + r_h), numpy_sigmoid(z_x + z_h)
    n = np.tanh(n_x + r * n_h)
    return [(1 - z) * n + z * state[0]]


def numpy_run(name, weights, x, state, lengths=None, resets=None, reverse=False):
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    num_steps, batch_size, _ = x.shape
    lengths = [num_steps] * batch_size if lengths is None else lengths
    dtype = np.result_type(x, *state, *(w for w in weights if w is not None))
    y = np.zeros((num_steps, batch_size, state[0].shape[-1]), dtype)
    last = [np.array(s, dtype) for s in state]
    for b in range(batch_size):
        episode = np.cumsum(np.zeros(num_steps) if resets is None else resets[:, b])
        if resets is not None and resets[0, b] and not reverse:
            for s in last:
                s[b] = 0
        before = None
        for t in range(lengths[b])[:: -1 if reverse else 1]:
            now = [s[b] for s in last]
            if before is not None and episode[t] != episode[before]:
                now = [np.zeros_like(s) for s in now]
            gates_x, gates_h = w_ih @ x[t, b], w_hh @ now[0]
            if b_ih is not None:
                gates_x, gates_h = gates_x + b_ih, gates_h + b_hh
            now = numpy_step(name, gates_x, gates_h, now)
            if w_hr is not None:
                now[0] = w_hr @ now[0]
            for s, n in zip(last, now, strict=True):
                s[b] = n
            y[t, b], before = now[0], t
    return y, last


def numpy_results(case, **options):
    leaves, tree = jax.tree.flatten(case.arguments)
    leaves = [np.asarray(leaf, np.float64) for leaf in leaves]
    targets = [np.asarray(w) for w in (case.y_weight, *case.state_weights)]

    def forward(leaves):
        return numpy_run(case.cell.name, *jax.tree.unflatten(tree, leaves), **options)

    def loss(leaves):
        y, last = forward(leaves)
        return sum((v * w).sum() for v, w in zip((y, *last), targets, strict=True))

    grads = [np.empty_like(leaf) for leaf in leaves]
    for k, leaf in enumerate(leaves):
        for index in np.ndindex(leaf.shape):
            moved = leaf.astype(complex)
            moved[index] += 1e-30j
            grads[k][index] = loss([*leaves[:k], moved, *leaves[k + 1 :]]).imag / 1e-30
    return named(*forward(leaves), jax.tree.unflatten(tree, grads))


@kinds
@directions
@masks
def test_the_reference_is_the_numpy_loop(kind, reverse, mask):
    options = {n: np.asarray(a) for n, a in MASKS[mask].items()}
    expected = numpy_results(make(kind), reverse=reverse, **options)
    assert_same(reference_results(kind, reverse, mask), expected)


@kinds
def test_the_reference_without_biases_is_the_numpy_loop(kind):
    options = {n: np.asarray(a) for n, a in MASKS["both"].items()}
    expected = numpy_results(make(kind, bias=False), **options)
    assert_same(reference_results(kind, False, "both", bias=False), expected)


@kinds
def test_the_reference_agrees_with_finite_differences_in_both_modes(kind):
    case = make(kind, num_steps=3)
    loss = loss_of(case, backend="reference", lengths=jnp.array([3, 2, 1]))
    check_grads(jax.jit(loss), case.arguments, order=1, modes=("fwd", "rev"))


@fast_backends
@kinds
@directions
@pytest.mark.parametrize(("mask", "bias"), [*((mask, True) for mask in MASKS), ("both", False)])
def test_a_backend_is_the_reference(backend, kind, reverse, mask, bias):
    case = make(kind, bias=bias)
    found = results(case, backend=backend, reverse=reverse, **MASKS[mask])
    assert_same(found, reference_results(kind, reverse, mask, bias=bias))


@fast_backends
@kinds
@directions
@pytest.mark.parametrize(
    ("mask", "dtype"), [("none", "float32"), ("both", "float32"), ("both", "bfloat16")]
)
def test_a_backend_is_the_reference_in_narrow_types(backend, kind, reverse, mask, dtype):
    case = make(kind, dtype=dtype)
    found = results(case, backend=backend, reverse=reverse, **MASKS[mask])
    for name, value in found.items():
        narrow = name in ("y", "gradient of x")
        assert value.dtype == (dtype if narrow else "float32"), name
    assert_same(found, reference_results(kind, reverse, mask, dtype=dtype), dtype)


@backends
@kinds
def test_parameters_in_bfloat16_get_gradients_in_bfloat16(backend, kind):
    case = make(kind, dtype="bfloat16", param_dtype="bfloat16")
    dtypes = jax.eval_shape(lambda: results(case, backend=backend, jit=lambda f: f))
    for name, value in dtypes.items():
        assert value.dtype == ("float32" if "state" in name else "bfloat16"), name


# Hypothesis draws lengths and episodes for functions that are compiled once.


@functools.cache
def compiled(backend, kind, reverse):
    case = make(kind)

    def masked(lengths, resets):
        options = {"lengths": lengths, "resets": resets, "reverse": reverse, "backend": backend}
        return run(case.cell, *case.arguments, **options)

    return jax.jit(masked)


@backends
@kinds
@directions
@hypothesis.settings(max_examples=10, deadline=None, derandomize=True)
@hypothesis.given(
    lengths=st.lists(st.integers(1, T), min_size=B, max_size=B),
    resets=st.lists(st.booleans(), min_size=T * B, max_size=T * B),
)
def test_any_lengths_and_any_resets(backend, kind, reverse, lengths, resets):
    case, resets = make(kind), np.reshape(resets, (T, B))
    weights, x, state = jax.tree.map(np.asarray, case.arguments)
    y, last = compiled(backend, kind, reverse)(jnp.array(lengths), jnp.array(resets))
    right_y, right_last = numpy_run(case.cell.name, weights, x, state, lengths, resets, reverse)
    assert_close(y, right_y, what="y")
    for value, right in zip(last, right_last, strict=True):
        assert_close(value, right, what="last state")


@backends
@each_kind_and_direction
def test_padding_has_no_influence_and_no_gradient(backend, kind, reverse):
    case = make(kind)
    padding = np.arange(T)[:, None] >= np.asarray(LENGTHS)

    @jax.jit
    def both_ways(x, resets):
        options = {"reverse": reverse, "backend": backend, "lengths": LENGTHS, "resets": resets}
        return results(case._replace(x=x), jit=lambda f: f, **options)

    expected = both_ways(case.x, RESETS)
    for junk in (np.nan, np.inf, -np.inf, 1e300):
        found = both_ways(jnp.where(padding[..., None], junk, case.x), RESETS ^ padding)
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value, name)
        assert np.all(np.asarray(found["y"])[padding] == 0)
        assert np.all(np.asarray(found["gradient of x"])[padding] == 0)
    assert np.any(np.asarray(expected["gradient of x"])[~padding] != 0)


@backends
@a_few_kinds_and_directions
def test_a_sequence_is_its_three_chunks(backend, kind, reverse):
    case = make(kind)
    # Backwards, an episode's end shows in the step after it, which a chunk can't see.
    resets = None if reverse else RESETS
    chunks = [slice(0, 2), slice(2, 3), slice(3, 5)]

    options = {"reverse": reverse, "backend": backend}

    def chunked(weights, x, state):
        ys = {}
        for chunk in chunks[:: -1 if reverse else 1]:
            part = None if resets is None else resets[chunk]
            ys[chunk.start], state = run(
                case.cell, weights, x[chunk], state, resets=part, **options
            )
        return jnp.concatenate([ys[c.start] for c in chunks]), state

    def whole(*arguments):
        return run(case.cell, *arguments, resets=resets, **options)

    assert_same(everything(case, chunked), everything(case, whole))


@backends
@pytest.mark.parametrize("kind", ["rnn_relu", "lstm_proj", "gru"])
def test_reverse_is_a_flip(backend, kind):
    case = make(kind)
    t, length = np.arange(T)[:, None], np.asarray(LENGTHS)[None]
    mirrored = np.where(t < length, length - 1 - t, t), np.arange(B)[None]

    def direct(*arguments):
        return run(case.cell, *arguments, reverse=True, lengths=LENGTHS, backend=backend)

    def flipped(weights, x, state):
        x = x[mirrored]
        y, last = run(case.cell, weights, x, state, lengths=LENGTHS, backend=backend)
        return y[mirrored], last

    assert_same(everything(case, direct), everything(case, flipped))


def influence(backend, case, reverse, **arrays):
    """(T, T, B) bools: does the output at a step depend on the input at another one?"""

    def outputs(x):
        y, _ = run(
            case.cell, case.weights, x, case.state, reverse=reverse, backend=backend, **arrays
        )
        return jnp.einsum("tbp,tbp->tb", y, case.y_weight)

    jacobian = np.asarray(jax.jit(jax.jacrev(outputs))(case.x))  # (T, B, T, B, I)
    return np.einsum("tbsbi->tsbi", jacobian != 0).any(-1)


@backends
@each_kind_and_direction
def test_outputs_hang_on_the_steps_before_and_no_others(backend, kind, reverse):
    case = make(kind)
    t, s = np.arange(T)[:, None], np.arange(T)[None, :]
    before = (s >= t) if reverse else (s <= t)
    found = influence(backend, case, reverse)
    assert not found[~before].any()
    assert found[before].all()

    episode = np.cumsum(EPISODES, 0)
    same = episode[:, None] == episode[None, :]
    found = influence(backend, case, reverse, resets=RESETS)
    assert not found[~same].any()
    np.testing.assert_array_equal(found, same & before[..., None])


@backends
@each_kind_and_direction
def test_joined_episodes_are_the_episodes_apart(backend, kind, reverse):
    """Only the episode that is run first starts from the given state, all others from zeros."""
    case = make(kind)
    starts = [0, 2, 3]
    episodes = [slice(a, b) for a, b in itertools.pairwise([*starts, T])]
    first, final = (episodes[-1], episodes[0]) if reverse else (episodes[0], episodes[-1])
    resets = jnp.zeros((T, B), bool).at[jnp.array(starts[1:])].set(True)
    options = {"reverse": reverse, "backend": backend}

    def apart(weights, x, state):
        ys, lasts = [], {}
        for episode in episodes:
            start = state if episode is first else tuple(map(jnp.zeros_like, state))
            y, lasts[episode.start] = run(case.cell, weights, x[episode], start, **options)
            ys.append(y)
        return jnp.concatenate(ys), lasts[final.start]

    def joined(weights, x, state):
        return run(case.cell, weights, x, state, resets=resets, **options)

    assert_same(everything(case, joined), everything(case, apart))


@fast_backends
@each_kind_and_direction
def test_second_derivatives_are_the_references(backend, kind, reverse):
    case = make(kind)
    direction = jax.tree.map(
        lambda a: jnp.cos(jnp.arange(a.size) + 1.0).reshape(a.shape), case.arguments
    )

    def curvature(backend):
        loss = loss_of(case, reverse=reverse, backend=backend, **MASKS["both"])
        grad = jax.grad(loss, argnums=(0, 1, 2))

        def slope(*arguments):
            products = jax.tree.map(lambda g, d: jnp.sum(g * d), grad(*arguments), direction)
            return sum(jax.tree.leaves(products))

        return jax.jit(jax.grad(slope, argnums=(0, 1, 2)))(*case.arguments)

    found, expected = curvature(backend), curvature("reference")
    for value, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(value, right)


@fast_backends
@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm", "gru"])
def test_second_derivatives_outside_jit_are_those_within(backend, kind):
    """Arrays between compiled parts may lie otherwise in memory than within one program."""
    case = make(kind)
    grad = jax.grad(loss_of(case, backend=backend, **MASKS["both"]))

    def size(weights):
        return sum(jnp.sum(g * g) for g in jax.tree.leaves(grad(weights, case.x, case.state)))

    found, expected = jax.grad(size)(case.weights), jax.jit(jax.grad(size))(case.weights)
    for value, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(value, right)


@kinds
def test_gradients_of_gradients_agree_with_finite_differences(kind):
    case = make(kind, num_steps=2)
    loss = loss_of(case, backend="reference")
    check_grads(jax.jit(loss), case.arguments, order=2, modes=["rev"])


@fast_backends
@kinds
def test_the_hessian_goes_forward_over_reverse(backend, kind):
    case = make(kind)

    def hessian(backend):
        loss = loss_of(case, backend=backend, **MASKS["both"])
        return jax.jit(jax.hessian(lambda state: loss(case.weights, case.x, state)))(case.state)

    found, expected = jax.tree.leaves(hessian(backend)), jax.tree.leaves(hessian("reference"))
    for value, right in zip(found, expected, strict=True):
        assert_close(value, right)


@each_kind_and_direction
def test_forward_mode_through_the_reference_is_reverse_mode(kind, reverse):
    case = make(kind)

    def outputs(x):
        options = {"reverse": reverse, "backend": "reference", **MASKS["both"]}
        return run(case.cell, case.weights, x, case.state, **options)

    forward, backward = jax.jit(lambda x: (jax.jacfwd(outputs)(x), jax.jacrev(outputs)(x)))(case.x)
    for value, right in zip(jax.tree.leaves(forward), jax.tree.leaves(backward), strict=True):
        assert_close(value, right)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        (lambda f, x: jax.jvp(f, (x,), (x,)), "forward mode.*backend='reference'"),
        (lambda f, x: jax.jacfwd(f)(x), "forward mode.*backend='reference'"),
        # Here JAX finds out when the backend has returned: the message is its own.
        (lambda f, x: jax.jvp(jax.jit(f), (x,), (x,)), "forward-mode autodiff"),
        (lambda f, x: jax.linearize(f, x)[1](x), "forward-mode autodiff"),
    ],
    ids=["jvp", "jacfwd", "jvp of jit", "linearize"],
)
def test_forward_mode_through_scan_is_refused(mode, message):
    case = make("lstm")

    def outputs(x):
        return run(case.cell, case.weights, x, case.state, backend="scan")[0]

    with pytest.raises(TypeError, match=message):
        mode(outputs, case.x)


@backends
@pytest.mark.parametrize("kind", ["lstm_proj", "gru"])
def test_checkpoint_changes_nothing(backend, kind):
    case = make(kind)
    options = {"backend": backend, **MASKS["both"]}
    found = everything(case, jax.checkpoint(lambda *a: run(case.cell, *a, **options)))
    assert_same(found, results(case, **options))


@backends
@a_few_kinds_and_directions
def test_vmap_over_the_batch_is_the_batch(backend, kind, reverse):
    case = make(kind)

    def single(weights, x, state, lengths, resets):
        state = tuple(s[None] for s in state)
        options = {"lengths": lengths[None], "resets": resets[:, None], "reverse": reverse}
        y, last = run(case.cell, weights, x[:, None], state, backend=backend, **options)
        return y[:, 0], tuple(s[0] for s in last)

    mapped = jax.vmap(single, in_axes=(None, 1, 0, 0, 1), out_axes=(1, 0))
    found = everything(case, lambda w, x, state: mapped(w, x, state, LENGTHS, RESETS))
    options = {"reverse": reverse, "backend": backend, **MASKS["both"]}
    assert_same(found, results(case, **options))


@backends
@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm_proj", "gru"])
def test_vmap_over_parameters_is_an_ensemble(backend, kind):
    case = make(kind)
    members = [jax.tree.map(lambda w, k=k: w * k, case.weights) for k in (1.0, 0.5)]
    loss = loss_of(case, backend=backend, **MASKS["both"])
    step = jax.value_and_grad(lambda weights: loss(weights, case.x, case.state))
    stacked = jax.tree.map(lambda *w: jnp.stack(w), *members)
    found = jax.jit(jax.vmap(step))(stacked)
    single = jax.jit(step)
    expected = jax.tree.map(lambda *a: jnp.stack(a), *map(single, members))
    for value, right in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert_close(value, right)


@backends
def test_an_empty_batch_and_a_single_step_run(backend):
    case = make("lstm")
    weights, x, state = case.arguments
    y, last = run(case.cell, weights, x[:, :0], tuple(s[:0] for s in state), backend=backend)
    assert y.shape == (T, 0, H)
    assert [s.shape for s in last] == [(0, H)] * 2
    y, last = run(case.cell, weights, x[:1], state, backend=backend)
    assert_close(y[0], last[0])
