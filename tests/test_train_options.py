"""What the command line of training understands, prints and explains."""

import functools
import os
import tomllib

import command_line
import pytest

from jaxrnn import train
from jaxrnn.config import CONFIGS, CharConfig, SineConfig
from jaxrnn.runs import Run

command = functools.partial(command_line.run, train.main)


def test_without_arguments_it_is_a_character_model_of_the_built_in_text():
    task_name, parsed, resumed = train.parse([])
    assert (task_name, parsed.training, resumed) == ("char", CharConfig(), None)
    assert not parsed.dry_run
    assert parsed.training.data == ""


def test_the_task_is_the_first_word():
    assert train.parse(["sine"])[:1] == ("sine",)
    assert train.parse(["sine"])[1].training == SineConfig()
    task_name, parsed, _ = train.parse(["--hidden-size", "8"])
    assert (task_name, parsed.training) == ("char", CharConfig(hidden_size=8))


def test_every_option_has_its_flag():
    argv = [
        *("char", "--data", "a b.txt", "--cell", "gru", "--hidden-size", "7", "--num-layers", "2"),
        *("--dropout", "0.25", "--batch-size", "3", "--seq-len", "9", "--lr", "1e-2", "--clip"),
        *("1.5", "--epochs", "4", "--steps", "11", "--val-fraction", "0.2", "--seed", "5"),
        *("--batches", "lesson", "--tokens", "bytes", "--dtype", "bfloat16", "--device", "cpu"),
        *("--patience", "3", "--dry-run"),
    ]
    _, parsed, _ = train.parse(argv)
    assert parsed.dry_run
    assert parsed.training == CharConfig(
        data="a b.txt",
        cell="gru",
        hidden_size=7,
        num_layers=2,
        dropout=0.25,
        batch_size=3,
        seq_len=9,
        lr=0.01,
        clip=1.5,
        epochs=4,
        steps=11,
        val_fraction=0.2,
        seed=5,
        batches="lesson",
        tokens="bytes",
        patience=3,
        dtype="bfloat16",
        device="cpu",
    )


def test_options_go_before_the_file_and_the_file_before_defaults(tmp_path):
    (tmp_path / "my.toml").write_text("hidden_size = 5\nseed = 2\n")
    _, parsed, _ = train.parse(["--config", str(tmp_path / "my.toml"), "--seed", "9"])
    assert (parsed.training.seed, parsed.training.hidden_size) == (9, 5)
    assert parsed.training.momentum == CharConfig().momentum


@pytest.mark.parametrize("task", CONFIGS)
def test_what_is_printed_can_be_given_back(task, tmp_path, monkeypatch, capsys):
    argv = [task, "--data", 'a "b"\\n\n😀#.txt', "--lr", "1e-7", "--clip", "1e38", "--seed", "3"]
    code, out, err = command(monkeypatch, capsys, *argv, "--print-config")
    assert (code, err) == (0, "")
    assert tomllib.loads(out)["task"] == task
    (tmp_path / "my.toml").write_text(out, encoding="utf-8")
    given, parsed, _ = train.parse(["--config", str(tmp_path / "my.toml")])
    assert (given, parsed.training) == (task, train.parse(argv)[1].training)
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, capsys, "--config", "my.toml", "--print-config")[1] == out
    assert os.listdir(tmp_path) == ["my.toml"]


@pytest.mark.parametrize("task", CONFIGS)
def test_help_shows_examples_and_every_option(task, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = command(monkeypatch, capsys, task, "--help")
    assert (code, err) == (0, "")
    assert "examples:" in out
    for example in ("sine --data file.csv --target price", "--resume runs/"):
        assert f"  python -m jaxrnn.train {example}" in out
    for name in CONFIGS[task].__dataclass_fields__:
        flag = name.replace("_", "-")
        assert f"--{flag} " in out or f"--no-{flag} " in out  # the one that changes the default
    assert "optimizer steps; above 0 it takes the place of epochs" in " ".join(out.split())


@pytest.mark.parametrize("flag", ["--resume", "--config"])
def test_an_empty_name_is_no_name(flag, monkeypatch, capsys):
    """As of a variable of the shell that is not set."""
    code, out, err = command(monkeypatch, capsys, flag, "", "--dry-run")
    assert (code, out) == (2, "")
    assert err == f"error: {flag} is empty, expected a name; leave it out to go without\n"


def test_other_data_of_a_resumed_run_are_found_from_everywhere(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on the mat " * 20)
    (tmp_path / "b.txt").write_text("the cat sat on the mat " * 20)
    monkeypatch.chdir(tmp_path)
    small = ("--hidden-size", "2", "--batch-size", "2", "--seq-len", "4", "--preview-length", "0")
    small += ("--schedule", "constant")
    argv = ("--data", "a.txt", *small, "--steps", "1", "--run", "run")
    assert command(monkeypatch, capsys, *argv)[0] == 0
    argv = ("--resume", "run", "--data", "b.txt", "--steps", "2")
    assert command(monkeypatch, capsys, *argv)[0] == 0
    (tmp_path / "c").mkdir()
    monkeypatch.chdir(tmp_path / "c")
    code, _, err = command(monkeypatch, capsys, "--resume", "../run", "--epochs", "3")
    expected = "--epochs is 3, but the run has --steps 2, which goes first; give --steps 0 with it"
    assert (code, err) == (2, f"error: {expected}\n")
    assert command(monkeypatch, capsys, "--resume", "../run", "--steps", "3")[0] == 0
    assert Run.open("../run").config.data == str(tmp_path / "b.txt")
