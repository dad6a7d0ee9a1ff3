"""Whole runs: metrics, checkpoints, early stop."""

import dataclasses
import json
import math
import time
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import (
    TEXT,
    assert_same_bits,
    char_config,
    go_on,
    last_of,
    train,
)

from jaxrnn import train_step, training
from jaxrnn.models import split
from jaxrnn.tasks import TASKS


def test_stacked_batches_are_those_of_the_steps(text_file):
    _, data = TASKS["char"].load(char_config(text_file))
    inputs, targets, starts = training.stack_batches(data, 3, 2, 4)
    assert inputs.shape == (4, 3, 4)
    for k, step in enumerate((3, 4)):
        np.testing.assert_array_equal(inputs[k], data.train.batch_at(step).inputs)
        np.testing.assert_array_equal(targets[k], data.train.batch_at(step).targets)
    assert starts.tolist()[:2] == [False, False]


def test_steps_and_steps_in_a_dispatch(text_file):
    config = char_config(text_file, epochs=3)
    _, data = TASKS["char"].load(config)
    assert training.total_steps(config, data) == 3 * data.train.steps_per_epoch
    assert training.total_steps(char_config(text_file, steps=5), data) == 5
    params = {"w": jnp.zeros((100, 100))}
    options: dict[str, Any] = {"batch_size": 10, "seq_len": 10}
    assert train_step.steps_per_dispatch(char_config(text_file, **options), params) == 100
    options = {"batch_size": 1000, "seq_len": 9999}  # 6 * 1e4 * 1000 * 9999 = 6e11
    assert train_step.steps_per_dispatch(char_config(text_file, **options), params) == 1
    options["seq_len"] = 900
    assert train_step.steps_per_dispatch(char_config(text_file, **options), params) == 11
    assert train_step.steps_per_dispatch(char_config(text_file, steps_per_dispatch=7), params) == 7


PINNED = [2.2406, 1.6186, 1.3008, 1.0406, 0.93, 0.7325, 0.5924, 0.5593, 0.4693, 0.3935]


def test_pinned_losses(tmp_path, text_file):
    config = char_config(
        text_file, steps=80, run=str(tmp_path / "a"), log_every=10, val_fraction=0.0
    )
    run, outcome = train(config)
    losses = [round(line["loss"], 4) for line in run.metrics()]
    assert (outcome.reason, outcome.step) == ("done", 80)
    assert losses[-1] < losses[0] - 1
    np.testing.assert_allclose(
        losses,
        PINNED,
        rtol=2e-3,
        err_msg=f"training has changed. If it was meant to, set PINNED = {losses}",
    )


def test_a_run_leaves_what_it_promises(tmp_path, text_file):
    config = char_config(
        text_file, steps=8, eval_every=4, run=str(tmp_path / "a"), preview_length=20
    )
    run, outcome = train(config)
    assert {path.name for path in run.path.iterdir()} == {
        *("config.toml", "run.json", "metrics.jsonl", "checkpoints", "loss.png", "samples.txt")
    }
    assert (run.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    lines = run.metrics()
    assert [line["step"] for line in lines] == list(range(1, 9))
    validated = [line for line in lines if "val_nats" in line]
    assert [line["step"] for line in validated] == [4, 8]
    steps_per_epoch = len(TEXT[: int(len(TEXT) * 0.9)]) // 12
    for line in lines:
        assert line["epoch"] == round(line["step"] / steps_per_epoch, 4)
        assert line["lr"] == pytest.approx(0.05)
        assert line["grad_norm"] > 0
        assert line["tokens_per_s"] > 0
    for line in validated:
        assert line["val_bits"] == pytest.approx(line["val_nats"] / math.log(2))
        assert line["val_perplexity"] == pytest.approx(math.exp(line["val_nats"]))
        assert len(line["sample"]) == 20
    samples = (run.path / "samples.txt").read_text()
    assert samples.startswith(f"--- step 4 ---\n{validated[0]['sample']}\n")
    assert f"--- step 8 ---\n{validated[1]['sample']}\n" in samples
    assert outcome.metrics == lines[-1]
    json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0], parse_constant=pytest.fail)


def test_the_loss_of_a_line_is_the_mean_since_the_last_one(tmp_path, text_file):
    options: dict[str, Any] = {"steps": 7, "val_fraction": 0.0, "steps_per_dispatch": 2}
    every, _ = train(char_config(text_file, run=str(tmp_path / "a"), **options))
    third, _ = train(char_config(text_file, run=str(tmp_path / "b"), log_every=3, **options))
    losses = [line["loss"] for line in every.metrics()]
    expected = [np.mean(losses[:3]), np.mean(losses[3:6]), losses[6]]
    assert [line["step"] for line in third.metrics()] == [3, 6, 7]
    np.testing.assert_allclose([line["loss"] for line in third.metrics()], expected)


