import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from refusals import message

from jaxrnn import checkpoint, files, runs
from jaxrnn.config import CharConfig, SineConfig
from jaxrnn.errors import InputError
from jaxrnn.runs import Run

FACTS = {"vocabulary": {"kind": "characters", "symbols": '\n "\\ü😀'}, "digest": "00"}


def tree(value: float) -> dict:
    return {"params": {"w": np.full((2, 3), value, np.float32)}, "carry": np.full(2, -float(value))}


def value_of(loaded) -> float:
    assert loaded is not None
    return float(loaded[0]["params"]["w"][0, 0])


@pytest.fixture
def run(tmp_path) -> Run:
    return Run.create("char", CharConfig(run=str(tmp_path / "a"), seed=5), FACTS)


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


def test_last_previous_and_best(run):
    assert run.load(tree(0)) is None
    for value, best in ((1.0, True), (2.0, True), (3.0, False)):
        run.save(tree(value), {"step": int(value)}, best=best)
    loaded = run.load(tree(0))
    assert loaded is not None
    meta = {"step": 3, "run": run.about["id"]}
    assert (value_of(loaded), loaded[1], loaded[2]) == (3.0, meta, "")
    for name, value in (("last", 3.0), ("previous", 2.0), ("best", 2.0)):
        got = checkpoint.load(run.checkpoint_path(name), tree(0))
        assert (value_of(got), got[1]["step"]) == (value, value)


def test_parts_are_of_the_best_or_the_last_where_none_is_better(run):
    assert "has no checkpoint 'last.safetensors' yet" in message(
        run.load_part, "params", tree(0)["params"]
    )
    run.save(tree(1.0), {"step": 0})
    assert run.load_part("params", tree(0)["params"])[0]["w"][0, 0] == 1
    assert "has no checkpoint 'best.safetensors' yet" in message(
        run.load_part, "params", tree(0)["params"], "best"
    )
    run.save(tree(2.0), {"step": 0}, best=True)
    run.save(tree(3.0), {"step": 0})
    assert run.load_part("params", tree(0)["params"])[0]["w"][0, 0] == 2
    assert run.load_part("params", tree(0)["params"], "last")[0]["w"][0, 0] == 3
    np.testing.assert_array_equal(run.load_part("carry", tree(0)["carry"], "last")[0], [-3, -3])


def test_a_last_checkpoint_cut_short_gives_the_previous_and_says_so(run):
    run.save(tree(1.0), {"step": 1})
    run.save(tree(2.0), {"step": 2})
    last = run.checkpoint_path("last")
    last.write_bytes(last.read_bytes()[:-1])
    loaded = run.load(tree(0))
    assert loaded is not None
    assert (value_of(loaded), loaded[1]["step"]) == (1.0, 1)
    assert loaded[2].startswith(f"{last} is not a whole checkpoint (")


def test_where_last_and_previous_are_gone_the_best_is_gone_on_from(run):
    for value, best in ((1.0, True), (2.0, False), (3.0, False)):
        run.save(tree(value), {"step": int(value)}, best=best)
    last, previous = run.checkpoint_path("last"), run.checkpoint_path("previous")
    last.unlink()
    loaded = run.load(tree(0))
    assert (value_of(loaded), loaded and loaded[2]) == (2.0, f"{last} is missing")
    previous.write_bytes(b"cut")
    loaded = run.load(tree(0))
    assert value_of(loaded) == 1.0
    assert loaded is not None
    assert loaded[2].startswith(f"{last} is missing; {previous} is not a whole checkpoint")


def test_checkpoints_of_another_run_are_refused(run, tmp_path):
    run.save(tree(1.0), {"step": 1}, best=True)
    other = Run.create("char", CharConfig(run=str(tmp_path / "b"), seed=5), FACTS)
    shutil.rmtree(other.path / "checkpoints")
    shutil.copytree(run.path / "checkpoints", other.path / "checkpoints")
    expected = f"was made by another run than {other.path / 'run.json'}; put this run's own"
    assert message(other.load, tree(0)).count(expected) == 2
    assert expected in message(other.load_part, "params", tree(0)["params"])
    copy = tmp_path / "copy"
    shutil.copytree(run.path, copy)
    assert value_of(Run.open(copy).load(tree(0))) == 1


