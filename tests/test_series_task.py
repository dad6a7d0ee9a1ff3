"""The task ``series``: what is left to the data, what a run pins, its errors, exact resume."""

import dataclasses
import datetime
import io
import json
import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from refusals import message
from rich.console import Console
from series_cases import FUTURE, ROWS, config_of, values_of, write_rows
from small_runs import assert_same_bits, go_on, last_of, lines_of, train
from tolerances import assert_close

from jaxrnn import report
from jaxrnn.config import SeriesConfig
from jaxrnn.config_file import from_toml, from_values, to_toml
from jaxrnn.data.dates import calendar
from jaxrnn.forecast_errors import ForecastErrors, mase_scale
from jaxrnn.tasks import TASKS
from jaxrnn.tasks.series_forecasts import ahead, backtest, note_of, path_uniforms, predictor
from jaxrnn.train_step import initial_state
from jaxrnn.training import evaluate

SeriesTask = TASKS["series"]


@pytest.fixture
def rows_file(tmp_path) -> str:
    return write_rows(tmp_path / "rows.csv")


# --- rows and what is pinned ---


def test_rows_are_scaled_by_the_rows_trained_on(rows_file):
    config = config_of(rows_file, covariates=("c",), known=("k",), dtype="float64")
    task, data = SeriesTask.load(config)
    values = values_of()[:ROWS]
    mean, std = values[:100].mean(0), values[:100].std(0)
    scaled = (values - mean) / std
    dates = np.datetime64("2021-03-01T00:00:00") + 3600 * np.arange(ROWS)
    expected = np.concatenate([scaled, calendar(dates, ("hour",))], -1)
    assert task.calendar == ("hour",)  # 100 hours are more than two days, less than two weeks
    assert_close(data.train.rows, expected)
    assert (task.num_known, task.season) == (3, 24)
    np.testing.assert_array_equal(data.train.origins, np.arange(8, 97))
    np.testing.assert_array_equal(data.held_out.origins, np.arange(100, 122))
    np.testing.assert_array_equal(task.part(data.train.rows, "test").origins, np.arange(125, 147))
    assert data.facts["mase_scale"] == mase_scale(values[:100, :2], 24)
    assert data.summary == (
        f"{rows_file}: x, y, hourly from 2021-03-01 to 2021-03-07 05:00; 100 rows to train on, 25 "
        "to validate, 25 to test; calendar hour; 8 steps in, 4 out"
    )


def test_facts_go_through_json_and_give_the_same_task(rows_file):
    config = config_of(rows_file, known=("k",))
    task, data = SeriesTask.load(config)
    facts = json.loads(json.dumps(data.facts))
    again, data_again = SeriesTask.load(task.config, facts)
    assert again == task == SeriesTask.from_facts(task.config, facts)
    assert data_again.facts == data.facts
    del facts["scalers"]
    assert "run.json has no scalers" in message(SeriesTask.from_facts, task.config, facts)


def test_another_value_is_not_the_runs(tmp_path, rows_file):
    config = config_of(rows_file)
    _, data = SeriesTask.load(config)
    text = (tmp_path / "rows.csv").read_text()
    (tmp_path / "rows.csv").write_text(text.replace(",-2.9", ",-2.8", 1))
    assert "is not what the run was made with" in message(SeriesTask.load, config, data.facts)
    other = dataclasses.replace(config, split="100,25,24")
    (tmp_path / "rows.csv").write_text(text)
    assert "is not what the run was made with" in message(SeriesTask.load, other, data.facts)


def with_gaps(path, changed: float = 0.0, **options: Any) -> Any:
    """A file with gaps in every part, its values from row 112 on other ones; its task and data."""
    lines = Path(write_rows(path)).read_text().splitlines()
    for k in (20, 21, 60, *range(95, 112), 115, 130, 131, 140):
        fields = lines[1 + k].split(",")
        lines[1 + k] = ",".join([fields[0], "", *fields[2:]])
    for k in range(112, ROWS):
        fields = lines[1 + k].split(",")
        rest = [f"{float(v) + changed}" if v else "" for v in fields[1:]]
        lines[1 + k] = ",".join([fields[0], *rest])
    path.write_text("\n".join(lines) + "\n")
    return SeriesTask.load(config_of(str(path), dtype="float64", **options))


