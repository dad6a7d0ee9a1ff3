"""Rows of results: compared with ours, timed, written as lines of JSON.

Usage::

    rows = run_workload(workload, ["torch", "flax"], rounds=7, least_s=0.5)
    text = to_lines(rows, {**machine(), "quick": False})

A row has ``workload`` (fields and FLOPs), ``peer`` and either ``skipped`` (the reason), or: ``ms``,
``ms_low``, ``ms_high`` (a step's median and quartiles), ``floor_ms``, ``share`` (floor over
median), ``compile_s``, ``peak_memory_mib`` (null where nobody counts it), ``difference`` (the
largest from ours, or from the reference in float64 where the workload is ``exact``, relative to
each tensor's largest), ``ceilings``; and a peer's ``ratio``,
``ratio_low``, ``ratio_high`` (its time over ours, turn by turn: above 1, ours is faster), and
where there is a goal ``goal``, ``goal_met`` (null where it can't be judged), ``goal_ratio`` and
``goal_by``, whose time of ours it is. Who computes something else is skipped too, and an ``error``;
so is what fails of ours. Ours of an exact row has ``same_bits``: whether all of it was the same a
second time. Of torch in another precision than the row's there is no floor.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxrnn.bench import ceilings, timing
from jaxrnn.bench.peers import (
    OURS,
    Arrays,
    Session,
    UnsupportedError,
    precision_of,
    reference,
    start,
)
from jaxrnn.bench.workloads import Workload, describe
from jaxrnn.cli import num_cores
from jaxrnn.version import __version__

TOLERANCES = {"float32": 1e-4, "tf32": 2e-2, "bfloat16": 5e-2, "float16": 1e-2}
"""Largest difference of outputs and gradients, relative to the largest of each tensor."""

# Where compared in float64, over hundreds of steps: ours by its goal, others only so that nobody is
# timed who computes something else (torch in bfloat16 is at 0.04 to 0.07 on a CPU). The gradient of
# a training step is farther off: there ours too is held to the latter.
OUR_TOLERANCE = 1e-2
EXACT_TOLERANCES = TOLERANCES | {"bfloat16": 0.2, "float16": 0.05}

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "keras", "equinox")
KERNELS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flashrnn", "haste_pytorch")


class DisagreementError(ArithmeticError):
    """A peer computes something else: peer, row, tensor and by how much."""


def machine() -> dict[str, Any]:
    """Device, threads, load of the last minute, versions, XLA_FLAGS and date."""
    versions = {"python": platform.python_version(), "jaxrnn": __version__}
    for name in (*PACKAGES, *KERNELS):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    device = jax.devices()[0]
    return {
        "device": _cpu_name() if device.platform == "cpu" else device.device_kind,
        "platform": device.platform,
        "threads": num_cores(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclasses.dataclass(frozen=True)
class Difference:
    """The tensor that differs most, and by how much of its largest value."""

    tensor: str
    size: float


def difference(ours: Session, theirs: Session) -> Difference | None:
    """The largest of outputs and gradients; None where there is nothing to compare.

    A peer may have no second bias, and no other gradient missing.
    """
    if ours.check is None or theirs.check is None:
        return None
    (y, grads), (other, other_grads) = ours.check(), theirs.check()
    sizes = {"the output": _relative(other, y)}
    for name, grad in grads.items():
        if name in other_grads:
            sizes[f"the gradient of {name}"] = _relative(other_grads[name], grad)
        elif "bias_hh" not in name:
            sizes[f"the gradient of {name}"] = np.inf
    worst = max(sizes, key=lambda name: np.nan_to_num(sizes[name], nan=np.inf))
    return Difference(worst, float(sizes[worst]))


def _relative(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return np.inf
    largest = np.abs(expected).max()
    return float(np.abs(found - expected).max() / max(largest, np.finfo(np.float32).tiny))


def _reason(error: BaseException) -> str:
    """A failure of another library in one line."""
    lines = str(error).strip().splitlines()
    return f"it failed with {type(error).__name__}" + (f": {lines[0][:200]}" if lines else "")


def run_workload(
    workload: Workload, peers: Sequence[str], rounds: int, least_s: float
) -> list[dict[str, Any]]:
    """Our row and one for each peer; who can't do it, fails, or differs is skipped, and why."""
    with warnings.catch_warnings(), precision_of(workload):
        warnings.simplefilter("ignore")  # of other libraries, about themselves
        return _run_workload(workload, peers, rounds, least_s)


def _run_workload(workload, peers, rounds, least_s):
    sessions, rows, workloads = {}, {}, {}
    basis = None
    for name, peer, own in _takers(workload, peers):
        workloads[name] = own
        try:
            if name == OURS and workload.exact:
                basis = expected(workload)
            session = start(peer, own)
            rows[name] = _checked(name, own, basis, session) if basis else {}
        except UnsupportedError as reason:
            rows[name] = {"skipped": str(reason)}
        except Exception as error:
            differs = isinstance(error, DisagreementError)
            rows[name] = {"skipped": str(error) if differs else _reason(error)}
            rows[name] |= {"error": True} if differs or _is_ours(name) else {}
        else:
            sessions[name] = session
            basis = basis or session
        if OURS not in sessions:
            break
    times = {}
    while OURS in sessions and (len(sessions) > 1 or not peers):
        try:
            calls = {name: session.call for name, session in sessions.items()}
            times = timing.in_turns(calls, rounds, least_s)
            break
        except timing.CallError as error:
            rows[error.name] = {"skipped": _reason(error.__cause__ or error)}
            rows[error.name] |= {"error": True} if _is_ours(error.name) else {}
            del sessions[error.name]
    if times:
        _add_figures(rows, workload, sessions, times, rounds)
    elif OURS in sessions:  # never a figure without its peer
        rows[OURS] = {"skipped": "no peer was timed beside it"}
    else:
        for name in sessions:
            rows[name] = {"skipped": f"no {OURS} was timed beside it"}
    _judge_goals(rows, workload, times, sessions)
    return [
        {"workload": describe(workloads[name]), "peer": name, **row} for name, row in rows.items()
    ]


