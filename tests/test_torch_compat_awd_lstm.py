"""Options of training vanish: what is exported is plain, and computes what evaluation does."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
from exports import export, params_of
from small_runs import assert_same_bits, char_config, go_on, last_of, lines_of, train
from tolerances import assert_close

import torch_compat
from jaxrnn import checkpoint, training
from jaxrnn.config import CharConfig
from jaxrnn.errors import InputError
from jaxrnn.tasks import TASKS
from torch_compat import export_run, layout
from torch_compat.import_run import import_run

ALL: dict[str, Any] = {
    **{"cell": "lstm", "num_layers": 2, "hidden_size": 6, "embedding_size": 6},
    **{"weight_drop": 0.4, "dropout": 0.3, "locked_dropout": True, "input_dropout": 0.2},
    **{"embedding_dropout": 0.2, "activation_reg": 2.0, "temporal_reg": 1.0},
    **{"tie_embeddings": True, "reset_probability": 0.2, "average": "ema", "ema_decay": 0.9},
    **{"steps": 12, "eval_every": 4, "checkpoint_every": 3},
}
FORMS = ["module", "state-dict", "pt2", "onnx"]


@pytest.fixture(scope="module")
def run(text_file, tmp_path_factory):
    path = tmp_path_factory.mktemp("all") / "run"
    return train(char_config(text_file, run=str(path), **ALL))[0]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "all"
    return directory, export_run.export_run(run.path, directory, FORMS)


def test_the_export_is_a_plain_lstm_with_the_logits_of_evaluation(run, exported):
    directory, done = exported
    model: Any = torch_compat.load(directory)
    assert type(model.rnn) is torch.nn.LSTM
    assert type(model.decoder) is torch.nn.Linear
    assert model.decoder.weight is model.embedding.weight
    assert set(model.arguments) == {
        *("num_symbols", "cell", "hidden_size", "num_layers", "dropout", "embedding_size"),
        "tie_embeddings",
    }
    task = TASKS["char"].from_facts(run.config, run.facts)
    skeleton, params, _ = training.load_model(task, run)
    ids = np.random.default_rng(0).integers(task.vocabulary.size, size=(2, 30))
    logits, state = skeleton.merge(params)(jnp.asarray(ids))
    with torch.no_grad():
        theirs, after = model(torch.tensor(ids))
    assert_close(theirs, logits, "float32")
    jax.tree.map(lambda a, b: assert_close(a, b, "float32"), tuple(after), tuple(state))
    assert done.num_parameters == sum(p.size for p in params.values())
    assert done.num_parameters == sum(p.numel() for p in model.parameters())


def test_what_is_exported_is_the_mean_of_the_parameters(run, exported):
    arrays, _ = last_of(run, "best")
    tensors = safetensors.torch.load_file(exported[0] / "model.safetensors")
    assert set(tensors) == {*params_of(run.path, "best")[0], "decoder.weight"}
    for name, tensor in tensors.items():
        own = layout.TIED[0] if name == layout.TIED[1] else name
        assert_same_bits(tensor.numpy(), arrays[f"average/params/{own}"])
        assert not np.array_equal(tensor.numpy(), arrays[f"params/{own}"])


def test_verify_compares_gradients_of_the_one_weight(run, exported):
    rows, _ = export_run.verify_run(run.path, exported[0])
    names = {row.tensor for row in rows if row.form == "safetensors"}
    assert {"grad embedding.weight", "grad decoder.bias", "parameters"} <= names
    assert "grad decoder.weight" not in names
    assert {row.form for row in rows} == {"safetensors", "state-dict", "onnx"}
    assert all(row.ok for row in rows)


@pytest.mark.parametrize("source", ["directory", "state dict"])
def test_an_export_comes_back_as_a_tied_run(run, exported, text_file, tmp_path, source):
    directory, done = exported
    given = directory if source == "directory" else directory / "model.pt"
    config = char_config(text_file, **ALL | {"embedding_size": 4, "tie_embeddings": False})
    found = import_run(given, tmp_path / "run", data=text_file, config=config)
    assert isinstance(found.config, CharConfig)
    assert found.config.tie_embeddings
    assert found.num_parameters == done.num_parameters
    arrays, _ = checkpoint.read(tmp_path / "run" / "checkpoints" / "last.safetensors")
    best, _ = last_of(run, "best")
    for part in ("params", "average/params"):  # a mean that has not begun
        for name in params_of(run.path, "best")[0]:
            assert_same_bits(arrays[f"{part}/{name}"], best[f"average/params/{name}"])
    assert export(tmp_path / "run", "--to", tmp_path / "again") == 0


def test_two_weights_under_the_names_of_one_are_refused(exported, tmp_path):
    directory, _ = exported
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    arguments = torch_compat.load(directory).arguments
    layout.parameters("CharLM", arguments, arrays)  # type: ignore[arg-type]
    arrays["decoder.weight"] = arrays["decoder.weight"] + 1
    with pytest.raises(InputError, match=r"embedding.weight and decoder.weight differ"):
        layout.parameters("CharLM", arguments, arrays)  # type: ignore[arg-type]


def test_layers_go_both_ways_and_a_twin_in_another_dtype_stays_tied(exported):
    model: Any = torch_compat.load(exported[0])
    ours: Any = torch_compat.from_torch(model)
    assert ours.tie_embeddings
    again: Any = torch_compat.to_torch(ours).double()
    assert again.decoder.weight is again.embedding.weight
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor.double())


@pytest.mark.parametrize("stop", [2, 4, 6])
def test_a_run_with_all_of_it_goes_on_to_the_same_bits(run, text_file, tmp_path, stop):
    calls = iter(range(1, 99))
    config = char_config(text_file, run=str(tmp_path / "cut"), steps_per_dispatch=2, **ALL)
    cut, outcome = train(config, stop_requested=lambda: "SIGTERM" if next(calls) >= stop else None)
    assert outcome.reason == "SIGTERM"
    cut, _ = go_on(cut)
    for name in ("last", "best"):
        assert_same_bits(last_of(cut, name)[0], last_of(run, name)[0])
        assert last_of(cut, name)[1] == last_of(run, name)[1]
    assert lines_of(cut) == lines_of(run)