def validations(monkeypatch, values: dict[int, float]) -> None:
    """Validation gives these values, in order."""
    left = list(values.values())

    def evaluate(*_, **__):
        nats = left.pop(0)
        return {"nats": nats, "bits": nats, "perplexity": nats}

    monkeypatch.setattr(training, "evaluate", evaluate)


def test_early_stop_and_the_best_checkpoint(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 3.0, 4: 2.0, 6: 2.5, 8: 1.95, 10: 9.0})
    config = char_config(
        text_file, steps=40, eval_every=2, patience=2, min_delta=0.1, run=str(tmp_path / "a")
    )
    run, outcome = train(config)
    assert (outcome.reason, outcome.step) == ("early stop", 8)
    assert (outcome.progress.best, outcome.progress.best_step) == (1.95, 8)
    assert [line["step"] for line in run.metrics()] == list(range(1, 9))
    assert last_of(run, "best")[1]["step"] == 8  # better, if by less than min_delta
    assert last_of(run, "last")[1]["step"] == 8
    assert last_of(run, "previous")[1]["step"] == 6
    run, outcome = go_on(run)
    assert (outcome.reason, outcome.step) == ("early stop", 8)


def test_an_early_stop_saves_where_it_stopped(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 1.0, 4: 2.0, 6: 2.0, 8: 2.0})
    config = char_config(
        text_file,
        steps=40,
        eval_every=2,
        checkpoint_every=5,
        patience=3,
        run=str(tmp_path / "a"),
    )
    run, outcome = train(config)
    assert (outcome.reason, outcome.step) == ("early stop", 8)
    assert last_of(run)[1]["step"] == 8
    assert last_of(run, "best")[1]["step"] == 2


def test_the_best_is_kept_whenever_it_was(tmp_path, text_file, monkeypatch):
    """Also where validations and checkpoints fall on different steps."""
    validations(monkeypatch, {4: 1.0, 8: 2.0, 10: 3.0})
    config = char_config(
        text_file, steps=10, eval_every=4, checkpoint_every=3, run=str(tmp_path / "a")
    )
    run, outcome = train(config)
    assert outcome.progress.best_step == 4
    assert last_of(run)[1]["step"] == 10
    assert run.checkpoint_path("best").exists()
    assert last_of(run, "best")[1]["step"] == 4


def test_best_and_last_hold_the_parameters_of_their_steps(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 1.0, 4: 2.0})
    run, _ = train(char_config(text_file, steps=4, eval_every=2, run=str(tmp_path / "a")))
    validations(monkeypatch, {2: 1.0})
    short, _ = train(char_config(text_file, steps=2, eval_every=2, run=str(tmp_path / "b")))
    assert_same_bits(last_of(run, "best")[0], last_of(short, "last")[0])
    assert int(last_of(run, "last")[0]["step"]) == 4


def test_a_validation_that_is_not_finite_is_never_the_best(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: math.nan, 4: 2.0, 6: 3.0})
    config = char_config(text_file, steps=6, eval_every=2, run=str(tmp_path / "a"))
    try:
        run, outcome = train(config)
    except training.NotFiniteError:
        return  # to stop is as good
    assert (outcome.progress.best, outcome.progress.best_step) == (2.0, 4)
    assert last_of(run, "best")[1]["step"] == 4


def test_models_of_a_run_are_loaded_for_inference(tmp_path, text_file, monkeypatch):
    validations(monkeypatch, {2: 1.0, 4: 2.0})
    config = char_config(text_file, steps=4, eval_every=2, dropout=0.5, run=str(tmp_path / "a"))
    run, _ = train(config)
    task = TASKS["char"].from_facts(run.config, run.facts)
    for name, expected in (("auto", "best"), ("best", "best"), ("last", "last")):
        skeleton, params, meta = training.load_model(task, run, name)
        assert meta["name"] == expected
        arrays = last_of(run, expected)[0]
        for k, value in params.items():
            assert_same_bits(value, arrays[f"params/{k}"])
        _, again = split(skeleton.merge(params))
        assert_same_bits(again, params)
    carry = training.load_carry(task, run, "last")
    assert_same_bits(carry, last_of(run)[0]["carry"])


def test_the_share_of_time_that_waits_for_data(tmp_path, text_file, monkeypatch):
    original = training.stack_batches

    def slow(*arguments):
        time.sleep(0.05)
        return original(*arguments)

    config = char_config(text_file, steps=60, log_every=20, run=str(tmp_path / "a"))
    config = dataclasses.replace(config, steps_per_dispatch=1, eval_every=100)
    with monkeypatch.context() as patch:
        patch.setattr(training, "stack_batches", slow)
        slowed, _ = train(config)
    assert [0.5 < line["data_wait"] <= 1 for line in slowed.metrics()[1:]] == [True, True]
    run, _ = train(dataclasses.replace(config, run=str(tmp_path / "b")))
    assert all(0 <= line["data_wait"] < 0.5 for line in run.metrics())
