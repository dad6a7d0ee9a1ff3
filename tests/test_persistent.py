"""The persistent kernels: interpreted, lowered for CUDA, and what they refuse."""

import dataclasses
import os
import re
import subprocess
import sys
from typing import Any

import interpreted
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import recurrence_cases
import sizes_of_use
from interpreted import KINDS
from jaxlib.mlir import ir
from recurrence_cases import make, spec_of

from jaxrnn import recurrence, train_step
from jaxrnn.bench.peers import ours
from jaxrnn.bench.workloads import SUITES, shapes
from jaxrnn.bench.workloads import lengths as row_lengths
from jaxrnn.cells import CELLS
from jaxrnn.config import CharConfig
from jaxrnn.models import split
from jaxrnn.recurrence import BACKENDS, Weights, choose, persistent, persistent_kernels
from jaxrnn.tasks import TASKS


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """All that the interpreter gives, by a process that lets blocks wait."""
    path = tmp_path_factory.mktemp("interpreted") / "found.npz"
    command = [sys.executable, interpreted.__file__, str(path)]
    subprocess.run(command, check=True, env=os.environ | {"NPROC": "16"})
    return np.load(path)


def errors(found, name, expected):
    """By norms, of everything that a case gives."""
    return {
        what: np.linalg.norm(np.float64(found[f"{name}: {what}"]) - np.float64(value))
        / np.linalg.norm(np.float64(value))
        for what, value in expected.items()
    }


@pytest.mark.parametrize("name", KINDS)
def test_outputs_states_and_every_gradient_are_those_of_scan(name, found):
    expected = interpreted.results(KINDS[name], "scan")
    for what, error in errors(found, name, expected).items():
        assert error <= 1e-3, (what, error)  # a state may be rounded to another neighbour


@pytest.mark.parametrize("name", [name for name in KINDS if "relu" not in name])  # it has a kink
def test_they_are_within_the_rounding_of_operands_of_those_in_float64(name, found):
    kind = KINDS[name]
    case, lengths = interpreted.make(kind)
    arrays = jax.tree.map(lambda a: a.astype(jnp.float64), case._replace(cell=None))
    options = {"reverse": kind.reverse, "lengths": lengths, "backend": "reference"}
    expected = recurrence_cases.results(arrays._replace(cell=case.cell), **options)
    for what, error in errors(found, name, expected).items():
        assert error <= 1e-2, (what, error)


def gpu_spec(kind, **changes):
    fields = {"platform": "gpu", "dtype": jnp.dtype("bfloat16"), "hidden_size": 64, **changes}
    return spec_of(make(kind), **fields)


@pytest.mark.parametrize(
    ("kind", "changes", "reason"),
    [
        ("lstm", {"platform": "cpu"}, "it needs an NVIDIA GPU, the device is a CPU"),
        (
            "lstm",
            {"dtype": jnp.dtype("float32")},
            "it computes in bfloat16 or float16, not in float32",
        ),
        ("lstm_proj", {}, "it has no projection"),
        ("gru", {"resets": True}, "it can't reset the state within a sequence"),
        ("lstm", {"scaled": True}, "it has no dropout on candidates"),
        ("gru", {"hidden_size": 96}, "hidden_size is 96, it needs a multiple of 64"),
        (
            "lstm",
            {"hidden_size": 4096},
            "the weights of 4096 units don't fit into the 132 multiprocessors at 3 sequences",
        ),
    ],
)
def test_what_it_can_not_do_it_says(kind, changes, reason, monkeypatch):
    monkeypatch.setattr(persistent, "device", lambda: ("9.0", 132))
    assert persistent.supports(gpu_spec(kind, **changes)) == reason


def test_another_generation_of_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(persistent, "device", lambda: ("8.0", 108))
    expected = "its products need compute capability 9 (Hopper), the device has 8.0"
    assert persistent.supports(gpu_spec("gru")) == expected


@pytest.mark.parametrize(("hidden_size", "batch_size"), [(192, 3), (1024, 64)])
def test_a_cluster_is_of_2_4_8_or_16_blocks_that_fit(hidden_size, batch_size, monkeypatch):
    monkeypatch.setattr(persistent, "device", lambda: ("9.0", 132))
    spec = gpu_spec("lstm", hidden_size=hidden_size, batch_size=batch_size)
    fit = "no 2, 4, 8 or 16 blocks whose weights fit into as many of the 132 multiprocessors"
    assert BACKENDS["persistent-cluster"].supports(spec) == f"{hidden_size} units are {fit}"
    assert BACKENDS["persistent"].supports(spec) is None


@pytest.mark.parametrize("name", ["persistent", "persistent-cluster"])
def test_it_is_taken_by_name_alone(name, monkeypatch):
    monkeypatch.setattr(persistent, "device", lambda: ("9.0", 132))
    spec = gpu_spec("gru", masked=True)
    assert choose(spec, name) is BACKENDS[name]
    assert choose(spec).name == "scan"


