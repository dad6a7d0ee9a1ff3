"""How libraries are compared and timed, what is counted, and the machine's ceilings."""

import itertools
import re
from dataclasses import replace

import jax
import numpy as np
import pytest
from bench_cases import LSTM

from jaxrnn.bench import ceilings, results, timing
from jaxrnn.bench.peers import Session, UnsupportedError
from jaxrnn.bench.workloads import SUITES, Goal, Workload, quick

pytestmark = pytest.mark.usefixtures("as_users_have_it")

# --- comparing and timing


def fake(y=1.0, call=lambda: None, **grads) -> Session:
    named = {name: np.full((2, 3), value) for name, value in grads.items()}
    return Session(call, 1, lambda: (np.full((3, 2), y), named))


def test_the_tensor_that_differs_is_found():
    ours = fake(w=2.0, bias_hh=1.0)
    assert results.difference(ours, fake(w=2.0)) == results.Difference("the output", 0.0)
    assert results.difference(ours, fake(1.25, w=2.0)) == results.Difference("the output", 0.25)
    for wrong, size in ((2.5, 0.25), (np.nan, np.nan)):
        found = results.difference(ours, fake(w=wrong))
        assert found is not None
        assert found.tensor == "the gradient of w"
        np.testing.assert_equal(found.size, size)
    assert results.difference(ours, fake()) == results.Difference("the gradient of w", np.inf)
    other_shape = replace(ours, check=lambda: (np.ones((3, 1)), {"w": np.full((2, 3), 2.0)}))
    assert results.difference(ours, other_shape) == results.Difference("the output", np.inf)
    assert results.difference(ours, replace(ours, check=None)) is None


def test_ratios_are_taken_turn_by_turn(monkeypatch, known_ceilings):
    sessions = {"jaxrnn": fake(), "torch": fake(1 + 1e-5), "flax": fake()}
    sessions["jaxrnn"] = replace(sessions["jaxrnn"], steps_per_call=2, compile_s=1.5)
    times = {
        "jaxrnn": np.array([2.0, 4.0, 2.0, 4.0, 8.0]),
        "torch": np.array([3.0, 4.0, 1.0, 5.0, 20.0]),
        "flax": np.array([1.0, 1.0, 1.0, 1.0, 1.0]),
    }
    monkeypatch.setattr(results, "start", lambda name, workload: sessions[name])
    monkeypatch.setattr(timing, "in_turns", lambda calls, rounds, least_s: times)
    ours, theirs, _ = results.run_workload(replace(LSTM, goal=2.5), ["torch", "flax"], 5, 1.0)
    assert (ours["ms"], ours["ms_low"], ours["ms_high"]) == (2000, 1000, 2000)
    assert (ours["share"], ours["floor_ms"], ours["compile_s"]) == (0.125, 250, 1.5)
    assert "ratio" not in ours
    # pairs: 3, 2, 1, 2.5, 5
    assert (theirs["ratio"], theirs["ratio_low"], theirs["ratio_high"]) == (2.5, 2.0, 3.0)
    assert theirs["difference"] == pytest.approx(1e-5)
    assert (theirs["goal_met"], theirs["goal_by"]) == (True, "jaxrnn")
    assert theirs["workload"]["flops"] == ours["workload"]["flops"] == 7200
    _, theirs, other = results.run_workload(replace(LSTM, goal=2.6), ["torch", "flax"], 5, 1.0)
    assert not theirs["goal_met"]
    assert "goal_met" not in other


def test_peers_take_turns(monkeypatch):
    now, log = [0.0], []

    def call(name, seconds):
        def run():
            log.append(name)
            now[0] += seconds if log.count(name) > 1 else 10 * seconds

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    calls = {"a": call("a", 1.0), "b": call("b", 4.0), "c": call("c", 0.125)}
    times = timing.in_turns(calls, rounds=3, least_s=2.0)
    turns = ["a"] * 2 + ["b"] + ["c"] * 16
    assert log == [*"abc", *turns, *turns[::-1], *turns]
    assert {name: values.tolist() for name, values in times.items()} == {
        "a": [1, 1, 1],
        "b": [4, 4, 4],
        "c": [0.125] * 3,
    }


