"""Single steps, Linear and Embedding beside torch.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from layer_cases import (
    CELLS,
    B,
    H,
    I,
    T,
    build,
    build_twin,
    call,
    cells,
    copy_parameters,
    members,
    normal,
    parameters,
    states,
)
from tolerances import assert_close

from jaxrnn.dense import Embedding, Linear


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
