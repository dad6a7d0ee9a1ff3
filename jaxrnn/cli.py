"""What the command lines share: one clear line and exit code 2 for bad input, the device."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import tyro

from jaxrnn.errors import InputError
from jaxrnn.runs import Run


def exit_code(main: Callable[[], int | None]) -> int:
    """Run a command; bad input ends in one line on standard error and 2, a failing disk in 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # whatever its encoding can show
            stream.reconfigure(errors="replace")
    try:
        return main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of our output, as head(1), has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def parse(options: Any, **arguments: Any) -> Any:
    """``tyro.cli``, whose complaints become an InputError of one line."""
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


def use_device(device: str, dtype: str = "float32") -> str:
    """Choose where JAX computes, before its first operation; gives the device's name.

    Raises InputError for a device that is not there.
    """
    import jax

    if device != "auto":
        jax.config.update("jax_platforms", device)
    if dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    try:
        found = jax.devices()
    except RuntimeError:
        raise InputError(
            f"--device {device}: JAX finds none here; install JAX for it "
            "(docs.jax.dev/en/latest/installation.html), or leave --device out"
        ) from None
    return f"{len(found)} x {found[0].device_kind}" if len(found) > 1 else found[0].device_kind


def open_model(path: str, checkpoint: str, device: str) -> tuple[Any, Any, Any, Run]:
    """The task, evaluation skeleton, parameters and run of a run directory.

    Raises InputError for what is not a whole run, or whose parameters don't fit its options.
    """
    run = Run.open(path)
    use_device(device, run.config.dtype)

    from jaxrnn.tasks import TASKS
    from jaxrnn.training import load_model

    task = TASKS[run.task].from_facts(run.config, run.facts)
    skeleton, params, _ = load_model(task, run, checkpoint)
    return task, skeleton, params, run
