"""What the command lines share: one clear line and exit code 2 for bad input, the device."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import tyro

from jaxrnn.errors import InputError

if TYPE_CHECKING:
    from jaxrnn.runs import Run


# What memory goes by, in training and in what follows it.
SIZES = (
    "--batch-size, --hidden-size, --num-layers or the lengths (--seq-len, --input-len, --horizon, "
    "--max-len); after training --length, --count or --streams"
)
LAST_WORDS_S = 0.5  # that they may take
INTERRUPTED = "interrupted"
MOST_CPU_SHARDS = 64  # even of fewer cores: a run goes on, to the bit, where there are fewer


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a command; bad input ends in one line on standard error and 2, a failing disk in 1.

    So does what is too large for memory or for a machine's integers.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever its encoding can show
            stream.reconfigure(errors="replace")
    try:
        # What overflows is looked for where it matters; NumPy's warnings would be more lines.
        with np.errstate(all="ignore"):
            return main() or 0
    except InputError as error:
        say_error(str(error))
        return 2
    except BrokenPipeError:  # the reader of our output, as head(1), has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        say_error(str(error))
        return 1
    except (MemoryError, OverflowError, RuntimeError) as error:
        if not is_too_large(error):
            raise
        say_error(too_large(error))
        return 1
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


def while_importing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """``sys.excepthook`` of a command line: Ctrl-C before ``exit_code`` ends as it does within."""
    if issubclass(kind, KeyboardInterrupt):
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(130)
    sys.__excepthook__(kind, error, trace)


def is_command() -> bool:
    """Whether this process is one of our command lines: ``-m``, or the script of its name."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = spec.name if spec else Path(sys.argv[0]).name
    return name.startswith(("jaxrnn.", "jaxrnn-", "torch_compat", "torch-compat"))


if is_command():  # what imports this goes on to import JAX, which takes a second
    sys.excepthook = while_importing


def say_error(text: str) -> None:
    """One line on standard error, whatever is in the names that it tells."""
    print(f"error: {printable(text)}", file=sys.stderr, flush=True)


def end_now(code: int, text: str) -> NoReturn:
    """End the process from any thread, with last words that wait for no reader.

    Who should read them may have gone, or have stopped to read, as Ctrl-S has a terminal do.
    """
    options = {"file": sys.stderr, "flush": True}
    writer = threading.Thread(target=print, args=(text,), kwargs=options, daemon=True)
    writer.start()
    writer.join(LAST_WORDS_S)
    os._exit(code)


def printable(text: str) -> str:
    r"""The text, line breaks and whatever else a terminal does not show as ``\n``, ``\x1b``."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def is_too_large(error: BaseException) -> bool:
    """Whether it is because memory, or an integer, has no room for what the options ask for."""
    exhausted = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)  # XLA's
    return exhausted or isinstance(error, (MemoryError, OverflowError))


def too_large(error: BaseException) -> str:
    """What to do about it."""
    reason = " ".join(str(error).split())[:160] or "out of memory"
    return f"this is too large for the machine ({reason}); lower {SIZES}"


def check_flags(options: Any, checks: dict[str, tuple[bool, str]]) -> None:
    """Raise InputError for the first option that is not as ``(ok, expected)`` has it."""
    for name, (ok, expected) in checks.items():
        if not ok:
            flag = name.replace("_", "-")
            raise InputError(f"--{flag} is {getattr(options, name)!r}, expected {expected}")


def parse(options: Any, **arguments: Any) -> Any:
    """``tyro.cli``, whose complaints become an InputError of one line."""
    for word in arguments.get("args") or ():
        if "\0" in word:
            raise InputError(f"an argument is {word!r}, expected one without a NUL character")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(options, **arguments)
    except SystemExit as end:
        if not end.code:
            raise
        # A box, in ASCII or not, in colour or not: a title, the message, a rule, advice.
        text = re.sub(r"\x1b\[[0-9;]*m", "", box.getvalue())
        lines = [s for line in text.splitlines() if (s := line.strip(" \t|+│╭╮╰╯"))]
        parts: list[list[str]] = [[]]
        for line in lines[1:]:
            if line.strip("-─"):
                parts[-1].append(line)
            else:
                parts.append([])
        message = next((part for part in parts if part), lines)
        raise InputError(" ".join(message).removesuffix(".") + "; see --help") from None


def check_outputs(**paths: str) -> None:
    """Raise InputError for a file to write, by its option, that is a directory or a run's own."""
    from jaxrnn.runs import is_own

    for name, path in paths.items():
        if path and Path(path).is_dir():
            raise InputError(f"--{name} is {path}, a directory, expected a file; name one in it")
        if path and is_own(path):
            raise InputError(
                f"--{name} is {path}, which a run can't be without; choose another name"
            )


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_device(
    device: str,
    dtype: str = "float32",
    cpu_shards: int | Callable[[], int] = 1,
) -> str:
    """Choose where JAX computes, before its first operation; gives the device's name.

    ``cpu_shards``: as how many devices JAX should see the CPU, for a batch that they share; or
    what gives it, once the platform is chosen, and finds the other processes of a run first.

    Raises InputError for a device that is not there.
    """
    import jax

    # "gpu" would ask for the platforms of all makers, and fail where one of them is missing.
    platforms = {"auto": (None,), "gpu": ("cuda", "rocm")}.get(device, (device,))
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    found: list[Any] = []
    for k, platform in enumerate(platforms):
        if platform:
            jax.config.update("jax_platforms", platform)
        if k == 0:
            split_cpu(cpu_shards if isinstance(cpu_shards, int) else cpu_shards())
        with contextlib.suppress(RuntimeError):
            found = jax.devices()
            break
    if not found:
        raise InputError(
            f"--device {device}: JAX finds none here; install JAX for it "
            "(docs.jax.dev/en/latest/installation.html), or leave --device out"
        )
    kind = found[0].device_kind
    return f"{len(found)} x {kind}" if len(found) > 1 and found[0].platform != "cpu" else kind


def split_cpu(shards: int) -> None:
    """Have JAX see the CPU as so many devices, where it has not started yet."""
    import jax

    # Of thousands XLA makes so many threads that it hangs, or aborts. Without them whoever needs
    # them finds that they are not there.
    if 1 < shards <= max(num_cores(), MOST_CPU_SHARDS):
        with contextlib.suppress(RuntimeError):  # the devices are what they are
            jax.config.update("jax_num_cpu_devices", shards)


def open_model(path: str, checkpoint: str, device: str) -> tuple[Any, Any, Any, Run]:
    """The task, evaluation skeleton, parameters and run of a run directory.

    Raises InputError for what is not a whole run, or whose parameters don't fit its options.
    """
    from jaxrnn.runs import Run

    run = Run.open(path)
    use_device(device, run.config.dtype)

    from jaxrnn.tasks import TASKS
    from jaxrnn.training import load_model

    task = TASKS[run.task].from_facts(run.config, run.facts)
    skeleton, params, meta = load_model(task, run, checkpoint)
    progress = meta.get("progress")
    has_best = isinstance(progress, dict) and bool(progress.get("best_step"))
    if checkpoint == "auto" and meta["name"] == "last" and has_best:
        note = f"note: {run.checkpoint_path('best')} is missing; this is the last, of step"
        print(printable(f"{note} {meta['step']}"), file=sys.stderr, flush=True)
    return task, skeleton, params, run
