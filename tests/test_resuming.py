"""Runs that are stopped, go on, and go on from what is damaged."""

import dataclasses
import io
import math
from typing import Any

import jax
import pytest
from rich.console import Console
from small_runs import (
    assert_same_bits,
    char_config,
    go_on,
    last_of,
    lines_of,
    train,
)
from tolerances import assert_close

from jaxrnn import checkpoint, sample, training
from jaxrnn.config import SineConfig
from jaxrnn.progress import Display


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
