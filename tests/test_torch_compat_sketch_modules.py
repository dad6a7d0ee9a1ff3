"""The twin of sketch-rnn: the same outputs and gradients, and the same drawings by each point."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close

from jaxrnn.models import split
from jaxrnn.models.sketch_drawing import Pen, draws_at
from jaxrnn.models.sketch_rnn import SketchRNN
from torch_compat import sketch_modules

B, T = 3, 5
SIZES: dict[str, Any] = {
    **{"hidden_size": 6, "encoder_size": 4, "latent_size": 2, "num_mixtures": 3, "class_size": 7},
}
KINDS = {
    "vae": {},
    "unconditional": {"conditional": False},
    "classes": {"num_classes": 2},
    "classes alone": {"conditional": False, "num_classes": 2},
    "layer_norm": {"decoder": "layer_norm"},
    "hyper": {"decoder": "hyper", "conditional": False},
}


def both_of(kind, dtype="float64"):
    """Ours as skeleton and parameters, and the twin with the same ones."""
    options = SIZES | KINDS[kind]
    model = SketchRNN(**options, rngs=nnx.Rngs(0), param_dtype=jnp.dtype(dtype))
    model.eval()
    skeleton, params = split(model)
    for k, (name, param) in enumerate(params.items()):  # none near zero
        noise = jax.random.normal(jax.random.key(k), param.shape, param.dtype)
        params[name] = param + 0.2 * noise
    params["output.bias"] = params["output.bias"].at[2].set(-3.0)  # far from the end
    twin = sketch_modules.SketchRNN(**options).to(getattr(torch, dtype))
    state = {name: torch.tensor(np.asarray(value)) for name, value in params.items()}
    twin.load_state_dict(state)
    return skeleton, params, twin


def inputs_of(kind):
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [rng.normal(size=(B, T, 2)), np.eye(3)[rng.integers(0, 2, (B, T))]], axis=-1
    )
    options = KINDS[kind]
    z = rng.normal(size=(B, 2)) if options.get("conditional", True) else None
    classes = np.array([1, 0, 1]) if options.get("num_classes") else None
    return points, z, classes


def as_tensor(value):
    return None if value is None else torch.tensor(value)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_states_and_gradients_are_ours(kind):
    skeleton, params, twin = both_of(kind)
    points, z, classes = inputs_of(kind)

    def run(params):
        model = skeleton.merge(params)
        known = None if classes is None else jnp.asarray(classes)
        context = model.context(None if z is None else jnp.asarray(z), known)
        state = model.initial_state(context, B)
        outputs, state = model.decode(jnp.asarray(points), context, state)
        return jnp.sin(outputs).sum(), (outputs, state)

    grads, (outputs, state) = jax.jit(jax.grad(run, has_aux=True))(params)
    theirs, last = twin(torch.tensor(points), z=as_tensor(z), classes=as_tensor(classes))
    theirs.sin().sum().backward()
    assert_close(outputs, theirs.detach())
    for one, other in zip(state, last, strict=True):
        assert_close(one, other.detach())
    for name, parameter in twin.named_parameters():
        if parameter.grad is None:
            assert name.split(".")[0] in ("encoder", "mu", "presig")
        else:
            assert_close(grads[name], parameter.grad, what=name)


def test_drawings_are_encoded_alike():
    skeleton, params, twin = both_of("vae")
    points, _, _ = inputs_of("vae")
    lengths = np.array([5, 1, 3], np.int32)
    mu, presig = skeleton.merge(params).encode(jnp.asarray(points), jnp.asarray(lengths))
    theirs = twin.encode(torch.tensor(points), torch.tensor(lengths))
    assert_close(mu, theirs[0].detach())
    assert_close(presig, theirs[1].detach())


@pytest.mark.parametrize("convention", ["paper", "magenta"])
@pytest.mark.parametrize("kind", ["vae", "classes", "hyper"])
def test_the_same_random_numbers_draw_the_same(kind, convention):
    skeleton, params, twin = both_of(kind)
    _, z, classes = inputs_of(kind)
    key, length = jax.random.key(2), 12
    prefix = np.array([[0.3, -0.2, 0], [1, 1, 1]], np.float32)
    options: dict[str, Any] = {"temperature": 0.7, "convention": convention}
    ours = Pen((skeleton, params)).drawings(
        *(key,),
        **{"count": B, "length": length, "prefix": prefix, "z": z, "classes": classes, **options},
    )
    draws = [draws_at(key, jnp.int32(k), B) for k in range(length)]
    uniform, normal = (
        torch.tensor(np.stack([np.asarray(d[part]) for d in draws], axis=1)) for part in (0, 1)
    )
    more: Any = {"z": as_tensor(z), "classes": as_tensor(classes)}
    more |= {"prefix": torch.tensor(prefix), "draws": (uniform, normal)}
    theirs = twin.draw(B, length, **options, **more)
    assert max(map(len, ours)) > 3
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one, other, "float32")


def test_what_is_not_given_is_drawn_and_the_unit_is_the_datas():
    _, _, twin = both_of("classes")
    strokes = {"scale": 50.0, "num_points": 9, "extent": 300.0, "classes": ["cat", "dog"]}
    other = sketch_modules.SketchRNN(**twin.arguments, strokes=strokes).double()
    other.load_state_dict(twin.state_dict())
    assert (other.strokes, other.arguments) == (strokes, twin.arguments)
    prefix = torch.tensor([[3.0, -2, 0], [10, 10, 1]])

    def drawn(model, seed, length=0, **options):
        generator = torch.Generator().manual_seed(seed)
        return model.draw(4, length, generator=generator, **options)

    # The random numbers come in the order z, uniform, normal.
    generator = torch.Generator().manual_seed(1)
    z = torch.randn((4, 2), generator=generator).double()
    draws: Any = tuple(
        make((4, 9, 2), generator=generator).double() for make in (torch.rand, torch.randn)
    )
    given: dict[str, Any] = {"z": z, "draws": draws, "classes": torch.tensor([0, 0, 0, 0])}
    for one, two, plain in zip(
        drawn(other, 1, prefix=50 * prefix * torch.tensor([1, 1, 1 / 50])),
        other.draw(4, 9, prefix=50 * prefix * torch.tensor([1, 1, 1 / 50]), **given),
        drawn(twin, 1, 9, prefix=prefix),
        strict=True,
    ):
        assert torch.equal(one, two)
        assert_close(one, plain * torch.tensor([50, 50, 1]))
    assert max(len(one) for one in drawn(other, 1)) == 9
    assert not torch.equal(drawn(other, 2)[0][:1], drawn(other, 1)[0][:1])
    with pytest.raises(ValueError, match=r"\(4, 9, 2\) and \(4, 9, 2\), expected \(3, 9, 2\)"):
        other.draw(3, 9, draws=draws)


def test_drawing_ends_with_the_last_drawing():
    _, _, twin = both_of("unconditional")
    twin.output.bias.data[2] = 9.0
    calls = []
    twin.decoder.register_forward_hook(lambda *_: calls.append(1))
    assert [len(drawing) for drawing in twin.draw(3, 50, temperature=0.1)] == [0, 0, 0]
    assert len(calls) == 1


def test_what_a_twin_needs_is_said():
    _, _, twin = both_of("classes")
    with pytest.raises(ValueError, match="z or classes is None"):
        twin(torch.zeros(1, 2, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="decoder is 'gru', expected one of lstm, layer_norm"):
        sketch_modules.SketchRNN(decoder="gru")
