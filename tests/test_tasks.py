import dataclasses
import json
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from refusals import message
from tolerances import assert_close

from jaxrnn.config import CONFIGS, CharConfig, SineConfig
from jaxrnn.errors import InputError
from jaxrnn.models import split
from jaxrnn.tasks import TASKS, HeldOut
from jaxrnn.train_step import initial_state
from jaxrnn.training import evaluate

TEXT = "the cat sat on the mat; a dog ate the hat. " * 30


@pytest.fixture
def text_file(tmp_path) -> str:
    (tmp_path / "text.txt").write_text(TEXT)
    return str(tmp_path / "text.txt")


@pytest.fixture
def rows_file(tmp_path) -> str:
    values = np.random.default_rng(0).normal(5, 3, 120).round(3)
    (tmp_path / "rows.csv").write_text(
        "t,x\n" + "\n".join(f"{k},{v}" for k, v in enumerate(values))
    )
    return str(tmp_path / "rows.csv")


def char_config(text_file: str, **options) -> CharConfig:
    small: dict[str, Any] = {
        **{"data": text_file, "cell": "lstm", "num_layers": 2, "hidden_size": 5, "batch_size": 3},
        **{"seq_len": 4, "dropout": 0.5, "dtype": "float64", "embedding_size": 0},
    }
    return CharConfig(**(small | options))


def series_config(rows_file: str, **options) -> SineConfig:
    small: dict[str, Any] = {"data": rows_file, "target": "x", "hidden_size": 4, "seq_len": 5}
    return SineConfig(**(small | options))


def test_the_table_has_each_task_under_its_name():
    assert list(TASKS) == ["char", "series", "sine", "sketch"]
    assert all(task.name == name for name, task in TASKS.items())


# --- metrics ---


def test_metrics_of_text_are_nats_bits_and_perplexity(text_file):
    task, _ = TASKS["char"].load(char_config(text_file))
    assert task.monitor == "nats"
    metrics = task.metrics({"nats": 6 * math.log(8)}, 6)
    assert metrics == {
        "nats": pytest.approx(math.log(8)),
        "bits": pytest.approx(3),
        "perplexity": pytest.approx(8),
    }
    assert task.metrics({"nats": 1e4}, 10)["perplexity"] == math.exp(700)  # still a number


def test_metrics_of_a_series_are_means():
    task, _ = TASKS["sine"].load(SineConfig())
    assert task.monitor == "mse"
    assert task.metrics({"mse": 6.0, "mae": 9.0}, 3) == {"mse": 2.0, "mae": 3.0}


# --- evaluation ---


def plain_pass(task, params, held_out: HeldOut):
    """Outputs over the whole stream in one call, of a model without dropout."""
    task = dataclasses.replace(task, config=dataclasses.replace(task.config, dropout=0.0))
    skeleton, fresh = split(task.model(nnx.Rngs(0)))
    assert fresh.keys() == params.keys()
    inputs = jnp.asarray(held_out.inputs[None], jnp.result_type(held_out.inputs.dtype))
    inputs = inputs.astype(jnp.int32) if inputs.dtype.kind in "ui" else inputs
    return np.asarray(skeleton.merge(params)(inputs)[0][0], np.float64)


@pytest.mark.parametrize("chunk_len", [1000, 37, 128])
def test_evaluating_text_in_windows_is_one_plain_pass(text_file, chunk_len):
    """The state carried from window to window, each symbol counted once, dropout off."""
    task, data = TASKS["char"].load(char_config(text_file))
    _, skeleton, state = initial_state(task, task.config)
    held_out = data.held_out
    assert held_out.num_counted == len(TEXT) - int(len(TEXT) * 0.9) - 1 == 128
    logits = plain_pass(task, state.params, held_out)
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    nats = -log_p[np.arange(128), held_out.targets].mean()
    got = evaluate(task, skeleton, state.params, held_out, chunk_len=chunk_len)
    assert_close(got["nats"], nats)
    assert_close(got["bits"], nats / math.log(2))
    assert_close(got["perplexity"], math.exp(nats))


def test_several_streams_warm_up_and_count_each_symbol_once(text_file):
    config = char_config(text_file, cell="rnn", num_layers=1, val_fraction=0.5)
    task, data = TASKS["char"].load(config)
    _, skeleton, state = initial_state(task, config)

    def of(params, num_streams):
        return evaluate(task, skeleton, params, data.held_out, num_streams, chunk_len=20)["nats"]

    forgetful = state.params | {"rnn.weight_hh_l0": jnp.zeros((5, 5))}
    assert_close(of(forgetful, 7), of(forgetful, 1))
    assert_close(of(forgetful, 1000), of(forgetful, 1))
    # A state that fades is as good as warmed up after 20 steps, and not the same before.
    small = state.params | {"rnn.weight_hh_l0": state.params["rnn.weight_hh_l0"] / 3}
    assert abs(of(small, 7) - of(small, 1)) < 1e-9
    assert abs(of(small, 1) - of(forgetful, 1)) > 1e-6


