"""Train a recurrent model: ``python -m jaxrnn.train [TASK] [OPTIONS]``.

Without arguments: a character model of the Python language reference, in about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import math
import re
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes

from jaxrnn import cli, rules
from jaxrnn.config import CONFIGS, GPU_BACKENDS, TrainConfig
from jaxrnn.config_file import from_toml, to_toml
from jaxrnn.errors import InputError
from jaxrnn.runs import Run
from jaxrnn.stop_signals import StopSignals

ABOUT = """Train a recurrent model. TASK is the first word: {tasks}; without it, char.

{about}

examples:
  python -m jaxrnn.train                                   the built-in text, two minutes
  python -m jaxrnn.train char --data book.txt --hidden-size 512 --num-layers 2 --dropout 0.5
  python -m jaxrnn.train char --data any.bin --tokens bytes --steps 2000
  python -m jaxrnn.train series --data file.csv --horizon 24
  python -m jaxrnn.train sine                              the lesson's sine
  python -m jaxrnn.train sine --data file.csv --target price --epochs 50
  python -m jaxrnn.train --resume runs/char-20250101-120000
  python -m jaxrnn.train char --print-config > my.toml; python -m jaxrnn.train --config my.toml
"""

# What may differ from the run that is resumed: it changes when things happen, not what they are.
RESUMABLE = {
    *("data", "epochs", "steps", "patience", "min_delta", "not_finite", "device"),
    *("preview_length",),
    *("eval_every", "checkpoint_every", "log_every", "eval_streams", "steps_per_dispatch"),
    *("mesh", "backend"),
}

OWN = ("data = ", "run = ")  # options in which processes of a run may differ

Config = TypeVar("Config", bound=TrainConfig)


@dataclasses.dataclass(frozen=True)
class Command(Generic[Config]):
    """A command line."""

    training: OmitArgPrefixes[Config]
    config_file: Annotated[str, tyro.conf.arg(name="config", metavar="FILE")] = ""
    """TOML file of options, or the name of a preset; options given beside it go first"""
    resume: Annotated[str, tyro.conf.arg(metavar="RUN")] = ""
    """run directory to go on with, to the same bits as if it had never stopped"""
    print_config: bool = False
    """print the options as TOML and end"""
    dry_run: bool = False
    """show data, shapes, parameters and memory, take one step, write nothing"""
    coordinator: Annotated[str, tyro.conf.arg(metavar="HOST:PORT")] = ""
    """where the first of several processes listens, all started with the same options and a
    directory that they share; auto: under SLURM, Open MPI or Kubernetes, and on TPU pods"""
    num_processes: int = 0
    """how many there are"""
    process_id: int = -1
    """which of them this is, from 0 on"""


def main() -> int:
    """The command line; gives the exit code."""
    return cli.exit_code(lambda: run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Do what the arguments say; raises InputError."""
    task_name, command, resumed = parse(argv)
    if command.print_config:
        print(to_toml(task_name, command.training), end="")
        return 0
    config = command.training
    check_processes(command)
    device = cli.use_device(config.device, config.dtype, lambda: join(command))

    from jaxrnn import processes

    return processes.ended(lambda: run_training(task_name, command, resumed, device))