@pytest.mark.parametrize("gaps", ["interpolate", "previous"])
def test_nothing_that_comes_later_reaches_what_is_read_before(tmp_path, gaps):
    task, data = with_gaps(tmp_path / "a.csv", gaps=gaps)
    other, data_other = with_gaps(tmp_path / "b.csv", 1000.0, gaps=gaps)
    assert task.facts == other.facts
    assert data.facts["digest"] != data_other.facts["digest"]
    np.testing.assert_array_equal(data.train.rows[:112], data_other.train.rows[:112])
    for k in range(data.train.steps_per_epoch):
        one, two = data.train.batch_at(k), data_other.train.batch_at(k)
        np.testing.assert_array_equal(one[1], two[1])
        np.testing.assert_array_equal(one[0][0], two[0][0])
    # A gap is learnt from on a line between its ends, of which the last before row 100 has one.
    scaled = (values_of()[:100, 0] - task.scalers[0].mean) / task.scalers[0].std
    targets = {
        int(t): data.train.take(np.array([k])).targets[0] for k, t in enumerate(data.train.origins)
    }
    x = targets[18][:, 0]
    between = scaled[19] + (scaled[22] - scaled[19]) * np.array([1, 2]) / 3
    assert_close(x[2:], between if gaps == "interpolate" else scaled[[19, 19]])
    assert_close(targets[96][:, 0], np.full(4, scaled[94]))
    past = data.train.take(np.array([13])).past[0, :, 0]  # of origin 21, whose last is missing
    assert_close(past[-2:], scaled[[19, 19]])


def test_what_is_missing_is_neither_scaled_by_nor_scored(tmp_path):
    gone = [20, 21, 60, *range(95, 100)]
    for distribution in ("quantiles", "student_t"):
        options: Any = {"head": "recursive", "distribution": distribution, "gaps": "previous"}
        task, data = with_gaps(tmp_path / "a.csv", **options)
        x = np.delete(values_of()[:100, 0], gone)
        assert_close([task.scalers[0].mean, task.scalers[0].std], [x.mean(), x.std()])
        _, skeleton, state = initial_state(task, task.config)
        found = evaluate(task, skeleton, state.params, data.held_out)
        assert all(map(np.isfinite, found.values()))
        past, known, targets = data.held_out.take(np.arange(data.held_out.num_counted))
        # Rows 100 to 111, 115 and none else of validation have no x.
        places = data.held_out.origins[:, None] + np.arange(4)
        np.testing.assert_array_equal(
            np.isnan(targets[..., 0]), np.isin(places, [*range(100, 112), 115])
        )
        assert not np.isnan(targets[..., 1]).any()
        point = np.asarray(
            task.distribution.point(
                skeleton.merge(state.params)(jnp.asarray(past), jnp.asarray(known))
            )
        )
        assert_close(found["mse"], np.nanmean((point - targets) ** 2))
        truth = data.held_out.truth
        windows = task.part(data.train.rows, "test", truth)
        rows = backtest(task, predictor(task, skeleton, state.params), windows)
        last = data.train.rows[windows.origins - 1, None, :2]
        errors = (last - windows.take(np.arange(len(windows.origins))).targets) ** 2
        assert_close(rows["last value"].metrics()["mse"], np.nanmean(errors, (0, 1)).mean())


def test_the_order_of_day_and_month_is_that_of_the_runs_file(tmp_path):
    for form, first in (("%d/%m/%Y", "2020-02-01"), ("%m/%d/%Y", "2020-01-02")):
        days = [datetime.date(2020, 1, 1) + datetime.timedelta(k) for k in range(60)]
        path = tmp_path / "a.csv"
        path.write_text("d,x\n" + "\n".join(f"{d:{form}},{k % 7}" for k, d in enumerate(days)))
        config = SeriesConfig(data=str(path), input_len=8, horizon=4)
        task, data = SeriesTask.load(config)
        facts = json.loads(json.dumps(data.facts))
        assert facts["day_first"] is (form == "%d/%m/%Y")
        (tmp_path / "b.csv").write_text("d,x\n01/02/2020,4\n")
        again = SeriesTask.from_facts(task.config, facts)
        assert again == task
        assert str(again.read(str(tmp_path / "b.csv")).dates[0])[:10] == first
        del facts["day_first"]  # of a run before there was this fact
        older = SeriesTask.from_facts(task.config, facts)
        assert "may begin with its day" in message(older.read, str(tmp_path / "b.csv"))


