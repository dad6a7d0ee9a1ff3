"""What is better done in another process: flags that XLA reads once, kernels that may never end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from jaxrnn import cli
from jaxrnn.errors import InputError


def call(
    function: str, *arguments: object, seconds: float, environment: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What ``module.function`` prints last, as JSON; it finds the arguments as a command line does.

    Or ``refused``: what a child failed by, or that it took too long. Raises the child's own
    InputError.
    """
    module, _, name = function.rpartition(".")
    code = f"import sys, {module} as m; from jaxrnn.bench import children; "
    code += f"sys.exit(children.run(m.{name}))"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    try:
        done = subprocess.run(
            command,
            env=os.environ | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"refused": f"it did not end within {seconds:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [text for text in done.stderr.splitlines() if text.strip()]
    if done.returncode == 2:
        raise InputError(said[-1].removeprefix("error: "))
    return {"refused": said[-1] if said else f"exit code {done.returncode}"}


def run(main: Callable[[], int | None]) -> int:
    """The exit code of a child; what it fails by stands whole on its last line."""
    try:
        return cli.exit_code(main)
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(str(error).split())[:300]
        print(f"{type(error).__name__}: {reason}", file=sys.stderr)
        return 1