def run_training(task_name: str, command: Command[Any], resumed: Run | None, device: str) -> int:
    """Train on the device of that name, with the other processes where there are any."""
    # After the device is chosen: importing these may start JAX.
    import jax
    from jax.errors import JaxRuntimeError

    from jaxrnn import processes, report
    from jaxrnn.mesh import device_mesh
    from jaxrnn.progress import Display
    from jaxrnn.tasks import TASKS
    from jaxrnn.training import NotFiniteError, total_steps, train

    console = report.console()
    console.quiet = not processes.is_first()
    config = command.training
    options = [x for x in to_toml(task_name, config).splitlines() if not x.startswith(OWN)]
    processes.check_alike(options, "was started with other options than the first")
    num_data, num_hidden = processes.done_by_all(lambda: device_mesh(config).devices.shape)
    named = f"data={num_data}" + (f",hidden={num_hidden}" if num_hidden > 1 else "")
    config = dataclasses.replace(config, mesh=named)  # so that it resumes to the bit
    if num_data > 1:
        device = f"{device}, {num_data} parts a batch"
    if num_hidden > 1:
        device = f"{device}, parameters in {num_hidden} parts"
    if processes.are_several():
        device = f"{device}, {jax.process_count()} processes"  # auto tells it only now
    task, data = processes.done_by_all(
        lambda: TASKS[task_name].load(config, resumed.facts if resumed else None)
    )
    facts = [f"{name}: {json.dumps(value)}" for name, value in data.facts.items()]
    processes.check_alike(facts, "has other data than the first")
    config = task.config  # what was left to the data is chosen now, and kept with the run
    processes.done_by_all(lambda: check_options(task, config, data))
    num_steps = processes.done_by_all(lambda: total_steps(config, data))
    if command.dry_run:
        report.dry_run(console, task, data, config, device)
        return 0
    if resumed:
        processes.done_by_all(lambda: check_run(resumed, config, data))
        run = dataclasses.replace(resumed, config=config.with_absolute_data())
    else:

        def create() -> str:
            path = Run.create(task_name, config, data.facts).path
            return str(path.absolute() if processes.are_several() else path)

        run = Run.open(processes.done_by_first(create))
    run = dataclasses.replace(run, is_written=processes.is_first())
    console.print(f"data    {data.summary}", markup=False)
    console.print(f"run     {run.path}, {num_steps:,} steps on {device}", markup=False)
    try:
        with contextlib.ExitStack() as held:
            held.enter_context(kept(run, resumed is None))
            processes.done_by_all(lambda: held.enter_context(run.locked()))
            stop = held.enter_context(StopSignals(str(run.path)))
            outcome = train(
                task,
                data,
                run,
                display=Display(console, report.UNITS[task_name]),
                stop_requested=stop.requested,
            )
    except NotFiniteError as error:
        cli.say_error(str(error))
        return 1
    except JaxRuntimeError as error:
        if not processes.are_several():
            raise
        processes.left_alone(error, f"start all of them again with --resume {run.path}")
    except OSError as error:
        what = f"{error.filename or run.path}: {error.strerror or error}"
        saved = run.checkpoint_path("last")
        later = f"; put that right and go on with --resume {run.path}" if saved.exists() else ""
        cli.say_error(f"can't write {what}{later}")
        return processes.leave(1)
    report.outcome(console, task, run, outcome)
    ended = outcome.reason in ("done", "early stop")
    return 0 if ended else 128 + signal.Signals[outcome.reason]  # as a shell has it


@contextlib.contextmanager
def kept(run: Run, is_new: bool) -> Iterator[None]:
    """Within: a new run's directory goes again where the machine is too small even to begin it.

    Its name is then free for smaller options. Any other end leaves it, to be resumed.
    """
    try:
        yield
    except (MemoryError, OverflowError, RuntimeError) as error:
        is_empty = is_new and not any((run.path / "checkpoints").iterdir())
        if cli.is_too_large(error) and is_empty and run.is_written:
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def check_options(task: Any, config: TrainConfig, data: Any) -> None:
    """Raise InputError for options that the data or the device can't fulfil."""
    if config.average == "nt_asgd" and not data.held_out.num_counted:
        raise InputError(
            "--average is nt_asgd, expected none or ema: its mean begins when validations get no "
            "better, and there is nothing to validate on"
        )
    check_backend(task, config, data)


def check_run(run: Run, config: TrainConfig, data: Any) -> None:
    """Raise InputError where a run can't go on with these options and data."""
    check_counts(run.config, config)
    check_schedule(run.config, config, data)
    check_checkpoints(run, data)


def check_backend(task: Any, config: TrainConfig, data: Any) -> None:
    """Raise InputError where a backend for GPUs can't run a training step."""
    if config.backend not in GPU_BACKENDS:
        return
    from jaxrnn.recurrence import BackendError
    from jaxrnn.train_step import initial_state, make_step
    from jaxrnn.training import stack_batches

    skeleton, _, state = initial_state(task, config)
    batches = stack_batches(data, 0, 1, 1)
    try:
        make_step(task.loss, skeleton, config, 1).lower(state, *batches, np.int32(1))
    except BackendError as error:
        why = f"--backend is {config.backend}, but {error.reason}; use --backend auto"
        raise InputError(why) from None


def check_processes(command: Command[Any]) -> None:
    """Raise InputError for options that don't go together."""
    count, number, place = command.num_processes, command.process_id, command.coordinator
    if not place:
        if count or number != -1:
            raise InputError("--num-processes and --process-id need --coordinator HOST:PORT")
        return
    if command.dry_run:
        raise InputError("--dry-run is for one process; leave --coordinator out")
    if place == "auto":
        if count or number != -1:
            raise InputError("--coordinator auto finds --num-processes and --process-id by itself")
        return
    if not (re.fullmatch(r".+:[0-9]{1,5}", place) and 0 < int(place.rpartition(":")[2]) < 2**16):
        raise InputError(
            f"--coordinator is {place}, expected HOST:PORT, as 10.0.0.1:1234, the port 1 to 65535, "
            "or auto"
        )
    if count < 1 or not 0 <= number < count:
        raise InputError(
            f"--process-id is {number} of --num-processes {count}, expected 0 to N-1 of N processes"
        )