def test_a_peer_that_fails_does_not_cost_the_run(monkeypatch, known_ceilings):
    def fail():
        raise RuntimeError("out of luck\nat line 3")

    def starting(name, workload):
        if name == "flax":
            raise ImportError("no such symbol")
        if name == "keras":
            return replace(fake(), check=fail)
        return fake(call=fail) if name == "torch" else fake()

    monkeypatch.setattr(results, "start", starting)
    rows = results.run_workload(LSTM, ["flax", "torch", "keras", "equinox"], 2, 0.0)
    assert [row["peer"] for row in rows] == ["jaxrnn", "flax", "torch", "keras", "equinox"]
    assert [row.get("skipped") for row in rows] == [
        None,
        "it failed with ImportError: no such symbol",
        "it failed with RuntimeError: out of luck",
        "it failed with RuntimeError: out of luck",
        None,
    ]
    assert rows[-1]["ratio"] > 0
    monkeypatch.setattr(results, "start", lambda name, workload: fake(call=fail))
    ours, torch = results.run_workload(LSTM, ["torch"], 2, 0.0)  # nor does ours
    assert ours["error"]
    assert ours["skipped"] == "it failed with RuntimeError: out of luck"
    assert torch["skipped"] == "no jaxrnn was timed beside it"
    monkeypatch.setattr(results, "start", lambda name, workload: fail())
    (ours,) = results.run_workload(LSTM, ["torch"], 2, 0.0)
    assert (ours["error"], ours["skipped"]) == (True, "it failed with RuntimeError: out of luck")


@pytest.fixture
def reference_is(monkeypatch, known_ceilings):
    """Sets the session that exact rows are compared with."""

    def set_reference(session):
        monkeypatch.setattr(results, "reference", lambda workload: session)
        results._expected.cache_clear()

    yield set_reference
    results._expected.cache_clear()


def test_exact_rows_are_compared_with_the_reference(monkeypatch, reference_is):
    row = replace(LSTM, exact=True, precision="bfloat16", mode="gradients")
    sessions = {"jaxrnn": fake(1.04), "torch": fake(1.06)}
    monkeypatch.setattr(results, "start", lambda name, workload: sessions[name])
    reference_is(fake(1.05))
    ours, theirs = results.run_workload(row, ["torch"], 2, 0.0)
    assert ours["difference"] == theirs["difference"] == pytest.approx(0.01 / 1.05)
    said = r"differs from the reference in float64 by 0.0095 .* \(0.0001\)"
    wrong = replace(row, precision="float32")
    (ours,) = results.run_workload(wrong, ["torch"], 2, 0.0)
    assert re.match(rf"^jaxrnn on tiny: .*{said}$", ours["skipped"])
    assert ours["error"]
    sessions |= {"jaxrnn": fake(1.05), "flax": fake(1.05)}
    ours, theirs, other = results.run_workload(wrong, ["torch", "flax"], 2, 0.0)
    assert re.match(rf"^torch on tiny: .*{said}; leave it", theirs["skipped"])
    assert theirs["error"]
    assert other["ratio"] > 0


def test_of_exact_rows_ours_are_closer_and_the_reference_is_computed_once(
    monkeypatch, reference_is
):
    row = replace(LSTM, exact=True, precision="bfloat16", mode="gradients")
    sessions = {"jaxrnn": fake(1.055), "torch": fake(0.9), "jaxrnn-kernel": fake(1.03)}
    checks = []

    def check():
        checks.append(1)
        return np.full((3, 2), 1.05), {"w": np.ones((2, 3))}

    monkeypatch.setattr(results, "start", lambda name, workload: sessions[name])
    reference_is(replace(fake(), check=check))
    peers = ["torch", "jaxrnn-kernel"]
    (ours,) = results.run_workload(row, peers, 2, 0.0)  # has no gradient of w
    assert "the gradient of w differs" in ours["skipped"]
    forward = replace(row, mode="forward")  # has none to compare
    _, theirs, kernel = results.run_workload(forward, peers, 2, 0.0)
    assert theirs["difference"] == pytest.approx(0.15 / 1.05)  # within 0.2
    assert kernel["error"]  # 0.02 / 1.05, more than 1e-2
    assert "which is no rounding (0.01)" in kernel["skipped"]
    sessions["torch"] = fake(0.8)
    _, theirs, _ = (
        results.run_workload(replace(forward, precision="float32"), peers, 2, 0.0)[:1] * 3
    )
    assert theirs["error"]
    assert checks == [1]


