"""jaxrnn by its persistent kernels, once a row has ended in a child.

Their blocks wait for each other: one that waits for ever, in this process, would never be ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import queue
import subprocess
import sys
import tempfile
import threading
from typing import Any

from jaxrnn import recurrence
from jaxrnn.bench.peers import Session, UnsupportedError, ours
from jaxrnn.bench.workloads import Workload

START_SECONDS, TRIAL_SECONDS = 90.0, 60.0  # of the child, and of each row, compiling included


class TrialError(RuntimeError):
    """The kernels fail in a child, by what the message says."""


def session(backend: str, workload: Workload) -> Session:
    """Ours, by the kernels; raises TrialError for a row that does not end in a child."""
    if reason := recurrence.BACKENDS[backend].supports(ours.spec(workload)):
        raise UnsupportedError(reason)
    if refused := TRIALS[backend].refused(workload):
        raise TrialError(f"in another process {refused}")
    return ours.by_name(backend, workload)


by_grid = functools.partial(session, "persistent")
by_clusters = functools.partial(session, "persistent-cluster")


class Trials:
    """A child that runs one row after the other, as it is asked; another where it has failed."""

    def __init__(self, backend: str):
        self.backend = backend
        self.child: Child | None = None
        self.late = ""  # the row that did not end: none is tried after it

    def refused(self, workload: Workload) -> str:
        """Why not, or nothing."""
        if self.late:
            return f"{self.late} did not end"
        try:
            self.child = self.child or Child(self.backend)
            return self.child.run(workload)
        except TimeoutError as error:
            self.late = workload.name
            reason = str(error)
        except EOFError as error:
            reason = f"it failed with {error}"
        if self.child:
            self.child.end()
        self.child = None
        return reason


TRIALS = {name: Trials(name) for name in ("persistent", "persistent-cluster")}


class Child:
    """A process that runs rows; raises TimeoutError, and EOFError where it has ended."""

    def __init__(self, backend: str):
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed with the process
        code = f"from {__name__} import serve; serve({backend!r})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self._next(START_SECONDS)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def _next(self, seconds: float) -> dict[str, Any]:
        """The answer that comes within so many seconds."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError(f"it did not end within {seconds:g} s") from None
        if not line:
            self.process.wait()
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace").splitlines()
            said = [text.strip() for text in said if text.strip()]
            raise EOFError(said[-1][:300] if said else f"exit code {self.process.returncode}")
        return json.loads(line)

    def run(self, workload: Workload) -> str:
        """What it says of the row: nothing, or why not."""
        plain = dataclasses.asdict(workload)
        for name in ("more_goals", "torch_in"):  # which say nothing of what is run
            del plain[name]
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, as the next line says
            print(json.dumps(plain), file=self.process.stdin, flush=True)
        return self._next(TRIAL_SECONDS)["refused"]

    def end(self) -> None:
        """Whatever it is waiting for."""
        self.process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # of a GPU that does not let it go
            self.process.wait(10)
            self.reader.join()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.errors.close()


def serve(backend: str) -> None:
    """Run each row that a line of standard input has; a line of JSON for each, ``refused``."""
    import jax

    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed is no answer
    jax.block_until_ready(jax.numpy.zeros(8) + 1)
    print(json.dumps({"refused": ""}), file=answers, flush=True)
    for line in sys.stdin:
        try:
            row = ours.by_name(backend, Workload(**json.loads(line)))
            assert row.check is not None
            row.check()
            row.call()
            refused = ""
        except Exception as error:
            refused = " ".join(f"it failed with {type(error).__name__}: {error}".split())[:300]
        print(json.dumps({"refused": refused}), file=answers, flush=True)
