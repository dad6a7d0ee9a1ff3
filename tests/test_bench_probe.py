"""Ways in which XLA may run a loop, each timed in a process of its own."""

import json
import sys

import pytest
from refusals import message

from jaxrnn import cli, rules
from jaxrnn.bench import peers, probe
from jaxrnn.bench.probe import Way, line, run_command

TIMES = {"ms": 1.5, "ms_low": 1.25, "ms_high": 2.0}


def test_every_way_is_timed_or_said_to_be_refused(tmp_path, monkeypatch, capsys):
    unknown = "--xla_that_nobody_knows=1"
    monkeypatch.setattr(probe, "WAYS", (Way(4, held=True), Way(2, unknown)))
    path = tmp_path / "ways.jsonl"
    assert run_command(["lesson-simple-rnn", "--device", "cpu", "--json", str(path)]) == 0
    found, refused = (json.loads(text) for text in path.read_text().splitlines())
    way = {"unroll": 4, "flags": "", "held": True}
    assert found | {"row": "lesson-simple-rnn", **way} == found
    assert 0 < found["ms_low"] <= found["ms"] <= found["ms_high"] < 1e3 * found["compile_s"]
    assert found["platform"] == "cpu"
    assert refused["unroll"] == 2
    assert unknown in refused["refused"]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("lesson-simple-rnn, ms a step")
    assert shown[1].startswith("  unroll  4, states held: ")
    assert shown[2].startswith("  unroll  2, --xla")
    assert shown[1].endswith(", 1.00")


def test_a_share_is_of_the_first_ways_time():
    assert line({"unroll": 16, "flags": "", "held": False, **TIMES}, 3.0) == (
        "unroll 16: 1.500 (1.250 to 2.000), 0.50"
    )
    assert line({"unroll": 1, "flags": "--a=b", "held": False, **TIMES}, None) == (
        "unroll  1, --a=b: 1.500 (1.250 to 2.000)"
    )


@pytest.mark.parametrize("held", [False, True])
def test_the_rules_are_those_of_the_way(held, monkeypatch):
    for name in ("unroll", "states_held"):
        monkeypatch.setattr(rules, name, getattr(rules, name))  # which it sets

    def start(name, workload):
        raise ArithmeticError(rules.unroll("gpu"), rules.states_held("gpu"))

    monkeypatch.setattr(peers, "start", start)
    monkeypatch.setattr(cli, "use_device", lambda *options, **more: None)
    monkeypatch.setattr(sys, "argv", ["", "lesson-simple-rnn", "4", str(int(held)), "cpu"])
    with pytest.raises(ArithmeticError) as caught:
        probe.measure()
    assert caught.value.args == (4, held)


def test_it_fails_where_the_first_way_does(monkeypatch, capsys):
    monkeypatch.setattr(probe, "WAYS", (Way(),))
    monkeypatch.setattr(probe, "MEASURE", "jaxrnn.bench.barriers.measure")  # takes two
    assert run_command(["lesson-simple-rnn", "--device", "cpu"]) == 1
    assert "unroll  1: refused: ValueError: too many values to unpack" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["lesson-simple-rnn", "--device", "tpu"], "--device tpu: JAX finds none here; install"),
        (["lstm"], "ROW is 'lstm', expected some of lesson-simple-rnn, lesson-char-rnn"),
        (["gru", "--json", "no/such/file"], "can't write --json no/such/file: No such file or"),
    ],
)
def test_bad_input_is_one_line(arguments, expected):
    assert message(run_command, arguments).startswith(expected)