def test_a_series_is_validated_after_the_state_has_run_through_the_training_part(rows_file):
    config = series_config(rows_file, dtype="float64", num_layers=2, dropout=0.4)
    task, data = TASKS["sine"].load(config)
    _, skeleton, state = initial_state(task, config)
    held_out = data.held_out
    assert (len(held_out.inputs), held_out.counted_from, held_out.num_counted) == (119, 107, 12)
    predicted = plain_pass(task, state.params, held_out)[107:, 0]
    errors = predicted - held_out.targets[107:, 0].astype(np.float64)
    got = evaluate(task, skeleton, state.params, held_out, chunk_len=50)
    assert_close(got["mse"], np.mean(errors**2))
    assert_close(got["mae"], np.mean(np.abs(errors)))


def test_the_naive_row_is_the_last_value(rows_file):
    _, data = TASKS["sine"].load(series_config(rows_file))
    column = np.loadtxt(rows_file, delimiter=",", skiprows=1)[:, 1]
    scaled = (column - column[:108].mean()) / column[:108].std()
    errors = np.diff(scaled)[107:]
    assert_close(data.held_out.baseline["mse"], np.mean(errors**2), "float32")
    assert_close(data.held_out.baseline["mae"], np.mean(np.abs(errors)), "float32")


# --- what a run pins ---


def test_the_scaler_is_that_of_the_training_part(rows_file):
    _, data = TASKS["sine"].load(series_config(rows_file))
    column = np.loadtxt(rows_file, delimiter=",", skiprows=1)[:, 1]
    assert data.facts["scaler"] == {
        "mean": pytest.approx(column[:108].mean()),
        "std": pytest.approx(column[:108].std()),
    }
    assert data.facts["target"] == "x"


@pytest.mark.parametrize("task_name", ["char", "sine"])
def test_facts_go_through_json_and_give_the_same_data(task_name, text_file, rows_file):
    config: Any = char_config(text_file) if task_name == "char" else series_config(rows_file)
    task, data = TASKS[task_name].load(config)
    facts = json.loads(json.dumps(data.facts))
    again, data_again = TASKS[task_name].load(config, facts)
    assert again == task == TASKS[task_name].from_facts(config, facts)
    assert data_again.facts == data.facts
    for step in (0, 7):
        for a, b in zip(data.train.batch_at(step), data_again.train.batch_at(step), strict=True):
            np.testing.assert_array_equal(a, b)


def test_data_that_has_changed_is_refused(text_file, rows_file):
    for name, path, config in (
        ("char", text_file, char_config(text_file)),
        ("sine", rows_file, series_config(rows_file)),
    ):
        _, data = TASKS[name].load(config)
        with open(path) as file:
            lines = file.read()
        changed = lines.replace("hat. the cat", "cat. the hat", 1).replace("\n3,", "\n3,1", 1)
        assert changed != lines
        with open(path, "w") as file:
            file.write(changed)
        assert f"{path} is not what the run was made with" in message(
            TASKS[name].load, config, data.facts
        )


@pytest.mark.parametrize("task_name", ["char", "sine"])
def test_facts_of_another_version_are_refused(task_name, text_file, rows_file):
    config: Any = char_config(text_file) if task_name == "char" else series_config(rows_file)
    for use in (TASKS[task_name].load, TASKS[task_name].from_facts):
        assert "run.json" in message(use, config, {})


DAMAGED = {
    "series": [
        *(("targets", value) for value in (3, None, [], ["a", "a"], [1], "ab", ["\ud800"])),
        *(("scalers", value) for value in (3, {}, [], [{"mean": 0.0, "std": 1.0}] * 9, "abc")),
        *(("scalers", [{"mean": 0.0, "std": 10**400}]), ("scalers", [None])),
        *(("calendar", value) for value in (3, "hour", ["hours"], ["hour", "hour"], [[]], [3])),
        *(("frequency", value) for value in (3, [], {}, {"unit": "years"}, {"step": 1})),
        *(
            ("frequency", {"unit": "seconds", "step": step, "month_end": False})
            for step in (1.5, 0, True, "1", None, 10**13)
        ),
        *(("frequency", {"unit": "months", "month_end": 1}), ("frequency", {"unit": []})),
        *(("season", value) for value in (-1, 0, "x", 1.5, True, None, 2**60)),
        *(("mase_scale", value) for value in (3, [], ["a"], [0.0], [-1.0], [math.nan], [10**400])),
        *(("ends", value) for value in (3, [1], [0, 0, 0], [3, 2, 4], ["1", "2", "3"], [1.0] * 3)),
        *(("ends", [1, 2, 2**60]), ("ends", [1, 2, 3, 4])),
        *(("start", value) for value in (3, "zz", "now", "NaT", "2020-01", "2020-13-01T00:00:00")),
        *(("start", "2020-01-01T00:00:00Z"), ("start", "2020-01-01T99:00:00")),
    ],
    "sine": [
        *(("target", value) for value in (3, None, ["a"], "\ud800")),
        *(("scaler", value) for value in (3, {}, {"mean": "0", "std": 1.0})),
    ],
    "sketch": [
        *(("classes", value) for value in (3, "abc", [], ["a", "a"], [1], ["\ud800"], [["a"]])),
        *(
            (name, value)
            for name in ("scale", "extent")
            for value in ("1", None, 0, -1.0, math.nan, math.inf, 1e31, 1e-31, True, 10**400)
        ),
        *(("num_points", value) for value in (0, -1, 1.5, "9", True, None, 10**9)),
        *(("start", value) for value in (3, [], [1.0], [1, 2, 3], ["a", "b"], [math.inf, 0], None)),
    ],
    "char": [("vocabulary", value) for value in (3, None, [], {"kind": "characters"})],
}


