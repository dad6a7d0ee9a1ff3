"""Figures beside the plain one: of a model that learns as it reads, and of a temperature."""

import json
import math
from typing import Any

import jax
import numpy as np
import pytest
import torch
from awd_lstm import objective
from small_runs import TEXT, char_config, train
from tolerances import assert_close

from jaxrnn import cli, dynamic_evaluation, evaluate, temperature, training
from jaxrnn.config import SineConfig
from jaxrnn.dynamic_evaluation import Dynamic
from jaxrnn.tasks import TASKS
from jaxrnn.tasks.task import HeldOut

N, STREAMS = 7, 4  # symbols of a segment; streams of which the scales are the mean


@pytest.fixture(scope="module")
def trained(text_file, tmp_path_factory):
    """A run with a mean of its parameters and one weight for embedding and decoder."""
    path = tmp_path_factory.mktemp("dynamic") / "run"
    options: dict[str, Any] = {"cell": "lstm", "hidden_size": 5, "embedding_size": 5}
    options |= {"tie_embeddings": True, "average": "ema", "ema_decay": 0.8, "dtype": "float64"}
    run, _ = train(char_config(text_file, run=str(path), steps=30, **options))
    task, data = TASKS["char"].load(run.config, run.facts)
    return run, task, data, *training.load_model(task, run)[:2]


def segment(config, params, ids, targets, state):
    """In torch: the mean nats, their gradient and the state."""
    params = {k: p.clone().requires_grad_() for k, p in params.items()}
    nats, _, state = objective(params, ids, targets, state, config, {})
    nats.backward()
    grads: dict[str, Any] = {k: p.grad for k, p in params.items()}
    return nats.item(), grads, state


def in_torch(params):
    return {k: torch.tensor(np.array(p)) for k, p in params.items()}


def zeros(config, batch_size):
    return [torch.zeros(1, batch_size, config.hidden_size, dtype=torch.float64) for _ in range(2)]


def torch_scales(config, params, inputs, targets):
    """The root mean squares, by a loop over the training text in STREAMS rows."""
    length = len(inputs) // (STREAMS * N) * N
    inputs, targets = (a[: STREAMS * length].reshape(STREAMS, length) for a in (inputs, targets))
    state, squares = zeros(config, STREAMS), {k: torch.zeros_like(p) for k, p in params.items()}
    for first in range(0, length, N):
        part = slice(first, first + N)
        _, grads, state = segment(config, params, inputs[:, part], targets[:, part], state)
        squares = {k: s + grads[k] ** 2 for k, s in squares.items()}
    return {k: (s / (length / N)).sqrt() for k, s in squares.items()}


@pytest.mark.parametrize("rule", ["sgd", "rms"])
def test_it_is_a_loop_in_torch(trained, rule, monkeypatch):
    run, task, data, skeleton, params = trained
    monkeypatch.setattr(dynamic_evaluation, "STREAMS", STREAMS)
    monkeypatch.setattr(dynamic_evaluation, "SEGMENTS", 3)  # more than one dispatch
    config, held_out = run.config, data.held_out
    lr, decay = {"sgd": (0.5, 0.01), "rms": (3e-3, 0.3)}[rule]
    start, p = in_torch(params), in_torch(params)
    ours = None
    if rule == "rms":
        inputs, targets = data.train.inputs.ravel(), data.train.targets.ravel()
        ours = dynamic_evaluation.gradient_scales(skeleton, params, data.train, N)
        theirs = torch_scales(config, start, inputs, targets)
        for name, scale in theirs.items():
            assert_close(ours[name], scale, what=name)
        mean = sum(s.mean() for s in theirs.values()) / len(theirs)
        way = {k: (decay * s / mean).clamp(max=1.0) for k, s in theirs.items()}
        assert any((w == 1).any() for w in way.values())  # so that the limit counts
        rate = {k: lr / (s + 2e-5) for k, s in theirs.items()}
    else:
        rate = {k: torch.full_like(v, lr) for k, v in p.items()}
        way = {k: torch.full_like(v, decay) for k, v in p.items()}
    total, state = 0.0, zeros(config, 1)
    for first in range(0, len(held_out.inputs), N):
        ids = held_out.inputs[None, first : first + N]
        targets = held_out.targets[None, first : first + N]
        nats, grads, state = segment(config, p, ids, targets, state)
        total += nats * ids.size
        p = {k: v - rate[k] * grads[k] + way[k] * (start[k] - v) for k, v in p.items()}
    assert len(held_out.inputs) % N  # the last segment is shorter
    how = Dynamic(N, lr, decay)
    found = dynamic_evaluation.evaluate(task, skeleton, params, held_out, how, ours)
    assert_close(found["nats"], total / held_out.num_counted)
    assert found["bits"] == pytest.approx(found["nats"] / math.log(2))
    plain = training.evaluate(task, skeleton, params, held_out)
    assert abs(plain["nats"] - found["nats"]) > 1e-3


