import functools
import json
import math
from pathlib import Path
from typing import Any

import command_line
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrnn import evaluate, train_step
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS

TEXT = "the cat sat on the mat; a dog ate the hat.\n" * 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs whose best and last checkpoints hold different parameters."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "text.txt").write_text(TEXT)
    (folder / "rows.csv").write_text("t,x\n" + "\n".join(f"{k},{(k * 7) % 11}" for k in range(90)))
    (folder / "new[").mkdir()
    (folder / "new[/b].txt").write_text("the hat sat on the cat")
    (folder / "other").mkdir()
    small: dict[str, Any] = {"hidden_size": 5, "seq_len": 4, "batch_size": 1, "cell": "rnn"}
    text: dict[str, Any] = {"data": str(folder / "text.txt"), "embedding_size": 0, "dropout": 0.5}
    rows: dict[str, Any] = {"data": str(folder / "rows.csv"), "target": "x"}
    for task_name, config in (
        ("char", CharConfig(**small, **text, run=str(folder / "char"))),
        ("char", CharConfig(**small, **text, val_fraction=0.0, run=str(folder / "no-part"))),
        ("sine", SineConfig(**small, **rows, run=str(folder / "rows"))),
        ("sine", SineConfig(hidden_size=5, run=str(folder / "sine"))),
    ):
        task, data = TASKS[task_name].load(config)
        run = Run.create(task_name, config, data.facts)
        _, _, state = train_step.initial_state(task, config)
        state = state._replace(carry=state.carry + 0.5)
        run.save(state, {"step": 0}, best=True)
        run.save(state._replace(params={k: 2 * v for k, v in state.params.items()}), {"step": 1})
    return folder


command = functools.partial(command_line.run, evaluate.main)


def as_json(monkeypatch, capsys, *argv: str) -> dict:
    code, out, err = command(monkeypatch, capsys, *argv, "--json")
    assert (code, err) == (0, "")
    return json.loads(out, parse_constant=pytest.fail)


def nats_of(run: Run, text: str, scale: float) -> float:
    """One plain pass in NumPy's softmax over the model's logits."""
    task = TASKS["char"].from_facts(run.config, run.facts)
    _, skeleton, state = train_step.initial_state(task, run.config)
    params = {k: scale * v for k, v in state.params.items()}
    ids = task.vocabulary.encode(text)
    logits = np.asarray(skeleton.merge(params)(jnp.asarray(ids[None, :-1]))[0][0], np.float64)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -log_p[np.arange(len(ids) - 1), ids[1:]].mean()


def test_a_run_is_measured_on_its_validation_part(folder, monkeypatch, capsys):
    run = Run.open(folder / "char")
    validation = TEXT[int(len(TEXT) * 0.9) :]
    for argv, scale in (((), 1), (("--checkpoint", "best"), 1), (("--checkpoint", "last"), 2)):
        found = as_json(monkeypatch, capsys, str(run.path), *argv)
        nats = nats_of(run, validation, scale)
        assert found == {
            "data": "validation",
            "positions": len(validation) - 1,
            "nats": pytest.approx(nats, rel=1e-5),
            "bits": pytest.approx(nats / math.log(2), rel=1e-5),
            "perplexity": pytest.approx(math.exp(nats), rel=1e-5),
        }


def test_a_run_is_measured_on_a_whole_file(folder, monkeypatch, capsys):
    run = Run.open(folder / "char")
    path = folder / "new[/b].txt"
    found = as_json(monkeypatch, capsys, str(run.path), "--data", str(path))
    assert found["data"] == str(path)
    assert found["positions"] == len(path.read_text()) - 1
    assert found["nats"] == pytest.approx(nats_of(run, path.read_text(), 1), rel=1e-5)


