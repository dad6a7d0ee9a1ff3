"""Exported directories in torch: loaded bit for bit, or refused."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from exports import TEXT, change, refused

import torch_compat
from torch_compat import directory as directories
from torch_compat import modules
from torch_compat.convert import as_array


@pytest.fixture
def directory(tmp_path):
    """An exported directory."""
    symbols = "".join(sorted(set(TEXT)))
    model = modules.CharLM(len(symbols), "lstm", 8, 2, 0.3, 6)
    arrays = {name: as_array(tensor) for name, tensor in model.state_dict().items()}
    about = {
        "vocabulary": {"kind": "characters", "symbols": symbols},
        "source": {"run": "run", "step": 3},
    }
    (tmp_path / "copy").mkdir()
    for name, data in directories.dump("CharLM", model.arguments, arrays, about).items():
        (tmp_path / "copy" / name).write_bytes(data)
    return tmp_path / "copy"


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
