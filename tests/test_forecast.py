"""The commands around a forecaster: forecast, evaluate, and what train prints at the end."""

import csv
import json
from pathlib import Path
from typing import Any

import command_line
import numpy as np
import pytest
from series_cases import FUTURE, ROWS, config_of, write_rows
from small_runs import train
from tolerances import assert_close

from jaxrnn import evaluate, forecast, report
from jaxrnn.config import CharConfig
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS
from jaxrnn.tasks.series_forecasts import ahead, backtest, predictor
from jaxrnn.training import load_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs with what is known of the future, of points, with covariates; and none of a series."""
    folder = tmp_path_factory.mktemp("forecast")
    data = write_rows(folder / "rows.csv", FUTURE)
    write_rows(folder / "past.csv")
    for name, options in (
        ("run", {"known": ("k",)}),
        ("points", {"distribution": "point", "head": "segments", "segment_len": 4}),
        ("past", {"covariates": ("c",)}),
        ("steps", {"date_column": "none", "split": "140,10,0"}),
    ):
        of = data if name == "run" else str(folder / "past.csv")
        train(config_of(of, run=str(folder / name), steps=3, **options), "series")
    (folder / "text.txt").write_text("the cat sat on the mat " * 20)
    char: dict[str, Any] = {"hidden_size": 4, "seq_len": 4, "batch_size": 2, "preview_length": 0}
    train(CharConfig(data=str(folder / "text.txt"), steps=1, run=str(folder / "char"), **char))
    return folder


def command(module, *rest):
    return command_line.run(module.main, *rest)


def opened(path: Path) -> tuple[Any, Any, Any]:
    """The task, its predictor and its rows with the future."""
    run = Run.open(path)
    task: Any = TASKS["series"].from_facts(run.config, run.facts)
    skeleton, params, _ = load_model(task, run)
    return task, predictor(task, skeleton, params), task.read(run.config.data)


@pytest.mark.parametrize("horizon", [0, 3, 6])
def test_the_file_has_the_dates_that_follow_and_every_quantile(
    horizon, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    argv = ["--horizon", str(horizon)] if horizon else []
    code, out, err = command(forecast, monkeypatch, capsys, str(folder / "run"), *argv)
    assert (code, err) == (0, "")
    task, predict, series = opened(folder / "run")
    count = horizon or 4
    found = ahead(task, predict, task.rows(series, count), ROWS, count)
    expected = task.unscaled(found, 1)
    with open("forecast.csv", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["date", "x", "x_q0.1", "x_q0.9", "y", "y_q0.1", "y_q0.9"]
    hours = np.arange(ROWS, ROWS + count).astype("timedelta64[h]")
    dates = [f"{date}:00:00".replace("T", " ") for date in np.datetime64("2021-03-01T00") + hours]
    assert [row[0] for row in rows] == dates
    values = np.array([row[1:] for row in rows], float).reshape(count, 2, 3)
    np.testing.assert_allclose(values, expected[:, :, [1, 0, 2]], rtol=1e-6)
    assert Path("forecast.png").stat().st_size > 10_000
    last = dates[-1].removesuffix(":00")
    assert f"wrote   forecast.csv: x, y, 2021-03-07 06:00 to {last} with their 80% interval" in out
    assert "note    6 rows without targets at the end are the future" in out
    beyond = "from step 5 on beyond the horizon that was trained, intervals too narrow"
    assert (beyond in out) is (horizon == 6)


def test_what_was_moved_to_utc_is_written_so(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    header, *lines = (folder / "past.csv").read_text().splitlines()
    moved = []
    for line in lines:
        date, rest = line.split(",", 1)
        later = np.datetime64(date.replace(" ", "T")) + np.timedelta64(2, "h")
        moved.append(f"{later}+02:00,{rest}")
    Path("new.csv").write_text("\n".join([header, *moved]))
    found = {}
    for name, more in (("a.csv", ()), ("b.csv", ("--data", "new.csv"))):
        argv = (str(folder / "past"), *more, "--to", name, "--plot", "")
        code, out, _ = command(forecast, monkeypatch, capsys, *argv)
        assert code == 0
        found[name] = Path(name).read_text().splitlines()
    assert "note    times with an offset were moved to UTC" in out
    assert found["b.csv"] == [
        found["a.csv"][0],
        *(line.replace(",", "+00:00,", 1) for line in found["a.csv"][1:]),
    ]


def test_points_have_no_interval_and_rows_may_have_no_dates(folder, tmp_path, monkeypatch, capsys):
    argv = ("--to", str(tmp_path / "a.csv"), "--plot", "")
    code, out, _ = command(forecast, monkeypatch, capsys, str(folder / "points"), *argv)
    assert code == 0
    assert "points have no interval: train with --distribution quantiles" in out
    assert (tmp_path / "a.csv").read_text().startswith("date,x,y\n")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    code, out, _ = command(forecast, monkeypatch, capsys, str(folder / "steps"), *argv)
    assert code == 0
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0].startswith("step,x,x_q0.1")
    assert [line.split(",")[0] for line in lines[1:]] == ["151", "152", "153", "154"]


def test_another_file_is_gone_on_from(folder, tmp_path, monkeypatch, capsys):
    path = write_rows(tmp_path / "new.csv", 4, rows=30)
    argv = ("--data", path, "--to", str(tmp_path / "a.csv"), "--plot", str(tmp_path / "a.svg"))
    assert command(forecast, monkeypatch, capsys, str(folder / "run"), *argv)[0] == 0
    task, predict, _ = opened(folder / "run")
    series = task.read(path)
    expected = task.unscaled(ahead(task, predict, task.rows(series, 4), 30, 4), 1)
    with open(tmp_path / "a.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert rows[0][0] == "2021-03-02 06:00:00"
    np.testing.assert_allclose(float(rows[2][1]), expected[2, 0, 1], rtol=1e-6)


def test_what_is_wrong_with_a_new_file_is_mended_by_flags(folder, tmp_path, monkeypatch, capsys):
    whole = (folder / "past.csv").read_text().splitlines()
    (tmp_path / "whole.csv").write_text("\n".join(whole[:62]))
    rest = [*whole[:30], whole[29], *whole[31:62]]
    stamps = [line.replace("2021-03-", "03/").replace(" ", "/2021 ", 1) for line in rest[1:]]
    (tmp_path / "rest.csv").write_text("\n".join([whole[0].replace("date", "when"), *stamps]))
    argv = [str(folder / "points"), "--data", str(tmp_path / "rest.csv")]
    to = ["--to", str(tmp_path / "a.csv"), "--plot", ""]
    flags: list[str] = []
    for error, *flag in (
        (
            "may begin with its day or its month; set --date-format",
            "--date-format",
            "%m/%d/%Y %H:%M",
        ),
        ("set --duplicates", "--duplicates", "last"),
        ("set --gaps", "--gaps", "previous"),
    ):
        for module, more in ((forecast, to), (evaluate, [])):
            code, _, err = command(module, monkeypatch, capsys, *argv, *more, *flags)
            assert code == 2
            assert error in err
        flags += flag
    flags += ["--date-column", "when"]
    assert command(forecast, monkeypatch, capsys, *argv, *to, *flags)[0] == 0
    got = (tmp_path / "a.csv").read_text()
    command(forecast, monkeypatch, capsys, *argv[:2], str(tmp_path / "whole.csv"), *to)
    assert got.splitlines()[1:] == (tmp_path / "a.csv").read_text().splitlines()[1:]
    code, out, _ = command(evaluate, monkeypatch, capsys, *argv, *flags, "--json")
    assert (code, json.loads(out)["windows"]) == (0, 61 - 11)
    for module in (evaluate,):
        code, _, err = command(module, monkeypatch, capsys, argv[0], "--gaps", "previous")
        assert (code, err) == (2, "error: --gaps is of a file that --data names; add it\n")


BAD = {
    "another task": (["char"], "char is of the task 'char', expected 'series'"),
    "too few rows": (["past", "--data", "few.csv"], "few.csv has 7 rows, the model reads the last"),
    "no future": (["run", "--data", "past.csv"], "has 0 rows of k after the last with targets"),
    "past only": (["past", "--horizon", "5"], "would have to read c, which are known of the past"),
    "negative": (["run", "--horizon", "-1"], "--horizon is -1, expected from 0 to 100000"),
    "no picture": (["run", "--plot", "a.csv"], "--plot is 'a.csv', expected a name in .png"),
    "nowhere": (["run", "--to", "no/a.csv"], "--to is no/a.csv, but there is no directory"),
    "no run": (["no"], "no run directory no"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, folder, monkeypatch, capsys):
    argv, expected = BAD[case]
    monkeypatch.chdir(folder)
    write_rows(folder / "few.csv", rows=7)
    code, out, err = command(forecast, monkeypatch, capsys, *argv)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


# --- evaluate ---


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--to", "a.png", "--plot", "./a.png"], "--to and --plot are both a.png; choose two"),
        (["--to", "a.csv", "--plot", "no/a.png"], "--plot is no/a.png, but there is no directory"),
        (["--data", "in.csv", "--to", "in.csv"], "--to is in.csv, which the forecast reads"),
        *(
            (["--to", to], f"--to is {to}, a directory, expected a file; name one in it\n")
            for to in (".", "/", "..")
        ),
        (["--to", "{run}/run.json"], "--to is {run}/run.json, which a run can't be without"),
        (
            ["--plot", "{run}/checkpoints/a.png"],
            "--plot is {run}/checkpoints/a.png, which a run can't be without",
        ),
    ],
)
def test_no_output_takes_the_place_of_another_file(
    argv, expected, folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    content, run = (folder / "rows.csv").read_bytes(), folder / "run"
    Path("in.csv").write_bytes(content)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    argv = [word.format(run=run) for word in argv]
    code, _, err = command(forecast, monkeypatch, capsys, str(run), *argv)
    assert code == 2
    assert err.startswith(f"error: {expected.format(run=run)}")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("in.csv", content)]


def test_a_forecaster_is_measured_on_its_test_part(folder, monkeypatch, capsys):
    run = str(folder / "run")
    task, predict, series = opened(folder / "run")
    rows = task.rows(series)
    for argv, part, count in (((), "test", 22), (("--part", "train"), "train", 89)):
        code, out, _ = command(evaluate, monkeypatch, capsys, run, "--json", *argv)
        assert code == 0
        found = json.loads(out, parse_constant=pytest.fail)
        assert (found["data"], found["windows"]) == (part, count)
        expected = backtest(task, predict, task.part(rows, part))
        for name, errors in expected.items():
            for key, value in errors.metrics().items():
                assert_close(found["rows"][name][key], value, "float32", key)
    code, out, _ = command(evaluate, monkeypatch, capsys, run)
    assert code == 0
    assert "test, 22 windows" in out
    assert all(word in out for word in ("last value", "last season of 24", "MASE", "coverage"))


def test_a_backtest_has_errors_of_each_step_and_target(folder, monkeypatch, capsys):
    argv = ("--backtest", "--stride", "4")
    code, out, _ = command(evaluate, monkeypatch, capsys, str(folder / "run"), *argv)
    assert code == 0
    found = json.loads(out, parse_constant=pytest.fail)
    task, predict, series = opened(folder / "run")
    errors = backtest(task, predict, task.part(task.rows(series), "test"), 4)
    assert (found["windows"], found["targets"]) == (6, ["x", "y"])
    for name, of in errors.items():
        assert_close(found["by_step"][name]["mse"], of.by_step()["mse"], "float32")
        assert_close(found["by_target"][name]["mase"], of.by_target()["mase"], "float32")
    assert len(found["by_step"]["model"]["mse"]) == 4


def test_a_file_is_measured_whole(folder, monkeypatch, capsys):
    argv = (str(folder / "past"), "--data", str(folder / "past.csv"), "--json")
    code, out, _ = command(evaluate, monkeypatch, capsys, *argv)
    assert code == 0
    found = json.loads(out)
    assert (found["data"], found["windows"]) == (str(folder / "past.csv"), ROWS - 11)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["run", "--streams", "2"], "--streams is 2, expected 1: windows are no streams"),
        (["run", "--stride", "0"], "--stride is 0, expected at least 1"),
        (["run", "--part", "test", "--data", "rows.csv"], "expected without --data"),
        (["steps"], "the test part of steps is shorter than --horizon 4; choose another --part"),
        (["char", "--backtest"], "--backtest is of forecasters, char is of the task 'char'"),
        (["char", "--part", "test"], "--part is of forecasters"),
    ],
)
def test_what_can_not_be_measured_is_one_line(argv, expected, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code, out, err = command(evaluate, monkeypatch, capsys, *argv)
    assert (code, out) == (2, "")
    assert expected in err
    assert err.count("\n") == 1


def test_the_end_of_training_shows_the_test_part_beside_naive_forecasts(folder, tmp_path, capsys):
    config = config_of(str(folder / "past.csv"), run=str(tmp_path / "run"), steps=3)
    run, outcome = train(config, "series")
    task = TASKS["series"].from_facts(run.config, run.facts)
    report.outcome(report.console(), task, run, outcome)
    out = capsys.readouterr().out
    assert "test, 22 windows" in out
    found = json.loads((run.path / "test.json").read_text())["rows"]
    for name in ("model", "last value", "last season of 24"):
        assert f"{found[name]['mse']:.5g}" in out
        assert f"{found[name]['mase']:.5g}" in out
    assert f"python -m jaxrnn.forecast {run.path}" in out
    assert f"python -m torch_compat export {run.path}" in out


def test_the_table_of_errors_needs_no_validation_and_says_what_it_lacks(folder, tmp_path, capsys):
    options: dict[str, Any] = {"split": "100,0,50", "season": 120, "steps": 1}
    config = config_of(str(folder / "past.csv"), run=str(tmp_path / "run"), **options)
    run, outcome = train(config, "series")
    task = TASKS["series"].from_facts(run.config, run.facts)
    report.outcome(report.console(), task, run, outcome)
    out = capsys.readouterr().out
    assert "test, 47 windows" in out
    assert "last value" in out
    expected = "no row of the last season: it is 120 steps, the first window has 100 before it"
    assert expected in out


def test_where_one_output_cannot_be_written_the_other_is_not(folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "f.png").write_text("old")
    argv = (folder / "run", "--to", "/proc/f.csv", "--plot", tmp_path / "f.png")
    code, _, err = command(forecast, monkeypatch, capsys, *argv)
    assert (code, err) == (2, "error: can't write /proc/f.csv: No such file or directory\n")
    assert [path.name for path in tmp_path.iterdir()] == ["f.png"]
    assert (tmp_path / "f.png").read_text() == "old"
