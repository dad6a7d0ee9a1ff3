import io
import json
import os
import subprocess
import sys
import types
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest
import torch
from rich.console import Console

from jaxrnn.bench import __main__ as command
from jaxrnn.bench import ceilings, report, results, timing
from jaxrnn.bench.peers import (
    ONLY_NAMED,
    PEERS,
    Session,
    UnsupportedError,
    gpu_kernels,
    jax_cudnn,
    start,
    torch_nn,
)
from jaxrnn.bench.workloads import SUITES, Workload, data, parameters, quick
from jaxrnn.errors import InputError

# T, B, I, H = 5, 3, 4, 6
LSTM = Workload("tiny", "lstm", 5, 3, 4, 6, mode="forward")
ROWS = {
    "lstm": replace(LSTM, output_size=2),
    "gru": replace(LSTM, cell="gru"),
    "rnn": replace(LSTM, cell="rnn"),
    "projection": replace(LSTM, proj_size=2),
    "lengths": replace(LSTM, max_length=5),
}
CAN = {
    "torch": set(ROWS),
    "flax": set(ROWS) - {"projection"},
    "keras": set(ROWS) - {"projection"},
    "equinox": {"lstm", "gru", "lengths"},
}
LIMITS = {
    "matmul_gflop_per_s": 100.0,
    "read_gb_per_s": 20.0,
    "read_mib": 2.0,
    "copy_gb_per_s": 9.5,
}


@pytest.fixture(autouse=True)
def as_users_have_it():
    """JAX's own defaults, which other libraries are written for."""
    with jax.enable_x64(False), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def known_ceilings(monkeypatch):
    monkeypatch.setattr(ceilings, "floor_s", lambda workload: 0.25)
    monkeypatch.setattr(ceilings, "describe", lambda workload: LIMITS)


@pytest.fixture(scope="module")
def our_checks() -> dict[str, Session]:
    return {}


