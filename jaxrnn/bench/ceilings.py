"""What this machine can do at best, and the least time that a workload then needs.

Usage: ``floor_s(workload)`` in seconds a step, ``matmul_rate(512, 512, 2048, "bfloat16")`` in
FLOP/s, ``read_bandwidth(2**20)`` and ``copy_bandwidth()`` in bytes a second, ``round_s()``.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrnn.bench.workloads import GATES, Precision, Workload, operand_dtype

# Operations and bytes of a dispatch: some 10 ms, beside which a dispatch itself is nothing.
FLOPS = {"gpu": 5e12, "cpu": 1e9}
READ = {"gpu": 2e10, "cpu": 1e8}
COPIES = {"gpu": (8, 10), "cpu": (1, 1)}  # times the array, and how often
GROUPS = 5  # the best of so many: a ceiling is not a median
GROUP_SECONDS = 0.03
LARGE = (2048, 512, 2048)
COPIED = 2**26  # bytes, more than most caches hold


def _best_s(call: Callable[[], Any]) -> float:
    """Seconds a call, the best of several groups."""
    call()  # compiles
    started = time.perf_counter()
    call()
    count = max(1, round(GROUP_SECONDS / max(time.perf_counter() - started, 1e-9)))
    times = []
    for _ in range(GROUPS):
        started = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - started) / count)
    return min(times)


def _of_device(known: dict[str, Any]) -> Any:
    return known.get(jax.default_backend(), known["gpu"])


def _random(rows: int, columns: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (rows, columns), jnp.float32) / columns**0.5


@functools.cache
def matmul_rate(rows: int, inner: int, columns: int, precision: Precision) -> float:
    """FLOP/s of one product of these sizes, many times in one dispatch.

    Within ``precision_of`` such a workload, where float32 and TF32 differ.
    """
    dtype = jnp.dtype(operand_dtype(precision))
    a, b = _random(rows, inner).astype(dtype), _random(inner, columns).astype(dtype)
    tiny = jnp.finfo(dtype).tiny
    flops = 2 * rows * inner * columns
    times = int(min(max(_of_device(FLOPS) / flops, 1), 20_000))

    @jax.jit
    def run(a, b):
        def body(_, carry):
            # Each product reads another a, so that none is taken out of the loop, and is carried
            # whole: of one that is only read in part XLA computes that part.
            a, _ = carry
            y = a @ b
            return a.at[0, 0].add(y[0, 0] * tiny), y

        return jax.lax.fori_loop(0, times, body, (a, jnp.zeros((rows, columns), a.dtype)))[1]

    return flops * times / _best_s(lambda: run(a, b).block_until_ready())


@functools.cache
def read_bandwidth(size: int) -> float:
    """Bytes a second that vector-matrix products read of a float32 matrix of ``size`` bytes.

    A matrix that fits in a cache stays there: this is that cache's bandwidth. The better of the
    matrix as it lies and transposed, which XLA computes by different code.
    """
    side = max(round((size / 4) ** 0.5 / 64) * 64, 64)
    matrix, vector = _random(side, side), _random(1, side)
    times = int(min(max(_of_device(READ) / (4 * side * side), 8), 20_000))

    def seconds(contract: int) -> float:
        dimensions = (((1,), (contract,)), ((), ()))

        @jax.jit
        def run(vector, matrix):
            def body(_, v):
                return jnp.tanh(jax.lax.dot_general(v, matrix, dimensions))

            return jax.lax.fori_loop(0, times, body, vector)

        return _best_s(lambda: run(vector, matrix).block_until_ready())

    return 4.0 * side * side * times / min(seconds(0), seconds(1))


@functools.cache
def copy_bandwidth() -> float:
    """Bytes a second that are read and written together, of an array larger than the caches."""
    factor, count = _of_device(COPIES)
    array = jnp.ones(factor * COPIED // 4, jnp.float32)

    def copies(x):
        return jax.lax.fori_loop(0, count, lambda _, x: x + 1, x) if count > 1 else x + 1

    copy = jax.jit(copies)
    return 2.0 * array.nbytes * count / _best_s(lambda: copy(array).block_until_ready())


def best_matmul_rate(workload: Workload) -> float:
    """FLOP/s: the best over the row's own products, of a step and of all steps, and a large one.

    The large one because a small product alone does not fill all cores, and a step may run several.
    """
    rows = GATES[workload.cell] * workload.hidden_size
    sizes: set[tuple[int, int, int]] = {LARGE, (workload.batch_size, workload.width, rows)}
    if workload.mode != "generate":
        many = workload.batch_size * workload.num_steps
        # Of the inputs of all steps, and of the weights' gradient.
        sizes |= {(many, workload.width, rows), (rows, many, workload.width)}
    return max(matmul_rate(*size, workload.precision) for size in sizes)


@functools.cache
def round_s() -> float:
    """Seconds of a round of a loop on the device: one small product, which waits for the last."""
    matrix, count = _random(8, 8), 1000

    @jax.jit
    def run(x, matrix):
        return jax.lax.fori_loop(0, count, lambda _, x: jnp.tanh(x @ matrix), x)

    return _best_s(lambda: run(matrix, matrix).block_until_ready()) / count


def weight_bytes(workload: Workload) -> int:
    """Of the matrices that one symbol reads; a one-hot input is a lookup."""
    rows = GATES[workload.cell] * workload.hidden_size
    columns = (2 * workload.num_layers - 1) * workload.width
    columns += 0 if workload.is_text else workload.input_size
    matrices = rows * columns + workload.num_layers * workload.proj_size * workload.hidden_size
    return 4 * (matrices + workload.output_size * workload.width)


def floor_s(workload: Workload) -> float:
    """Seconds that the matrix products of a step need at the best rate that was measured.

    Of ``generate``, a symbol's: the time to read the weights once. On a GPU, whose products of one
    step are short, also the rounds of the loops, forward and backward, of a layer at least.
    """
    if workload.mode == "generate":
        size = weight_bytes(workload)
        return size / read_bandwidth(size)
    floor = workload.flops / best_matmul_rate(workload)
    if jax.default_backend() != "gpu":
        return floor
    return floor + workload.num_steps * round_s() * (1 if workload.mode == "forward" else 2)


def describe(workload: Workload) -> dict[str, float]:
    """For a line of JSON, in GFLOP/s and GB/s."""
    size = weight_bytes(workload)
    return {
        "matmul_gflop_per_s": best_matmul_rate(workload) / 1e9,
        "read_gb_per_s": read_bandwidth(size) / 1e9,
        "read_mib": size / 2**20,
        "copy_gb_per_s": copy_bandwidth() / 1e9,
        "round_us": round_s() * 1e6,
    }
