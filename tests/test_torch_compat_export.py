"""The command ``python -m torch_compat export``, and the directories that it writes."""

import ast
import json
import os
import shutil
import signal
import sys
import time
from importlib import metadata
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from exports import TEXT, export, listing, params_of, python, read, series_run
from tolerances import assert_close

import torch_compat
from jaxrnn import checkpoint, cli
from torch_compat import __main__ as command
from torch_compat import directory as directories
from torch_compat import export_run, layout, verify


@pytest.fixture(scope="module")
def char_run(tmp_path_factory):
    """A run of two layers with an embedding and dropout, trained by the command."""
    directory = tmp_path_factory.mktemp("char")
    (directory / "text.txt").write_text(TEXT, encoding="utf-8")
    options = "--steps 5 --hidden-size 8 --num-layers 2 --dropout 0.3 --embedding-size 6"
    done = python(
        *("-m", "jaxrnn.train", "char", "--data", str(directory / "text.txt")),
        *("--run", str(directory / "run"), "--batch-size", "2", "--seq-len", "16"),
        *("--eval-every", "3", "--preview-length", "0", *options.split()),
    )
    assert done.returncode == 0, done.stderr
    return directory / "run"


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return series_run(tmp_path_factory.mktemp("sine") / "run")


@pytest.fixture(scope="module")
def char_export(char_run, tmp_path_factory):
    """The directory that the command wrote for the run, and what it printed."""
    directory = tmp_path_factory.mktemp("exported") / "deep" / "char"
    done = python("-m", "torch_compat", "export", str(char_run), "--to", str(directory))
    assert done.returncode == 0, done.stderr
    return directory, done


def test_the_command_says_what_it_wrote_and_how_far_both_differ(char_export):
    directory, done = char_export
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0].strip() == "module: largest differences from the JAX model"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if "│" in line]
    assert cells.pop() == ["-", "vocabulary", "0", "0", "0"]
    assert [row[:2] for row in cells] == [
        ["float32", "parameters"],
        *([dtype, name] for dtype in ("float64", "float32") for name in ("output", "h", "c")),
    ]
    for dtype, name, difference, relative, limit in cells:
        assert float(relative) <= float(difference) / 1e-3
        assert float(difference) <= float(limit)
        if name != "parameters":
            assert float(limit) < {"float64": 1e-9, "float32": 1e-4}[dtype]
            assert float(difference) < {"float64": 1e-13, "float32": 1e-5}[dtype]
    assert "CharLM, " in lines[-3]
    assert "parameters of the checkpoint 'best' at step" in lines[-3]
    size = (directory / "model.py").stat().st_size
    assert f"model.py ({size:,} bytes)" in lines[-2]
    assert lines[-1].endswith(f"model = torch_compat.load({str(directory)!r})")


def test_the_weights_are_the_checkpoints_bits_under_torchs_names(char_run, char_export):
    directory, _ = char_export
    params, _ = params_of(char_run, "best")
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    model = torch_compat.load(directory)
    expected = layout.expected(
        "CharLM", json.loads((directory / "config.json").read_text())["arguments"]
    )
    assert list(expected) == list(model.state_dict())
    assert set(tensors) == set(expected) == set(params)
    for name, tensor in tensors.items():
        assert tensor.numpy().tobytes() == params[name].tobytes()
        assert model.state_dict()[name].numpy().tobytes() == params[name].tobytes()
    assert sum(p.numel() for p in model.parameters()) == sum(p.size for p in params.values())


def test_the_directory_holds_all_that_is_needed_and_nothing_else(char_run, char_export):
    directory, _ = char_export
    assert listing(directory) == ["README.md", "config.json", "model.py", "model.safetensors"]
    assert listing(directory.parents[1])[:2] == ["deep", "deep/char"]
    assert len(listing(directory.parents[1])) == 6
    mask = os.umask(0)
    os.umask(mask)
    assert directory.stat().st_mode & 0o777 == 0o777 & ~mask
    _, meta = params_of(char_run, "best")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    about = json.loads((char_run / "run.json").read_text(encoding="utf-8"))["about"]
    assert len(config.pop("sha256")) == 64
    versions = config.pop("versions")
    assert (versions["jaxrnn"], versions["torch"]) == (
        about["versions"]["jaxrnn"],
        metadata.version("torch"),
    )
    assert config == {
        "format": 2,
        "model": "CharLM",
        "arguments": {
            "num_symbols": len(set(TEXT)),
            "cell": "lstm",
            "hidden_size": 8,
            "num_layers": 2,
            "dropout": 0.3,
            "embedding_size": 6,
        },
        "dtype": "float32",
        "vocabulary": {"kind": "characters", "symbols": "".join(sorted(set(TEXT)))},
        "task": "char",
        "source": {
            "checkpoint": "best",
            "step": meta["step"],
            "run": "run",
            "revision": about["revision"],
            "versions": about["versions"],
        },
    }


