"""How parameters are drawn where torch.nn's own way is not taken."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tolerances import assert_close

from jaxrnn.initial_values import glorot, orthogonal_gates


def test_glorot_is_uniform_within_its_bound():
    found = np.asarray(glorot(jax.random.key(0), (300, 100), "float32"))
    bound = np.sqrt(6 / 400)
    assert 0.99 * bound < np.abs(found).max() <= bound
    np.testing.assert_allclose(found.std(), bound / np.sqrt(3), rtol=0.02)
    vector = np.asarray(glorot(jax.random.key(0), (1000,), "float32"))
    assert 0.99 * np.sqrt(3 / 1000) < np.abs(vector).max() <= np.sqrt(3 / 1000)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_each_gate_is_a_rotation_of_its_own(dtype):
    found = orthogonal_gates(jax.random.key(0), 3, 5, dtype)
    assert (found.shape, found.dtype) == ((15, 5), jnp.dtype(dtype))
    gates = np.split(np.asarray(found, np.float64), 3)
    for k, gate in enumerate(gates):
        assert_close(gate @ gate.T, np.eye(5), dtype)
        assert all(np.abs(gate - other).max() > 0.1 for other in gates[:k])


def test_large_models_begin_on_two_devices_without_a_deadlock():
    script = """if True:
        import jax
        from jaxrnn.initial_values import orthogonal_gates
        jax.config.update("jax_num_cpu_devices", 2)
        key, sizes = jax.random.key(0), (256, 256, 512)
        draw = jax.jit(lambda key: [orthogonal_gates(key, 4, n, "float32") for n in sizes])
        print([part.shape for part in jax.block_until_ready(draw(key))])
    """
    done = subprocess.run(
        [sys.executable, "-c", script], timeout=120, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[(1024, 256), (1024, 256), (2048, 512)]\n"
