"""Move models to torch: ``python -m torch_compat export RUN --to DIR``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated, Literal

import tyro

from jaxrnn import cli
from jaxrnn.errors import InputError

ABOUT = """usage: python -m torch_compat COMMAND [OPTIONS]

Models between jaxrnn and torch.nn, bit for bit.

commands:
  export RUN --to DIR    write a trained model as plain torch.nn, and check that it is the same

python -m torch_compat COMMAND --help shows a command's options.
"""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Write a trained model as plain torch.nn, and check that it computes the same.

    DIR gets model.safetensors and config.json, which torch_compat.load reads without JAX. What was
    written is loaded and run beside the JAX model: where they differ by more than rounding, the
    exit code is 1 and nothing is left.

    examples:
      python -m torch_compat export runs/char-20250101-120000 --to exported
      python -m torch_compat export runs/char-20250101-120000 --to exported --checkpoint last
      python -m torch_compat export runs/series-20250101-120000 --to exported --force
      python -c 'import torch_compat; print(torch_compat.load("exported"))'
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory"""
    to: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """directory to write, made with its parents"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    force: bool = False
    """replace DIR if it is an earlier export"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    if argv[:1] in (["-h"], ["--help"]):
        print(ABOUT, end="")
        return 0
    if not argv or argv[0] not in COMMANDS:
        given = f"unknown command {argv[0]!r}" if argv else "no command"
        raise InputError(f"{given}, expected one of {', '.join(COMMANDS)}; see --help")
    return COMMANDS[argv[0]](argv[1:])


def export(argv: list[str]) -> int:
    """The command ``export``."""
    options = cli.parse(
        ExportOptions,
        args=argv,
        prog="python -m torch_compat export",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not options.to:
        raise InputError("--to is empty, expected a directory to write")
    cli.use_device("cpu")
    try:
        from torch_compat import convert, verify
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise InputError("torch is not installed: pip install torch") from None
    from rich.table import Table

    from jaxrnn import report

    def show(rows: list[verify.Row]) -> None:
        table = Table("dtype", "tensor", title="largest differences of torch from JAX")
        for name in ("difference", "limit"):
            table.add_column(name, justify="right")
        for row in rows:
            mark = "" if row.ok else "[bold red]above [/]"
            table.add_row(row.dtype, row.tensor, f"{mark}{row.difference:.2g}", f"{row.limit:.2g}")
        console.print(table)

    console = report.console()
    try:
        done = convert.export_run(options.run, options.to, options.checkpoint, options.force)
    except verify.DifferenceError as error:
        show(error.rows)
        print(f"error: {error}; nothing was written to {options.to}", file=sys.stderr)
        return 1
    num_parameters = sum(p.numel() for p in done.model.parameters())
    show(done.rows)
    console.print(
        f"wrote   {options.to}: {type(done.model).__name__}, {num_parameters:,} parameters of the "
        f"checkpoint {done.checkpoint!r} at step {done.step:,}\n"
        f"next    import torch_compat; model = torch_compat.load({options.to!r})",
        markup=False,
    )
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {"export": export}
"""Every command by its word; each takes the arguments after it."""


if __name__ == "__main__":
    sys.exit(main())