def test_one_line_loads_it_where_jax_is_not_installed(char_export):
    directory, _ = char_export
    code = (
        "import sys; sys.modules |= dict.fromkeys(('jax', 'jaxlib', 'flax'))\n"
        f"import torch_compat; model = torch_compat.load({str(directory)!r})\n"
        "import torch; torch.manual_seed(0); assert not model.training\n"
        "ids = model.encode('the garden')[None]\n"
        "print((model(ids)[0].tolist(), model.decode(model.generate(ids[0], 30))))"
    )
    done = python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    logits, text = ast.literal_eval(done.stdout)
    model: Any = torch_compat.load(directory)
    ids = model.encode("the garden")
    assert_close(logits, model(ids[None])[0].detach(), "float32")
    assert text == model.decode(model.generate(ids, 30, generator=torch.manual_seed(0)))


def test_a_series_carries_its_scaler(series, tmp_path):
    assert export(series, "--to", tmp_path / "out") == 0
    model: Any = torch_compat.load(tmp_path / "out")
    assert type(model).__name__ == "Forecaster"
    assert (model.mean, model.std, model.target) == (12.5, 3.25, "price")
    assert model.rnn.mode == "RNN_TANH"
    params, _ = params_of(series, "last")
    for name, tensor in model.state_dict().items():
        assert tensor.numpy().tobytes() == params[name].tobytes()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["scaler"] == {"mean": 12.5, "std": 3.25, "target": "price"}
    assert (config["source"]["checkpoint"], config["source"]["step"]) == ("last", 7)


@pytest.mark.parametrize(("dtype", "stored"), [("float64", "float64"), ("bfloat16", "float32")])
def test_runs_of_other_dtypes(dtype, stored, tmp_path):
    run = series_run(tmp_path / "run", dtype)
    done = export_run.export_run(run, tmp_path / "out")
    assert list(dict.fromkeys(row.dtype for row in done.rows)) == list(
        dict.fromkeys([stored, "float64", dtype, "-"])
    )
    loaded = torch_compat.load(tmp_path / "out")
    assert next(loaded.parameters()).dtype == getattr(torch, stored)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == stored


