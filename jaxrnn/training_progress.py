"""What training knows besides its state, as checkpoints keep it.

Usage::

    progress = read_progress(path, meta)
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from jaxrnn import checkpoint
from jaxrnn.config import MOST
from jaxrnn.errors import InputError, shown


@dataclasses.dataclass
class Progress:
    """What the loop knows besides the state; saved with it."""

    loss_sum: float = 0.0  # over the steps since the last line of metrics
    loss_count: int = 0
    best: float | None = None
    best_step: int = 0
    improved_on: float | None = None  # the last validation better than its like by min_delta
    bad_validations: int = 0  # since then
    skipped: int = 0  # steps left out, all in all, and those just before
    skipped_last: int = 0
    unvalidated: dict[str, Any] | None = None  # a line whose validation a signal broke off
    validations: list[float] = dataclasses.field(default_factory=list)  # while nt_asgd waits
    time_s: float = 0.0


# What the first runs did not have yet.
_LATER = {"skipped", "skipped_last", "unvalidated", "validations"}


def read_progress(path: Path, meta: dict[str, Any]) -> Progress:
    """What a checkpoint's meta has of it; raises InputError, naming ``path``, for anything else."""
    values, names = meta.get("progress"), {field.name for field in dataclasses.fields(Progress)}
    wrong = ""
    if not isinstance(values, dict) or not names - _LATER <= set(values) <= names:
        wrong = f"is {shown(values)}, expected an object with {', '.join(sorted(names))}"
    else:
        found = [name for name, value in values.items() if not _is_kept(name, value, meta["step"])]
        if found:
            wrong = f"has {found[0]} {shown(values[found[0]])}, which no run writes"
        elif (values["best"] is None) != (values["best_step"] == 0):
            wrong = f"has the best {values['best']} of step {values['best_step']}"
        else:
            return Progress(**values)
    raise InputError(f"{path}: its progress {wrong}; {checkpoint.ANOTHER}")


def _is_kept(name: str, value: Any, step: int) -> bool:
    """Whether a value of ``Progress`` is of the kind that is saved after a step."""
    if name == "unvalidated":
        needed = {"step", "epoch", "lr", "tokens_per_s", "time_s"}
        return value is None or (
            isinstance(value, dict)
            and needed <= set(value)
            and all(map(_is_number, value.values()))
            and value["step"] == step
        )
    if name == "validations":
        return isinstance(value, list) and all(map(_is_number, value))
    if name in ("best", "improved_on"):
        return value is None or _is_number(value)
    if name in ("loss_sum", "time_s"):
        return _is_number(value)
    return type(value) is int and 0 <= value <= MOST["steps"]


def _is_number(value: Any) -> bool:
    if type(value) is int:
        return abs(value) < 2**63
    return type(value) is float and math.isfinite(value)