def left_out(workload: Workload, reason: str) -> list[dict[str, Any]]:
    """The row of a workload that was not begun."""
    return [{"workload": describe(workload), "peer": OURS, "skipped": reason}]


def _takers(workload: Workload, peers: Sequence[str]) -> Iterator[tuple[str, str, Workload]]:
    """A row's name, whose adapter, and what it computes: ours first, and torch's precisions."""
    yield OURS, OURS, workload
    for name in peers:
        yield name, name, workload
        for precision in workload.torch_in if name == "torch" else ():
            yield f"torch-{precision}", name, dataclasses.replace(workload, precision=precision)


def expected(workload: Workload) -> Session:
    """The reference in float64, of the same layers computed once; forward, its outputs alone."""
    y, grads = _expected(compared(workload))
    return Session(lambda: None, check=lambda: (y, {} if workload.mode == "forward" else grads))


def compared(workload: Workload) -> Workload:
    """The same for all rows that have one reference."""
    mode = "gradients" if workload.mode == "forward" else workload.mode
    what: Any = {"name": "", "mode": mode, "precision": "float32", "torch_in": ()}
    return dataclasses.replace(workload, **what, goal=0.0, more_goals=())


@functools.lru_cache(maxsize=1)  # of large layers it is gigabytes
def _expected(workload: Workload) -> tuple[np.ndarray, Arrays]:
    check = reference(workload).check
    assert check is not None
    return check()


def _checked(name: str, workload: Workload, basis: Session, session: Session) -> dict[str, Any]:
    """The size of the difference; raises DisagreementError for one that is no rounding."""
    found = difference(basis, session)
    if found is None:
        return {"difference": None}
    tolerances = EXACT_TOLERANCES if workload.exact else TOLERANCES
    tolerance = tolerances[workload.precision]
    if workload.exact and _is_ours(name) and workload.mode != "train":
        tolerance = min(tolerance, OUR_TOLERANCE)
    if not found.size <= tolerance:
        whose = "the reference in float64" if workload.exact else "ours"
        advice = "" if name == OURS else "; leave it out with --peers"
        raise DisagreementError(
            f"{name} on {workload.name}: {found.tensor} differs from {whose} by {found.size:.2g} "
            f"of its largest value, which is no rounding ({tolerance:g}){advice}"
        )
    same = {"same_bits": _repeats(session)} if workload.exact and _is_ours(name) else {}
    return {"difference": found.size, **same}


def _is_ours(name: str) -> bool:
    """Whether a row is of one of our backends."""
    return name == OURS or name.startswith(f"{OURS}-")


def _repeats(session: Session) -> bool:
    """Whether a second time gives the same bits."""
    assert session.check is not None
    (y, grads), (again, others) = session.check(), session.check()
    return np.array_equal(y, again) and all(np.array_equal(grads[n], others[n]) for n in grads)


def _add_figures(rows, workload, sessions, times, rounds):
    """What the times of all turns say of each that was timed."""
    per_step = {name: times[name] / session.steps_per_call for name, session in sessions.items()}
    try:
        floor, limits = ceilings.floor_s(workload), ceilings.describe(workload)
    except Exception as error:  # as where memory has no room for them
        floor, limits = None, {"error": _reason(error)}
    for name, session in sessions.items():
        own = timing.spread(per_step[name])
        is_other = name.startswith("torch-") and name.removeprefix("torch-") in workload.torch_in
        least = None if is_other else floor
        rows[name] |= {
            **{"ms": 1e3 * own.median, "ms_low": 1e3 * own.low, "ms_high": 1e3 * own.high},
            "floor_ms": None if least is None else 1e3 * least,
            "share": None if least is None else least / own.median,
            "steps_per_call": session.steps_per_call,
            "rounds": rounds,
            "us_a_time_step": 1e6 * own.median / workload.num_steps,
            "compile_s": session.compile_s,
            "peak_memory_mib": session.peak_memory_mib(),
            "ceilings": None if is_other else limits,
        }
        if name != OURS:
            ratio = timing.spread(per_step[name] / per_step[OURS])
            rows[name] |= {
                "ratio": ratio.median,
                "ratio_low": ratio.low,
                "ratio_high": ratio.high,
            }


def _judge_goals(rows, workload, times, sessions):
    """By the times of all turns; a goal that can't be judged is said to be none that was met."""
    per_step = {name: times[name] / sessions[name].steps_per_call for name in times}
    # Of our backends that no rule takes yet the fastest counts, where it takes part.
    own = {name: np.median(found) for name, found in per_step.items() if _is_ours(name)}
    for goal in workload.goals:
        by = goal.by or min(own, key=lambda name: own[name], default=OURS)
        row = rows.get(goal.peer, rows[OURS])
        if goal.peer in per_step and by in per_step:
            ratio = timing.spread(per_step[goal.peer] / per_step[by]).median
            found = {"goal_met": ratio >= goal.least, "goal_ratio": ratio}
        else:
            missing = goal.peer if goal.peer not in per_step else by
            found = {"goal_met": None, "goal_reason": f"{missing} was not timed"}
        row |= {"goal": goal.least, "goal_by": by, **found}


def to_lines(rows: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """JSON, a line a row; ``about`` is what ``machine`` gives and how it was run."""
    return "".join(json.dumps({**about, **row}) + "\n" for row in rows)