def test_ours_of_exact_rows_say_whether_they_repeat(monkeypatch, reference_is):
    row = replace(LSTM, exact=True, precision="bfloat16", mode="gradients")
    sizes = iter([1.0, 1.0, 1.0 + 1e-7, 1.0, 1.0, 1.0])
    sessions = {"jaxrnn": replace(fake(), check=lambda: (np.full((3, 2), next(sizes)), {}))}
    sessions["torch"] = fake()
    monkeypatch.setattr(results, "start", lambda name, workload: sessions[name])
    reference_is(fake())
    ours, theirs = results.run_workload(row, ["torch"], 2, 0.0)
    assert ours["same_bits"] is False
    assert "same_bits" not in theirs
    ours, _ = results.run_workload(row, ["torch"], 2, 0.0)
    assert ours["same_bits"] is True


def test_torch_takes_part_in_its_other_precisions(monkeypatch, reference_is):
    row = replace(LSTM, exact=True, precision="bfloat16", torch_in=("float16", "tf32"))
    asked = []

    def starting(name, workload):
        asked.append((name, workload.precision))
        # Each is held to its own precision: TF32 to 0.02.
        return fake(1.03 if workload.precision == "tf32" else 1.0)

    monkeypatch.setattr(results, "start", starting)
    reference_is(fake())
    rows = results.run_workload(row, ["torch", "flax"], 2, 0.0)
    assert [found["peer"] for found in rows] == [
        *("jaxrnn", "torch", "torch-float16", "torch-tf32", "flax")
    ]
    assert asked == [
        ("jaxrnn", "bfloat16"),
        *[("torch", precision) for precision in ("bfloat16", "float16", "tf32")],
        ("flax", "bfloat16"),
    ]
    assert rows[2]["ratio"] > 0
    assert rows[2]["workload"]["precision"] == "float16"
    assert (rows[1]["share"] > 0, rows[2]["share"]) == (True, None)
    assert rows[3]["skipped"].startswith("torch-tf32 on tiny: the output differs")


def test_goals_are_of_the_fastest_of_ours_or_of_one(monkeypatch, known_ceilings):
    seconds = {"jaxrnn": 4.0, "torch": 3.0, "jaxrnn-kernel": 1.0, "flax": 6.0}
    sessions = {name: fake() for name in seconds}
    monkeypatch.setattr(results, "start", lambda name, workload: sessions[name])
    monkeypatch.setattr(
        *(timing, "in_turns"),
        lambda calls, rounds, least_s: {name: np.full(3, seconds[name]) for name in calls},
    )
    goals = (*(Goal("flax", 2.0, by="jaxrnn"), Goal("jaxrnn", 4.0, by="jaxrnn-kernel")),)
    row = replace(LSTM, goal=2.0, more_goals=goals)
    ours, theirs, kernel, flax = results.run_workload(
        row, ["torch", "jaxrnn-kernel", "flax"], 3, 1.0
    )
    assert theirs["ratio"] == 0.75
    found = [
        [row[f"goal{k}"] for k in ("", "_ratio", "_met", "_by")] for row in (theirs, flax, ours)
    ]
    assert found == [
        [2.0, 3.0, True, "jaxrnn-kernel"],
        [2.0, 1.5, False, "jaxrnn"],
        [4.0, 4.0, True, "jaxrnn-kernel"],
    ]
    assert "goal" not in kernel
    assert kernel["ratio"] == 0.25
    assert ours["us_a_time_step"] == pytest.approx(4e6 / LSTM.num_steps)


