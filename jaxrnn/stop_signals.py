"""Ctrl-C and SIGTERM: an end after a checkpoint, within ten seconds whatever is going on.

Python runs a signal's handler between two of its own instructions, and so not while XLA compiles
or the device computes. The system's part of the handler does run then, and writes the signal's
number to a pipe, where a thread of ours reads it: it ends the process once GRACE_S have gone by,
or at a second signal. A run can be killed at any moment without harm. Usage::

    with StopSignals("runs/a") as stop:
        train(..., stop_requested=stop.requested)
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import threading
from pathlib import Path

from jaxrnn import cli

GRACE_S = 8.0  # from a signal to the end of a process that has not come to an end by itself
NUMBERS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """What asks the run in directory ``run`` to stop; to be used in the main thread."""

    def __init__(self, run: str):
        self._run = run
        self._received: int | None = None

    def __enter__(self) -> StopSignals:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup_before = signal.set_wakeup_fd(self._writer)
        self._before = {number: signal.signal(number, self._receive) for number in NUMBERS}
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        os.close(self._writer)  # which ends the watcher
        self._watcher.join()
        os.close(self._reader)

    def requested(self) -> str | None:
        """The name of the signal that has come, if any."""
        return None if self._received is None else signal.Signals(self._received).name

    def _receive(self, number: int, frame: object) -> None:
        if self._received is None:
            self._received = number

    def _watch(self) -> None:
        number = self._next(None)
        if number is None:
            return
        second = self._next(GRACE_S)
        if second is None:
            return
        name = signal.Signals(number).name
        after = "a second signal" if second else f"{GRACE_S:.0f} s in the midst of something"
        resume = f"python -m jaxrnn.train --resume {shlex.quote(self._run)}"
        has_saved = (Path(self._run) / "checkpoints" / "last.safetensors").exists()
        goes_on = "goes on from its last checkpoint" if has_saved else "begins anew, nothing saved,"
        stopped = f"\nstopped by {name} and {after}; the run {goes_on} by\n  {resume}"
        cli.end_now(128 + number, stopped)

    def _next(self, timeout_s: float | None) -> int | None:
        """The number of the next of our signals, 0 after the time, None at the end of the block."""
        while True:
            if not select.select([self._reader], [], [], timeout_s)[0]:
                return 0
            data = os.read(self._reader, 1)
            if not data or data[0] in NUMBERS:
                return data[0] if data else None
