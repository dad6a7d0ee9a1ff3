"""Losses and parameters that are not finite: what a run does, says and keeps."""

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
from small_runs import assert_same_bits, char_config, go_on, last_of, quiet, train

from jaxrnn import checkpoint, train_step, training
from jaxrnn.config import SineConfig
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS


def poison(monkeypatch, steps: Collection[int], value: float = np.nan) -> None:
    """Targets of these steps, counted from 0, are this value."""
    original = training.stack_batches

    def poisoned(data, step, count, *rest):
        inputs, targets, starts = original(data, step, count, *rest)
        for k in range(count):
            if step + k in steps:
                targets[k] = value
        return inputs, targets, starts

    monkeypatch.setattr(training, "stack_batches", poisoned)


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_checkpoint(
    tmp_path, text_file, monkeypatch
):
    config = SineConfig(
        hidden_size=4, steps=9, checkpoint_every=2, eval_every=100, run=str(tmp_path / "a")
    )
    task, data = TASKS["sine"].load(config)
    run = Run.create("sine", config, data.facts)
    last = run.checkpoint_path("last")
    with monkeypatch.context() as patch:
        poison(patch, {5})
        with pytest.raises(training.NotFiniteError) as caught:
            training.train(task, data, run, display=quiet())
    assert str(caught.value).startswith("step 6: the loss is nan, the gradient's norm ")
    assert f"the last good checkpoint is {last}" in str(caught.value)
    assert "\n" not in str(caught.value)
    arrays, meta = last_of(run)
    assert meta["step"] == 4
    assert all(np.isfinite(array).all() for array in arrays.values())
    assert all(line["step"] <= 5 for line in run.metrics())
    _, outcome = go_on(run)  # the checkpoint is good to go on from
    assert outcome.step == 9


def test_without_a_checkpoint_none_is_named(tmp_path, text_file, monkeypatch):
    poison(monkeypatch, range(9), np.inf)
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
    poison(monkeypatch, range(3, 100))
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
