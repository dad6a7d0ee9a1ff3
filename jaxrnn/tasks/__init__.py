"""A task is data, a model, a loss, metrics and a preview; ``TASKS`` is the table of them.

Usage: ``task, data = TASKS["char"].load(config)``.
"""

from __future__ import annotations

from typing import Any

from jaxrnn.tasks.char import CharTask
from jaxrnn.tasks.series import SeriesTask
from jaxrnn.tasks.sine import SineTask
from jaxrnn.tasks.sketch import SketchTask
from jaxrnn.tasks.task import Batches, Data, HeldOut, Task, Validation

TASKS: dict[str, Any] = {
    "char": CharTask,
    "series": SeriesTask,
    "sine": SineTask,
    "sketch": SketchTask,
}
"""Every task by its name; options in ``jaxrnn.config.CONFIGS`` under the same one."""

__all__ = ["TASKS", "Batches", "Data", "HeldOut", "Task", "Validation"]