def test_a_damaged_best_is_set_aside(run):
    assert run.without_damaged_best() == ""
    run.save(tree(1.0), {"step": 1}, best=True)
    best = run.checkpoint_path("best")
    assert run.without_damaged_best() == ""
    content = bytearray(best.read_bytes())
    content[-1] ^= 1
    best.write_bytes(content)
    assert "best.safetensors is damaged: its content does not" in run.without_damaged_best()
    assert not best.exists()
    assert run.checkpoint_path("damaged-best").read_bytes() == content


def test_a_best_that_is_missing_is_said_where_there_should_be_one(run):
    assert run.without_damaged_best(3) == f"{run.checkpoint_path('best')} is missing"
    run.save(tree(1.0), {"step": 3}, best=True)
    assert run.without_damaged_best(3) == ""


@pytest.mark.parametrize("step", [None, -1, 1.0, True, "1", 2**31])
def test_a_checkpoint_without_its_step_gives_the_previous(run, step):
    run.save(tree(1.0), {"step": 1})
    run.save(tree(2.0), {} if step is None else {"step": step})
    last = run.checkpoint_path("last")
    said = f"{last} has the step {step!r}, expected a whole number; put another copy of the file"
    assert message(run.load_part, "params", tree(0)["params"]).startswith(said)
    loaded = run.load(tree(0))
    assert value_of(loaded) == 1.0
    assert loaded[2].startswith(said)


def test_a_checkpoint_whose_meta_a_reader_refuses_gives_the_previous(run):
    def check(path, meta):
        if meta["step"] == 2:
            raise InputError(f"{path} is of step 2")

    run.save(tree(1.0), {"step": 1})
    run.save(tree(2.0), {"step": 2})
    last = run.checkpoint_path("last")
    loaded = run.load(tree(0), check)
    assert (value_of(loaded), loaded[2]) == (1.0, f"{last} is of step 2")
    assert run.checkpoint_path("damaged").exists()


def test_what_a_run_can_not_be_without(run, tmp_path):
    (tmp_path / "link").symlink_to(run.path / "config.toml")
    names = ("run.json", "config.toml", "metrics.jsonl", "checkpoints/a/b.png", "../link")
    assert [runs.is_own(run.path / name) for name in names] == [True] * 5
    others = ("loss.png", "test.json", "../run.json", "../checkpoints/a", "a/run.json", ".", "..")
    assert [runs.is_own(run.path / name) for name in others] == [False] * 7


def test_without_a_whole_checkpoint_each_is_named(run):
    run.save(tree(1.0), {"step": 0})
    run.save(tree(2.0), {"step": 0})
    for name in ("last", "previous"):
        run.checkpoint_path(name).write_bytes(b"")
    text = message(run.load, tree(0))
    assert str(run.checkpoint_path("last")) in text
    assert str(run.checkpoint_path("previous")) in text


def test_a_kill_between_the_rename_and_the_save_loses_nothing(run, monkeypatch):
    run.save(tree(1.0), {"step": 0}, best=False)
    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run.save(tree(2.0), {"step": 0})
    assert value_of(run.load(tree(0))) == 1
    assert run.load_part("params", tree(0)["params"])[0]["w"][0, 0] == 1  # what sample does


def fail(*_):
    raise KeyboardInterrupt


def test_a_damaged_last_never_takes_the_place_of_a_whole_previous(run, monkeypatch):
    run.save(tree(1.0), {"step": 0})
    run.save(tree(2.0), {"step": 0})
    run.checkpoint_path("last").write_bytes(b"cut short")
    assert value_of(run.load(tree(0))) == 1
    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        run.save(tree(3.0), {"step": 0})
    assert value_of(run.load(tree(0))) == 1


def test_metrics_come_back_line_by_line(run):
    assert run.metrics() == []
    lines = [
        {"step": 1, "loss": 0.1 + 0.2, "sample": "a\n\u2028\x85\r\x00ü😀\ufffd"},
        {"step": 2, "loss": 1e-300},
    ]
    for line in lines:
        run.append_metrics(line)
    assert run.metrics() == lines
    assert (run.path / "metrics.jsonl").read_bytes().count(b"\n") == 2


