"""Several devices and several processes: what one device learns, to rounding.

Real processes that meet over gloo on the loopback; one of them killed, one told to stop.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from crashes import SKETCH, check_same, environment, lines_of, saved_step, state_of, write_data

from jaxrnn import processes, train
from jaxrnn.errors import InputError
from jaxrnn.runs import held

CHAR = (
    *("char", "--data", "text.txt", "--cell", "lstm", "--hidden-size", "6", "--num-layers", "2"),
    *("--embedding-size", "4", "--dropout", "0.3", "--batch-size", "4", "--seq-len", "5"),
    *("--steps", "12", "--log-every", "1", "--eval-every", "6", "--checkpoint-every", "4"),
    *("--preview-length", "5", "--dtype", "float64", "--steps-per-dispatch", "2"),
)


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


def run(
    folder: Path,
    *commands: tuple[str, ...],
    plans: tuple[dict, ...] = (),
    variables: tuple[dict[str, str], ...] = ({}, {}),
) -> list[Ended]:
    """Processes side by side, each with the plan of a ``crash_worker``."""
    worker = str(Path(__file__).with_name("crash_worker.py"))
    running = []
    for number, argv in enumerate(commands):
        plan: dict[str, Any] = {"argv": argv, "root": str(folder), "log": os.devnull}
        if plans:
            plan |= plans[number]
        running.append(
            subprocess.Popen(
                [sys.executable, worker, json.dumps(plan)],
                cwd=folder,
                env=environment() | variables[number],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        ended = [(process, *process.communicate(timeout=250)) for process in running]
    finally:
        for process in running:
            process.kill()
    return [
        Ended(process.returncode, out, "\n".join(x for x in err.splitlines() if "[Gloo]" not in x))
        for process, out, err in ended
    ]


def two(*argv: str) -> list[tuple[str, ...]]:
    """The same command for two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    options = ("--mesh", "data=2", "--coordinator", place, "--num-processes", "2")
    return [(*argv, *options, "--process-id", str(number)) for number in (0, 1)]


def story(folder: Path) -> dict[str, list[Ended]]:
    write_data(folder)
    found = {
        "one": run(folder, (*CHAR, "--run", "one", "--mesh", "data=1")),
        "four": run(folder, (*CHAR, "--run", "four", "--mesh", "data=4")),
        "cut": run(folder, (*CHAR, "--run", "cut", "--mesh", "data=2,hidden=3")),
        "two": run(folder, *two(*CHAR, "--run", "two")),
        "killed": run(
            folder,
            *two(*CHAR, "--run", "killed"),
            plans=({}, {"at": "steps", "nth": 4, "do": "kill_before"}),
        ),
    }
    shutil.copytree(folder / "killed", folder / "fewer")
    (folder / "fewer" / "checkpoints" / "step").write_text(str(saved_step(folder / "fewer")))
    found["fewer"] = run(folder, ("--resume", "fewer", "--mesh", "data=1"))
    found["resumed"] = run(folder, *two("--resume", "killed"))
    return found


def check_close(folder: Path, name: str) -> None:
    for checkpoint in ("last", "best"):
        bits, meta = state_of(folder / name, checkpoint)
        expected, expected_meta = state_of(folder / "one", checkpoint)
        assert bits.keys() == expected.keys()
        assert meta["step"] == expected_meta["step"]
        for key, (dtype, shape, data) in expected.items():
            assert bits[key][:2] == (dtype, shape)
            got = np.frombuffer(bits[key][2], dtype)
            np.testing.assert_allclose(got, np.frombuffer(data, dtype), 1e-9, 1e-12, err_msg=key)
    lines, expected_lines = lines_of(folder / name), lines_of(folder / "one")
    assert [line["step"] for line in lines] == list(range(1, 13))
    for line, expected in zip(lines, expected_lines, strict=True):
        assert line.keys() == expected.keys()
        for key in {"loss", "grad_norm", "lr", "val_nats"} & expected.keys():
            assert line[key] == pytest.approx(expected[key], rel=1e-10)


def test_several_devices_and_processes_learn_what_one_does(tmp_path):
    found = story(tmp_path)
    for name in ("one", "four", "cut", "two", "fewer", "resumed"):
        assert [(e.code, e.stderr) for e in found[name]] == [(0, "")] * len(found[name]), name
        check_close(tmp_path, "killed" if name == "resumed" else name)
    check_what_is_said(found["two"])
    check_death(tmp_path, found["killed"])
    check_same(tmp_path / "two", tmp_path / "killed", num_steps=12)  # resumed on as many: the bits


