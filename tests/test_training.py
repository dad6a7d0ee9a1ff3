"""Whole runs: metrics, checkpoints, early stop, resuming, losses that are not finite."""

import dataclasses
import io
import json
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from small_runs import (
    TEXT,
    assert_same_bits,
    char_config,
    go_on,
    last_of,
    lines_of,
    quiet,
    train,
)
from tolerances import assert_close

from jaxrnn import checkpoint, sample, train_step, training
from jaxrnn.config import SineConfig
from jaxrnn.models import split
from jaxrnn.progress import Display
from jaxrnn.runs import Run
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


# --- whole runs ---

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


def stop_at(call: int):
    """A request to stop that comes at a call, as a signal does."""
    calls = iter(range(1, 10**6))
    return lambda: "SIGTERM" if next(calls) >= call else None


def test_stopped_and_resumed_gives_the_same_bits(tmp_path):
    """In one process, and its end moved; ``test_crashes`` kills processes."""
    config = SineConfig(hidden_size=4, steps=14, eval_every=5, log_every=3, run=str(tmp_path / "a"))
    whole, _ = train(dataclasses.replace(config, steps_per_dispatch=1), "sine")
    config = dataclasses.replace(config, run=str(tmp_path / "b"), steps_per_dispatch=3)
    cut, outcome = train(config, "sine", stop_requested=stop_at(6))  # a validation asks, too
    assert (outcome.reason, outcome.step) == ("SIGTERM", 8)  # after groups of 3, 2, 3
    assert last_of(cut)[1]["step"] == 8
    cut, outcome = go_on(cut)
    assert (outcome.reason, outcome.step) == ("done", 14)
    assert_same_bits(last_of(cut)[0], last_of(whole)[0])
    assert last_of(cut)[1] == last_of(whole)[1]
    assert_same_bits(last_of(cut, "best")[0], last_of(whole, "best")[0])
    assert lines_of(cut) == lines_of(whole)
    assert [line["step"] for line in lines_of(cut)] == [3, 5, 6, 9, 10, 12, 14]
    # A finished run gone on with to more steps, as if it had been meant so from the start.
    longer, _ = go_on(cut, dataclasses.replace(cut.config, steps=16))
    config = dataclasses.replace(config, steps=16, run=str(tmp_path / "c"))
    straight, _ = train(config, "sine")
    assert_same_bits(last_of(longer)[0], last_of(straight)[0])


def test_a_shared_batch_resumes_to_the_bit_and_on_other_devices_to_rounding(tmp_path, text_file):
    options: dict[str, Any] = {"batch_size": 4, "dropout": 0.3, "steps": 9, "checkpoint_every": 4}
    config = char_config(text_file, mesh="data=2", dtype="float64", **options)
    whole, _ = train(dataclasses.replace(config, run=str(tmp_path / "whole")))
    for mesh in ("data=2", "data=1"):
        run = str(tmp_path / mesh)
        cut, outcome = train(dataclasses.replace(config, run=run), stop_requested=stop_at(3))
        assert outcome.reason == "SIGTERM"
        assert outcome.step < 9
        cut, outcome = go_on(cut, dataclasses.replace(cut.config, mesh=mesh))
        assert (outcome.reason, outcome.step) == ("done", 9)
        jax.tree.map(assert_close, last_of(cut)[0], last_of(whole)[0])
        if mesh == "data=2":
            assert_same_bits(last_of(cut)[0], last_of(whole)[0])


def test_a_damaged_last_checkpoint_is_said_and_the_one_before_it_gone_on_from(tmp_path, text_file):
    config = char_config(text_file, steps=9, checkpoint_every=3, run=str(tmp_path / "a"))
    run, _ = train(config)
    whole = last_of(run)
    last = run.checkpoint_path("last")
    last.write_bytes(last.read_bytes()[:-10])
    out = io.StringIO()
    run, outcome = go_on(run, display=Display(Console(file=out, soft_wrap=True, width=80)))
    said = [line for line in out.getvalue().splitlines() if str(last) in line]
    assert len(said) == 1
    assert said[0].endswith("going on from the checkpoint of step 6")
    assert (outcome.reason, outcome.step) == ("done", 9)
    assert_same_bits(last_of(run)[0], whole[0])
    assert [line["step"] for line in run.metrics()] == list(range(1, 10))


