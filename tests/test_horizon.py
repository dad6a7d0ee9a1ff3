"""The forecasters of many steps beside loops, their own properties, and SegRNN's published code."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from tolerances import assert_close
from torch import nn

from jaxrnn.models import split
from jaxrnn.models.horizon import (
    HEADS,
    DirectForecaster,
    InstanceNorm,
    RecursiveForecaster,
    SegmentForecaster,
)

B, T, N, C, A, F, H = 3, 6, 5, 2, 1, 4, 8
RNG = np.random.default_rng(0)
LEVELS = {"point": (0.5,), "quantiles": (0.1, 0.5, 0.9), "student_t": (0.1, 0.5, 0.9)}
CELLS = ("lstm", "gru", "rnn")


def make(head: str, *, known=F, covariates=0, **options) -> Any:
    """In evaluation mode, in float64, normalisation away from where it begins."""
    kind = options.get("distribution", "point")
    more: dict[str, Any] = {"segment_len": 2} if head == "segments" else {}
    more |= {"horizon": N, "hidden_size": H, "levels": LEVELS[kind], "param_dtype": jnp.float64}
    model: Any = HEADS[head](C, covariates, known, **(more | options), rngs=nnx.Rngs(1))
    if options.get("normalize", "revin") == "revin":
        model.normalization.weight[...] = jnp.array([0.7, 1.4])
        model.normalization.bias[...] = jnp.array([0.3, -0.2])
    model.eval()
    return model


def inputs(known=F, covariates=0, steps=N):
    past = 2 + 3 * RNG.normal(size=(B, T, C + covariates + known))
    return jnp.asarray(past), jnp.asarray(RNG.normal(size=(B, steps, known)))


def run(model, *args):
    skeleton, params = split(model)
    call: Any = jax.jit(lambda params, *args: skeleton.merge(params)(*args))
    return np.asarray(call(params, *args))


# --- normalisation ---


@pytest.mark.parametrize("kind", ["none", "last", "revin"])
def test_shift_and_factor_by_hand(kind):
    past = RNG.normal(5, 3, (B, T, C))
    norm = InstanceNorm(C, kind, jnp.float64)
    weight, bias = np.array([0.7, 1.4]), np.array([0.3, -0.2])
    if norm.weight is not None and norm.bias is not None:
        norm.weight[...], norm.bias[...] = jnp.asarray(weight), jnp.asarray(bias)
    shift, factor = map(np.asarray, norm(jnp.asarray(past)))
    z = (past - shift) / factor
    if kind == "none":
        expected = past
    elif kind == "last":
        expected = past - past[:, -1:]
    else:
        mean, std = past.mean(1, keepdims=True), np.sqrt(past.var(1, keepdims=True) + 1e-5)
        expected = (past - mean) / std * weight + bias
    np.testing.assert_allclose(z, expected, rtol=1e-9, atol=1e-9)  # RevIN's own 1e-10 by the weight
    assert_close(z * factor + shift, past)


@pytest.mark.parametrize("head", HEADS)
def test_revin_and_last_move_with_the_past(head):
    """A past moved, and of revin stretched, by whole targets moves and stretches its forecast."""
    for kind, stretch in (("last", 1.0), ("revin", 1.7)):
        model = make(head, normalize=kind)
        past, known = inputs()
        move = jnp.asarray([4.0, -9.0]).reshape(1, 1, C)
        other = jnp.concatenate([stretch * past[..., :C] + move, past[..., C:]], -1)
        got, first = run(model, other, known)[..., 0], run(model, past, known)[..., 0]
        tolerance = 1e-9 if kind == "last" else 1e-4  # eps beside the variance
        np.testing.assert_allclose(got, stretch * first + np.asarray(move), atol=tolerance)


# --- heads ---


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("known", [0, F])
def test_direct_is_linear_in_the_last_state_and_adds_what_is_known(cell, known):
    model = make("direct", cell=cell, known=known, covariates=A, normalize="last", num_layers=2)
    past, ahead = inputs(known, A)
    values = np.asarray(past)
    z = values.copy()
    z[..., :C] -= values[:, -1:, :C]
    y = np.asarray(model.rnn(jnp.asarray(z))[0])
    params = {k: np.asarray(v) for k, v in split(model)[1].items()}
    expected = np.zeros((B, N, C))
    for b in range(B):
        h = y[b, -1]
        flat = params["decoder.weight"] @ h + params["decoder.bias"]
        for n in range(N):
            step = flat[n * C : (n + 1) * C].copy()
            if known:
                joint = np.concatenate([h, np.asarray(ahead)[b, n]])
                hidden = params["known_hidden.weight"] @ joint + params["known_hidden.bias"]
                step += params["known_decoder.weight"] @ np.maximum(hidden, 0)
                step += params["known_decoder.bias"]
            expected[b, n] = step + values[b, -1, :C]
    assert_close(run(model, past, ahead)[..., 0], expected)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("distribution", ["point", "quantiles"])
def test_recursive_reads_its_own_points(cell, distribution):
    """Free, it gives what it gives when it is made to read these very points."""
    model = make("recursive", cell=cell, distribution=distribution, covariates=A, num_layers=2)
    past, known = inputs(F, A)
    free = run(model, past, known)
    points = jnp.asarray(free[..., LEVELS[distribution].index(0.5)])
    np.testing.assert_allclose(run(model, past, known, points), free, rtol=1e-10, atol=1e-10)
    other = run(model, past, known, points.at[:, 1].add(1.0))
    np.testing.assert_array_equal(other[:, :2], run(model, past, known, points)[:, :2])
    assert np.abs(other[:, 2:] - free[:, 2:]).min() > 1e-6


def test_recursive_goes_on_beyond_its_horizon():
    model = make("recursive")
    past, known = inputs(steps=N + 4)
    assert_close(run(model, past, known)[:, :N], run(model, past, known[:, :N]))


def test_a_step_in_numpy_of_the_recursive_head():
    model = make("recursive", cell="rnn", normalize="none", known=0)
    past, known = inputs(0)
    params = {k: np.asarray(v) for k, v in split(model)[1].items()}

    def step(part, x, h):
        of = {k.removeprefix(f"{part}."): v for k, v in params.items() if k.startswith(part)}
        ih = of["weight_ih_l0"] @ x + of["bias_ih_l0"]
        return np.tanh(ih + of["weight_hh_l0"] @ h + of["bias_hh_l0"])

    expected = np.zeros((B, N, C))
    for b in range(B):
        h = np.zeros(H)
        for x in np.asarray(past)[b]:
            h = step("encoder", x, h)
        value = np.asarray(past)[b, -1]
        for n in range(N):
            h = step("rnn", value, h)
            value = params["decoder.weight"] @ h + params["decoder.bias"]
            expected[b, n] = value
    assert_close(run(model, past, known)[..., 0], expected)


def test_paths_are_drawn_step_by_step():
    model = make("recursive", distribution="student_t")
    past, known = inputs()
    num_paths = 3
    uniforms = RNG.uniform(size=(2, num_paths, B, N, C))
    paths = np.asarray(model.sample(past, known, jnp.asarray(uniforms)))
    for s in range(num_paths):
        parameters = run(model, past, known, jnp.asarray(paths[s]))
        location, scale, freedom = np.moveaxis(parameters, -1, 0)
        u, v = uniforms[:, s]
        radius = np.sqrt(freedom * (u ** (-2 / freedom) - 1))
        drawn = location + scale * radius * np.cos(2 * np.pi * v)
        np.testing.assert_allclose(paths[s], drawn, rtol=1e-9, atol=1e-9)


class PublishedSegRNN(nn.Module):
    """Its forward pass of parallel decoding, as github.com/lss-1138/SegRNN has it."""

    def __init__(self, seg_len, pred_len, enc_in, d_model):
        super().__init__()
        self.seg_len, self.pred_len, self.enc_in, self.d_model = seg_len, pred_len, enc_in, d_model
        self.seg_num_y = pred_len // seg_len
        self.valueEmbedding = nn.Sequential(nn.Linear(seg_len, d_model), nn.ReLU())
        self.rnn = nn.GRU(d_model, d_model, batch_first=True)
        self.pos_emb = nn.Parameter(torch.randn(self.seg_num_y, d_model // 2))
        self.channel_emb = nn.Parameter(torch.randn(enc_in, d_model // 2))
        self.predict = nn.Linear(d_model, seg_len)

    def forward(self, x):
        batch_size = x.size(0)
        seq_last = x[:, -1:, :]
        x = (x - seq_last).permute(0, 2, 1)
        x = self.valueEmbedding(x.reshape(-1, x.shape[-1] // self.seg_len, self.seg_len))
        _, hn = self.rnn(x)
        pos_emb = torch.cat(
            [
                self.pos_emb.unsqueeze(0).repeat(self.enc_in, 1, 1),
                self.channel_emb.unsqueeze(1).repeat(1, self.seg_num_y, 1),
            ],
            dim=-1,
        )
        pos_emb = pos_emb.view(-1, 1, self.d_model).repeat(batch_size, 1, 1)
        hn = hn.repeat(1, 1, self.seg_num_y).view(1, -1, self.d_model)
        _, hy = self.rnn(pos_emb, hn)
        y = self.predict(hy).view(-1, self.enc_in, self.pred_len)
        return y.permute(0, 2, 1) + seq_last


def test_segments_are_the_published_segrnn():
    model = make("segments", known=0, normalize="last", horizon=4)
    theirs = PublishedSegRNN(2, 4, C, H).double()
    names = {
        "segment": "valueEmbedding.0",
        "place": "pos_emb",
        "target": "channel_emb",
        "decoder": "predict",
    }
    state = {}
    for name, value in split(model)[1].items():
        owner, _, leaf = name.partition(".")
        full = ".".join(filter(None, [names.get(owner, owner), leaf]))
        state[full] = torch.tensor(np.asarray(value))
    theirs.load_state_dict(state)
    past, known = inputs(0, steps=4)
    with torch.no_grad():
        expected = theirs(torch.tensor(np.asarray(past))).numpy()
    assert_close(run(model, past, known)[..., 0], expected)


@pytest.mark.parametrize("cell", ["lstm", "rnn"])
def test_segments_of_each_target_are_its_own(cell):
    """One target's past does not move another's forecast; a last segment is cut at the horizon."""
    model = make("segments", cell=cell, num_layers=2)
    past, known = inputs()
    first = run(model, past, known)
    assert first.shape == (B, N, C, 1)
    moved = run(model, past.at[:, 2, 1].add(1.0), known)
    np.testing.assert_array_equal(moved[:, :, 0], first[:, :, 0])
    assert np.abs(moved[:, :, 1] - first[:, :, 1]).min() > 1e-9
    # What is known of a step moves its own segment alone: steps 0 and 1, 2 and 3, 4.
    moved = run(model, past, known.at[:, 3].add(1.0))
    changed = np.abs(moved - first).max((0, 2, 3)) > 1e-9
    assert changed.tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("distribution", LEVELS)
@pytest.mark.parametrize("head", HEADS)
def test_every_distribution_has_its_parameters(head, distribution):
    model = make(head, distribution=distribution)
    past, known = inputs()
    got = run(model, past, known)
    assert got.shape == (B, N, C, {"point": 1, "quantiles": 3, "student_t": 3}[distribution])
    if distribution == "quantiles":
        assert (np.diff(got) > 0).all()
    # Every parameter has a part in it.
    skeleton, params = split(model)
    given = jnp.asarray(RNG.normal(size=(B, N, C))) if head == "recursive" else None

    def loss(params):
        parameters = skeleton.merge(params)(past, known, given)
        return model.distribution.loss(parameters, jnp.ones((B, N, C))).mean()

    grads = jax.jit(jax.grad(loss))(params)
    assert [name for name, g in grads.items() if not np.abs(np.asarray(g)).max() > 0] == []


@pytest.mark.parametrize("head", HEADS)
def test_dropout_is_of_training_alone(head):
    model = make(head, dropout=0.5)
    past, known = inputs()
    np.testing.assert_array_equal(run(model, past, known), run(model, past, known))
    model.train()

    def trained(seed):
        return np.asarray(model(past, known, rngs=nnx.Rngs(dropout=seed)))

    np.testing.assert_array_equal(trained(1), trained(1))
    assert np.abs(trained(1) - trained(2)).max() > 1e-3


def test_what_segments_can_not_be_is_said():
    sizes: dict[str, Any] = {"horizon": 4, "segment_len": 2, "rngs": nnx.Rngs(0)}
    with pytest.raises(ValueError, match="hidden_size is 5, expected an even number"):
        SegmentForecaster(1, hidden_size=5, **sizes)
    with pytest.raises(ValueError, match="num_covariates is 1, expected 0"):
        SegmentForecaster(1, 1, **sizes)
    assert {DirectForecaster, RecursiveForecaster, SegmentForecaster} == set(HEADS.values())