@pytest.mark.parametrize(
    (
        "sizes",
        "expected",
    ),  # gates, units, sequences; the fields of a plan
    [
        ((4, 768, 16), (64, 16, 1, 48, 128, 6, 16)),
        ((4, 512, 64), (64, 16, 1, 32, 128, 4, 64)),
        ((4, 1024, 64), (64, 16, 1, 64, 128, 5, 64)),
        ((4, 512, 128), (64, 16, 2, 32, 128, 4, 128)),
        ((4, 1024, 256), (128, 16, 2, 64, 128, 2, 256)),
        ((3, 1024, 65), (64, 16, 2, 64, 128, 7, 128)),
        ((1, 192, 1), (64, 16, 1, 12, 64, 3, 8)),
        ((4, 64, 9000), None),  # 256 sums a thread
        ((1, 2048, 200), (128, 32, 2, 64, 128, 2, 256)),
        ((4, 512, 64, True), (64, 32, 1, 16, 128, 4, 64)),
        ((4, 256, 16, True), (64, 16, 1, 16, 128, 2, 16)),
        ((3, 512, 5000, True), (64, 32, 79, 16, 128, 4, 5056)),  # any number of clusters
        ((1, 1024, 8, True), (64, 64, 1, 16, 128, 4, 8)),
        ((3, 768, 8, True), None),  # 12 blocks of 64 units
    ],
)
def test_as_many_blocks_as_fit_share_the_units(sizes, expected):
    num_gates, hidden_size, batch_size, *cluster = sizes
    plan = persistent_kernels.plan(num_gates, hidden_size, batch_size, 132, *cluster)
    if plan is None or expected is None:
        assert plan is expected
        return
    assert dataclasses.astuple(plan) == (*expected, any(cluster))
    weights, published = num_gates * hidden_size * plan.units, (num_gates + 1) * plan.units
    shared = weights + plan.rows * (published + plan.stages * plan.chunk)
    assert 2 * shared <= 220 * 1024
    assert plan.blocks <= 16 if plan.cluster else plan.groups * plan.blocks <= 132
    assert plan.blocks * plan.units == hidden_size


LAUNCH = "stablehlo.custom_call @mosaic_gpu_v2"


def arguments(name: str, size: int = 512) -> tuple[Any, ...]:
    """Weights, x, state and lengths, by shape and dtype."""
    cell = CELLS[name]
    gates = cell.num_gates * size

    def array(*shape, dtype="float32") -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))

    weights = Weights(array(gates, 8), array(gates, size), array(gates), array(gates))
    state = tuple(array(70, size) for _ in range(cell.num_states))
    return weights, array(7, 70, 8, dtype="bfloat16"), state, array(70, dtype="int32")


@pytest.fixture
def lowered(monkeypatch, as_users_have_it):
    """The text of a function lowered for CUDA."""
    monkeypatch.setattr(persistent, "device", lambda: ("9.0", 132))
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    kernel = jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")

    def text(function, *arguments):
        options = {"platforms": ["cuda"], "disabled_checks": [kernel]}
        return jax.export.export(jax.jit(function), **options)(*arguments).mlir_module()

    return text


@pytest.mark.parametrize("backend", ["persistent", "persistent-cluster"])
@pytest.mark.parametrize("name", CELLS)
def test_lowered_for_cuda_a_sequence_is_one_launch_and_one_backwards(name, backend, lowered):
    def outputs(weights, x, state, lengths):
        options = {"lengths": lengths, "backend": backend}
        return recurrence.run(CELLS[name], weights, x, state, **options)

    def loss(*arguments):
        y, last = outputs(*arguments)
        return y.astype(jnp.float32).sum() + sum(s.sum() for s in last)

    for function, launches in ((outputs, 1), (jax.grad(loss, argnums=(0, 1, 2)), 2)):
        text = lowered(function, *arguments(name))
        assert text.count(LAUNCH) == launches
        assert "stablehlo.while" not in text


