"""Whatever a program is told, it does, or says in a line what is wrong and leaves all as it was.

Drawn words for every program but the trainer's, whose are in ``test_bad_input``; by ``-m slow``
thousands of them. Cases made by hand are beside what they are about (``test_draw``, ...).
"""

import dataclasses
import itertools
import shutil
import socket
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
import uvicorn
from demo_cases import make_run
from hypothesis import strategies as st
from small_runs import TEXT, char_config, train
from test_bad_input import COUNTS, VALUES, drawn

from jaxrnn import cli, draw, evaluate, forecast, sample
from jaxrnn.bench import __main__ as bench
from jaxrnn.bench import barriers, children, overhead, probe, results
from jaxrnn.config import SeriesConfig
from jaxrnn.demo import __main__ as demo
from torch_compat import __main__ as torch_compat

pytestmark = pytest.mark.parametrize("count", COUNTS)


class Program(NamedTuple):
    """What it is called with before the words that are drawn, and flags that it must have."""

    main: Callable[[list[str]], int]
    options: type
    before: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


PROGRAMS = {
    "sample": Program(sample.run_command, sample.SampleOptions, ("char",)),
    "draw": Program(draw.run_command, draw.DrawOptions, ("sketch",)),
    "forecast": Program(forecast.run_command, forecast.ForecastOptions, ("series",)),
    "evaluate a text": Program(evaluate.run_command, evaluate.EvaluateOptions, ("char",)),
    "evaluate a series": Program(evaluate.run_command, evaluate.EvaluateOptions, ("series",)),
    "evaluate drawings": Program(evaluate.run_command, evaluate.EvaluateOptions, ("sketch",)),
    "demo": Program(demo.run_command, demo.DemoOptions, ("sketch",)),
    "bench": Program(bench.run_command, bench.BenchOptions),
    "bench.probe": Program(probe.run_command, probe.ProbeOptions),
    "bench.barriers": Program(barriers.run_command, barriers.BarrierOptions),
    "bench.overhead": Program(overhead.run_command, overhead.OverheadOptions),
    "export": Program(
        torch_compat.run_command, torch_compat.ExportOptions, ("export", "char"), ("--to",)
    ),
    "import": Program(
        *(torch_compat.run_command, torch_compat.ImportOptions),
        *(("import", "weights.safetensors"), ("--to",)),
    ),
    "verify": Program(torch_compat.run_command, torch_compat.VerifyOptions, ("verify", "char")),
}
RUNS = {"char", "series", "sketch"}
POSITIONAL = {"run", "file", "directory", "tasks"}
PATHS = (
    *("", ".", "/", "..", "-", "~", "\0", "x" * 300, "new", "new.svg", "new.json", "new.csv"),
    *("new.png", "missing/new.svg", "missing/new.csv", "folder", "folder.svg", "folder.csv"),
    *("text.txt", "table.csv", "begun.svg", "char", "series", "sketch", "char/run.json"),
    *(
        "char/checkpoints/last.safetensors",
        "series/run.json",
        "sketch/run.json/x",
        "text.txt/x.csv",
    ),
    *("exported", "exported/model.safetensors", "weights.safetensors"),
)
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L30 40L50 10"/></svg>'


def option(name: str, kind: Any) -> st.SearchStrategy[tuple[str, ...]]:
    """The words of an option, mostly of its kind."""
    if typing.get_origin(kind) is Annotated:
        kind, *how = typing.get_args(kind)
        name = next((found.name for found in how if getattr(found, "name", None)), name)
    word = f"--{name.replace('_', '-')}"
    choices = [c for part in (kind, *typing.get_args(kind)) for c in typing.get_args(part)]
    if kind is bool:
        return st.just((word,))
    if kind is str:
        fitting = st.sampled_from(PATHS)
    elif any(isinstance(choice, str) for choice in choices):
        fitting = st.sampled_from([choice for choice in choices if isinstance(choice, str)])
    else:
        fitting = st.one_of(st.integers(-1, 20), st.floats(0, 2)).map(str)
    values = st.one_of(fitting, fitting, fitting, VALUES.map(str))
    return st.one_of(values.map(lambda value: (word, value)), st.just((word,)))


