"""What a person sees of a run: a bar with ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 10.0  # a line without a validation at most this often, where there is no bar


class Display:
    """The trainer's view; ``unit`` is what a step's positions are called."""

    def __init__(self, console: Console | None = None, unit: str = "tokens"):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.unit = unit
        self._bar: Progress | None = None
        self._total = 0
        self._shown = 0.0

    def start(self, step: int, total: int) -> None:
        """Show the bar, where there is a terminal."""
        self._total, self._shown = total, time.monotonic()
        if not self.console.is_terminal or step >= total:
            return
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
        )
        self._task = self._bar.add_task("", total=total, completed=step, status="compiling")
        self._bar.start()

    def update(self, step: int, loss: float, speed: float) -> None:
        """Show where the run stands; ``speed`` in positions a second."""
        if self._bar is not None:
            status = f"loss {loss:.4g}  {_si(speed)} {self.unit}/s"
            self._bar.update(self._task, completed=step, status=status)

    def log(self, line: dict[str, Any]) -> None:
        """Show a line of metrics: each with a validation, others now and then."""
        validated = {k: v for k, v in line.items() if k.startswith(("val_", "naive_"))}
        due = time.monotonic() - self._shown > PLAIN_SECONDS and self._bar is None
        if not (validated or due):
            return
        self._shown = time.monotonic()
        told = {k: v for k, v in line.items() if k == "loss"} | validated
        shown = "  ".join(f"{k} {v:.4g}" for k, v in told.items())
        place = f"step {line['step']}/{self._total}  epoch {line['epoch']:.2f}"
        self.line(f"{place}  {shown}  {_si(line['tokens_per_s'])} {self.unit}/s")
        if "sample" in line:
            sample = " ".join(line["sample"].split())
            self.line(f"    {sample[:88]}")

    def line(self, text: str) -> None:
        """Print a line, above the bar."""
        self.console.print(text, markup=False)

    def stop(self) -> None:
        """Take the bar down."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _si(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.1f}{unit}"
    return f"{value:.0f}"
