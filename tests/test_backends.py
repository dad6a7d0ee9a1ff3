"""Which backend runs a case, the ways in which one runs it, and how it compiles."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from recurrence_cases import (
    FAST,
    KINDS,
    MASKS,
    RESETS,
    B,
    I,
    P,
    T,
    assert_same,
    backends,
    directions,
    loss_of,
    make,
    named,
    results,
    spec_of,
)
from tolerances import assert_close

from jaxrnn import rules
from jaxrnn.cells import CELLS, Cell
from jaxrnn.recurrence import BACKENDS, OneHot, Weights, choose, run

# The choice of a backend.

LEAKY = Cell("leaky", 1, 1, lambda gates_x, gates_h, state: ((state[0] + gates_x + gates_h) / 2,))


def test_an_unknown_backend_is_refused_with_the_known_ones():
    case = make("lstm")
    with pytest.raises(ValueError, match=r"backend is 'scam', expected one of .*auto.*scan.*refer"):
        run(case.cell, *case.arguments, backend="scam")


def test_auto_is_the_first_backend_that_can():
    for kind in KINDS:
        assert choose(spec_of(make(kind))).name == "scan"
        for name in FAST:
            spec = spec_of(make(kind))
            if BACKENDS[name].supports(spec) is None:
                assert choose(spec, name) is BACKENDS[name]


def test_a_cell_of_ones_own_runs_on_the_reference_alone():
    case = make("rnn_tanh", bias=False)._replace(cell=LEAKY)
    assert choose(spec_of(case)).name == "reference"
    with pytest.raises(ValueError, match=r"'scan' can't run this case.*'leaky'.*backend='auto'"):
        run(LEAKY, *case.arguments, backend="scan")
    found, expected = results(case), results(case, backend="reference")
    assert_same(found, expected)
    weights, x, (h,) = case.arguments
    h = (h + x[0] @ weights.weight_ih.T + h @ weights.weight_hh.T) / 2
    assert_close(found["y"][0], h)


def test_a_cell_of_ones_own_is_not_mistaken_for_its_namesake():
    namesake = Cell("rnn_tanh", 1, 1, LEAKY.equation)
    case = make("rnn_tanh")._replace(cell=namesake)
    assert choose(spec_of(case)).name == "reference"
    assert_same(results(case), results(case._replace(cell=LEAKY)))


def test_a_projection_without_an_lstm_runs_on_the_reference():
    case = make("lstm_proj")
    spec = spec_of(make("rnn_tanh"), proj_size=P)
    assert choose(spec).name == "reference"
    with pytest.raises(ValueError, match=r"'scan' can't run this case.*projection"):
        choose(spec, "scan")
    assert choose(spec_of(case), "scan").name == "scan"


# Inputs of which one is 1.


@backends
@pytest.mark.parametrize(("kind", "reverse"), [("lstm_proj", False), ("gru", True)])
@pytest.mark.parametrize("mask", ["none", "both"])
def test_one_hot_inputs_are_their_dense_rows(backend, kind, reverse, mask):
    case = make(kind)
    ids = jnp.asarray(np.random.default_rng(1).integers(0, I, (T, B)))
    ids = ids.at[0, 0].set(-1).at[1, 1].set(I)  # neither is a place: zeros
    options = {"backend": backend, "reverse": reverse, **MASKS[mask]}
    dense = jax.nn.one_hot(ids, I, dtype=jnp.float64)
    expected = results(case._replace(x=dense), **options)
    assert not np.allclose(expected["gradient of weight_ih"], 0)

    def loss(weights, state):
        y, last = run(case.cell, weights, OneHot(ids, I, jnp.dtype("float64")), state, **options)
        pairs = zip((y, *last), (case.y_weight, *case.state_weights), strict=True)
        return sum(jnp.sum(v * w) for v, w in pairs), (y, last)

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, (y, last)), (dweights, dstate) = step(case.weights, case.state)
    found = named(y, last, (dweights, expected.pop("gradient of x"), dstate))
    del found["gradient of x"]
    assert_same(found, expected)


# Outputs alone: where no gradient follows, the input projection is made ready for some steps only.


@pytest.fixture(params=[1, 2, 6])
def steps_ahead(request, monkeypatch):
    monkeypatch.setattr(rules, "steps_ahead", lambda *case: request.param)
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


@directions
@pytest.mark.parametrize("kind", ["rnn_tanh", "lstm_proj", "gru"])
def test_outputs_alone_are_the_references(steps_ahead, kind, reverse):
    case = make(kind, num_steps=6)
    mask = {"lengths": jnp.array([3, 6, 1]), "resets": jnp.pad(RESETS, ((0, 1), (0, 0)))}
    options = {"reverse": reverse, **mask}
    y, last = run(case.cell, *case.arguments, backend="scan", **options)
    found = {"y": y} | {f"last state {k}": s for k, s in enumerate(last)}
    expected = results(case, backend="reference", **options)
    assert_same(found, {name: expected[name] for name in found})


def test_outputs_alone_of_one_hot_inputs(steps_ahead):
    case = make("lstm", num_steps=6)
    ids = jnp.asarray(np.random.default_rng(1).integers(0, I, (6, B)))
    dense = case._replace(x=jax.nn.one_hot(ids, I, dtype=jnp.float64))
    y, last = run(case.cell, case.weights, OneHot(ids, I, jnp.dtype("float64")), case.state)
    expected = results(dense, backend="reference")
    assert_same({"y": y, "last state 1": last[1]}, {n: expected[n] for n in ("y", "last state 1")})


def test_outputs_alone_need_no_room_for_every_steps_gates():
    """16 MiB of gates at 4,096 steps: 8 of them are ready at once, and the outputs take 4."""
    width, num_steps, batch = 32, 4096, 8
    cell, weights = CELLS["lstm"], Weights(*(jnp.zeros((4 * width, width)),) * 2)
    x, state = jnp.zeros((num_steps, batch, width)), (jnp.zeros((batch, width)),) * 2
    program = jax.jit(lambda x: run(cell, weights, x, state, backend="scan")).lower(x).compile()
    memory = program.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 13 * 2**20


# Sizes at which XLA's CPU code takes its libraries' matmuls, on the flags that users have.

AT_SIZE = """
import jax, jax.numpy as jnp, numpy as np
from recurrence_cases import *
from jaxrnn import rules

