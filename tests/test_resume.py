"""Real processes, killed: what is resumed has the bits of what was never killed.

A process runs the command line with a trap in the trainer that kills it at one exact moment, so
that no test waits for a moment to come by chance.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import jaxrnn
from jaxrnn import checkpoint
from jaxrnn.runs import VOLATILE

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

TEXT = "the cat sat on the mat; a dog ate the hat. Ünï© 猫 " * 9
CHAR = (
    *("char", "--data", "text.txt", "--cell", "lstm", "--hidden-size", "6", "--num-layers", "2"),
    *("--embedding-size", "4", "--dropout", "0.3", "--batch-size", "3", "--seq-len", "5"),
    *("--steps", "20", "--schedule", "cosine", "--warmup-steps", "4", "--lr", "0.03"),
    *("--weight-decay", "0.01", "--optimizer", "adamw", "--log-every", "1"),
    *("--eval-every", "6", "--checkpoint-every", "10", "--preview-length", "12"),
)
SERIES = (
    *(
        "series",
        "--data",
        "series.csv",
        "--target",
        "value",
        "--cell",
        "gru",
        "--hidden-size",
        "5",
        "--num-layers",
        "2",
    ),
    *("--dropout", "0.2", "--batch-size", "2", "--seq-len", "4", "--steps", "15", "--clip", "0.3"),
    *("--schedule", "cosine", "--warmup-steps", "3", "--optimizer", "sgd", "--log-every", "2"),
    *("--eval-every", "9", "--checkpoint-every", "5"),
)


def run_process(folder: Path, *commands: tuple[str, ...], trap: str = "") -> dict[str, Any]:
    """Run command lines in one process, the trap set before the last one."""
    lines = [f"assert train.run_command({list(command)!r}) == 0" for command in commands[:-1]]
    lines += [trap, f"sys.exit(train.run_command({list(commands[-1])!r}))"]
    paths = [str(Path(jaxrnn.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    ended = subprocess.run(
        [sys.executable, "-c", TRAPS + "\n".join(lines)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return {"code": ended.returncode, "stdout": ended.stdout, "stderr": ended.stderr}


def state_of(run: Path, name: str):
    """All of a checkpoint, bit for bit, but for the time."""
    arrays, meta = checkpoint.read(run / "checkpoints" / f"{name}.safetensors")
    meta["progress"].pop("time_s")
    bits = {k: (a.dtype, a.shape, a.tobytes()) for k, a in arrays.items()}
    return bits, meta


def lines_of(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VOLATILE} for line in lines]


def saved_step(run: Path) -> int:
    return checkpoint.read(run / "checkpoints" / "last.safetensors")[1]["step"]


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """Both tasks, run without a break and in pieces: six processes, four of them ended early."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    values = [f"{k},{(k * 7) % 13 + k / 10}" for k in range(90)]
    (folder / "series.csv").write_text("time,value\n" + "\n".join(values))
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
        (*SERIES, "--run", "series-whole", "--steps-per-dispatch", "1"),
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
        (*SERIES, "--run", "series-cut", "--steps-per-dispatch", "4"),
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


def check_same(whole: Path, cut: Path, num_steps: int) -> None:
    for name in ("last", "best"):
        bits, meta = state_of(cut, name)
        expected_bits, expected_meta = state_of(whole, name)
        assert bits.keys() == expected_bits.keys()
        for key, value in expected_bits.items():
            assert bits[key] == value, f"{key} of {name}"
        assert meta == expected_meta
    parts = {key.split("/")[0] for key in expected_bits}
    assert parts == {"step", "params", "moments", "carry"}
    assert lines_of(cut) == lines_of(whole)
    steps = [line["step"] for line in lines_of(cut)]
    assert steps == sorted(set(steps))
    assert steps[-1] == num_steps == saved_step(cut)
    assert {path.name for path in cut.iterdir()} == {path.name for path in whole.iterdir()}