def test_metrics_cut_short_anywhere_give_the_whole_lines(run):
    lines = [{"step": step, "sample": "ü€"} for step in (1, 2, 3)]
    for line in lines:
        run.append_metrics(line)
    path = run.path / "metrics.jsonl"
    content = path.read_bytes()
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        assert run.metrics() == lines[: content[:size].count(b"\n")], size
    path.write_bytes(content[:-5])
    run.cut_metrics(3)
    run.append_metrics({"step": 3})
    assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_metrics_after_a_step_are_dropped(run):
    for step in (2, 4, 6):
        run.append_metrics({"step": step, "sample": "ü"})
    before = (run.path / "metrics.jsonl").read_bytes()
    run.cut_metrics(6)
    assert (run.path / "metrics.jsonl").read_bytes() == before
    run.cut_metrics(5)
    assert (run.path / "metrics.jsonl").read_bytes() == before[: 2 * len(before) // 3]
    run.cut_metrics(0)
    assert run.metrics() == []


@pytest.mark.parametrize(
    "lost", [b"\0" * 30 + b"\n", b"{}\n", b"7\n", b'{"step": "4"}\n', b'{"step": 3, "lo\n']
)
def test_what_a_power_loss_left_of_the_metrics_is_left_out(run, lost):
    for step in (1, 2):
        run.append_metrics({"step": step})
    path = run.path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + lost)
    assert run.metrics() == [{"step": 1}, {"step": 2}]
    assert run.cut_metrics(2) == ""
    path.write_bytes(whole + lost + b'{"step": 9}\n')
    assert run.cut_metrics(2) == f"{path} had 1 lines that were damaged; they are gone"
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "damaged",
    [b'{"step": 2, "loss": "abc"}', b'{"step": 2, "loss": [1]}', b'{"step": 2, "\xff": null}',
     b'{"step": 1}', b"[" * 100_000, b'{"step": 2, "sample": 3}', b'{"step": true}',
     b'{"step": 2, "sample": "\\ud800"}', b'{"step": 2, "loss": 1%s}' % (b"0" * 400)],
)  # fmt: skip
def test_a_damaged_line_of_metrics_takes_no_other_with_it(run, damaged):
    for step in (1, 2, 3, 4):
        run.append_metrics({"step": step, "loss": step / 2, "sample": "x"})
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], damaged, *lines[2:]]))
    assert [line["step"] for line in run.metrics()] == [1, 3, 4]
    assert "had 1 lines" in run.cut_metrics(3)
    assert path.read_bytes() == lines[0] + b"\n" + lines[2] + b"\n"


def test_the_metrics_outlive_what_the_checkpoint_after_them_outlives(run, monkeypatch):
    order, sync, replace = [], files.sync, os.replace

    def watched_sync(path):
        order.append(f"sync {path.name}")
        sync(path)

    def watched_replace(source, target):
        order.append(f"replace {target.name}")
        replace(source, target)

    monkeypatch.setattr(files, "sync", watched_sync)
    monkeypatch.setattr(os, "replace", watched_replace)
    run.save(tree(1.0), {"step": 0}, best=True)
    run.append_metrics({"step": 1})
    first = ["replace best.safetensors", "sync checkpoints"]
    last = ["replace last.safetensors", "sync checkpoints"]
    assert order == [*first, *last]
    order.clear()
    run.save(tree(2.0), {"step": 0}, best=True)
    assert order == ["sync metrics.jsonl", *first, "replace previous.safetensors", *last]


def test_a_linked_checkpoint_leaves_the_one_before_it(run, tmp_path):
    run.save(tree(1.0), {"step": 0})
    last = run.checkpoint_path("last")
    last.rename(tmp_path / "elsewhere")
    last.symlink_to(tmp_path / "elsewhere")
    run.save(tree(2.0), {"step": 0})
    (tmp_path / "elsewhere").write_bytes(b"damaged")
    assert value_of(run.load(tree(0.0))) == 1.0


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
