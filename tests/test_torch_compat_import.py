"""The command ``import``, the lesson's checkpoint, and runs that were imported."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from lesson import (
    SYMBOLS,
    TEXT,
    CharRNN,
    H,
    V,
    assert_holds,
    import_,
    listing,
    run,
    shuffled_tokens,
    stored,
)
from tolerances import assert_close

import torch_compat
from jaxrnn import checkpoint, evaluate, sample, train
from jaxrnn.config import CharConfig
from jaxrnn.config_file import to_toml
from jaxrnn.data.sine import sine_data
from jaxrnn.errors import InputError
from jaxrnn.runs import Run, held
from torch_compat import directory as directories
from torch_compat import modules
from torch_compat.convert import as_array


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def net():
    torch.manual_seed(1)
    return CharRNN(shuffled_tokens()).eval()


# --- the lesson's checkpoint


@pytest.mark.parametrize("zipped", [True, False])  # False: as torch wrote when the lesson was made
def test_the_lessons_checkpoint_is_a_run_that_is_sampled_and_evaluated(
    zipped, net, text, tmp_path, capsys
):
    file, made = tmp_path / "rnn_20_epoch.net", tmp_path / "deep" / "run"
    torch.save(net.checkpoint(), file, _use_new_zipfile_serialization=zipped)
    assert import_(file, "--to", made) == 0
    printed = capsys.readouterr().out
    assert f"CharLM, {sum(p.numel() for p in net.parameters()):,} parameters" in printed
    assert f"python -m jaxrnn.sample {made}" in printed
    assert_holds(made, net.state_dict(), {"lstm": "rnn", "fc": "decoder"})
    _, config, about = stored(made)
    assert about["facts"]["vocabulary"] == {
        "kind": "characters",
        "symbols": "".join(net.tokens),
    }
    assert "dropout = 0.5" in config
    assert f'run = "{made}"' in config

    # Evaluated: what torch gives on the whole text, one symbol after the other.
    assert run(made, "--data", text, "--json", of=evaluate) == 0
    got = json.loads(capsys.readouterr().out)
    ids = torch.tensor([net.tokens.index(symbol) for symbol in TEXT])
    with torch.no_grad():
        logits, _ = net(torch.nn.functional.one_hot(ids[None, :-1], V).float())
    expected = torch.nn.functional.cross_entropy(logits[0], ids[1:])
    assert got["positions"] == len(TEXT) - 1
    assert_close(got["nats"], expected, "float32")

    # Sampled: always the likeliest symbol, as the lesson's loop takes it with top_k = 1.
    arguments = ("--prime", "garden", "--length", 20, "--temperature", 0)
    assert run(made, *arguments, of=sample) == 0
    state, written = None, list("garden")
    for position in range(25):
        x = torch.zeros(1, 1, V)
        x[0, 0, net.tokens.index(written[position])] = 1
        logits, state = net(x, state)
        if position >= 5:
            written.append(net.tokens[int(logits.argmax())])
    assert capsys.readouterr().out == "".join(written) + "\n"


def test_without_data_it_has_no_validation_and_no_training(net, text, tmp_path, capsys):
    torch.save(net.checkpoint(), tmp_path / "net.pt")
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "run") == 0
    assert "--resume" not in capsys.readouterr().out
    for of, arguments in (
        (evaluate, [tmp_path / "run"]),
        (train, ["--resume", tmp_path / "run"]),
        (train, ["--resume", tmp_path / "run", "--data", text]),
    ):
        assert run(*arguments, of=of) == 2
        assert capsys.readouterr().err == (
            "error: the run was imported without data: evaluate it on a file with --data, or "
            "import it again with --data to train on\n"
        )


def test_with_data_it_is_trained_on_from_the_imported_weights(net, text, tmp_path, capsys):
    options = CharConfig(
        batch_size=2, seq_len=16, steps=6, lr=1e-3, preview_length=0, hidden_size=999, cell="gru"
    )
    (tmp_path / "options.toml").write_text(to_toml("char", options))
    torch.save(net.checkpoint(), tmp_path / "net.pt")
    made = tmp_path / "run"
    given = ("--data", text, "--config", tmp_path / "options.toml")
    assert import_(tmp_path / "net.pt", "--to", made, *given) == 0
    assert f"python -m jaxrnn.train --resume {made}" in capsys.readouterr().out
    before, config, about = stored(made)
    assert about["facts"]["vocabulary"]["symbols"] == "".join(net.tokens)  # the file's own
    assert f"hidden_size = {H}" in config  # what the weights decide
    assert 'cell = "lstm"' in config
    assert "seq_len = 16" in config  # what the file of options says
    assert run(made, "--json", of=evaluate) == 0  # on the validation part of the data
    first = json.loads(capsys.readouterr().out)["nats"]
    assert run("--resume", made, of=train) == 0
    lines = [json.loads(line) for line in (made / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["val_nats"] < first
    assert abs(lines[0]["loss"] - first) < 0.3
    arrays, meta = checkpoint.read(made / "checkpoints" / "last.safetensors")
    assert meta["step"] == 6
    assert not np.array_equal(arrays["params/decoder.bias"], before["decoder.bias"])


def test_our_runs_go_to_the_lessons_form_and_back(net, tmp_path, capsys):
    torch.save(net.checkpoint(), tmp_path / "net.pt")
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "run") == 0
    out = tmp_path / "out"
    assert run("export", tmp_path / "run", "--to", out, "--format", "lesson") == 0
    assert listing(out) == ["lesson.pt"]
    loaded = torch.load(out / "lesson.pt", weights_only=True)
    again = CharRNN(loaded["tokens"], loaded["n_hidden"], loaded["n_layers"])
    again.load_state_dict(loaded["state_dict"])
    assert again.tokens == net.tokens
    assert list(loaded["state_dict"]) == list(net.state_dict())
    for name, tensor in net.state_dict().items():
        assert torch.equal(loaded["state_dict"][name], tensor)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"n_hidden": 7}, "n_hidden is 7, its state_dict has 6"),
        ({"n_layers": 1}, "n_layers is 1, its state_dict has 2"),
        ({"tokens": ("a", "b")}, "tokens has 2 distinct characters of 2"),
        ({"tokens": (*SYMBOLS[:-1], "D")}, f"tokens has {V - 1} distinct characters"),
        ({"tokens": 3}, "tokens is not a tuple of characters"),
        ({"tokens": (*SYMBOLS[:-1], "\ud800")}, "tokens is not a tuple of characters"),
        ({"n_hidden": torch.tensor([2, 2])}, "n_hidden is Tensor, its state_dict has 6"),
        ({"n_hidden": (((1,) * 9,) * 9,) * 9}, "n_hidden is tuple, its state_dict has 6"),
        ({"n_layers": True}, "n_layers is bool, its state_dict has 2"),
        ({"tokens": ("the",) * V}, "tokens is not a tuple of characters"),
        ({"state_dict": {}}, "holds no state dict"),
        ({"state_dict": torch.zeros(2)}, "holds no state dict"),
    ],
    ids=str,
)
def test_a_lessons_checkpoint_that_contradicts_itself_is_refused(
    values, found, net, tmp_path, capsys
):
    torch.save(net.checkpoint() | values, tmp_path / "net.pt")
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "deep" / "run") == 2
    printed = capsys.readouterr()
    assert found in printed.err
    assert printed.err.count("\n") == 1
    assert listing(tmp_path) == ["net.pt"]


# --- state dicts under any names


def test_a_state_dict_under_other_names_with_an_embedding(text, tmp_path, capsys):
    model = torch.nn.ModuleDict(
        {
            "encoder": torch.nn.Embedding(V, 5),
            "rnn": torch.nn.GRU(5, H, 2),
            "out": torch.nn.Linear(H, V),
        }
    )
    tensors = model.state_dict()
    torch.save({"state_dict": tensors, "epoch": 3}, tmp_path / "a.pt")
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    for file in ("a.pt", "a.safetensors"):
        made = tmp_path / f"run-{file}"
        config = tmp_path / "small.toml"
        config.write_text('task = "char"\nbatch_size = 2\nseq_len = 8\n')
        given = ("--data", text, "--config", config)
        assert import_(tmp_path / file, "--to", made, *given) == 0
        assert_holds(made, tensors, {"encoder": "embedding", "rnn": "rnn", "out": "decoder"})
        _, written, about = stored(made)
        assert about["facts"]["vocabulary"]["symbols"] == SYMBOLS
        assert 'cell = "gru"' in written
        assert "embedding_size = 5" in written
    capsys.readouterr()
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "none") == 2
    assert "brings no vocabulary: give the text" in capsys.readouterr().err
    short = tmp_path / "short.txt"
    short.write_text(TEXT[:200], encoding="utf-8")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "none", "--data", short) == 2
    assert "lower --batch-size or --seq-len, in a TOML file for --config" in (
        capsys.readouterr().err
    )
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "none", "--tokens", "bytes") == 2
    assert "the vocabulary of bytes has 256 symbols, the model in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_bytes_and_narrow_floats(tmp_path, capsys):
    model = modules.CharLM(256, "lstm", 4).to(torch.bfloat16)
    torch.save(model.state_dict(), tmp_path / "a.pt")
    made = tmp_path / "run"
    assert import_(tmp_path / "a.pt", "--to", made, "--tokens", "bytes") == 0
    params, config, about = stored(made)
    assert about["facts"]["vocabulary"] == {"kind": "bytes", "symbols": ""}
    assert 'tokens = "bytes"' in config
    wide = tmp_path / "wide.toml"  # parameters of a float64 run are float64, these are not
    wide.write_text('task = "char"\ndtype = "float64"\n')
    given = ("--tokens", "bytes", "--config", wide)
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "wide", *given) == 0
    assert 'dtype = "float32"' in stored(tmp_path / "wide")[1]
    for name, tensor in model.state_dict().items():
        np.testing.assert_array_equal(params[name], tensor.float().numpy())


def test_the_lessons_simple_rnn_is_a_run_of_the_sine(tmp_path, capsys):
    model = torch.nn.ModuleDict({"rnn": torch.nn.RNN(1, 5), "fc": torch.nn.Linear(5, 1)}).double()
    torch.save(model.state_dict(), tmp_path / "simple.pt")
    made = tmp_path / "run"
    assert import_(tmp_path / "simple.pt", "--to", made) == 0
    assert_holds(made, model.state_dict(), {"rnn": "rnn", "fc": "decoder"})
    assert 'dtype = "float64"' in stored(made)[1]
    capsys.readouterr()
    assert run(made, "--json", of=evaluate) == 0
    data = sine_data(20)
    inputs, targets = (
        torch.tensor(values[data.counted_from :]).double()
        for values in (data.val_inputs, data.val_targets)
    )
    expected = (model["fc"](model["rnn"](inputs)[0]) - targets).square().mean()
    got = json.loads(capsys.readouterr().out)
    assert got["positions"] == len(targets) == 500
    assert_close(got["mse"], expected.detach(), "float32")


def test_a_series_keeps_the_scaler_of_an_export_or_takes_that_of_the_data(tmp_path, capsys):
    values = np.sin(np.arange(400) / 7) * 3 + 10
    data = tmp_path / "data.csv"
    data.write_text("other,price\n" + "".join(f"{-3 * v},{v}\n" for v in values))
    scaler = {"mean": 9.5, "std": 2.5, "target": "price"}
    model = modules.Forecaster(1, 1, "gru", 4, scaler=scaler)
    arrays = {name: as_array(tensor) for name, tensor in model.state_dict().items()}
    (tmp_path / "exported").mkdir()
    content = directories.dump("Forecaster", model.arguments, arrays, {"scaler": scaler})
    for name, written in content.items():
        (tmp_path / "exported" / name).write_bytes(written)
    torch.save(model.state_dict(), tmp_path / "bare.pt")
    assert import_(tmp_path / "exported", "--to", tmp_path / "a", "--data", data) == 0
    assert import_(tmp_path / "exported", "--to", tmp_path / "b") == 0
    bare = ("--data", data, "--target", "price")
    assert import_(tmp_path / "bare.pt", "--to", tmp_path / "c", *bare) == 0
    facts = {name: stored(tmp_path / name)[2]["facts"] for name in "abc"}
    assert facts["a"]["scaler"] == facts["b"]["scaler"] == {"mean": 9.5, "std": 2.5}
    assert (facts["b"]["digest"], facts["b"]["target"]) == ("", "price")
    trained = values[:360]
    assert_close(facts["c"]["scaler"]["mean"], trained.mean())
    assert_close(facts["c"]["scaler"]["std"], trained.std())
    assert len(facts["a"]["digest"]) == 64


CHAR = ("CharLM", modules.CharLM(3, "rnn", 2), {"vocabulary": {"kind": "bytes", "symbols": ""}})
SCALER = {"mean": 0.0, "std": 1.0, "target": "price"}
SERIES = ("Forecaster", modules.Forecaster(1, 1, "rnn", 2), {"scaler": SCALER})


@pytest.mark.parametrize(
    ("model", "about"),
    [
        (CHAR, {"vocabulary": None}),
        (CHAR, {"vocabulary": {"kind": "characters", "symbols": "ab\ud800"}}),
        (CHAR, {"scaler": SCALER}),
        (SERIES, {"scaler": [1, 2]}),
        (SERIES, {"scaler": {"mean": 0.0, "std": 1.0}}),
        (SERIES, {"scaler": SCALER | {"std": 0.0}}),
        (SERIES, {"scaler": SCALER | {"mean": 10**400}}),
        (SERIES, {"scaler": SCALER | {"target": "\ud800"}}),
        (SERIES, {"dtype": "float16"}),
        (SERIES, {"arguments": {**SERIES[1].arguments, "more": 1}}),
    ],
    ids=range(10),
)
def test_a_configuration_that_is_no_exports_is_refused_whatever_its_checksum(
    model, about, tmp_path, capsys
):
    name, twin, carried = model
    arrays = {key: as_array(tensor) for key, tensor in twin.state_dict().items()}
    (tmp_path / "source").mkdir()
    content = directories.dump(name, twin.arguments, arrays, carried)
    config = json.loads(content["config.json"]) | about
    del config["sha256"]
    config["sha256"] = directories._digest(config, content["model.safetensors"])
    (tmp_path / "source" / "config.json").write_text(json.dumps(config))
    (tmp_path / "source" / "model.safetensors").write_bytes(content["model.safetensors"])
    with pytest.raises(InputError, match="is damaged"):
        torch_compat.load(tmp_path / "source")
    assert import_(tmp_path / "source", "--to", tmp_path / "run") == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(tmp_path / "source") in printed
    assert listing(tmp_path) == ["source", "source/config.json", "source/model.safetensors"]


def test_what_is_presumed_is_said(tmp_path, capsys):
    torch.save(modules.Forecaster(1, 1, "rnn", 2).state_dict(), tmp_path / "a.pt")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run") == 0
    printed = capsys.readouterr().out
    assert "the RNN's nonlinearity is presumed to be tanh" in printed
    assert "this is a run of the sine" in printed
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "b", "--target", "price") == 2
    assert "--target is 'price', expected with the --data of a sine run" in capsys.readouterr().err


def test_the_file_of_options_may_name_the_data(net, text, tmp_path, capsys):
    options = CharConfig(data=str(text), batch_size=2, seq_len=16, dropout=0.25)
    (tmp_path / "options.toml").write_text(to_toml("char", options))
    given = ("--config", tmp_path / "options.toml")
    torch.save(net.checkpoint(), tmp_path / "net.pt")
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "run", *given) == 0
    assert "dropout 0.25" in capsys.readouterr().out
    assert f'data = "{text}"' in stored(tmp_path / "run")[1]
    (tmp_path / "bytes.toml").write_text('task = "char"\ntokens = "bytes"\n')
    torch.save(modules.CharLM(256, "gru", 3).state_dict(), tmp_path / "bytes.pt")
    given = ("--config", tmp_path / "bytes.toml")
    assert import_(tmp_path / "bytes.pt", "--to", tmp_path / "b", *given) == 0
    assert stored(tmp_path / "b")[2]["facts"]["vocabulary"]["kind"] == "bytes"
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "c", "--tokens", "bytes") == 2
    assert "--tokens is 'bytes', the vocabulary in" in capsys.readouterr().err


def test_a_run_that_does_not_read_back_as_the_weights_is_not_made(net, tmp_path, monkeypatch):
    def save(run, tree, meta, save=Run.save, **options):
        params = dict(tree.params)
        params["decoder.bias"] = params["decoder.bias"].at[0].add(1)
        save(run, tree._replace(params=params), meta, **options)

    torch.save(net.checkpoint(), tmp_path / "net.pt")
    monkeypatch.setattr(Run, "save", save)
    with pytest.raises(AssertionError, match="not equal"):
        import_(tmp_path / "net.pt", "--to", tmp_path / "run")
    assert listing(tmp_path) == ["net.pt"]


def test_a_text_of_one_symbol_is_a_text(tmp_path):
    torch.save(CharRNN(("a",)).checkpoint(), tmp_path / "net.pt")
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "run") == 0
    assert stored(tmp_path / "run")[2]["task"] == "char"


def test_force_does_not_replace_a_run_that_is_being_trained(tmp_path, capsys):
    torch.save(modules.Forecaster(1, 1, "gru", 2).state_dict(), tmp_path / "a.pt")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run") == 0
    before = listing(tmp_path)
    with held(tmp_path / "run"):
        assert import_(tmp_path / "a.pt", "--to", tmp_path / "run", "--force") == 2
    assert "run is being trained by another process; wait for its end" in capsys.readouterr().err
    assert listing(tmp_path) == before
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run", "--force") == 0


def test_force_replaces_runs_alone(tmp_path, capsys):
    torch.save(modules.Forecaster(1, 1, "gru", 2).state_dict(), tmp_path / "a.pt")
    (tmp_path / "b" / "checkpoints").mkdir(parents=True)
    (tmp_path / "b" / "checkpoints" / "mine.bin").write_text("mine")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "b", "--force") == 2
    assert "(checkpoints)" in capsys.readouterr().err
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run") == 0
    (tmp_path / "run" / "checkpoints" / "mine.bin").write_text("mine")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run", "--force") == 2
    assert (tmp_path / "run" / "checkpoints" / "mine.bin").read_text() == "mine"


def linear(inputs, outputs, **options):
    return torch.nn.Linear(inputs, outputs, **options)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"a": torch.nn.Linear(2, 3)}, "has no recurrent layer, expected one LSTM, GRU or RNN"),
        (
            {"a": torch.nn.LSTM(2, 3), "b": torch.nn.GRU(3, 3)},
            "has a (LSTM), b (GRU), expected one LSTM, GRU or RNN",
        ),
        ({"a": torch.nn.LSTMCell(2, 3)}, "has a (LSTMCell), expected one LSTM"),
        ({"a": torch.nn.LSTM(2, 3)}, "it has the linear layers [], expected one"),
        (
            {"a": torch.nn.LSTM(2, 3), "b": linear(3, 3), "c": linear(3, 2)},
            "it has the linear layers ['b', 'c'], expected one",
        ),
        (
            {"a": torch.nn.LSTM(2, 3, bidirectional=True, bias=False), "b": linear(6, 2)},
            "the LSTM has bias=False, our models have True; the LSTM has bidirectional=True, our "
            "models have False",
        ),
        (
            {"a": torch.nn.LSTM(2, 3, proj_size=2), "b": linear(2, 2)},
            "the LSTM has proj_size=2, our models have 0",
        ),
        (
            {"a": torch.nn.LSTM(2, 3), "b": linear(3, 2), "c": torch.nn.BatchNorm1d(3)},
            "c.* is no part of such a model",
        ),
        (
            {"a": torch.nn.LSTM(2, 3), "b": linear(4, 2)},
            "decoder.weight has shape (2, 4), expected (2, 3)",
        ),
        (
            {"a": torch.nn.LSTM(3, 3), "b": linear(3, 2)},
            "rnn.weight_ih_l0 has shape (12, 3), expected (12, 2)",
        ),
        (
            {"e": torch.nn.Embedding(5, 4), "a": torch.nn.LSTM(3, 3), "b": linear(3, 2)},
            "embedding.weight has shape (5, 4), expected (2, 4)",
        ),
    ],
)
def test_what_is_none_of_our_models_is_named(parts, found, tmp_path, capsys):
    torch.save(torch.nn.ModuleDict(parts).state_dict(), tmp_path / "a.pt")
    assert import_(tmp_path / "a.pt", "--to", tmp_path / "run", "--tokens", "bytes") == 2
    printed = capsys.readouterr().err
    assert found in printed
    assert printed.count("\n") == 1
    assert listing(tmp_path) == ["a.pt"]


def test_it_never_writes_over_what_is_there(net, tmp_path, capsys):
    torch.save(net.checkpoint(), tmp_path / "net.pt")
    made = tmp_path / "run"
    assert import_(tmp_path / "net.pt", "--to", made) == 0
    with torch.no_grad():
        net.fc.bias += 1
    torch.save(net.checkpoint(), tmp_path / "net.pt")
    capsys.readouterr()
    assert import_(tmp_path / "net.pt", "--to", made) == 2
    assert "exists already; choose another, or replace it with --force" in capsys.readouterr().err
    assert import_(tmp_path / "net.pt", "--to", made, "--force") == 0
    assert_holds(made, net.state_dict(), {"lstm": "rnn", "fc": "decoder"})
    (made / "notes.txt").write_text("mine")
    assert import_(tmp_path / "net.pt", "--to", made, "--force") == 2
    assert "holds more than what this command writes (notes.txt)" in capsys.readouterr().err
    assert import_(tmp_path / "net.pt", "--to", "") == 2
    (tmp_path / "wrong.toml").write_text('task = "sine"\n')
    given = ("--config", tmp_path / "wrong.toml")
    assert import_(tmp_path / "net.pt", "--to", tmp_path / "new", *given) == 2
    assert "--config is not of the task 'char'" in capsys.readouterr().err