# --- choices ---


def test_what_is_0_is_chosen_by_the_data(rows_file):
    free: Any = {"input_len": 0, "horizon": 0, "hidden_size": 0, "steps": 0, "eval_every": 0}
    task, data = SeriesTask.load(config_of(rows_file, **free))
    config = task.config
    assert (config.horizon, config.input_len, config.hidden_size) == (24, 38, 32)
    assert data.train.steps_per_epoch == 10  # 39 windows in batches of 4
    assert (config.epochs, config.eval_every) == (300, 75)
    assert SeriesTask.load(config)[0].config == config
    task, _ = SeriesTask.load(SeriesConfig())
    config = task.config
    assert (config.horizon, config.input_len, config.hidden_size) == (24, 168, 64)
    assert task.calendar == ("hour", "weekday")
    segments = SeriesTask.load(SeriesConfig(head="segments"))[0].config
    assert (segments.segment_len, segments.input_len) == (24, 168)


@pytest.mark.parametrize("rows", [4, 7, 12, 30])
def test_a_file_of_few_rows_has_its_choices(tmp_path, rows):
    path = tmp_path / "few.csv"
    path.write_text("x\n" + "\n".join(str(k % 3) for k in range(rows)) + "\n")
    task, data = SeriesTask.load(SeriesConfig(data=str(path)))
    assert len(data.train.origins) >= 1
    assert task.config.horizon >= 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"input_len": 97}, "has 100 rows to train on, a window needs --input-len 97"),
        ({"head": "segments", "segment_len": 3}, "--input-len is 8, expected a multiple of"),
        ({"head": "segments", "segment_len": 4, "hidden_size": 5}, "expected an even number"),
        ({"split": "100,25"}, "--split is '100,25'"),
        ({"targets": ("z",)}, "has no column 'z' (--targets)"),
        ({"data": ""}, "--targets is ('x', 'y'): the made series has none; add --data"),
    ],
)
def test_what_does_not_fit_the_data_is_one_line(rows_file, options, expected):
    assert expected in message(lambda: SeriesTask.load(config_of(rows_file, **options)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quantiles": (0.1, 0.9)}, "--quantiles is (0.1, 0.9), expected ascending levels around"),
        ({"quantiles": (0.1, 0.5, 0.8)}, "as far from 0 as from 1"),
        ({"quantiles": (0.5, 0.1, 0.9)}, "expected ascending levels"),
        ({"segment_len": 3}, "--segment-len is 3, expected with --head segments alone"),
        ({"loss": "mae"}, "--loss is 'mae', expected with --distribution point alone"),
        ({"num_samples": 5}, "expected with --head recursive and student_t alone"),
        ({"head": "segments", "covariates": ("c",)}, "expected with a head that reads them"),
        (
            {"distribution": "point", "quantiles": (0.2, 0.5, 0.8)},
            "expected with quantiles or student_t alone",
        ),
        ({"horizon": -1}, "--horizon is -1, expected at least 0"),
        ({"dropout": 1.5}, "--dropout is 1.5, expected a probability"),
    ],
)
def test_options_that_do_not_fit_each_other_are_one_line(options, expected):
    assert expected in message(lambda: SeriesConfig(**options))


def test_the_options_go_through_toml(tmp_path):
    config = SeriesConfig(targets=("a", "b"), quantiles=(0.05, 0.5, 0.95), head="recursive")
    (tmp_path / "a.toml").write_text(to_toml("series", config))
    assert from_toml(tmp_path / "a.toml") == ("series", config)


def test_a_run_of_the_one_step_task_says_what_to_do():
    text = message(from_values, {"task": "series", "seq_len": 20, "target": "x"}, "config.toml")
    assert text == (
        "config.toml: these are options of the one-step task, which is called sine since series is"
        ' the forecaster; write task = "sine" in its first line to go on with it'
    )


# --- errors and forecasts ---


def trained(config):
    task, data = SeriesTask.load(config)
    _, skeleton, state = initial_state(task, task.config)
    return task, data, skeleton, state.params