@pytest.mark.parametrize("task_name", DAMAGED)
def test_damaged_facts_are_named(task_name):
    _, data = TASKS[task_name].load(CONFIGS[task_name]())
    config, facts = CONFIGS[task_name](), json.loads(json.dumps(data.facts))
    TASKS[task_name].from_facts(config, facts)
    for name, value in DAMAGED[task_name]:
        text = message(TASKS[task_name].from_facts, config, facts | {name: value})
        assert name.rstrip("s") in text, (name, value)
        assert "expected" in text
        assert len(text) < 300
        if name not in ("scaler", "scalers", "vocabulary"):  # which other files hold, too
            assert text.startswith(f"run.json's {name} is ")
            assert text.endswith("it is damaged; put a copy of it back, or start a new run")
    for name in facts:
        if (task_name, name) != ("sketch", "start") and name != "digest":
            left = {key: value for key, value in facts.items() if key != name}
            assert message(TASKS[task_name].from_facts, config, left).startswith(
                f"run.json has no {name}, expected it among its facts"
            )


@pytest.mark.parametrize(
    ("task_name", "name", "value", "expected"),
    [
        ("series", "targets", ["other"], "run.json's targets are ['other'] and its ends ["),
        ("series", "ends", [1, 2, 10**9], "its ends [1, 2, 1000000000], its data have ["),
        ("sketch", "classes", ["a", "b"], "run.json has 2 classes, its data have 1: it is damaged"),
    ],
)
def test_facts_that_are_not_the_datas_are_refused(task_name, name, value, expected):
    config = CONFIGS[task_name]()
    _, data = TASKS[task_name].load(config)
    assert expected in message(TASKS[task_name].load, config, data.facts | {name: value})


def test_a_whole_number_in_json_is_a_float():
    task, data = TASKS["series"].load(CONFIGS["series"]())
    (scale,) = TASKS["series"].from_facts(task.config, data.facts | {"mase_scale": [3]}).mase_scale
    assert (scale, type(scale)) == (3.0, float)


# --- the lesson's sine ---


def test_the_sine_is_the_lessons():
    task, data = TASKS["sine"].load(SineConfig())
    assert data.train.steps_per_epoch == 75
    for step in (0, 1, 74, 80):
        # The lesson: time_steps = np.linspace(step * np.pi, (step + 1) * np.pi, seq_length + 1)
        values = np.sin(np.linspace(step * np.pi, (step + 1) * np.pi, 21))
        batch = data.train.batch_at(step)
        np.testing.assert_array_equal(batch.inputs[0, :, 0], values[:-1].astype(np.float32))
        np.testing.assert_array_equal(batch.targets[0, :, 0], values[1:].astype(np.float32))
        assert bool(batch.starts) is (step == 0)
    held_out = data.held_out
    assert (held_out.num_counted, held_out.continues) == (500, True)
    times = np.linspace(75 * np.pi, 76 * np.pi, 21)[:-1]
    np.testing.assert_allclose(held_out.inputs[:20, 0], np.sin(times), atol=1e-6)
    assert held_out.baseline["mse"] == pytest.approx(2 * math.sin(math.pi / 40) ** 2, rel=1e-4)
    assert task.target == "sin"
    assert "--batch-size is 2, expected 1" in message(TASKS["sine"].load, SineConfig(batch_size=2))


