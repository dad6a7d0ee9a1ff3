"""The command ``verify``: what it shows of an export, and what it finds."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from lesson import CharRNN, import_, run, shuffled_tokens

import torch_compat
from jaxrnn import checkpoint
from torch_compat import directory as directories
from torch_compat.convert import as_array


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A run and its export in every form that verify reads."""
    directory = tmp_path_factory.mktemp("pair")
    torch.manual_seed(2)
    torch.save(CharRNN(shuffled_tokens(), n_layers=1).checkpoint(), directory / "net.pt")
    assert import_(directory / "net.pt", "--to", directory / "run") == 0
    forms = ("module", "state-dict", "lesson", "onnx")
    out = directory / "out"
    assert run("export", directory / "run", "--to", out, "--format", *forms) == 0
    (out / "model.pt2").write_bytes(b"never read")
    return directory / "run", out


def test_verify_compares_all_that_an_export_holds(pair, capsys):
    assert run("verify", *pair) == 0
    printed = capsys.readouterr().out
    rows = [[c.strip() for c in row.split("│")[1:-1]] for row in printed.splitlines() if "│" in row]
    grads = [f"grad {name}" for name in ("decoder.bias", "decoder.weight")]
    grads += [f"grad rnn.{n}_l0" for n in ("bias_hh", "bias_ih", "weight_hh", "weight_ih")]
    tensors = ["output", "h", "c", "loss", *grads]
    weights = [("float32", "parameters")]
    weights += [(dtype, name) for dtype in ("float64", "float32") for name in tensors]
    onnx = [("float32", name) for name in ("output", "h", "c")]
    carried = [("-", "vocabulary")]
    assert [tuple(row[:2]) for row in rows] == [
        *(*weights, *carried, *weights, *weights, *carried, *onnx, *carried),
    ]
    for dtype, name, absolute, relative, limit in rows:
        assert float(absolute) <= float(limit)
        if name not in ("parameters", "vocabulary"):
            assert float(relative) < {"float64": 1e-12, "float32": 1e-5}[dtype]
            assert float(limit) > 0
    titles = [row for row in printed.splitlines() if "largest differences" in row]
    assert [t.split(":")[0].strip() for t in titles] == [
        *("safetensors", "state-dict", "lesson", "onnx")
    ]
    assert "model.pt2 was not compared" in printed
    assert f"same    all {len(rows)} differences are within rounding" in printed


@pytest.mark.parametrize("form", ["model.pt", "lesson.pt", "model.safetensors", "model.onnx"])
def test_verify_finds_one_weight_that_differs(form, pair, tmp_path, capsys):
    model, out = pair
    directory = tmp_path / "out"
    directory.mkdir()
    if form == "model.safetensors":
        config, _ = directories.read(out)
        arrays = safetensors.torch.load_file(out / form)
        arrays["rnn.weight_hh_l0"][2, 3] += 0.1
        arrays = {name: as_array(tensor) for name, tensor in arrays.items()}
        about = {"vocabulary": config["vocabulary"]}
        content = directories.dump("CharLM", config["arguments"], arrays, about)
        for name, data in content.items():
            (directory / name).write_bytes(data)
    elif form == "model.onnx":
        import onnx

        graph = onnx.load(out / form)
        weight = next(t for t in graph.graph.initializer if t.dims and len(t.dims) == 3)
        array = onnx.numpy_helper.to_array(weight).copy()
        array[0, 2, 3] += 0.1
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(graph, directory / form)
    else:
        content: Any = torch.load(out / form, weights_only=True)
        tensors = content.get("state_dict", content)
        next(t for name, t in tensors.items() if "weight_hh" in name)[2, 3] += 0.1
        torch.save(content, directory / form)
    assert run("verify", model, directory) == 1
    printed = capsys.readouterr()
    assert "above" in printed.out
    assert "differences are above their limit" in printed.err
    assert printed.err.count("\n") == 1


