import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from refusals import message
from run_cases import FACTS, new_run

from jaxrnn import files, runs
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.errors import InputError
from jaxrnn.runs import Run


@pytest.fixture
def run(tmp_path) -> Run:
    return new_run(tmp_path / "a")


def test_a_run_comes_back_as_it_was_made(run):
    opened = Run.open(run.path)
    assert (opened.path, opened.task, opened.config) == (run.path, "char", run.config)
    assert opened.facts == FACTS
    assert opened.config == CharConfig(run=str(run.path), seed=5)
    assert sorted(os.listdir(run.path)) == ["checkpoints", "config.toml", "run.json"]
    about = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert about["format"] == 2
    assert about["about"]["versions"]["numpy"] == np.__version__
    assert set(about) == {"format", "task", "facts", "about"}
    assert set(about["about"]) == {"id", "revision", "command", "created", "versions"}


def test_a_moved_run_opens_where_it_is(run, tmp_path):
    moved = tmp_path / "elsewhere"
    run.path.rename(moved)
    opened = Run.open(str(moved))
    assert opened.path == moved
    assert opened.config.run == str(moved)


def test_without_a_name_a_run_goes_by_its_task_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Run.create("sine", SineConfig(), {})
    assert made.path.parts[0] == "runs"
    assert made.path.name.startswith("sine-2")
    assert Run.open(made.path).config == SineConfig(run=str(made.path))


def test_two_runs_begun_in_the_same_second_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "20250101-120000")
    first = Run.create("char", CharConfig(), FACTS)
    second = Run.create("char", CharConfig(), FACTS)
    assert first.path != second.path


def test_an_empty_directory_may_be_named(tmp_path):
    (tmp_path / "a").mkdir()
    assert Run.create("char", CharConfig(run=str(tmp_path / "a")), FACTS).path == tmp_path / "a"


@pytest.mark.parametrize("is_absolute", [False, True])
def test_the_directory_that_a_process_works_in_is_no_run(tmp_path, monkeypatch, is_absolute):
    monkeypatch.chdir(tmp_path)
    name = str(tmp_path) if is_absolute else "."
    text = message(Run.create, "char", CharConfig(run=name), FACTS)
    assert text == (
        f"--run is {name}, the directory that this works in, expected another; name one in it, as "
        f"--run {tmp_path / 'char' if is_absolute else 'char'}"
    )
    assert os.listdir(tmp_path) == os.listdir(".") == []


def test_a_directory_with_anything_in_it_is_left_alone(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years")
    config = CharConfig(run=str(tmp_path / "a"))
    text = message(Run.create, "char", config, FACTS)
    assert text.startswith(f"--run {tmp_path / 'a'} exists already")
    assert os.listdir(tmp_path / "a") == ["thesis.txt"]


def test_a_file_in_the_way_is_left_alone(tmp_path):
    (tmp_path / "a").write_text("years")
    text = message(Run.create, "char", CharConfig(run=str(tmp_path / "a")), FACTS)
    assert text.startswith(f"--run {tmp_path / 'a'} exists already")
    text = message(Run.create, "char", CharConfig(run=str(tmp_path / "a" / "b")), FACTS)
    assert text == f"can't write the run directory {tmp_path / 'a' / 'b'}: Not a directory"
    assert (tmp_path / "a").read_text() == "years"


def test_what_is_not_a_run_is_refused(run, tmp_path):
    assert message(Run.open, tmp_path / "no") == f"no run directory {tmp_path / 'no'}"
    (tmp_path / "file").write_text("")
    assert message(Run.open, tmp_path / "file") == f"no run directory {tmp_path / 'file'}"
    assert message(Run.open, tmp_path) == (f"{tmp_path} is not a run directory: it has no run.json")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b"{}", b'{"format": 1}', b'{"format": 1, "facts": 3}'),
        *(b"\xff\xfe", b"\xff" * 10**5, b"1" * 5000, b"[" * 10**5),
        b'{"format": 2, "about": {}, "facts": {"a": ' + b"[" * 9 + b"]" * 9 + b"}}",
    ],
)
def test_a_damaged_run_json_is_refused(run, content):
    (run.path / "run.json").write_bytes(content)
    text = message(Run.open, run.path)
    assert text.startswith(f"{run.path / 'run.json'} is damaged: ")
    assert text.endswith("put a copy of it back, or start a new run")
    assert len(text) < 300


