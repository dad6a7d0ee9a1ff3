"""MinGRU, MinLSTM and their language model in torch beside jaxrnn's, and their way out and in."""

import json
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from exports import change, params_of, refused
from flax import nnx
from min_cases import H, L, V, build, cells
from tolerances import assert_close
from twins import SYMBOLS, VOCABULARY, bits, build_layer, example

import torch_compat
from jaxrnn.config import CharConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.models.min_blocks import MinCharLM
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from torch_compat import export_run, import_run, layout, min_modules, modules, standalone

I = 4
LAYERS = {"mingru": min_modules.MinGRU, "minlstm": min_modules.MinLSTM}


@cells
@pytest.mark.parametrize("num_steps", [1, 5, 8])
def test_a_layer_gives_jaxrnns_outputs_states_and_gradients(cell, num_steps):
    layer = build_layer(cell)
    layer.eval()
    twin: Any = torch_compat.to_torch(layer)
    assert type(twin) is LAYERS[cell]
    skeleton, params = split(layer)
    rng = np.random.default_rng(num_steps)
    x, h = rng.normal(size=(3, num_steps, I)), example(layer)[1][0]
    dy, dh = rng.normal(size=(3, num_steps, layer.hidden_size)), rng.normal(size=h.shape)

    def run(params, x, h):
        y, last = skeleton.merge(params)(x, h)
        return (y * dy).sum() + (last * dh).sum(), (y, last)

    gradient = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))
    (dparams, dx, dstate), outputs = gradient(params, jnp.asarray(x), jnp.asarray(h))
    inputs = [torch.tensor(a, requires_grad=True) for a in (x, h)]
    found = twin(*inputs)
    for theirs, ours in zip(found, outputs, strict=True):
        assert_close(theirs.detach(), ours)
    torch.autograd.backward(list(found), [torch.tensor(d) for d in (dy, dh)])
    grads = {name: p.grad for name, p in twin.named_parameters()}
    assert grads.keys() == dparams.keys()
    for key, value in grads.items():
        assert_close(value, dparams[key], what=key)
    for leaf, ours in zip(inputs, (dx, dstate), strict=True):
        assert_close(leaf.grad, ours)


@cells
def test_a_layer_crosses_over_and_back_and_is_never_taken_for_one_of_torchs(cell):
    layer = build_layer(cell)
    twin = torch_compat.to_torch(layer)
    back = torch_compat.from_torch(twin)
    assert type(back) is type(layer)
    assert torch_compat.convert.describe(back) == torch_compat.convert.describe(layer)
    for key, value in split(layer)[1].items():
        assert bits(split(back)[1][key]) == bits(value)
    assert torch_compat.find_layers(twin.state_dict()) == {}
    with pytest.raises(InputError, match="the state dict has none at all"):
        torch_compat.from_state_dict(twin.state_dict())


def test_dropout_of_a_layer_is_between_its_layers_in_training_alone():
    torch.manual_seed(0)
    twin = min_modules.MinGRU(I, 50, 2, dropout=0.5)
    x = torch.randn(1, 200, I)
    still = twin.eval()(x)
    assert torch.equal(twin(x)[0], still[0])
    moving = twin.train()(x)
    assert torch.equal(moving[1][0], still[1][0])  # of the first layer
    assert not torch.equal(moving[0], still[0])
    single = min_modules.MinGRU(I, 50, 1, dropout=0.5).train()
    assert torch.equal(single(x)[0], single(x)[0])


@cells
def test_a_twin_of_the_model_is_verified_with_every_gradient(cell):
    model = build(cell, embedding_size=3)
    twin: Any = torch_compat.to_torch(model, vocabulary=VOCABULARY)
    assert type(twin) is modules.MinCharLM
    assert all(type(block.rnn) is LAYERS[cell] for block in twin.rnn.blocks)
    rows = torch_compat.verify.compare(torch_compat.verify.Reference(model), twin, gradients=True)
    assert all(row.ok for row in rows)
    wide = [row for row in rows if row.dtype == "float64"]
    grads = {f"grad {name}" for name in twin.state_dict()}
    assert {row.tensor for row in wide} == {"parameters", "output", "h", "conv", "loss", *grads}
    assert max(row.difference for row in wide) < 1e-12
    with torch.no_grad():
        twin.rnn.blocks[1].conv.weight[0, 0, 1] += 1e-6
    with pytest.raises(torch_compat.verify.DifferenceError, match="parameters of module"):
        torch_compat.verify.verify(model, twin)