@pytest.mark.parametrize("head", ["direct", "recursive", "segments"])
@pytest.mark.parametrize("distribution", ["point", "quantiles", "student_t"])
def test_validation_and_backtest_are_errors_over_every_window(rows_file, head, distribution):
    config = config_of(rows_file, head=head, distribution=distribution, dtype="float64")
    if head == "segments":
        config = dataclasses.replace(config, segment_len=4)
    task, data, skeleton, params = trained(config)
    model: Any = skeleton.merge(params)
    found = evaluate(task, skeleton, params, data.held_out)
    assert list(found) == list(dict.fromkeys([task.monitor, "mse", "mae"]))
    past, known, targets = data.held_out.take(np.arange(data.held_out.num_counted))
    past, known, targets = map(jnp.asarray, (past, known, targets))
    parameters = model(past, known)
    point = np.asarray(task.distribution.point(parameters))
    assert_close(found["mse"], np.mean((point - targets) ** 2))
    assert_close(found["mae"], np.mean(np.abs(point - targets)))
    read = targets if (head, distribution) == ("recursive", "student_t") else None
    losses = task.distribution.loss(model(past, known, read), targets)
    assert_close(found[task.monitor], np.mean(np.asarray(losses)))

    rows = backtest(task, predictor(task, skeleton, params), data.held_out)
    assert list(rows) == ["model", "last value", "last season of 24"]
    naive = rows["last value"].metrics()
    last = data.train.rows[data.held_out.origins - 1, None, :2]
    assert_close(naive["mse"], np.mean((last - targets) ** 2))
    assert_close(data.held_out.baseline["mae"], naive["mae"])
    before = np.stack([data.train.rows[t - 24 : t - 20, :2] for t in data.held_out.origins])
    assert_close(rows["last season of 24"].metrics()["mse"], np.mean((before - targets) ** 2))
    if read is None:
        assert_close(rows["model"].metrics()["mse"], found["mse"])
    assert ("coverage" in rows["model"].metrics()) is (distribution != "point")
    strided = backtest(task, predictor(task, skeleton, params), data.held_out, 5)
    assert strided["model"].count == 5


def test_there_is_no_row_of_a_season_that_is_not_known_and_it_is_said(tmp_path):
    def noted(lines: list[str], **options: Any) -> dict[str, str]:
        path = tmp_path / "a.csv"
        path.write_text("\n".join(["date,x", *lines]))
        given = {"data": str(path), "input_len": 4, "horizon": 2, "hidden_size": 4}
        task, data = SeriesTask.load(SeriesConfig(**(given | options)))
        return note_of(task, task.part(data.train.rows, "test"))

    years = [f"{1950 + k}-01-01,{k % 4}" for k in range(40)]
    said = (
        "no row of the last season: the data's step suggests none; train with --season N where "
        "there is a cycle of N steps"
    )
    assert noted(years) == {"note": said}
    assert noted(years, date_column="none") == {"note": said}
    assert noted(years, season=4) == {}
    assert noted(years, season=1) == {}
    assert noted([f"{1950 + k // 12}-{k % 12 + 1:02},{k % 4}" for k in range(60)]) == {}


def test_quantiles_of_paths_are_those_of_what_is_sampled(rows_file):
    config = config_of(rows_file, head="recursive", distribution="student_t", num_samples=50)
    task, data, skeleton, params = trained(config)
    predict = predictor(task, skeleton, params)
    past, known, _ = data.held_out.take(np.arange(3))
    got = predict(past, known)
    assert got.shape == (3, 4, 2, 3)
    assert (np.diff(got) >= 0).all()
    np.testing.assert_array_equal(got, predict(past, known))
    uniforms = path_uniforms(task, 3, 4)
    assert uniforms.shape == (2, 50, 3, 4, 2)
    assert len(np.unique(uniforms)) > 0.999 * uniforms.size  # no step is drawn as another
    model: Any = skeleton.merge(params)
    paths = np.asarray(model.sample(jnp.asarray(past), jnp.asarray(known), uniforms))
    expected = np.moveaxis(np.quantile(paths, task.config.levels, axis=0), 0, -1)
    assert_close(got, expected, "float32")


def made(path, future: int = FUTURE, **options: Any) -> tuple[Any, Any, Any]:
    """A task with fresh parameters, its predictor and its series."""
    config = config_of(write_rows(path, future), dtype="float64", **options)
    task, _, skeleton, params = trained(config)
    return task, predictor(task, skeleton, params), task.read(config.data)