def test_a_goal_that_can_not_be_judged_is_said(monkeypatch, known_ceilings):
    def starting(name, workload):
        if name == "flax":
            raise UnsupportedError("it has no such cell")
        if name == "jaxrnn-kernel":
            raise RuntimeError("no such device")
        return fake()

    monkeypatch.setattr(results, "start", starting)
    goals = (Goal("flax", 2.5), Goal("jaxrnn", 6.0, by="jaxrnn-kernel"), Goal("keras", 1.0))
    found = {}
    for goal, peer in zip(goals, ("flax", "jaxrnn", "jaxrnn"), strict=True):
        row = replace(LSTM, more_goals=(goal,))
        rows = results.run_workload(row, ["torch", "flax", "jaxrnn-kernel"], 2, 0.0)
        found = {row["peer"]: row for row in rows}
        reason = f"{goal.by or goal.peer} was not timed"
        assert (found[peer]["goal_met"], found[peer]["goal_reason"]) == (None, reason)
    # A backend of ours that fails is what the run is for: an error, unlike a peer's.
    assert found["jaxrnn-kernel"]["error"]
    assert "error" not in found["flax"]


def test_ceilings_or_a_reference_that_fail_cost_no_run(monkeypatch, reference_is):
    def fail(*_):
        raise RuntimeError("out of memory")

    row = replace(LSTM, exact=True, mode="gradients")
    monkeypatch.setattr(results, "start", lambda name, workload: fake())
    reference_is(fake())
    monkeypatch.setattr(ceilings, "floor_s", fail)
    ours, theirs = results.run_workload(row, ["torch"], 2, 0.0)
    assert (ours["floor_ms"], ours["share"]) == (None, None)
    assert theirs["ratio"] > 0
    assert theirs["ceilings"] == {"error": "it failed with RuntimeError: out of memory"}
    reference_is(replace(fake(), check=fail))
    (ours,) = results.run_workload(row, ["torch"], 2, 0.0)
    assert (ours["error"], ours["skipped"]) == (True, "it failed with RuntimeError: out of memory")


def test_rows_for_gpus_are_the_shapes_and_goals_of_the_table():
    rows = {row.name: row for row in SUITES["gpu"]}
    assert len(rows) == len(SUITES["gpu"]) == 33
    goals = {name: row.goals for name, row in rows.items() if row.goals}
    assert list(rows)[: len(goals)] == list(goals)  # what a cut would leave
    torch, half = Goal("torch", 2.0), Goal("torch-float16", 1.0)
    assert goals == {
        "lstm-T512-B64-H512-gradients-bfloat16": (torch, half, Goal("flax", 2.5, "jaxrnn")),
        "lstm-T1024-B16-H768-gradients-bfloat16": (torch, half),
        "gru-T512-B64-H1024-gradients-bfloat16": (torch, Goal("jaxrnn", 6.0, "jaxrnn-kernel")),
        "lesson-char-rnn-bfloat16": (Goal("torch", 1.5),),
        "lesson-char-rnn-tf32": (Goal("torch", 1.5),),
    }
    assert all(row.exact for row in rows.values())
    row = rows["gru-T512-B64-H1024-gradients-bfloat16"]
    assert (row.num_steps, row.batch_size, row.hidden_size, row.cell) == (512, 64, 1024, "gru")
    every = {(r.cell, r.num_steps, r.hidden_size, r.mode) for r in rows.values()}
    sizes = [(1024, 768), (512, 512), (512, 1024), (100, 512), (256, 1024)]
    modes = ("forward", "gradients")
    assert every >= {(cell, *s, mode) for cell in ("lstm", "gru") for s in sizes for mode in modes}
    # But for those, all of one shape stand together: what they are compared with is computed once.
    shared = [repr(results.compared(row)) for row in rows.values() if not row.goals]
    assert len(list(itertools.groupby(shared))) == len(set(shared)) == 12


# --- workloads and ceilings


