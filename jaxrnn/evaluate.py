"""Measure a trained model: ``python -m jaxrnn.evaluate RUN [--data FILE]``.

The whole stream is run with carried state and dropout off: nats, bits and perplexity of a text,
MSE and MAE (of scaled values) of a series beside those of the last-value forecast.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Annotated, Literal

import tyro

from jaxrnn import cli
from jaxrnn.errors import InputError


@dataclasses.dataclass(frozen=True)
class EvaluateOptions:
    """Measure a trained model.

    examples:
      python -m jaxrnn.evaluate runs/char-20250101-120000
      python -m jaxrnn.evaluate runs/char-20250101-120000 --data other.txt --streams 64
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory"""
    data: str = ""
    """file to measure on, all of it; empty: the run's own validation part"""
    streams: int = 1
    """cut the stream into so many that run side by side, each warmed up on what precedes it:
    faster, and nearly the same; 1 is exact"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    json: bool = False
    """print one JSON object instead of a table"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(
        EvaluateOptions,
        args=argv,
        prog="python -m jaxrnn.evaluate",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if options.streams < 1:
        raise InputError(f"--streams is {options.streams}, expected at least 1")
    task, skeleton, params, run = cli.open_model(options.run, options.checkpoint, options.device)

    from jaxrnn import report
    from jaxrnn.training import evaluate, load_carry

    carry = None
    if options.data:
        held_out, name = task.read_evaluation(options.data), options.data
    else:
        _, data = type(task).load(run.config, run.facts)
        held_out, name = data.held_out, "validation"
        if not held_out.num_counted:
            raise InputError(
                f"{run.path} has no validation part (--val-fraction is 0); name a file with --data"
            )
        if held_out.continues:
            carry = load_carry(task, run, options.checkpoint)
    metrics = evaluate(task, skeleton, params, held_out, options.streams, carry=carry)
    if options.json:
        naive = {f"naive_{k}": v for k, v in held_out.baseline.items()}
        print(json.dumps({"data": name, "positions": held_out.num_counted, **metrics, **naive}))
    else:
        report.evaluation(task, name, held_out.num_counted, metrics, held_out.baseline)
    return 0


if __name__ == "__main__":
    sys.exit(main())
