"""Training processes killed, or failed by their disk, at named moments: nothing is lost.

Here thirteen kills, six failures and a signal; ``-m slow`` goes through every moment that a run of
each task has, and kills at random times, with some hundred processes for each.
"""

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from crashes import TASKS, Ended, check_same, environment, saved_step, work, write_data

NUM_STEPS = {"char": 20, "series": 12, "sine": 15, "sketch": 12}


class Whole(NamedTuple):
    """A run that nothing happened to."""

    folder: Path
    events: list[str]
    seconds: float


class Wholes(dict[str, Whole]):
    """By task, each made when it is first asked for: tests may be shared by processes."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        write_data(folder)

    def __missing__(self, task: str) -> Whole:
        began = time.monotonic()
        ended = work(self.folder, (*TASKS[task], "--run", f"{task}-whole"))
        assert (ended.code, ended.stderr) == (0, "")
        events = [event.replace(f"{task}-whole", "RUN") for event in ended.events]
        self[task] = Whole(self.folder, events, time.monotonic() - began)
        return self[task]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Wholes:
    return Wholes(tmp_path_factory.mktemp("crashes"))


def go(whole: Whole, task: str, run: str, **plan: Any) -> Ended:
    """Start a run, or go on with it where it is there, by dispatches of another length."""
    argv = (*TASKS[task], "--run", run)
    if (whole.folder / run).exists():
        argv = ("--resume", run, "--steps-per-dispatch", "3")
    if "at" in plan:
        plan["at"] = plan["at"].replace("RUN", run)
    return work(whole.folder, argv, **plan)


def check_whole(whole: Whole, task: str, run: str) -> None:
    """The run ends as the one that nothing happened to."""
    ended = go(whole, task, run)
    assert (ended.code, ended.stderr) == (0, ""), ended
    check_same(whole.folder / f"{task}-whole", whole.folder / run, NUM_STEPS[task])


LAST, BEST = r"RUN/checkpoints/\.last", r"RUN/checkpoints/\.best"
STORIES = {
    "char": [
        ("kill_before", r"rename \.RUN\.tmp", 1),
        ("kill_after", "steps", 3),
        ("kill_within", f"write {BEST}", 1),
        ("ENOSPC", f"write {LAST}", 2),
        ("kill_before", f"replace {LAST}", 1),
        ("SIGTERM", "steps", 1),
        ("EIO", "fsync RUN/metrics.jsonl", 1),
    ],
    "series": [
        ("kill_after", "steps", 2),
        ("kill_within", r"write RUN/\.test", 1),
        ("kill_before", r"replace RUN/\.test", 1),
    ],
    "sine": [
        ("kill_within", "write RUN/metrics.jsonl", 5),
        ("ENOSPC", "write RUN/metrics.jsonl", 4),
        ("kill_after", "link RUN/checkpoints/last", 1),
        ("EIO", f"replace {LAST}", 1),
        ("kill_before", "window", 1),
    ],
    "sketch": [
        ("kill_after", r"replace RUN/checkpoints/\.previous", 1),
        ("ENOSPC", f"write {BEST}", 1),
        ("kill_before", r"fsync RUN/checkpoints/\.last", 1),
        ("kill_within", r"write RUN/\.loss.png", 1),
        ("EIO", r"write RUN/\.drawings.svg", 1),
    ],
}


@pytest.mark.parametrize("task", TASKS)
def test_one_mishap_after_the_other_and_it_ends_with_the_same_bits(task, whole):
    for do, at, nth in STORIES[task]:
        ended = go(whole[task], task, f"{task}-story", do=do, at=at, nth=nth)
        if do.startswith("kill"):
            assert (ended.code, ended.stderr) == (-signal.SIGKILL, ""), (do, at)
        elif do == "SIGTERM":
            assert (ended.code, ended.stderr) == (128 + signal.SIGTERM, "")
            step = saved_step(whole[task].folder / f"{task}-story")
            assert f"stopped by SIGTERM after step {step}, saved" in ended.stdout
        else:
            check_failed(ended, do, at)
    check_whole(whole[task], task, f"{task}-story")


def check_failed(ended: Ended, do: str, at: str) -> None:
    words = {"ENOSPC": "No space left on device", "EIO": "Input/output error"}[do]
    name = at.replace("\\", "").replace("[.]", ".")
    can_be_made_again = re.search(r"(png|svg|samples.txt|test.json)(.tmp)?$", name)
    if name.endswith("fsync RUN"):  # after any of its files has its name
        can_be_made_again = ended.code == 0 and "can't write " in ended.stdout
    if can_be_made_again:  # no reason to end
        assert (ended.code, ended.stderr) == (0, ""), (do, at)
        assert f": {words}\n" in ended.stdout, (do, at)
    else:
        assert ended.code in (1, 2), (do, at)
        assert ended.stderr.startswith("error: can't write "), (do, at)
        assert ended.stderr.count("\n") == 1, (do, at)
        assert words in ended.stderr, (do, at)


# --- every moment ---


def moments(events: list[str], rng: random.Random) -> Iterator[tuple[str, int]]:
    """Each event by its name, and which of those with the same name, in any order."""
    names = sorted(set(events))
    rng.shuffle(names)
    for name in names:
        yield f"^{name.replace('.', '[.]')}$", rng.randint(1, events.count(name))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_every_moment(task, whole):
    """Before, within and after each; a run goes on being killed until it is through."""
    rng = random.Random(7)
    points = [
        (do, at, nth)
        for do in ("kill_before", "kill_within", "kill_after")
        for at, nth in moments(whole[task].events, rng)
        if do != "kill_within" or at.startswith("^write")
    ]
    rng.shuffle(points)
    number, num_killed, missed = 0, 0, []
    for do, at, nth in points:
        run = f"{task}-every-{number}"
        ended = go(whole[task], task, run, do=do, at=at, nth=nth)
        if ended.code == 0:  # it did not come to that moment again
            check_same(
                whole[task].folder / f"{task}-whole", whole[task].folder / run, NUM_STEPS[task]
            )
            number += 1
            missed.append((do, at))
            continue
        assert (ended.code, ended.stderr) == (-signal.SIGKILL, ""), (do, at)
        num_killed += 1
    check_whole(whole[task], task, f"{task}-every-{number}")
    for do, at in missed:  # the first of these, in a run of its own
        run = f"{task}-missed-{num_killed}"
        ended = go(whole[task], task, run, do=do, at=at, nth=1)
        assert (ended.code, ended.stderr) == (-signal.SIGKILL, ""), (do, at)
        num_killed += 1
        check_whole(whole[task], task, run)
    assert num_killed == len(points) > 70


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_killed_at_random_times(task, whole):
    rng = random.Random(11)
    folder, run = whole[task].folder, f"{task}-random"
    for _ in range(20):
        argv = (*TASKS[task], "--run", run)
        if (folder / run).exists():
            argv = ("--resume", run)
        process = subprocess.Popen(
            [sys.executable, "-m", "jaxrnn.train", *argv],
            cwd=folder,
            env=environment(),
            stdout=subprocess.DEVNULL,
        )
        time.sleep(whole[task].seconds * rng.uniform(0.3, 1))
        process.kill()
        process.wait()
        if process.returncode == 0 and saved_step(folder / run) == NUM_STEPS[task]:
            check_same(folder / f"{task}-whole", folder / run, NUM_STEPS[task])
            (folder / run).rename(folder / f"{run}-{rng.random()}")
    check_whole(whole[task], task, run)


@pytest.mark.slow
@pytest.mark.parametrize("do", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("task", TASKS)
def test_the_disk_fails_at_every_moment(task, do, whole):
    events = [e for e in whole[task].events if e.split()[0] not in ("steps", "window")]
    for number, (at, nth) in enumerate(moments(events, random.Random(13))):
        if at.startswith(("^unlink", "^link")):  # of what may be missing, or copied instead
            continue
        run = f"{task}-{do}-{number}"
        check_failed(go(whole[task], task, run, do=do, at=at, nth=nth), do, at[:-1])
        check_whole(whole[task], task, run)
