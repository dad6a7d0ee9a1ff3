"""Barriers of blocks, lowered for a GPU."""

import jax
import pytest
from refusals import message

from jaxrnn.bench import barriers


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("kind", barriers.KINDS)
def test_a_kernel_of_each_kind_is_lowered_for_cuda(kind):
    kernel = jax.export.DisabledSafetyCheck.custom_call("mosaic_gpu_v2")
    run = jax.jit(barriers.waiting(kind, 4, 1000))
    lowered = jax.export.export(run, platforms=["cuda"], disabled_checks=[kernel])()
    assert lowered.mlir_module().count("stablehlo.custom_call @mosaic_gpu_v2") == 1
    assert [(a.shape, str(a.dtype)) for a in lowered.out_avals] == [((128,), "int32")]


def test_without_a_gpu_it_says_so():
    expected = (
        "JAX's device here is a CPU, expected an NVIDIA GPU; run it where JAX for CUDA finds one"
    )
    assert message(barriers.run_command, []) == expected


def test_a_kind_that_the_device_has_not_is_said(monkeypatch, capsys):
    def call(function, kind, blocks, *, seconds):
        if kind == "cluster":
            return {"refused": f"no cluster of {blocks}"}
        return {"us": 1.5 * blocks, "us_low": 1.25, "us_high": 2.0}

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(barriers.children, "call", call)
    assert barriers.run_command([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "counter, gpu scope, 16 blocks: 24.000 us (1.250 to 2.000)"
    assert lines[-1] == "cluster, 16 blocks: no cluster of 16"
    assert len(lines) == 12


@pytest.mark.gpu
@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("kind", barriers.KINDS)
def test_on_a_gpu_every_round_ends(kind):
    assert list(jax.jit(barriers.waiting(kind, 4, 100))()) == [100] * 128
