"""What XLA's options do to a loop over the steps: ``python -m jaxrnn.bench.probe [ROW ...]``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from jaxrnn import cli
from jaxrnn.bench import children
from jaxrnn.bench.lines import append, check_writable
from jaxrnn.bench.workloads import SUITES
from jaxrnn.errors import InputError

ROWS = {workload.name: workload for suite in SUITES.values() for workload in suite}
GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE"
MEASURE = "jaxrnn.bench.probe.measure"  # in a child
SECONDS = 300.0  # that a way may take
UNROLLED_GRAPHS = f"{GRAPHS} --xla_gpu_command_buffer_unroll_loops=true"


class Way(NamedTuple):
    """How XLA runs the loop."""

    unroll: int = 1  # steps that a round of it takes
    flags: str = ""
    held: bool = False  # rules.states_held


WAYS = (
    Way(),
    *(Way(unroll) for unroll in (2, 4, 8, 16)),
    *(Way(unroll, held=True) for unroll in (1, 4, 8, 16)),
    *(Way(unroll, GRAPHS) for unroll in (1, 4)),
    *(Way(unroll, UNROLLED_GRAPHS) for unroll in (1, 4)),
)


@dataclasses.dataclass(frozen=True)
class ProbeOptions:
    """Time rows of the benchmark, ours alone, with the loop over the steps run in several ways.

    Several steps a round of the loop (unroll), states held where a step ends, and the loop as a
    CUDA graph (command buffers, on a GPU; no other device is changed by them). Each way is a
    process of its own, since XLA reads its flags once; a way that this XLA refuses is said. Times
    are not in turns: run it twice before believing a small difference.

    examples:
      python -m jaxrnn.bench.probe
      python -m jaxrnn.bench.probe lstm-T100-B64 --device cpu --json ways.jsonl
    """

    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ROW"), tyro.conf.Positional] = (
        "lstm-T512-B64-H512-gradients-bfloat16",
        "gru-T512-B64-H512-gradients-bfloat16",
    )
    """of python -m jaxrnn.bench, by name"""
    json: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """add a line of JSON for each way"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(ProbeOptions, args=argv, prog="python -m jaxrnn.bench.probe")
    if unknown := set(options.rows) - set(ROWS):
        raise InputError(f"ROW is {min(unknown)!r}, expected some of {', '.join(ROWS)}")
    if options.json:
        check_writable("json", Path(options.json))

    from jaxrnn import report

    console = report.console()
    failed = False
    for row in dict.fromkeys(options.rows):
        console.print(f"{row}, ms a step: median (quartiles), of the first way's time")
        base = None
        for way in WAYS:
            found = in_a_process(row, way, options.device)
            base = base or found.get("ms")
            console.print(f"  {line(found, base)}", markup=False)
            failed = failed or ("refused" in found and way == Way())
            if options.json:
                append(options.json, json.dumps(found) + "\n")
    return int(failed)


def line(found: dict[str, Any], base: float | None) -> str:
    """Of a way, for people."""
    way = f"unroll {found['unroll']:2}" + ", states held" * found["held"]
    if found["flags"]:
        way += f", {found['flags']}"
    if "refused" in found:
        return f"{way}: refused: {found['refused']}"
    share = f", {found['ms'] / base:.2f}" if base else ""
    return f"{way}: {found['ms']:.3f} ({found['ms_low']:.3f} to {found['ms_high']:.3f}){share}"


def in_a_process(row: str, way: Way, device: str) -> dict[str, Any]:
    """As ``measure``, under the way's flags; or ``refused``, with the reason.

    Raises InputError as ``cli.use_device``.
    """
    flags = " ".join(f for f in (os.environ.get("XLA_FLAGS", ""), way.flags) if f)
    found = children.call(
        *(MEASURE, row, way.unroll, int(way.held), device),
        seconds=SECONDS,
        environment={"XLA_FLAGS": flags},
    )
    return {"row": row, **way._asdict(), **found}


def measure() -> None:
    """Print, as JSON, ms a step (median, quartiles), compile time, machine: of one way, here."""
    row, unroll, held, device = sys.argv[1:]
    cli.use_device(device, cpu_shards=cli.num_cores())

    from jaxrnn import rules
    from jaxrnn.bench import peers, results, timing

    rules.unroll = lambda platform: int(unroll)
    rules.states_held = lambda platform: held == "1"
    workload = ROWS[row]
    with peers.precision_of(workload):
        session = peers.start(peers.OURS, workload)
        times = timing.in_turns({peers.OURS: session.call}, 9, 0.2)[peers.OURS]
    found = timing.spread(1e3 * times / session.steps_per_call)
    figures = {"ms": found.median, "ms_low": found.low, "ms_high": found.high}
    print(json.dumps({**figures, "compile_s": session.compile_s, **results.machine()}))


if __name__ == "__main__":
    sys.exit(main())
