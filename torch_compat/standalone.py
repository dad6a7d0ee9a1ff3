"""The Python file of an export as ``module``: the part of ``modules.py`` that one model needs.

Usage: ``source("CharLM")`` is the text of ``model.py``.
"""

from __future__ import annotations

import ast
from pathlib import Path

from jaxrnn.version import __version__

_README = """\
# {name}, exported from jaxrnn {version}

It needs torch and safetensors alone: `pip install torch safetensors`. In this directory:

    python -c "import model; print(model.load())"

{use}
"""
_USES = {
    "CharLM": 'Text: `m = model.load(); print(m.decode(m.generate(m.encode("The "), 200)))`.',
    "Forecaster": "Forecasts: `m = model.load(); m.inverse(m.forecast(m.transform(history), 24))` "
    "gives the 24 steps after `history`, a tensor (batch, time, 1).",
}


def readme(name: str) -> str:
    """What to do with the directory."""
    return _README.format(name=name, version=__version__, use=_USES[name])


def source(name: str) -> str:
    """The class ``name`` and ``load``, with all that they use, as a file of its own."""
    text = (Path(__file__).parent / "modules.py").read_text(encoding="utf-8")
    imports: list[ast.Import | ast.ImportFrom] = []
    defined: dict[str, list[ast.stmt]] = {}
    last = ""
    for node in ast.parse(text).body[1:]:
        match node:
            case ast.Import() | ast.ImportFrom():
                imports.append(node)
            case ast.FunctionDef() | ast.ClassDef():
                defined[node.name] = [node]
            case ast.Assign(targets=[ast.Name(id=last)]) | ast.AnnAssign(target=ast.Name(id=last)):
                defined[last] = [node]
            case _:  # the string below an assignment, which documents it
                defined[last].append(node)

    needed, new = {"annotations"}, {name, "load"}
    while new:
        needed |= new
        nodes = [node for key in new & set(defined) for node in defined[key]]
        new = {n.id for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name)} - needed

    rows = text.splitlines()
    unused = {
        node.lineno
        for node in imports
        if not needed & {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    }
    header = range(imports[0].lineno, imports[-1].lineno + 1)
    parts = ["\n".join(rows[number - 1] for number in header if number not in unused)]
    parts += [
        "\n".join(rows[nodes[0].lineno - 1 : nodes[-1].end_lineno])
        for key, nodes in defined.items()
        if key in needed
    ]
    about = f'"""{name} in plain torch: ``model = load()`` reads the weights beside this file."""'
    return f"{about}\n\n" + "\n\n\n".join(parts) + "\n"