@pytest.mark.filterwarnings("ignore")  # of other libraries, about themselves
@pytest.mark.parametrize(
    ("peer", "row"), [(peer, row) for peer, rows in CAN.items() for row in ROWS if row in rows]
)
def test_a_peer_computes_what_we_do(peer, row, our_checks):
    if row not in our_checks:
        ours = start("jaxrnn", ROWS[row])
        y, grads = ours.check()  # type: ignore[misc]
        assert max(np.abs(grad).max() for grad in grads.values()) > 1e-3
        our_checks[row] = replace(ours, check=lambda: (y, grads))
    theirs = start(peer, ROWS[row])
    found = results.difference(our_checks[row], theirs)
    assert found is not None
    assert found.size < 1e-5
    if theirs.check is not None and peer != "torch":
        y = np.asarray(theirs.call())  # what is timed is what was compared
        np.testing.assert_allclose(y, theirs.check()[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("peer", ["flax", "keras", "equinox"])
def test_what_a_peer_lacks_is_said(peer):
    with pytest.raises(UnsupportedError, match="no projection"):
        start(peer, ROWS["projection"])
    with pytest.raises(UnsupportedError, match="no sampling"):
        start(peer, replace(LSTM, mode="generate"))


def test_a_step_that_is_timed_trains():
    row = Workload("tiny", "rnn", 5, 3, 7, 6, 2, output_size=7, is_text=True, lr=0.01)
    _, targets = data(row)
    for name in ("torch", "flax"):
        session = start(name, row)
        assert session.check is not None
        y = np.asarray(session.check()[0], np.float64)
        log_p = y - np.log(np.exp(y).sum(-1, keepdims=True))
        expected = -np.take_along_axis(log_p, targets[0][..., None], -1).mean()
        found = [session.call() for _ in range(20)]
        assert found[0] == pytest.approx(expected, rel=1e-5)
        assert found[-1] < found[0] - 0.05
        assert (session.compile_s > 0) == (name == "flax")
        assert (session.peak_memory_mib() or 0) > 0 or name == "torch"


def test_dropout_takes_part_in_training_and_not_in_the_check():
    row = Workload("tiny", "rnn", 5, 3, 4, 6, 2, output_size=2, dropout=0.9)
    plain = start("torch", replace(row, dropout=0.0))
    assert plain.check is not None
    expected, _ = plain.check()
    loss = plain.call()
    for name in ("torch", "flax"):
        session = start(name, row)
        assert session.check is not None
        for _ in range(2):
            np.testing.assert_allclose(session.check()[0], expected, rtol=1e-5, atol=1e-6)
        assert abs(session.call() - loss) > 1e-4


def test_text_is_written_in_as_many_steps_as_are_counted():
    row = Workload("tiny", "lstm", 150, 1, 7, 6, output_size=7, is_text=True, mode="generate")
    theirs = start("torch", row)
    assert (theirs.steps_per_call, len(theirs.call())) == (100, 100)
    ours = start("jaxrnn", row)
    assert (ours.steps_per_call, sum(map(len, ours.call()))) == (150, 150)
    assert ours.compile_s > 0


# --- peers that can't be run here


def test_cudnn_has_its_weights_in_torch_order():
    row = replace(LSTM, num_layers=2)
    flat = jax_cudnn.flat(row)
    w_ih, w_hh, b_ih, b_hh = jax_cudnn.rnn.unpack_lstm_weights(
        jax.numpy.asarray(flat), 4, 6, 2, False
    )
    named = parameters(row)
    for k in range(2):
        for part, name in ((w_ih, "weight_ih"), (w_hh, "weight_hh"), (b_ih, "bias_ih")):
            np.testing.assert_array_equal(part[k], named[f"rnn.{name}_l{k}"])
        np.testing.assert_array_equal(b_hh[k], 0)
    back = jax_cudnn.unflat(row, flat)
    assert set(back) == set(named)
    assert all(np.array_equal(back[name], named[name]) for name in named)


@pytest.mark.parametrize("name", ["jax-rnn", "flashrnn", "haste"])
def test_a_peer_that_is_for_gpus_says_so(name):
    if name != "jax-rnn":
        with pytest.raises(UnsupportedError, match="is not installed"):
            start(name, LSTM)
        with pytest.raises(UnsupportedError, match="needs an NVIDIA GPU"):
            getattr(gpu_kernels, name)(LSTM)
        return
    with pytest.raises(UnsupportedError, match="needs an NVIDIA GPU"):
        start(name, LSTM)
    with pytest.raises(UnsupportedError, match="the LSTM alone"):
        start(name, ROWS["gru"])


def flashrnn_as_documented(wx, r, b, *, function, backend, dtype):
    """NX-AI/flashrnn's equations: Wx (B, T, G, N, D), R (G, N, D, P), b (G, N, D)."""
    assert (backend, dtype, wx.dtype) == ("cuda", "float32", torch.float32)
    h = c = torch.zeros(len(wx), *wx.shape[3:])
    states = []
    for t in range(wx.shape[1]):
        x, y = wx[:, t], torch.einsum("gndp,bnp->bgnd", r, h)
        if function == "gru":
            g = y[:, 0] + b[0]
            reset = torch.sigmoid(x[:, 0] + y[:, 1] + b[1])
            z = torch.sigmoid(x[:, 1] + y[:, 2] + b[2])
            h = z * h + (1 - z) * torch.tanh(x[:, 2] + b[3] + reset * g)
        elif function == "lstm":
            i, f, g, o = (x + y + b).unbind(1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            h = torch.tanh(x + y + b)[:, 0]
        states.append(torch.stack([h, c]))
    return torch.stack(states, 2), states[-1]


class HasteAsDocumented(torch.nn.Module):
    """lmnt-com/haste's layers: kernels (I, G*H), gates i, g, f, o."""

    gates = 4
    kernel: Any
    recurrent_kernel: Any
    bias: Any
    recurrent_bias: Any

    def __init__(self, input_size, hidden_size, batch_first):
        super().__init__()
        assert batch_first
        width = self.gates * hidden_size
        for name, rows in (("kernel", input_size), ("recurrent_kernel", hidden_size)):
            setattr(self, name, torch.nn.Parameter(torch.randn(rows, width)))
        for name in ("bias", "recurrent_bias")[: 2 if self.gates == 3 else 1]:
            setattr(self, name, torch.nn.Parameter(torch.randn(width)))

    def start(self, x):
        return torch.zeros(len(x), self.recurrent_kernel.shape[0])

    def forward(self, x) -> Any:
        h = c = self.start(x)
        outputs = []
        for t in range(x.shape[1]):
            gates = x[:, t] @ self.kernel + h @ self.recurrent_kernel + self.bias
            i, g, f, o = gates.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, 1), (h, c)


class HasteGRUAsDocumented(HasteAsDocumented):
    """Gates z, r, h; the reset gate after the product."""

    gates = 3

    def forward(self, x):
        h = self.start(x)
        outputs = []
        for t in range(x.shape[1]):
            xz, xr, xg = (x[:, t] @ self.kernel + self.bias).chunk(3, 1)
            hz, hr, hg = (h @ self.recurrent_kernel + self.recurrent_bias).chunk(3, 1)
            z, r = (xz + hz).sigmoid(), (xr + hr).sigmoid()
            h = z * h + (1 - z) * torch.tanh(xg + r * hg)
            outputs.append(h)
        return torch.stack(outputs, 1), h


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("name", ["flashrnn", "haste"])
def test_gpu_adapters_agree_with_the_documented_equations(name, cell, monkeypatch):
    row = replace(LSTM, cell=cell, num_layers=2)
    if (name, cell) == ("haste", "rnn"):
        with pytest.raises(UnsupportedError, match="no rnn cell"):
            gpu_kernels.haste(row)
        return
    fakes = types.SimpleNamespace(
        flashrnn=flashrnn_as_documented, LSTM=HasteAsDocumented, GRU=HasteGRUAsDocumented
    )
    for package in ("flashrnn", "haste_pytorch"):
        monkeypatch.setitem(sys.modules, package, fakes)
    monkeypatch.setattr(gpu_kernels, "_cuda", lambda *_: torch.device("cpu"))
    found = results.difference(start("torch", row), getattr(gpu_kernels, name)(row))
    assert found is not None
    assert found.size < 1e-5


def test_what_torch_compile_can_not_do_is_said_in_its_words(monkeypatch):
    def broken(net, fullgraph):
        assert fullgraph

        def run(x, state):
            raise RuntimeError("no compiler is found\nand so on")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UnsupportedError) as error:
        torch_nn.compiled(LSTM)
    assert str(error.value) == "torch.compile raises RuntimeError: no compiler is found"


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
    assert theirs["goal_met"]
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
    with pytest.raises(timing.CallError, match="jaxrnn"):
        results.run_workload(LSTM, [], 2, 0.0)


# --- workloads and ceilings


def test_operations_counted_by_hand():
    # 24 rows of gates: forward 24 * 4 + 24 * 6; backward dW of both and dh; 15 positions.
    assert replace(LSTM, mode="train").flops == 2 * (240 + 96 + 2 * 144) * 15
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
    monkeypatch.setattr(ceilings, "matmul_rate", lambda *size: rates[size])
    assert ceilings.floor_s(LSTM) == 7200 / 400
    rates[ceilings.LARGE] = 800.0  # small products alone don't fill the machine
    assert ceilings.floor_s(LSTM) == 7200 / 800
    monkeypatch.setattr(ceilings, "read_bandwidth", lambda size: 10.0 * size)
    assert ceilings.floor_s(replace(LSTM, mode="generate")) == pytest.approx(0.1)


def test_a_rate_is_that_of_whole_products():
    a = jax.numpy.ones((256, 256), jax.numpy.float32)
    product = jax.jit(jax.numpy.matmul)
    plain = 2 * 256**3 / ceilings._best_s(lambda: product(a, a).block_until_ready())
    assert 0.2 < ceilings.matmul_rate(256, 256, 256) / plain < 5
    # Of an outer product XLA would compute the part that is read alone.
    assert ceilings.matmul_rate(1024, 1, 1024) < 3 * max(plain, 1e10)


def test_ceilings_are_rates_of_this_machine(monkeypatch):
    monkeypatch.setattr(ceilings, "GROUP_SECONDS", 0.005)
    monkeypatch.setattr(ceilings, "COPIED", 2**20)
    assert 1e7 < ceilings.matmul_rate.__wrapped__(64, 64, 64) < 1e15
    assert 1e7 < ceilings.read_bandwidth.__wrapped__(2**16) < 1e14
    assert 1e7 < ceilings.copy_bandwidth.__wrapped__() < 1e14


def test_quick_rows_are_a_tenth_and_have_no_goal():
    lesson = SUITES["lesson"][1]
    assert (lesson.num_steps, lesson.goal) == (100, 1.15)
    assert quick(lesson) == replace(lesson, num_steps=10, goal=0.0)
    assert quick(SUITES["varlen"][0]).max_length == 10
    simple = SUITES["lesson"][0]
    assert quick(simple) == replace(simple, goal=0.0)


# --- what is shown

ABOUT: dict[str, Any] = {
    "device": "A Device",
    "threads": 2,
    "load": 0.5,
    "precision": "float32",
    "versions": {"jax": "1.2", "torch": "3.4", "jaxrnn": "0.1"},
    "date": "2025-01-02T03:04:05Z",
    "quick": False,
}


def row_of(peer: str, ms: float, workload: Workload = LSTM, **more) -> dict[str, Any]:
    row = {"ms": ms, "ms_low": 0.9 * ms, "ms_high": 1.1 * ms, "share": 0.456, "compile_s": 1.25}
    about = {**vars(workload), "flops": workload.flops}
    return {"workload": about, "peer": peer, **row, "ceilings": LIMITS, **more}


def known_rows() -> list[dict[str, Any]]:
    large = replace(LSTM, name="lstm-projection", proj_size=128, hidden_size=256, goal=1.15)
    return [
        row_of("jaxrnn", 0.0123),
        row_of("torch", 0.0246, ratio=2.0, ratio_low=1.91, ratio_high=2.12),
        {"workload": vars(LSTM), "peer": "haste", "skipped": "it is not there"},
        row_of("jaxrnn", 12345.6, large),
        row_of(
            *("torch-compile", 98765.4, large),
            **{"ratio": 1234.5, "ratio_low": 1111.1, "ratio_high": 1957.9, "goal_met": False},
        ),
        {"workload": vars(large), "peer": "haste", "skipped": "it is not there"},
        {"workload": vars(large), "peer": "keras", "skipped": "no projection"},
    ]


def test_the_table_has_every_figure_in_80_columns():
    out, rows = io.StringIO(), known_rows()
    console = Console(file=out, width=80, highlight=False, soft_wrap=True)
    report.header(console)
    report.block(console, rows[:3])
    report.block(console, rows[3:])
    report.footer(console, rows, ABOUT)
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert max(map(len, lines)) <= 80
    assert [line.split() for line in lines[:7]] == [
        ["ms/step", "spread", "floor", "compile", "s", "ratio", "quartiles", "goal"],
        ["tiny:", "lstm", "forward", "T5", "B3", "I4", "H6", "L1"],
        ["jaxrnn", "0.0123", "20%", "46%", "1.2"],
        ["torch", "0.0246", "20%", "46%", "1.2", "2", "1.91-2.12"],
        ["lstm-projection:", "lstm", "forward", "T5", "B3", "I4", "H256->128", "L1"],
        ["jaxrnn", "12,346", "20%", "46%", "1.2"],
        [
            *("torch-compile", "98,765", "20%", "46%", "1.2"),
            *("1,234", "1,111-1,958", "1.15", "missed"),
        ],
    ]
    assert lines.count("left out: haste: it is not there") == 1
    assert "left out: keras of lstm-projection: no projection" in lines
    assert "A Device, 2 threads" in lines
    assert "jaxrnn 0.1, jax 1.2, torch 3.4, 2025-01-02T03:04:05Z; float32" in lines
    assert "ceilings: matmul 100-100 GFLOP/s by shape, reading weights 20-20 GB/s," in lines
    assert not any("quoted" in line for line in lines)
    assert report.is_busy({**ABOUT, "load": 1.5})
    report.footer(console, rows, {**ABOUT, "quick": True})
    assert out.getvalue().splitlines()[-1].endswith("not to be quoted")


def test_the_plot_has_a_dot_for_each_peer(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(report, "FigureCanvasAgg", seen.append)
    report.plot(tmp_path / "a.png", known_rows(), {**ABOUT, "quick": True})
    (axes,) = seen[0].axes
    assert axes.get_xscale() == "log"
    assert axes.get_title().startswith("A Device, 2 threads, jax 1.2\n")
    assert axes.get_title().endswith("not to be quoted")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["tiny", "lstm-projection"]
    dots = {c.get_label(): c.lines[0].get_data() for c in axes.containers}
    assert {name: list(x) for name, (x, _) in dots.items()} == {
        "torch": [2.0],
        "torch-compile": [1234.5],
    }
    assert [round(float(y[0])) for _, y in dots.values()] == [0, 1]
    left, right = axes.get_xlim()
    assert left <= 0.5
    assert right > 1957.9  # with its quartiles
    report.plot(tmp_path / "none.png", known_rows()[:1], ABOUT)
    assert (tmp_path / "none.png").stat().st_size > 5000


# --- the command line


@pytest.fixture
def tiny(monkeypatch, known_ceilings):
    """Suites of one tiny row, shown 80 columns wide."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    row = replace(ROWS["projection"], num_steps=50, goal=1.5)
    monkeypatch.setattr(command, "SUITES", {"lesson": (row,), "infer": ()})


def test_lines_of_json(tmp_path, tiny, capsys):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"older": 1}\n')
    argv = ["lesson", "infer", "lesson", "--peers", "torch", "haste", "flax", "--quick"]
    picture = tmp_path / "ratios.svg"
    assert command.run_command([*argv, "--json", str(path), "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "not to be quoted" in out
    assert "left out: haste: haste_pytorch is not installed" in out
    assert "left out: flax: its cells have no projection" in out
    assert picture.read_text().startswith("<?xml")
    older, *lines = (
        json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()
    )
    assert older == {"older": 1}
    assert [line["peer"] for line in lines] == ["jaxrnn", "torch", "haste", "flax"]
    for line in lines:
        assert line["quick"] is True
        assert line["platform"] == "cpu"
        assert line["device"]
        assert line["threads"] == len(os.sched_getaffinity(0))
        assert line["versions"]["torch"] == torch.__version__
        assert line["versions"]["jax"] == jax.__version__
        assert line["date"][:2] == "20"
        assert line["flags"]["peers"] == ["torch", "haste", "flax"]
        assert "float32" in line["precision"]
    assert lines[0]["workload"]["num_steps"] == 5
    assert lines[0]["ceilings"] == LIMITS
    assert lines[1]["peak_memory_mib"] is None
    assert lines[0]["peak_memory_mib"] > 0
    assert lines[1]["share"] == pytest.approx(250 / lines[1]["ms"])
    assert lines[2]["skipped"] == "haste_pytorch is not installed"
    assert "ms" not in lines[2]
    assert lines[3]["skipped"] == "its cells have no projection"


def test_no_figure_without_a_peer(tmp_path, tiny, capsys):
    path, link = tmp_path / "lines.jsonl", tmp_path / "link.jsonl"
    link.symlink_to(path)
    argv = ["lesson", "--quick", "--json", str(link)]
    with pytest.raises(InputError, match="--peers haste: none is installed here"):
        command.run_command([*argv, "--peers", "haste"])
    assert "jaxrnn" not in capsys.readouterr().out
    assert link.is_symlink()  # checked before, and still there
    assert command.run_command([*argv, "--peers", "haste", "torch"]) == 0
    assert len(path.read_text().splitlines()) == 3


def test_a_peer_that_computes_something_else_ends_the_run(tiny, monkeypatch, capsys):
    def other(workload):
        return {name: 1.5 * array for name, array in parameters(workload).items()}

    monkeypatch.setattr(torch_nn, "parameters", other)
    assert command.run_command(["lesson", "--peers", "torch"]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert err.startswith("error: torch on tiny: the ")
    assert "of its largest value" in err
    assert "torch " not in out


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["nosuch"], "nosuch"),
        (["lesson", "--peers", "nosuch"], "nosuch"),
        (["--json", "{folder}/missing/a.jsonl"], "can't write --json"),
        (["--json", "{folder}"], "can't write --json"),
        (["--plot", "{folder}/missing/a.png"], "can't write --plot"),
        (["--plot", "{folder}/a.xyz"], "expected a name in .png, .svg, .pdf"),
    ],
)
def test_mistakes_are_found_before_anything_is_timed(argv, said, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(results, "run_workload", lambda *_: pytest.fail("timed"))
    with pytest.raises(InputError) as error:
        command.run_command([word.format(folder=tmp_path) for word in argv])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_who_takes_part_by_default(tiny, monkeypatch, capsys):
    asked = []

    def run(workload, peers, rounds, least_s):
        asked.append(peers)
        return [row_of("jaxrnn", 1.0)]

    monkeypatch.setattr(results, "run_workload", run)
    assert command.run_command(["lesson"]) == 0
    assert asked == [tuple(name for name in PEERS if name not in {"jaxrnn", *ONLY_NAMED})]
    assert "left out: torch-compile: only where --peers names it" in capsys.readouterr().out


def test_help_needs_none_of_the_libraries():
    code = (
        "import sys\n"
        "from jaxrnn.bench.__main__ import main\n"
        "sys.argv = ['bench', *sys.argv[1:]]\n"
        "try:\n"
        "    code = main()\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "print(sorted({'torch', 'keras', 'flax', 'jax'} & set(sys.modules)), code)\n"
    )
    for argument, ends in (("--help", "[] 0"), ("nosuch", "[] 2")):
        done = subprocess.run(
            [sys.executable, "-c", code, argument], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == ends
        assert ("--peers" in done.stdout) == (argument == "--help")
        assert done.stderr.count("\n") == (argument == "nosuch")
