"""Compiled for an H200 and for a TPU v5e, on a machine without either: ``pytest -m compiled``.

The compilers of XLA come with ``pip install 'jax[cuda13-local,tpu]'`` (see CONTRIBUTING.md), and
need no device. Whoever lacks one skips its tests.
"""

import dataclasses
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jaxlib import gpu_rnn
from recurrence_cases import MASKS, make
from test_platforms import MODELS, maker

from jaxrnn import recurrence, train_step
from jaxrnn.bench.peers import ours
from jaxrnn.bench.workloads import SUITES, shapes
from jaxrnn.models import split
from jaxrnn.recurrence import cudnn

pytestmark = [pytest.mark.compiled, pytest.mark.usefixtures("as_users_have_it")]
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 device_memory_size: 150000000000
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H200"
"""
TOPOLOGIES = {
    "cuda": ("jax_cuda13_plugin", "nvidia h200", {"target_config": H200, "topology": "1x1x1"}),
    "tpu": ("libtpu", "v5e:2x2", {}),
}


@pytest.fixture
def topology(monkeypatch):
    """The devices of a platform, by whose rules what follows is traced."""

    def devices(platform):
        package, name, options = TOPOLOGIES[platform]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
        found = topologies.get_topology_desc(name, platform=platform, **options).devices
        monkeypatch.setattr(jax, "default_backend", lambda: {"cuda": "gpu"}.get(platform, platform))
        jax.clear_caches()
        return found

    yield devices
    monkeypatch.undo()
    jax.clear_caches()


def compiled(function, arguments, platform, device) -> str:
    """The program of XLA."""
    on_it = SingleDeviceSharding(device)
    if not hasattr(function, "trace"):
        function = jax.jit(function, in_shardings=on_it, out_shardings=on_it)
    shaped = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(jnp.shape(a), jnp.result_type(a)), arguments
    )
    lowered = function.trace(*shaped).lower(lowering_platforms=(platform,))
    text = lowered.compile().as_text()
    assert text is not None
    return text


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("platform", TOPOLOGIES)
def test_a_training_step_compiles(platform, name, topology, monkeypatch):
    make, arguments = maker(name)
    device = topology(platform)[0]
    mesh = jax.sharding.Mesh(np.array([[device]]), ("data", "hidden"))
    monkeypatch.setattr(train_step, "device_mesh", lambda config: mesh)
    assert " while(" in compiled(make(), arguments, platform, device)


def test_a_batch_is_shared_by_two_tpus(topology, monkeypatch):
    make, arguments = maker("lstm")
    devices = topology("tpu")[:2]
    mesh = jax.sharding.Mesh(np.array(devices)[:, None], ("data", "hidden"))
    monkeypatch.setattr(train_step, "device_mesh", lambda config: mesh)
    assert " all-reduce(" in compiled(make(), arguments, "tpu", devices[0])


def layouts(program: str, call: str) -> list[tuple[int, ...]]:
    """Of all arrays of several axes that a call takes and gives, the minor axis first."""
    types = dict(re.findall(r"%([\w.-]+) = (\([^=]*?\)|\S+) [a-z-]+\(", program))
    (line,) = (line for line in program.splitlines() if f'custom_call_target="{call}"' in line)
    found = re.search(r"= (.*) custom-call\((.*?)\)", line)
    assert found is not None
    arrays = found[1] + "".join(types[name] for name in re.findall(r"%([\w.-]+)", found[2]))
    return [tuple(map(int, axes.split(","))) for axes in re.findall(r"\{([\d,]{3,})\}", arrays)]


@pytest.mark.parametrize("is_stated", [True, False])
def test_cudnn_is_given_rows(is_stated, topology, monkeypatch):
    """JAX's call takes (B, T, N) row by row, of which XLA knows nothing unless it is told."""
    device = topology("cuda")[0]
    size = "compute_rnn_workspace_reserve_space_sizes"  # which asks a device
    monkeypatch.setattr(gpu_rnn, size, lambda *sizes: (64, 64))
    if not is_stated:
        monkeypatch.setattr(cudnn, "as_read", lambda x: x)
    able = dataclasses.replace(cudnn.BACKEND, supports=lambda spec: None)
    monkeypatch.setitem(recurrence.BACKENDS, "cudnn", able)
    case = make("lstm", dtype="float32")
    lengths = MASKS["lengths"]["lengths"].astype(jnp.int32)

    def results(arguments, loss_weights, lengths):
        weights, x, state = arguments
        options = {"lengths": lengths, "backend": "cudnn"}

        def loss(weights, x, state):
            y, last = recurrence.run(case.cell, weights, x, state, **options)
            pairs = zip((y, *last), loss_weights, strict=True)
            return sum(jnp.sum(v * w) for v, w in pairs), (y, last)

        return jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(weights, x, state)

    arguments = (case.arguments, (case.y_weight, *case.state_weights), lengths)
    program = compiled(results, arguments, "cuda", device)
    for call in ("cudnn_rnn_ffi", "cudnn_rnn_bwd_ffi"):
        found = layouts(program, call)
        assert len(found) >= 6
        assert all(axes == tuple(sorted(axes, reverse=True)) for axes in found) == is_stated


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("lstm-T512-B64-H512-gradients-bfloat16", [20, 26]),
        ("lstm-T512-B64-H512-gradients-tf32", [20, 26]),
        ("gru-T512-B64-H512-gradients-bfloat16", [21, 27]),
    ],
)
def test_a_round_of_the_loop_has_few_kernels(name, most, topology):
    """Of eight steps, forward and backward: products, element-wise work and what is kept."""
    device = topology("cuda")[0]
    row = next(row for row in SUITES["gpu"] if row.name == name)
    skeleton, _ = split(ours.model_of(row, 0.0, backend="scan"))

    def loss(params, x):
        return skeleton.merge(params)(x)[0].astype(jnp.float32).sum()

    params = {n: jax.ShapeDtypeStruct(shape, jnp.float32) for n, shape in shapes(row).items()}
    x = jax.ShapeDtypeStruct((row.batch_size, row.num_steps, row.input_size), jnp.float32)
    program = compiled(jax.grad(loss, argnums=(0, 1)), (params, x), "cuda", device)
    kernels = re.compile(r" = .* (fusion|fusion-start|copy|custom-call)\(")
    found = [
        len(kernels.findall(program[program.index(f"\n%{body} (") :].split("\n}")[0]))
        for body in re.findall(r" while\(.*body=%?([\w.-]+)", program)
    ]
    assert len(found) == 2
    assert all(count <= limit for count, limit in zip(found, most, strict=True)), found
