import functools
import io
import sys
from pathlib import Path

import command_line
import jax
import numpy as np
import pytest

from jaxrnn import cli, sample, train_step
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.models.char_lm import generate
from jaxrnn.runs import Run
from jaxrnn.tasks import TASKS

TEXT = "the cat sat on the mat; a dog ate the hat.\nÜ猫 "


def make_run(path: Path, task_name: str, config) -> Run:
    """A run with a checkpoint of its initial parameters, made larger: sampling needs no more."""
    task, data = TASKS[task_name].load(config)
    run = Run.create(task_name, config, data.facts)
    _, _, state = train_step.initial_state(task, config)
    params = {name: 4 * value for name, value in state.params.items()}
    run.save(state._replace(params=params), {"step": 0})
    return run


def char_run(folder: Path, name: str, text: str, **options) -> Run:
    (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    config = CharConfig(
        data=str(folder / f"{name}.txt"),
        cell="rnn",
        hidden_size=6,
        batch_size=2,
        seq_len=4,
        embedding_size=0,
        run=str(folder / name),
        val_fraction=0.0,
        **options,
    )
    return make_run(folder, "char", config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sample")
    char_run(folder, "run", TEXT * 4)
    char_run(folder, "bytes", TEXT * 4, tokens="bytes")
    char_run(folder, "line", "one line only, without a break; " * 4)
    make_run(folder, "sine", SineConfig(hidden_size=4, run=str(folder / "series")))
    (folder / "other").mkdir()
    return folder


command = functools.partial(command_line.run, sample.main)


def test_the_text_is_the_prime_and_what_is_generated(folder, monkeypatch, capsys):
    run = str(folder / "run")
    argv = (run, "--prime", "the ", "--length", "70", "--seed", "3", "--temperature", "0.9")
    code, out, err = command(monkeypatch, capsys, *argv, "--top-k", "9", "--top-p", "0.9")
    assert (code, err) == (0, "")
    task, skeleton, params, _ = cli.open_model(run, "auto", "auto")
    chunks = generate(
        (skeleton, params),
        task.vocabulary.encode("the "),
        length=70,
        key=jax.random.key(3),
        temperature=0.9,
        top_k=9,
        top_p=0.9,
    )
    assert out == "the " + task.vocabulary.decode(np.concatenate(list(chunks))) + "\n"
    assert len(out) == 4 + 70 + 1


def test_a_seed_gives_its_text_again_and_another_seed_another(folder, monkeypatch, capsys):
    argv = (str(folder / "run"), "--prime", "a", "--length")
    first = command(monkeypatch, capsys, *argv, "40", "--seed", "1")[1]
    assert command(monkeypatch, capsys, *argv, "40", "--seed", "1")[1] == first
    assert command(monkeypatch, capsys, *argv, "40", "--seed", "2")[1] != first
    assert command(monkeypatch, capsys, *argv, "25", "--seed", "1")[1] == first[:26] + "\n"


@pytest.mark.parametrize("name", ["run", "line", "bytes"])
def test_without_a_prime_it_begins_somewhere(name, folder, monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys, str(folder / name), "--length", "5")
    assert (code, err) == (0, "")
    assert len(out.strip("\n")) <= 6


def test_bytes_come_out_as_text_whatever_they_are(folder, monkeypatch, capsys):
    argv = (str(folder / "bytes"), "--prime", "猫", "--length", "200", "--temperature", "3")
    code, out, err = command(monkeypatch, capsys, *argv)
    assert (code, err) == (0, "")
    assert out.startswith("猫")
    assert out.endswith("\n")


def test_what_the_stream_cannot_show_is_replaced(folder, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", newline="")
    monkeypatch.setattr(sys, "stdout", stream)
    argv = ["sample", str(folder / "run"), "--prime", "Ü猫a", "--length", "3"]
    monkeypatch.setattr(sys, "argv", argv)
    assert sample.main() == 0
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"??a")  # type: ignore[attr-defined]


BAD = {
    "no run": (["no"], "no run directory no"),
    "not a run": (["other"], "other is not a run directory"),
    "another task": (["series"], "series is of the task 'sine', expected 'char'"),
    "unknown characters": (
        ["run", "--prime", "Zoo"],
        "--prime has 1 character that the vocabulary of",
    ),
    "no best": (["run", "--checkpoint", "best"], "has no checkpoint 'best.safetensors' yet"),
    "length": (["run", "--length", "0"], "--length is 0, expected at least 1"),
    "temperature": (["run", "--temperature", "-1"], "--temperature is -1.0, expected a number"),
    "temperature nan": (["run", "--temperature", "nan"], "--temperature is nan"),
    "top k": (["run", "--top-k", "-1"], "--top-k is -1, expected at least 0"),
    "top p": (["run", "--top-p", "0"], "--top-p is 0.0, expected above 0, at most 1"),
    "seed": (["run", "--seed", "-1"], "--seed is -1, expected from 0"),
    "no argument": ([], "RUN"),
    "unknown option": (["run", "--tmperature", "1"], "--tmperature"),
    "wrong type": (["run", "--length", "long"], "--length"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, folder, monkeypatch, capsys):
    argv, expected = BAD[case]
    monkeypatch.chdir(folder)
    code, out, err = command(monkeypatch, capsys, *argv)
    assert code == 2
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""


def test_a_damaged_checkpoint_is_named(folder, tmp_path, monkeypatch, capsys):
    run = char_run(tmp_path, "run", TEXT)
    last = run.checkpoint_path("last")
    last.write_bytes(last.read_bytes()[:-1])
    code, _, err = command(monkeypatch, capsys, str(run.path))
    assert (code, err.count("\n")) == (2, 1)
    assert str(last) in err


def test_a_run_with_other_options_is_refused_by_name(tmp_path, monkeypatch, capsys):
    run = char_run(tmp_path, "run", TEXT)
    config = run.path / "config.toml"
    config.write_text(config.read_text().replace("hidden_size = 6", "hidden_size = 7"))
    code, _, err = command(monkeypatch, capsys, str(run.path))
    assert (code, err.count("\n")) == (2, 1)
    for name in ("rnn.weight_hh_l0", "decoder.weight", "rnn.bias_ih_l0"):
        assert name in err


def test_help_has_examples(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "--help")
    assert code == 0
    assert "python -m jaxrnn.sample runs/" in out
    for flag in ("prime", "length", "temperature", "top-k", "top-p", "seed", "checkpoint"):
        assert f"--{flag}" in out
