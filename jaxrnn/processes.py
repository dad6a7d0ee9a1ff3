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
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax._src import distributed
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from jaxrnn import cli
from jaxrnn.errors import InputError, shown

Made = TypeVar("Made")

HEARTBEAT_S = 30  # without a sign of life before a process counts as dead
START_S = 120  # that processes wait for each other at the start
LATER_S = 60  # after which JAX would give up itself, which aborts the process
GRACE_S = 3.0  # from the word that this process ends to its end, which the first's ends all
LOOK_S = 0.5  # between looks whether another has said so
ENDING = "jaxrnn/ending"  # where a process says it


class AgreedError(InputError):
    """One that every process has."""


def start(coordinator: str, num_processes: int, process_id: int) -> int:
    """Join the others; before JAX's first operation. Gives how many there are.

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
    threading.Thread(target=_watch, args=(_client(),), daemon=True).start()
    return distributed.global_state.num_processes


def _client() -> Any:
    """Of the store that the processes share, for which JAX has no public name."""
    return distributed.global_state.client


def _watch(client: Any) -> None:
    """End this process when another has said that it ends."""
    while True:
        time.sleep(LOOK_S)
        try:
            number = client.key_value_try_get(ENDING)
        except JaxRuntimeError as error:
            if str(error).startswith("NOT_FOUND"):
                continue
            return  # the store has gone, and with it the run
        if int(number) != distributed.global_state.process_id:  # JAX itself may have gone
            cli.end_now(
                1,
                f"error: process {number} of the run has ended by an error, which it tells; start "
                "all of them again",
            )
        return


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
        # The main thread is in XLA, which knows no other end than an abort.
        cli.end_now(2, f"error: {message}")

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
    return _told(done_by_all(lambda: make() if is_first() else ""), number=0)


def done_by_all(make: Callable[[], Made]) -> Made:
    """What a function gives here, once it has ended in every process.

    Raises InputError in all of them where it did in one.
    """
    if not are_several():
        return make()
    made: list[Made] = []
    reason = ""
    try:
        made.append(make())
    except InputError as error:
        reason = str(error)
    failed = np.asarray(multihost_utils.process_allgather(np.int32(not made)))
    if failed.any():
        number = int(failed.argmax())
        told = _told(reason, number)
        raise AgreedError(f"process {number}: {told}" if number else told)
    return made[0]


def _told(text: str, number: int) -> str:
    """The text that a process has, in all of them."""
    if not are_several():
        return text
    data = np.frombuffer(text.encode(errors="replace"), np.uint8)
    is_source = jax.process_index() == number
    told = multihost_utils.broadcast_one_to_all(np.int32(len(data)), is_source=is_source)
    padded = np.zeros(int(told), np.uint8)
    if is_source:
        padded[:] = data
    told = multihost_utils.broadcast_one_to_all(padded, is_source=is_source)
    return np.asarray(told).tobytes().decode()


def check_alike(lines: list[str], what: str) -> None:
    """Raise InputError in all processes where the lines of one are not the first's.

    ``what`` goes before those that are not, as "was started with other options".
    """
    first = done_by_first(lambda: "\n".join(lines)).split("\n")

    def compare():
        if lines != first:
            other = [line for line in lines if line not in first]
            raise InputError(f"{what}: {shown(', '.join(other))}; start all with the same")

    done_by_all(compare)


def ended(main: Callable[[], int]) -> int:
    """The exit code of ``main``, which trains.

    One of several processes that fails alone ends here and now, with its line: JAX would wait for
    the others at the end, for minutes, and they for this one's next sum.
    """
    if not are_several():
        return main()
    agreed: list[int] = []

    def run() -> int:
        try:
            agreed.append(main())
        except AgreedError as error:
            cli.say_error(str(error))
            agreed.append(2)
        except JaxRuntimeError as error:
            left_alone(error, "start all of them again")
        return agreed[0]

    try:
        code = cli.exit_code(run)
    except BaseException:
        traceback.print_exc()
        code = 1
    return code if agreed else leave(code)


def leave(code: int) -> int:
    """End one of several processes, which the others will notice; alone, it is but the code."""
    if are_several():
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(JaxRuntimeError):
            _client().key_value_set(ENDING, str(jax.process_index()))
        time.sleep(GRACE_S)
        os._exit(code)
    return code


def left_alone(error: Exception, advice: str) -> NoReturn:
    """End a process whose others have gone, with a line that says so; ``error`` is of JAX."""
    reason = " ".join(str(error).split())[:160]
    text = f"another process of the run has ended ({reason}); {advice}"
    if cli.is_too_large(error):
        text = cli.too_large(error)
    cli.end_now(1, f"error: {cli.printable(text)}")  # there is nobody left to say goodbye to


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