def test_without_steps_it_is_the_plain_figure(trained):
    _, task, data, skeleton, params = trained
    found = dynamic_evaluation.evaluate(task, skeleton, params, data.held_out, Dynamic(N, 0.0, 0.0))
    jax.tree.map(assert_close, found, training.evaluate(task, skeleton, params, data.held_out))


def test_a_target_changes_nothing_that_was_scored_before_its_segment_ends(trained):
    """Nats of the text's first segments do not depend on what comes after them."""
    _, task, data, skeleton, params = trained
    held_out = data.held_out
    how, first = Dynamic(N, 0.5, 0.1), 2 * N

    def nats(targets, count):
        part = HeldOut(held_out.inputs[:count], targets[:count])
        return dynamic_evaluation.evaluate(task, skeleton, params, part, how)["nats"] * count

    changed = held_out.targets.copy()
    changed[first:] = (changed[first:] + 1) % task.vocabulary.size
    assert nats(changed, first) == nats(held_out.targets, first)
    changed = held_out.targets.copy()
    changed[0] = (changed[0] + 1) % task.vocabulary.size
    later = [nats(targets, 3 * N) - nats(targets, N) for targets in (changed, held_out.targets)]
    assert abs(later[0] - later[1]) > 1e-6  # from the next segment on it is learnt from


# --- temperature


def by_hand(skeleton, params, held_out, chunk_len):
    """One pass in NumPy: each chunk at the temperature best over those before it."""
    ids = jax.numpy.asarray(held_out.inputs[None].astype(np.int32))
    logits = np.asarray(skeleton.merge(params)(ids)[0][0], np.float64)
    logits = logits[None] / temperature.TEMPERATURES[:, None, None]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nats = -log_p[:, np.arange(len(held_out.inputs)), held_out.targets]
    total = 0.0
    for first in range(0, nats.shape[1], chunk_len):
        before = nats[:, :first].sum(1)
        best = np.argmin(before) if first else 70
        total += nats[best, first : first + chunk_len].sum()
    return total / nats.shape[1], temperature.TEMPERATURES[np.argmin(nats.sum(1))]


@pytest.mark.parametrize("scale", [0.4, 1.0, 2.5])
def test_each_window_has_the_temperature_best_before_it(trained, scale):
    _, task, data, skeleton, params = trained
    weight = scale * params["decoder.bias"]
    params = params | {"decoder.bias": weight, "rnn.bias_ih_l0": scale * params["rnn.bias_ih_l0"]}
    metrics, last = temperature.evaluate_tuned(task, skeleton, params, data.held_out, chunk_len=6)
    nats, expected = by_hand(skeleton, params, data.held_out, 6)
    assert_close(metrics["nats"], nats)
    assert last == expected