def test_a_damaged_best_checkpoint_is_said_and_another_takes_its_place(tmp_path, text_file):
    options = {"checkpoint_every": 3, "eval_every": 3, "run": str(tmp_path / "a")}
    run, _ = train(char_config(text_file, steps=6, **options))
    best = run.checkpoint_path("best")
    best.write_bytes(best.read_bytes()[:-10])
    out = io.StringIO()
    longer = dataclasses.replace(run.config, steps=9)
    display = Display(Console(file=out, soft_wrap=True, width=80))
    run, outcome = go_on(run, longer, display=display)
    assert "best.safetensors is not a whole checkpoint" in out.getvalue()
    assert "it is set aside, the next validation gives another" in out.getvalue()
    assert (outcome.reason, outcome.step, outcome.progress.best_step) == ("done", 9, 9)
    assert checkpoint.read(best)[1]["step"] == 9


@pytest.mark.parametrize("is_missing", [False, True])
@pytest.mark.parametrize("steps", [6, 9])
def test_a_best_checkpoint_that_is_gone_is_no_bar(tmp_path, text_file, capsys, steps, is_missing):
    options = {"checkpoint_every": 3, "eval_every": 3, "run": str(tmp_path / "a")}
    run, _ = train(char_config(text_file, steps=6, **options))
    best = run.checkpoint_path("best")
    said = f"{best} is missing"
    if is_missing:
        best.unlink()
        assert sample.run_command([str(run.path), "--length", "9"]) == 0
        expected = f"note: {best} is missing; this is the last, of step 6\n"
        assert capsys.readouterr().err == expected
    else:
        best.write_bytes(best.read_bytes()[:-10])
        said = "is set aside"
    out = io.StringIO()
    display = Display(Console(file=out, soft_wrap=True, width=80))
    run, outcome = go_on(run, dataclasses.replace(run.config, steps=steps), display=display)
    later = "the last checkpoint stands for it" if steps == 6 else "the next validation gives"
    assert f"{said}, {later}" in out.getvalue()
    assert ("the next validation" in out.getvalue()) == (steps == 9)
    assert outcome.progress.best_step == (0 if steps == 6 else 9)
    assert best.exists() == (steps == 9)


def rewritten(path, change):
    """The checkpoint's meta changed, and its checksum right."""
    arrays, meta = checkpoint.read(path)
    checkpoint.save(path, arrays, change(meta))


PROGRESS_CHANGES = {
    "gone": lambda p: None,
    "list": lambda p: [1],
    "empty": lambda p: {},
    "more": lambda p: p | {"worst": 3.0},
    "text": lambda p: p | {"loss_sum": "3"},
    "true": lambda p: p | {"loss_count": True},
    "below": lambda p: p | {"bad_validations": -1},
    "nan": lambda p: p | {"best": math.nan},
    "large": lambda p: p | {"time_s": 10**400},
    "no step": lambda p: p | {"unvalidated": {"loss": 3.0}},
    "no line": lambda p: p | {"unvalidated": 3},
    "validations": lambda p: p | {"validations": [None]},
    "no best": lambda p: p | {"best": None},
}