def test_verify_finds_another_vocabulary_and_reads_every_symbol(pair, tmp_path, capsys):
    import onnx

    model, out = pair
    content = torch.load(out / "lesson.pt", weights_only=True)
    content["tokens"] = content["tokens"][::-1]
    (tmp_path / "lesson").mkdir()
    torch.save(content, tmp_path / "lesson" / "lesson.pt")
    graph = onnx.load(out / "model.onnx")
    for entry in graph.metadata_props:
        if entry.key == "vocabulary":
            entry.value = entry.value.replace("characters", "bytes")
    (tmp_path / "onnx").mkdir()
    onnx.save(graph, tmp_path / "onnx" / "model.onnx")
    for directory in ("lesson", "onnx"):
        assert run("verify", model, tmp_path / directory) == 1
        printed = capsys.readouterr()
        (line,) = [line for line in printed.out.splitlines() if "above" in line]
        assert "vocabulary" in line
        assert "error: 1 of " in printed.err
    (tmp_path / "program").mkdir()
    for name in ("config.json", "model.safetensors", "model.py"):
        shutil.copy(out / name, tmp_path / "program")
    with open(tmp_path / "program" / "model.py", "a") as file:
        file.write("raise SystemExit\n")
    assert run("verify", model, tmp_path / "program") == 0
    assert "model.py is not what this version writes" in capsys.readouterr().out


def test_verify_says_what_it_can_not_compare(pair, tmp_path, capsys):
    model, out = pair
    (tmp_path / "empty").mkdir()
    assert run("verify", model, tmp_path / "empty") == 2
    assert "holds nothing to compare" in capsys.readouterr().err
    assert run("verify", model, tmp_path / "none") == 2
    assert "no directory" in capsys.readouterr().err
    assert run("verify", tmp_path / "none", out) == 2
    assert "no run directory" in capsys.readouterr().err
    shutil.copytree(out, tmp_path / "out")
    data = (tmp_path / "out" / "model.pt").read_bytes()
    (tmp_path / "out" / "model.pt").write_bytes(data[:-10])
    assert run("verify", model, tmp_path / "out") == 2
    assert "is not a whole zip archive" in capsys.readouterr().err
    (tmp_path / "out" / "model.pt").unlink()
    data = (tmp_path / "out" / "model.onnx").read_bytes()
    (tmp_path / "out" / "model.onnx").write_bytes(data[:-10])
    assert run("verify", model, tmp_path / "out") == 2
    printed = capsys.readouterr().err
    assert "onnxruntime can't run the graph" in printed
    assert printed.count("\n") == 1


def test_verify_takes_the_checkpoint_that_it_is_told(pair, tmp_path, capsys):
    model, out = pair
    shutil.copytree(model, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    arrays, meta = checkpoint.read(checkpoints / "last.safetensors")
    arrays["params/decoder.bias"] = arrays["params/decoder.bias"] + np.float32(1)
    checkpoint.save(checkpoints / "best.safetensors", arrays, meta)
    (tmp_path / "out").mkdir()
    shutil.copy(out / "model.onnx", tmp_path / "out")
    assert run("verify", tmp_path / "run", tmp_path / "out", "--checkpoint", "last") == 0
    assert run("verify", tmp_path / "run", tmp_path / "out") == 1
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "model.pt2").write_bytes(b"")
    capsys.readouterr()
    assert run("verify", model, tmp_path / "program") == 2
    assert "nothing to compare" in capsys.readouterr().err


def test_verify_of_another_model_names_what_does_not_fit(pair, tmp_path, capsys):
    _, out = pair
    torch.save(CharRNN(shuffled_tokens(), n_hidden=5, n_layers=1).checkpoint(), tmp_path / "a.pt")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run") == 0
    for name in ("model.pt", "lesson.pt", "model.onnx"):
        directory = tmp_path / name.partition(".")[0] / name
        directory.parent.mkdir(exist_ok=True)
        shutil.copy(out / name, directory)
        capsys.readouterr()
        assert run("verify", tmp_path / "run", directory.parent) == 2
        printed = capsys.readouterr().err
        assert printed.count("\n") == 1
        assert "onnxruntime can't run" in printed or "has shape (24, 21), expected (20, " in printed
        directory.unlink()


def test_the_export_of_an_import_is_the_import(pair, tmp_path):
    _, out = pair
    assert import_(out, "--to", tmp_path / "again") == 0
    assert run("export", tmp_path / "again", "--to", tmp_path / "out") == 0
    first, second = (Path(d) / "model.safetensors" for d in (out, tmp_path / "out"))
    assert first.read_bytes() == second.read_bytes()
    model: Any = torch_compat.load(tmp_path / "out")
    assert model.vocabulary == torch_compat.load(out).vocabulary
