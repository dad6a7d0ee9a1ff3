"""Several processes that train one run, each with devices of its own, through jax.distributed.

They all do the same in the same order, each with its rows of every batch; the first one alone
writes. What they must agree on goes through here: whoever asks waits for all others. Usage::

    start("10.0.0.1:1234", num_processes=4, process_id=2)
    stop = agreed_signal(stop)
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxrnn.errors import InputError

HEARTBEAT_S = 30  # without a sign of life before a process counts as dead
START_S = 120  # that processes wait for each other at the start
LATER_S = 60  # after which JAX would give up itself, which aborts the process


def start(coordinator: str, num_processes: int, process_id: int) -> None:
    """Join the others; before JAX's first operation.

    ``coordinator`` is the first process's host:port, or 'auto' under SLURM, Open MPI, Kubernetes
    or on TPU pods, where JAX finds out all three by itself.

    Raises InputError where they do not come together.
    """
    given: dict[str, Any] = {}
    if coordinator != "auto":
        given = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
        }
        find(coordinator, is_first=process_id == 0)
    try:
        with given_up_after(START_S, apart(coordinator, f"not all were there after {START_S} s")):
            jax.distributed.initialize(
                **given,
                heartbeat_timeout_seconds=HEARTBEAT_S,
                initialization_timeout=START_S + LATER_S,
            )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise InputError(apart(coordinator, reason)) from error


def apart(coordinator: str, reason: str) -> str:
    """The error of processes that do not meet."""
    return (
        f"--coordinator {coordinator}: the processes did not come together ({reason}); start "
        "all of them, the first with --process-id 0 on the coordinator's host"
    )


def find(coordinator: str, is_first: bool) -> None:
    """Wait for the coordinator at host:port, which the first process itself is.

    Raises InputError for a host without address, a port that is taken, or where nobody listens.
    """
    host, _, port = coordinator.rpartition(":")
    place = (host.strip("[]"), int(port))
    try:
        socket.getaddrinfo(*place)
        if is_first:
            with socket.create_server(("", place[1])):
                return
    except (OSError, UnicodeError) as error:  # a name too long for DNS is no Unicode to Python
        reason = getattr(error, "strerror", None) or "no such address"
        raise InputError(apart(coordinator, reason)) from None
    until = time.monotonic() + START_S
    while True:
        try:
            with socket.create_connection(place, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > until:
                reason = f"nobody listens there after {START_S} s: {error.strerror or error}"
                raise InputError(apart(coordinator, reason)) from None
        time.sleep(0.2)


@contextlib.contextmanager
def given_up_after(seconds: float, message: str) -> Iterator[None]:
    """Within, for so long at most: then the process ends with the message and code 2."""

    def give_up():
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(2)  # the main thread is in XLA, which knows no other end than an abort

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def are_several() -> bool:
    """Whether there are others."""
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this is the one that writes."""
    return jax.process_index() == 0


def from_first(number: int) -> int:
    """The first process's number."""
    if not are_several():
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def done_by_first(make: Callable[[], str]) -> str:
    """What the first process gets of a function that it alone calls.

    Raises InputError in every process where it did in the first.
    """
    if not are_several():
        return make()
    failed, text = 0, ""
    if is_first():
        try:
            text = make()
        except InputError as error:
            failed, text = 1, str(error)
    data = np.frombuffer(text.encode(errors="replace"), np.uint8)
    told = multihost_utils.broadcast_one_to_all(np.array([failed, len(data)], np.int32))
    failed, size = np.asarray(told).tolist()
    padded = np.zeros(size, np.uint8)
    padded[: len(data)] = data
    text = np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes().decode()
    if failed:
        raise InputError(text)
    return text


def agreed_signal(name: str | None) -> str | None:
    """The name of a signal that any of the processes has received."""
    if not are_several():
        return name
    number = 0 if name is None else signal.Signals[name].value
    largest = int(np.asarray(multihost_utils.process_allgather(np.int32(number))).max())
    return signal.Signals(largest).name if largest else None


def wait_for_all(what: str) -> None:
    """Go on when every process has come here."""
    if are_several():
        multihost_utils.sync_global_devices(what)
