"""Every form that ``export`` writes: loaded as a user does, where possible by its library alone."""

import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tolerances import assert_close

import torch_compat
from jaxrnn import cli
from torch_compat import __main__ as command
from torch_compat import export_run, formats, modules, onnx_graph, standalone, verify
from torch_compat import parts as jax_parts
from torch_compat.convert import as_array
from torch_compat.import_run import import_run

ROOT = Path(__file__).parents[1]
SYMBOLS = "\n abcé𝄞"
V, H, B, T = len(SYMBOLS), 6, 3, 5
MODELS = {
    "lstm-onehot": modules.CharLM(V, "lstm", H, 2, 0.3),
    "gru-embedding": modules.CharLM(V, "gru", H, 1, 0.0, 4),
    "rnn-onehot": modules.CharLM(V, "rnn", H, 2),
    "series-lstm": modules.Forecaster(1, 1, "lstm", H, 1),
    "series-rnn": modules.Forecaster(1, 1, "rnn", H, 2),
}


def subject(name, **changes):
    """What ``export_run`` makes of a run; parameters are those of the twin in MODELS."""
    twin = MODELS[name]
    carried: dict[str, Any] = {"scaler": {"mean": 2.0, "std": 3.0, "target": "price"}}
    if isinstance(twin, modules.CharLM):
        carried = {"vocabulary": {"kind": "characters", "symbols": SYMBOLS}}
    model = torch_compat.from_torch(twin)
    return formats.Subject(model, carried | changes, {"task": "any", "source": {}})


def written(name, form, directory):
    made = subject(name)
    for file, data in formats.FORMATS[form].make(made).items():
        (directory / file).write_bytes(data)
    return made


def inputs(name, batch_size=B, num_steps=T):
    twin: Any = MODELS[name]
    rng = np.random.default_rng(3)
    x: Any = rng.normal(size=(batch_size, num_steps, 1)).astype(np.float32)
    if isinstance(twin, modules.CharLM):
        x = rng.integers(V, size=(batch_size, num_steps))
    num_states = 2 if twin.rnn.mode == "LSTM" else 1
    size = (twin.rnn.num_layers, batch_size, H)
    return [x, *(rng.normal(size=size).astype(np.float32) for _ in range(num_states))]


def expected(name, x, *state):
    """What the twin gives."""
    members = [torch.from_numpy(member) for member in state]
    with torch.no_grad():
        y, last = MODELS[name].eval()(
            torch.from_numpy(x), tuple(members) if len(members) > 1 else members[0]
        )
    return [y.numpy(), *(m.numpy() for m in (last if isinstance(last, tuple) else (last,)))]


def assert_all_close(got, right):
    for value, other in zip(got, right, strict=True):
        assert value.shape == other.shape
        assert_close(value, other, "float32")


