"""Draw with a trained sketch-rnn: ``python -m jaxrnn.draw RUN``.

New drawings, endings of one that was begun, drawings again through the latent vector, and what lies
between two of them; as SVG, PNG or JSON.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from jaxrnn import cli, files
from jaxrnn.data.sketch_output import from_json, to_json, to_svg
from jaxrnn.data.sketches import read_sketches
from jaxrnn.data.strokes import Drawing
from jaxrnn.errors import InputError
from jaxrnn.files import write_atomically

SUFFIXES = (".svg", ".png", ".json")


@dataclasses.dataclass(frozen=True)
class DrawOptions:
    """Draw with a trained sketch-rnn.

    examples:
      python -m jaxrnn.draw runs/sketch-20250101-120000
      python -m jaxrnn.draw runs/sketch-20250101-120000 --prefix begun.svg --to endings.svg
      python -m jaxrnn.draw runs/sketch-20250101-120000 --between two.json --count 7 --to row.png
      python -m jaxrnn.draw runs/sketch-20250101-120000 --seconds 4 --to moving.svg
    """

    run: Annotated[str, tyro.conf.arg(metavar="RUN"), tyro.conf.Positional]
    """run directory of the task sketch"""
    to: Annotated[str, tyro.conf.arg(metavar="FILE")] = "drawings.svg"
    """picture (.svg, .png) or points (.json) to write"""
    count: int = 9
    """how many drawings"""
    prefix: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """a file whose first drawing was begun: draw endings of it"""
    again: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """a file of drawings: draw each again from its latent vector, beside it"""
    between: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """a file of two drawings: draw what lies between their latent vectors"""
    span: float = 0.0
    """the larger side that a whole drawing has in the unit of the file that is read, as 256 in what
    the drawing page saves; 0: the file is in the unit of the training drawings"""
    class_name: Annotated[str, tyro.conf.arg(name="class", metavar="CLASS")] = ""
    """which class, where the run was trained on several; empty: the file's, or the first"""
    temperature: float = 0.4
    """near 0 sure of itself, 1 as varied as the training drawings"""
    convention: Literal["paper", "magenta"] = "paper"
    """what the temperature does: variances times it, logits over (1 + it) / 2, as in the paper's
    figures; or variances times its square, logits over it, as Magenta's model.py has it"""
    length: int = 0
    """most points of a drawing; 0: those of the longest training drawing"""
    seconds: float = 0.0
    """of an SVG that draws itself, over and over; 0: a still one"""
    seed: int = 0
    """of the draws: the same seed gives the same drawings"""
    checkpoint: Literal["auto", "best", "last"] = "auto"
    """which parameters; auto: the best, or the last where nothing was validated"""
    device: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """where to compute"""

    def __post_init__(self):
        checks = {
            "to": (Path(self.to).suffix.lower() in SUFFIXES, f"a name in {', '.join(SUFFIXES)}"),
            "count": (1 <= self.count <= 1000, "from 1 to 1000"),
            "temperature": (0 <= self.temperature <= 100, "a number from 0 to 100"),
            "span": (0 <= self.span < math.inf, "a number from 0 on"),
            "length": (0 <= self.length <= 10_000, "from 0 to 10000"),
            "seconds": (0 <= self.seconds <= 3600, "a number from 0 to 3600"),
            "seed": (0 <= self.seed < 2**32, "from 0 to 2**32 - 1"),
        }
        cli.check_flags(self, checks)
        given = [name for name in ("prefix", "again", "between") if getattr(self, name)]
        if len(given) > 1:
            raise InputError(f"--{given[0]} and --{given[1]} exclude each other; give one")
        if self.seconds and Path(self.to).suffix.lower() != ".svg":
            raise InputError(f"--seconds is {self.seconds}, expected 0 for {self.to}: SVG moves")
        if given and files.is_same(self.to, getattr(self, given[0])):
            raise InputError(f"--to is {self.to}, which --{given[0]} reads; choose another name")


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(DrawOptions, args=argv, prog="python -m jaxrnn.draw")
    cli.check_outputs(to=options.to)
    task, skeleton, params, _ = cli.open_model(options.run, options.checkpoint, options.device)
    if task.name != "sketch":
        raise InputError(f"{options.run} is of the task {task.name!r}, expected 'sketch'")

    from jaxrnn.models.sketch_drawing import Pen

    drawings, num_prefix, num_columns = drawn(options, task, Pen((skeleton, params)))
    path = Path(options.to)
    try:
        if path.suffix.lower() == ".json":
            write_atomically(path, to_json(drawings).encode())
        elif path.suffix.lower() == ".png":
            from jaxrnn import plots

            plots.drawings(path, drawings, num_columns=num_columns, num_prefix=num_prefix)
        else:
            shown = {"num_columns": num_columns, "num_prefix": num_prefix}
            text = to_svg(drawings, seconds=options.seconds, **shown)
            write_atomically(path, text.encode())
    except OSError as error:
        raise InputError(f"can't write --to {path}: {error.strerror or error}") from error
    points = sum(map(len, drawings))
    print(f"wrote {path}: {len(drawings)} drawings of {points:,} points")
    return 0


