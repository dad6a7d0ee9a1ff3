"""Runs of sketch-rnn out to torch and to Magenta's pages, compared there, and back in as runs."""

import base64
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from demo_cases import EXTENT, SCALE, make_run
from exports import change, export, refused
from lesson import import_, run
from sketch_cases import random_drawing
from tolerances import assert_close

import torch_compat
from jaxrnn import cli, draw, evaluate, train
from jaxrnn.config import SketchConfig
from jaxrnn.config_file import to_toml
from jaxrnn.models.sketch_drawing import Pen, draws_at
from jaxrnn.runs import Run
from torch_compat import export_run, formats, magenta

pytestmark = pytest.mark.usefixtures("as_users_have_it")

ONE = ("cat",)
KINDS: dict[str, dict[str, Any]] = {
    "classes": {"classes": ("cat", "dog")},
    "unconditional": {"classes": ONE, "conditional": False, "num_mixtures": 20},
    "layer_norm": {"classes": ("cat", "dog"), "conditional": False, "decoder": "layer_norm"},
    "hyper": {"classes": ONE, "decoder": "hyper"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {kind: make_run(folder / kind, gain=2.0, **options) for kind, options in KINDS.items()}


def loaded(path):
    """The task, and the model as skeleton and parameters."""
    task, skeleton, params, _ = cli.open_model(str(path), "auto", "auto")
    return task, (skeleton, params)


def same_params(one, other):
    (_, (_, ours)), (_, (_, theirs)) = loaded(one), loaded(other)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert np.asarray(value).tobytes() == np.asarray(theirs[name]).tobytes(), name


def assert_draws_alike(path, twin):
    """The same random numbers give the same drawings, in the data's unit."""
    task, model = loaded(path)
    key, count, length = jax.random.key(5), 3, 20
    prefix = np.array([[30, -20, 0], [10, 15, 1]], np.float32)
    classes = np.array([0, 1, 1]) % len(task.classes)
    z = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32)
    more: dict[str, Any] = {"z": z} if task.config.conditional else {}
    drawn = Pen(model).drawings(
        *(key,),
        **{"count": count, "length": length, "temperature": 0.5, "classes": classes},
        **{"prefix": prefix / (SCALE, SCALE, 1), **more},
    )
    draws = [draws_at(key, jnp.int32(k), count) for k in range(length)]
    numbers = [torch.tensor(np.stack([np.asarray(d[k]) for d in draws], 1)) for k in (0, 1)]
    theirs = twin.draw(
        *(count, length),
        **{"prefix": torch.tensor(prefix), "temperature": 0.5, "draws": tuple(numbers)},
        **{"classes": torch.tensor(classes), **{k: torch.tensor(v) for k, v in more.items()}},
    )
    assert max(map(len, drawn)) > 5
    for one, other in zip(drawn, theirs, strict=True):
        scaled = one * np.array([SCALE, SCALE, 1], np.float32)
        assert_close(scaled / SCALE, other / SCALE, "float32")


# --- out


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_exported_and_verified_in_three_forms(kind, runs, tmp_path, capsys):
    forms = ("module", "safetensors", "state-dict")
    assert export(runs[kind], "--to", tmp_path / "out", "--format", *forms) == 0
    task, (_, params) = loaded(runs[kind])
    assert f"SketchRNN, {sum(p.size for p in params.values()):,} parameters" in (
        capsys.readouterr().out
    )
    twin: Any = torch_compat.load(tmp_path / "out")
    assert twin.strokes == {
        **{"scale": SCALE, "num_points": 40, "extent": EXTENT, "classes": list(task.classes)},
    }
    assert {k: np.asarray(v).tobytes() for k, v in params.items()} == {
        k: v.numpy().tobytes() for k, v in twin.state_dict().items()
    }
    assert_draws_alike(runs[kind], twin)

    rows, remarks = export_run.verify_run(runs[kind], tmp_path / "out")
    assert remarks == []
    assert {row.form for row in rows} == {"safetensors", "state-dict"}
    names = {"parameters", "output", "h", "c", "loss", "strokes"}
    names |= {"hyper_h", "hyper_c"} if kind == "hyper" else set()
    names |= {"mu", "presig"} if task.config.conditional else set()
    assert {row.tensor for row in rows} == names | {f"grad {name}" for name in params}
    assert all(row.ok for row in rows)
    of_double = [row for row in rows if row.dtype == "float64" and "grad" in row.tensor]
    assert max(row.relative for row in of_double) < 1e-9


def test_one_weight_that_differs_is_found(runs, tmp_path, capsys):
    assert export(runs["classes"], "--to", tmp_path / "out", "--format", "state-dict") == 0
    state = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    state["encoder.weight_hh_l0_reverse"][0, 0] += 0.01
    torch.save(state, tmp_path / "out" / "model.pt")
    rows, _ = export_run.verify_run(runs["classes"], tmp_path / "out")
    wrong = {row.tensor for row in rows if not row.ok}
    assert wrong >= {"parameters", "mu", "presig", "output", "h", "loss", "grad output.bias"}
    capsys.readouterr()
    del state["classes.weight"]
    torch.save(state, tmp_path / "out" / "model.pt")
    assert run("verify", runs["classes"], tmp_path / "out") == 2
    assert "classes.weight is missing, expected (2, 3)" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["hyper", "classes"])