def test_the_table_shows_the_numbers(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    found = as_json(monkeypatch, capsys, "char", "--data", "new[/b].txt")
    code, out, err = command(monkeypatch, capsys, "char", "--data", "new[/b].txt")
    assert (code, err) == (0, "")
    assert "new[/b].txt" in out
    for name in ("nats", "bits", "perplexity"):
        assert name in out
        assert f"{found[name]:.5g}" in out
    assert "over 21 positions, the state carried through" in out


def test_a_series_is_beside_its_naive_forecast(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    found = as_json(monkeypatch, capsys, "rows")
    values = np.array([(k * 7) % 11 for k in range(90)], float)
    scaled = (values - values[:81].mean()) / values[:81].std()
    errors = np.diff(scaled)[80:]
    assert found["positions"] == 9
    assert found["naive_mse"] == pytest.approx(np.mean(errors**2), rel=1e-5)
    assert found["naive_mae"] == pytest.approx(np.mean(np.abs(errors)), rel=1e-5)
    code, out, _ = command(monkeypatch, capsys, "rows")
    assert code == 0
    rows = [line for line in out.splitlines() if "validation" in line or "last value" in line]
    assert [f"{found[k]:.5g}" in rows[0] for k in ("mse", "mae")] == [True, True]
    assert [f"{found[k]:.5g}" in rows[1] for k in ("naive_mse", "naive_mae")] == [True, True]


def test_the_sine_goes_on_from_the_saved_state(folder, monkeypatch, capsys):
    run = Run.open(folder / "sine")
    task, data = TASKS["sine"].load(run.config, run.facts)
    _, skeleton, state = train_step.initial_state(task, run.config)
    inputs = jnp.asarray(data.held_out.inputs[None])
    predicted, _ = skeleton.merge(state.params)(inputs, state.carry + 0.5)
    mse = np.mean((np.asarray(predicted)[0] - data.held_out.targets) ** 2)
    for argv in ((), ("--streams", "8")):
        found = as_json(monkeypatch, capsys, str(run.path), *argv)
        assert found["mse"] == pytest.approx(mse, rel=1e-5)
        assert found["positions"] == 500


def test_streams_change_little(folder, monkeypatch, capsys):
    path = folder / "long.txt"
    path.write_text(TEXT * 5)
    argv = (str(folder / "char"), "--data", str(path))
    one = as_json(monkeypatch, capsys, *argv)
    four = as_json(monkeypatch, capsys, *argv, "--streams", "4")
    assert four["positions"] == one["positions"] == len(TEXT) * 5 - 1
    assert four["nats"] == pytest.approx(one["nats"], rel=1e-5)


BAD = {
    "no run": (["no"], "no run directory no"),
    "not a run": (["other"], "other is not a run directory"),
    "no such file": (["char", "--data", "no.txt"], "no.txt: no such file"),
    "unknown characters": (["char", "--data", "rows.csv"], "that the vocabulary of"),
    "no column": (["rows", "--data", "text.txt"], "text.txt"),
    "no part": (["no-part"], "no-part has no validation part (--val-fraction is 0)"),
    "streams": (["char", "--streams", "0"], "--streams is 0, expected at least 1"),
    "no argument": ([], "RUN"),
    "wrong type": (["char", "--streams", "many"], "--streams"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, folder, monkeypatch, capsys):
    argv, expected = BAD[case]
    monkeypatch.chdir(folder)
    code, out, err = command(monkeypatch, capsys, *argv)
    assert code == 2
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_data_that_has_changed_is_refused(tmp_path, folder, monkeypatch, capsys):
    run = Run.open(folder / "char")
    original = (folder / "text.txt").read_text()
    (folder / "text.txt").write_text(original[::-1])
    code, _, err = command(monkeypatch, capsys, str(run.path))
    (folder / "text.txt").write_text(original)
    assert (code, err.count("\n")) == (2, 1)
    assert "is not what the run was made with" in err


def test_measuring_writes_nothing(folder, monkeypatch, capsys):
    before = {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}
    as_json(monkeypatch, capsys, str(folder / "char"))
    assert {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")} == before