def drawn(options: DrawOptions, task: Any, pen: Any) -> tuple[list[Drawing], int, int]:
    """The drawings in the data's unit, the points that were given of each, and columns (0: any)."""
    import jax

    key = jax.random.key(options.seed)
    scale = task.scale * (options.span / task.extent if options.span else 1)
    unit = np.array([scale, scale, 1], np.float32)
    shared = {
        "length": options.length or task.num_points,
        "temperature": options.temperature,
        "convention": options.convention,
    }

    def draw(names: list[str], **more: Any) -> list[Drawing]:
        classes = np.array([_class(options.class_name, name, task) for name in names], np.int32)
        found = pen.drawings(key, count=len(names), classes=classes, **shared, **more)
        return [drawing * unit for drawing in found]

    def read(drawing: Drawing) -> Drawing:
        """In the model's unit, wherever it stands."""
        return task.placed(drawing / unit)

    if options.prefix:
        (begun, name), *_ = _read("prefix", options.prefix)
        endings = draw([name] * options.count, prefix=read(begun), least=1)
        return [np.concatenate([begun, ending]) for ending in endings], len(begun), 0
    if not (options.again or options.between):
        return draw([""] * options.count), 0, 0
    name = "again" if options.again else "between"
    if not task.config.conditional:
        raise InputError(
            f"--{name}: the run was trained with --no-conditional, and has no latent vectors"
        )
    given, names = map(list, zip(*_read(name, getattr(options, name)), strict=True))
    if name == "again":
        mu, _ = pen.encode([read(drawing) for drawing in given])
        pairs = zip(given, draw(names, z=mu), strict=True)
        return [drawing for pair in pairs for drawing in pair], 0, 2
    if len(given) != 2:
        raise InputError(f"--between {options.between} has {len(given)} drawings, expected 2")

    from jaxrnn.models.sketch_drawing import slerp

    first, second = pen.encode([read(drawing) for drawing in given])[0]
    shares = np.linspace(0, 1, options.count)
    z = np.stack([slerp(first, second, share) for share in shares])
    nearer = [names[round(share)] for share in shares]
    return draw(nearer, z=z), 0, options.count


def _read(flag: str, path: str) -> list[tuple[Drawing, str]]:
    """All drawings of a file, in its own unit, and their classes' names (or none).

    Raises InputError where there is no drawing.
    """
    if Path(path).suffix.lower() == ".json":
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"can't read --{flag} {path}: {error}") from error
        drawings, names = from_json(text, path), itertools.repeat("")
    else:
        file = read_sketches(path)
        drawings = [*file.train, *file.valid, *file.test]
        names = [name for part in ("train", "valid", "test") for name in file.classes[part]]
    found = [(drawing, name) for drawing, name in zip(drawings, names) if len(drawing)]  # noqa: B905
    if not found:
        raise InputError(f"--{flag} {path} has no drawing with points in it")
    return found


def _class(given: str, of_file: str, task: Any) -> int:
    if given and given not in task.classes:
        raise InputError(f"--class is {given!r}, expected one of {', '.join(task.classes)}")
    name = given or of_file
    return task.classes.index(name) if name in task.classes else 0


if __name__ == "__main__":
    sys.exit(main())