def test_a_module_draws_where_only_torch_and_safetensors_are(kind, runs, tmp_path):
    assert export(runs[kind], "--to", tmp_path / "out") == 0
    code = (
        "import sys; sys.modules |= dict.fromkeys(('jax', 'jaxlib', 'flax', 'jaxrnn', "
        "'torch_compat', 'numpy'))\n"
        "import json, torch, model\nm = model.load()\nassert not m.training\n"
        "g = torch.Generator().manual_seed(3)\n"
        "print(json.dumps([d.tolist() for d in m.draw(4, 30, temperature=0.4, generator=g)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        **{"capture_output": True, "text": True, "cwd": tmp_path / "out", "timeout": 120},
        env=os.environ | {"PYTHONPATH": str(tmp_path / "out")},
    )
    assert done.returncode == 0, done.stderr
    twin: Any = torch_compat.load(tmp_path / "out")
    generator = torch.Generator().manual_seed(3)
    expected = twin.draw(4, 30, temperature=0.4, generator=generator)
    for one, other in zip(json.loads(done.stdout), expected, strict=True):
        np.testing.assert_allclose(np.array(one).reshape(-1, 3), other, rtol=1e-4, atol=1e-3)
    assert "class CharLM" not in (tmp_path / "out" / "model.py").read_text()
    assert "m.draw(9, temperature=0.4)" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("kind", "form", "reason"),
    [
        ("hyper", "onnx", "not of SketchRNN"),
        ("hyper", "pt2", "not of SketchRNN"),
        ("hyper", "lesson", "this is a SketchRNN"),
        ("hyper", "sketch-rnn-js", "has LSTM decoders alone"),
        ("classes", "sketch-rnn-js", "has no classes"),
    ],
)
def test_what_a_form_can_not_carry_is_refused(kind, form, reason, runs, tmp_path, capsys):
    assert export(runs[kind], "--to", tmp_path / "out", "--format", "module", form) == 2
    error = capsys.readouterr().err
    assert f"--format {form}: " in error
    assert reason in error
    assert not (tmp_path / "out").exists()


def test_a_text_model_is_no_drawing(tmp_path, capsys):
    model = torch_compat.from_torch(torch_compat.modules.Forecaster(1, 1, "lstm", 4, 1))
    subject = formats.Subject(model, {}, {})
    reason = formats.FORMATS["sketch-rnn-js"].refusal(subject)
    assert reason == "sketch-rnn-js has models of drawings, this is a Forecaster"


# --- to Magenta's pages and from them