num_steps, batch, width = 7, 64, 128
for kind in KINDS:
    name, proj = kind.removesuffix("_proj"), width // 2 if kind.endswith("_proj") else 0
    cell, rng = CELLS[name], np.random.default_rng(0)
    gates, out = cell.num_gates * width, proj or width
    def normal(*shape, scale=1.0):
        return jnp.asarray(rng.normal(size=shape) * scale, jnp.float32)
    weights = Weights(
        normal(gates, width, scale=0.05), normal(gates, out, scale=0.05), normal(gates),
        normal(gates), normal(proj, width, scale=0.05) if proj else None,
    )
    sizes = (out, width)[: cell.num_states]
    x, state = normal(num_steps, batch, width), tuple(normal(batch, s) for s in sizes)
    lengths = jnp.asarray(rng.integers(1, num_steps + 1, batch))
    y_weight = normal(num_steps, batch, out)
    def everything(backend, arguments, y_weight):
        def loss(weights, x, state):
            y, last = run(cell, weights, x, state, lengths=lengths, backend=backend)
            return jnp.sum(y * y_weight) / batch, (y, last)
        (_, outputs), grads = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        )(*arguments)
        return jax.tree.leaves((outputs, grads))
    wide = jax.tree.map(lambda a: a.astype(jnp.float64), ((weights, x, state), y_weight))
    expected = everything("reference", *wide)
    with jax.default_matmul_precision("highest"):
        found = everything("scan", (weights, x, state), y_weight)
        rules.PROJECTED_BYTES = 3 * batch * gates * 4
        jax.clear_caches()
        run_alone = jax.jit(lambda *a: run(cell, *a, lengths=lengths, backend="scan"))
        alone = jax.tree.leaves(run_alone(weights, x, state))
    for a, b in zip([*found, *alone], [*expected, *expected[: len(alone)]], strict=True):
        assert_close(a, b, "float32", kind)
print("all the same")
"""


@pytest.mark.parametrize("flags", ["", "--xla_cpu_experimental_ynn_fusion_type="])
def test_at_the_sizes_of_use_with_and_without_ynnpack(flags):
    """YNNPACK's products were wrong before (jax-ml/jax#39103): both ways, against float64."""
    folder = Path(__file__).parent
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": f"{folder.parent}:{folder}"}
    prepare = "import conftest\n"
    done = subprocess.run(
        [sys.executable, "-c", prepare + AT_SIZE], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "all the same\n", done.stderr[-2000:]


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_program_does_not_grow_with_the_sequence(kind):
    sizes = []
    for num_steps in (10, 1000):
        case = make(kind, num_steps=num_steps)
        step = jax.jit(jax.grad(loss_of(case, backend="scan"), argnums=(0, 1, 2)))
        sizes.append(len(step.lower(*case.arguments).as_text().splitlines()))
    assert sizes[0] == sizes[1]
