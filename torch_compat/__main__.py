"""Models between jaxrnn and torch: ``python -m torch_compat export|import|verify``."""

from __future__ import annotations

import dataclasses
import shlex
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from jaxrnn import cli
from jaxrnn.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from torch_compat.verify import Row

ABOUT = """usage: python -m torch_compat COMMAND [OPTIONS]

Models between jaxrnn and torch.nn, bit for bit.

commands:
  export RUN --to DIR     write a trained model as plain torch.nn, safetensors, pt2 or ONNX, and
                          check that what was written computes the same
  import FILE --to RUN    make a run of weights from torch, to sample, evaluate and train on
  verify RUN DIR          show how far an export differs from a run, gradients among it

python -m torch_compat COMMAND --help shows a command's options.
"""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """Write a trained model as plain torch.nn, and check that it computes the same.

    What was written is run in its own runtime beside the JAX model, at two batch sizes and two
    lengths: where they differ by more than rounding, the exit code is 1 and nothing is left.

    forms, of which several may be given:
      module       model.py, model.safetensors, config.json, README.md; torch and safetensors run it
      safetensors  model.safetensors, config.json; written where torch is not installed too
      state-dict   model.pt, for load_state_dict of torch_compat.modules
      pt2          model.pt2, for torch.export.load: any batch size and length, state in and out
      onnx         model.onnx, native LSTM, GRU, RNN: any batch size and length, state in and out
      lesson       lesson.pt, the checkpoint of the char-rnn notebook
      sketch-rnn-js  sketch-rnn.json, a drawing model for Magenta's pages, in 16 bits

    examples:
      python -m torch_compat export runs/char-20250101-120000 --to exported
      python -m torch_compat export runs/char-20250101-120000 --to exported --format pt2 onnx
      python -m torch_compat export runs/sine-20250101-120000 --to exported --force
      python -c 'import torch_compat; print(torch_compat.load("exported"))'
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory"""
    to: Annotated[str, tyro.conf.arg(metavar="DIR")]
    """directory to write, made with its parents"""
    format: tuple[
        Literal["module", "safetensors", "state-dict", "pt2", "onnx", "lesson", "sketch-rnn-js"],
        ...,
    ] = ("module",)
    """in which forms"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    force: bool = False
    """replace DIR if it holds an earlier export and nothing else"""


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Make a run of weights from torch, which jaxrnn.sample, evaluate and train take.

    FILE is a state dict (torch.save's or safetensors), the checkpoint of the char-rnn notebook, a
    drawing model of Magenta's pages (.json), or a directory that export wrote. It must hold one
    LSTM, GRU or RNN, a linear decoder, and an embedding unless the input is one-hot, under any
    names; or a sketch-rnn, under ours. Tensors and plain values are all that is taken from it;
    nothing in it is run.

    examples:
      python -m torch_compat import rnn_20_epoch.net --to runs/anna --data anna.txt
      python -m torch_compat import exported --to runs/again
      python -m torch_compat import model.safetensors --to runs/book --data book.txt
      python -m torch_compat import simple_rnn.pt --to runs/sine
      python -m torch_compat import dog.gen.json --to runs/dog
      python -m jaxrnn.train --resume runs/anna
    """

    file: Annotated[str, tyro.conf.arg(metavar="FILE"), tyro.conf.Positional]
    """weights: a file, or a directory that export wrote"""
    to: Annotated[str, tyro.conf.arg(metavar="RUN")]
    """run directory to write, made with its parents"""
    data: str = ""
    """data to evaluate and train on; it gives the vocabulary or scaler that FILE has not"""
    tokens: Literal["", "characters", "bytes"] = ""
    """what the symbols are, where FILE has no vocabulary; empty: as --config has it, characters"""
    target: str = ""
    """column of the data, of a series"""
    config: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """TOML file of options to train on with, data among it; the weights decide the model's own"""
    force: bool = False
    """replace RUN if it is a run directory and holds nothing else"""