def test_another_equation_with_the_same_parameters_is_found(monkeypatch):
    model = build("minlstm")
    twin = torch_compat.to_torch(model)
    monkeypatch.setattr(
        min_modules.MinLSTM,
        "coefficients",
        lambda self, gates: min_modules.MinGRU.coefficients(self, gates[..., 2 * H :]),
    )
    with pytest.raises(torch_compat.verify.DifferenceError, match="output of module in float64"):
        torch_compat.verify.verify(model, twin)


@cells
@pytest.mark.parametrize("embedding_size", [0, 3])
def test_names_and_shapes_are_the_twins_in_order_and_are_read_back(cell, embedding_size):
    arguments = {
        **{"num_symbols": V, "cell": cell, "hidden_size": H, "num_layers": L},
        "embedding_size": embedding_size,
    }
    expected = layout.expected("MinCharLM", arguments)
    state_dict = modules.MinCharLM(**arguments).state_dict()
    assert [(n, tuple(t.shape)) for n, t in state_dict.items()] == list(expected.items())
    params = split(build(cell, embedding_size=embedding_size))[1]
    assert {name: value.shape for name, value in params.items()} == expected
    assert layout.read_min_char_lm(expected) == arguments
    lstm = layout.expected("CharLM", arguments | {"cell": "lstm"})
    assert layout.read_min_char_lm(lstm) is None


def test_the_source_of_a_twin_is_of_its_own_model_alone():
    scope: dict[str, Any] = {}
    exec(standalone.source("MinCharLM"), scope)
    twin = scope["MinCharLM"](V, "minlstm", H, L)
    assert type(twin.rnn.blocks[0].rnn).__name__ == "MinLSTM"
    assert "SketchRNN" not in standalone.source("MinCharLM")
    assert "MinGRU" not in standalone.source("CharLM")
    assert "not `nn.GRU`" in standalone.readme("MinCharLM")
    with pytest.raises(ValueError, match="cell is 'lstm', expected one of mingru, minlstm"):
        modules.MinCharLM(V, "lstm", H)
    with pytest.raises(ValueError, match="cell is 'mingru', expected one of lstm, gru, rnn"):
        modules.CharLM(V, "mingru", H)


