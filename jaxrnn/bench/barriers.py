"""What a barrier of blocks costs on a GPU, by kind: ``python -m jaxrnn.bench.barriers``.

The floor of a step of the persistent kernels: blocks that only wait for each other.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrnn import cli
from jaxrnn.bench import children
from jaxrnn.bench.lines import append, check_writable
from jaxrnn.errors import InputError

ROUNDS = 10_000
MEASURE = "jaxrnn.bench.barriers.measure"  # in a child
SECONDS = 120.0  # that a kind may take
KINDS = {
    **{f"counter, {scope} scope": (16, 32, 64, 128) for scope in ("gpu", "sys")},
    "cluster": (2, 4, 8, 16),
}
"""How many blocks wait for each other, for each kind; clusters of 16 are not portable."""


@dataclasses.dataclass(frozen=True)
class BarrierOptions:
    """Time barriers of blocks on an NVIDIA GPU of the Hopper generation.

    By a counter in global memory, as the persistent kernels have it, and by barriers of a cluster,
    in microseconds a barrier: median and quartiles of nine turns.

    examples:
      python -m jaxrnn.bench.barriers --json barriers.jsonl
    """

    json: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """add a line of JSON for each"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(BarrierOptions, args=argv, prog="python -m jaxrnn.bench.barriers")
    if options.json:
        check_writable("json", Path(options.json))

    import jax

    if jax.default_backend() != "gpu":
        raise InputError(
            f"JAX's device here is a {jax.default_backend().upper()}, expected an NVIDIA GPU; run "
            "it where JAX for CUDA finds one"
        )

    from jaxrnn import report
    from jaxrnn.bench import results

    console, machine = report.console(), results.machine()
    for kind, sizes in KINDS.items():
        for blocks in sizes:
            about = {"kind": kind, "blocks": blocks, "rounds": ROUNDS}
            found = about | children.call(MEASURE, kind, blocks, seconds=SECONDS)
            shown = found.get("refused") or "{us:.3f} us ({us_low:.3f} to {us_high:.3f})".format(
                **found
            )
            console.print(f"{kind}, {blocks} blocks: {shown}", markup=False)
            if options.json:
                append(options.json, json.dumps({**machine, **found}) + "\n")
    return 0


def measure() -> None:
    """Print, as JSON, microseconds a barrier: in a child, for what the device can't do ends it."""
    import jax

    from jaxrnn.bench import timing

    kind, blocks = sys.argv[1:]
    run = jax.jit(waiting(kind, int(blocks), ROUNDS))
    times = timing.in_turns({kind: lambda: run().block_until_ready()}, 9, 0.05)[kind]
    found = timing.spread(1e6 * times / ROUNDS)
    print(json.dumps({"us": found.median, "us_low": found.low, "us_high": found.high}))


def waiting(kind: str, blocks: int, rounds: int) -> Callable[[], Any]:
    """A kernel whose blocks wait for each other, and which then gives the rounds, 128 times."""
    import jax
    import jax.numpy as jnp
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu as plgpu

    def counted(scope: Literal["gpu", "sys"]) -> Callable[..., None]:
        def body(out):
            counter = pl.get_global(plgpu.SemaphoreType.REGULAR)

            @pl.loop(0, rounds)
            def _(k):
                plgpu.semaphore_signal(counter, memory_scope=scope)
                until = (k + 1) * blocks
                plgpu.semaphore_wait(counter, until, decrement=False, memory_scope=scope)

            write(out)

        return body

    def clustered(out, barrier):
        @pl.loop(0, rounds)
        def _(k):
            plgpu.barrier_arrive(barrier)
            plgpu.barrier_wait(barrier)

        write(out)

    def write(out):
        @pl.when(jax.lax.axis_index("block") == 0)
        def _():
            out[...] = jnp.full((128,), rounds, jnp.int32)

    out = jax.ShapeDtypeStruct((128,), jnp.int32)
    if kind == "cluster":
        barrier = plgpu.ClusterBarrier(collective_axes=("block",))
        shape: dict[str, Any] = {"cluster": (blocks,), "cluster_names": ("block",)}
        return plgpu.kernel(clustered, out_type=out, scratch_types=[barrier], **shape)
    scope = "gpu" if "gpu" in kind else "sys"
    return plgpu.kernel(counted(scope), out_type=out, grid=(blocks,), grid_names=("block",))


if __name__ == "__main__":
    sys.exit(main())