@pytest.mark.parametrize("name", PROGRESS_CHANGES)
def test_a_checkpoint_with_progress_of_no_run_gives_the_one_before(tmp_path, text_file, name):
    config = char_config(text_file, steps=9, checkpoint_every=3, eval_every=3)
    run, _ = train(dataclasses.replace(config, run=str(tmp_path / "a")))
    whole, last = last_of(run), run.checkpoint_path("last")
    rewritten(last, lambda meta: meta | {"progress": PROGRESS_CHANGES[name](meta["progress"])})
    out = io.StringIO()
    run, outcome = go_on(run, display=Display(Console(file=out, soft_wrap=True, width=80)))
    said = [line for line in out.getvalue().splitlines() if str(last) in line]
    assert len(said) == 1
    assert said[0].startswith(f"{last}: its progress ")
    assert said[0].endswith("going on from the checkpoint of step 6")
    assert (outcome.reason, outcome.step) == ("done", 9)
    assert_same_bits(last_of(run)[0], whole[0])
    assert last_of(run)[1] == whole[1]


# --- losses that are not finite ---


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_checkpoint(
    tmp_path, text_file, monkeypatch
):
    original = training.stack_batches
    config = SineConfig(
        hidden_size=4, steps=9, checkpoint_every=2, eval_every=100, run=str(tmp_path / "a")
    )

    def poisoned(data, step, count, *rest):
        inputs, targets, starts = original(data, step, count, *rest)
        for k in range(count):
            if step + k == 5:
                targets[k] = np.nan
        return inputs, targets, starts

    monkeypatch.setattr(training, "stack_batches", poisoned)
    task, data = TASKS["sine"].load(config)
    run = Run.create("sine", config, data.facts)
    last = run.checkpoint_path("last")
    with pytest.raises(training.NotFiniteError) as caught:
        training.train(task, data, run, display=quiet())
    assert str(caught.value).startswith("step 6: the loss is nan, the gradient's norm ")
    assert f"the last good checkpoint is {last}" in str(caught.value)
    assert "\n" not in str(caught.value)
    arrays, meta = last_of(run)
    assert meta["step"] == 4
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert all(line["step"] <= 5 for line in run.metrics())
    monkeypatch.setattr(training, "stack_batches", original)
    _, outcome = go_on(run)  # the checkpoint is good to go on from
    assert outcome.step == 9


def test_without_a_checkpoint_none_is_named(tmp_path, text_file, monkeypatch):
    original = training.stack_batches

    def poisoned(*arguments):
        inputs, targets, starts = original(*arguments)
        return inputs, np.full_like(targets, np.inf), starts

    monkeypatch.setattr(training, "stack_batches", poisoned)
    config = SineConfig(hidden_size=4, steps=9, run=str(tmp_path / "a"))
    with pytest.raises(training.NotFiniteError, match=r"step 1: .* no checkpoint was made yet"):
        train(config, "sine")
    assert list((tmp_path / "a" / "checkpoints").iterdir()) == []


@pytest.mark.parametrize("not_finite", ["stop", "skip"])
def test_what_is_done_already_is_not_advised(not_finite, tmp_path):
    config = SineConfig(not_finite=not_finite, run=str(tmp_path / "a"))
    said = training._not_finite(3, "the loss is nan", Run.create("sine", config, {}))
    assert ("--not-finite skip" in said) is (not_finite == "stop")
    assert said.startswith("step 3: the loss is nan; no checkpoint was made yet; lower --lr, set ")
    assert said.count(", or ") == 1


def test_parameters_that_are_not_finite_are_not_saved(tmp_path, text_file):
    """The loss of a step is that before its update: its parameters may be worse."""
    config = char_config(
        text_file,
        steps=6,
        checkpoint_every=1,
        run=str(tmp_path / "a"),
        optimizer="sgd",
        lr=3e38,
        clip=0.0,
        val_fraction=0.0,
        weight_decay=5.0,
    )
    with pytest.raises(training.NotFiniteError):
        train(config)
    for path in Path(tmp_path / "a" / "checkpoints").iterdir():
        arrays, _ = checkpoint.read(path)
        for name, array in arrays.items():
            assert np.isfinite(array).all(), f"{name} in {path.name}"


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


# --- steps that are left out ---


