"""Exit codes and the one line of an error, in a process as a terminal has it."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

import jaxrnn
from jaxrnn import cli
from jaxrnn.errors import InputError

MISTAKES = {
    (
        "jaxrnn.train",
        "char",
        "--dtype",
        "float16",
    ): "invalid choice 'float16' for argument",
    ("jaxrnn.train", "char", "--hidden-sizes", "3"): "Unrecognized options: --hidden-sizes",
    ("jaxrnn.train", "char", "--hidden-size", "abc"): "Error parsing --hidden-size: ",
    ("jaxrnn.train", "char", "--steps"): "--steps",
    ("jaxrnn.sample",): "RUN",
    ("torch_compat", "export", "run"): "--to",
}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("arguments", MISTAKES)
def test_a_mistaken_option_is_named_in_one_line(arguments, encoding):
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | {"PYTHONIOENCODING": encoding, "COLUMNS": "70"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("; see --help\n")
    assert MISTAKES[arguments] in done.stderr
    assert "For full helptext" not in done.stderr


def test_exit_codes(capsys):
    def fail(error):
        raise error

    assert cli.exit_code(lambda: None) == 0
    assert cli.exit_code(lambda: 3) == 3
    assert cli.exit_code(lambda: fail(InputError("no such thing"))) == 2
    assert cli.exit_code(lambda: fail(OSError(28, "No space left on device"))) == 1
    assert cli.exit_code(lambda: fail(KeyboardInterrupt())) == 130
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "error: no such thing",
        "error: [Errno 28] No space left on device",
        "interrupted",
    ]


NAME = "a\nb\x1b[2J\u2028\ud83d ü.txt"


@pytest.mark.parametrize("error", [InputError(f"no file {NAME}"), OSError(f"no file {NAME}")])
def test_a_name_of_several_lines_is_shown_in_one(error, capsys):
    def fail():
        raise error

    assert cli.exit_code(fail) in (1, 2)
    said = capsys.readouterr().err
    assert said == "error: no file a\\nb\\x1b[2J\\u2028\\ud83d ü.txt\n"


def test_overflow_is_no_warning_of_a_command():
    def overflow():
        assert np.isinf(np.array([1.7e308]) * 10)  # elsewhere, under test, an error
        assert np.isnan(np.float64(np.inf) - np.float64(np.inf))

    with pytest.raises(RuntimeWarning):
        overflow()
    assert cli.exit_code(overflow) == 0
    with pytest.raises(RuntimeWarning):
        overflow()


@pytest.mark.parametrize("arguments", [("-m", "jaxrnn.train"), ("jaxrnn-train",)])
def test_ctrl_c_while_a_command_is_imported(arguments, tmp_path):
    (tmp_path / "jax.py").write_text("raise KeyboardInterrupt")
    (tmp_path / "jaxrnn-train").write_text("from jaxrnn.train import main\nmain()\n")
    paths = [str(tmp_path), str(Path(jaxrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_who_imports_a_command_keeps_its_own_hook():
    code = "import sys; before = sys.excepthook; import jaxrnn.cli; print(sys.excepthook is before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OverflowError("Python int too large to convert to C long"),
        JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4 bytes.\nStack"),
    ],
)
def test_what_is_too_large_is_said_with_what_to_lower(error, capsys):
    def fail():
        raise error

    assert cli.exit_code(fail) == 1
    err = capsys.readouterr().err
    reason = " ".join(str(error).split()) or "out of memory"
    assert err.startswith(
        f"error: this is too large for the machine ({reason}); lower --batch-size, --hidden-size, "
    )
    assert err.count("\n") == 1


def test_an_error_of_ours_is_not_hidden():
    def fail():
        raise JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(JaxRuntimeError):
        cli.exit_code(fail)


def test_no_more_devices_than_a_cpu_can_be(monkeypatch):
    asked = []
    monkeypatch.setattr(cli, "num_cores", lambda: 2)
    monkeypatch.setattr(type(jax.config), "update", lambda _, *option: asked.append(option))
    for shards in (1, 2, cli.MOST_CPU_SHARDS, cli.MOST_CPU_SHARDS + 1, 50_000):
        cli.use_device("auto", cpu_shards=shards)
    assert asked == [("jax_num_cpu_devices", 2), ("jax_num_cpu_devices", cli.MOST_CPU_SHARDS)]
    monkeypatch.setattr(cli, "num_cores", lambda: 128)
    cli.use_device("auto", cpu_shards=128)
    assert asked[2:] == [("jax_num_cpu_devices", 128)]


@pytest.mark.parametrize(("has", "asked"), [("cuda", ["cuda"]), ("rocm", ["cuda", "rocm"])])
def test_a_gpu_is_of_the_maker_that_is_there(has, asked, monkeypatch):
    """JAX's own "gpu" asks for those of all makers, and fails where one is missing."""
    given, joined = [], []
    monkeypatch.setattr(type(jax.config), "update", lambda _, name, value: given.append(value))

    def devices():
        if given[-1] != has:
            raise RuntimeError(f"Unknown backend: '{given[-1]}'")
        return [SimpleNamespace(device_kind="H200", platform="gpu")]

    monkeypatch.setattr(jax, "devices", devices)

    def join():
        joined.append(given[-1])
        return 1

    assert cli.use_device("gpu", cpu_shards=join) == "H200"
    assert given == asked
    assert joined == ["cuda"]  # once, before JAX looks for devices


def test_a_reader_that_has_gone_does_not_end_a_run():
    code = (
        "from jaxrnn import report\n"
        "console = report.console()\n"
        "for k in range(100_000): console.print(f'line {k}')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=120) == 0


def test_streams_that_are_closed_take_what_is_written(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def command():
        print("a", file=sys.stderr)
        sys.stdout.write("b".encode(sys.stdout.encoding).decode())

    assert cli.exit_code(command) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()
