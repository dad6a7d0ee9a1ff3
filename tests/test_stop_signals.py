"""Signals at moments when Python runs no handler, in processes of their own."""

import signal
import subprocess
import sys
import time

import pytest

from jaxrnn.stop_signals import StopSignals

# pbkdf2 computes for minutes without a Python instruction, as a compilation does.
PROGRAM = """
import hashlib, sys
from jaxrnn import stop_signals
stop_signals.GRACE_S = 0.5
with stop_signals.StopSignals("runs/my run"):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2 * 10**8)
"""


@pytest.mark.parametrize(
    ("number", "saved"), [(signal.SIGTERM, True), (signal.SIGINT, True), (signal.SIGINT, False)]
)
def test_a_process_in_the_midst_of_something_long_ends_after_the_grace(
    number, saved, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    if saved:
        (tmp_path / "runs" / "my run" / "checkpoints").mkdir(parents=True)
        (tmp_path / "runs" / "my run" / "checkpoints" / "last.safetensors").touch()
    with busy() as process:
        began = time.monotonic()
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert 0.4 < time.monotonic() - began < 20
    assert process.returncode == 128 + number
    goes_on = "goes on from its last checkpoint" if saved else "begins anew, nothing saved,"
    assert stderr == (
        f"\nstopped by {number.name} and 0 s in the midst of something; the run {goes_on} by\n"
        "  python -m jaxrnn.train --resume 'runs/my run'\n"
    )


def test_a_second_signal_ends_it_at_once():
    program = PROGRAM.replace("0.5", "50.0")
    with busy(program) as process:
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped by SIGINT and a second signal; " in stderr


@pytest.mark.parametrize("is_read", [False, True], ids=["stopped", "gone"])
def test_a_reader_that_has_stopped_to_read_or_gone_does_not_hold_it(is_read):
    """As Ctrl-S in a terminal does, or a pager that waits, or one that has ended."""
    program = """
import sys, time
from jaxrnn import stop_signals
stop_signals.GRACE_S = 50
with stop_signals.StopSignals("runs/my run"):
    print("busy", flush=True)
    try:
        while True: print("x" * 1000, file=sys.stderr, flush=True)
    except OSError:
        while True: time.sleep(1)
"""
    with busy(program) as process:
        assert process.stderr is not None
        if is_read:
            process.stderr.close()
            process.stderr = None
        time.sleep(0.5)  # until it is full
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 128 + signal.SIGTERM


def busy(program: str = PROGRAM) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"
    return process


def test_a_signal_is_kept_and_the_old_handlers_come_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopSignals("runs/a") as stop:
        assert stop.requested() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested() == "SIGTERM"
    assert stop.requested() == "SIGTERM"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_other_signals_are_no_reason_to_stop():
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append("USR1"))
    try:
        with StopSignals("runs/a") as stop:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGUSR1)
            assert (received, stop.requested()) == (["USR1", "USR1"], None)
    finally:
        signal.signal(signal.SIGUSR1, before)