def poison(monkeypatch, steps: set[int]):
    """Targets of these steps, counted from 0, are not numbers."""
    original = training.stack_batches

    def poisoned(data, step, count, *rest):
        inputs, targets, starts = original(data, step, count, *rest)
        for k in range(count):
            if step + k in steps:
                targets[k] = np.nan
        return inputs, targets, starts

    monkeypatch.setattr(training, "stack_batches", poisoned)


def test_a_step_that_is_left_out_changes_nothing(tmp_path, monkeypatch):
    config = SineConfig(
        hidden_size=4, steps=6, log_every=2, run=str(tmp_path / "a"), not_finite="skip"
    )
    task, data = TASKS["sine"].load(config)
    skeleton, _, state = train_step.initial_state(task, config)
    step = train_step.make_step(task.loss, skeleton, config, 6)
    batches = [training.stack_batches(data, k, 1, 1) for k in range(6)]
    for k in (0, 1, 4, 5):  # the rate is constant: nothing but Adam's count knows the number
        state, _ = step(state, *batches[k], 1)
    poison(monkeypatch, {2, 3})
    run, outcome = train(config, "sine")
    arrays, meta = last_of(run)
    assert outcome.step == meta["step"] == int(arrays["step"]) == 6
    assert meta["progress"]["skipped"] == 2
    for name, value in state.params.items():
        assert_same_bits(arrays[f"params/{name}"], value)
    assert_same_bits(arrays["carry"], state.carry)
    assert_same_bits(arrays["moments/0/count"], state.moments[0].count)
    lines = run.metrics()
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert ["loss" in line for line in lines] == [True, False, True]
    assert ["grad_norm" in line for line in lines] == [True, False, True]
    assert [line.get("skipped") for line in lines] == [None, 2, 2]
    assert np.isfinite(lines[2]["loss"])


def test_too_many_steps_left_out_end_the_run(tmp_path, monkeypatch):
    poison(monkeypatch, set(range(3, 100)))
    config = SineConfig(
        hidden_size=4,
        steps=50,
        run=str(tmp_path / "a"),
        not_finite="skip",
        checkpoint_every=2,
        eval_every=100,
    )
    with pytest.raises(training.NotFiniteError, match=r"step 13: .*and so were the 9 steps before"):
        train(config, "sine")
    arrays, _ = last_of(Run.open(tmp_path / "a"))
    assert all(np.isfinite(array).all() for array in arrays.values())


# --- signals in a validation ---


@pytest.mark.parametrize("broken_off", [1, 2])
def test_a_validation_broken_off_by_a_signal_is_made_up_for(
    broken_off, tmp_path, text_file, monkeypatch
):
    options: dict[str, Any] = {"steps": 6, "eval_every": 3, "patience": 5, "preview_length": 8}
    whole, _ = train(char_config(text_file, run=str(tmp_path / "whole"), **options))
    config = char_config(text_file, run=str(tmp_path / "cut"), **options)
    original, calls, signals = training.evaluate, [], []

    def evaluate(*arguments, **named):
        calls.append(True)
        if len(calls) == broken_off:
            signals.append("SIGTERM")
        return original(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "evaluate", evaluate)
        cut, outcome = train(config, stop_requested=lambda: signals[0] if signals else None)
        assert (outcome.reason, outcome.step) == ("SIGTERM", 3 * broken_off)
        assert [line["step"] for line in cut.metrics()] == list(range(1, 3 * broken_off))
        cut, outcome = go_on(cut, stop_requested=lambda: "SIGTERM")  # again, at the same place
        assert (outcome.reason, outcome.step) == ("SIGTERM", 3 * broken_off)
    cut, outcome = go_on(cut)
    assert (outcome.reason, outcome.step) == ("done", 6)
    assert lines_of(cut) == lines_of(whole)
    for name in ("last", "best"):
        assert_same_bits(last_of(cut, name)[0], last_of(whole, name)[0])
        assert last_of(cut, name)[1] == last_of(whole, name)[1]


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