def test_a_run_goes_to_magentas_pages_and_comes_back(runs, tmp_path, capsys):
    path = tmp_path / "out" / "sketch-rnn.json"
    source = runs["unconditional"]
    assert export(source, "--to", tmp_path / "out", "--format", "sketch-rnn-js") == 0
    (rows, _) = export_run.verify_run(source, tmp_path / "out")
    ((largest, limit),) = [(r.difference, r.limit) for r in rows if r.tensor == "parameters"]
    assert 0.4 * magenta.STEP < largest <= limit < 0.51 * magenta.STEP
    assert json.loads(path.read_text())[0] == {
        **{"name": "cat", "mode": 2, "version": 6, "scale_factor": SCALE, "max_seq_len": 40},
    }
    assert import_(path, "--to", tmp_path / "again") == 0
    printed = capsys.readouterr().out
    assert f"python -m jaxrnn.draw {tmp_path / 'again'}" in printed
    task, (_, params) = loaded(tmp_path / "again")
    assert (task.classes, task.scale, task.num_points) == (ONE, SCALE, 40)
    folded = magenta.folded({k: np.asarray(v) for k, v in loaded(source)[1][1].items()})
    for name, value in folded.items():
        np.testing.assert_allclose(params[name], value, atol=0.51 * magenta.STEP)
    assert export(tmp_path / "again", "--to", tmp_path / "b", "--format", "sketch-rnn-js") == 0
    assert (tmp_path / "b" / "sketch-rnn.json").read_bytes() == path.read_bytes()

    # A weight that is two steps off is found.
    info, shapes, blobs = json.loads(path.read_text())
    changed = np.frombuffer(base64.b64decode(blobs[0]), "<i2") + np.int16(2)
    blobs[0] = base64.b64encode(changed.tobytes()).decode()
    path.write_text(json.dumps([info, shapes, blobs]))
    assert run("verify", source, tmp_path / "out") == 1


# --- in


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_comes_back_as_the_run(kind, runs, tmp_path, capsys):
    assert export(runs[kind], "--to", tmp_path / "out") == 0
    assert import_(tmp_path / "out", "--to", tmp_path / "run") == 0
    assert "SketchRNN" in capsys.readouterr().out
    same_params(runs[kind], tmp_path / "run")
    ours, theirs = (Run.open(path) for path in (runs[kind], tmp_path / "run"))
    assert ours.facts == theirs.facts
    known = ("latent_size", "encoder_size") if KINDS[kind].get("conditional", True) else ()
    for name in ("decoder", "hidden_size", "num_mixtures", "conditional", *known):
        assert getattr(ours.config, name) == getattr(theirs.config, name)
    if kind != "classes":
        return
    to = ["--to", tmp_path / "a.json", "--count", "2", "--length", "9"]
    assert run(runs[kind], *to, of=draw) == 0
    first = (tmp_path / "a.json").read_bytes()
    assert run(tmp_path / "run", *to, of=draw) == 0
    assert (tmp_path / "a.json").read_bytes() == first
    assert run("--resume", tmp_path / "run", of=train) == 2
    assert "imported without data" in capsys.readouterr().err


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files of two classes of drawings."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("drawings")
    for name in ("cat", "dog", "pig"):
        arrays = {}
        for part in ("train", "valid", "test"):
            arrays[part] = np.empty(8, object)
            arrays[part][:] = [random_drawing(rng, n).astype(np.int16) for n in range(5, 13)]
        np.savez(folder / f"{name}.npz", **arrays, allow_pickle=True)
    return folder


def config_of(folder, *names, **options):
    """A file of options."""
    config = SketchConfig(data=tuple(str(folder / f"{name}.npz") for name in names), **options)
    path = folder / f"{'-'.join(names)}.toml"
    path.write_text(to_toml("sketch", config), encoding="utf-8")
    return path