def check_what_is_said(ended: list[Ended]) -> None:
    first, second = ended
    assert "12 steps on cpu, 2 parts a batch, 2 processes" in first.stdout
    assert "done after step 12" in first.stdout
    assert [line for line in second.stdout.splitlines() if "[Gloo]" not in line] == []


def check_death(folder: Path, ended: list[Ended]) -> None:
    """Where a process dies the other ends with one line."""
    first, second = ended
    assert second.code == -signal.SIGKILL
    assert first.code == 1
    assert first.stderr.count("\n") == 0
    assert first.stderr.startswith("error: another process of the run has ended (")
    assert f"start all of them again with --resume {folder / 'killed'}" in first.stderr
    assert (folder / "fewer" / "checkpoints" / "step").read_text() == "6"


def under_slurm() -> tuple[dict[str, str], ...]:
    """What ``srun -n 2`` tells two processes; JAX adds the job's number to a port."""
    job = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "127.0.0.1"}
    for number in np.random.default_rng().permutation(2**12):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", 2**16 - 2**12 + int(number)))
            job["SLURM_JOB_ID"] = str(number)
            break
    return tuple(job | {"SLURM_PROCID": x, "SLURM_LOCALID": x} for x in ("0", "1"))


def test_processes_that_a_cluster_starts(tmp_path):
    """They find each other, train a run that is saved once, at its end, and go on with it."""
    write_data(tmp_path)
    auto = ("--coordinator", "auto")
    options = (*CHAR, "--steps", "3", "--run", "a", "--mesh", "data=4", *auto)
    options += ("--schedule", "constant")
    longer = ("--resume", "a", "--steps", "4", *auto)
    for argv, steps in ((options, 3), (longer, 4)):
        ended = run(tmp_path, argv, argv, variables=under_slurm())
        assert [(e.code, e.stderr) for e in ended] == [(0, ""), (0, "")]
        about = f"{steps} steps on cpu, 4 parts a batch, 2 processes"
        assert [about in e.stdout for e in ended] == [True, False]
    alone = (*CHAR, "--steps", "4", "--run", "one", "--mesh", "data=1", "--schedule", "constant")
    (ended,) = run(tmp_path, alone)
    assert ended.code == 0
    lines, expected = lines_of(tmp_path / "a"), lines_of(tmp_path / "one")
    assert [x["loss"] for x in lines] == pytest.approx([x["loss"] for x in expected], rel=1e-10)

    odd = (*CHAR, "--run", "b", "--batch-size", "3", *auto)
    for one in run(tmp_path, odd, odd, variables=under_slurm()):
        assert one.code == 2
        assert one.stderr.startswith("error: --mesh is data=")
        assert "for 2 processes with " in one.stderr
        assert "\n" not in one.stderr
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_sketch_with_parameters_in_parts(tmp_path):
    write_data(tmp_path)
    options = (*SKETCH, "--dtype", "float64", "--loss", "log_space")
    (one,) = run(tmp_path, (*options, "--run", "one"))
    (cut,) = run(tmp_path, (*options, "--run", "cut", "--mesh", "data=2,hidden=2"))
    assert (one.code, one.stderr, cut.code, cut.stderr) == (0, "", 0, "")
    assert "2 parts a batch, parameters in 2 parts" in cut.stdout
    for line, expected in zip(lines_of(tmp_path / "cut"), lines_of(tmp_path / "one"), strict=True):
        for key in {"loss", "grad_norm", "val_loss"} & expected.keys():
            assert line[key] == pytest.approx(expected[key], rel=1e-8)


def test_a_signal_to_one_process_stops_both(tmp_path):
    write_data(tmp_path)
    commands = two(*CHAR, "--run", "a")
    ended = run(tmp_path, *commands, plans=({}, {"at": "steps", "nth": 3, "do": "SIGTERM"}))
    assert [e.code for e in ended] == [143, 143]
    assert "stopped by SIGTERM after step 6, saved" in ended[0].stdout
    assert saved_step(tmp_path / "a") == 6


