"""The benchmark's sketch-rnn: plain torch beside it is the same model, trained on the same cost."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bench_cases import LIMITS
from flax import nnx

from jaxrnn.bench import results
from jaxrnn.bench.peers import UnsupportedError, ours, start
from jaxrnn.bench.peers.ours_sketch import config_of, noise
from jaxrnn.bench.workloads import SUITES, Drawing, data, describe, parameters, quick
from jaxrnn.models.sketch_rnn import SketchRNN

pytestmark = pytest.mark.usefixtures("as_users_have_it")

# T, B = 6, 3
TINY = Drawing(
    *("tiny", "lstm", 6, 3), hidden_size=5, encoder_size=4, latent_size=3, num_mixtures=2, lr=0.01
)
ROWS = {"with an encoder": TINY, "decoder alone": replace(TINY, latent_size=0)}


@pytest.mark.parametrize("name", ROWS)
def test_torch_computes_what_we_do_and_both_train(name):
    row = ROWS[name]
    own, theirs = start("jaxrnn", row), start("torch", row)
    assert own.check is not None
    outputs, grads = own.check()
    assert outputs.shape == (3, 6, 15)
    assert set(grads) == set(parameters(row))
    assert all(np.abs(grad).max() > 1e-4 for grad in grads.values())
    found = results.difference(own, theirs)
    assert found is not None
    assert found.size < 1e-5
    losses = [theirs.call() for _ in range(15)]
    assert losses[-1] < losses[0] - 0.1
    assert np.isfinite(own.call())
    assert own.steps_per_call > theirs.steps_per_call == 1
    assert own.compile_s > 0
    assert (own.peak_memory_mib() or 0) > 0


def test_steps_train_alike_where_no_latent_vector_is_drawn(monkeypatch):
    monkeypatch.setattr(ours, "steps_per_dispatch", lambda *_: 1)  # of one batch, as torch's
    row = replace(ROWS["decoder alone"], clip=0.01)  # which most elements of the gradient reach
    sessions = start("jaxrnn", row), start("torch", row)
    losses = np.array([[session.call() for session in sessions] for _ in range(8)])
    np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-4)
    assert losses[-1, 0] < losses[0, 0] - 0.1


def test_the_data_are_drawings_and_no_two_batches_alike():
    strokes, lengths = data(TINY, 8)
    assert strokes.shape == (8, 3, 7, 5)
    assert set(lengths.ravel().tolist()) == {6}
    points = (strokes[..., 4] == 0).sum(-1) - 1
    assert set(points.ravel().tolist()) == {5, 6}
    for drawing, length in zip(strokes.reshape(24, 7, 5), points.ravel(), strict=True):
        np.testing.assert_array_equal(drawing[:, 4], [0] * (length + 1) + [1] * (6 - length))
        np.testing.assert_array_equal(drawing[length + 1 :, :4], 0)
    np.testing.assert_array_equal(strokes[:, :, 0], np.tile([0, 0, 1, 0, 0], (8, 3, 1)))
    np.testing.assert_array_equal(strokes[..., 2:].sum(-1), 1)
    assert 0 < strokes[:, :, 1:, 3].mean() < 0.5
    assert (strokes[0] != strokes[1]).any()
    np.testing.assert_array_equal(noise(TINY), noise(TINY))
    assert noise(TINY).shape == (3, 3)


@pytest.mark.parametrize("row", [*ROWS.values(), *SUITES["sketch"]])
def test_parameters_are_those_of_the_model(row: Any):
    config = config_of(row)
    options: dict[str, Any] = {
        name: getattr(config, name)
        for name in ("hidden_size", "encoder_size", "latent_size", "num_mixtures", "conditional")
    }
    assert (config.recurrent_dropout, config.clip_value, config.clip) == (0.0, 1.0, 0.0)
    model = nnx.eval_shape(lambda: SketchRNN(**options, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    expected = {".".join(map(str, path)): param.shape for path, param in flat}
    assert {name: array.shape for name, array in parameters(row).items()} == expected


def test_operations_counted_by_hand():
    T, B, H, E, Z, O = 6, 3, 5, 4, 3, 15
    decoder = 4 * H * 5 + 4 * H * H + O * H  # products of a point, forward
    backward = 4 * H * 5 + 2 * (4 * H * H + O * H)  # no gradient goes to the point
    latent = 3 * 4 * H * Z  # once a drawing: forward, and by the weights and the vector
    encoder = 2 * (2 * 4 * E * 5 + 3 * 4 * E * E)
    assert TINY.flops == 2 * B * (T * (decoder + backward + encoder) + latent)
    assert ROWS["decoder alone"].flops == 2 * B * T * (decoder + backward)
    assert describe(TINY)["flops"] == TINY.flops
    assert describe(TINY)["latent_size"] == Z
    long = quick(SUITES["sketch"][0])
    assert (type(long), long.num_steps, long.batch_size) == (Drawing, 9, 100)


@pytest.mark.parametrize("name", ["flax", "keras", "equinox", "jax-rnn", "torch-compile"])
def test_others_have_no_sketch_rnn(name):
    with pytest.raises(UnsupportedError, match="no sketch-rnn is written with it"):
        start(name, TINY)


def test_a_row_of_the_suite(known_ceilings):
    rows = results.run_workload(TINY, ["torch", "flax"], rounds=2, least_s=0.01)
    assert [row["peer"] for row in rows] == ["jaxrnn", "torch", "flax"]
    assert rows[0]["ceilings"] == LIMITS
    assert rows[1]["difference"] < 1e-5
    assert rows[1]["ratio"] > 0
    assert rows[2]["skipped"] == "no sketch-rnn is written with it"


def test_no_figure_is_given_without_its_peer(known_ceilings):
    rows = results.run_workload(TINY, ["flax", "keras"], rounds=2, least_s=0.01)
    assert [row["skipped"] for row in rows] == [
        "no peer was timed beside it",
        *["no sketch-rnn is written with it"] * 2,
    ]
    assert not any("ms" in row for row in rows)