def test_another_format_is_refused(run):
    about = json.loads((run.path / "run.json").read_text())
    (run.path / "run.json").write_text(json.dumps(about | {"format": "x"}))
    assert message(Run.open, run.path) == (
        f"{run.path} has run format 'x', this version reads up to 2; it was made by another "
        "version of jaxrnn"
    )


def test_a_missing_or_damaged_config_is_refused(run):
    (run.path / "config.toml").write_text("lr = -1.0\n")
    assert f"{run.path / 'config.toml'}: --lr is -1.0" in message(Run.open, run.path)
    (run.path / "config.toml").unlink()
    assert "can't read the configuration" in message(Run.open, run.path)


def test_a_run_directory_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    write = files.write_atomically

    def watched(path, data):
        assert not (tmp_path / "a").exists()
        if path.name == "run.json":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(files, "write_atomically", watched)
    text = message(Run.create, "char", CharConfig(run=str(tmp_path / "a")), FACTS)
    assert text == f"can't write the run directory {tmp_path / 'a'}: No space left on device"
    assert os.listdir(tmp_path) == []


def test_a_run_has_one_process_at_a_time(run):
    copied = run.path.with_name("copied")
    with run.locked():
        with pytest.raises(InputError, match="is being trained by another process"):
            Run.open(run.path).locked().__enter__()
        shutil.copytree(run.path, copied)
        with Run.open(copied).locked():
            pass
        moved = run.path.rename(run.path.with_name("moved"))
        with pytest.raises(InputError, match="moved is being trained by another process"):
            Run.open(moved).locked().__enter__()
    with Run.open(moved).locked():
        pass


def test_the_lock_goes_with_its_process(run):
    code = (
        "import fcntl, signal\n"
        f"file = open({str(run.path / 'run.json')!r}, 'r+b')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(InputError, match="is being trained by another process"):
            run.locked().__enter__()
        process.kill()
        process.wait()
        with run.locked():
            pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_filesystem_without_locks_is_no_obstacle(run, monkeypatch, number):
    def fails(*_):
        raise OSError(number, "No locks")

    monkeypatch.setattr("fcntl.flock", fails)
    with run.locked():
        pass


def test_a_lock_that_fails_otherwise_is_an_error(run, monkeypatch):
    def fails(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("fcntl.flock", fails)
    with pytest.raises(OSError, match="Input/output error"), run.locked():
        pass


def test_what_a_run_can_not_be_without(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path / "config.toml")
    names = ("run.json", "config.toml", "metrics.jsonl", "checkpoints/a/b.png", "../link")
    assert [runs.is_own(run.path / name) for name in names] == [True] * 5
    others = ("loss.png", "test.json", "../run.json", "../checkpoints/a", "a/run.json", ".", "..")
    assert [runs.is_own(run.path / name) for name in others] == [False] * 7


def test_of_two_runs_begun_in_one_second_both_are_made(tmp_path, monkeypatch):
    """Another has taken the name after it was found free."""
    monkeypatch.chdir(tmp_path)
    free, taken = runs._free, []

    def slow(path):
        found = free(path)
        if not taken:
            taken.append(Run.create("char", CharConfig(run=found), FACTS).path)
        return found

    monkeypatch.setattr(runs, "_free", slow)
    monkeypatch.setattr(runs.time, "strftime", lambda *_: "now")
    run = Run.create("char", CharConfig(), FACTS)
    assert [str(taken[0]), str(run.path)] == ["runs/char-now", "runs/char-now-2"]
    assert Run.open(run.path).facts == Run.open(taken[0]).facts == FACTS


def test_what_is_far_too_large_is_not_read(run):
    with open(run.path / "metrics.jsonl", "wb") as file:
        file.truncate(2**31)
    text = message(run.metrics)
    assert text == (
        f"can't read {run.path / 'metrics.jsonl'}: File too large; move it away to go on without"
    )
    with open(run.path / "run.json", "ab") as file:
        file.truncate(2**31)
    assert message(Run.open, run.path) == f"can't read {run.path / 'run.json'}: File too large"
