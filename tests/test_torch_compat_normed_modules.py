"""LayerNormLSTM and HyperLSTM in torch beside jaxrnn's, in float64: outputs, states, gradients."""

import inspect
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close
from twins import filled

from jaxrnn import normed_layers
from jaxrnn.models import split
from torch_compat import normed_modules

B, T, I, H, K, E = 3, 5, 4, 6, 7, 2
HYPER: dict[str, Any] = {"hyper_size": K, "embedding_size": E}
NAMES = {"LayerNormLSTM": {}, "HyperLSTM": HYPER}

layers = pytest.mark.parametrize("name", NAMES)


def build(name, **options) -> Any:
    return getattr(normed_modules, name)(I, H, **NAMES[name], **options)


def build_pair(name, **options):
    """Ours with parameters from NumPy, and its twin with the same."""
    make = getattr(normed_layers, name)
    options = {**NAMES[name], **options}
    ours = filled(
        lambda: make(I, H, rngs=nnx.Rngs(0), param_dtype=jnp.float64, **options), "float64"
    )
    twin = getattr(normed_modules, name)(I, H, **options).double()
    twin.load_state_dict({n: torch.tensor(np.asarray(p)) for n, p in split(ours)[1].items()})
    return ours, twin


def example(twin):
    """x in the layout of the module, and a state, in NumPy."""
    rng = np.random.default_rng(1)
    lead = (B, T) if twin.batch_first else (T, B)
    shapes = [tuple(s.shape) for s in twin.initial_state(B)]
    return rng.normal(size=(*lead, I)), [rng.normal(size=s) for s in shapes]


@layers
@pytest.mark.parametrize("batch_first", [False, True])
def test_a_twin_gives_the_layers_outputs_states_and_gradients(name, batch_first):
    ours, twin = build_pair(name, batch_first=batch_first)
    skeleton, params = split(ours)
    x, state = example(twin)
    rng = np.random.default_rng(2)
    dy, *dstate = (rng.normal(size=s) for s in ((*x.shape[:2], H), *(s.shape for s in state)))

    def run(params, x, state):
        y, last = skeleton.merge(params)(x, state)
        total = (y * dy).sum() + sum((s * d).sum() for s, d in zip(last, dstate, strict=True))
        return total, (y, *last)

    gradient = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    inputs = params, jnp.asarray(x), tuple(map(jnp.asarray, state))
    (dparams, dx, dstate_in), outputs = gradient(*inputs)

    x_t, *state_t = (torch.tensor(a, requires_grad=True) for a in (x, *state))
    y, last = twin(x_t, tuple(state_t))
    for k, (theirs, expected) in enumerate(zip((y, *last), outputs, strict=True)):
        assert_close(theirs.detach(), expected, what=f"output {k}")
    torch.autograd.backward([y, *last], [torch.tensor(d) for d in (dy, *dstate)])
    found = {n: p.grad for n, p in twin.named_parameters()}
    assert set(found) == set(dparams)
    for key, value in found.items():
        assert_close(value, dparams[key], what=key)
    for k, (leaf, expected) in enumerate(zip((x_t, *state_t), (dx, *dstate_in), strict=True)):
        assert_close(leaf.grad, expected, what=f"input {k}")


@layers
def test_without_a_state_it_starts_from_zeros(name):
    ours, twin = build_pair(name)
    x, _ = example(twin)
    y, last = twin(torch.tensor(x))
    assert [tuple(s.shape) for s in last] == [s.shape for s in ours.initial_state(B)]
    assert {s.dtype for s in twin.initial_state(B)} == {torch.float64}
    expected = ours(x)
    for theirs, value in zip((y, *last), (expected[0], *expected[1]), strict=True):
        assert_close(theirs.detach(), value)


@layers
def test_a_step_is_one_of_the_sequence(name):
    _, twin = build_pair(name)
    x, state = example(twin)
    x, members = torch.tensor(x), tuple(torch.tensor(s)[0] for s in state)
    y, last = twin(x, tuple(m[None] for m in members))
    for t in range(T):
        members = twin.step(x[t], members)
        assert torch.equal(members[0], y[t])
    assert all(torch.equal(m[None], s) for m, s in zip(members, last, strict=True))


@layers
def test_dropout_scales_the_main_candidate_in_training_alone(name):
    keep = 0.6
    plain, twin = build_pair(name)[1], build_pair(name, recurrent_dropout=1 - keep)[1]
    assert twin.training
    x = torch.tensor(example(twin)[0])
    torch.manual_seed(0)
    same = x[:1, :1].expand(1, 4000, I)
    with torch.no_grad():
        _, (_, c, *hyper) = twin(same)
        _, (_, expected, *hyper_expected) = plain(same)
    ratio = (c / expected).numpy()  # c starts as zeros: it is i * g
    kept = ratio > 0.5
    assert_close(ratio, kept / keep)
    assert abs(kept.mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / kept.size)
    for a, b in zip(hyper, hyper_expected, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(twin(x)[0], twin(x)[0])
    twin.eval()
    assert torch.equal(twin(x)[0], plain(x)[0])


@layers
def test_it_starts_as_the_layer_does(name):
    torch.manual_seed(0)
    make, twin = getattr(normed_layers, name), build(name)
    params = split(make(I, H, rngs=nnx.Rngs(0), **NAMES[name]))[1]
    found = {n: p.detach().numpy() for n, p in twin.named_parameters()}
    assert {n: p.shape for n, p in found.items()} == {n: p.shape for n, p in params.items()}
    for key, value in found.items():
        if key.endswith("weight_hh"):
            for block in np.split(value, 4):
                assert_close(block @ block.T, np.eye(len(block)), "float32")
        elif key.endswith("weight_ih"):
            bound = np.sqrt(6 / sum(value.shape))
            assert 0.8 * bound < np.abs(value).max() <= bound
        elif key == "zb_weight":
            assert 0.005 < value.std() < 0.015
        else:
            np.testing.assert_array_equal(value, params[key], key)


@layers
def test_arguments_are_those_of_the_layer(name):
    twin = build(name, batch_first=True, recurrent_dropout=0.25)
    ours = getattr(normed_layers, name)(
        I, H, rngs=nnx.Rngs(0), batch_first=True, recurrent_dropout=0.25, **NAMES[name]
    )
    names = ("input_size", "hidden_size", "batch_first", "recurrent_dropout", *NAMES[name])
    assert {n: getattr(twin, n) for n in names} == {n: getattr(ours, n) for n in names}


@layers
def test_defaults_are_those_of_the_layer(name):
    ours, theirs = (
        inspect.signature(getattr(module, name).__init__).parameters
        for module in (normed_layers, normed_modules)
    )
    jax_only = ("rngs", "dtype", "param_dtype")
    expected = {n: p.default for n, p in ours.items() if n not in jax_only}
    assert {n: p.default for n, p in theirs.items()} == expected


def test_torch_is_all_that_the_file_needs():
    code = (
        "import runpy, sys\n"
        "found = runpy.run_path(sys.argv[1])\n"
        "import torch\n"
        "y, state = found['HyperLSTM'](4, 6)(torch.zeros(2, 3, 4))\n"
        "assert not {'jax', 'flax', 'jaxrnn', 'torch_compat'} & set(sys.modules)\n"
        "print(tuple(y.shape), len(state))\n"
    )
    arguments = [sys.executable, "-c", code, normed_modules.__file__]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("(2, 3, 6) 4\n", 0), done.stderr
