"""Write text with a trained character model: ``python -m jaxrnn.sample RUN``.

The text streams to standard output as it is generated, a scan on the device for each piece.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Annotated, Literal

import tyro

from jaxrnn import cli
from jaxrnn.errors import InputError


@dataclasses.dataclass(frozen=True)
class SampleOptions:
    """Write text with a trained character model.

    examples:
      python -m jaxrnn.sample runs/char-20250101-120000 --prime "The " --length 500
      python -m jaxrnn.sample runs/char-20250101-120000 --temperature 0.7 --top-k 5 --seed 3
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory of the task char"""
    prime: str = ""
    """text to go on from, printed too; empty: a line break"""
    length: int = 1000
    """symbols to generate"""
    temperature: float = 0.8
    """below 1 safer, above 1 wilder; 0: always the likeliest symbol"""
    top_k: int = 0
    """draw from the k likeliest symbols only; 0: from all"""
    top_p: float = 1.0
    """draw from the likeliest symbols that together have this probability"""
    seed: int = 0
    """of the draws: the same seed gives the same text"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""

    def __post_init__(self):
        checks = {
            "length": (self.length >= 1, "at least 1"),
            "temperature": (0 <= self.temperature < math.inf, "a number from 0 on"),
            "top_k": (self.top_k >= 0, "at least 0"),
            "top_p": (0 < self.top_p <= 1, "above 0, at most 1"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
        }
        cli.check_flags(self, checks)


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(SampleOptions, args=argv, prog="python -m jaxrnn.sample")
    task, skeleton, params, _ = cli.open_model(options.run, options.checkpoint, options.device)
    if task.name != "char":
        more = "; python -m jaxrnn.draw draws with it" if task.name == "sketch" else ""
        raise InputError(f"{options.run} is of the task {task.name!r}, expected 'char'{more}")

    import jax

    from jaxrnn.models.char_lm import generate

    chunks = generate(
        (skeleton, params),
        task.prime(options.prime),
        length=options.length,
        key=jax.random.key(options.seed),
        temperature=options.temperature,
        top_k=options.top_k,
        top_p=options.top_p,
    )
    decoder = task.vocabulary.decoder()
    try:
        _write(options.prime)
        for ids in chunks:
            _write(decoder.decode(ids))
        _write(decoder.decode([], final=True) + "\n")
    except KeyboardInterrupt:
        _write("\n")
        return 130
    return 0


def _write(text: str) -> None:
    """To standard output at once, whatever its encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, errors="replace").decode(encoding))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
