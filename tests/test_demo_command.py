"""``python -m jaxrnn.demo``: its options, its mistakes in one line, and that it serves and ends."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from demo_cases import make_run
from small_runs import TEXT, char_config, train

from jaxrnn import checkpoint, cli, evaluate
from jaxrnn.data.drawings import read_drawings
from jaxrnn.data.strokes import typical_extent
from jaxrnn.demo import __main__ as command

OMNIGLOT = str(command.MODEL.parents[1] / "data" / "omniglot.npz")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    return make_run(tmp_path_factory.mktemp("demo") / "run")


def call(monkeypatch, capsys, *argv: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["jaxrnn-demo", *argv])
    capsys.readouterr()
    try:
        code = command.main()
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("nowhere",), "no run directory nowhere"),
        (("nowhere", "--port", "65536"), "--port is 65536, expected 0 to 65535"),
        (("nowhere", "--port", "-1"), "--port is -1, expected 0 to 65535"),
        (("nowhere", "--port", "http"), "Error parsing --port"),
        (("nowhere", "--ports", "1"), "--ports"),
        (("nowhere", "--device", "abacus"), "invalid choice 'abacus'"),
    ],
)
def test_a_mistake_is_named_in_one_line(monkeypatch, capsys, argv, expected):
    code, out, err = call(monkeypatch, capsys, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert expected in err


def test_without_a_run_the_own_model_is_taken(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "MODEL", tmp_path / "model")
    code, _, err = call(monkeypatch, capsys)
    assert code == 2
    assert "no RUN is named, and no model comes with this version; name a run directory" in err
    (tmp_path / "model").mkdir()
    code, _, err = call(monkeypatch, capsys)
    assert code == 2
    assert f"{tmp_path / 'model'} is not a run directory" in err


def test_a_run_of_another_task_is_refused(monkeypatch, capsys, tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    run, _ = train(char_config(str(tmp_path / "text.txt"), run=str(tmp_path / "run"), steps=1))
    code, _, err = call(monkeypatch, capsys, str(run.path))
    assert (code, err) == (2, f"error: {run.path} is of the task 'char', expected 'sketch'\n")


@pytest.mark.parametrize("name", ["starlette", "uvicorn"])
def test_a_library_that_is_missing_is_named(monkeypatch, capsys, run, name):
    for module in [m for m in sys.modules if m.startswith(("starlette", "jaxrnn.demo.server"))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "jaxrnn.demo.guard", raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    code, _, err = call(monkeypatch, capsys, run)
    assert code == 2
    assert err.startswith(f"error: {name} is not installed, which serves the page: pip install ")


def test_no_address_is_not_every_address(monkeypatch, capsys, run):
    code, _, err = call(monkeypatch, capsys, run, "--host", "")
    assert code == 2
    assert err == "error: --host is '', expected an address, as 127.0.0.1, or 0.0.0.0 for all\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1", "x" * 300])
def test_an_address_that_cannot_be_had_is_named(monkeypatch, capsys, run, host):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, _, err = call(monkeypatch, capsys, run, "--host", host, "--port", str(port))
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: --host {host} --port {port}: ")
    assert err.endswith("; choose another port or address\n")


def test_help_says_what_it_serves(monkeypatch, capsys):
    code, out, _ = call(monkeypatch, capsys, "--help")
    assert code == 0
    for word in ("RUN", "--host", "--port", "--checkpoint", "--device", "0.0.0.0"):
        assert word in out


def test_it_serves_until_it_is_interrupted(run):
    with subprocess.Popen(
        [sys.executable, "-m", "jaxrnn.demo", run, "--port", "0"],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.fullmatch(r"(http://127\.0\.0\.1:\d+)  \(Ctrl-C ends\)\n", line)
            assert found
            page = httpx.get(found[1], trust_env=False, timeout=60)
            assert "<canvas" in page.text
        finally:
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted\n")


def test_the_model_that_comes_along_is_what_its_card_says(capsys):
    model = command.MODEL
    assert (
        cli.exit_code(lambda: evaluate.run_command([str(model), "--data", OMNIGLOT, "--json"])) == 0
    )
    found = json.loads(capsys.readouterr().out)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert found["positions"] == 300
    assert f"{found['reconstruction']:.3f} on the 300 of the test part" in card.replace("\n", " ")
    arrays, _ = checkpoint.read(model / "checkpoints" / "best.safetensors")
    assert f"{sum(array.size for array in arrays.values()):,}\nparameters" in card
    run = json.loads((model / "run.json").read_text(encoding="utf-8"))
    assert run["facts"]["extent"] == typical_extent(read_drawings((), 250).train.drawings)
    for argument in run["about"]["command"]:
        assert argument in card
    size = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    assert size < 2 * 2**20
