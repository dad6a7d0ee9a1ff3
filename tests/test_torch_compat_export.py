"""The command ``python -m torch_compat export``, and the directories that it writes."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import nnx
from tolerances import assert_close

import torch_compat
from jaxrnn import checkpoint, cli
from jaxrnn.config import SeriesConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from torch_compat import __main__ as command
from torch_compat import directory as directories
from torch_compat import export_run, layout, modules, output, verify
from torch_compat.convert import as_array

ROOT = Path(__file__).parents[1]
TEXT = "Der Gärtner goß\nthe garden, twice a day.\n" * 20


def python(*arguments):
    """A fresh interpreter in the checkout, as a user has it: without x64 and strict JAX."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},  # compilation is most of the time here
        timeout=120,
    )


def export(*arguments):
    return cli.exit_code(lambda: command.run_command(["export", *map(str, arguments)]))


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


def series_run(path, dtype: Any = "float32", **options):
    """A run directory whose checkpoint holds fresh parameters."""
    config = SeriesConfig(run=str(path), hidden_size=5, dtype=dtype, **options)
    facts = {"target": "price", "scaler": {"mean": 12.5, "std": 3.25}, "digest": ""}
    run = Run.create("series", config, facts)
    model = TASKS["series"].from_facts(run.config, facts).model(nnx.Rngs(0))
    run.save({"params": split(model)[1], "carry": jnp.zeros(2)}, {"step": 7})
    return path


@pytest.fixture(scope="module")
def series(tmp_path_factory):
    return series_run(tmp_path_factory.mktemp("series") / "run")


@pytest.fixture(scope="module")
def char_export(char_run, tmp_path_factory):
    """The directory that the command wrote for the run, and what it printed."""
    directory = tmp_path_factory.mktemp("exported") / "deep" / "char"
    done = python("-m", "torch_compat", "export", str(char_run), "--to", str(directory))
    assert done.returncode == 0, done.stderr
    return directory, done


def read(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def listing(directory):
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def params_of(run, name):
    arrays, meta = checkpoint.read(run / "checkpoints" / f"{name}.safetensors")
    return {
        k.removeprefix("params/"): a for k, a in arrays.items() if k.startswith("params/")
    }, meta


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
        torch.__version__,
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


def test_a_failing_disk_is_one_line_and_leaves_nothing(series, tmp_path, capsys, monkeypatch):
    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_run, "write_atomically", full)
    out = tmp_path / "deep" / "out"
    assert export(series, "--to", out) == 2
    assert (
        capsys.readouterr().err == f"error: --to {out} can't be written: No space left on device\n"
    )
    assert listing(tmp_path) == []


def test_a_link_to_nowhere_is_a_name_that_is_taken(series, tmp_path, capsys):
    (tmp_path / "link").symlink_to(tmp_path / "none")
    assert export(series, "--to", tmp_path / "link") == 2
    assert "exists already" in capsys.readouterr().err
    assert listing(tmp_path) == ["link"]


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    with (  # noqa: PT012
        pytest.raises(InputError, match="exists already"),
        output.appearing(tmp_path / "out", False, lambda path: []) as temporary,
    ):
        (temporary / "a").write_text("new")
        (tmp_path / "out").mkdir()
    assert listing(tmp_path) == ["out"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_the_old_one_is_there_until_the_new_one_is(fails_at, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").write_text("old")
    renames = []

    def rename(path, target, rename=Path.rename):
        renames.append(target)
        if len(renames) == fails_at:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(InputError, match="Input/output error"),
        output.appearing(tmp_path / "out", True, lambda path: []) as temporary,
    ):
        (temporary / "a").write_text("new")
    assert (tmp_path / "out" / "a").read_text() == "old"
    assert listing(tmp_path) == ["out", "out/a"]


def test_a_path_through_a_link_is_the_one_that_was_checked(series, tmp_path):
    (tmp_path / "other" / "real").mkdir(parents=True)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "other" / "real")
    assert export(series, "--to", tmp_path / "link" / ".." / "exp") == 0  # other/exp
    assert listing(tmp_path / "exp") == ["thesis.txt"]
    assert "model.safetensors" in listing(tmp_path / "other" / "exp")


def test_what_others_have_left_beside_it_stays(tmp_path):
    for word in ("old", "tmp"):
        (tmp_path / f".out.{os.getpid()}.{word}").mkdir()
    left = listing(tmp_path)
    with output.appearing(tmp_path / "out", False, lambda path: []) as temporary:
        (temporary / "a").write_text("new")
    assert listing(tmp_path) == [*left, "out", "out/a"]