def test_a_disk_that_fails_the_first_ends_both(tmp_path):
    write_data(tmp_path)
    full = {"at": r"write .*/\.last", "nth": 2, "do": "ENOSPC"}
    first, second = run(tmp_path, *two(*CHAR, "--run", "a"), plans=(full, {}))
    assert (first.code, second.code) == (1, 1)
    assert first.stderr.startswith("error: can't write ")
    assert "No space left on device; put that right and go on with --resume" in first.stderr
    assert first.stderr.count("\n") == 0
    assert second.stderr == (
        "error: process 0 of the run has ended by an error, which it tells; start all of them again"
    )


def test_what_one_process_can_not_do_is_said_by_both(tmp_path):
    """A file that it has not, options or data that are others; nothing is left."""
    write_data(tmp_path)
    text = (tmp_path / "text.txt").read_text(encoding="utf-8")
    (tmp_path / "other.txt").write_text(text.replace("cat", "cow"), encoding="utf-8")
    for more, expected in (
        (("--data", "no.txt"), "process 1: no.txt: no such file"),
        (("--lr", "0.5"), "process 1: was started with other options than the first: 'lr = 0.5'"),
        (("--data", "other.txt"), "process 1: has other data than the first: '"),
    ):
        first, second = two(*CHAR, "--run", "a")
        ended = run(tmp_path, first, (*second, *more))
        assert [e.code for e in ended] == [2, 2], ended
        for process in ended:
            assert process.stderr.startswith(f"error: {expected}")
            assert process.stderr.count("\n") == 0
        assert not (tmp_path / "a").exists()


def test_a_run_that_another_trains_is_refused_by_both(tmp_path):
    write_data(tmp_path)
    (one,) = run(tmp_path, (*CHAR, "--run", "a", "--mesh", "data=2"))
    assert one.code == 0
    with held(tmp_path / "a"):
        ended = run(tmp_path, *two("--resume", "a"))
    for process in ended:
        assert process.code == 2
        assert "a is being trained by another process; wait for its end" in process.stderr
        assert process.stderr.count("\n") == 0


def alone(*arguments: str, seconds: str = "1") -> subprocess.CompletedProcess[str]:
    """A process that nobody joins, with less patience."""
    code = (
        "import sys; from jaxrnn import processes, train\n"
        f"processes.START_S = {seconds}; sys.exit(train.main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, "char", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )


def free_place() -> str:
    return two()[0][3]


@pytest.mark.parametrize(
    ("place", "number", "reason"),
    [
        (None, "0", "not all were there after 1 s"),
        (None, "1", "nobody listens there after 1 s: Connection refused"),
        ("nohost.invalid:1234", "0", ""),
        ("nohost.invalid:1234", "1", ""),
        ("x" * 300 + ":1234", "1", ""),
    ],
)
def test_processes_that_do_not_meet_say_so_in_one_line(place, number, reason):
    place = place or free_place()
    options = ("--coordinator", place, "--num-processes", "2", "--process-id", number)
    ended = alone(*options)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(
        f"error: --coordinator {place}: the processes did not come together ({reason}"
    )
    assert ended.stderr.endswith("the first with --process-id 0 on the coordinator's host\n")


def test_a_port_of_another_is_not_the_first_processs():
    with socket.create_server(("", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(InputError, match=r"\(Address already in use"):
            processes.find(place, is_first=True)
        processes.find(place, is_first=False)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--coordinator", "127.0.0.1:99999"), "--coordinator is 127.0.0.1:99999, expected HOST"),
        (("--coordinator", "127.0.0.1:0"), "--coordinator is 127.0.0.1:0, expected HOST:PORT"),
        (("--process-id", "-7"), "--num-processes and --process-id need --coordinator"),
        (("--num-processes", "2"), "--num-processes and --process-id need --coordinator"),
        (("--coordinator", "auto", "--process-id", "-7"), "--coordinator auto finds"),
    ],
)
def test_options_of_processes_that_are_refused(options, reason):
    _, command, _ = train.parse(["char", *options])
    with pytest.raises(InputError, match=f"^{re.escape(reason)}"):
        train.check_processes(command)


def test_an_error_of_the_first_process_is_the_error_of_all(tmp_path):
    write_data(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years")
    ended = run(tmp_path, *two(*CHAR, "--run", "a"))
    assert [e.code for e in ended] == [2, 2]
    for one in ended:
        assert one.stderr.startswith("error: --run a exists already; ")
    assert os.listdir(tmp_path / "a") == ["thesis.txt"]
