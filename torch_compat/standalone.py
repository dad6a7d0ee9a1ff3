"""The Python file of an export as ``module``: what one model needs of ``modules.py``, and of the
files of this package that it imports.

Usage: ``source("CharLM")`` is the text of ``model.py``.
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path

from jaxrnn.version import __version__

_README = """\
# {name}, exported from jaxrnn {version}

It needs torch and safetensors alone: `pip install torch safetensors`. In this directory:

    python -c "import model; print(model.load())"

{use}
"""
_TEXT = 'Text: `m = model.load(); print(m.decode(m.generate(m.encode("The "), 200)))`.'
_STEPS = (
    "Forecasts: `m = model.load(); m.predict(rows)` gives the steps after `rows`, a tensor "
    "(time, columns) in the data's unit, as quantiles (steps, targets, levels). Columns are "
    "`m.series['targets']`, `['covariates']`, `['known']`, in this order; known columns and "
    "calendar features of the steps to come are further arguments."
)
_USES = {
    "CharLM": _TEXT,
    "MinCharLM": f"{_TEXT}\nIts cells are those of arXiv 2410.01201, not `nn.GRU` or `nn.LSTM`.",
    "Forecaster": "Forecasts: `m = model.load(); m.inverse(m.forecast(m.transform(history), 24))` "
    "gives the 24 steps after `history`, a tensor (batch, time, 1).",
    "DirectForecaster": _STEPS,
    "RecursiveForecaster": f"{_STEPS}\n\nOf a Student t they are quantiles of drawn paths, the "
    "same at each call; `generator` draws others. With the numbers that jaxrnn draws with as "
    "`uniforms` they are jaxrnn's: `path_uniforms(task, 1, steps)[:, :, 0]` of "
    "`jaxrnn.tasks.series_forecasts`.",
    "SegmentForecaster": _STEPS,
    "SketchRNN": "Drawings: `m = model.load(); m.draw(9, temperature=0.4)` gives nine, each a "
    "tensor (points, 3) of dx, dy and whether the pen is then lifted; `m.draw(9, prefix=begun)` "
    "goes on from one.",
}


def readme(name: str) -> str:
    """What to do with the directory."""
    return _README.format(name=name, version=__version__, use=_USES[name])


@dataclasses.dataclass(frozen=True)
class _Definition:
    """A class, function or constant at the top of a file."""

    text: str
    names: frozenset[str]  # that it uses


def source(name: str) -> str:
    """The class ``name`` and ``load``, with all that they use, as a file of its own."""
    imports: dict[str, frozenset[str]] = {}
    defined: dict[str, _Definition] = {}
    _collect("modules", imports, defined)
    needed, new = {"annotations"}, {name, "load"}
    while new:
        needed |= new
        new = {n for key in new & set(defined) for n in defined[key].names} - needed
    lines = [line for line, bound in imports.items() if needed & bound]
    about = f'"""{name} in plain torch: ``model = load()`` reads the weights beside this file."""'
    parts = [definition.text for key, definition in defined.items() if key in needed]
    return "\n\n\n".join([f"{about}\n\n" + _sorted(lines), *parts]) + "\n"


def _collect(
    module: str, imports: dict[str, frozenset[str]], defined: dict[str, _Definition]
) -> None:
    """Add what is at the top of a file of this package, after that of the files it imports."""
    text = (Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8")
    rows = text.splitlines()
    last = ""
    for node in ast.parse(text).body[1:]:
        content = "\n".join(rows[node.lineno - 1 : node.end_lineno])
        names = frozenset(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
        match node:
            case ast.ImportFrom(module=str(other)) if other.startswith("torch_compat."):
                _collect(other.removeprefix("torch_compat."), imports, defined)
                continue
            case ast.Import() | ast.ImportFrom():
                bound = {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
                imports[content] = frozenset(bound) | imports.get(content, frozenset())
                continue
            case ast.FunctionDef() | ast.ClassDef():
                last = node.name
            case ast.Assign(targets=[ast.Name(id=last)]) | ast.AnnAssign(target=ast.Name(id=last)):
                pass
            case _:  # the string below an assignment, which documents it
                content = f"{defined[last].text}\n{content}"
                names = defined.pop(last).names
        if last in defined:
            raise ValueError(f"{last} is defined in two files, of which one file can't be made")
        defined[last] = _Definition(content, names)


def _sorted(imports: list[str]) -> str:
    """In sections: of the language, of its library, of others."""

    def section(line: str) -> int:
        root = line.split()[1].partition(".")[0]
        return 0 if root == "__future__" else 1 if root in sys.stdlib_module_names else 2

    sections = [[line for line in imports if section(line) == k] for k in range(3)]
    return "\n\n".join(
        "\n".join(sorted(lines, key=lambda line: (line.startswith("from"), line)))
        for lines in sections
        if lines
    )
