"""cuDNN's LSTM, on JAX's reference of the call where there is no GPU."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import rnn
from recurrence_cases import (
    MASKS,
    I,
    assert_same,
    directions,
    make,
    reference_results,
    results,
    spec_of,
)

import jaxrnn
from jaxrnn import config, evaluate, recurrence, sample, train
from jaxrnn.config_file import to_toml
from jaxrnn.errors import InputError
from jaxrnn.recurrence import BACKENDS, OneHot, choose, cudnn


def reference_of_the_call(x, h, c, weights, lengths, *, dropout, precision, **sizes):
    assert precision == jax.lax.Precision.HIGH
    assert all(a.dtype == x.dtype for a in (h, c, weights))
    layout = (sizes[n] for n in ("input_size", "hidden_size", "num_layers", "bidirectional"))
    parts = rnn.unpack_lstm_weights(weights, *layout)
    return rnn.lstm_ref(x, h, c, *parts, lengths, dropout=dropout, **sizes)


@pytest.fixture
def on_the_cpu(monkeypatch):
    """The call is JAX's own reference of it, and no case is refused."""
    backend = dataclasses.replace(cudnn.BACKEND, supports=lambda spec: None)
    monkeypatch.setattr(rnn, "lstm", reference_of_the_call)
    monkeypatch.setitem(recurrence.BACKENDS, "cudnn", backend)


@pytest.mark.usefixtures("on_the_cpu")
@directions
@pytest.mark.parametrize("mask", ["none", "lengths"])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_states_and_every_gradient_are_the_references(reverse, mask, bias):
    options = {"reverse": reverse, "backend": "cudnn", **MASKS[mask]}
    found = results(make("lstm", bias=bias), **options)
    assert_same(found, reference_results("lstm", reverse, mask, bias=bias))


@pytest.mark.usefixtures("on_the_cpu")
def test_one_hot_inputs_are_their_dense_rows():
    case = make("lstm")
    ids = jnp.asarray(np.random.default_rng(1).integers(0, I, case.x.shape[:2]))
    x = OneHot(ids, I, jnp.dtype("float64"))
    for given in (x, x.dense()):
        y, _ = recurrence.run(case.cell, case.weights, given, case.state, backend="cudnn")
        expected, _ = recurrence.run(case.cell, case.weights, x, case.state)
        np.testing.assert_allclose(y, expected, rtol=1e-12)


@pytest.mark.usefixtures("on_the_cpu")
def test_two_layers_in_both_directions_are_those_of_the_default():
    from flax import nnx

    def built(backend):
        options = {"num_layers": 2, "bidirectional": True, "batch_first": True}
        return jaxrnn.LSTM(
            4, 6, **options, rngs=nnx.Rngs(0), param_dtype=jnp.float64, backend=backend
        )

    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 4)))
    lengths = jnp.array([5, 2, 3])
    y, last = built("cudnn")(x, lengths=lengths)
    expected_y, expected_last = built("scan")(x, lengths=lengths)
    found = (y, *last), (expected_y, *expected_last)
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("gru", {}, "it has the LSTM alone, not the cell 'gru'"),
        ("lstm", {"platform": "cpu"}, "it needs an NVIDIA GPU, the device is a CPU"),
        ("lstm", {"dtype": jnp.dtype("bfloat16")}, "it computes in float32, not in bfloat16"),
        ("lstm_proj", {}, "it has no projection"),
        ("lstm", {"resets": True}, "it can't reset the state within a sequence"),
        ("lstm", {"scaled": True}, "it has no dropout on candidates"),
    ],
)
def test_what_it_can_not_do_it_says(kind, changes, reason):
    fields = {"platform": "gpu", "dtype": jnp.dtype("float32"), **changes}
    spec = spec_of(make(kind), **fields)
    with pytest.raises(ValueError, match="can't run this case") as caught:
        choose(spec, "cudnn")
    assert f"'cudnn' can't run this case: {reason}; use backend='auto'" in str(caught.value)


def as_if_time_came_first(x, h, c, weights, lengths, **options):
    """What a call finds that reads (T, B, N) in memory as (B, T, N)."""
    mistaken = x.swapaxes(0, 1).reshape(x.shape)
    return reference_of_the_call(mistaken, h, c, weights, lengths, **options)


def without_its_gradient(*arguments, **options):
    return jax.lax.stop_gradient(reference_of_the_call(*arguments, **options))


def without_one_of_a_weight(x, h, c, weights, *arguments, **options):
    weights = jnp.where(jnp.arange(len(weights)) < 100, jax.lax.stop_gradient(weights), weights)
    return reference_of_the_call(x, h, c, weights, *arguments, **options)