# --- runs


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run directory whose checkpoint holds fresh parameters."""
    path = tmp_path_factory.mktemp("min") / "run"
    config = CharConfig(
        run=str(path), cell="minlstm", hidden_size=H, num_layers=L, embedding_size=3, dropout=0.25
    )
    made = Run.create("char", config, {"vocabulary": VOCABULARY, "digest": ""})
    model = TASKS["char"].from_facts(made.config, made.facts).model(nnx.Rngs(0))
    made.save({"params": split(model)[1], "carry": jnp.zeros(2)}, {"step": 7})
    return path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    directory = tmp_path_factory.mktemp("exported") / "min"
    done = export_run.export_run(run, directory, ("module", "state-dict"))
    assert done.model == "MinCharLM"
    assert {row.dtype for row in done.rows} == {"float64", "float32", "-"}
    assert {"output", "h", "conv", "vocabulary"} <= {row.tensor for row in done.rows}
    return directory


def test_an_export_writes_the_models_text_and_has_its_bits(run, exported):
    module: Any = types.ModuleType("model")
    module.__file__ = str(exported / "model.py")
    exec((exported / "model.py").read_text(), module.__dict__)
    twin = module.load()
    params, _ = params_of(run, "last")
    assert {name: bits(t) for name, t in twin.state_dict().items()} == {
        name: bits(value) for name, value in params.items()
    }
    again: Any = torch_compat.load(exported)
    uniforms = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)
    text = twin.generate(twin.encode("ab"), 25, uniforms=uniforms)
    assert again.generate(again.encode("ab"), 25, uniforms=uniforms).tolist() == text.tolist()
    with torch.no_grad():  # written symbol by symbol, as it is read at once
        logits = twin(torch.cat([twin.encode("ab"), text])[None])[0][:, 1:-1]
    assert modules.next_symbol(logits[0], uniforms).tolist() == text.tolist()
    assert twin.rnn.blocks[0].dropout.p == twin.dropout.p == 0.25
    assert all(row.ok for row in export_run.verify_run(run, exported)[0])


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ("onnx", "there is a graph of CharLM, Forecaster, LSTM, GRU, RNN only, not of MinCharLM"),
        ("pt2", "a program of CharLM and Forecaster is written so, not of MinCharLM: take module"),
        ("sketch-rnn-js", "sketch-rnn-js has models of drawings, this is a MinCharLM"),
    ],
)
def test_forms_that_do_not_have_these_cells_are_refused_in_one_line(form, reason, run, tmp_path):
    with pytest.raises(InputError) as caught:
        export_run.export_run(run, tmp_path / "none", ("module", form))
    assert str(caught.value) == f"--format {form}: {reason}"
    assert not (tmp_path / "none").exists()


def test_the_lessons_form_is_refused(tmp_path):
    config = CharConfig(run=str(tmp_path / "run"), cell="mingru", hidden_size=H, embedding_size=0)
    made = Run.create("char", config, {"vocabulary": VOCABULARY, "digest": ""})
    model = TASKS["char"].from_facts(made.config, made.facts).model(nnx.Rngs(0))
    made.save({"params": split(model)[1], "carry": jnp.zeros(2)}, {"step": 7})
    with pytest.raises(InputError, match="lesson's net has an LSTM, this has the cell 'mingru'"):
        export_run.export_run(made.path, tmp_path / "none", ("lesson",))


def test_an_export_is_imported_as_the_run_it_was(run, exported, tmp_path):
    found = import_run.import_run(exported, tmp_path / "again")
    assert (found.weights.name, found.task) == ("MinCharLM", "char")
    text = tmp_path / "text.txt"
    text.write_text(SYMBOLS * 500, encoding="utf-8")
    import_run.import_run(exported / "model.pt", tmp_path / "of-weights", data=str(text))
    expected, _ = params_of(run, "last")
    for name in ("again", "of-weights"):
        opened = Run.open(tmp_path / name)
        config: Any = opened.config
        assert (config.cell, config.hidden_size, config.num_layers) == ("minlstm", H, L)
        assert config.embedding_size == 3
        params, _ = params_of(tmp_path / name, "last")
        assert params.keys() == expected.keys()
        assert all(bits(params[key]) == bits(expected[key]) for key in params)
        task = TASKS["char"].from_facts(config, opened.facts)
        assert type(nnx.eval_shape(lambda t=task: t.model(nnx.Rngs(0)))) is MinCharLM
    again: Any = Run.open(tmp_path / "again").config
    assert again.dropout == 0.25


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cell": "lstm"}, "cell is 'lstm'"),
        ({"cell": "mingru"}, "rnn.blocks.0.rnn.weight_ih_l0 has shape (24, 4), expected (16, 4)"),
        ({"num_layers": 10**9}, "num_layers is 1000000000, of 30 tensors"),
        ({"hidden_size": 0}, "hidden_size is 0, expected 1 or more"),
    ],
)
def test_an_altered_configuration_is_refused(values, reason, exported, tmp_path):
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((exported / file).read_bytes())
    arguments = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["arguments"]
    change(tmp_path, arguments=arguments | values)
    assert reason in refused(tmp_path)
    change(tmp_path, arguments=arguments, model="CharLM")
    assert "cell is 'minlstm'" in refused(tmp_path)