def test_the_checkpoint_can_be_chosen(series, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(series, run)
    arrays, meta = checkpoint.read(run / "checkpoints" / "last.safetensors")
    arrays["params/decoder.bias"] = arrays["params/decoder.bias"] + np.float32(1)
    checkpoint.save(run / "checkpoints" / "best.safetensors", arrays, meta)
    for name in ("best", "last"):
        assert export(run, "--to", tmp_path / name, "--checkpoint", name) == 0
        bias = torch_compat.load(tmp_path / name).state_dict()["decoder.bias"]
        assert bias.numpy().tobytes() == params_of(run, name)[0]["decoder.bias"].tobytes()
    assert read(tmp_path / "best") != read(tmp_path / "last")


# --- where it writes, and where it does not


def test_force_replaces_an_export_and_nothing_else(series, tmp_path, capsys):
    out = tmp_path / "out"
    assert export(series, "--to", out) == 0
    first = read(out)
    (out / "config.json").write_text('{"format": 2, "sha256": "old", "model": "any"}')
    capsys.readouterr()
    assert export(series, "--to", out) == 2
    assert capsys.readouterr().err == (
        f"error: --to {out} exists already; choose another, or replace it with --force\n"
    )
    assert "old" in (out / "config.json").read_text()
    (out / "__pycache__").mkdir()  # of using model.py
    assert export(series, "--to", out, "--force") == 0
    assert read(out) == first
    assert listing(tmp_path) == ["out", *(f"out/{name}" for name in sorted(first))]

    (out / "notes.txt").write_text("mine")
    capsys.readouterr()
    assert export(series, "--to", out, "--force") == 2
    assert capsys.readouterr().err == (
        f"error: --to {out} holds more than what this command writes (notes.txt), which is all "
        "that --force replaces; choose another\n"
    )
    for other in ("file", "link"):
        taken = tmp_path / other
        taken.write_text("mine") if other == "file" else taken.symlink_to(out)
        assert export(series, "--to", taken, "--force") == 2
        assert f"--to {taken} is not a directory" in capsys.readouterr().err
    assert len(listing(tmp_path)) == 8


def flip_one_bit(name, arguments, arrays, about, dump=directories.dump):
    """What ``directory.dump`` gives, but for the lowest bit of the last value."""
    key = "decoder.weight"
    changed = arrays[key].copy()
    changed.view(np.int32)[-1, -1] ^= 1
    return dump(name, arguments, {**arrays, key: changed}, about)


def test_force_replaces_no_files_of_others_under_common_names(series, tmp_path, capsys):
    for name in ("config.json", "model.safetensors", "README.md", "model.py"):
        (tmp_path / name).write_text("{}")
    assert export(series, "--to", tmp_path, "--force") == 2
    assert "(README.md, config.json, model.py, model.safetensors)" in capsys.readouterr().err
    other = tmp_path / "other"
    (other / "model.pt").mkdir(parents=True)
    (other / "model.onnx").symlink_to(tmp_path / "config.json")
    assert export(series, "--to", other, "--force") == 2
    assert "(model.onnx, model.pt)" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_text() == "{}"


def test_no_bytecode_is_left_where_python_writes_it(series, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert export(series, "--to", tmp_path / "out") == 0
    assert "__pycache__" not in listing(tmp_path / "out")


@pytest.mark.parametrize("before", [None, '{"format": 2, "sha256": "", "model": ""}'])
def test_tampered_weights_are_found_and_nothing_is_written(
    before, series, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "deep" / "er" / "out"
    if before:
        out.mkdir(parents=True)
        (out / "config.json").write_text(before)
    left = listing(tmp_path)
    monkeypatch.setattr(directories, "dump", flip_one_bit)
    assert export(series, "--to", out, *(["--force"] if before else [])) == 1
    printed = capsys.readouterr()
    assert "above" in printed.out
    assert printed.err.startswith(
        "error: it differs from the JAX model by more than rounding: parameters of module"
    )
    assert printed.err.endswith(f"; nothing was written to {out}\n")
    assert printed.err.count("\n") == 1
    assert listing(tmp_path) == left
    if before:
        assert (out / "config.json").read_text() == before


def test_an_interruption_leaves_nothing(series, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "compare", interrupted)
    assert export(series, "--to", tmp_path / "deep" / "out") == 130
    assert listing(tmp_path) == []


def test_a_request_to_end_leaves_nothing(series, tmp_path, monkeypatch):
    def ended(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr(verify, "compare", ended)
    monkeypatch.setattr(
        sys, "argv", ["", "export", str(series), "--to", str(tmp_path / "d" / "out")]
    )
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            command.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert end.value.code == 143
    assert listing(tmp_path) == []


# --- what is refused


def without(run, tmp_path, part):
    """A copy of a run directory that lacks a part."""
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / part).unlink()
    return copy


def test_what_is_not_a_whole_run_is_one_line(series, tmp_path, capsys):
    def refused(run, *options):
        assert export(run, "--to", tmp_path / "out", *options) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return printed.err

    assert refused(tmp_path / "none") == f"error: no run directory {tmp_path / 'none'}\n"
    (tmp_path / "empty").mkdir()
    assert "is not a run directory: it has no run.json" in refused(tmp_path / "empty")
    assert "has no checkpoint 'best.safetensors' yet" in refused(series, "--checkpoint", "best")
    copy = without(series, tmp_path, "checkpoints/last.safetensors")
    assert "has no checkpoint 'last.safetensors' yet" in refused(copy)
    whole = (series / "checkpoints/last.safetensors").read_bytes()
    (copy / "checkpoints/last.safetensors").write_bytes(whole[:-100])
    assert "is not a whole checkpoint" in refused(copy)
    (copy / "checkpoints/last.safetensors").write_bytes(whole)
    (copy / "config.toml").write_text('task = "sine"\nhidden_size = 9\n')
    assert "was made by other options" in refused(copy)


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        ([], "no command, expected one of export, import, verify; see --help"),
        (["load"], "unknown command 'load', expected one of export, import, verify; see --help"),
        (["export", "run", "--to", "out", "--format"], "--format is empty, expected at least one"),
        (["export", "run", "--to", ""], "--to is empty, expected a directory to write"),
    ],
)
def test_bad_arguments_are_one_line(arguments, found, capsys):
    assert cli.exit_code(lambda: command.run_command(arguments)) == 2
    assert capsys.readouterr().err == f"error: {found}\n"


def test_help_has_examples(capsys):
    assert command.run_command(["--help"]) == 0
    assert "export RUN --to DIR" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        command.run_command(["export", "--help"])
    assert ended.value.code == 0
    assert "--to exported --format pt2 onnx" in capsys.readouterr().out


def test_without_torch_the_command_says_how_to_install_it(series, tmp_path):
    code = (  # sys.modules["torch"] = None would be a module to tyro
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from torch_compat.__main__ import main; sys.exit(main())"
    )
    done = python("-c", code, "export", str(series), "--to", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr == "error: --format module needs torch: pip install torch\n"
    assert listing(tmp_path) == []