def test_the_temperatures_are_around_1():
    temperatures = temperature.TEMPERATURES
    assert (temperatures[0], temperatures[70], temperatures[-1]) == (0.5, 1.0, 2.0)
    assert temperature.best_of(np.zeros(141)) == 70
    assert temperature.best_of(np.array([1.0, 3.0, 2.0, 1.0, 5.0])) == 3


# --- the command


def command(capsys, *argv):
    code = cli.exit_code(lambda: evaluate.run_command(list(map(str, argv))))
    out, err = capsys.readouterr()
    return code, out, err


def test_the_command_gives_them_under_names_of_their_own(trained, capsys):
    run, task, data, skeleton, params = trained
    flags = ("--tune-temperature", "--dynamic", "--dynamic-len", N, "--dynamic-rule", "sgd")
    code, out, err = command(capsys, run.path, *flags, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    plain = training.evaluate(task, skeleton, params, data.held_out)
    tuned, last = temperature.evaluate_tuned(task, skeleton, params, data.held_out)
    how = Dynamic(N, 0.2, 0.0)
    dynamic = dynamic_evaluation.evaluate(task, skeleton, params, data.held_out, how)
    expected = plain | {f"tuned_{k}": v for k, v in tuned.items()}
    expected |= {f"dynamic_{k}": v for k, v in dynamic.items()} | {"temperature": last}
    assert set(found) == {"data", "positions", *expected}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-9), name
    code, out, _ = command(capsys, run.path, *flags)
    rows = {
        label: next(line for line in out.splitlines() if label in line)
        for label in ("dynamic evaluation", "tuned temperature")
    }
    assert f"{dynamic['nats']:.5g}" in rows["dynamic evaluation"]
    assert f"{tuned['nats']:.5g}" in rows["tuned temperature"]
    assert f"temperature at the end: {last:.4g}" in out


def test_the_rule_rms_is_the_default_and_reads_the_training_text(trained, capsys, tmp_path):
    run, task, data, skeleton, params = trained
    path = tmp_path / "other.txt"
    path.write_text(TEXT[:100])
    code, out, _ = command(capsys, run.path, "--data", path, "--dynamic", "--json")
    assert code == 0
    scales = dynamic_evaluation.gradient_scales(skeleton, params, data.train, 20)
    held_out = task.read_evaluation(str(path))
    how = Dynamic(20, 2e-4, 8e-3)
    expected = dynamic_evaluation.evaluate(task, skeleton, params, held_out, how, scales)
    assert json.loads(out)["dynamic_nats"] == pytest.approx(expected["nats"], rel=1e-9)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (("--dynamic-lr", "0.1"), "--dynamic-lr is 0.1, expected with --dynamic alone"),
        (("--dynamic-len", "5"), "--dynamic-len is 5, expected with --dynamic alone"),
        (("--dynamic-rule", "sgd"), "--dynamic-rule is 'sgd', expected with --dynamic alone"),
        (("--dynamic", "--dynamic-len", "0"), "--dynamic-len is 0, expected at least 1"),
        (("--dynamic", "--dynamic-lr", "-1"), "--dynamic-lr is -1.0, expected in 0..1"),
        (("--dynamic", "--dynamic-decay", "2"), "--dynamic-decay is 2.0, expected in 0..1"),
        (("--dynamic", "--streams", "2"), "--streams is 2, expected 1 with --dynamic"),
        (("--dynamic", "--dynamic-len", "999"), "--dynamic-len is 999, expected at most the "),
    ],
)
def test_bad_options_are_one_line(trained, capsys, argv, expected):
    code, out, err = command(capsys, trained[0].path, *argv)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"error: {expected}")


def test_a_series_has_neither(tmp_path, capsys):
    run, _ = train(SineConfig(hidden_size=4, steps=2, run=str(tmp_path / "a")), "sine")
    for flag in ("--dynamic", "--tune-temperature"):
        code, _, err = command(capsys, run.path, flag)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{flag} is of texts alone" in err
