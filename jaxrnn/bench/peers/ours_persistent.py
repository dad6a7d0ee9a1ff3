"""jaxrnn by its persistent kernels, once they have ended in a child.

Their blocks wait for each other: one that waits for ever, in this process, would never be ended.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
from typing import Any

import numpy as np

from jaxrnn import recurrence
from jaxrnn.bench import children
from jaxrnn.bench.peers import Session, UnsupportedError, ours
from jaxrnn.bench.workloads import SUITES, Workload

START_SECONDS, TRIAL_SECONDS = 60.0, 40.0  # of a child, and of each that it tries
TRIAL_STEPS = 16
TRIAL_TOLERANCE = 1e-2


def session(workload: Workload) -> Session:
    """Ours, by the kernels whose blocks wait for each other: once they have ended elsewhere."""
    if reason := recurrence.BACKENDS["persistent"].supports(ours.spec(workload)):
        raise UnsupportedError(reason)
    own = layers_of(workload)
    every = dict.fromkeys([*map(layers_of, SUITES["gpu"]), own])  # in one child
    if refused := trials(tuple(every)).get(own):
        raise UnsupportedError(f"tried in another process: {refused}")
    return ours.by_name("persistent", workload)


def layers_of(workload: Workload) -> str:
    """What decides which kernels run: cell, batch, units, layers, lengths and precision."""
    masked = int(workload.max_length > 0)
    return (
        f"{workload.cell} {workload.batch_size} {workload.hidden_size} {workload.num_layers} "
        f"{masked} {workload.precision}"
    )


@functools.cache
def trials(layers: tuple[str, ...]) -> dict[str, str]:
    """Why not, of those that a child refuses: a kernel that waits for ever would never be ended.

    A child tries one after the other; where one ends it or takes too long, another goes on behind.
    """
    kernel = recurrence.BACKENDS["persistent"]
    left = [own for own in layers if not kernel.supports(ours.spec(short(own)))]
    refused = {}
    while left:
        function = "jaxrnn.bench.peers.ours_persistent.try_them"
        seconds = START_SECONDS + TRIAL_SECONDS * len(left)
        printed, reason = children.lines(function, *left, seconds=seconds)
        found = [json.loads(line) for line in printed if line.startswith("{")]
        refused |= {row["layers"]: row["refused"] for row in found if row["refused"]}
        left = left[len(found) :]
        if reason and left:
            refused[left.pop(0)] = reason
        elif not reason:
            break
    return refused


def short(layers: str) -> Workload:
    """Some steps of them, forward and backward."""
    cell, *sizes, masked, precision = layers.split()
    batch_size, hidden_size, num_layers = map(int, sizes)
    steps: Any = ("trial", cell, TRIAL_STEPS, batch_size, hidden_size, hidden_size, num_layers)
    max_length = TRIAL_STEPS * int(masked)
    how: Any = {"mode": "gradients", "precision": precision}
    return Workload(*steps, max_length=max_length, **how)


def try_them() -> None:
    """A line of JSON for each of the arguments: ``refused``, by what, or that it agrees with scan.

    Outputs and gradients are compared, to ``TRIAL_TOLERANCE`` of the largest value.
    """
    for layers in sys.argv[1:]:
        row, refused = short(layers), ""
        watch = threading.Timer(TRIAL_SECONDS, give_up)
        watch.start()
        try:
            checks = [ours.session(row, backend=name).check for name in ("persistent", "scan")]
            (y, grads), (other, others) = (check() for check in checks if check is not None)
            pairs = [(y, other), *((grads[name], others[name]) for name in others)]
            size = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
            if not size <= TRIAL_TOLERANCE:
                refused = f"it differs from scan by {size:.2g} of the largest value"
        except Exception as error:
            refused = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        watch.cancel()
        print(json.dumps({"layers": layers, "refused": refused}), flush=True)


def give_up() -> None:
    """End the process, whatever its other threads wait for."""
    print(f"it did not end within {TRIAL_SECONDS:g} s", file=sys.stderr, flush=True)
    os._exit(1)