@dataclasses.dataclass(frozen=True)
class VerifyOptions:
    """Show how far an export differs from a run; the exit code is 1 if it is more than rounding.

    Of weights: parameters, outputs, last states, a loss and its gradient by every parameter, in
    float64, float32 and the model's own dtypes. Of ONNX: outputs and last states. A .pt2 is not
    loaded: torch's reader of it may run code.

    examples:
      python -m torch_compat verify runs/char-20250101-120000 exported
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory"""
    directory: Annotated[str, tyro.conf.arg(metavar="DIR"), tyro.conf.Positional]
    """directory that export wrote"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""


def main() -> int:
    """The command line; gives the exit code."""
    # As an exception, so that what was begun is cleaned up.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    if argv[:1] in (["-h"], ["--help"]):
        print(ABOUT, end="")
        return 0
    if not argv or argv[0] not in COMMANDS:
        given = f"unknown command {argv[0]!r}" if argv else "no command"
        raise InputError(f"{given}, expected one of {', '.join(COMMANDS)}; see --help")
    options_class, command = COMMANDS[argv[0]]
    options = cli.parse(
        options_class,
        args=argv[1:],
        prog=f"python -m torch_compat {argv[0]}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if getattr(options, "to", "-") == "":
        raise InputError("--to is empty, expected a directory to write")
    cli.use_device("cpu")
    return command(options)


def export(options: ExportOptions) -> int:
    """The command ``export``."""
    from jaxrnn import report
    from torch_compat import verify
    from torch_compat.export_run import export_run

    if not options.format:
        raise InputError("--format is empty, expected at least one")
    console = report.console()
    try:
        done = export_run(
            options.run, options.to, options.format, options.checkpoint, options.force
        )
    except verify.DifferenceError as error:
        _show(console, error.rows)
        print(f"error: {error}; nothing was written to {options.to}", file=sys.stderr)
        return 1
    _show(console, done.rows)
    sizes = ", ".join(f"{name} ({size:,} bytes)" for name, size in done.files.items())
    console.print(
        f"wrote   {options.to}: {done.model}, {done.num_parameters:,} parameters of the "
        f"checkpoint {done.checkpoint!r} at step {done.step:,}\n"
        f"files   {sizes}",
        markup=False,
    )
    if "config.json" in done.files:
        console.print(
            f"next    import torch_compat; model = torch_compat.load({options.to!r})", markup=False
        )
    return 0


def import_(options: ImportOptions) -> int:
    """The command ``import``."""
    from jaxrnn import report
    from jaxrnn.config import StreamConfig
    from jaxrnn.config_file import from_toml
    from torch_compat.import_run import import_run

    done = import_run(
        options.file,
        options.to,
        data=options.data,
        tokens=options.tokens,
        target=options.target,
        config=from_toml(options.config)[1] if options.config else None,
        force=options.force,
    )
    weights, path = done.weights, shlex.quote(options.to)
    arguments = dict(weights.arguments)
    if isinstance(done.config, StreamConfig):
        arguments["dropout"] = done.config.dropout
    shown = ", ".join(f"{key} {value}" for key, value in arguments.items())
    lines = [
        f"read    {options.file}: {weights.name}, {done.num_parameters:,} parameters ({shown})",
        f"wrote   {options.to}",
    ]
    lines += [f"note    {note}" for note in done.notes]
    for program in {"char": ["sample"], "sketch": ["draw", "demo"]}.get(done.task, []):
        lines.append(f"next    python -m jaxrnn.{program} {path}")
    lines.append(
        f"next    python -m jaxrnn.evaluate {path}" + ("" if done.has_data else " --data FILE")
    )
    if done.has_data:
        lines.append(f"next    python -m jaxrnn.train --resume {path}")
    report.console().print("\n".join(lines), markup=False)
    return 0


def verify(options: VerifyOptions) -> int:
    """The command ``verify``."""
    from jaxrnn import report
    from torch_compat.export_run import verify_run

    rows, remarks = verify_run(options.run, options.directory, options.checkpoint)
    console = report.console()
    _show(console, rows)
    for remark in remarks:
        console.print(f"note    {remark}", markup=False)
    above = sum(not row.ok for row in rows)
    if above:
        print(
            f"error: {above} of {len(rows)} differences are above their limit: {options.directory} "
            f"is not the model of {options.run}",
            file=sys.stderr,
        )
        return 1
    console.print(f"same    all {len(rows)} differences are within rounding")
    return 0


def _show(console: Console, rows: list[Row]) -> None:
    """A table for each form."""
    from rich.table import Table

    for form in dict.fromkeys(row.form for row in rows):
        table = Table("dtype", "tensor", title=f"{form}: largest differences from the JAX model")
        for name in ("absolute", "relative", "limit"):
            table.add_column(name, justify="right")
        for row in rows:
            if row.form == form:
                mark = "" if row.ok else "[bold red]above [/]"
                table.add_row(
                    *(row.dtype, row.tensor, f"{mark}{row.difference:.2g}"),
                    *(f"{row.relative:.2g}", f"{row.limit:.2g}"),
                )
        console.print(table)


COMMANDS: dict[str, tuple[type, Callable[..., int]]] = {
    "export": (ExportOptions, export),
    "import": (ImportOptions, import_),
    "verify": (VerifyOptions, verify),
}
"""Every command by its word: its options, and what it does with them."""


if __name__ == "__main__":
    sys.exit(main())
