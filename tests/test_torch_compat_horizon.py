"""The forecasters of many steps in torch beside ours: modules, exports, imports, raw forecasts."""

import dataclasses
import datetime
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from exports import change, python
from series_cases import FUTURE, ROWS, config_of, values_of, write_rows
from test_horizon import HEADS, LEVELS, B, C, N, inputs, make, run
from tolerances import assert_close

import torch_compat
from jaxrnn.distributions import student_t_quantile
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.tasks.series_forecasts import ahead, path_uniforms, predictor
from jaxrnn.train_step import initial_state
from torch_compat import __main__ as command
from torch_compat import forecast_modules
from torch_compat.directory import read

RNG = np.random.default_rng(3)
CASES = [
    ("direct", "quantiles", {"cell": "lstm", "num_layers": 2}),
    ("direct", "student_t", {"known": 0, "normalize": "last"}),
    ("recursive", "point", {"cell": "rnn", "normalize": "none"}),
    ("recursive", "student_t", {"num_layers": 2}),
    ("segments", "point", {"known": 0, "normalize": "last", "dropout": 0.4}),
    ("segments", "quantiles", {"cell": "lstm"}),
]


def tensor(array) -> torch.Tensor:
    return torch.tensor(np.asarray(array))


@pytest.mark.parametrize(("head", "distribution", "options"), CASES)
def test_a_twin_gives_what_the_model_gives(head, distribution, options):
    model = make(head, distribution=distribution, **options)
    twin: Any = torch_compat.to_torch(model)
    past, known = inputs(options.get("known", 4))
    with torch.no_grad():
        got = twin(tensor(past), tensor(known))
        np.testing.assert_allclose(got, run(model, past, known), rtol=1e-12, atol=1e-12)
        if head == "recursive":
            targets = jnp.asarray(RNG.normal(size=(B, N, C)))
            got = twin(tensor(past), tensor(known), tensor(targets))
            np.testing.assert_allclose(got, run(model, past, known, targets), atol=1e-12)
    quantiles = np.asarray(model.distribution.quantiles(jnp.asarray(got.numpy())))
    np.testing.assert_allclose(twin.quantiles(got), quantiles, rtol=1e-11, atol=1e-11)
    again: Any = torch_compat.from_torch(twin)
    assert type(again) is type(model)
    for name, value in split(model)[1].items():
        np.testing.assert_array_equal(split(again)[1][name], value)
    np.testing.assert_array_equal(run(again, past, known), run(model, past, known))


def test_paths_from_the_same_numbers_are_the_same():
    model = make("recursive", distribution="student_t", cell="lstm")
    past, known = inputs()
    uniforms = RNG.uniform(size=(2, 3, B, N, C))
    ours = model.sample(past, known, jnp.asarray(uniforms))
    with torch.no_grad():
        twin: Any = torch_compat.to_torch(model)
        theirs = twin.sample(tensor(past), tensor(known), tensor(uniforms))
    np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-11)


def test_the_quantile_of_student_t_is_ours():
    freedom = np.array([2.0, 2.3, 5, 80])
    for level in (0.01, 0.1, 0.5, 0.9):
        ours = student_t_quantile(level, jnp.asarray(freedom))
        theirs = forecast_modules.student_t_quantile(level, torch.tensor(freedom))
        np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-12)


# --- runs ---


RUNS: dict[str, dict[str, Any]] = {
    "direct": {"covariates": ("c",), "known": ("k",)},
    "recursive": {"distribution": "student_t", "num_samples": 7},
    "segments": {"segment_len": 4, "known": ("k",), "normalize": "last"},
}


def make_run(folder, head: str, dtype: str = "float64") -> Run:
    """Of fresh parameters, on a file with the future of what is known."""
    data = write_rows(folder / "rows.csv", FUTURE if "known" in RUNS[head] else 0)
    config = config_of(data, head=head, dtype=dtype, run=str(folder / "run"), **RUNS[head])
    task, found = TASKS["series"].load(config)
    run = Run.create("series", task.config, found.facts)
    _, _, state = initial_state(task, task.config)
    run.save(state, {"step": 3, "progress": {}}, best=True)
    return run


def exported(run: Run, folder, *options: str) -> int:
    return command.run_command(["export", str(run.path), "--to", str(folder / "out"), *options])


@pytest.mark.parametrize("head", RUNS)
def test_an_export_forecasts_from_raw_values_as_the_run_does(head, tmp_path, capsys):
    run = make_run(tmp_path, head)
    assert exported(run, tmp_path) == 0
    task = TASKS["series"].from_facts(run.config, run.facts)
    _, skeleton, state = initial_state(task, run.config)
    series = task.read(run.config.data)
    rows = task.rows(series, 4)
    expected = task.unscaled(ahead(task, predictor(task, skeleton, state.params), rows, ROWS, 4), 1)
    model: Any = torch_compat.load(tmp_path / "out")
    dates = np.concatenate([series.dates[-8:], series.future_dates(4)]).astype(str).tolist()
    given: dict[str, Any] = {"dates": dates}
    if task.config.known:
        given["known"] = torch.tensor(series.future[:4])
    if head == "recursive":
        given["uniforms"] = tensor(path_uniforms(task, 1, 4)[:, :, 0])
    got = model.predict(torch.tensor(series.values), **given)
    assert got.shape == (4, 2, 3)
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)

    assert command.run_command(["verify", str(run.path), str(tmp_path / "out")]) == 0
    assert "within rounding" in capsys.readouterr().out