def test_operations_counted_by_hand():
    # 24 rows of gates: forward 24 * 4 + 24 * 6; backward dW of both and dh; 15 positions.
    for mode in ("train", "gradients"):
        assert replace(LSTM, mode=mode).flops == 2 * (240 + 96 + 2 * 144) * 15
    assert LSTM.flops == 2 * 240 * 15
    text = Workload("t", "lstm", 5, 3, 7, 6, 2, output_size=7, is_text=True)
    assert text.flops == 2 * 3 * (144 + 144 + 144 + 42) * 15
    projected = replace(LSTM, proj_size=2)
    assert projected.flops == 2 * (24 * 4 + 24 * 2 + 2 * 6) * 15
    assert replace(LSTM, max_length=1).flops == 2 * 240 * 3
    assert ceilings.weight_bytes(text) == 4 * (3 * 144 + 42)
    assert ceilings.weight_bytes(projected) == 4 * (24 * 4 + 24 * 2 + 2 * 6)


def test_the_floor_is_what_the_best_rate_allows(monkeypatch):
    rates = {ceilings.LARGE: 50.0, (3, 6, 24): 100.0, (15, 6, 24): 400.0, (24, 15, 6): 200.0}
    asked = set()

    def rate(*size_and_precision):
        *size, precision = size_and_precision
        asked.add(precision)
        return rates[tuple(size)]

    monkeypatch.setattr(ceilings, "matmul_rate", rate)
    assert ceilings.floor_s(LSTM) == 7200 / 400
    rates[ceilings.LARGE] = 800.0  # small products alone don't fill the machine
    assert ceilings.floor_s(LSTM) == 7200 / 800
    monkeypatch.setattr(ceilings, "read_bandwidth", lambda size: 10.0 * size)
    assert ceilings.floor_s(replace(LSTM, mode="generate")) == pytest.approx(0.1)
    assert asked == {"float32"}
    half = replace(LSTM, precision="bfloat16", mode="gradients")
    assert ceilings.floor_s(half) == half.flops / 800
    assert "bfloat16" in asked
    # A GPU's steps wait for each other: 5 rounds forward, 5 backward.
    monkeypatch.setattr(ceilings, "round_s", lambda: 0.5)
    monkeypatch.setattr(ceilings.jax, "default_backend", lambda: "gpu")
    assert ceilings.floor_s(LSTM) == 7200 / 800 + 2.5
    assert ceilings.floor_s(half) == half.flops / 800 + 5


def test_a_rate_is_that_of_whole_products(monkeypatch):
    monkeypatch.setattr(ceilings, "GROUPS", 2)
    a = jax.numpy.ones((256, 256), jax.numpy.float32)
    product = jax.jit(jax.numpy.matmul)
    plain = 2 * 256**3 / ceilings._best_s(lambda: product(a, a).block_until_ready())
    assert 0.2 < ceilings.matmul_rate(256, 256, 256, "float32") / plain < 5
    # Of an outer product XLA would compute the part that is read alone.
    assert ceilings.matmul_rate(1024, 1, 1024, "float32") < 3 * max(plain, 1e10)


def test_ceilings_are_rates_of_this_machine(monkeypatch):
    monkeypatch.setattr(ceilings, "GROUP_SECONDS", 0.005)
    monkeypatch.setattr(ceilings, "COPIED", 2**20)
    for precision in ("float32", "tf32", "bfloat16", "float16"):
        assert 1e6 < ceilings.matmul_rate.__wrapped__(64, 64, 64, precision) < 1e15
    assert 1e-9 < ceilings.round_s.__wrapped__() < 1e-2
    assert 1e7 < ceilings.read_bandwidth.__wrapped__(2**16) < 1e14
    assert 1e7 < ceilings.copy_bandwidth.__wrapped__() < 1e14


def test_quick_rows_are_a_tenth_and_have_no_goal():
    lesson = SUITES["lesson"][1]
    assert (lesson.num_steps, lesson.goal) == (100, 1.15)
    assert quick(lesson) == replace(lesson, num_steps=10, goal=0.0)
    assert quick(SUITES["varlen"][0]).max_length == 10
    simple = SUITES["lesson"][0]
    assert quick(simple) == replace(simple, goal=0.0)