def test_weights_with_data_are_trained_on(runs, data, tmp_path, capsys):
    assert export(runs["classes"], "--to", tmp_path / "out", "--format", "state-dict") == 0
    weights = tmp_path / "out" / "model.pt"
    assert import_(weights, "--to", tmp_path / "run") == 2
    assert "brings no scale of its drawings: give the drawings" in capsys.readouterr().err
    alone = ["--data", data / "cat.npz", "--config", config_of(data, "dog", batch_size=8)]
    assert import_(weights, "--to", tmp_path / "run", *alone) == 2
    assert "the data have 1 classes, the model in" in capsys.readouterr().err
    options: dict[str, Any] = {"epochs": 1, "batch_size": 8, "num_buckets": 1, "lr": 0.05}
    config = config_of(data, "cat", "dog", log_every=1, preview_count=0, **options)
    assert import_(weights, "--to", tmp_path / "run", "--config", config) == 0
    same_params(runs["classes"], tmp_path / "run")
    facts = Run.open(tmp_path / "run").facts
    assert (facts["classes"], facts["num_points"]) == (["cat", "dog"], 12)
    assert facts["scale"] != SCALE
    capsys.readouterr()
    assert run(tmp_path / "run", "--json", of=evaluate) == 0
    before = json.loads(capsys.readouterr().out)
    assert run("--resume", tmp_path / "run", of=train) == 0
    capsys.readouterr()
    assert run(tmp_path / "run", "--json", of=evaluate) == 0
    assert json.loads(capsys.readouterr().out)["loss"] < before["loss"]


def test_the_scale_of_a_file_stays_and_other_classes_are_refused(runs, data, tmp_path, capsys):
    assert export(runs["classes"], "--to", tmp_path / "two") == 0
    pair = config_of(data, "cat", "pig", batch_size=8)
    assert import_(tmp_path / "two", "--to", tmp_path / "run", "--config", pair) == 2
    assert "the data have the classes cat, pig, the model in" in capsys.readouterr().err
    assert export(runs["unconditional"], "--to", tmp_path / "one") == 0
    more = ["--config", config_of(data, "pig", batch_size=8)]
    assert import_(tmp_path / "one", "--to", tmp_path / "run", *more) == 0
    facts = Run.open(tmp_path / "run").facts
    assert (facts["classes"], facts["scale"], facts["num_points"]) == (["cat"], SCALE, 40)
    assert len(facts["digest"]) > 20
    for flags in (["--tokens", "bytes"], ["--target", "x"]):
        assert import_(tmp_path / "one", "--to", tmp_path / "other", *flags) == 2
        assert flags[0] in capsys.readouterr().err
    config = tmp_path / "series.toml"
    config.write_text('task = "sine"\n')
    assert import_(tmp_path / "one", "--to", tmp_path / "other", "--config", config) == 2
    assert "is not of the task 'sketch'" in capsys.readouterr().err


def test_what_an_export_says_of_its_drawings_is_checked(runs, tmp_path, capsys):
    assert export(runs["classes"], "--to", tmp_path / "out") == 0
    good = {"scale": 2.0, "num_points": 9, "extent": 9.0, "classes": ["cat", "dog"]}
    for wrong, found in (
        ({"scale": 0}, "scale is 0, expected a number above 0"),
        ({"scale": float("inf")}, "scale is inf"),
        ({"extent": -1}, "extent is -1, expected a number above 0"),
        ({"scale": "x"}, "could not convert string to float"),
        ({"num_points": 0}, "num_points is 0, expected 1 or more"),
        ({"num_points": 1.5}, "num_points is 1.5"),
        ({"classes": ["cat"]}, "expected a list of 2"),
        ({"classes": "ab"}, "expected a list of 2"),
    ):
        change(tmp_path / "out", strokes=good | wrong)
        assert found in refused(tmp_path / "out")
    change(tmp_path / "out", strokes=good)
    arguments = json.loads((tmp_path / "out" / "config.json").read_text())["arguments"]
    for wrong, found in (
        ({"decoder": "gru"}, "decoder is 'gru'"),
        ({"conditional": 1}, "conditional is 1"),
        ({"num_classes": -1}, "num_classes is -1, expected 0 or more"),
        ({"latent_size": 0}, "latent_size is 0, expected 1 or more"),
        ({"latent_size": 4}, "parameters don't fit"),
    ):
        change(tmp_path / "out", arguments=arguments | wrong)
        assert found in refused(tmp_path / "out")
    change(tmp_path / "out", arguments=arguments, vocabulary={"kind": "bytes", "symbols": ""})
    assert "a SketchRNN has no vocabulary" in refused(tmp_path / "out")
