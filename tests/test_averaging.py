"""Means of parameters: their weights, when they begin, and that they are what is evaluated."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import assert_same_bits, char_config, go_on, last_of, lines_of, train
from tolerances import assert_close

from jaxrnn import averaging, report, train_step, training
from jaxrnn.config import CharConfig
from jaxrnn.tasks import TASKS


def averages(config, values, start=None):
    """After each of some parameters."""
    average = averaging.initial_average(config, {"w": jnp.full(3, 9.0)})
    assert average is not None
    if start is not None:
        average = averaging.begun(average, start)
    found = []
    for step, value in enumerate(values, start=1):
        average = averaging.update(config, average, {"w": jnp.asarray(value)}, jnp.int32(step))
        found.append(np.asarray(average.params["w"]))
    return found


VALUES = np.random.default_rng(0).normal(size=(12, 3))


def test_the_exponential_mean_is_its_sum_divided_by_its_weights():
    found = averages(CharConfig(average="ema", ema_decay=0.8), VALUES)
    for n in range(1, len(VALUES) + 1):
        weights = 0.8 ** np.arange(n - 1, -1, -1.0)
        assert_close(found[n - 1], (weights[:, None] * VALUES[:n]).sum(0) / weights.sum())


def test_an_exponential_mean_in_float32_keeps_the_precision_of_float32():
    with jax.enable_x64(False):
        found = averages(CharConfig(average="ema", ema_decay=0.9999), np.float32(VALUES))
    weights = 0.9999 ** np.arange(11, -1, -1.0)
    expected = (weights[:, None] * VALUES).sum(0) / weights.sum()
    assert found[-1].dtype == np.float32
    np.testing.assert_allclose(found[-1], expected, rtol=1e-5, atol=1e-6)


def test_the_mean_of_nt_asgd_is_that_of_all_since_its_start():
    config = CharConfig(average="nt_asgd")
    for value, average in zip(VALUES, averages(config, VALUES), strict=True):
        assert_same_bits(average, value)  # it has not begun
    found = averages(config, VALUES, start=4)
    for n in range(1, 13):
        assert_close(found[n - 1], VALUES[4:n].mean(0) if n > 4 else VALUES[n - 1])


@pytest.mark.parametrize(
    ("values", "patience", "stalled"),
    [
        ([3.0, 2.0, 2.5], 2, False),  # t = 2 is not above n
        ([3.0, 2.0, 2.5, 2.9], 2, False),  # better than 3.0, the best of those 2 and more before
        ([3.0, 2.0, 2.5, 2.9, 1.9], 2, False),  # better than 2.0
        ([3.0, 2.0, 2.5, 2.9, 2.1], 2, True),  # worse than 2.0
        ([3.0, 2.0, 2.5, 2.9, 2.0], 2, False),  # as good
        ([1.0, 2.0, 2.0, 2.0], 2, True),
        ([1.0], 0, False),
        ([1.0, 1.5], 0, True),
        ([2.0, 1.0, 1.5], 1, False),
        ([1.0, 2.0], 5, False),
    ],
)
def test_when_validations_have_stalled(values, patience, stalled):
    assert averaging.has_stalled(values, patience) is stalled


NATS = [3.0, 2.5, 2.2, 2.45, 2.4, 2.1, 2.3, 2.9]  # with patience 1: stalled at the fifth


def validated(monkeypatch, seen=None):
    """Validations give these values, by the step; what is validated is put into ``seen``."""
    left = iter(NATS)

    def evaluate(task, skeleton, params, held_out, *_, **__):
        if seen is not None:
            seen.append({k: np.array(v) for k, v in params.items()})
        nats = next(left)
        return {"nats": nats, "bits": nats, "perplexity": nats}

    monkeypatch.setattr(training, "evaluate", evaluate)
    return left


def config_of(text_file, path, **options):
    given: dict[str, Any] = {"steps": 16, "eval_every": 2, "dtype": "float64", "asgd_patience": 1}
    return char_config(text_file, run=str(path), **given | options)


def trajectory(config):
    """The parameters after each step."""
    task, data = TASKS["char"].load(config)
    skeleton, _, state = train_step.initial_state(task, config)
    step_fn = train_step.make_step(task.loss, skeleton, config, config.steps)
    found = []
    for step in range(config.steps):
        state, _ = step_fn(state, *training.stack_batches(data, step, 1, 1), 1)
        found.append({k: np.array(v) for k, v in state.params.items()})
    return found


def test_a_run_validates_keeps_and_loads_the_mean_from_its_start_on(
    tmp_path, text_file, monkeypatch
):
    seen = []
    validated(monkeypatch, seen)
    run, outcome = train(config_of(text_file, tmp_path / "a", average="nt_asgd"))
    params = trajectory(config_of(text_file, "", average="none"))

    def mean(last):
        since = params[10:last] if last > 10 else params[last - 1 : last]
        return {k: np.mean([p[k] for p in since], axis=0) for k in params[0]}

    for k, given in enumerate(seen, start=1):
        jax.tree.map(assert_close, given, mean(2 * k))
    arrays, meta = last_of(run)
    assert int(arrays["average/start"]) == 10
    assert meta["progress"]["validations"] == []
    task = TASKS["char"].from_facts(run.config, run.facts)
    for name, step in (("last", 16), ("best", 12)):
        _, loaded, _ = training.load_model(task, run, name)
        jax.tree.map(assert_close, loaded, mean(step))
        raw = {k: last_of(run, name)[0][f"params/{k}"] for k in loaded}
        jax.tree.map(assert_close, raw, params[step - 1])
    assert outcome.progress.best_step == 12


@pytest.mark.parametrize(("patience", "advice"), [(0, "more epochs may"), (5, "more epochs or a")])
def test_a_mean_that_never_began_is_said(patience, advice, tmp_path, text_file, capsys):
    config = config_of(
        text_file, tmp_path / "a", average="nt_asgd", asgd_patience=patience, steps=2
    )
    run, outcome = train(config)
    task = TASKS["char"].from_facts(run.config, run.facts)
    report.outcome(report.console(), task, run, outcome)
    said = " ".join(capsys.readouterr().out.split())
    assert "the mean of --average nt_asgd never began, as validations kept getting" in said
    assert advice in said


@pytest.mark.parametrize("average", ["ema", "nt_asgd"])
def test_a_run_with_a_mean_goes_on_to_the_same_bits(tmp_path, text_file, monkeypatch, average):
    """Stopped before the mean begins, in the group after it, and between."""
    options: dict[str, Any] = {"average": average, "ema_decay": 0.9}
    validated(monkeypatch)
    whole, _ = train(config_of(text_file, tmp_path / "whole", **options))
    for stop in (2, 5, 7):
        validated(monkeypatch)
        path = tmp_path / f"cut-{stop}"
        calls = iter(range(1, 99))
        cut, outcome = train(
            config_of(text_file, path, **options, checkpoint_every=3, steps_per_dispatch=3),
            stop_requested=lambda stop=stop, calls=calls: (
                "SIGTERM" if next(calls) >= stop else None
            ),
        )
        assert outcome.reason == "SIGTERM"
        cut, _ = go_on(cut)
        assert_same_bits(last_of(cut)[0], last_of(whole)[0])
        assert last_of(cut)[1] == last_of(whole)[1]
        assert_same_bits(last_of(cut, "best")[0], last_of(whole, "best")[0])
        assert lines_of(cut) == lines_of(whole)


def test_a_mean_leaves_training_as_it_is(tmp_path, text_file):
    states = {}
    for average in ("none", "ema"):
        config = config_of(text_file, tmp_path / average, average=average, preview_length=30)
        run, _ = train(config)
        states[average] = last_of(run)[0]
        samples = [line["sample"] for line in run.metrics() if "sample" in line]
        states[average, "samples"] = samples
    assert {key.split("/")[0] for key in states["none"]} == {"step", "params", "moments", "carry"}
    for key, value in states["none"].items():
        assert_same_bits(states["ema"][key], value)
    assert states["none", "samples"] != states["ema", "samples"]  # the mean writes them


def test_devices_share_a_batch_of_a_run_with_a_mean(text_file):
    from small_runs import steps_of

    options: dict[str, Any] = {"batch_size": 4, "dtype": "float64", "average": "ema"}
    one, two = (steps_of(char_config(text_file, mesh=f"data={n}", **options)) for n in (1, 2))
    jax.tree.map(assert_close, two, one)


def test_a_step_that_is_left_out_counts_with_the_parameters_that_it_leaves(text_file):
    """Of a loss that is NaN the mean sees nothing."""
    config = config_of(
        text_file,
        "",
        average="ema",
        ema_decay=0.5,
        steps=3,
        not_finite="skip",
        steps_per_dispatch=1,
    )
    task, data = TASKS["char"].load(config)
    skeleton, _, state = train_step.initial_state(task, config)

    def loss(model, inputs, targets, carry, rngs, step):
        nats, carry = task.loss(model, inputs, targets, carry, rngs, step)
        return jnp.where(step == 1, jnp.nan, nats), carry

    step_fn = train_step.make_step(loss, skeleton, config, 3)
    params, means = [], []
    for step in range(3):
        state, _ = step_fn(state, *training.stack_batches(data, step, 1, 1), 1)
        params.append({k: np.array(v) for k, v in state.params.items()})
        assert state.average is not None
        means.append({k: np.array(v) for k, v in state.average.params.items()})
    assert_same_bits(params[1], params[0])
    for name, mean in means[2].items():
        expected = sum(w * p[name] for w, p in zip((1, 2, 4), params, strict=True)) / 7
        assert_close(mean, expected)
