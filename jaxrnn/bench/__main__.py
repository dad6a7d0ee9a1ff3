"""Time jaxrnn beside other libraries: ``python -m jaxrnn.bench [SUITE ...]``."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from jaxrnn import cli
from jaxrnn.bench.lines import append, check_writable
from jaxrnn.bench.peers import DEFAULT, ONLY_NAMED, PeerName, installed
from jaxrnn.bench.workloads import SUITES, Drawing, Workload, quick, shapes
from jaxrnn.errors import InputError

PICTURES = (".png", ".svg", ".pdf")
Suite = Literal["lesson", "train", "infer", "varlen", "stream", "sketch", "gpu", "scaling"]
# Of a row that is compared in float64, for a GPU: they are many, and a call takes milliseconds.
EXACT_ROUNDS, EXACT_TURN_S = 7, 0.05
ROUNDS, TURN_S = 9, 0.5


@dataclasses.dataclass(frozen=True)
class BenchOptions:
    """Time jaxrnn beside other libraries, on the same shapes, in turns in one run.

    Every peer that is installed takes part where it can do the work; its outputs and gradients are
    compared with ours before anything is timed. A share of the floor is the part of a step's time
    that its matrix products need at the rate measured on this machine.

    suites:
      lesson   the lesson's Simple_RNN and char-RNN, training
      train    other shapes, training
      infer    forward only
      varlen   sequences of different lengths
      stream   writing text, one symbol after the other
      sketch   sketch-rnn, training: with its encoder, and the decoder alone
      gpu      large layers in bfloat16, float16, TF32 and float32, each first compared with the
               reference in float64
      scaling  cost by number of steps and batch size, and what --remat saves

    examples:
      python -m jaxrnn.bench --quick
      python -m jaxrnn.bench --suite lesson train --peers torch --json lines.jsonl --plot ratios.png
    """

    suite: tuple[Suite, ...] = ("lesson", "train", "infer", "varlen", "stream", "sketch")
    """what to time"""
    rows: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[NAME [...]]")] = ()
    """of these the rows so named alone, also by patterns: 'gru-*'"""
    minutes: float = 0.0
    """begin no row later than this; 0: no limit. Those with a goal come first"""
    peers: tuple[PeerName, ...] = ()
    """beside whom; empty: all that are installed, but torch-compile, which compiles for minutes"""
    quick: bool = False
    """a tenth of the steps and three short turns: to see that it works, not to quote"""
    json: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """add a line of JSON for each row"""
    plot: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """write a picture of the ratios: .png, .svg or .pdf"""
    explain: bool = False
    """say which way each row is computed, and time nothing"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    started = time.monotonic()
    options = cli.parse(
        BenchOptions,
        args=argv,
        prog="python -m jaxrnn.bench",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if options.plot and Path(options.plot).suffix.lower() not in PICTURES:
        raise InputError(f"--plot is {options.plot!r}, expected a name in {', '.join(PICTURES)}")
    if not 0 <= options.minutes < math.inf:
        raise InputError(f"--minutes is {options.minutes}, expected 0 or more")
    workloads = _chosen(options.suite, options.rows)
    for flag in ("json", "plot"):
        if path := getattr(options, flag):
            check_writable(flag, Path(path))
    # Before JAX and torch are there, which share a GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    cli.use_device(options.device, cpu_shards=cli.num_cores())
    if "gpu" in options.suite and not (options.explain or options.quick):
        _check_gpu(options.device)

    from jaxrnn import report as reports
    from jaxrnn.bench import report, results

    console = reports.console()
    if options.explain:
        for workload in workloads:
            console.print(f"{workload.name}: {explain(workload)}", markup=False)
        return 0
    names = ("suite", "rows", "minutes", "peers", "device")
    chosen = {name: getattr(options, name) for name in names}
    about = {**results.machine(), "quick": options.quick, "flags": chosen}
    peers = tuple(dict.fromkeys(options.peers)) or DEFAULT
    if options.peers and not any(map(installed, peers)):
        raise InputError(
            f"--peers {' '.join(peers)}: none is installed here, and no figure is shown without "
            "its peer; install one, or leave --peers out"
        )
    rows, deadline = [], started + 60 * options.minutes if options.minutes else math.inf
    report.header(console)
    for workload in workloads:
        shown = quick(workload) if options.quick else workload
        if rows and time.monotonic() > deadline:
            found = results.left_out(shown, f"{options.minutes:g} minutes were over")
        else:
            found = results.run_workload(shown, peers, *turns(workload, options.quick))
            report.block(console, found)
        rows += found
        if options.json:
            append(options.json, results.to_lines(found, about))
    report.footer(console, rows, about, {} if options.peers else ONLY_NAMED)
    for row in rows:
        if row.get("error"):
            print(f"error: {row['skipped']}", file=sys.stderr)
    if any(row.get("error") for row in rows):
        return 1
    if all("skipped" in row for row in rows):
        print("error: nothing was timed: no peer could do any of it", file=sys.stderr)
        return 1
    if options.plot:
        try:
            report.plot(Path(options.plot), rows, about)
        except OSError as error:
            raise InputError(f"can't write --plot {options.plot}: {error}") from error
    return 0


def turns(workload: Workload, is_quick: bool) -> tuple[int, float]:
    """How many, and seconds of each."""
    rounds, least_s = (EXACT_ROUNDS, EXACT_TURN_S) if workload.exact else (ROUNDS, TURN_S)
    return (3, min(least_s, 0.05)) if is_quick else (rounds, least_s)


def _chosen(suites: tuple[str, ...], patterns: tuple[str, ...]) -> list[Workload]:
    """The suites' rows, or those that match; raises InputError."""
    every = [workload for suite in dict.fromkeys(suites) for workload in SUITES[suite]]
    if not patterns:
        return every
    names, found = [workload.name for workload in every], set()
    for pattern in patterns:
        matching = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise InputError(f"--rows is {pattern!r}, expected some of {', '.join(names)}")
        found |= matching
    return [workload for workload in every if workload.name in found]


def _check_gpu(device: str) -> None:
    """The suite takes a CPU hours, so it is not begun on one that nobody asked for."""
    import jax

    if device == "auto" and (platform := jax.default_backend()) != "gpu":
        raise InputError(
            f"--suite is gpu, and JAX's device here is a {platform.upper()}; install JAX for the "
            "GPU, or say --device cpu (hours) or --quick"
        )


def explain(workload: Workload) -> str:
    """Which backend and which of the rules a row meets."""
    import jax

    from jaxrnn import recurrence, rules
    from jaxrnn.bench.peers.ours import spec
    from jaxrnn.models.char_lm import CHUNK

    case = spec(workload)
    backend = f"backend {recurrence.choose(case).name}"
    said = [f"{backend} for the decoder" if isinstance(workload, Drawing) else backend]
    if workload.is_text:
        said.append("one-hot inputs looked up")
    if workload.mode == "train":
        devices = len(jax.devices())
        size = sum(math.prod(shape) for shape in shapes(workload).values())
        flops = 6 * size * workload.batch_size * workload.num_steps
        said.append(rules.explain(jax.default_backend(), devices, workload.batch_size, flops))
    if workload.remat:
        said.append("activations of sqrt(T) steps kept")
    if workload.mode == "forward":
        row_bytes = 4 * case.cell.num_gates * case.hidden_size
        steps = rules.steps_ahead(case.platform, case.num_steps, case.batch_size, row_bytes)
        said.append(f"input projection for {steps} steps at a time")
    if workload.mode == "generate":
        likeliest = "by counting" if rules.count_larger(workload.input_size) else "by a sort"
        said.append(f"up to {CHUNK} symbols a dispatch, the likeliest found {likeliest}")
    return ", ".join(said)


if __name__ == "__main__":
    sys.exit(main())
