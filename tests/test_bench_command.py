"""What the benchmark shows and writes, and its command line."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from typing import Any

import jax
import pytest
from bench_cases import LIMITS, LSTM, ROWS
from refusals import message
from rich.console import Console

from jaxrnn.bench import __main__ as command
from jaxrnn.bench import report, results
from jaxrnn.bench.peers import ONLY_NAMED, PEERS, torch_nn
from jaxrnn.bench.workloads import SUITES, Workload, parameters
from jaxrnn.errors import InputError

pytestmark = pytest.mark.usefixtures("as_users_have_it")

# --- what is shown

ABOUT: dict[str, Any] = {
    "device": "A Device",
    "threads": 2,
    "load": 0.5,
    "versions": {"jax": "1.2", "torch": "3.4", "jaxrnn": "0.1"},
    "date": "2025-01-02T03:04:05Z",
    "quick": False,
}


def row_of(peer: str, ms: float, workload: Workload = LSTM, **more) -> dict[str, Any]:
    more = {"peak_memory_mib": 1234.5 if peer == "jaxrnn" else None, **more}
    row = {"ms": ms, "ms_low": 0.9 * ms, "ms_high": 1.1 * ms, "share": 0.456, "compile_s": 1.25}
    about = {**vars(workload), "flops": workload.flops}
    return {"workload": about, "peer": peer, **row, "ceilings": LIMITS, **more}


def known_rows() -> list[dict[str, Any]]:
    large = replace(LSTM, name="lstm-projection", proj_size=128, hidden_size=256, goal=1.15)
    return [
        row_of("jaxrnn", 0.0123),
        row_of("torch", 0.0246, ratio=2.0, ratio_low=1.91, ratio_high=2.12),
        {"workload": vars(LSTM), "peer": "haste", "skipped": "it is not there"},
        row_of("jaxrnn", 12345.6, large),
        row_of(
            *("torch-compile", 98765.4, large),
            **{"ratio": 1234.5, "ratio_low": 1111.1, "ratio_high": 1957.9},
            **{"goal": 1.15, "goal_met": False},
        ),
        {"workload": vars(large), "peer": "haste", "skipped": "it is not there"},
        {"workload": vars(large), "peer": "keras", "skipped": "no projection"},
    ]


def test_the_table_has_every_figure_in_80_columns():
    out, rows = io.StringIO(), known_rows()
    console = Console(file=out, width=80, highlight=False, soft_wrap=True)
    report.header(console)
    report.block(console, rows[:3])
    report.block(console, rows[3:])
    report.footer(console, rows, ABOUT)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[:7]] == [
        ["ms/step", "spread", "floor", "comp.", "s", "MiB", "ratio", "quartiles", "goal"],
        ["tiny:", "lstm", "forward", "T5", "B3", "I4", "H6", "L1"],
        ["jaxrnn", "0.0123", "20%", "46%", "1.2", "1,234"],
        ["torch", "0.0246", "20%", "46%", "1.2", "2", "1.91-2.12"],
        ["lstm-projection:", "lstm", "forward", "T5", "B3", "I4", "H256->128", "L1"],
        ["jaxrnn", "12,346", "20%", "46%", "1.2", "1,234"],
        [
            *("torch-compile", "98,765", "20%", "46%", "1.2"),
            *("1,234", "1,111-1,958", "1.15", "missed"),
        ],
    ]
    assert lines.count("left out: haste: it is not there") == 1
    assert "left out: keras of lstm-projection: no projection" in lines
    assert "A Device, 2 threads" in lines
    assert "jaxrnn 0.1, jax 1.2, torch 3.4, 2025-01-02T03:04:05Z;" in lines
    assert "float32 where a row says nothing else" in lines
    assert "ceilings: matmul 100-100 GFLOP/s by shape, reading weights 20-20 GB/s," in lines
    assert not any("quoted" in line for line in lines)
    assert report.is_busy({**ABOUT, "load": 1.5})
    report.footer(console, rows, {**ABOUT, "quick": True})
    assert out.getvalue().splitlines()[-1].endswith("not to be quoted")


def test_rows_that_are_compared_in_float64_say_more():
    row = replace(LSTM, exact=True, precision="bfloat16", mode="gradients")
    more = {"floor_ms": 0.05, "us_a_time_step": 40.0, "difference": 0.004}
    judged = {"goal": 6.0, "goal_met": True, "goal_ratio": 7.25, "goal_by": "jaxrnn-kernel"}
    ratio = {"ratio": 0.138, "ratio_low": 0.1, "ratio_high": 0.2}
    rows = [
        row_of("jaxrnn", 0.2, row, **more, **judged, same_bits=True),
        row_of(
            *("torch-float16", 0.3, row),
            **{**more, "us_a_time_step": 60.0, "share": None, "floor_ms": None, "ceilings": None},
            **ratio,
        ),
        row_of(
            "jaxrnn-kernel", 0.02, row, **{**more, "difference": 0.007}, same_bits=False, **ratio
        ),
        row_of("jaxrnn", 0.2, replace(row, name="other"), **{**more, "difference": 0.002}),
    ]
    out = io.StringIO()
    console = Console(file=out, width=80, highlight=False, soft_wrap=True)
    report.block(console, rows[:3])
    report.footer(console, rows, ABOUT)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines[1].endswith(" 6 met")
    assert lines[1].index("6 met") > 65  # in the last column
    # 0.05 ms over 5 steps
    assert " us a time step: floor 10, jaxrnn 40, torch-float16 60, jaxrnn-kernel 40" in lines
    assert "from float64: jaxrnn in bfloat16, 0.002 to 0.004 of a tensor's largest value" in lines
    assert "from float64: torch-float16, 0.004 to 0.004 of a tensor's largest value" in lines
    assert "not the same bits a second time: jaxrnn-kernel of tiny" in lines
    assert "goal of tiny, 6: jaxrnn over jaxrnn-kernel 7.25, met" in lines
    judged = {
        "goal": 2.5,
        "goal_met": None,
        "goal_by": "jaxrnn",
        "goal_reason": "flax was not timed",
    }
    rows = [{"workload": {**vars(row), "name": "x"}, "peer": "flax", "skipped": "why", **judged}]
    out.truncate(0)
    report.footer(console, rows, ABOUT)
    assert "goal of x, 2.5: not judged, flax was not timed" in out.getvalue()


def test_the_plot_has_a_dot_for_each_peer(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(report, "FigureCanvasAgg", seen.append)
    report.plot(tmp_path / "a.png", known_rows(), {**ABOUT, "quick": True})
    (axes,) = seen[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_title().startswith("A Device, 2 threads, jax 1.2\n")
    assert axes.get_title().endswith("not to be quoted")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tiny", "lstm-projection"]
    dots = {c.get_label(): c.lines[0].get_data() for c in axes.containers}
    assert {name: list(x) for name, (x, _) in dots.items()} == {
        "torch": [2.0],
        "torch-compile": [1234.5],
    }
    assert [round(float(y[0])) for _, y in dots.values()] == [0, 1]
    left, right = axes.get_xlim()
    assert left <= 0.5
    assert right > 1957.9  # with its quartiles
    report.plot(tmp_path / "none.png", known_rows()[:1], ABOUT)
    assert (tmp_path / "none.png").stat().st_size > 5000


# --- the command line


@pytest.fixture
def tiny(monkeypatch, known_ceilings):
    """Suites of one tiny row, shown 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    row = replace(ROWS["projection"], num_steps=50, goal=1.5)
    monkeypatch.setattr(command, "SUITES", {**dict.fromkeys(SUITES, ()), "lesson": (row,)})


