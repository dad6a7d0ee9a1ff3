"""Training steps lowered for every platform, and what the rules for them compute."""

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest
from recurrence_cases import KINDS, MASKS, H, I, P, assert_same, make, reference_results, results

from jaxrnn import recurrence, train_step, training
from jaxrnn.config import CharConfig, SeriesConfig, SineConfig, SketchConfig
from jaxrnn.recurrence import PerStep, lanes
from jaxrnn.tasks import TASKS

PLATFORMS = {"cpu": "cpu", "cuda": "gpu", "tpu": "tpu"}  # as jax.export and default_backend say
SMALL: dict[str, Any] = {"hidden_size": 6, "batch_size": 2, "mesh": "data=1"}
CHAR: dict[str, Any] = SMALL | {"seq_len": 5, "embedding_size": 4, "num_layers": 2, "dropout": 0.2}
ONE_STEP: dict[str, Any] = SMALL | {"seq_len": 4, "batch_size": 1, "cell": "lstm"}
SKETCH: dict[str, Any] = SMALL | {"encoder_size": 4, "latent_size": 3, "num_mixtures": 2}
SERIES: dict[str, Any] = SMALL | {"input_len": 6, "horizon": 4}
MODELS: dict[str, tuple[str, Any]] = {
    "lstm": ("char", CharConfig(cell="lstm", **CHAR, weight_drop=0.5, locked_dropout=True)),
    "gru, bfloat16": ("char", CharConfig(cell="gru", **CHAR, dtype="bfloat16")),
    "rnn": ("char", CharConfig(cell="rnn", **CHAR)),
    "minlstm, bfloat16": ("char", CharConfig(cell="minlstm", **CHAR, dtype="bfloat16")),
    "one step": ("sine", SineConfig(**ONE_STEP)),
    "direct": ("series", SeriesConfig(head="direct", **SERIES)),
    "recursive": ("series", SeriesConfig(head="recursive", distribution="student_t", **SERIES)),
    "segments": ("series", SeriesConfig(head="segments", segment_len=2, **SERIES)),
    "sketch": ("sketch", SketchConfig(**SKETCH)),
    "sketch, layer norm": ("sketch", SketchConfig(decoder="layer_norm", **SKETCH)),
    "sketch, hyper": ("sketch", SketchConfig(decoder="hyper", **SKETCH)),
}


@pytest.fixture(params=PLATFORMS)
def platform(request, monkeypatch):
    """Rules are those of the platform; what was traced by others is forgotten."""
    monkeypatch.setattr(jax, "default_backend", lambda: PLATFORMS[request.param])
    jax.clear_caches()
    yield request.param
    monkeypatch.undo()
    jax.clear_caches()


def maker(name: str):
    """What makes the training step of a model, and what the step takes."""
    task_name, config = MODELS[name]
    task, data = TASKS[task_name].load(config)
    skeleton, _, state = train_step.initial_state(task, config)
    make = functools.partial(train_step.make_step, task.loss, skeleton, config, 2)
    return make, (state, *training.stack_batches(data, 0, 1, 1), np.int32(1))


def stepped(name: str):
    """The training step, and what it takes."""
    make, arguments = maker(name)
    return make(), arguments


def exported(step, arguments, platform):
    """The step as a file for the platform: with no call of what another version might lack."""
    layout = jax.export.DisabledSafetyCheck.custom_call("LayoutConstraint")  # which XLA knows
    export = jax.export.export(step, platforms=[platform], disabled_checks=[layout])
    return export(*jax.tree.map(jax.typeof, arguments))


@pytest.mark.parametrize("kind", KINDS)
def test_by_its_rules_a_layer_gives_the_same(kind, platform):
    found = results(make(kind), backend="scan", **MASKS["both"])
    assert_same(found, reference_results(kind, False, "both"))


@pytest.mark.parametrize("kind", KINDS)
def test_on_a_tpu_gates_fill_whole_lanes(kind):
    case = make(kind)
    weights, state, _ = lanes.widened(case.cell, 128, case.weights, case.state, PerStep())
    assert len(weights.weight_hh) == case.cell.num_gates * 128
    gates = np.asarray(weights.weight_ih).reshape(case.cell.num_gates, 128, -1)
    np.testing.assert_array_equal(gates[:, :H].reshape(-1, I), case.weights.weight_ih)
    assert not gates[:, H:].any()
    assert [s.shape[-1] for s in state] == ([P, 128] if kind == "lstm_proj" else [128] * len(state))


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_writes_states_and_what_products_take_of_them_at_once(dtype, platform):
    case = make("lstm", dtype="float32")

    def loss(weights, x, state):
        y, last = recurrence.run(case.cell, weights, x.astype(dtype), state, backend="scan")
        return y.astype("float32").sum() + sum(s.sum() for s in last)

    step = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    text = step.trace(*case.arguments).lower(lowering_platforms=("cpu",)).as_text()
    lines = [line for line in text.splitlines() if "optimization_barrier" in line]
    held = [line for line in lines if line.split(" : ")[1].count("tensor<") > 1]
    gates = [line for line in lines if line not in held]
    kind = {"float32": "f32", "bfloat16": "bf16"}[dtype]
    assert gates
    of_kind = [f"x{kind}>" in line.split(" : ")[1] for line in gates]
    assert any(of_kind) if platform == "cpu" else all(of_kind)  # a CPU holds other products, too
    assert bool(held) == (platform == "cuda")
    for line in held:
        assert line.split(" : ")[1].count("bf16") == (dtype == "bfloat16")


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", MODELS)
def test_a_training_step_is_lowered_for_it(name, platform):
    step, arguments = stepped(name)
    program = exported(step, arguments, platform).mlir_module()
    assert "stablehlo.while" in program
    assert "f64" not in program  # which a TPU has not
    if "bfloat16" in name:
        narrow = r"dot_general.*\(tensor<[\dx]*bf16>, .*\) -> tensor<[\dx]*(\w+)>"
        products = re.findall(narrow, program)
        assert len(products) > 4
        assert set(products) == {"f32"}


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", ["lstm", "sketch"])
def test_lowered_and_read_again_it_is_the_same_step(name):
    step, arguments = stepped(name)
    found = exported(step, arguments, "cpu").call(*arguments)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(step(*arguments)), strict=True):
        np.testing.assert_array_equal(a, b)