def words_of(program: Program) -> st.SearchStrategy[list[str]]:
    """Some options, and words that are none."""
    kinds = typing.get_type_hints(program.options, include_extras=True)
    options = [option(name, kind) for name, kind in kinds.items() if name not in POSITIONAL]
    stray = st.one_of(st.sampled_from(PATHS), VALUES.map(str)).map(lambda value: (value,))
    groups = st.one_of(*options, *options, stray)
    required = st.tuples(*([st.sampled_from(PATHS)] * len(program.required)))
    words = st.tuples(required, st.lists(groups, max_size=3)).map(
        lambda drawn: [
            *itertools.chain(*zip(program.required, drawn[0], strict=True)),
            *itertools.chain(*drawn[1]),
        ]
    )
    # A line break of a word may stand in an error, and is shown as \\n: see ``cli.printable``.
    no_lines = words.filter(lambda argv: not any(set(word) & set("\r\n") for word in argv))
    return no_lines.filter(lambda argv: not {"-h", "--help"} & set(argv))


def everything(folder: Path) -> dict[str, bytes | None]:
    """All files and directories below it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A run of three tasks, and files to read."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "text.txt").write_text(TEXT)
    (folder / "begun.svg").write_text(SVG)
    rows = [f"2024-01-{k + 1:02d},{k % 5},{k % 3}" for k in range(31)]
    (folder / "table.csv").write_text("\n".join(["date,a,b", *rows]))
    train(char_config(str(folder / "text.txt"), run=str(folder / "char"), epochs=1))
    small: dict[str, Any] = {"hidden_size": 4, "input_len": 4, "horizon": 2, "epochs": 1}
    series = SeriesConfig(data=str(folder / "table.csv"), run=str(folder / "series"), **small)
    train(series, "series")
    make_run(folder / "sketch")
    torch_compat.run_command(["export", str(folder / "char"), "--to", str(folder / "exported")])
    shutil.copy(folder / "exported" / "model.safetensors", folder / "weights.safetensors")
    for name in ("folder", "folder.svg", "folder.csv"):
        (folder / name).mkdir()
    return folder


@pytest.fixture
def at_work(made, tmp_path, monkeypatch) -> Iterator[Path]:
    """A copy of it, in which nothing is served and nothing timed."""
    folder = tmp_path / "work"
    shutil.copytree(made, folder)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(demo, "_listen", lambda host, port: listening)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: None)
    monkeypatch.setattr(children, "call", lambda *_, **__: {"refused": "it was not run"})
    monkeypatch.setattr(results, "run_workload", not_timed)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # which the benchmark sets
    monkeypatch.setattr(cli, "use_device", lambda *_, **__: None)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield folder


def not_timed(workload, peers, rounds, least_s):
    about = {**dataclasses.asdict(workload), "flops": 1.0}
    figures = {"ms": 2.0, "ms_low": 1.0, "ms_high": 3.0, "share": 0.5, "compile_s": 1.0}
    row = {"workload": about, "peer": "jaxrnn", "peak_memory_mib": None, "ceilings": None}
    skipped = {"workload": about, "peer": "torch", "skipped": "it was not run"}
    return [{**row, **figures, "floor_ms": 1.0, "us_a_time_step": 1.0}, skipped]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program(name, count, at_work):
    program = PROGRAMS[name]
    inputs = everything(at_work)

    def check(argv):
        try:
            code = program.main([*program.before, *argv])
        except BaseException:
            assert everything(at_work) == inputs, "what failed has left or changed something"
            raise
        after = everything(at_work)
        # Lines of the benchmark say what was refused, too.
        assert code == 0 or after == inputs or name.startswith("bench")
        for path in after.keys() - inputs:
            assert path.split("/")[0] not in RUNS, "something new is in a run"
            target = at_work / path
            if target.exists():
                shutil.rmtree(target) if target.is_dir() else target.unlink()
        # What is read stays, but for a file or picture that a user names to be written.
        runs = {path for path in inputs if path.split("/")[0] in RUNS}
        assert {path: after.get(path, b"gone") for path in runs} == {p: inputs[p] for p in runs}
        for path in inputs.keys() - runs:
            if after.get(path, b"gone") != inputs[path]:
                (at_work / path).write_bytes(inputs[path] or b"")

    drawn(count // 5, words_of(program), check)