@pytest.mark.parametrize("seq_len", [20, 60])
def test_the_sines_validation_goes_on_from_the_trained_state(seq_len):
    config = SineConfig(hidden_size=4, seq_len=seq_len, dtype="float64")
    task, data = TASKS["sine"].load(config)
    _, skeleton, state = initial_state(task, config)
    carry = state.carry + 0.7
    inputs = jnp.asarray(data.held_out.inputs[None], jnp.float64)
    predicted, _ = skeleton.merge(state.params)(inputs, carry)
    errors = np.asarray(predicted)[0] - data.held_out.targets
    for num_streams in (1, config.eval_streams):
        got = evaluate(task, skeleton, state.params, data.held_out, num_streams, carry=carry)
        assert_close(got["mse"], np.mean(errors**2))


# --- previews, pictures, other files ---


def test_a_preview_is_a_function_of_seed_and_step(text_file):
    config = char_config(text_file, cell="rnn", num_layers=1, preview_length=30)
    task, _ = TASKS["char"].load(config)
    _, skeleton, state = initial_state(task, config)
    preview = task.preview(skeleton, state.params, 5)
    assert len(preview) == 30
    assert set(preview) <= set(TEXT)
    assert task.preview(skeleton, state.params, 5) == preview
    assert task.preview(skeleton, state.params, 6) != preview
    silent = dataclasses.replace(task, config=dataclasses.replace(config, preview_length=0))
    assert silent.preview(skeleton, state.params, 5) == ""


def test_a_preview_of_bytes_is_text(text_file):
    config = char_config(text_file, tokens="bytes", cell="rnn", num_layers=1, preview_length=30)
    task, _ = TASKS["char"].load(config)
    _, skeleton, state = initial_state(task, config)
    task.preview(skeleton, state.params, 5).encode()


@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.0}, {"val_fraction": 0.5}])
def test_a_picture_of_the_prediction(options, rows_file, tmp_path):
    config = series_config(rows_file, **options)
    task, data = TASKS["sine"].load(config)
    _, skeleton, state = initial_state(task, config)
    task.illustrate(skeleton, state.params, state.carry, data, tmp_path)
    picture = tmp_path / "prediction.png"
    if options != {"val_fraction": 0.0}:
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_evaluation_reads_a_whole_file_with_the_runs_facts(text_file, rows_file, tmp_path):
    task, _ = TASKS["char"].load(char_config(text_file))
    (tmp_path / "new.txt").write_text("the hat")
    held_out = task.read_evaluation(str(tmp_path / "new.txt"))
    ids = task.vocabulary.encode("the hat")
    np.testing.assert_array_equal(held_out.inputs, ids[:-1])
    np.testing.assert_array_equal(held_out.targets, ids[1:])
    (tmp_path / "new.txt").write_text("ZEBRA")
    assert "has 5 characters that the vocabulary" in message(
        task.read_evaluation, str(tmp_path / "new.txt")
    )
    series, _ = TASKS["sine"].load(series_config(rows_file))
    (tmp_path / "new.csv").write_text("x\n1\n2.5\n-3\n")
    held_out = series.read_evaluation(str(tmp_path / "new.csv"))
    scaled = series.scaler.transform(np.array([1, 2.5, -3]))
    assert_close(held_out.inputs[:, 0], scaled[:-1], "float32")
    assert_close(held_out.targets[:, 0], scaled[1:], "float32")
    assert_close(held_out.baseline["mae"], np.abs(np.diff(scaled)).mean(), "float32")
    (tmp_path / "new.csv").write_text("x\n1\n")
    assert "has 1 values, expected at least 2" in message(
        series.read_evaluation, str(tmp_path / "new.csv")
    )


def test_losses_of_the_tasks_are_means_over_all_positions(text_file, rows_file):
    for name, config in (
        ("char", char_config(text_file, dropout=0.0, cell="rnn", num_layers=1)),
        ("sine", series_config(rows_file, dtype="float64")),
    ):
        task, data = TASKS[name].load(config)
        _, skeleton, state = initial_state(task, config)
        model = skeleton.merge(state.params)
        inputs, targets, _ = map(jnp.asarray, data.train.batch_at(1))
        loss, carry = task.loss(model, inputs, targets, state.carry, nnx.Rngs(dropout=0), 1)
        everything = jnp.ones(inputs.shape[:2], bool)
        sums, carry_again = task.score(model, inputs, targets, everything, state.carry)
        assert_close(loss, sums[task.monitor] / everything.size)
        jax.tree.map(np.testing.assert_array_equal, carry, carry_again)


@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_a_series_changed_in_one_value_is_not_the_runs(tmp_path, val_fraction):
    path = tmp_path / "series.csv"
    values = [(k * 7) % 11 for k in range(40)]
    path.write_text("value\n" + "\n".join(map(str, values)))
    config = SineConfig(data=str(path), seq_len=5, val_fraction=val_fraction)
    _, data = TASKS["sine"].load(config)
    TASKS["sine"].load(config, data.facts)
    values[3] += 1
    path.write_text("value\n" + "\n".join(map(str, values)))
    with pytest.raises(InputError, match="is not what the run was made with"):
        TASKS["sine"].load(config, data.facts)