HEADS: dict[str, dict[str, Any]] = {
    "direct": {"head": "direct"},
    "recursive": {"head": "recursive"},
    "paths": {"head": "recursive", "distribution": "student_t", "num_samples": 20},
    "segments": {"head": "segments", "segment_len": 4},
}


@pytest.mark.parametrize("known", [("k",), ()])
@pytest.mark.parametrize("head", HEADS)
def test_a_longer_forecast_begins_with_the_shorter_one(tmp_path, head, known):
    task, predict, series = made(tmp_path / "rows.csv", known=known, **HEADS[head])
    assert task.calendar == ("hour",)
    found = {n: ahead(task, predict, task.rows(series, n), ROWS, n) for n in (1, 3, 4, 5, FUTURE)}
    for num_steps, forecast in found.items():
        assert forecast.shape == (num_steps, 2, 3)
        assert_close(forecast, found[FUTURE][:num_steps])


@pytest.mark.parametrize("head", ["direct", "segments"])
def test_beyond_the_horizon_its_own_medians_are_the_past(tmp_path, head):
    task, predict, series = made(tmp_path / "rows.csv", known=("k",), **HEADS[head])
    rows = task.rows(series, FUTURE)
    long = ahead(task, predict, rows, ROWS, FUTURE)
    dates = np.datetime64("2021-03-01T00:00:00") + 3600 * np.arange(ROWS + 8)
    assert_close(rows[:, 3:], calendar(dates, ("hour",)))  # of the whole block
    k = values_of()[:, 3]
    k = np.append(k, [k[-1]] * 2)  # the file has no more
    assert_close(rows[:, 2], (k - task.scalers[2].mean) / task.scalers[2].std)
    rows[ROWS : ROWS + 4, :2] = long[:4, :, 1]
    block = predict(rows[None, ROWS - 4 : ROWS + 4], rows[None, ROWS + 4 :, 2:])[0]
    assert_close(long[4:], block[:2])


def test_what_is_known_of_the_rest_of_a_block_is_read_as_far_as_it_is(tmp_path):
    options: dict[str, Any] = {**HEADS["segments"], "known": ("k", "c"), "targets": ("x",)}
    path = tmp_path / "rows.csv"
    task, predict, series = made(path, 0, **options)
    hours = np.arange(ROWS, ROWS + 3).astype("timedelta64[h]") + np.datetime64("2021-03-01T00")
    given = [(1.0, 5.0), (2.0, None), (3.0, 7.0)]
    lines = [f"{h}:00,,,{c or ''},{v}" for h, (v, c) in zip(hours, given, strict=True)]
    path.write_text(path.read_text() + "\n".join(lines) + "\n")
    series = task.read(str(path))
    scaled = task.rows(series, 1)[ROWS:, 1:3]
    means, stds = (np.array([getattr(s, n) for s in task.scalers[1:]]) for n in ("mean", "std"))
    assert_close(scaled * stds + means, [[1, 5], [2, 5], [3, 7], [3, 7]])
    assert ahead(task, predict, task.rows(series, 1), ROWS, 1).shape == (1, 1, 3)
    assert "has 1 rows of k, c after the last" in message(task.rows, series, 2)


def test_what_is_not_known_of_the_future_is_said(tmp_path):
    path = write_rows(tmp_path / "rows.csv", 2)
    task, _, skeleton, params = trained(config_of(path, known=("k",), covariates=("c",)))
    series = task.read(path)
    assert message(task.rows, series, 4) == (
        f"{path} has 2 rows of k after the last with targets, 4 steps are to be forecast; append "
        "rows, their targets empty, or lower --horizon"
    )
    rows = np.concatenate([task.rows(series), task.rows(series)[:9]])
    text = message(ahead, task, predictor(task, skeleton, params), rows, ROWS, 5)
    assert "--horizon is 5, the model's is 4: to go on it would have to read c" in text