def test_lines_of_json(tmp_path, tiny, capsys):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"older": 1}\n')
    argv = ["--suite", "lesson", "infer", "lesson", "--peers", "torch", "haste", "flax", "--quick"]
    picture = tmp_path / "ratios.svg"
    assert command.run_command([*argv, "--json", str(path), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "not to be quoted" in out
    assert "left out: haste: haste_pytorch is not installed" in out
    assert "left out: flax: its cells have no projection" in out
    assert picture.read_text().startswith("<?xml")
    older, *lines = (
        json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()
    )
    assert older == {"older": 1}
    assert [line["peer"] for line in lines] == ["jaxrnn", "torch", "haste", "flax"]
    for line in lines:
        assert line["quick"] is True
        assert line["platform"] == "cpu"
        assert line["device"]
        assert line["threads"] == len(os.sched_getaffinity(0))
        assert line["versions"]["torch"] == metadata.version("torch")
        assert line["versions"]["jax"] == jax.__version__
        assert line["date"][:2] == "20"
        assert line["flags"]["peers"] == ["torch", "haste", "flax"]
        assert line["workload"]["precision"] == "float32"
    assert lines[0]["workload"]["num_steps"] == 5
    assert lines[0]["ceilings"] == LIMITS
    assert lines[1]["peak_memory_mib"] is None
    assert lines[0]["peak_memory_mib"] > 0
    assert lines[1]["share"] == pytest.approx(250 / lines[1]["ms"])
    assert lines[2]["skipped"] == "haste_pytorch is not installed"
    assert "ms" not in lines[2]
    assert lines[3]["skipped"] == "its cells have no projection"


def test_no_figure_without_a_peer(tmp_path, tiny, capsys):
    path, link = tmp_path / "lines.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    argv = ["--suite", "lesson", "--quick", "--json", str(link)]
    with pytest.raises(InputError, match="--peers haste: none is installed here"):
        command.run_command([*argv, "--peers", "haste"])
    assert "jaxrnn" not in capsys.readouterr().out
    assert link.is_symlink()  # checked before, and still there
    assert command.run_command([*argv, "--peers", "haste", "torch"]) == 0
    assert len(path.read_text().splitlines()) == 3
    capsys.readouterr()
    assert command.run_command([*argv, "--peers", "flax"]) == 1  # which has no projection
    captured = capsys.readouterr()
    assert captured.err == "error: nothing was timed: no peer could do any of it\n"
    assert "left out: jaxrnn: no peer was timed beside it" in captured.out
    assert '"ms"' not in "".join(path.read_text().splitlines()[3:])


def test_a_peer_that_computes_something_else_is_left_out_and_an_error(tiny, monkeypatch, capsys):
    def other(workload):
        return {name: 1.5 * array for name, array in parameters(workload).items()}

    row = replace(ROWS["gru"], num_steps=50)
    monkeypatch.setattr(command, "SUITES", {"lesson": (row,)})
    monkeypatch.setattr(torch_nn, "parameters", other)
    argv = ["--suite", "lesson", "--quick", "--peers", "torch", "flax"]
    assert command.run_command(argv) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("error: torch on tiny: the ")
    assert "of its largest value" in err
    assert "\n torch " not in out
    assert "\n flax " in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--suite", "nosuch"], "nosuch"),
        (["--suite", "lesson", "--peers", "nosuch"], "nosuch"),
        (["--json", "{folder}/missing/a.jsonl"], "can't write --json"),
        (["--json", "{folder}"], "a directory, expected a file"),
        (["--plot", "{folder}/missing/a.png"], "can't write --plot"),
        (["--plot", "{folder}/a.xyz"], "expected a name in .png, .svg, .pdf"),
    ],
)
def test_mistakes_are_found_before_anything_is_timed(argv, said, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(results, "run_workload", lambda *_: pytest.fail("timed"))
    with pytest.raises(InputError) as error:
        command.run_command([word.format(folder=tmp_path) for word in argv])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_who_takes_part_by_default(tiny, monkeypatch, capsys):
    asked = []

    def run(workload, peers, rounds, least_s):
        asked.append(peers)
        return [row_of("jaxrnn", 1.0)]

    monkeypatch.setattr(results, "run_workload", run)
    assert command.run_command(["--suite", "lesson"]) == 0
    assert asked == [tuple(name for name in PEERS if name not in {"jaxrnn", *ONLY_NAMED})]
    assert "left out: torch-compile: only where --peers names it" in capsys.readouterr().out


def test_rows_are_chosen_by_name_and_begun_while_there_is_time(tiny, monkeypatch, capsys):
    rows = tuple(replace(LSTM, name=name) for name in ("gru-1", "gru-2", "lstm-1"))
    monkeypatch.setattr(command, "SUITES", {"lesson": rows})
    now, ran = [0.0], []

    def run(workload, peers, rounds, least_s):
        ran.append(workload.name)
        now[0] += 100
        return [row_of("jaxrnn", 1.0, workload)]

    monkeypatch.setattr(results, "run_workload", run)

    def monotonic():
        now[0] += 10
        return now[0]

    monkeypatch.setattr(command.time, "monotonic", monotonic)
    argv = ["--suite", "lesson", "--rows", "lstm-1", "gru-*"]
    assert command.run_command(argv) == 0
    assert ran == ["gru-1", "gru-2", "lstm-1"]
    ran.clear()
    assert command.run_command(["--suite", "lesson", "--rows", "*-1", "--minutes", "0.1"]) == 0
    assert ran == ["gru-1"]
    assert "left out: jaxrnn of lstm-1: 0.1 minutes were over" in capsys.readouterr().out
    said = message(command.run_command, ["--suite", "lesson", "--rows", "rnn*"])
    assert said == "--rows is 'rnn*', expected some of gru-1, gru-2, lstm-1"
    for wrong in ("-1", "inf", "nan"):
        said = message(command.run_command, ["--minutes", wrong])
        assert said == f"--minutes is {float(wrong)}, expected 0 or more"


def test_turns_are_shorter_where_rows_are_many():
    exact = replace(LSTM, exact=True)
    assert [command.turns(row, quick) for row in (LSTM, exact) for quick in (False, True)] == [
        *((9, 0.5), (3, 0.05)),
        *((7, 0.05), (3, 0.05)),
    ]


def test_rows_of_a_gpu_are_not_begun_on_a_cpu_that_nobody_asked_for():
    assert message(command.run_command, ["--suite", "gpu"]) == (
        "--suite is gpu, and JAX's device here is a CPU; install JAX for the GPU, or say "
        "--device cpu (hours) or --quick"
    )


def test_help_needs_none_of_the_libraries():
    code = (
        "import sys\n"
        "from jaxrnn.bench.__main__ import main\n"
        "sys.argv = ['bench', *sys.argv[1:]]\n"
        "try:\n"
        "    code = main()\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "print(sorted({'torch', 'keras', 'flax', 'jax'} & set(sys.modules)), code)\n"
    )
    for argument, ends in (("--help", "[] 0"), ("nosuch", "[] 2")):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == ends
        assert ("--peers" in done.stdout) == (argument == "--help")
        assert done.stderr.count("\n") == (argument == "nosuch")
