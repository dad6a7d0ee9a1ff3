"""What a run's logs and checkpoints cost."""

import json
import types

import pytest
from refusals import message

from jaxrnn.bench import overhead
from jaxrnn.bench.overhead import PARTS, Clock, line, run_command


def test_a_run_is_measured_in_its_parts(tmp_path, capsys):
    path = tmp_path / "lines.jsonl"
    assert run_command(["sine", "--steps", "20", "--json", str(path)]) == 0
    found = json.loads(path.read_text())
    assert (found["task"], found["steps"], found["platform"]) == ("sine", 20, "cpu")
    parts = [found[f"{part}_s"] for part in PARTS]
    assert all(seconds > 0 for seconds in parts)
    assert sum(parts) < found["total_s"] < 60
    assert found["saves"] >= 1
    assert capsys.readouterr().out.startswith("sine: ")


def test_a_call_within_another_counts_once_and_only_after_the_first_line(monkeypatch):
    now = 0.0
    monkeypatch.setattr(overhead.time, "perf_counter", lambda: now)

    def spend(seconds):
        nonlocal now
        now += seconds

    def save():
        spend(4)
        owner.gathered()

    owner = types.SimpleNamespace(
        append_metrics=lambda: spend(1), save=save, gathered=lambda: spend(2)
    )
    clock = Clock()
    clock.attach("metrics", owner, "append_metrics")
    clock.attach("checkpoints", owner, "save")
    clock.attach("checkpoints", owner, "gathered")
    owner.save()
    owner.append_metrics()
    assert (clock.began, set(clock.seconds.values())) == (7, {0})
    owner.append_metrics()
    owner.save()
    owner.gathered()
    assert clock.seconds == {"metrics": 1, "display": 0, "checkpoints": 8, "pictures": 0}
    assert clock.calls == {"append_metrics": 1, "save": 1, "gathered": 1}


def test_shares_are_of_all():
    seconds = {"metrics_s": 0.5, "display_s": 0.1, "checkpoints_s": 1.0, "pictures_s": 0.0}
    assert line({"task": "char", "steps": 1660, "saves": 10, "total_s": 100.0, **seconds}) == (
        "char: 1.60% of 100.0 s, 1,660 steps, 10 checkpoints: metrics 0.50%, display 0.10%, "
        "checkpoints 1.00%, pictures 0.00%"
    )
    assert line({"task": "char", "refused": "no room"}) == "char: refused: no room"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["text"], "invalid choice"),
        (["--steps", "-1"], "--steps is -1, expected at least 0"),
        (["--json", "no/such/file"], "can't write --json no/such/file: No such file or"),
    ],
)
def test_bad_input_is_one_line(arguments, expected):
    assert expected in message(run_command, arguments)