def join(command: Command[Any]) -> int:
    """Find the other processes, where there are any; as how many devices each has its CPU."""
    config, num_processes = command.training, 1
    if command.coordinator:
        from jaxrnn import processes

        num_processes = processes.start(
            command.coordinator, command.num_processes, command.process_id
        )
    if config.mesh == "auto":
        return rules.data_shards("cpu", cli.num_cores(), config.batch_size // num_processes)
    return max(math.prod(config.mesh_shape) // num_processes, 1)


def parse(argv: list[str]) -> tuple[str, Command[Any], Run | None]:
    """The task, the options, and the run to resume; exits for --help and unknown options."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    first.add_argument("--config")
    first.add_argument("--resume")
    named = argv[0] if argv and not argv[0].startswith("-") else ""
    if named and named not in CONFIGS:
        raise InputError(f"unknown task {named!r}, expected one of {', '.join(CONFIGS)}")
    arguments = argv[1:] if named else argv
    try:
        known, _ = first.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise InputError(str(error)) from None
    for flag in ("config", "resume"):
        if getattr(known, flag) == "":
            raise InputError(f"--{flag} is empty, expected a name; leave it out to go without")
    if known.config and known.resume:
        raise InputError("--config and --resume exclude each other: a run has its own options")

    resumed = Run.open(known.resume) if known.resume else None
    task_name, base = named or "char", None
    if resumed:
        task_name, base = resumed.task, resumed.config
    elif known.config:
        task_name, base = from_toml(find_config(known.config))
    if named and named != task_name:
        source = known.resume or known.config
        raise InputError(f"the task is {named!r}, but {source} is of the task {task_name!r}")

    config_class = CONFIGS[task_name]
    command: Command[Any] = cli.parse(
        Command[config_class],
        args=arguments,
        prog=f"python -m jaxrnn.train {named or '[TASK]'}",
        description=ABOUT.format(tasks=", ".join(CONFIGS), about=config_class.__doc__),
        default=Command(base or config_class()),
        config=(FlagCreatePairsOff,),
    )
    if resumed:
        check_resumed(resumed, command.training)
    return task_name, command, resumed


def find_config(name: str) -> Path:
    """A file's path, or that of the preset with this name."""
    path = Path(name)
    presets = {p.stem: p for p in (Path(__file__).parent / "presets").glob("*.toml")}
    if path.is_file() or path.suffix or path.name != name:
        return path
    if name not in presets:
        raise InputError(f"no file and no preset {name!r}; presets: {', '.join(sorted(presets))}")
    return presets[name]


def check_resumed(run: Run, config: TrainConfig) -> None:
    """Raise InputError where options differ from the run's that can't."""
    if config.run != str(run.path):
        raise InputError(f"--run is {config.run}, but --resume goes on in {run.path}; leave it out")
    changed = [
        f"--{field.name.replace('_', '-')} is {getattr(config, field.name)!r}, "
        f"the run has {getattr(run.config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name not in RESUMABLE
        and getattr(config, field.name) != getattr(run.config, field.name)
    ]
    if changed:
        raise InputError(
            f"{run.path} was made by other options: {'; '.join(changed)}; leave them out, or start "
            "a new run"
        )


def check_counts(before: TrainConfig, now: TrainConfig) -> None:
    """Raise InputError where epochs are given to a run of so many steps, which say nothing."""
    if now.epochs != before.epochs and now.steps == before.steps > 0:
        raise InputError(
            f"--epochs is {now.epochs}, but the run has --steps {now.steps}, which goes first; "
            "give --steps 0 with it"
        )


def check_schedule(before: TrainConfig, now: TrainConfig, data: Any) -> None:
    """Raise InputError where a run with a cosine schedule is made longer or shorter."""
    from jaxrnn.training import total_steps

    old, new = total_steps(before, data), total_steps(now, data)
    if now.schedule == "cosine" and old != new:
        raise InputError(
            f"--steps and --epochs give {new} steps, the run's cosine schedule was laid out for "
            f"{old}; leave them out, or start a new run"
        )


def check_checkpoints(run: Run, data: Any) -> None:
    """Raise InputError where a run's checkpoints are gone: to begin again would lose the rest."""
    from jaxrnn.training import first_save

    lines, folder = run.metrics(), run.path / "checkpoints"
    if folder.is_dir() and any(folder.glob("*.safetensors")):
        return
    if not folder.is_dir() or (lines and lines[-1]["step"] > first_save(run.config, data)):
        recorded = f", though its metrics go up to step {lines[-1]['step']}" if lines else ""
        raise InputError(
            f"{run.path} has no checkpoints{recorded}; put its directory checkpoints back, or "
            "start a new run"
        )


if __name__ == "__main__":
    sys.exit(main())
