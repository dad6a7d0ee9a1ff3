"""The model against torch.nn's layers put together by the paper's equations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close

from jaxrnn.models import split
from jaxrnn.models.sketch_rnn import SketchRNN

B, T, H, E, Z, M, K, S = 3, 5, 6, 4, 2, 3, 2, 7
LENGTHS = np.array([5, 2, 4], np.int32)
SIZES: dict[str, Any] = {
    **{"hidden_size": H, "encoder_size": E, "latent_size": Z, "num_mixtures": M},
    **{"class_size": S, "param_dtype": jnp.float64},
}


def model_of(**options) -> SketchRNN:
    model = SketchRNN(**(SIZES | options), rngs=nnx.Rngs(0))
    model.eval()
    return model


def drawings():
    rng = np.random.default_rng(0)
    strokes = np.zeros((B, T + 1, 5))
    strokes[:, 0, 2] = 1
    for row, length in zip(strokes, LENGTHS, strict=True):
        row[1 : length + 1, :2] = rng.normal(size=(length, 2))
        row[1 : length + 1, 2:4] = np.eye(2)[rng.integers(0, 2, length)]
        row[length + 1 :, 4] = 1
    return strokes


def in_torch(model, strokes, noise, classes=None):
    """Outputs, mu and presig by torch.nn alone, from the parameters by their names."""
    params = {k: torch.tensor(np.asarray(v)) for k, v in split(model)[1].items()}

    def lstm_of(name, inputs, size, **options):
        lstm = torch.nn.LSTM(inputs, size, batch_first=True, dtype=torch.float64, **options)
        start = f"{name}."
        lstm.load_state_dict(
            {k.removeprefix(start): v for k, v in params.items() if k.startswith(start)}
        )
        return lstm

    def linear(name, x):
        return torch.nn.functional.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])

    x, parts, mu, presig = torch.tensor(strokes), [], None, None
    if "mu.weight" in params:
        encoder = lstm_of("encoder", 5, E, bidirectional=True)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            x[:, 1:], torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
        )
        _, (h, _) = encoder(packed)
        both = torch.cat([h[0], h[1]], -1)
        mu, presig = linear("mu", both), linear("presig", both)
        parts.append(mu + (presig / 2).exp() * torch.tensor(noise))
    if classes is not None:
        parts.append(params["classes.weight"][torch.tensor(classes)])
    inputs, state = [x[:, :-1]], None
    if parts:
        context = torch.cat(parts, -1)
        inputs.append(context[:, None].expand(-1, T, -1))
        h, c = linear("initial", context).tanh().split(H, -1)
        state = (h[None].contiguous(), c[None].contiguous())
    inputs = torch.cat(inputs, -1)
    y, _ = lstm_of("decoder", inputs.shape[-1], H)(inputs, state)
    return [None if v is None else v.detach() for v in (linear("output", y), mu, presig)]


@pytest.mark.parametrize("num_classes", [0, K])
@pytest.mark.parametrize("conditional", [True, False])
def test_the_model_is_torchs_layers_put_together(conditional, num_classes):
    model = model_of(conditional=conditional, num_classes=num_classes)
    strokes, classes = drawings(), np.array([1, 0, 1], np.int32) if num_classes else None
    for name, param in split(model)[1].items():  # initial values near zero would hide much
        if name.split(".")[0] in ("mu", "presig", "initial"):
            part = getattr(model, name.split(".")[0])
            getattr(part, name.split(".")[1])[...] = param + 0.3 * jax.random.normal(
                jax.random.key(len(name)), param.shape, param.dtype
            )
    known = None if classes is None else jnp.asarray(classes)
    outputs, latent = model(
        jnp.asarray(strokes), jnp.asarray(LENGTHS), known, rngs=nnx.Rngs(latent=5)
    )
    noise = np.asarray(jax.random.normal(nnx.Rngs(latent=5).latent(), (B, Z), jnp.float64))
    expected, mu, presig = in_torch(model, strokes, noise, classes)
    assert_close(outputs, expected)
    assert (latent is not None) == conditional
    if latent is not None:
        assert_close(latent.mu, mu)
        assert_close(latent.presig, presig)
        assert_close(latent.z, np.asarray(mu) + np.exp(np.asarray(presig) / 2) * noise)


@pytest.mark.parametrize("decoder", ["lstm", "layer_norm", "hyper"])
def test_every_decoder_goes_on_from_its_state_and_sees_no_later_point(decoder):
    model = model_of(decoder=decoder)
    strokes = jnp.asarray(drawings())
    context = model.context(jax.random.normal(jax.random.key(1), (B, Z), jnp.float64))
    state = model.initial_state(context, B)
    whole, last = model.decode(strokes[:, :-1], context, state)
    first, state = model.decode(strokes[:, :2], context, state)
    rest, state = model.decode(strokes[:, 2:-1], context, state)
    assert_close(jnp.concatenate([first, rest], 1), whole)
    jax.tree.map(assert_close, state, last)
    changed, _ = model.decode(
        strokes[:, :-1].at[:, 3].add(1), context, model.initial_state(context, B)
    )
    assert_close(changed[:, :3], whole[:, :3])
    assert np.abs(np.asarray(changed - whole))[:, 3].max() > 1e-6


def test_what_stands_after_a_drawings_end_does_not_reach_its_latent_vector():
    model, strokes = model_of(), jnp.asarray(drawings())
    for row, length in enumerate(LENGTHS):
        changed = strokes.at[row, length + 1 :].set(1e3)
        for found, expected in zip(
            model.encode(changed[:, 1:], jnp.asarray(LENGTHS)),
            model.encode(strokes[:, 1:], jnp.asarray(LENGTHS)),
            strict=True,
        ):
            np.testing.assert_array_equal(found, expected)


def test_initial_values_are_magentas():
    sizes: Any = {"hidden_size": 40, "encoder_size": 30, "latent_size": 20}
    params = split(model_of(**sizes, num_classes=K))[1]
    params = {k: np.asarray(v) for k, v in params.items()}
    for name, size, inputs in (
        ("decoder.{}_l0", 40, 5 + 20 + S),
        ("encoder.{}_l0", 30, 5),
        ("encoder.{}_l0_reverse", 30, 5),
    ):
        for gate in np.split(params[name.format("weight_hh")], 4):
            assert_close(gate @ gate.T, np.eye(size), "float32")
        limit = np.sqrt(6 / (inputs + 4 * size))
        weight_ih = params[name.format("weight_ih")]
        assert 0.95 * limit < np.abs(weight_ih).max() <= limit
        forget = np.repeat([0, 1, 0, 0], size)
        np.testing.assert_array_equal(params[name.format("bias_ih")], forget)
        assert not params[name.format("bias_hh")].any()
    for name in ("mu", "presig", "initial"):
        assert 0.9e-3 < params[f"{name}.weight"].std() < 1.1e-3
        assert not params[f"{name}.bias"].any()
    assert np.abs(params["output.weight"]).max() <= np.sqrt(6 / (40 + 21))
    assert params["output.bias"].any()


def test_at_magentas_sizes_it_has_magentas_parameters():
    model = nnx.eval_shape(lambda: SketchRNN(rngs=nnx.Rngs(0)))
    params = nnx.to_flat_state(nnx.state(model, nnx.Param))
    sizes = {
        path: np.prod(p.shape) for path, p in params if not str(path[-1]).startswith("bias_hh")
    }
    lstm = 4 * 512 * (5 + 128 + 512 + 1) + 2 * 4 * 256 * (5 + 256 + 1)
    assert sum(sizes.values()) == lstm + 2 * (512 + 1) * 128 + 129 * 1024 + 513 * 123


def test_what_a_model_lacks_is_said():
    model = model_of(conditional=False)
    with pytest.raises(ValueError, match="no encoder"):
        model.encode(jnp.zeros((1, 2, 5)), jnp.array([2]))
    with pytest.raises(ValueError, match="z is None"):
        model_of().context()
    with pytest.raises(ValueError, match="classes is None"):
        model_of(conditional=False, num_classes=K).context()
    with pytest.raises(KeyError):
        model_of(decoder="gru")
