"""docs/lesson/compare.py: the lesson's nets learn in jaxrnn what they learn in torch."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import char_config, train

from jaxrnn.config_file import from_toml, to_toml
from jaxrnn.train import find_config


@pytest.fixture(scope="module")
def compare():
    path = Path(__file__).parents[1] / "docs" / "lesson" / "compare.py"
    spec = importlib.util.spec_from_file_location("lesson_compare", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield module
    torch.set_default_dtype(before)


def losses(lines):
    return np.array([[line[side] for line in lines] for side in ("jaxrnn", "torch")])


def test_all_75_steps_of_simple_rnn(compare):
    ours, theirs = losses(compare.compare(compare.Options("sine", dtype="float64")))
    assert len(ours) == 75
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    assert ours[-1] < 0.01 * ours[0]


def test_char_rnn_step_by_step_and_in_validation(compare, tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog ate the hat; " * 30)
    name, preset = from_toml(find_config("lesson"))
    sizes = {"hidden_size": 7, "batch_size": 4, "seq_len": 6}
    small = tmp_path / "small.toml"
    small.write_text(to_toml(name, dataclasses.replace(preset, **sizes)))
    monkeypatch.setattr(compare, "find_config", lambda _: small)
    lines = compare.compare(
        compare.Options("char", data=str(text), dtype="float64", dropout=0.0, epochs=1)
    )
    ours, theirs = losses(lines)
    assert len(ours) == 54
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    assert lines[-1]["val_jaxrnn"] == pytest.approx(lines[-1]["val_torch"], rel=1e-11)


def test_a_run_is_validated_as_the_lesson_does(compare, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog ate the hat; " * 30)
    config = char_config(str(text), cell="lstm", num_layers=2, batches="lesson", dropout=0.5)
    config = dataclasses.replace(config, run=str(tmp_path / "run"), epochs=2, dtype="float64")
    run, outcome = train(config)
    found = compare.validated(str(run.path), "")
    assert found["jaxrnn"] == pytest.approx(found["torch"], rel=1e-11)
    # The lesson leaves out what fills no batch, and begins each row anew.
    assert found["jaxrnn"] == pytest.approx(outcome.metrics["val_nats"], rel=0.1)
    assert found["jaxrnn"] != pytest.approx(outcome.metrics["val_nats"], rel=1e-6)


def test_the_end_of_a_run_is_trained_again_to_the_same_bits(compare, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog ate the hat; " * 30)
    config = char_config(str(text), cell="lstm", num_layers=2, batches="lesson", dropout=0.5)
    config = dataclasses.replace(config, run=str(tmp_path / "run"), mesh="data=1", epochs=2)
    run, _ = train(config)
    lines = tmp_path / "lines.jsonl"
    options = compare.Options("char", run=str(run.path), again=True, json=str(lines))
    found = compare.trained_again(options)
    steps = [line["step"] for line in run.metrics() if "val_nats" in line]
    assert [line["step"] for line in found] == [
        step for step in range(steps[-2] + 1, steps[-1] + 1) if step % 10 == 0 or step == steps[-1]
    ]
    losses = {line["step"]: line["loss"] for line in run.metrics()}
    for line in found:
        assert line["loss"] == pytest.approx(losses[line["step"]], rel=1e-6)
    assert found[-1]["val_nats"] == pytest.approx(
        compare.validated(str(run.path), "")["jaxrnn"], rel=1e-6
    )
    (run.path / "checkpoints" / "previous.safetensors").replace(run.checkpoint_path("last"))
    whole = run.checkpoint_path("best")
    whole.replace(run.checkpoint_path("previous"))  # from another state
    with pytest.raises(ArithmeticError, match="is not that of"):
        compare.trained_again(dataclasses.replace(options, run=str(run.path)))


def test_seeds_are_summed_up(compare):
    runs = [
        [{"jaxrnn": 9.0, "torch": 9.0}, {"jaxrnn": 1.5, "torch": 1.0}],
        [{"jaxrnn": 9.0, "torch": 9.0}, {"jaxrnn": 1.0, "torch": 1.5}],
        [{"jaxrnn": 9.0, "torch": 9.0}, {"jaxrnn": 2.0, "torch": 1.7}],
    ]
    assert compare.summary(runs) == (
        "mean loss of the last 1 steps, 3 seeds: jaxrnn 1.50000, torch 1.40000, "
        "difference +0.10000, its standard error 0.30551"
    )