def test_another_file_must_have_the_runs_step(tmp_path, rows_file):
    task, _ = SeriesTask.load(config_of(rows_file))
    assert task.read_evaluation(rows_file).num_counted == ROWS - 8 - 4 + 1
    path = tmp_path / "other.csv"
    path.write_text("date,x,y\n2021-01-01,1,2\n2021-01-02,2,4\n")
    assert "has 23 missing rows" in message(task.read, str(path))
    path.write_text("x,y\n1,2\n2,4\n")
    assert "no column of dates, the run's series is hourly" in message(task.read, str(path))
    path.write_text("date,x,y\n2021-01-01 00:00,1,2\n2021-01-01 01:00,2,4\n")
    assert "has 2 rows, a window needs 12" in message(task.read_evaluation, str(path))


# --- training ---


@pytest.mark.parametrize(
    "options",
    [
        {"head": "direct", "known": ("k",), "dropout": 0.4},
        {"head": "recursive", "distribution": "student_t", "dropout": 0.4, "cell": "lstm"},
        {"head": "segments", "segment_len": 4, "distribution": "point", "normalize": "last"},
    ],
    ids=["direct", "recursive", "segments"],
)
def test_a_run_goes_on_to_the_same_bits(rows_file, tmp_path, options):
    config = config_of(rows_file, run=str(tmp_path / "whole"), **options)
    whole, outcome = train(config, "series")
    assert outcome.reason == "done"
    calls = iter(range(1, 100))
    cut_config = dataclasses.replace(config, run=str(tmp_path / "cut"), steps_per_dispatch=2)
    stop = lambda: "SIGTERM" if next(calls) > 1 else None  # noqa: E731
    cut, outcome = train(cut_config, "series", stop_requested=stop)
    assert outcome.reason == "SIGTERM"
    assert 0 < outcome.step < 6
    cut, outcome = go_on(cut)
    assert (outcome.reason, outcome.step) == ("done", 6)
    assert_same_bits(last_of(cut)[0], last_of(whole)[0])
    assert lines_of(cut) == lines_of(whole)
    assert (cut.path / "test.json").read_bytes() == (whole.path / "test.json").read_bytes()
    found = json.loads((whole.path / "test.json").read_text())
    assert (found["part"], found["windows"]) == ("test", 22)
    assert (whole.path / "prediction.png").stat().st_size > 10_000


def test_training_is_better_than_the_last_value(tmp_path):
    path = write_rows(tmp_path / "rows.csv")
    options: dict[str, Any] = {"targets": ("x",), "steps": 150, "eval_every": 50, "lr": 0.02}
    _, outcome = train(
        config_of(path, run=str(tmp_path / "run"), batch_size=16, **options), "series"
    )
    assert outcome.metrics["val_mse"] < 0.5 * outcome.metrics["naive_mse"]


# --- what float32 can't hold ---


@pytest.mark.parametrize("row", [110, 149])
@pytest.mark.parametrize(("column", "name"), [(2, "y"), (4, "k")])
def test_a_value_too_far_from_those_trained_on_is_refused(rows_file, row, column, name):
    path = Path(rows_file)
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[row][column] = "-1e29"
    path.write_text("\n".join(map(",".join, lines)))
    text = message(SeriesTask.load, config_of(rows_file, known=("k",)))
    assert text.startswith(f"{path}: step {row} of column {name!r} is -1e+29, more than 1e+15 ")
    assert text.endswith("; correct it, or leave it out")


def test_what_is_to_come_is_not_too_far_either(tmp_path):
    path = Path(write_rows(tmp_path / "rows.csv", FUTURE))
    task, _ = SeriesTask.load(config_of(str(path), known=("k",)))
    path.write_text(path.read_text().rstrip("\n").rpartition(",")[0] + ",1e29\n")
    series = task.read(str(path))
    text = message(task.rows, series, FUTURE)
    assert text.startswith(f"{path}: step to come {FUTURE} of column 'k' is 1e+29, more than")


def test_errors_that_are_not_finite_are_null_in_test_json(rows_file, tmp_path, monkeypatch):
    monkeypatch.setattr(ForecastErrors, "metrics", lambda self: {"mse": math.inf, "mae": math.nan})
    run, _ = train(config_of(rows_file, run=str(tmp_path / "run"), steps=1), "series")
    found = json.loads((run.path / "test.json").read_text(), parse_constant=pytest.fail)
    assert found["rows"]["last value"] == {"mse": None, "mae": None}
    out = io.StringIO()
    report.forecast_errors(Console(file=out), "test", found)
    assert "test, 22 windows" in out.getvalue()
    assert not any(word in out.getvalue() for word in ("None", "nan", "inf"))