def kernels_of(function, *arguments):
    """The bytes of every kernel of a function, lowered for CUDA."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    found: list[bytes] = []

    def walk(operation):
        for block in (block for region in operation.regions for block in region.blocks):
            for inner in block.operations:
                attributes = inner.operation.attributes
                is_call = inner.operation.name == "stablehlo.custom_call"
                if is_call and "mosaic_gpu" in str(attributes["call_target_name"]):
                    config = attributes["mhlo.backend_config"]
                    found.append(ir.StringAttr(config["module"]).value_bytes)
                walk(inner.operation)

    module: Any = lowered.compiler_ir("stablehlo")
    walk(module.operation)
    return found


@pytest.mark.usefixtures("lowered")
@pytest.mark.parametrize("backend", ["persistent", "persistent-cluster"])
def test_blocks_wait_by_a_counter_or_by_the_barrier_of_their_cluster(backend):
    def loss(weights, x, state):
        y, last = recurrence.run(CELLS["lstm"], weights, x, state, backend=backend)
        return y.astype(jnp.float32).sum() + sum(s.sum() for s in last)

    kernels = kernels_of(jax.grad(loss, argnums=(0, 1, 2)), *arguments("lstm")[:3])
    assert len(kernels) == 2
    in_clusters = backend == "persistent-cluster"
    for kernel in kernels:
        words = set(re.findall(rb"[\w.]+", kernel))
        assert (b"nvvm.cluster.arrive" in words) == in_clusters
        assert (b"gpu.cluster_block_id" in words) == in_clusters
        assert (b"fence.acquire.gpu" in words) != in_clusters
        assert b"nvvm.fence.proxy" in words


def test_the_blocks_of_a_group_are_a_cluster():
    grid = persistent_kernels.gpu(False).launch(3, 16)
    assert grid == {"grid": (3, 16), "grid_names": ("group", "block")}
    assert persistent_kernels.gpu(True).launch(3, 16) == {
        **{"grid": (3,), "grid_names": ("group",)},
        **{"cluster": (16,), "cluster_names": ("block",)},
    }


def test_under_vmap_one_launch_follows_the_other(lowered):
    """All at once, they would count on one counter, and be more blocks than run at once."""

    def outputs(weights, x, state):
        return recurrence.run(CELLS["gru"], weights, x, state, backend="persistent")

    weights, x, state, _ = arguments("gru")
    many = jax.ShapeDtypeStruct((5, *x.shape), x.dtype)
    text = lowered(jax.vmap(outputs, (None, 0, None)), weights, many, state)
    assert text.count(LAUNCH) == 1
    assert text.count("stablehlo.while") == 1


@pytest.mark.parametrize(
    "name",
    [
        "lstm-T1024-B16-H768-gradients-bfloat16",
        "lstm-T256-B256-H1024-gradients-bfloat16",
        "gru-T512-B64-H1024-gradients-float16",
        "gru-T512-B64-H512-lengths-gradients-bfloat16",
    ],
)
def test_rows_of_the_benchmark_fit_a_hopper_and_are_lowered(name, lowered):
    row = next(row for row in SUITES["gpu"] if row.name == name)
    assert BACKENDS["persistent"].supports(ours.spec(row)) is None
    skeleton, _ = split(ours.model_of(row, 0.0, backend="persistent"))
    lengths = jnp.asarray(row_lengths(row)) if row.max_length else None

    def loss(params, x):
        return skeleton.merge(params)(x, lengths=lengths)[0].astype(jnp.float32).sum()

    params = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in shapes(row).items()}
    x = jax.ShapeDtypeStruct((row.batch_size, row.num_steps, row.input_size), jnp.float32)
    text = lowered(jax.grad(loss), params, x)
    assert text.count(LAUNCH) == 2
    assert "stablehlo.while" not in text


def test_a_training_step_of_the_char_model_takes_them(lowered):
    sizes: dict[str, Any] = {"hidden_size": 64, "batch_size": 2, "seq_len": 5, "num_layers": 2}
    how: dict[str, Any] = {"dtype": "bfloat16", "backend": "persistent", "mesh": "data=1"}
    config = CharConfig(cell="lstm", **sizes, **how)
    task = TASKS["char"].load(config)[0]
    skeleton, _, state = train_step.initial_state(task, config)
    step = train_step.make_step(task.loss, skeleton, config, 2)
    ids = jax.ShapeDtypeStruct((1, 2, 5), jnp.int32)
    text = lowered(step, state, ids, ids, np.zeros(1, bool), np.int32(1))
    assert text.count(LAUNCH) == 2  # forward and backward, functions that both layers call
    assert text.count("stablehlo.while") == 1  # over the steps of a dispatch


@pytest.mark.gpu
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("name", KINDS)
def test_on_a_gpu_it_is_scan_and_the_same_bits_each_time(name):
    assert jax.default_backend() == "gpu"
    first, second = (interpreted.results(KINDS[name], KINDS[name].backend) for _ in range(2))
    found = {f"it: {what}": value for what, value in first.items()}
    for what, error in errors(found, "it", interpreted.results(KINDS[name], "scan")).items():
        assert error <= 1e-3, (what, error)
    for what, value in second.items():
        np.testing.assert_array_equal(value, first[what])


@pytest.mark.gpu
@pytest.mark.parametrize("name", sizes_of_use.SIZES)
def test_on_a_gpu_so_it_is_at_the_sizes_of_use(name):
    command = [sys.executable, sizes_of_use.__file__, name]
    subprocess.run(command, check=True, timeout=sizes_of_use.SECONDS)  # which says how far it came