def test_paths_are_drawn_alike_unless_it_is_asked_for_others(tmp_path):
    run = make_run(tmp_path, "recursive")
    assert exported(run, tmp_path) == 0
    model: Any = torch_compat.load(tmp_path / "out")
    dates = [datetime.datetime(2021, 3, 1) + datetime.timedelta(hours=142 + k) for k in range(12)]
    rows = torch.tensor(values_of()[:ROWS, :2])
    state = torch.random.get_rng_state()
    found = model.predict(rows, dates=dates)
    assert torch.equal(model.predict(rows, dates=dates), found)
    assert torch.equal(torch.random.get_rng_state(), state)
    for seed, is_same in ((0, True), (1, False)):
        generator = torch.Generator().manual_seed(seed)
        got = model.predict(rows, dates=dates, generator=generator)
        assert torch.equal(got, found) is is_same
    with pytest.raises(ValueError, match=r"shape \(2, 7, 1, 4, 2\), expected \(2, 7, 4, 2\)"):
        model.predict(rows, dates=dates, uniforms=torch.rand(2, 7, 1, 4, 2))
    assert "quantiles of drawn paths, the same at each" in (tmp_path / "out/README.md").read_text()
    other: Any = torch_compat.to_torch(make("direct"))
    other.series = model.series | {"calendar": [], "input_len": 5}
    with pytest.raises(ValueError, match="uniforms are of a recursive Student t alone"):
        other.predict(rows, uniforms=torch.rand(2, 7, 4, 2))


def test_the_file_of_an_export_needs_torch_alone(tmp_path):
    run = make_run(tmp_path, "direct", "float32")
    assert exported(run, tmp_path) == 0
    np.savetxt(tmp_path / "rows.txt", values_of()[:ROWS])
    np.savetxt(tmp_path / "known.txt", values_of()[ROWS : ROWS + 4, 3:])
    code = (
        "import sys; sys.modules['jax'] = sys.modules['jaxrnn'] = None\n"
        "import json, numpy, torch, model\n"
        "import datetime as d\n"
        "m = model.load()\n"
        "dates = [d.datetime(2021, 3, 1) + d.timedelta(hours=142 + k) for k in range(12)]\n"
        "known = torch.tensor(numpy.loadtxt('../known.txt')[:, None])\n"
        "rows = torch.tensor(numpy.loadtxt('../rows.txt'))\n"
        "print(json.dumps(m.predict(rows, known, dates).tolist()))\n"
    )
    done = python("-c", code, cwd=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    task = TASKS["series"].from_facts(run.config, run.facts)
    _, skeleton, state = initial_state(task, run.config)
    rows = task.rows(task.read(run.config.data), 4)
    found = ahead(task, predictor(task, skeleton, state.params), rows, ROWS, 4)
    assert_close(json.loads(done.stdout), task.unscaled(found, 1), "float32")


@pytest.mark.parametrize("head", RUNS)
def test_an_export_becomes_a_run_again(head, tmp_path):
    run = make_run(tmp_path, head, "float32")
    assert exported(run, tmp_path) == 0
    argv = ["import", str(tmp_path / "out"), "--to", str(tmp_path / "again")]
    assert command.run_command([*argv, "--data", str(run.config.data)]) == 0
    again = Run.open(tmp_path / "again")
    assert again.facts == run.facts | {"digest": again.facts["digest"]}
    changed = {
        field.name
        for field in dataclasses.fields(run.config)
        if getattr(run.config, field.name) != getattr(again.config, field.name)
    }
    assert changed <= {
        *("run", "split", "batch_size", "steps", "eval_every", "log_every", "lr", "epochs")
    }
    argv[-1] = str(tmp_path / "bare")
    assert command.run_command(argv) == 0
    assert Run.open(tmp_path / "bare").facts["digest"] == ""


def test_what_can_not_be_carried_or_was_altered_is_said(tmp_path, capsys):
    run = make_run(tmp_path, "segments", "float32")
    for name, reason in (("pt2", "not of SegmentForecaster"), ("onnx", "graph of CharLM")):
        with pytest.raises(InputError, match=reason):
            exported(run, tmp_path, "--format", name)
    assert exported(run, tmp_path, "--format", "safetensors") == 0
    config, _ = read(tmp_path / "out")
    for name, value, reason in (
        ("input_len", 0, "input_len is 0, expected 1 or more"),
        ("calendar", ["moon"], "series' calendar has moon"),
        ("scalers", config["series"]["scalers"][:1], "series has 1 scalers of 3 columns"),
        ("targets", ["x"], "series has 1 of num_targets, the model 2"),
    ):
        change(tmp_path / "out", series={**config["series"], name: value})
        with pytest.raises(InputError, match=reason):
            read(tmp_path / "out")


def test_raw_values_that_do_not_fit_are_said(tmp_path):
    run = make_run(tmp_path, "direct", "float32")
    assert exported(run, tmp_path) == 0
    model: Any = torch_compat.load(tmp_path / "out")
    rows = torch.tensor(values_of()[:ROWS])
    with pytest.raises(
        ValueError, match=r"expected \(8 or more, 4\): the last steps of x, y, c, k"
    ):
        model.predict(rows[:7])
    with pytest.raises(ValueError, match=r"known has shape None, expected \(4, 1\)"):
        model.predict(rows)
    with pytest.raises(ValueError, match="there are 0 dates, expected 12"):
        model.predict(rows, rows[:4, 3:])
    with pytest.raises(ValueError, match="has no scalers"):
        type(model)(2, horizon=3).predict(rows)


def test_every_head_and_distribution_has_a_case():
    assert {head for head, _, _ in CASES} == set(HEADS)
    assert {distribution for _, distribution, _ in CASES} == set(LEVELS)
