"""Real processes, killed: what is resumed has the bits of what was never killed.

A process runs the command line with a trap in the trainer that kills it at one exact moment, so
that no test waits for a moment to come by chance.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from crashes import (
    CHAR,
    SINE,
    check_same,
    environment,
    lines_of,
    saved_step,
    write_data,
)

TRAPS = '''
import os, signal, sys
from jaxrnn import checkpoint, files, runs, train

def kill(number):
    os.kill(os.getpid(), number)

def at_line(step, number):
    """When the line of a step has been written."""
    append = runs.Run.append_metrics
    def watched(run, line):
        append(run, line)
        if line["step"] == step:
            kill(number)
    runs.Run.append_metrics = watched

def inside_save(step, number):
    """When a step's last checkpoint is half written."""
    write = files.write_atomically
    def watched(path, data):
        if path.name == "last.safetensors" and b'\\\\"step\\\\": %d}' % step in data[:100_000]:
            path.with_name(f".{path.name}.tmp").write_bytes(data[: len(data) // 2])
            kill(number)
        write(path, data)
    files.write_atomically = checkpoint.write_atomically = watched
'''


def run_process(folder: Path, *commands: tuple[str, ...], trap: str = "") -> dict[str, Any]:
    """Run command lines in one process, the trap set before the last one."""
    lines = [f"assert train.run_command({list(command)!r}) == 0" for command in commands[:-1]]
    lines += [trap, f"sys.exit(train.run_command({list(commands[-1])!r}))"]
    ended = subprocess.run(
        [sys.executable, "-c", TRAPS + "\n".join(lines)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    return {"code": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr}


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Both tasks, run without a break and in pieces: six processes, four of them ended early."""
    folder = tmp_path_factory.mktemp("resume")
    write_data(folder)
    run, resume = folder / "char-cut", ("--resume", "char-cut")
    found: dict[str, Any] = {}

    def look(name: str) -> None:
        checkpoints = {path.name for path in (run / "checkpoints").iterdir()}
        found[name] |= {"checkpoints": checkpoints, "lines": lines_of(run)}
        if "last.safetensors" in checkpoints:
            found[name]["step"] = saved_step(run)

    found["whole"] = run_process(
        folder,
        (*CHAR, "--run", "char-whole", "--steps-per-dispatch", "1"),
        (*SINE, "--run", "series-whole", "--steps-per-dispatch", "1"),
    )
    found["killed early"] = run_process(
        folder,
        (*CHAR, "--run", "char-cut", "--steps-per-dispatch", "3"),
        trap="at_line(3, signal.SIGKILL)",
    )
    look("killed early")
    found["killed in a save"] = run_process(
        folder, (*resume, "--steps-per-dispatch", "5"), trap="inside_save(10, signal.SIGKILL)"
    )
    look("killed in a save")
    found["asked to stop"] = run_process(
        folder, (*resume, "--steps-per-dispatch", "2"), trap="at_line(13, signal.SIGTERM)"
    )
    look("asked to stop")
    last = run / "checkpoints" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:-100])

    found["series killed"] = run_process(
        folder,
        (*SINE, "--run", "series-cut", "--steps-per-dispatch", "4"),
        trap="at_line(8, signal.SIGKILL)",
    )
    found["series killed"]["step"] = saved_step(folder / "series-cut")
    with open(folder / "series-cut" / "metrics.jsonl", "a") as file:
        file.write('{"step": 9, "lo')  # as a kill within a write leaves it
    found["ended"] = run_process(
        folder, resume, ("--resume", "series-cut", "--steps-per-dispatch", "1")
    )
    return folder, found


def test_without_a_break(story):
    _, found = story
    assert (found["whole"]["code"], found["whole"]["stderr"]) == (0, "")


def test_killed_before_the_first_checkpoint(story):
    early = story[1]["killed early"]
    assert early["code"] == -9, early["stderr"]
    assert early["checkpoints"] == set()
    assert [line["step"] for line in early["lines"]] == [1, 2, 3]


def test_killed_while_a_checkpoint_is_written(story):
    killed = story[1]["killed in a save"]
    assert killed["code"] == -9, killed["stderr"]
    assert ".last.safetensors.tmp" in killed["checkpoints"]
    assert killed["lines"][-1]["step"] == 10
    assert killed.get("step", 6) == 6


def test_asked_to_stop_within_a_group(story):
    stopped = story[1]["asked to stop"]
    assert stopped["code"] == 128 + 15, stopped["stderr"]
    assert stopped["stderr"] == ""
    assert 12 < stopped["step"] < 18  # neither a validation nor a checkpoint was due there
    assert f"stopped by SIGTERM after step {stopped['step']}, saved" in stopped["stdout"]
    assert "python -m jaxrnn.train --resume char-cut" in stopped["stdout"]


def test_a_checkpoint_cut_short_is_said_in_one_line(story):
    ended = story[1]["ended"]
    said = [line for line in ended["stdout"].splitlines() if "last.safetensors" in line]
    assert len(said) == 1
    assert "is not a whole checkpoint" in said[0]


def test_a_character_model_ends_with_the_same_bits(story):
    folder, found = story
    assert (found["ended"]["code"], found["ended"]["stderr"]) == (0, "")
    check_same(folder / "char-whole", folder / "char-cut", num_steps=20)


def test_a_series_killed_within_a_group_ends_with_the_same_bits(story):
    folder, found = story
    assert found["series killed"]["code"] == -9, found["series killed"]["stderr"]
    assert found["series killed"]["step"] == 5
    check_same(folder / "series-whole", folder / "series-cut", num_steps=15)