def of_which_some_are(scale):
    def call(*arguments, **options):
        y, h, c = reference_of_the_call(*arguments, **options)
        return y, h, c * scale

    return call


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (reference_of_the_call, None),
        (as_if_time_came_first, "on this device its output differs from that of scan by "),
        (without_its_gradient, "on this device its gradient of x differs from that of scan by "),
        (without_one_of_a_weight, "on this device its gradient of weight_ih differs from that of"),
        (of_which_some_are(1.03), "on this device its last c differs from that of scan by 3.0e-02"),
        (of_which_some_are(jnp.nan), "on this device its last c differs from that of scan by nan"),
        (None, "a small case of it fails with TypeError: 'NoneType' object is not callable"),
    ],
)
def test_a_device_that_computes_something_else_is_refused(call, reason, monkeypatch):
    monkeypatch.setattr(rnn, "lstm", call)
    cudnn.differs.cache_clear()
    spec = spec_of(make("lstm"), platform="gpu", dtype=jnp.dtype("float32"), masked=True)
    assert choose(spec).name == "scan"
    assert cudnn.differs.cache_info().misses == 0  # nothing is computed before it is asked for

    def chosen(x):
        """Within a computation, as a model asks."""
        return x + len(choose(spec, "cudnn").name)

    if reason is None:
        assert jax.jit(jax.grad(chosen))(1.0) == 1
    else:
        with pytest.raises(ValueError, match="can't run this case") as caught:
            jax.jit(chosen)(1.0)
        assert reason in str(caught.value)
    cudnn.supports(spec)
    known = call is not None  # a failure may be of the moment: it is tried again
    assert cudnn.differs.cache_info()[:2] == ((1, 1) if known else (0, 2))
    cudnn.differs.cache_clear()


def test_products_are_in_tf32_unless_jax_is_told_otherwise():
    for name in (None, "default", "high", "tensorfloat32", "highest", "float32"):
        with jax.default_matmul_precision(name):
            whole = cudnn.precision() == jax.lax.Precision.HIGHEST
            assert whole == (name in ("highest", "float32"))


def test_runs_choose_among_all():
    assert (*config.BACKENDS, *config.GPU_BACKENDS) == tuple(BACKENDS)


def test_a_run_trains_with_it_and_is_evaluated_anywhere(on_the_cpu, tmp_path, monkeypatch):
    shapes, backend = [], recurrence.BACKENDS["cudnn"]

    def run(cell, weights, x, *rest):
        shapes.append(x.shape[:2])
        return backend.run(cell, weights, x, *rest)

    monkeypatch.setitem(recurrence.BACKENDS, "cudnn", dataclasses.replace(backend, run=run))
    text, losses = tmp_path / "text.txt", {}
    text.write_text("abcd" * 100)
    options = {"data": str(text), "hidden_size": 4, "batch_size": 3, "seq_len": 8, "steps": 5}
    options["schedule"] = "constant"
    for name in ("cudnn", "scan"):
        path = tmp_path / name
        made = config.CharConfig(run=str(path), backend=name, eval_streams=2, **options)
        (tmp_path / "run.toml").write_text(to_toml("char", made))
        assert train.run_command(["--config", str(tmp_path / "run.toml")]) == 0
        lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
        losses[name] = [(line["loss"], line.get("val_nats")) for line in lines]
    assert set(shapes) == {(8, 3)}  # never the two streams of a validation, nor a sample's one
    np.testing.assert_allclose(losses["cudnn"][-1], losses["scan"][-1], rtol=1e-5)
    monkeypatch.undo()  # there is no GPU again
    path = str(tmp_path / "cudnn")
    assert sample.run_command([path, "--length", "3"]) == 0
    assert evaluate.run_command([path]) == 0
    with pytest.raises(InputError, match="--backend is cudnn, but it needs an NVIDIA GPU"):
        train.run_command(["--resume", path, "--steps", "9"])
    assert train.run_command(["--resume", path, "--steps", "9", "--backend", "auto"]) == 0
    assert json.loads((tmp_path / "cudnn/metrics.jsonl").read_text().splitlines()[-1])["step"] == 9


@pytest.mark.gpu
@directions
@pytest.mark.parametrize("mask", ["none", "lengths"])
def test_on_a_gpu_it_is_the_reference(reverse, mask, monkeypatch):
    able = dataclasses.replace(cudnn.BACKEND, supports=lambda spec: None)
    monkeypatch.setitem(recurrence.BACKENDS, "cudnn", able)
    assert jax.default_backend() == "gpu"
    case = make("lstm", dtype="float32")
    with jax.default_matmul_precision("highest"):
        found = results(case, reverse=reverse, backend="cudnn", **MASKS[mask])
        expected = results(case, reverse=reverse, backend="reference", **MASKS[mask])
    assert_same(found, expected, "float32")
