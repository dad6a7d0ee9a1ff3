"""Options as TOML: a run's ``config.toml``, a file given to ``--config``, a preset. Usage::

path.write_text(to_toml("char", CharConfig(seq_len=100)))
task, config = from_toml(path)                                  # raises InputError
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import tomllib
import typing
from pathlib import Path
from typing import Any

from jaxrnn import files
from jaxrnn.config import CONFIGS, TrainConfig
from jaxrnn.errors import InputError

MOST_BYTES = 1_000_000  # of a file of options


def to_toml(task: str, config: TrainConfig) -> str:
    """The configuration as a TOML text that ``from_toml`` takes."""
    lines = [f'task = "{task}"']
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        text = repr(value) if isinstance(value, float) else _toml_value(value)
        lines.append(f"{field.name} = {text}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    # JSON leaves DEL as it is, which TOML has no place for.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def from_toml(path: str | Path) -> tuple[str, TrainConfig]:
    """The task and configuration in a TOML file; what it leaves out has the task's default.

    Raises InputError for a file that is missing, not TOML, or has an unknown key or a bad value.
    """
    return from_values(read_toml(path), str(path))


def read_toml(path: str | Path) -> dict[str, Any]:
    """What a TOML file says. Raises InputError for one that is missing or not TOML."""
    try:
        values = tomllib.loads(files.read_text(Path(path), MOST_BYTES))
        if is_nested(values):
            raise RecursionError
        repr(values)  # as will be said of a bad value; a ValueError for a number too long
        return values
    except OSError as error:
        raise InputError(f"can't read the configuration {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the configuration {path} is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the configuration {path} is not TOML: {error}") from error
    except (RecursionError, ValueError) as error:
        is_deep = isinstance(error, RecursionError)
        what = "is nested too deep" if is_deep else "has a number of too many digits"
        raise InputError(
            f"the configuration {path} {what}, expected a line 'name = value' for each option; "
            "correct it"
        ) from None


def is_nested(value: Any, levels: int = 9) -> bool:
    """Whether objects or lists lie within others, more levels deep than any file of ours has."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(is_nested(v, levels - 1) for v in inner)


def from_values(values: dict[str, Any], source: str) -> tuple[str, TrainConfig]:
    """As ``from_toml``, of values already read; ``source`` names them in errors."""
    values = dict(values)
    task = values.pop("task", "char")
    if not isinstance(task, str) or task not in CONFIGS:
        raise InputError(f"{source}: task is {task!r}, expected one of {', '.join(CONFIGS)}")
    config_class = CONFIGS[task]
    hints = typing.get_type_hints(config_class)
    unknown = sorted(set(values) - set(hints))
    if task == "series" and "seq_len" in unknown:
        raise InputError(
            f"{source}: these are options of the one-step task, which is called sine since series "
            'is the forecaster; write task = "sine" in its first line to go on with it'
        )
    if unknown:
        close = difflib.get_close_matches(unknown[0], hints, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise InputError(
            f"{source}: unknown {', '.join(unknown)}{meant} (the task {task!r} has "
            f"{', '.join(hints)})"
        )
    for name, value in values.items():
        if isinstance(value, list) and typing.get_origin(hints[name]) is tuple:
            values[name] = tuple(value)
        if hints[name] is float and type(value) is int and abs(value) < 2**53:
            values[name] = float(value)
    try:
        return task, config_class(**values)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