def python(*arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.mark.parametrize("form", [form for form in formats.FORMATS if form != "sketch-rnn-js"])
def test_each_form_is_compared_as_it_lies_on_the_disk(form, tmp_path):
    made = written("lstm-onehot", form, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(formats.FORMATS[form].files)
    rows = formats.FORMATS[form].compare(made, tmp_path, False)
    assert {row.form for row in rows} == {form}
    assert {row.tensor for row in rows} >= {"output", "h", "c"}
    assert all(row.ok for row in rows)
    assert any(0 < row.difference < 1e-5 for row in rows)


# --- module: torch and safetensors alone


@pytest.mark.parametrize("name", ["gru-embedding", "series-rnn"])
def test_a_module_loads_where_only_torch_and_safetensors_are(name, tmp_path):
    written(name, "module", tmp_path)
    code = (
        "import sys; sys.modules |= dict.fromkeys(('jax', 'jaxlib', 'flax', 'jaxrnn', "
        "'torch_compat'))\n"
        "import json, torch, model\nm = model.load()\nassert not m.training\n"
        f"x = torch.tensor({inputs(name)[0].tolist()})\n"
        "print(json.dumps([t.tolist() for t in m(x)]))\n"
    )
    done = python("-c", code, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    x, state = inputs(name)[0], [np.zeros_like(m) for m in inputs(name)[1:]]
    assert_all_close(map(np.array, json.loads(done.stdout)), expected(name, x, *state))


@pytest.mark.parametrize("name", MODELS)
def test_the_source_of_a_module_is_what_the_class_needs_and_no_more(name):
    cls = type(MODELS[name]).__name__
    text = standalone.source(cls)
    assert text == standalone.source(cls)
    scope: dict[str, Any] = {"__name__": "model"}
    exec(compile(text, "model.py", "exec"), scope)
    other = "Forecaster" if cls == "CharLM" else "CharLM"
    assert cls in scope
    assert other not in text
    assert "jaxrnn" not in text.replace("jaxrnn.models.char_lm.next_symbol", "")
    again = scope[cls](**MODELS[name].arguments)
    assert list(again.state_dict()) == list(MODELS[name].state_dict())


def test_the_readme_of_a_module_says_what_works(tmp_path):
    made = written("lstm-onehot", "module", tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert text.count("\n") <= 9
    (line,) = [line for line in text.splitlines() if line.startswith("    python -c")]
    code = line.partition('"')[2].rpartition('"')[0]
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "CharLM(" in done.stdout
    use = text.split("`")[-2].replace('"The "', '"ab"').replace("; ", "; torch.manual_seed(0); ", 1)
    done = python("-c", f"import torch, model; {use}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    twin = made.twin
    ids = twin.generate(twin.encode("ab"), 200, generator=torch.manual_seed(0))
    assert done.stdout == twin.decode(ids) + "\n"


def test_the_readme_of_a_forecaster_forecasts_in_the_series_own_unit(tmp_path):
    made = written("series-lstm", "module", tmp_path)
    use = (tmp_path / "README.md").read_text().split("`")[-4].replace("m.inv", "y = m.inv")
    code = f"import json, torch, model; history = torch.ones(2, 5, 1); {use}"
    done = python("-c", f"{code}; print(json.dumps(y.tolist()))", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    twin = made.twin
    right = twin.inverse(twin.forecast(twin.transform(torch.ones(2, 5, 1)), 24))
    assert_close(np.array(json.loads(done.stdout)), right, "float32")


# --- pt2 and onnx: any batch size and length, and streams


def onnx_runner(data):
    return lambda values: onnx_graph.run(data, values)


def pt2_runner(data):
    from torch_compat import pt2

    return pt2.runner(data)


@pytest.mark.parametrize(("form", "runner"), [("pt2", pt2_runner), ("onnx", onnx_runner)])
@pytest.mark.parametrize("name", MODELS)
def test_programs_run_at_any_size_and_stream(form, runner, name):
    (data,) = formats.FORMATS[form].make(subject(name)).values()
    run = runner(data)
    for size in ((1, 1), (1, 9), (4, 1), (B, T)):
        assert_all_close(run(inputs(name, *size)), expected(name, *inputs(name, *size)))
    x, *state = inputs(name, B, 9)
    whole = run([x, *state])
    first, *state = run([x[:, :4], *state])
    second, *state = run([x[:, 4:], *state])
    assert_all_close([np.concatenate([first, second], axis=1), *state], whole)


def test_a_program_computes_in_the_dtype_of_the_parameters():
    from torch_compat import pt2

    twin: Any = modules.CharLM(V, "lstm", H, 1).double().eval()
    x, h, c = inputs("gru-embedding")[0], *np.random.default_rng(0).normal(size=(2, 1, B, H))
    got = pt2.runner(pt2.dump(twin))([x, h, c])
    with torch.no_grad():
        y, state = twin(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c)))
    for value, right in zip(got, (y, *state), strict=True):
        assert value.dtype == np.float64
        assert_close(value, right)


def test_a_pt2_is_loaded_by_torch_alone(tmp_path):
    written("series-lstm", "pt2", tmp_path)
    x, h, c = (value.tolist() for value in inputs("series-lstm"))
    code = (
        "import sys; sys.modules |= dict.fromkeys(('jax', 'jaxlib', 'jaxrnn', 'torch_compat'))\n"
        "import json, torch\nprogram = torch.export.load('model.pt2').module()\n"
        f"values = program(*map(torch.tensor, ({x}, {h}, {c})))\n"
        "print(json.dumps([v.tolist() for v in values]))"
    )
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    right = expected("series-lstm", *inputs("series-lstm"))
    assert_all_close(map(np.array, json.loads(done.stdout)), right)


# --- what a form can't carry is refused before anything is written


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs by the name of their model."""
    directory = tmp_path_factory.mktemp("runs")

    def make(name, dtype="float32"):
        path = directory / f"{name}-{dtype}"
        if not path.exists():
            twin = modules.__dict__[type(MODELS[name]).__name__](**MODELS[name].arguments)
            twin = twin.to(getattr(torch, dtype))
            torch.save(twin.state_dict(), directory / "weights.pt")
            text = directory / "text.txt"
            text.write_text(SYMBOLS * 600, encoding="utf-8")
            data = str(text) if isinstance(twin, modules.CharLM) else ""
            import_run(directory / "weights.pt", path, data=data)
        return path

    return make


@pytest.mark.parametrize(
    ("name", "dtype", "form", "reason"),
    [
        ("series-rnn", "float32", "lesson", "is of a character model, this is a Forecaster"),
        ("gru-embedding", "float32", "lesson", "reads one-hot input: train with --embedding-size"),
        ("rnn-onehot", "float32", "lesson", "has an LSTM, this has the cell 'rnn'"),
        ("series-lstm", "float64", "onnx", "float64"),
    ],
)
def test_what_a_form_can_not_carry_is_refused(name, dtype, form, reason, run, tmp_path, capsys):
    path = run(name, dtype)
    arguments = ["export", str(path), "--to", str(tmp_path / "out"), "--format", "module", form]
    assert cli.exit_code(lambda: command.run_command(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: --format {form}: ")
    assert reason in printed.err
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_no_tokens_of_the_lesson():
    model = torch_compat.from_torch(modules.CharLM(256, "lstm", 3))
    made = formats.Subject(model, {"vocabulary": {"kind": "bytes", "symbols": ""}}, {})
    assert formats.FORMATS["lesson"].refusal(made) == (
        "the lesson's net has characters as tokens, this has bytes"
    )


def test_several_forms_at_once_and_a_package_that_is_missing(run, tmp_path, monkeypatch, capsys):
    forms = ["state-dict", "pt2", "onnx", "safetensors", "onnx"]
    done = export_run.export_run(run("rnn-onehot"), tmp_path / "out", forms)
    assert sorted(done.files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert set(done.files) == {
        *("model.pt", "model.pt2", "model.onnx", "model.safetensors", "config.json")
    }
    assert list(dict.fromkeys(row.form for row in done.rows)) == forms[:4]
    monkeypatch.setattr(formats, "installed", lambda name: name not in ("onnx", "onnxruntime"))
    arguments = ["export", str(run("rnn-onehot")), "--to", str(tmp_path / "b"), "--format", *forms]
    assert cli.exit_code(lambda: command.run_command(arguments)) == 2
    assert capsys.readouterr().err == (
        "error: --format onnx needs onnx and onnxruntime: pip install onnx onnxruntime\n"
    )
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("form", ["module", "pt2", "onnx"])
def test_a_form_that_computes_something_else_is_found(form, run, tmp_path, monkeypatch):
    def off(subject, make=formats.FORMATS[form].make):
        arrays = dict(subject.arrays)
        arrays["rnn.weight_hh_l0"] = arrays["rnn.weight_hh_l0"] * np.float32(1.01)
        name, arguments = subject.description
        model = jax_parts.build(name, arguments, arrays)
        return make(formats.Subject(model, subject.carried, subject.about))

    changed = formats.dataclasses.replace(formats.FORMATS[form], make=off)
    monkeypatch.setitem(formats.FORMATS, form, changed)
    with pytest.raises(verify.DifferenceError, match=f"output of {form} in float32"):
        export_run.export_run(run("rnn-onehot"), tmp_path / "out", [form])
    assert list(tmp_path.iterdir()) == []


def test_safetensors_is_written_where_torch_is_not_installed(run, tmp_path):
    path = run("gru-embedding")
    code = (  # sys.modules["torch"] = None would be a module to tyro
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(name, name='torch')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from torch_compat.__main__ import main; sys.exit(main())"
    )
    out = tmp_path / "out"
    forms = ("--format", "safetensors", "onnx")
    done = python("-c", code, "export", str(path), "--to", str(out), *forms)
    assert done.returncode == 0, done.stderr
    assert "parameters" in done.stdout
    model: Any = torch_compat.load(out)
    arrays, _ = formats.files.read(out / "model.safetensors")
    subject, _ = export_run._subject(export_run.Run.open(path), "auto")
    for name, tensor in model.state_dict().items():
        assert as_array(tensor).tobytes() == subject.arrays[name].tobytes()
        assert arrays[name].tobytes() == subject.arrays[name].tobytes()
    done = python("-c", code, "import", str(out), "--to", str(tmp_path / "again"))
    assert done.returncode == 0, done.stderr
    done = python("-c", code, "import", str(path.parent / "weights.pt"), "--to", "none")
    assert done.returncode == 2
    assert done.stderr.endswith("needs torch to be read: pip install torch\n")


def test_the_formats_of_the_command_line_are_those_of_the_table():
    hint = typing.get_type_hints(command.ExportOptions)["format"]
    assert set(typing.get_args(typing.get_args(hint)[0])) == set(formats.FORMATS)