def test_a_disk_that_fails_after_the_rename_is_said(tmp_path, monkeypatch):
    def fails(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(output, "sync_directory", fails)
    with (
        pytest.raises(InputError, match="was written, but may not outlive a power loss"),
        output.appearing(tmp_path / "out", False, lambda path: []) as temporary,
    ):
        (temporary / "a").write_text("new")
    assert listing(tmp_path) == ["out", "out/a"]


def test_the_rename_is_made_to_last(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(output, "sync_directory", synced.append)
    with output.appearing(tmp_path / "out", False, lambda path: []):
        assert synced == []
    assert synced == [tmp_path]


def test_where_no_directory_can_be_made_is_one_line(series, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert export(series, "--to", tmp_path / "file" / "out") == 2
    printed = capsys.readouterr().err
    assert printed == f"error: --to {tmp_path / 'file' / 'out'} can't be written: Not a directory\n"


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
    (copy / "config.toml").write_text('task = "series"\nhidden_size = 9\n')
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


# --- loading


@pytest.fixture
def directory(char_export, tmp_path):
    """A copy of an exported directory."""
    shutil.copytree(char_export[0], tmp_path / "copy")
    return tmp_path / "copy"


def refused(directory):
    with pytest.raises(InputError) as caught:
        torch_compat.load(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(directory, **values):
    """Another configuration, with a checksum that fits it and the weights."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | values
    del config["sha256"]
    weights = (directory / "model.safetensors").read_bytes()
    config["sha256"] = directories._digest(config, weights)
    path.write_text(json.dumps(config), encoding="utf-8")


def test_load_names_the_file_that_is_missing_or_damaged(directory):
    weights, config = directory / "model.safetensors", directory / "config.json"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert f"{weights} is not a whole safetensors file" in refused(directory)
    weights.write_bytes(b"")
    assert f"{weights} is not a whole safetensors file" in refused(directory)
    weights.unlink()
    assert refused(directory) == (
        f"{directory} is not an exported model: it has no model.safetensors; of weights alone, "
        "name the file"
    )
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "don't match their checksum" in refused(directory)
    weights.write_bytes(whole)
    config.write_text(config.read_text().replace('"step": ', '"step": 1'))
    assert "don't match their checksum" in refused(directory)
    change(directory, format=3)
    assert refused(directory) == f"{config} has format 3, this version reads 2"
    config.write_text('{"format": 2, "format": 2}')
    assert f"{config} is damaged: ValueError(\"'format' is there twice\")" in refused(directory)
    config.write_text("{")
    assert f"{config} is damaged" in refused(directory)
    config.write_text("[]")
    assert f"{config} is damaged" in refused(directory)
    config.unlink()
    assert "it has no config.json" in refused(directory)
    assert refused(directory / "none") == f"no directory {directory / 'none'}"


@pytest.mark.parametrize(
    "values",
    [
        {"model": "Transformer"},
        {"arguments": {}},
        {"arguments": []},
        {"arguments": {"num_layers": 10**12}},
        {"arguments": {"num_layers": "2"}},
        {"arguments": {"hidden_size": True}},
        {"arguments": {"hidden_size": -8}},
        {"arguments": {"dropout": float("nan")}},
        {"arguments": {"cell": "lru"}},
        {"arguments": {"more": 1}},
        {"dtype": 32},
        {"vocabulary": {"kind": "characters", "symbols": "a" * len(set(TEXT))}},
        {"vocabulary": {"kind": "characters", "symbols": "ab"}},
        {"vocabulary": {}},
        {"scaler": {"mean": 0, "std": 1, "target": ""}},
    ],
    ids=str,
)
def test_load_refuses_another_configuration(values, directory):
    if values.get("arguments"):
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        values = {"arguments": config["arguments"] | values["arguments"]}
    change(directory, **values)
    assert f"{directory / 'config.json'} is damaged" in refused(directory)


def test_load_names_every_parameter_that_does_not_fit(directory):
    path = directory / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["more"] = torch.zeros(2)
    tensors["decoder.bias"] = tensors["decoder.bias"][1:].clone()
    tensors["rnn.bias_hh_l1"][3] = torch.nan
    del tensors["rnn.weight_ih_l0"]
    safetensors.torch.save_file(tensors, path)
    change(directory)
    V = len(set(TEXT))
    assert refused(directory) == (
        f"{path}: parameters don't fit: rnn.weight_ih_l0 is missing, expected (32, 6); "
        "rnn.bias_hh_l1 (32,) holds 1 values that are NaN or infinite, "
        "expected finite ones (32,); "
        f"decoder.bias has shape ({V - 1},), expected ({V},); more (2,) is not expected"
    )


def test_load_refuses_another_dtype(directory):
    path = directory / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    safetensors.torch.save_file({k: t.to(torch.bfloat16) for k, t in tensors.items()}, path)
    change(directory)
    assert refused(directory) == (
        f"{directory / 'config.json'} is damaged: dtype is 'float32', model.safetensors holds "
        "bfloat16"
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_dtype_survives_the_files(dtype, tmp_path):
    model = modules.Forecaster(cell="lstm", hidden_size=3).to(getattr(torch, dtype))
    arrays = {name: as_array(tensor) for name, tensor in model.state_dict().items()}
    for name, data in directories.dump("Forecaster", model.arguments, arrays, {}).items():
        (tmp_path / name).write_bytes(data)
    loaded = torch_compat.load(tmp_path)
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == tensor.dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    if dtype == "float64":  # what float32 can't hold
        arrays["decoder.bias"] = np.array([1e300])
        for name, data in directories.dump("Forecaster", model.arguments, arrays, {}).items():
            (tmp_path / name).write_bytes(data)
        assert torch_compat.load(tmp_path).state_dict()["decoder.bias"].item() == 1e300


def test_loading_draws_no_random_number(directory):
    before = torch.get_rng_state()
    torch_compat.load(directory)
    assert torch.equal(torch.get_rng_state(), before)
