"""What a run's logs and checkpoints cost: ``python -m jaxrnn.bench.overhead [TASK ...]``."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jaxrnn import cli
from jaxrnn.bench import children
from jaxrnn.bench.lines import append, check_writable

MEASURE = "jaxrnn.bench.overhead.measure"  # in a child
SECONDS = 3600.0  # that a run may take
PARTS: tuple[str, ...] = ("metrics", "display", "checkpoints", "pictures")


@dataclasses.dataclass(frozen=True)
class OverheadOptions:
    """Train each task as it comes, and say which share of the time is not training.

    The time of the thread that trains, from the first line of metrics on (what comes before is
    compilation), in: lines of metrics; the display; checkpoints, with the wait for the disk;
    pictures. A run is a process of its own, in a directory that goes again.

    examples:
      python -m jaxrnn.bench.overhead
      python -m jaxrnn.bench.overhead char --steps 500 --json lines.jsonl
    """

    tasks: Annotated[
        tuple[Literal["char", "series", "sine", "sketch"], ...],
        tyro.conf.arg(metavar="TASK"),
        tyro.conf.Positional,
    ] = ("char", "series", "sine", "sketch")
    """with its own data and options"""
    steps: int = 0
    """in place of the task's own number; fewer steps log more often; 0: all"""
    json: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """add a line of JSON for each task"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    options = cli.parse(OverheadOptions, args=argv, prog="python -m jaxrnn.bench.overhead")
    cli.check_flags(options, {"steps": (options.steps >= 0, "at least 0")})
    if options.json:
        check_writable("json", Path(options.json))

    from jaxrnn import report

    console = report.console()
    failed = False
    for task in dict.fromkeys(options.tasks):
        found = {
            "task": task,
            **children.call(MEASURE, task, options.steps, seconds=SECONDS),
        }
        console.print(line(found), markup=False)
        failed = failed or "refused" in found
        if options.json:
            append(options.json, json.dumps(found) + "\n")
    return int(failed)


def line(found: dict[str, Any]) -> str:
    """Of a task, for people."""
    if "refused" in found:
        return f"{found['task']}: refused: {found['refused']}"
    shares = {part: found[f"{part}_s"] / found["total_s"] for part in PARTS}
    named = ", ".join(f"{part} {share:.2%}" for part, share in shares.items())
    return (
        f"{found['task']}: {sum(shares.values()):.2%} of {found['total_s']:.1f} s, "
        f"{found['steps']:,} steps, {found['saves']} checkpoints: {named}"
    )


class Clock:
    """Seconds in each part, where a call within another counts once, for the outer one."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.calls: dict[str, int] = {}
        self.began: float | None = None  # by the end of the first line of metrics
        self._inside = False

    def attach(self, part: str, owner: Any, name: str) -> None:
        """Put a function in the place of the owner's, whose calls count."""
        function: Callable[..., Any] = getattr(owner, name)

        def call(*args: Any, **options: Any) -> Any:
            if self._inside:
                return function(*args, **options)
            self._inside, started = True, time.perf_counter()
            try:
                return function(*args, **options)
            finally:
                self._inside, now = False, time.perf_counter()
                if self.began is not None:
                    self.seconds[part] += now - started
                    self.calls[name] = self.calls.get(name, 0) + 1
                elif part == "metrics":
                    self.began = now

        setattr(owner, name, call)


def measure() -> None:
    """Train here, and print the seconds of each part, and of all, as JSON."""
    task, steps = sys.argv[1:]

    from jaxrnn import mesh, progress, runs, train, training

    clock = Clock()
    for part, owner, name in (
        ("metrics", runs.Run, "append_metrics"),
        *(("display", progress.Display, name) for name in ("update", "log", "line")),
        ("checkpoints", mesh, "gathered"),
        ("checkpoints", runs.Run, "save"),
        ("pictures", training, "draw"),
    ):
        clock.attach(part, owner, name)
    ended = 0.0
    whole = training.train

    def timed_train(*args: Any, **options: Any) -> Any:
        nonlocal ended
        outcome = whole(*args, **options)
        ended = time.perf_counter()
        return outcome

    training.train = timed_train  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        more = ["--steps", steps] if int(steps) else []
        code = train.run_command([task, *more, "--run", str(run)])
        lines = runs.Run.open(str(run)).metrics()
    if code or clock.began is None:
        sys.exit(code or 1)

    from jaxrnn.bench import results

    found = {f"{part}_s": seconds for part, seconds in clock.seconds.items()}
    found |= {"total_s": ended - clock.began, "steps": lines[-1]["step"]}
    found["saves"] = clock.calls.get("save", 0)
    print(json.dumps({**found, **results.machine()}))


if __name__ == "__main__":
    sys.exit(main())
