"""What a long run must not do: trace or compile again, and grow in memory."""

import json
import subprocess
import sys

import jax
import pytest
from crashes import TASKS as COMMANDS
from crashes import environment, write_data

from jaxrnn import cli, runs, train
from jaxrnn.runs import Run

TRACED = "/jax/core/compile/jaxpr_trace_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def events(monkeypatch):
    """What JAX has traced and compiled: its names for that, as they come."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: str | int):
        if event in (TRACED, COMPILED):
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.usefixtures("as_users_have_it")
@pytest.mark.parametrize("task", COMMANDS)
def test_after_the_first_of_everything_nothing_is_traced(task, events, tmp_path, monkeypatch):
    """Steps, a validation, a checkpoint and a preview; then the same three times over."""
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    counts: dict[int, int] = {}
    append = Run.append_metrics

    def counting(run, line):
        counts[line["step"]] = len(events)
        append(run, line)

    monkeypatch.setattr(Run, "append_metrics", counting)
    argv = [*COMMANDS[task], "--steps", "80", "--eval-every", "20", "--checkpoint-every", "10"]
    argv += ["--num-buckets", "1"] if task == "sketch" else []
    assert cli.exit_code(lambda: train.run_command([*argv, "--run", "run"])) == 0
    assert {TRACED, COMPILED} <= set(events)
    later = {step: count for step, count in counts.items() if step > 20}
    assert len(later) >= 30
    assert set(later.values()) == {counts[min(later)]}


WORKER = """
import json, sys
import jax
from jaxrnn import cli, runs, train
from jaxrnn.runs import Run

append = Run.append_metrics

def counting(run, line):
    append(run, line)
    if line["step"] % 1000 == 0:
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * 4096
        live = sum(array.nbytes for array in jax.live_arrays())
        print(json.dumps([line["step"], resident, live]), file=sys.stderr)

Run.append_metrics = counting
sys.exit(cli.exit_code(lambda: train.run_command(sys.argv[1:])))
"""


@pytest.mark.slow
@pytest.mark.parametrize("task", COMMANDS)
def test_memory_is_flat_over_20_000_steps(task, tmp_path):
    write_data(tmp_path)
    options = ["--steps", "20000", "--log-every", "100", "--eval-every", "1000"]
    options += ["--checkpoint-every", "1000", "--patience", "0", "--run", "run"]
    done = subprocess.run(
        [sys.executable, "-c", WORKER, *COMMANDS[task], *options],
        cwd=tmp_path, env=environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        step: (resident, live)
        for step, resident, live in map(json.loads, done.stderr.split("\n")[:-1])
    }
    assert list(found) == list(range(1000, 20001, 1000))
    assert found[20000][1] == found[4000][1]
    assert found[20000][0] < found[4000][0] + 16 * 2**20, found


def test_metrics_too_long_to_be_read_do_not_end_a_run(tmp_path, monkeypatch, capsys):
    """Only the picture of them is missing, and that is said."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "MOST_METRICS", 100)
    assert train.run_command([*COMMANDS["char"], "--run", "a", "--mesh", "data=1"]) == 0
    out = capsys.readouterr().out
    assert "can't read a/metrics.jsonl: File too large; move it away to go on without" in out
    assert "done after step " in out
    assert not (tmp_path / "a" / "loss.png").exists()
